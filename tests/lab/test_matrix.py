"""edgeice finds what way there is, the direct one where there is one, and both ends the same: behind real NATs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.lab import missing_for_routers
from tests.lab.meeting import meet
from tests.lab.rows import ROWS, connectable, direct_possible
from tests.lab.stage import staged
from tests.support.coturn import COTURN

_MISSING = missing_for_routers() or (None if COTURN else "needs coturn")

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING)),
]

#: Those of each run; the others take long together.
_USUAL = ("same-site", "eim-apdf/eim-apdf", "eim-adf/apdm-apdf", "three-uplinks/eim-apdf", "ipv6")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in _USUAL else pytest.mark.long) for name in ROWS]
)
async def test_both_ends_find_the_best_way(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    with staged(row, tmp_path) as stage:
        meeting = await meet(
            stage.hosts,
            ("edgeice", "edgeice"),
            ice_servers=stage.turn.ice_servers("stun", *row.turn),
            cafile=stage.turn.authority.cafile,
            patience=20 if connectable(row) else 50,
        )
    found = meeting.is_connected, stage.is_direct(meeting), stage.ends_agree(meeting)
    assert found == (connectable(row), direct_possible(row), connectable(row)), meeting
    if not connectable(row):
        assert all(end.errors for end in meeting.ends), meeting  # each says why


def test_the_matrix_is_printed_with_aioice_beside() -> None:
    command = [
        sys.executable,
        str(Path(__file__).with_name("matrix.py")),
        "--json",
        "--rows",
        "apdm-apdf/apdm-apdf+udp",
    ]
    *table, last = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert json.loads(last) == {
        "rows": 1,
        "connectable": 1,
        "connected": 1,
        "direct_possible": 0,
        "direct": 0,
        "ends_agree": 1,
    }
    heading, row, *totals = table
    assert "aioice" in heading
    assert row.split()[:2] == ["apdm-apdf/apdm-apdf+udp", "relay"]
    assert row.count("->") == 4
    assert [line.partition(":")[0] for line in totals] == ["edgeice", "aioice"]
