"""The benchmark of data channels runs and prints what it promises; its figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.lab import missing

SCRIPT = Path(__file__).parents[2] / "bench" / "datachannel.py"

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def run(*arguments: str) -> list[str]:
    command = [sys.executable, str(SCRIPT), "--rounds", "1", "--mib", "1", "--seconds", "0.5", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_last_line_is_one_json_object() -> None:
    *lines, last = run("--json")
    links = ["link", "30", "30"] if missing() is None else ["links"]
    assert [line.split()[0] for line in lines] == ["edgeice", "aiortc", *links]
    figures = json.loads(last)
    names = {"mbit", "cpu_s_per_mib_tx", "cpu_s_per_mib_rx"}
    if missing() is None:
        over_links = {"mbit_30ms", "mbit_30ms_1pct"}
        names |= {"link_mbit", *over_links, *(f"tcp_{name}" for name in over_links)}
    own = {name for name in names if not name.startswith(("link", "tcp"))}
    assert set(figures) == names | {f"aiortc_{name}" for name in own}
    assert all(value > 0 for value in figures.values())
