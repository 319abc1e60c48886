"""Who finds which way between two ends behind real NATs, and how fast: edgeice beside aioice.

    python tests/lab/matrix.py [--json] [--rows PATTERN] [--rounds N]

A line per row of `rows.py`: what way there is by the topology, then of each subject both ends' pairs (the offerer's
first) and the milliseconds from when both ends are up until both could send data, which is the time to gather and to
check; of edgeice also until both pairs were nominated, which is one and the same for aioice.  Descriptions and
candidates pass in no time.  An exclamation mark stands behind a way that is not the best one, and behind ends that are
not on the same pair.  With several rounds, edgeice and aioice take turns; times are medians, and the rest is that of
the worst round.  Rows without a way come last, all at once.

What was found in all is counted, and ends with `--json` with one object of edgeice's:

- `rows`: how many rows there were;
- `connectable`, `direct_possible`: in how many there is a way at all, and a direct one, by the topology;
- `connected`: in how many of these data got through in both directions, over a nominated pair at both ends;
- `direct`: of these, in how many without a relay;
- `ends_agree`: of these, in how many both ends were on the same pair.

Needs root, coturn and nftables.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.lab.lab import missing_for_routers
from tests.lab.meeting import Meeting, meet
from tests.lab.rows import ROWS, Row, connectable, direct_possible
from tests.lab.stage import Stage, staged
from tests.support.coturn import COTURN

__all__ = ["Found", "Rounds", "found_by", "tally"]

_SUBJECTS = ("edgeice", "aioice")
#: Seconds until there has to be a pair; where there is no way, until edgeice has said so.
_PATIENCE, _NO_WAY = 30.0, 50.0


@attrs.frozen
class Found:
    """What one subject found in one row."""

    meeting: Meeting
    is_direct: bool
    ends_agree: bool

    @property
    def way(self) -> str:
        """`direct`, `relay` or `none`."""
        if not self.meeting.is_connected:
            return "none"
        return "direct" if self.is_direct else "relay"

    @property
    def merit(self) -> tuple[bool, bool, bool]:
        """For comparison: the lowest is the worst."""
        return self.meeting.is_connected, self.is_direct, self.ends_agree


@attrs.frozen
class Rounds:
    """What one subject found in all rounds of a row."""

    rounds: list[Found] = attrs.field(factory=list)

    @property
    def worst(self) -> Found:
        """The worst round."""
        return min(self.rounds, key=lambda found: found.merit)

    @property
    def milliseconds(self) -> str:
        """Until both ends could send data."""
        return _median([found.meeting.seconds for found in self.rounds])

    @property
    def nominated(self) -> str:
        """Until both ends' pairs were nominated."""
        return _median([found.meeting.nominated for found in self.rounds])


def _median(times: list[float | None]) -> str:
    known = [seconds for seconds in times if seconds is not None]
    return f"{statistics.median(known) * 1000:.0f}" if len(known) == len(times) else "-"


def _best(row: Row) -> str:
    if not connectable(row):
        return "none"
    return "direct" if direct_possible(row) else "relay"


async def found_by(stage: Stage, row: Row, subject: str) -> Found:
    """Let two of a subject meet."""
    meeting = await meet(
        stage.hosts,
        (subject, subject),
        ice_servers=stage.turn.ice_servers("stun", *row.turn),
        cafile=stage.turn.authority.cafile,
        patience=_PATIENCE if connectable(row) else _NO_WAY,
    )
    return Found(meeting, stage.is_direct(meeting), stage.ends_agree(meeting))


@contextlib.contextmanager
def _built(row: Row) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="edgeice-lab-") as folder, staged(row, Path(folder)) as stage:
        yield stage


async def _run(row: Row, rounds: int) -> dict[str, Rounds]:
    """Let the subjects take turns."""
    found = {subject: Rounds() for subject in _SUBJECTS}
    with _built(row) as stage:
        for _ in range(rounds):
            for subject in _SUBJECTS:
                found[subject].rounds.append(await found_by(stage, row, subject))
    return found


async def _run_hopeless(rows: Sequence[Row]) -> list[dict[str, Rounds]]:
    """Let the subjects try where there is no way, once and all at the same time: nothing is measured but patience."""
    found = [{subject: Rounds() for subject in _SUBJECTS} for _ in rows]

    async def run(stage: Stage, row: Row, subject: str, rounds: Rounds) -> None:
        rounds.rounds.append(await found_by(stage, row, subject))

    with contextlib.ExitStack() as closing:
        stages = [closing.enter_context(_built(row)) for row in rows]
        async with trio.open_nursery() as nursery:
            for row, stage, by_subject in zip(rows, stages, found, strict=True):
                for subject in _SUBJECTS:
                    nursery.start_soon(run, stage, row, subject, by_subject[subject])
    return found


def tally(rows: Sequence[tuple[Row, Found]]) -> dict[str, int]:
    """The last object, of what one subject found."""
    connected = [found for row, found in rows if connectable(row) and found.meeting.is_connected]
    return {
        "rows": len(rows),
        "connectable": sum(connectable(row) for row, _ in rows),
        "connected": len(connected),
        "direct_possible": sum(direct_possible(row) for row, _ in rows),
        "direct": sum(found.is_direct for found in connected),
        "ends_agree": sum(found.ends_agree for found in connected),
    }


def _columns(row: Row, rounds: Rounds) -> str:
    found = rounds.worst
    pairs = " ".join(f"{'-' if end.pair is None else str(end.pair):<13}" for end in found.meeting.ends)
    wrong = "!" if found.way != _best(row) else " "
    apart = "!" if found.meeting.is_connected and not found.ends_agree else " "
    return f"{pairs}{apart} {found.way:<6}{wrong} {rounds.milliseconds:>5}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--rows", metavar="PATTERN", default="*", help="those whose names match, as the shell would")
    parser.add_argument("--rounds", type=int, default=1, help="how often each subject tries each row (default 1)")
    options = parser.parse_args()
    if reason := missing_for_routers() or (None if COTURN else "needs coturn"):
        raise SystemExit(f"matrix.py: {reason}")
    rows = [row for name, row in ROWS.items() if fnmatch.fnmatchcase(name, options.rows)]
    if not rows:
        raise SystemExit(f"matrix.py: no row's name matches {options.rows!r}")
    print(f"{'':<30} {'best':<6}  {'edgeice':<36} {'ms':>5} {'(nom.)':>7}   {'aioice':<36} {'ms':>5}")
    results: dict[str, list[tuple[Row, Found]]] = {subject: [] for subject in _SUBJECTS}

    def show(row: Row, found: dict[str, Rounds]) -> None:
        own, other = (found[subject] for subject in _SUBJECTS)
        nominated = f"({own.nominated})"
        print(
            f"{row.name:<30} {_best(row):<6}  {_columns(row, own)} {nominated:>7}   {_columns(row, other)}", flush=True
        )
        for subject, rounds in found.items():
            results[subject].append((row, rounds.worst))

    for row in rows:
        if connectable(row):
            show(row, trio.run(_run, row, options.rounds))
    hopeless = [row for row in rows if not connectable(row)]
    for row, found in zip(hopeless, trio.run(_run_hopeless, hopeless), strict=True):
        show(row, found)
    for subject, found_in_all in results.items():
        print(f"{subject}:", ", ".join(f"{name} {count}" for name, count in tally(found_in_all).items()))
    if options.json:
        print(json.dumps(tally(results[_SUBJECTS[0]])))


if __name__ == "__main__":
    main()
