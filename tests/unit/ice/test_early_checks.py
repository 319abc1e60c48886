"""Checks that come before the peer's description: what is kept of them (RFC 8445 §7.3)."""

from __future__ import annotations

import pytest

from edgeice.addresses import Path, TransportAddress
from edgeice.ice.incoming import EarlyChecks, PeerCheck
from edgeice.sansio import DropCounter


def check(number: int, *, port: int = 1, use_candidate: bool = False, nomination: int = 0) -> PeerCheck:
    path = Path(TransportAddress("192.0.2.1", 1), TransportAddress("192.0.2.2", port))
    return PeerCheck(path, bytes([number]) * 12, "here", "there", 100 + number, use_candidate, nomination)


@pytest.mark.parametrize(("use_candidate", "nomination"), [(True, 0), (True, 3), (False, 2)])
def test_ice_31_a_nomination_before_the_description_outlasts_later_checks_of_its_path(
    use_candidate: bool, nomination: int
) -> None:
    early = EarlyChecks(DropCounter())
    early.add(check(1))
    early.add(check(2, use_candidate=use_candidate, nomination=nomination))
    early.add(check(3))
    early.add(check(4, port=2))
    assert early.take() == [
        check(3, use_candidate=use_candidate, nomination=nomination),
        check(4, port=2),
    ]
    assert early.take() == []


def test_a_later_nomination_of_its_path_replaces_it() -> None:
    early = EarlyChecks(DropCounter())
    early.add(check(1, use_candidate=True, nomination=1))
    early.add(check(2, use_candidate=True, nomination=2))
    assert early.take() == [check(2, use_candidate=True, nomination=2)]


def test_paths_beyond_the_limit_are_dropped_and_counted() -> None:
    drops = DropCounter()
    early = EarlyChecks(drops)
    for port in range(1, 41):
        early.add(check(1, port=port))
    early.add(check(2, port=1))
    kept = early.take()
    assert (len(kept), drops.snapshot()) == (32, {"early_checks_full": 8})
    assert kept[0] == check(2, port=1)
