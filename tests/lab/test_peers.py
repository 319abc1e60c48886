"""edgeice and its peers find each other behind real NATs, in both roles: ICE alone with aioice, data channels else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.lab import missing_for_routers
from tests.lab.peers import CASES, SETTINGS, Case, found_in
from tests.support.coturn import COTURN

_MISSING = missing_for_routers() or (None if COTURN else "needs coturn")

pytestmark = [
    pytest.mark.root,
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING)),
]

#: Those of each run; the others take long together.
_USUAL = {
    "aioice-port-restricted+udp-offer",
    "aiortc-edgeice-no-udp+tcp-answer",
    "chromium-symmetric+udp-offer",
    "chromium-lan-names-unknown-answer",
}
#: What the peer's address has to be found as: looked up, or from the checks of a peer that edgeice cannot look up.
_KINDS = {"lan-names-alone": "host", "lan-names-unknown": "prflx"}


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case), marks=() if str(case) in _USUAL else pytest.mark.long) for case in CASES]
)
async def test_a_peer_is_met_by_the_same_pair_at_both_ends(case: Case, tmp_path: Path) -> None:
    if case.missing is not None:
        pytest.skip(case.missing)
    found, own, other = await found_in(case, tmp_path)
    assert found.meeting.is_connected, found
    assert (own.errors, other.errors) == ((), ())
    assert found.ends_agree, found
    assert found.is_direct or not case.has_to_be_direct, found
    if case.setting in _KINDS:
        assert own.pair is not None
        assert own.pair.remote_type == _KINDS[case.setting]


def test_the_usual_cases_are_among_the_others() -> None:
    assert {str(case) for case in CASES} > _USUAL
    assert SETTINGS.keys() > _KINDS.keys()


@pytest.mark.long
def test_the_table_is_printed() -> None:
    command = [sys.executable, str(Path(__file__).with_name("peers.py")), "--json"]
    command += ["--peers", "aioice", "--settings", "lan"]
    *table, last = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert json.loads(last) == {"met": 2, "connected": 2, "direct_possible": 2, "direct": 2, "ends_agree": 2}
    heading, offering, answering, _ = table
    assert heading.split()[:2] == ["peer", "setting"]
    assert [line.split()[:4] for line in (offering, answering)] == [
        ["aioice", "lan", role, "direct"] for role in ("offer", "answer")
    ]
