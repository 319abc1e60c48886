"""The benchmark of shared sessions runs and prints what it promises; its figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.brokers import MOSQUITTO

SCRIPT = Path(__file__).parents[2] / "bench" / "shared.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]


def test_the_last_line_is_one_json_object() -> None:
    command = [sys.executable, str(SCRIPT), "--rounds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["first byte", "edgeice exec", "python -c pass"]
    figures = json.loads(last)
    assert [*figures] == [
        "second_command_first_byte_ms",
        "exec_shared_ms",
        "exec_own_ms",
        "import_ms",
        "python_ms",
    ]
    assert all(figure > 0 for figure in figures.values())
