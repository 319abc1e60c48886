"""What peers say of their pairs is judged by where the addresses lead, and counted as the matrix says."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from tests.lab.lab import Host
from tests.lab.matrix import Found, Rounds, tally
from tests.lab.meeting import End, Meeting, Pair
from tests.lab.rows import ROWS
from tests.lab.services import Coturn, Server
from tests.lab.stage import Stage
from tests.support.brokers import Authority

_HERE = {"192.168.1.10": "eth0", "198.51.100.10": "eth0", "192.168.2.10": "wlan0", "198.51.100.11": "wlan0"}
_THERE = {"192.168.1.10": "eth0", "198.51.100.12": "eth0", "2001:db8:1:2::10a": "eth0"}
_NOTHING = Path("/nonexistent")
_NO_SERVER = Server(Host("server"), [], (), _NOTHING)
_STAGE = Stage(
    (Host("here"), Host("there")),
    Coturn("203.0.113.10", "2001:db8:0:1::a", Authority(_NOTHING, _NOTHING, _NOTHING), _NO_SERVER),
    (_HERE, _THERE),
)


def meeting(here: str, there: str) -> Meeting:
    """Both ends' `LOCAL REMOTE`; none where that is empty."""
    ends = []
    for text in (here, there):
        local, remote = text.split() or ("", "")
        ends.append(End(Pair("any", local, "any", remote) if text else None, 0.1, 0.2, ()))
    return Meeting((ends[0], ends[1]), echoed=True)


@pytest.mark.parametrize(
    ("here", "there", "agree", "direct"),
    [
        # By reflexive addresses, whatever the ports that NATs draw.
        ("192.168.1.10:1 198.51.100.12:2", "192.168.1.10:3 198.51.100.10:4", True, True),
        # Each sends to another device of the one opposite.
        ("192.168.1.10:1 198.51.100.12:2", "192.168.1.10:3 198.51.100.11:4", False, True),
        # By the relay of one, as both say.
        ("203.0.113.10:50000 198.51.100.12:2", "192.168.1.10:3 203.0.113.10:50000", True, False),
        # By relays, and one sends to another allocation than the other one has.
        ("203.0.113.10:50000 203.0.113.10:50001", "203.0.113.10:50001 203.0.113.10:50000", True, False),
        ("203.0.113.10:50000 203.0.113.10:50001", "203.0.113.10:50001 203.0.113.10:50002", False, False),
        # One by a relay, the other one directly.
        ("192.168.1.10:1 198.51.100.12:2", "192.168.1.10:3 203.0.113.10:50000", False, False),
        # To an address that is nobody's.
        ("192.168.1.10:1 198.51.100.99:2", "192.168.1.10:3 198.51.100.10:4", False, True),
        ("192.168.1.10:1 [2001:db8:1:2::10a]:2", "[2001:db8:1:2::10a]:2 198.51.100.10:4", True, True),
        # A browser does not tell all.
        ("192.168.1.10:1 198.51.100.12:2", "192.168.1.10:3 hidden:4", True, True),
        ("192.168.1.10:1 203.0.113.10:50000", "192.168.1.10:3 hidden:4", False, False),
        ("192.168.1.10:1 198.51.100.12:2", "hidden:3 hidden:4", True, True),
        ("192.168.1.10:1 198.51.100.99:2", "hidden:3 hidden:4", False, True),
        ("192.168.1.10:1 198.51.100.12:2", "", False, True),
        ("", "", False, False),
    ],
)
def test_pairs_are_judged_by_where_their_addresses_lead(here: str, there: str, *, agree: bool, direct: bool) -> None:
    met = meeting(here, there)
    assert (_STAGE.ends_agree(met), _STAGE.is_direct(met)) == (agree, direct)


def test_the_matrix_counts_what_was_found() -> None:
    met = meeting("192.168.1.10:1 198.51.100.12:2", "192.168.1.10:3 198.51.100.10:4")
    direct, apart = Found(met, is_direct=True, ends_agree=True), Found(met, is_direct=False, ends_agree=False)
    none = Found(attrs.evolve(met, echoed=False), is_direct=False, ends_agree=False)
    impossible = ROWS["apdm-apdf/apdm-apdf"]
    rows = [(ROWS["eim-eif/eim-eif"], direct), (ROWS["ipv6"], apart), (ROWS["same-site"], none), (impossible, none)]
    assert tally(rows) == {
        "rows": 4,
        "connectable": 3,
        "connected": 2,
        "direct_possible": 3,
        "direct": 1,
        "ends_agree": 1,
    }
    assert Rounds([direct, none, apart]).worst is none
    assert Rounds([direct, apart]).worst is apart
    assert Rounds([direct, direct]).milliseconds == "100"
