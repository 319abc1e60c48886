"""The ways that the matrix expects, row by row, as a person works them out."""

from __future__ import annotations

import pytest

from tests.lab.rows import ROWS, connectable, direct_possible

#: Best way without a TURN server, and with one.
_BEST = {
    "public/public": ("direct", "direct"),
    "same-site": ("direct", "direct"),
    "public/apdm-apdf": ("direct", "direct"),
    "eim-eif/eim-eif": ("direct", "direct"),
    "eim-adf/eim-adf": ("direct", "direct"),
    "eim-apdf/eim-apdf": ("direct", "direct"),
    "eim-eif/apdm-apdf": ("direct", "direct"),
    "eim-adf/apdm-apdf": ("direct", "direct"),
    "eim-apdf/apdm-apdf": ("none", "relay"),
    "apdm-apdf/apdm-apdf": ("none", "relay"),
    "carrier-apdm-apdf/eim-apdf": ("none", "relay"),
    "carrier-eim-eif/eim-apdf": ("direct", "direct"),
    "carrier-apdm-apdf/eim-eif": ("direct", "direct"),
    "same-carrier": ("none", "relay"),
    "same-carrier-hairpin": ("direct", "direct"),
    "ipv6": ("direct", "direct"),
    "three-uplinks/eim-apdf": ("direct", "direct"),
    "three-uplinks/three-uplinks": ("direct", "direct"),
    "eim-apdf/eim-apdf-slow": ("direct", "direct"),
    "apdm-apdf/apdm-apdf-slow": ("none", "relay"),
}
_EXPECTED = {
    **{name: without for name, (without, _) in _BEST.items()},
    **{f"{name}+udp": with_turn for name, (_, with_turn) in _BEST.items()},
    "no-udp/eim-apdf+tcp": "relay",
    "no-udp/no-udp+tcp": "relay",
    "tcp-443/apdm-apdf+tls443": "relay",
}


def test_every_row_is_known() -> None:
    assert ROWS.keys() == _EXPECTED.keys()


@pytest.mark.parametrize("name", ROWS)
def test_the_topology_says_which_way_there_is(name: str) -> None:
    row = ROWS[name]
    way = "none" if not connectable(row) else "direct" if direct_possible(row) else "relay"
    assert way == _EXPECTED[name]
