"""The soak runs for a moment, finds nothing that grew, and prints what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.brokers import MOSQUITTO

SCRIPT = Path(__file__).parents[2] / "bench" / "soak.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]

READ = ("rss_mib", "descriptors", "tasks", "threads", "children", "sessions")


def test_the_last_line_is_one_json_object() -> None:
    command = [sys.executable, str(SCRIPT), "--minutes", "0.2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert done.stderr == ""
    *lines, last = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [*READ, "rss_mib"]
    figures = json.loads(last)
    assert set(figures) == {
        *("seconds", "sessions_ended", "shells", "forwards", "subscriptions", "lost", "mib", "rss_mib_series"),
        *(f"{name}_{when}" for name in READ for when in ("before", "after")),
    }
    assert all(figures[name] > 0 for name in ("shells", "forwards", "subscriptions", "mib"))
    # In so short a time memory is not yet what it will stay at; the rest is as in a long one.
    assert all(figures[f"{name}_after"] <= figures[f"{name}_before"] for name in READ[1:])
    grown = [line.split()[0] for line in lines if line.endswith("GROWN")]
    assert set(grown) <= {"rss_mib"}
    assert done.returncode == bool(grown)
