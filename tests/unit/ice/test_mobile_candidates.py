"""Candidates that come after the end of candidates, and such as are withdrawn, between two sides that know mobility."""

from __future__ import annotations

import attrs
import pytest

from edgeice.addresses import Base, Path
from edgeice.ice import (
    Candidate,
    CandidateType,
    IceConfig,
    LocalCandidateGathered,
    LocalCandidatesEnded,
    LocalCandidateWithdrawn,
    SendPathChanged,
)
from tests.support.ice_pair import Agent, World, address
from tests.support.ice_roaming import Roaming, at, moves


def pairs(agent: Agent) -> set[Path]:
    return {pair.path for pair in agent.ice._slots.current.checklist}


def valid(agent: Agent) -> set[Path]:
    return {pair.path for pair in agent.ice._slots.current.checklist if pair.is_valid}


def told(agent: Agent, kind: type) -> list[Candidate]:
    return [event.candidate for event in agent.of(kind)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [1, 2])
def test_an_interface_that_comes_later_is_told_and_becomes_a_backup(number: int) -> None:
    world = Roaming((2,), (2,))
    agent, other = world.agent(number), world.agent(3 - number)
    world.plug(number, 3)
    (candidate,) = told(agent, LocalCandidateGathered)
    assert (candidate.network, candidate.cost) == (2, 900)
    assert agent.of(LocalCandidatesEnded) == []
    world.run(1.0)
    path = Path(at(number, 3), at(3 - number, 2))
    assert path in valid(agent)
    assert Path(path.remote, path.local) in valid(other)
    assert world.agree_on(2, 2)
    world.run(120.0)
    assert path in valid(agent)
    assert world.agree_on(2, 2)


@pytest.mark.parametrize("number", [1, 2])
def test_a_server_reflexive_address_of_a_later_interface_is_told_too(number: int) -> None:
    world = Roaming((2,), (2,))
    agent = world.agent(number)
    world.plug(number, 3)
    agent.events.clear()
    agent.ice.add_server_reflexive(at(number, 3), address(99), address(98), now=world.now)
    agent.drain()
    (candidate,) = told(agent, LocalCandidateGathered)
    assert (candidate.type, candidate.network, candidate.cost) == (CandidateType.SERVER_REFLEXIVE, 2, 900)


def test_what_goes_is_withdrawn_with_all_that_was_told_of_it() -> None:
    world = Roaming((2, 3), (2,), connected=False)
    world.a.ice.add_server_reflexive(at(1, 3), address(99), address(98), now=world.now)
    world.run(10.0)
    world.forget()
    world.pull(1, 3)
    assert [(each.type, each.address) for each in told(world.a, LocalCandidateWithdrawn)] == [
        (CandidateType.HOST, at(1, 3)),
        (CandidateType.SERVER_REFLEXIVE, address(99)),
    ]
    world.run(0.1)
    assert {path.remote for path in pairs(world.b)} == {at(1, 2)}
    assert world.b.ice.drops.snapshot() == {}
    assert moves(world.b) == []


@pytest.mark.parametrize("number", [1, 2])
def test_the_end_whose_peer_withdraws_the_selected_address_moves_at_once(number: int) -> None:
    """The mover's own check is lost: signaling alone brings the other end along."""
    world = Roaming((2, 3), (2, 3))
    mover, other = world.agent(number), world.agent(3 - number)
    passes = world.filter
    world.filter = lambda agent, sent: agent is not mover and passes(agent, sent)
    world.pull(number, 2)
    world.run(0.0)
    assert other.ice.send_path is not None
    assert other.ice.send_path.remote == at(number, 3)
    assert moves(other) == [(other.ice.send_path.local, at(number, 3), "peer_moved")]
    world.filter = passes
    world.run(10.0)
    assert world.states == ("completed", "completed")
    assert world.ends[0] == world.ends[1]
    assert mover.ice.send_path is not None


@pytest.mark.parametrize("number", [1, 2])
def test_cold_behind_filtering_nats_the_candidate_that_is_signaled_is_checked_at_once_by_the_peer(number: int) -> None:
    """Round trips of 0.2 s by either way: half of one for the candidate, one more for the peer's check, and so on."""
    world = Roaming((2,), (2,), delay=0.1)
    world.filtering = {1, 2}
    world.signaling_delay = 0.1
    mover, other = world.agent(number), world.agent(3 - number)
    world.pull(number, 2)
    world.plug(number, 2, 4100)
    began = world.now
    world.run(20.0, lambda: other.ice.send_path == Path(at(3 - number, 2), at(number, 2, 4100)))
    assert world.now - began == pytest.approx(0.3)
    world.run(20.0, lambda: mover.ice.send_path == Path(at(number, 2, 4100), at(3 - number, 2)))
    assert world.now - began == pytest.approx(0.4)
    world.run(20.0, lambda: world.states == ("completed", "completed"))
    assert world.now - began <= 0.6
    assert world.ends[0] == world.ends[1]


@pytest.mark.parametrize("mobile", [False, True])
def test_trk_09_a_plain_peer_is_told_nothing_after_the_end_and_takes_nothing(*, mobile: bool) -> None:
    world = World()
    for agent in (world.a, world.b):
        agent.mobile = mobile
    world.connect()
    for agent in (world.a, world.b):
        agent.events.clear()
    world.a.add_base(address(11), "wwan0", 900)
    late = Candidate("late", 1000, address(12), CandidateType.HOST)
    world.b.ice.add_remote_candidate(late, ufrag=world.a.ice.local_credentials.ufrag, now=world.now)
    world.run(0.0)
    assert bool(told(world.a, LocalCandidateGathered)) is mobile
    assert (len(pairs(world.a)), len(pairs(world.b))) == ((2, 3) if mobile else (1, 1))
    assert world.b.ice.drops["candidate_late"] == (0 if mobile else 1)
    world.a.remove_base(address(11))
    assert bool(told(world.a, LocalCandidateWithdrawn)) is mobile


def test_a_plain_peer_withdraws_nothing() -> None:
    world = World()
    world.connect()
    gone, _ = world.a.candidates[0]
    world.b.ice.remove_remote_candidates((gone,), ufrag=world.a.ice.local_credentials.ufrag, now=world.now)
    assert world.states == ("completed", "completed")
    assert world.b.ice.drops.snapshot() == {"candidate_withdrawal": 1}
    assert len(pairs(world.b)) == 1


@pytest.mark.parametrize("config", [IceConfig(mobility=False), IceConfig(renomination=False)])
def test_the_option_is_used_only_if_this_side_has_it_on(config: IceConfig) -> None:
    world = Roaming((2, 3), (2,), config=config, connected=False)
    world.run(10.0)
    assert not world.a.ice._slots.current.is_mobile
    assert len(valid(world.a)) == 1


def test_a_base_that_came_after_the_end_but_before_the_peers_description_is_told_once_that_knows_mobility() -> None:
    world = World()
    for number, agent in ((1, world.a), (2, world.b)):
        agent.mobile = True
        agent.add_base(at(number, 2), "wlan0", 10)
        agent.end()
    world.a.add_base(at(1, 3), "wwan0", 900)
    world.a.ice.add_server_reflexive(at(1, 3), address(99), address(98), now=world.now)
    assert len(told(world.a, LocalCandidateGathered)) == 1
    world.exchange()
    assert [each.address for each in told(world.a, LocalCandidateGathered)][1:] == [at(1, 3), address(99)]
    world.run(5.0)
    assert len(valid(world.a)) == len(valid(world.b)) == 2


def test_a_relayed_base_that_goes_by_another_interface_is_told_with_what_that_costs() -> None:
    world = Roaming((2,), (2,))
    relayed = Base(address(90), "wlan0", server=address(91), mapped=address(92), cost=10)
    world.hosts[address(90)] = world.a
    world.a.ice.base_added(relayed, now=world.now)
    world.a.drain()
    world.run(1.0)
    world.forget()
    world.a.ice.base_added(Base(address(90), "wwan0", server=address(91), mapped=address(92), cost=900), now=world.now)
    world.a.drain()
    (candidate,) = told(world.a, LocalCandidateGathered)
    assert (candidate.address, candidate.network, candidate.cost) == (address(90), 2, 900)
    world.run(0.0)
    ours, theirs = world.a.ice._slots.current, world.b.ice._slots.current
    host, remote = ours.locals.host(address(90)), theirs.remotes.get(address(90))
    assert host is not None
    assert remote is not None
    assert (host.cost, remote.cost, remote.network) == (900, 900, 2)
    assert {pair.cost for pair in ours.checklist if pair.path.local == address(90)} == {910}
    assert {pair.cost for pair in theirs.checklist if pair.path.remote == address(90)} == {910}


def test_that_the_relay_that_carries_data_is_reached_another_way_is_told() -> None:
    world = World()
    for agent in (world.a, world.b):
        agent.mobile = True
    world.hosts[address(90)] = world.a
    base = Base(address(90), "wlan0", server=address(91), mapped=address(92), cost=10)
    world.a.ice.base_added(base, now=world.now)
    world.a.drain()
    world.a.end()
    world.b.add_base(at(2, 1), "eth0", 0)
    world.b.end()
    world.exchange()
    world.run(5.0)
    world.a.events.clear()
    world.a.ice.base_added(attrs.evolve(base, interface="wwan0", cost=900), now=world.now)
    world.a.drain()
    (event,) = world.a.of(SendPathChanged)
    assert isinstance(event, SendPathChanged)
    assert event.path == Path(address(90), at(2, 1))
    assert (event.interface, event.cause, event.nominated) == ("wwan0", "base_gone", True)
