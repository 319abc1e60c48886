"""The benchmark of data channels runs and prints what it promises; its figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "datachannel.py"

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def run(*arguments: str) -> list[str]:
    command = [sys.executable, str(SCRIPT), "--rounds", "1", "--mib", "1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_last_line_is_one_json_object() -> None:
    *lines, last = run("--json")
    assert [line.split()[0] for line in lines] == ["edgeice", "aiortc"]
    figures = json.loads(last)
    own = {"mbit", "cpu_s_per_mib_tx", "cpu_s_per_mib_rx"}
    assert set(figures) == own | {f"aiortc_{name}" for name in own}
    assert all(value > 0 for value in figures.values())
