"""Runs scenarios on the simulated network: `python tests/sim/run.py --scenarios N --seed S [--json]`.

Scenario number n has the seed S + n.  Every third seed (2, 5, 8, …) is a session with data channels that roams, the
others are sessions of plain datagrams in all kinds of networks; `--kind` takes one kind for all seeds.  The last line
of the output is one JSON object: `scenarios`, `violations` and `per_second`.  A scenario that violates an invariant is
shown as it goes; `--replay SEED` runs it again with everything that happened.  Exit status 1 if anything was violated.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.sim.faults import RoamingScenario, draw_roaming
from tests.sim.roaming import run_roaming
from tests.sim.scenario import Scenario, draw_scenario
from tests.sim.world import Result, run_scenario

__all__ = ["main"]


def draw(seed: int, kind: str) -> Scenario | RoamingScenario:
    """The scenario of a seed."""
    roams = kind == "roaming" or (kind == "all" and seed % 3 == 2)
    return draw_roaming(seed) if roams else draw_scenario(seed)


def run(scenario: Scenario | RoamingScenario, *, traced: bool = False) -> Result:
    """Run one scenario of either kind."""
    if isinstance(scenario, RoamingScenario):
        return run_roaming(scenario, traced=traced)
    return run_scenario(scenario, traced=traced)


def replay(seed: int, kind: str) -> Result:
    """Run one scenario and show everything."""
    scenario = draw(seed, kind)
    result = run(scenario, traced=True)
    print(scenario)
    print("\n".join(result.log))
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Drive ICE agents through simulated networks.")
    parser.add_argument("--scenarios", type=int, default=1000, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="that of the first one (default: %(default)s)")
    parser.add_argument(
        "--kind", choices=("all", "sessions", "roaming"), default="all", help="of scenarios (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line, nothing else")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run this one alone and show everything")
    options = parser.parse_args(arguments)
    if options.replay is not None:
        return 1 if replay(options.replay, options.kind).violations else 0
    begun = time.process_time()
    reached: collections.Counter[str] = collections.Counter()
    failing = 0
    for seed in range(options.seed, options.seed + options.scenarios):
        result = run(draw(seed, options.kind))
        reached.update(result.reach)
        failing += bool(result.violations)
        for violation in result.violations:
            report = {"seed": seed, "rule": violation.rule, "at": round(violation.at, 4), "text": violation.text}
            print(
                json.dumps(report)
                if options.json
                else f"{seed}: {violation.rule} at {violation.at:.4f}: {violation.text}"
            )
        if result.violations and not options.json:
            print(f"{seed}: replay with --kind {options.kind} --replay {seed}", flush=True)
    elapsed = time.process_time() - begun
    if not options.json:
        print(", ".join(f"{name}: {count}" for name, count in sorted(reached.items())))
    figures = {
        "scenarios": options.scenarios,
        "violations": failing,
        "per_second": round(options.scenarios / elapsed, 1) if elapsed else 0.0,
    }
    print(json.dumps(figures))
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
