"""The footprint benchmark runs and prints what it promises; its figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.brokers import MOSQUITTO

SCRIPT = Path(__file__).parents[2] / "bench" / "footprint.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]


def run(*arguments: str) -> list[str]:
    command = [sys.executable, str(SCRIPT), "--rounds", "1", "--sessions", "1", "--seconds", "0.1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_last_line_is_one_json_object() -> None:
    *lines, last = run("--json")
    assert [line.split()[0] for line in lines] == ["ready", "idle", "wake-ups", "session"]
    figures = json.loads(last)
    assert set(figures) == {
        "ready_ms",
        "idle_rss_mib",
        "session_rss_mib",
        "per_session_mib",
        "wakeups_per_min",
        "idle_modules",
    }
    # The others may be none: an idle agent sleeps, and a further session may fit into what the process has.
    assert all(figures[name] > 0 for name in ("ready_ms", "idle_rss_mib", "idle_modules"))
    assert figures["session_rss_mib"] > figures["idle_rss_mib"]
