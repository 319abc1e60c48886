"""What judges streams under faults finds what was planted in them."""

from __future__ import annotations

import hashlib
import json
import random
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.bench.roam import summarize
from tests.lab.roaming.roads import browsers_road, read_moves, road_of
from tests.lab.roaming.rounds import judge
from tests.lab.roaming.stream import SIZE, Reader, record, tally

_COUNT = 2000
_INTERVAL, _TRIP = 0.010, 0.040
_STRUCK_AT = 10.0


def read(data: bytes, seed: int = 0) -> tuple[list[int], Reader]:
    """What a reader finds in a stream that comes in random pieces."""
    dice, reader, numbers = random.Random(seed), Reader(), list[int]()
    at = 0
    while at < len(data):
        size = dice.randrange(1, 3 * SIZE)
        numbers += reader.read(data[at : at + size])
        at += size
    reader.end()
    return numbers, reader


def records(*numbers: int) -> bytes:
    return b"".join(map(record, numbers))


def test_a_whole_stream_is_whole() -> None:
    data = records(*range(100))
    numbers, reader = read(data)
    assert numbers == list(range(100))
    assert (reader.stray, reader.size) == (0, len(data))
    assert reader.digest.digest() == hashlib.sha256(data).digest()
    found = tally(100, numbers)
    assert (found.lost, found.duplicated, found.disordered) == (0, 0, 0)


@pytest.mark.parametrize(
    ("data", "lost", "duplicated", "disordered", "stray"),
    [
        (records(*range(40), *range(43, 100)), 3, 0, 0, 0),
        (records(*range(99)), 1, 0, 0, 0),
        (records(*range(100), 99), 0, 1, 0, 0),
        (records(*range(50), *range(45, 100)), 0, 5, 0, 0),
        (records(0, 2, 1, *range(3, 100)), 0, 0, 1, 0),
        # A byte is gone: its record is, and what is left of it belongs to none.
        (records(*range(50)) + record(50)[1:] + records(*range(51, 100)), 1, 0, 0, SIZE - 1),
        (records(*range(50)) + b"x" + records(*range(50, 100)), 0, 0, 0, 1),
        (records(*range(99)) + record(99)[:-1], 1, 0, 0, SIZE - 1),
        (b"", 100, 0, 0, 0),
    ],
)
def test_what_is_wrong_with_a_stream_is_counted(
    data: bytes, lost: int, duplicated: int, disordered: int, stray: int
) -> None:
    numbers, reader = read(data)
    found = tally(100, numbers)
    assert (found.lost, found.duplicated, found.disordered) == (lost * SIZE, duplicated * SIZE, disordered * SIZE)
    assert reader.stray == stray


def report(numbers: list[int], held_until: float = 0.0, *, stray: int = 0, device: str = "same") -> dict[str, Any]:
    """What the operator's process says of records that came back, none of those after the fault before a time."""
    sent = [number * _INTERVAL for number in range(_COUNT)]
    due = [(number, sent[number] + _TRIP) for number in numbers]
    arrived = [(number, max(at, held_until) if at > _STRUCK_AT else at) for number, at in due]
    whole = numbers == list(range(_COUNT)) and not stray
    digests = ["same", device, "same" if whole else "other"]
    return {"sent": sent, "arrived": arrived, "stray": stray, "digests": digests, "whole": True, "failures": []}


_PATH = "srflx 192.0.2.1:1 -> srflx 198.51.100.1:1"


def traced(at: float, layer: str, name: str, **facts: object) -> dict[str, Any]:
    return {"monotonic": at, "layer": layer, "name": name, **facts}


_TRACE = [
    traced(1.0, "session", "path", text=_PATH),
    traced(0.9, "ice", "pair_formed", generation=0, path="192.0.2.1:1->198.51.100.1:1", state="succeeded"),
]


def test_a_silence_around_the_fault_is_found() -> None:
    found = judge(report(list(range(_COUNT)), 11.5), _STRUCK_AT, _TRACE)
    # The last one before it came in at 10 s at the latest.
    assert found.gap == pytest.approx(1.5, abs=0.011)
    assert found.gap_at == pytest.approx(0, abs=0.011)
    assert found.quiet == pytest.approx(_INTERVAL, abs=1e-6)
    assert found.round_trip_before == pytest.approx(_TRIP)
    assert found.round_trip_after == pytest.approx(_TRIP)
    assert (found.lost, found.duplicated, found.equal, found.road) == (0, 0, True, "same")


def test_losses_and_doubles_of_a_round_are_found() -> None:
    lossy = [number for number in range(_COUNT) if number != 1500]
    found = judge(report(lossy), _STRUCK_AT, _TRACE)
    assert (found.lost, found.duplicated, found.equal) == (SIZE, 0, False)
    found = judge(report([*range(1500), 1499, *range(1500, _COUNT)]), _STRUCK_AT, _TRACE)
    assert (found.lost, found.duplicated, found.equal) == (0, SIZE, False)
    found = judge(report(list(range(_COUNT)), stray=7), _STRUCK_AT, _TRACE)
    assert (found.lost, found.duplicated, found.equal) == (0, 7, False)


def test_a_device_that_read_something_else_is_found() -> None:
    assert not judge(report(list(range(_COUNT)), device="other"), _STRUCK_AT, _TRACE).equal


def test_a_stream_that_never_comes_back_has_no_gap() -> None:
    # What was under way when the fault came still arrives.
    found = judge({**report(list(range(1000)), 10.02), "whole": False}, _STRUCK_AT, _TRACE)
    assert (found.gap, found.road, found.lost, found.duplicated, found.equal) == (None, None, None, None, False)


_A, _B = "10.0.0.1:1->10.0.1.1:1", "10.0.0.1:1->10.0.2.1:1"
_A_TEXT, _B_TEXT = "host 10.0.0.1:1 -> host 10.0.1.1:1", "host 10.0.0.1:1 -> host 10.0.2.1:1"
_CARRYING = [
    traced(1.0, "ice", "pair_formed", generation=0, path=_A, state="waiting"),
    traced(2.0, "ice", "pair_changed", generation=0, path=_A, state="succeeded"),
    traced(2.0, "session", "path", text=_A_TEXT),
    traced(2.0, "lab", "heard", road="broker", t="answer", gen=0),
]
_BACKUP = traced(3.0, "ice", "pair_formed", generation=0, path=_B, state="succeeded")
_LATER, _AGAIN = (
    traced(10.5, "ice", "pair_formed", generation=number, path=path, state="succeeded")
    for number, path in ((0, _B), (1, _A))
)
_MOVED = traced(11.0, "session", "path", text=f"{_B_TEXT}, wwan0, 80 ms")
_RESTART_MOVED = traced(11.0, "peer", "moved", path=_B, cause="restart")
_RESTARTED = [
    traced(10.5, "lab", "heard", road="broker", t="offer", gen=1),
    traced(10.6, "lab", "heard", road="channel", t="offer", gen=1),
    traced(10.9, "ice", "pair_formed", generation=1, path=_B, state="succeeded"),
]


@pytest.mark.parametrize(
    ("entries", "road"),
    [
        (_CARRYING, "same"),
        ([*_CARRYING, _BACKUP, _MOVED], "backup"),
        # Data comes on a path that the session says only then.
        ([*_CARRYING, _BACKUP, {**_MOVED, "monotonic": 12.1}], "backup"),
        ([*_CARRYING, _BACKUP, traced(12.1, "ice", "moved", path=_B, cause="base_gone")], "backup"),
        ([*_CARRYING, _BACKUP, {**_MOVED, "monotonic": 12.4}], "same"),
        ([*_CARRYING, _BACKUP, traced(9.0, "ice", "pair_dropped", generation=0, path=_B), _MOVED], "candidates"),
        ([*_CARRYING, _LATER, _MOVED], "candidates"),
        ([*_CARRYING, *_RESTARTED, _MOVED], "restart_broker"),
        ([*_CARRYING, _RESTARTED[1], _RESTARTED[0], _RESTARTED[2], _MOVED], "restart_channel"),
        # A repetition that comes by the channel once there is a path again.
        ([*_CARRYING, _RESTARTED[0], _RESTARTED[2], {**_RESTARTED[1], "gen": 2}, _MOVED], "restart_broker"),
        # A restart that is under way when the session moves without it.
        ([*_CARRYING, _BACKUP, *_RESTARTED, traced(11.0, "ice", "moved", path=_B, cause="peer_moved")], "backup"),
        ([*_CARRYING, _BACKUP, *_RESTARTED, _RESTART_MOVED, _MOVED], "restart_broker"),
        # To the very same pair, by a restart.
        ([*_CARRYING, _RESTARTED[0], _AGAIN], "restart_broker"),
        # What comes only when the stream is back did not bring it back.
        ([*_CARRYING, _BACKUP, _MOVED, *[{**entry, "monotonic": 13.0} for entry in _RESTARTED]], "backup"),
    ],
)
def test_what_brought_a_stream_back_is_read_from_the_trace(entries: list[dict[str, Any]], road: str) -> None:
    assert road_of(entries, [], 10.0, 12.0) == road


def test_a_gentle_fault_is_judged_by_when_the_path_changed() -> None:
    """Not by a silence before: nothing made the session move."""
    trace = [*_CARRYING, _BACKUP, {**_MOVED, "monotonic": 14.0}]
    stream = report(list(range(_COUNT)), 10.1)
    assert judge(stream, _STRUCK_AT, trace, gentle=True).road == "backup"
    assert judge(stream, _STRUCK_AT, trace).road == "same"
    assert judge(stream, _STRUCK_AT, _CARRYING, gentle=True).road == "same"
    browser = {**stream, "events": [{"monotonic": 14.0, "name": "pair", "pair": "b"}]}
    assert judge(browser, _STRUCK_AT, gentle=True).road == "moved"
    assert judge(browser, _STRUCK_AT).road == "same"


_HEARD = {"name": "heard", "t": "offer", "gen": 1}


@pytest.mark.parametrize(
    ("events", "road"),
    [
        ([], "same"),
        ([{"monotonic": 5.0, "name": "pair", "pair": "a"}], "same"),
        ([{"monotonic": 11.0, "name": "pair", "pair": "b"}], "moved"),
        ([{"monotonic": 11.0, "road": "channel", **_HEARD}], "restart_channel"),
        ([{"monotonic": 11.0, "road": way, **_HEARD} for way in ("broker", "channel")], "restart_broker"),
        ([{"monotonic": 13.0, "road": "broker", **_HEARD}], "same"),
    ],
)
def test_what_brought_a_browser_back_is_read_from_its_page(events: list[dict[str, Any]], road: str) -> None:
    assert browsers_road(events, 10.0, 12.0) == road


@pytest.mark.parametrize(
    ("name", "at", "relayed", "road"),
    [
        ("RelayMoved", 10.5, "10.0.1.1:1", "relay_ticket"),
        ("RelayMoved", 10.5, "10.0.3.1:1", "same"),
        ("RelayMoved", 9.0, "10.0.1.1:1", "same"),
        ("RelayGained", 10.5, "10.0.1.1:1", "same"),
    ],
)
def test_that_an_allocation_moved_is_read_from_the_devices_trace(
    tmp_path: Path, name: str, at: float, relayed: str, road: str
) -> None:
    trace = tmp_path / "trace"
    began = time.time() - time.monotonic()
    lines = [
        {"at": 1000.0, "layer": "trace", "name": "began", "time": began + 5.0},
        {"at": 1000.0 + at - 5.0, "layer": "endpoint", "name": name, "relayed": relayed},
    ]
    trace.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert road_of(_CARRYING, read_moves(trace), 10.0, 12.0) == road


def test_runs_come_to_a_median_in_which_what_is_lost_is_endless() -> None:
    back = judge(report(list(range(_COUNT)), 10.1), _STRUCK_AT, _TRACE)
    back = attrs.evolve(back, gap=0.1, quiet=0.02, road="backup")
    gone = judge({**report(list(range(1000)), 10.02), "whole": False}, _STRUCK_AT, _TRACE)
    gone = attrs.evolve(gone, quiet=0.03)
    summary = summarize([back, gone, back])
    assert (summary["gap_ms"], summary["road"], summary["recovered"], summary["runs"]) == (100.0, "backup", 2, 3)
    assert (summary["bytes_lost"], summary["hashes_equal"], summary["quiet_ms"]) == (0, 2, 20.0)
    assert summary["beyond_quiet_ms"] == 80.0
    assert summary["gaps_ms"] == [100.0, None, 100.0]
    summary = summarize([gone, back, gone])
    assert (summary["gap_ms"], summary["recovered"]) == (None, 1)
    assert summarize([gone])["bytes_lost"] is None
