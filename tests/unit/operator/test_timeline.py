from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing

from edgeice.operator.timeline import LIMIT, Timeline, describe
from edgeice.peer import ConnectionState
from edgeice.sansio import Event
from edgeice.trace import Record


@attrs.frozen
class SomethingHappened(Event):
    gen: int
    sdp: str
    state: ConnectionState
    candidates: tuple[str, ...]


async def test_times_count_from_the_beginning(autojump_clock: trio.testing.MockClock) -> None:
    timeline = Timeline()
    await trio.sleep(1.5)
    timeline.note("session", "offer", text="offering")
    assert timeline.entries() == [{"at": 1.5, "layer": "session", "name": "offer", "text": "offering"}]


async def test_the_newest_are_kept_and_the_rest_counted() -> None:
    timeline = Timeline()
    for number in range(LIMIT + 3):
        timeline.note("ice", "check_sent", number=number)
    entries = timeline.entries()
    assert (len(entries), entries[0]["number"], entries[-1]["number"]) == (LIMIT, 3, LIMIT + 2)
    assert timeline.dropped == 3


async def test_an_event_leaves_its_facts_and_no_description() -> None:
    timeline = Timeline()
    timeline.event("signaling", SomethingHappened(2, "a=ice-pwd:secret", ConnectionState.CHECKING, ("a b", "c")))
    (entry,) = timeline.entries()
    assert {name: entry[name] for name in entry if name != "at"} == {
        "layer": "signaling",
        "name": "SomethingHappened",
        "gen": 2,
        "state": "checking",
        "candidates": ["a b", "c"],
    }


async def test_secrets_are_kept_from_it_and_from_who_watches() -> None:
    heard: list[Record] = []
    timeline = Timeline(heard.append)
    timeline.note("ice", "credentials", pwd="secret", path="192.0.2.1:1 -> 192.0.2.2:2")
    assert [dict(record.fields) for record in heard] == [{"pwd": "[secret]", "path": "192.0.2.1:1 -> 192.0.2.2:2"}]
    assert timeline.entries()[0]["pwd"] == "[secret]"


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"at": 0.0, "layer": "net", "name": "x"}, "   +0.000 s net.x"),
        ({"at": 12.3456, "layer": "ice", "name": "y", "n": 1, "t": "a b"}, '  +12.346 s ice.y n=1 t="a b"'),
        ({"at": 1, "layer": "s", "name": "z", "c": ["a", "b"], "e": "x\n\x1b[2J"}, '   +1.000 s s.z c="a, b" e=x??[2J'),
        ({"at": 1, "layer": "s", "name": "z", "long": "y" * 1000}, "   +1.000 s s.z long=" + "y" * 200),
    ],
)
def test_one_line_for_people(entry: dict[str, object], line: str) -> None:
    assert describe(entry) == line
