"""The connection benchmark runs and prints what it promises; its figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.brokers import MOSQUITTO

SCRIPT = Path(__file__).parents[2] / "bench" / "connect.py"

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]


def run(*arguments: str) -> list[str]:
    command = [sys.executable, str(SCRIPT), "--rounds", "1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_last_line_is_one_json_object() -> None:
    *lines, last = run("--json")
    assert [line[:20].rstrip() for line in lines] == [
        "ICE",
        "offer to first byte",
        "CPU,  1 addresses",
        "CPU,  5 addresses",
        "CPU, 17 addresses",
    ]
    assert ["aioice" in line for line in lines] == [True, False, True, True, True]
    assert "aiortc" in lines[1]
    figures = json.loads(last)
    times = {"ice_ms", "ice_nominated_ms", "aioice_ms", "offer_to_first_byte_ms", "aiortc_ms"}
    assert set(figures) == times | {f"{name}_{n}" for n in (1, 5, 17) for name in ("cpu_ms", "aioice_cpu_ms")}
    assert all(value > 0 for value in figures.values())
    assert figures["ice_ms"] <= figures["ice_nominated_ms"]
