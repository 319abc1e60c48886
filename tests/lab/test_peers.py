"""edgeice and its peers find each other behind real NATs, in both roles: ICE alone with aioice, data channels else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.lab import missing_for_routers
from tests.lab.meeting import meet
from tests.lab.rows import ROWS, direct_possible
from tests.lab.stage import staged
from tests.support.chromium import BROWSER
from tests.support.coturn import COTURN

_MISSING = missing_for_routers() or (None if COTURN else "needs coturn")

pytestmark = [
    pytest.mark.root,
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING)),
]

_ROWS = ("same-site", "eim-apdf/eim-apdf", "apdm-apdf/apdm-apdf+udp", "no-udp/no-udp+tcp")
#: Those of each run; the others take long together.
_USUAL = {("aioice", "eim-apdf/eim-apdf"), ("aiortc", "no-udp/no-udp+tcp")}
_CASES = [
    pytest.param(name, peer, marks=() if (peer, name) in _USUAL else pytest.mark.long)
    for name in _ROWS
    for peer in ("aioice", "aiortc", "chromium")
]


@pytest.mark.parametrize("role", ["offer", "answer"])
@pytest.mark.parametrize(("name", "peer"), _CASES)
async def test_a_peer_is_met(name: str, peer: str, role: str, tmp_path: Path) -> None:
    if peer == "chromium" and BROWSER is None:
        pytest.skip("chromium is not installed")
    row = ROWS[name]
    with staged(row, tmp_path) as stage:
        meeting = await meet(
            stage.hosts,
            ("edgeice", peer) if role == "offer" else (peer, "edgeice"),
            ice_servers=stage.turn.ice_servers("stun", *row.turn),
            ice_only=peer == "aioice",
            patience=40,
        )
    own = meeting.ends[0 if role == "offer" else 1]
    assert meeting.echoed, meeting
    assert own.errors == ()
    assert own.pair is not None
    # A peer that nominates on its own takes what it likes.
    if direct_possible(row) and role == "offer":
        assert "relay" not in (own.pair.local_type, own.pair.remote_type)
