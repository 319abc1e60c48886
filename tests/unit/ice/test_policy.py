"""Which local candidates there are, and what the peer is told of them."""

from __future__ import annotations

import pytest

from edgeice.addresses import Base, TransportAddress
from edgeice.ice import (
    Candidate,
    CandidatePolicy,
    CandidateType,
    IceConfig,
    IceSession,
    LocalCandidateGathered,
    Pacer,
    PairNominated,
    Role,
    decode_candidate,
    encode_candidate,
)
from edgeice.sansio import Entropy
from tests.support.ice_pair import Agent, World, address

PUBLIC = TransportAddress("198.51.100.1", 4100)
SERVER = TransportAddress("198.51.100.53", 3478)
RELAYED = Base(TransportAddress("203.0.113.1", 50000), "eth0", SERVER, PUBLIC)


def told(policy: CandidatePolicy) -> tuple[Agent, list[str]]:
    """What an agent with a host, a server-reflexive and a relayed candidate tells."""
    agent = World(config=IceConfig(policy=policy)).a
    agent.add_base(address(1))
    agent.ice.add_server_reflexive(address(1), PUBLIC, SERVER, now=agent.world.now)
    agent.ice.base_added(RELAYED, now=agent.world.now)
    agent.drain()
    lines = [encode_candidate(event.candidate) for event in agent.of(LocalCandidateGathered)]  # type: ignore[attr-defined]
    return agent, [line.partition(" typ ")[2] + " of " + line.split()[4] for line in lines]


def test_by_default_all_are_told_with_what_is_behind_them() -> None:
    assert told(CandidatePolicy.ALL)[1] == [
        "host network-id 1 network-cost 0 of 192.0.2.1",
        "srflx raddr 192.0.2.1 rport 4000 network-id 1 network-cost 0 of 198.51.100.1",
        "relay raddr 198.51.100.1 rport 4100 network-id 1 network-cost 0 of 203.0.113.1",
    ]


def test_no_host_tells_no_address_of_this_host_itself() -> None:
    assert told(CandidatePolicy.NO_HOST)[1] == [
        "srflx raddr 0.0.0.0 rport 9 network-id 1 network-cost 0 of 198.51.100.1",  # RFC 8839 §5.1: hidden
        "relay raddr 0.0.0.0 rport 9 network-id 1 network-cost 0 of 203.0.113.1",
    ]


def test_relay_tells_nothing_but_the_relays_address() -> None:
    agent, lines = told(CandidatePolicy.RELAY)
    assert lines == ["relay raddr 0.0.0.0 rport 9 network-id 1 network-cost 0 of 203.0.113.1"]
    assert [candidate.type for candidate, _ in agent.candidates] == [CandidateType.RELAYED]


def against_another(policy: CandidatePolicy, *, controls: bool) -> tuple[World, Agent, Agent]:
    """An agent with a policy and one without, with a host candidate each."""
    world = World(config=IceConfig(policy=policy), roles="AB" if controls else "BA")
    world.b = Agent(world, world.b.ice.role, 3, IceConfig(), Pacer())
    world.a.peer, world.b.peer = world.b, world.a
    world.gather()
    return world, world.a, world.b


@pytest.mark.parametrize("controls", [True, False])
def test_relay_sends_nothing_from_this_host_itself_and_answers_nothing_there(*, controls: bool) -> None:
    world, silent, other = against_another(CandidatePolicy.RELAY, controls=controls)
    world.exchange()
    # As if somebody had told the other one, which checks the address.
    line = "candidate:1 1 udp 2130706431 192.0.2.1 4000 typ host"
    host = decode_candidate(line)
    assert isinstance(host, Candidate)
    world.b.ice.add_remote_candidate(host, ufrag=silent.ice.local_credentials.ufrag, now=world.now)
    world.run(5)
    assert len(other.sent) > 3
    assert silent.sent == []
    assert silent.ice.drops["no_base"] == len(other.sent)


@pytest.mark.parametrize("controls", [True, False])
def test_no_host_still_checks_from_the_host_and_finds_the_path(*, controls: bool) -> None:
    world, quiet, other = against_another(CandidatePolicy.NO_HOST, controls=controls)
    world.exchange()
    assert (quiet.candidates, len(other.candidates)) == ([], 1)
    world.run(1.0, lambda: world.states == ("completed", "completed"))
    assert world.states == ("completed", "completed")
    # What the other one learns is where the check came from: behind a NAT, the NAT.
    (nominated,) = other.of(PairNominated)
    assert isinstance(nominated, PairNominated)
    assert nominated.remote.type is CandidateType.PEER_REFLEXIVE


def test_relay_uses_no_address_of_this_host_that_was_there_before_the_session() -> None:
    own = Base(address(1), "eth0")
    relayed = Base(address(2), "eth0", server=address(3), mapped=address(4))
    config = IceConfig(policy=CandidatePolicy.RELAY)
    session = IceSession(
        config, role=Role.CONTROLLING, pacer=Pacer(), entropy=Entropy.seeded(1), now=0.0, bases=[own, relayed]
    )
    told = []
    while (event := session.poll_event()) is not None:
        told += [event.candidate] if isinstance(event, LocalCandidateGathered) else []
    assert [(each.type, each.address) for each in told] == [(CandidateType.RELAYED, relayed.address)]
