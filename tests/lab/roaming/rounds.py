"""One fault, once: what an operator's stream, returned by the device, went through."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import attrs

from tests.agent.kit import FLEET, ROOT, environment
from tests.lab.roaming.faults import Fault
from tests.lab.roaming.roads import Entry, browsers_road, moved_at, read_moves, read_trace, road_of
from tests.lab.roaming.stage import Stage, staged
from tests.lab.roaming.stream import tally

__all__ = ["PATIENCE", "QUIET", "Found", "Streaming", "judge", "run_round"]

#: Seconds that a session has to come to rest before any counts, and seconds of its rest that count.
SETTLING = 3.0
QUIET = 3.0
#: The seconds around the fault in which the longest silence is looked for.
BEFORE, AFTER = 0.5, 9.5
#: Seconds after which a stream that is silent is given up.
PATIENCE = 60.0
#: No record that was sent so long before the fault was under way when it came.
_LONGEST_TRIP = 0.5
_STREAMING, _BROWSING = (Path(__file__).with_name(f"{name}.py") for name in ("streaming", "browsing"))


@attrs.frozen(kw_only=True)
class Found:
    """What one round showed; times in seconds."""

    #: The longest silence around the fault; None where nothing that was sent later came back.
    gap: float | None
    #: When it began, from the fault on.
    gap_at: float | None
    #: The longest silence in the rest before.
    quiet: float
    round_trip_before: float
    round_trip_after: float | None
    #: Bytes of the numbered stream; None where it did not come to its end.
    lost: int | None
    duplicated: int | None
    #: The stream was whole: sent here, received there and returned here have the same hash.
    equal: bool
    #: What brought it back, as of `roads.py`; None where nothing did.
    road: str | None
    failures: tuple[str, ...] = ()


class Streaming:
    """The operator's process.

    Args:
        stage: Where it runs, and with whom.
        trace: File for what its session traces.
        peer: `edgeice` or `chromium`.
    """

    def __init__(self, stage: Stage, trace: Path, peer: str = "edgeice") -> None:
        arguments = [str(_STREAMING), str(stage.config), stage.device_key.raw.hex(), str(trace)]
        if peer == "chromium":
            arguments = [str(_BROWSING), json.dumps(_browser_config(stage))]
        self._process = subprocess.Popen(
            stage.operator.command(sys.executable, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(stage.config.parent),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def line(self) -> dict[str, Any]:
        """The next thing that it says."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the operator's process ended with {self._process.wait()}"
        said: dict[str, Any] = json.loads(line)
        return said

    def end(self, *, struck_at: float, until: float, patience: float) -> dict[str, Any]:
        """Have it end the stream, as `streaming.py` says; gives what it saw."""
        assert self._process.stdin is not None
        print(
            json.dumps({"struck_at": struck_at, "until": until, "patience": patience}),
            file=self._process.stdin,
            flush=True,
        )
        return self.line()


def _browser_config(stage: Stage) -> dict[str, Any]:
    operator = stage.operator_key
    return {
        "url": stage.broker.websocket_url,
        "username": f"{FLEET}/o/alice",
        "root": ROOT,
        "fleet": FLEET,
        "operator": "alice",
        "device": "pi",
        "jwk": {"kty": "OKP", "crv": "Ed25519", "x": operator.x, "d": operator.d},
        "deviceX": stage.device_key.x,
        "iceServers": stage.turn.ice_servers("stun", "udp"),
    }


def judge(
    report: dict[str, Any],
    struck_at: float,
    trace: Sequence[Entry] = (),
    moves: Sequence[Entry] = (),
    *,
    gentle: bool = False,
) -> Found:
    """Judge what the operator's process saw, by its clock.

    Args:
        report: What the process says.
        struck_at: When the fault came.
        trace: What its session traced.
        moves: What the agent traced of relays.
        gentle: The road is what led to the next path, be there a silence or not.
    """
    sent: list[float] = report["sent"]
    arrived: list[tuple[int, float]] = report["arrived"]
    times = [at for _number, at in arrived]
    trips = [(sent[number], at - sent[number]) for number, at in arrived]
    after = [trip for begun, trip in trips if begun > struck_at]
    silences = list(pairwise(times))
    around = [(start, end) for start, end in silences if end > struck_at - BEFORE and start < struck_at + AFTER]
    rest = [(start, end) for start, end in silences if struck_at - QUIET < end <= struck_at]
    longest = max(around, key=_length)
    moved = moved_at(trace, struck_at)
    before = [trip for begun, trip in trips if struck_at - QUIET < begun < struck_at - _LONGEST_TRIP]
    counted = tally(len(sent), [number for number, _at in arrived]) if report["whole"] else None
    digests = report["digests"]
    road = None
    if after and "events" in report:
        road = browsers_road(report["events"], struck_at, times[-1] if gentle else longest[1])
    elif after:
        road = road_of(trace, moves, struck_at, moved if gentle and moved else longest[1])
    return Found(
        gap=_length(longest) if after else None,
        gap_at=longest[0] - struck_at if after else None,
        quiet=max(map(_length, rest)),
        round_trip_before=statistics.median(before),
        round_trip_after=statistics.median(after[-100:]) if after else None,
        lost=None if counted is None else counted.lost,
        duplicated=None if counted is None else counted.duplicated + counted.disordered + report["stray"],
        equal=report["whole"] and len(set(digests)) == 1,
        road=road,
        failures=tuple(report.get("failures", ())),
    )


def _length(silence: tuple[float, float]) -> float:
    start, end = silence
    return end - start


@contextlib.contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True)
        yield kept
    else:
        with tempfile.TemporaryDirectory(prefix="edgeice-roaming-") as name:
            yield Path(name)


def run_round(
    fault: Fault,
    *,
    keep: Path | None = None,
    patience: float = PATIENCE,
    rest: float = SETTLING + QUIET,
    after: float = AFTER,
    peer: str = "edgeice",
) -> Found:
    """Build what the fault needs, let it happen, and say what became of the stream.

    Args:
        fault: What happens.
        keep: Folder for logs and traces, which is made; None to keep nothing.
        patience: Seconds after which a stream that is silent is given up.
        rest: Seconds before the fault in which nothing happens.
        after: Seconds after the fault for which the stream goes on at least.
        peer: Who the operator is, `edgeice` or `chromium`.
    """
    with _folder(keep) as folder, staged(fault.setting, folder) as stage:
        with Streaming(stage, folder / "operator.trace", peer) as streaming:
            streaming.line()
            time.sleep(rest)
            struck_at = time.monotonic()
            fault.strike(stage)
            report = streaming.end(struck_at=struck_at, until=struck_at + after, patience=patience)
        (folder / "report").write_text(json.dumps({"struck_at": struck_at, **report}))
        trace = read_trace(folder / "operator.trace") if peer == "edgeice" else []
        return judge(report, struck_at, trace, read_moves(stage.trace), gentle=fault.gentle)
