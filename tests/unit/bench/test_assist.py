"""The benchmark of assistance runs and prints what it promises; its figures are not judged here."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.brokers import MOSQUITTO
from tests.support.sshd import SSHD

SCRIPT = Path(__file__).parents[2] / "bench" / "assist.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
    pytest.mark.skipif(SSHD is None or shutil.which("scp") is None, reason="sshd or scp is not installed"),
]


def run(*arguments: str) -> list[str]:
    command = [
        sys.executable,
        str(SCRIPT),
        "--rounds",
        "1",
        "--mib",
        "8",
        "--keys",
        "20",
        "--connects",
        "50",
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_last_line_is_one_json_object() -> None:
    *lines, last = run("--json")
    assert [line.split()[0] for line in lines] == ["scp", *["keystroke"] * 3, "connects"]
    figures = json.loads(last)
    keystrokes = {f"keystroke{load}{part}_ms" for load in ("", "_other", "_idle") for part in ("", "_p99")}
    rates = {"scp_mib_s", "ssh_direct_mib_s", "forward_mib_s", "forward_other_mib_s", "connects_s", "ssh_connects_s"}
    assert set(figures) == keystrokes | rates
    assert all(value > 0 for value in figures.values())
