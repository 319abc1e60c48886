"""What descriptions say about candidates that follow, and about going on after nomination (RFC 8838 §3, §16)."""

from __future__ import annotations

import attrs
import pytest

from edgeice import sdp
from edgeice.addresses import Base, TransportAddress
from edgeice.dtls import Certificate
from edgeice.ice import IceConfig, Role
from edgeice.peer import CandidateGathered, CandidatesEnded, Connection, Endpoint, EndpointConfig
from edgeice.sansio import Entropy, Event, drain
from tests.unit.peer.pair import CERTIFICATES

BASES = [Base(TransportAddress(ip, 4000), "eth0") for ip in ("192.0.2.1", "2001:db8::1")]
SERVER = "stun:203.0.113.5"


def begin(
    number: int, role: Role, *, stun: tuple[str, ...] = (), ice: IceConfig | None = None
) -> tuple[Endpoint, Connection]:
    endpoint = Endpoint(EndpointConfig(stun=stun, ice=ice or IceConfig()), entropy=Entropy.seeded(number))
    for base in BASES:
        endpoint.base_added(base, now=0.0)
    certificate: Certificate = CERTIFICATES[number]
    return endpoint, endpoint.connect(certificate, role, now=0.0)


def test_trk_01_every_description_offers_trickle_for_the_one_stream_that_there_is() -> None:
    _, a = begin(0, Role.CONTROLLING)
    _, b = begin(1, Role.CONTROLLED)
    offer = a.create_offer(now=0.0)
    answer = b.accept_offer(offer, now=0.0)
    a.accept_answer(answer, now=0.0)
    texts = [offer, answer, a.restart(now=1.0)]
    for text in texts:
        assert sdp.parse(text).is_trickle
        assert sdp.parse(text).options == ("trickle", "ice2", "renomination", "edgeice-mobility")
        assert text.count("a=ice-options:") == 1


def test_trk_01_a_description_that_is_made_after_gathering_has_all_candidates_and_their_end() -> None:
    """Half trickle: who does not know whether the peer takes candidates later waits until then."""
    endpoint, session = begin(0, Role.CONTROLLING)
    described = sdp.parse(session.create_offer(now=0.0))
    assert len(described.candidates) == len(BASES)
    assert described.end_of_candidates
    events: list[Event] = []
    for machine in (endpoint, session):
        drain(machine, lambda _action: None, events.append)
    assert [event for event in events if isinstance(event, (CandidateGathered, CandidatesEnded))] == []


def test_trk_01_what_is_gathered_after_the_description_is_told_one_by_one_and_then_its_end() -> None:
    endpoint, session = begin(0, Role.CONTROLLING, stun=(SERVER,))
    described = sdp.parse(session.create_offer(now=0.0))
    assert not described.end_of_candidates
    late = Base(TransportAddress("192.0.2.9", 4000), "eth1")
    endpoint.base_added(late, now=0.1)
    events: list[Event] = []
    now = 0.1
    while True:
        for machine in (endpoint, session):
            drain(machine, lambda _action: None, events.append)
        if any(isinstance(event, CandidatesEnded) for event in events):
            break
        at = endpoint.next_timeout()
        assert at is not None
        now = max(now, at)
        endpoint.handle_timeout(now=now)
        while endpoint.poll_touched() is not None:
            pass
    told = [event for event in events if isinstance(event, (CandidateGathered, CandidatesEnded))]
    assert [type(event) for event in told] == [CandidateGathered, CandidatesEnded]
    assert {event.ufrag for event in told} == {described.ufrag}
    assert now == pytest.approx(39.6, abs=0.2)  # the server never answered


def test_trk_01_opposite_a_peer_without_the_option_all_it_has_is_in_its_description() -> None:
    _, a = begin(0, Role.CONTROLLING)
    _, b = begin(1, Role.CONTROLLED)
    offer = attrs.evolve(sdp.parse(a.create_offer(now=0.0)), options=("ice2",), end_of_candidates=False)
    answer = sdp.parse(b.accept_offer(sdp.build(offer), now=0.0))
    assert answer.is_trickle
    line = "candidate:late 1 udp 2130706000 192.0.2.77 5000 typ host"
    b.add_remote_candidate(line, offer.ufrag, now=0.1)
    assert b.drop_counts()["ice.candidate_late"] == 1


@pytest.mark.parametrize("switch", [True, False])
def test_renomination_is_announced_and_agreed_by_description(*, switch: bool) -> None:
    _, a = begin(0, Role.CONTROLLING)
    _, b = begin(1, Role.CONTROLLED, ice=IceConfig(renomination=switch))
    offer = a.create_offer(now=0.0)
    answer = b.accept_offer(offer, now=0.0)
    a.accept_answer(answer, now=0.0)
    assert ("renomination" in sdp.parse(answer).options) is switch
    for session in (a, b):
        remote = session._link.ice._slots.current.remote
        assert remote is not None
        assert remote.renomination is switch


@pytest.mark.parametrize("switch", [True, False])
def test_mobility_is_told_to_the_owner_once_both_announce_it(*, switch: bool) -> None:
    _, a = begin(0, Role.CONTROLLING)
    _, b = begin(1, Role.CONTROLLED, ice=IceConfig(mobility=switch))
    assert not a.mobility
    a.accept_answer(b.accept_offer(a.create_offer(now=0.0), now=0.0), now=0.0)
    assert a.mobility is b.mobility is switch


def test_renomination_of_a_peer_that_does_not_announce_it_is_plain() -> None:
    _, a = begin(0, Role.CONTROLLING)
    _, b = begin(1, Role.CONTROLLED)
    offer = sdp.parse(a.create_offer(now=0.0))
    b.accept_offer(sdp.build(attrs.evolve(offer, options=("trickle", "ice2"))), now=0.0)
    remote = b._link.ice._slots.current.remote
    assert remote is not None
    assert not remote.renomination
