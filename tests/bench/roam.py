"""How long a session is silent, and what it loses, where the network under it changes; network namespaces, as root.

    python tests/bench/roam.py [--json] [--runs N] [--faults NAME,NAME] [--peer edgeice|chromium]
                                [--flaps N] [--keep FOLDER]

A real agent on a device with uplinks `wlan0` (10 ms one way), `wwan0` (30 ms) and `eth0` (5 ms) behind NATs of their
own that filter by address and port, without policy routing; a real operator (10 ms) behind another one; mosquitto and
coturn on the internet (`tests/lab/roaming/stage.py` has the picture).  In each run the operator opens a session and has
100 records a second of a numbered stream returned by a program on the device.  After 6 s of rest the fault comes.  By
fault (`tests/lab/roaming/faults.py`; `none` shows what the tools themselves do):

- `gap_ms`: the longest silence of that echo in the 10 s around the fault; the median of the runs, null where that is no
  recovery: a run that is not back within 60 s counts as endless.  `gaps_ms` has all of them, and
  `gaps_at_ms` when each began after the fault.
- `quiet_ms`: the longest silence in the 3 s before the fault, the median of the runs: 10 ms, and how busy the machine
  is.  `beyond_quiet_ms` is by how much the gap is longer, the median of the runs.
- `rtt_before_ms`, `rtt_after_ms`: the echo's round trip, medians.
- `bytes_lost`, `bytes_duplicated`: of the numbered stream, over all runs that came to their end, those counted as
  duplicated that came out of order or were none of it; `hashes_equal` counts the runs in which what was sent, what the
  device read and what came back have the same SHA-256.
- `road`: what brought it back most often, `roads` how often each did: `backup` (a pair that was valid before),
  `candidates` (one that was not, by the credentials of before), `restart_broker` and `restart_channel` (an ICE restart,
  by the road on which its offer or answer came first), `relay_ticket` (the relay's allocation moved), `same` (nothing).
- `recovered` of `runs`.

With `--peer chromium` the operator is a browser that knows nothing but the wire contract: it answers the device's ICE
restarts, and offers one where it says itself that the path is lost.  Its roads are `restart_broker`, `restart_channel`,
`moved` (to another pair, all by itself) and `same`.

With `--flaps N` a device of three uplinks besides loses and regains them N times at random, some 8 times a second,
while the stream goes on (`tests/lab/roaming/flaps.py`).  `flaps` has `count`, `seconds`, what the agent takes before
them, with the session open, and after: `rss_mib_before`, `rss_mib_after`, and the same for `descriptors` and `tasks`;
whether the session `lives`, `bytes_lost` and `bytes_duplicated`.

Goals: 150 ms and 2 round trips for the first four and `broker_down_carrier_loss`, 300 ms and 8 round trips for
`cold_carrier_loss`, 1.5 s for `blackhole`, `wan_renumbered` and `nat_rebooted`, 10 ms beyond the quiet for
`better_link`, and nothing lost nor duplicated; of 1,000 flaps 1 MiB at most, and no descriptor or task.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.lab.lab import missing_for_routers
from tests.lab.roaming.faults import FAULTS, NONE
from tests.lab.roaming.flaps import flap
from tests.lab.roaming.rounds import Found, run_round
from tests.support.brokers import MOSQUITTO
from tests.support.chromium import BROWSER
from tests.support.coturn import COTURN

__all__ = ["summarize"]


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _median(values: Sequence[float | None]) -> float | None:
    """In milliseconds; None, which is endless, where it is the median."""
    middle = statistics.median(math.inf if value is None else value for value in values)
    return None if math.isinf(middle) else _milliseconds(middle)


def summarize(found: Sequence[Found]) -> dict[str, Any]:
    """What the runs of one fault come to."""
    back = [each for each in found if each.gap is not None]
    roads = collections.Counter(each.road for each in back)
    ended = [each for each in found if each.lost is not None]
    return {
        "gap_ms": _median([each.gap for each in found]),
        "bytes_lost": sum(each.lost or 0 for each in ended) if ended else None,
        "bytes_duplicated": sum(each.duplicated or 0 for each in ended) if ended else None,
        "road": roads.most_common(1)[0][0] if roads else None,
        "roads": dict(roads),
        "runs": len(found),
        "recovered": len(back),
        "hashes_equal": sum(each.equal for each in found),
        "quiet_ms": _median([each.quiet for each in found]),
        "beyond_quiet_ms": _median([None if each.gap is None else each.gap - each.quiet for each in found]),
        "rtt_before_ms": _median([each.round_trip_before for each in found]),
        "rtt_after_ms": _median([each.round_trip_after for each in back]) if back else None,
        "gaps_ms": [_milliseconds(each.gap) for each in found],
        "gaps_at_ms": [_milliseconds(each.gap_at) for each in found],
    }


def measure(name: str, runs: int, keep: Path | None, peer: str) -> list[Found]:
    """Run one fault so many times, and tell of each run."""
    found = []
    for number in range(1, runs + 1):
        kept = None if keep is None else keep / f"{name}-{number}"
        each = run_round(FAULTS.get(name, NONE), keep=kept, peer=peer)
        found.append(each)
        gap = "no recovery" if each.gap is None else f"{each.gap * 1000:.0f} ms by {each.road}"
        lost = "" if each.equal else f", not whole: lost {each.lost}, duplicated {each.duplicated} bytes"
        print(f"{name} {number}/{runs}: {gap}{lost}", *each.failures, sep="\n  ", file=sys.stderr, flush=True)
    return found


def measure_flaps(count: int, keep: Path | None) -> dict[str, Any]:
    """What flaps come to."""
    found = flap(count, seed=1, keep=None if keep is None else keep / "flaps")
    read = {"before": attrs.asdict(found.before), "after": attrs.asdict(found.after)}
    figures = {f"{name}_{when}": round(value, 2) for when, each in read.items() for name, value in each.items()}
    return {
        "count": count,
        "seconds": round(found.seconds, 1),
        **figures,
        "lives": found.stream.gap is not None,
        "bytes_lost": found.stream.lost,
        "bytes_duplicated": found.stream.duplicated,
    }


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--runs", type=int, default=10, help="how often each fault comes (default 10)")
    parser.add_argument("--faults", "--fault", default=",".join(FAULTS), help="which of them, by commas")
    parser.add_argument("--peer", choices=("edgeice", "chromium"), default="edgeice", help="who the operator is")
    parser.add_argument("--flaps", type=int, default=0, help="so many flaps besides (default none)")
    parser.add_argument("--keep", type=Path, help="a new folder for the logs and traces of all runs")
    options = parser.parse_args()
    names = [name for name in options.faults.split(",") if name]
    if unknown := [name for name in names if name not in (*FAULTS, "none")]:
        raise SystemExit(f"roam.py: no fault {', '.join(unknown)}; there are none, {', '.join(FAULTS)}")
    programs = {"mosquitto": MOSQUITTO, "coturn": COTURN}
    if options.peer == "chromium":
        programs["chromium"] = BROWSER
    needs = ", ".join(name for name, program in programs.items() if program is None)
    if missing := missing_for_routers() or (f"needs {needs}" if needs else None):
        raise SystemExit(f"roam.py: {missing}")
    faults, flaps = {}, {}
    for name in names:
        summary = faults[name] = summarize(measure(name, options.runs, options.keep, options.peer))
        gap = "no recovery" if summary["gap_ms"] is None else f"{summary['gap_ms']:.0f} ms"
        print(f"{name:<25} {gap:>12}  {summary['recovered']}/{summary['runs']} by {summary['road']}", flush=True)
    if options.flaps:
        flaps = {"flaps": measure_flaps(options.flaps, options.keep)}
        print(*(f"{name} {value}" for name, value in flaps["flaps"].items()), sep=", ", flush=True)
    if options.json:
        print(json.dumps({"faults": faults, **flaps}))


if __name__ == "__main__":
    main()
