"""Fuzzing for as long as one likes: every target in turn, with dice that are new each time.

    python tests/property/fuzz.py --minutes N [--seed S] [--json] [--only WORD]
    python tests/property/fuzz.py --replay TARGET HEX

Prints for each target how many inputs it took, how many of them were not refused, and what was found; a finding is told
once, with the least input that still shows it.  Ends with 1 if there was one.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random

import attrs

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.property.mutation import minimize, mutate
from tests.property.target import TAKEN, Target
from tests.property.targets import DECODERS, TARGETS

#: Seconds that a decoder has at a time, and a whole agent, whose inputs are conversations.
TURN, AGENT_TURN = 0.5, 2.0
#: Seconds after which an input counts as one that never ends.
PATIENCE = 20


@attrs.frozen
class Finding:
    """What went wrong, and where."""

    target: str
    error: str
    place: str
    reproducer: bytes

    def __str__(self) -> str:
        return f"{self.target}: {self.error} at {self.place}\n  --replay {self.target} {self.reproducer.hex()}"


@attrs.define
class Tally:
    """What became of a target's inputs."""

    outcomes: Counter[str] = attrs.field(factory=Counter)
    #: Different ones.
    findings: list[Finding] = attrs.field(factory=list)

    @property
    def inputs(self) -> int:
        """How many there were."""
        return self.outcomes.total()


def attempt(target: Target, data: bytes) -> str | Finding:
    """Try one input."""
    signal.alarm(PATIENCE)
    try:
        return target.check(data)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
        frames = traceback.extract_tb(error.__traceback__)
        inside = [frame for frame in frames if "/edgeice/" in frame.filename] or frames
        place = f"{Path(inside[-1].filename).name}:{inside[-1].lineno}"
        return Finding(target.name, f"{type(error).__name__}: {str(error)[:200]}", place, data)
    finally:
        signal.alarm(0)


def same(one: Finding, other: str | Finding) -> bool:
    """Whether an input shows what another one does: texts differ with what they quote."""
    kind = one.error.partition(":")[0]
    return isinstance(other, Finding) and (other.error.partition(":")[0], other.place) == (kind, one.place)


def turn(target: Target, tally: Tally, seed: str, until: float) -> None:
    """Try inputs of one seed until the time is up."""
    dice = Random(seed)
    seeds = target.seeds()
    while time.monotonic() < until:
        found = attempt(target, mutate(dice, seeds, target.tokens))
        if isinstance(found, str):
            tally.outcomes[found] += 1
            continue
        tally.outcomes["found"] += 1
        if not any(same(found, known) for known in tally.findings):
            least = reduced(target, found)
            tally.findings.append(least)
            print(least, file=sys.stderr, flush=True)


def reduced(target: Target, found: Finding) -> Finding:
    """The least input that shows the same."""
    least = minimize(found.reproducer, lambda data: same(found, attempt(target, data)), tries=500)
    return attrs.evolve(found, reproducer=least)


def hang(_signal: int, _frame: object) -> None:
    """Break off an input that never ends."""
    raise TimeoutError(f"no end within {PATIENCE} s")


def run(targets: tuple[Target, ...], minutes: float, seed: int) -> dict[str, Tally]:
    """Try all targets in turn until the time is up."""
    tallies = {target.name: Tally() for target in targets}
    end = time.monotonic() + 60 * minutes
    number = 0
    before = signal.signal(signal.SIGALRM, hang)
    try:
        while True:
            for target in targets:
                now = time.monotonic()
                if now >= end:
                    return tallies
                seconds = TURN if target in DECODERS else AGENT_TURN
                turn(target, tallies[target.name], f"{seed} {number} {target.name}", min(now + seconds, end))
            number += 1
    finally:
        signal.signal(signal.SIGALRM, before)


def main() -> int:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="of all dice; the time if not given")
    parser.add_argument("--json", action="store_true", help="the result as one object")
    parser.add_argument("--only", default="", help="only targets whose name holds this word")
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "HEX"), help="one input again")
    options = parser.parse_args()
    if options.replay:
        (target,) = (each for each in TARGETS if each.name == options.replay[0])
        print(target.check(bytes.fromhex(options.replay[1])))
        return 0
    seed = time.time_ns() if options.seed is None else options.seed
    tallies = run(tuple(target for target in TARGETS if options.only in target.name), options.minutes, seed)
    findings = [finding for tally in tallies.values() for finding in tally.findings]
    if options.json:
        rows = {
            name: {"inputs": tally.inputs, "taken": tally.outcomes[TAKEN], "findings": len(tally.findings)}
            for name, tally in tallies.items()
        }
        total = sum(tally.inputs for tally in tallies.values())
        found = [attrs.asdict(finding) | {"reproducer": finding.reproducer.hex()} for finding in findings]
        result = {"seed": seed, "targets": rows, "found": found, "inputs": total, "findings": len(findings)}
        print(json.dumps(result))
    else:
        for name, tally in tallies.items():
            print(f"{name:24}{tally.inputs:10} inputs{tally.outcomes[TAKEN]:10} taken{len(tally.findings):4} found")
        print(f"seed {seed}: {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
