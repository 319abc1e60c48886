"""Some hundred scenarios, and what the runner says of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.sim import run
from tests.sim.scenario import draw_scenario
from tests.sim.world import run_scenario

#: In parts, so that a failure is found soon.
_PARTS = 8
_SIZE = 40


@pytest.mark.slow
@pytest.mark.parametrize("part", range(_PARTS))
def test_scenarios_of_fixed_seeds_violate_nothing(part: int) -> None:
    for seed in range(part * _SIZE, (part + 1) * _SIZE):
        result = run_scenario(draw_scenario(seed))
        assert not result.violations, f"python tests/sim/run.py --replay {seed}: {result.violations[0]}"


def test_a_seed_gives_the_same_run_again() -> None:
    first, second = (run_scenario(draw_scenario(11), traced=True) for _ in range(2))
    assert first == second
    assert len(first.log) > 50


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["12", "14"])
def test_a_seed_gives_the_same_run_in_another_process(seed: str) -> None:
    def replay(hash_seed: str) -> bytes:
        command = [sys.executable, run.__file__, "--replay", seed]
        return subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": hash_seed}, check=True, capture_output=True
        ).stdout

    assert replay("1") == replay("2")


def test_the_runner_ends_with_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--scenarios", "3", "--seed", "5", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["scenarios"] == 3
    assert figures["violations"] == 0
    assert figures["per_second"] > 0


def test_the_runner_replays_a_seed_with_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--kind", "sessions", "--replay", "11"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Scenario(seed=11")
    assert "nominating" in shown


def test_seeds_are_of_both_kinds_unless_one_is_asked_for() -> None:
    kinds = [type(run.draw(seed, "all")).__name__ for seed in range(6)]
    assert kinds == ["Scenario", "Scenario", "RoamingScenario"] * 2
    assert {type(run.draw(seed, "roaming")) for seed in range(4)} == {type(run.draw(2, "all"))}
    assert {type(run.draw(seed, "sessions")) for seed in range(4)} == {type(run.draw(0, "all"))}
