"""The first-byte benchmark runs and prints what it promises; its figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.lab import missing_for_routers
from tests.support.brokers import MOSQUITTO
from tests.support.coturn import COTURN

SCRIPT = Path(__file__).parents[2] / "bench" / "first_byte.py"

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(missing_for_routers() is not None, reason=str(missing_for_routers())),
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
    pytest.mark.skipif(COTURN is None, reason="coturn is not installed"),
]


def test_the_last_line_is_one_json_object() -> None:
    command = [sys.executable, str(SCRIPT), "--rounds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    figures = json.loads(last)
    assert [line.split()[0] for line in lines] == list(figures)
    assert list(figures) == ["nat_first_byte_ms", "nat_first_byte_aiortc_ms", "round_trips", "round_trips_aiortc"]
    # A round trip for the answer, one for a check and two for DTLS cannot be saved.
    assert figures["nat_first_byte_ms"] > 4 * 80
    assert figures["round_trips"] == pytest.approx(figures["nat_first_byte_ms"] / 80, abs=0.01)
