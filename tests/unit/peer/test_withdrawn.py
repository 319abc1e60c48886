"""Candidates that a session takes back, and such as its peer takes back."""

from __future__ import annotations

import pytest

from edgeice.addresses import Base, TransportAddress
from edgeice.ice import IceConfig
from edgeice.peer import CandidateGathered, CandidateWithdrawn, PathChanged
from tests.unit.peer.pair import End, Pair

WWAN = Base(TransportAddress("192.0.2.31", 4000), "wwan0", cost=900)


def plugged(*, mobility: bool = True, signaled: bool = True) -> tuple[Pair, End, End, str]:
    """A has a second interface since; B was told by signaling. The line of it."""
    pair = Pair(ice=IceConfig(mobility=mobility))
    a, b = pair.a, pair.b
    a.also(WWAN)
    gathered = a.of(CandidateGathered)
    if not gathered:
        return pair, a, b, ""
    (event,) = gathered
    assert event.ufrag == a.connection.ufrag
    if signaled:
        b.connection.add_remote_candidate(event.candidate, event.ufrag, now=pair.now)
    pair.run(2.0)
    return pair, a, b, event.candidate


def pull(pair: Pair, end: End, base: Base) -> None:
    end.endpoint.base_removed(base.address, now=pair.now)
    end.drain()


def test_what_was_told_is_taken_back_by_the_same_line() -> None:
    pair, a, b, line = plugged()
    assert line.endswith(" typ host network-id 2 network-cost 900")
    pull(pair, a, WWAN)
    assert a.of(CandidateWithdrawn) == [CandidateWithdrawn(line, a.connection.ufrag)]
    pairs = len(b.connection.verdict(now=pair.now)["pairs"])  # type: ignore[arg-type]  # a list
    b.connection.remove_remote_candidate(line, a.connection.ufrag, now=pair.now)
    assert b.connection.drop_counts() == {}
    assert WWAN.address not in {each.path.remote for each in b.connection._link.ice._slots.current.checklist}
    assert pairs == 2


def test_opposite_a_plain_peer_nothing_is_told_after_the_end() -> None:
    pair, a, b, line = plugged(mobility=False)
    assert line == ""
    pull(pair, a, WWAN)
    assert a.of(CandidateWithdrawn) == []
    told = "candidate:f 1 udp 2130706431 192.0.2.1 4000 typ host"
    b.connection.remove_remote_candidate(told, a.connection.ufrag, now=pair.now)
    assert b.connection.drop_counts()["ice.candidate_withdrawal"] == 1
    pair.send(a, b"still there")
    pair.run(1.0)
    assert b.messages == [b"still there"]


def test_data_moves_with_the_path_in_the_same_call_and_says_why() -> None:
    pair, a, b, _ = plugged()
    a.events.clear()
    b.events.clear()
    pair.send(a, b"before")
    pull(pair, a, a.base)
    path = a.connection.pathways.current
    assert (path.path and path.path.local, path.interface, path.cause) == (WWAN.address, "wwan0", "base_gone")
    assert path.rtt == pytest.approx(0.002)
    pair.send(a, b"after")
    pair.run(0.0015)
    assert b.messages == [b"before", b"after"]
    assert [(each.interface, each.cause) for each in b.of(PathChanged)] == [("eth0", "peer_moved")]
    pair.send(b, b"back")
    pair.run(1.0)
    assert a.messages == [b"back"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nonsense", "link.candidate_syntax"),
        ("candidate:f 1 udp 1 192.0.2.99 4000 typ host", "ice.candidate_unknown"),
        ("candidate:f 1 udp 1 1b4e28ba-2fa1-41d2-883f-0016d3cca427.local 4000 typ host", "link.candidate_mdns"),
        ("candidate:f 1 tcp 1 192.0.2.1 9 typ host tcptype active", "link.candidate_transport"),
        ("candidate:" + "f" * 2000, "link.candidate_syntax"),
    ],
)
def test_host_17_what_cannot_be_taken_back_is_counted_and_ignored(line: str, reason: str) -> None:
    pair = Pair()
    pair.b.connection.remove_remote_candidate(line, pair.a.connection.ufrag, now=pair.now)
    assert pair.b.connection.drop_counts() == {reason: 1}
    pair.b.connection.remove_remote_candidate(line, "other", now=pair.now)
    pair.send(pair.a, b"still there")
    pair.run(1.0)
    assert pair.b.messages == [b"still there"]
