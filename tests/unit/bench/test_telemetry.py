"""The telemetry benchmark runs and prints what it promises; its figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "telemetry.py"


@pytest.mark.slow
def test_the_last_line_is_one_json_object() -> None:
    command = [sys.executable, str(SCRIPT), "--rounds", "1", "--samples", "2", "--seconds", "0.1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["system", "local"]
    figures = json.loads(last)
    assert set(figures) == {"system_us", "system_rows", "local_us", "local_per_s"}
    assert all(value > 0 for value in figures.values())
