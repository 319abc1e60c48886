"""Candidates that come one by one, in and out of their time (RFC 8838)."""

from __future__ import annotations

import attrs
import pytest

from edgeice import stun
from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice import (
    Candidate,
    CandidateType,
    IceConfig,
    LocalCandidateGathered,
    LocalCandidatesEnded,
    PairState,
    RemoteParameters,
)
from edgeice.ice.checklist import Checklist
from edgeice.ice.config import Role
from edgeice.sansio import DropCounter, Transmit, drain
from tests.support.ice_pair import Agent, World, address, form_one

SERVERS = TransportAddress("203.0.113.1", 3478), TransportAddress("203.0.113.2", 3478)


def requests_to(agent: Agent, remote: TransportAddress) -> int:
    return sum(
        sent.path.remote == remote and stun.decode(sent.data).message_class is stun.MessageClass.REQUEST
        for sent in agent.sent
    )


def silent() -> World:
    """A knows B's parameters and nothing answers it."""
    world = World()
    world.filter = lambda _agent, _sent: False
    world.a.add_base(address(1))
    world.b.add_base(address(2))
    world.b.describe_to(world.a)
    return world


def late(world: World, host: int) -> tuple[Candidate, str]:
    template, ufrag = world.b.candidates[0]
    return attrs.evolve(template, address=address(host)), ufrag


def restarting() -> World:
    """Both have restarted, and A does not know yet that B has no more candidates."""
    world = World()
    world.a.add_base(address(1))
    world.b.add_base(address(2))
    world.exchange()
    world.run(1.0)
    assert world.states == ("completed", "completed")
    world.restart()
    return world


def test_trk_04_a_candidate_of_a_generation_that_is_not_known_or_was_replaced_is_dropped_and_counted() -> None:
    world = restarting()
    candidate, old = late(world, 66)
    new = world.b.ice.local_credentials.ufrag
    before = world.a.ice.drops["candidate_generation"]
    # While both are alive each takes its own.
    world.a.ice.add_remote_candidate(candidate, ufrag=new, now=world.now)
    world.a.ice.add_remote_candidate(candidate, ufrag="unknown", now=world.now)
    world.a.drain()
    assert world.a.ice.drops["candidate_generation"] - before == 1
    world.run(2.0)
    world.a.ice.add_remote_candidate(candidate, ufrag=old, now=world.now)
    assert world.a.ice.drops["candidate_generation"] - before == 2


def test_trk_04_a_candidate_for_one_generation_makes_no_pair_in_the_other() -> None:
    world = restarting()
    candidate, _ = late(world, 66)
    world.a.ice.add_remote_candidate(candidate, ufrag=world.b.ice.local_credentials.ufrag, now=world.now)
    world.a.drain()
    current, pending = world.a.ice._slots.active()
    assert [pair.path.remote for pair in current.checklist] == [address(2)]
    assert {pair.path.remote for pair in pending.checklist} == {address(2), address(66)}


def test_trk_06_only_pairs_that_wait_make_room_failed_ones_before_all_and_then_the_lowest() -> None:
    drops = DropCounter()
    checklist = Checklist(role=Role.CONTROLLING, limit=4, drops=drops)
    local = Candidate("l", 1000, address(1), CandidateType.HOST, base=address(1))

    def add(host: int, priority: int) -> bool:
        remote = Candidate(f"r{host}", priority, address(host), CandidateType.HOST)
        return form_one(checklist, local, remote) is not None

    def hosts() -> set[TransportAddress]:
        return {pair.path.remote for pair in checklist}

    states = {2: PairState.SUCCEEDED, 3: PairState.IN_PROGRESS, 4: PairState.FAILED, 5: PairState.WAITING}
    for host, state in states.items():
        assert add(host, host * 10)
        pair = checklist.get(address(1), address(host))
        assert pair is not None
        pair.state = state
    # The failed one goes first although it is not the lowest, even for a pair that is lower.
    assert add(6, 35)
    assert hosts() == {address(host) for host in (2, 3, 5, 6)}
    # Then the lowest of those that wait, for a better one only.
    assert not add(7, 30)
    assert add(8, 60)
    assert hosts() == {address(host) for host in (2, 3, 5, 8)}
    assert add(9, 61)
    # What succeeded or is being checked never goes, however low it is.
    assert hosts() == {address(host) for host in (2, 3, 8, 9)}
    assert (drops["pair_displaced"], drops["pairs_full"]) == (3, 1)


def test_trk_08_a_local_candidate_with_a_known_address_and_base_is_redundant() -> None:
    world = World()
    world.a.add_base(address(1))
    for server in SERVERS:
        world.a.ice.add_server_reflexive(address(1), address(31), server, now=world.now)
    world.a.ice.add_server_reflexive(address(1), address(1), SERVERS[0], now=world.now)  # no NAT
    world.a.ice.base_added(Base(address(1), "eth0"), now=world.now)
    world.a.drain()
    assert [(candidate.type.value, candidate.address) for candidate, _ in world.a.candidates] == [
        ("host", address(1)),
        ("srflx", address(31)),
    ]
    # The same address on another base is another candidate.
    world.a.add_base(address(11))
    world.a.ice.add_server_reflexive(address(11), address(31), SERVERS[0], now=world.now)
    world.a.drain()
    assert len(world.a.candidates) == 4


def test_trk_09_the_end_names_its_generation_and_no_candidate_follows_it() -> None:
    world = World()
    world.gather()
    ufrag = world.a.ice.local_credentials.ufrag
    assert world.a.of(LocalCandidatesEnded) == [LocalCandidatesEnded(ufrag)]
    world.a.add_base(address(11))
    world.a.ice.add_server_reflexive(address(1), address(31), SERVERS[0], now=world.now)
    world.a.end()
    assert len(world.a.of(LocalCandidateGathered)) == 1
    assert len(world.a.of(LocalCandidatesEnded)) == 1
    # A restart has candidates and an end of its own.
    world.exchange()
    world.run(1.0)
    world.a.ice.restart(now=world.now)
    world.a.drain()
    new = world.a.ice.local_credentials.ufrag
    assert [of for _, of in world.a.candidates] == [ufrag, new, new, new]
    assert world.a.of(LocalCandidatesEnded)[1:] == [LocalCandidatesEnded(new)]


def test_trk_09_no_candidate_is_told_after_nomination() -> None:
    world = World()
    world.a.add_base(address(1))
    world.b.add_base(address(2))
    world.exchange()
    world.run(2.0)
    assert world.states == ("completed", "completed")
    world.a.add_base(address(11))
    world.a.ice.add_server_reflexive(address(1), address(31), SERVERS[0], now=world.now)
    world.a.drain()
    assert len(world.a.of(LocalCandidateGathered)) == 1


@pytest.mark.parametrize("how", ["ended", "completed"])
def test_trk_10_a_candidate_after_the_end_or_after_nomination_is_ignored_and_counted(how: str) -> None:
    world = silent()
    if how == "completed":
        world.filter = lambda _agent, _sent: True
        world.a.describe_to(world.b)
        world.run(2.0)
        assert world.a.state == "completed"
    else:
        world.b.end()
    candidate, ufrag = late(world, 66)
    world.a.ice.add_remote_candidate(candidate, ufrag=ufrag, now=world.now)
    world.a.drain()
    world.run(5.0)
    assert world.a.ice.drops["candidate_late"] == 1
    assert requests_to(world.a, address(66)) == 0


def test_trk_11_a_candidate_of_another_component_is_ignored_and_counted() -> None:
    world = silent()
    candidate, ufrag = late(world, 66)
    world.a.ice.add_remote_candidate(attrs.evolve(candidate, component=2), ufrag=ufrag, now=world.now)
    world.a.drain()
    world.run(5.0)
    assert world.a.ice.drops["candidate_component"] == 1
    assert requests_to(world.a, address(66)) == 0
    assert {candidate.component for candidate, _ in world.a.candidates} == {1}


def test_trk_05_a_local_candidate_is_told_before_a_check_leaves_from_it() -> None:
    world = silent()
    order: list[str] = []

    def act(action: object) -> None:
        if isinstance(action, Transmit) and action.path.local == address(11):
            order.append("check")

    def hear(event: object) -> None:
        if isinstance(event, LocalCandidateGathered):
            order.append("told")

    world.a.ice.base_added(Base(address(11), "eth0"), now=world.now)
    drain(world.a.ice, act, hear)
    for _ in range(10):
        at = world.a.ice.next_timeout()
        assert at is not None
        world.now = max(world.now, at)
        world.a.ice.handle_timeout(now=world.now)
        drain(world.a.ice, act, hear)
    assert order[0] == "told"
    assert "check" in order


def test_pac_01_patience_begins_with_the_parameters_of_both_sides_without_any_candidate() -> None:
    world = World()
    world.a.add_base(address(1))
    world.a.end()
    world.run(100.0)  # before the peer's parameters nothing runs
    parameters = RemoteParameters(credentials=world.b.ice.local_credentials, trickle=False, pacing=0.02)
    world.a.ice.set_remote_description(parameters, now=world.now)
    world.a.drain()
    world.run(39.4)
    assert world.a.state == "checking"
    world.run(0.2)
    assert world.a.state == "failed"


@pytest.mark.parametrize("seconds", [1.0, 30.0, 39.0])
def test_pac_01_a_peer_whose_candidates_nobody_told_connects_by_its_own_checks(seconds: float) -> None:
    world = World()
    world.gather()
    world.b.candidates.clear()
    world.b.describe_to(world.a)
    blocked = True
    world.filter = lambda agent, _sent: agent is world.a or not blocked
    world.run(seconds)
    assert world.a.state == "checking"
    blocked = False
    world.a.describe_to(world.b)
    world.run(1.0)
    assert world.states == ("completed", "completed")
    (nominated,) = (pair for pair in world.a.ice._slots.current.checklist if pair.nominated)
    assert (nominated.path, nominated.remote.type.value) == (Path(address(1), address(2)), "prflx")


def test_pac_02_when_patience_ends_the_ordinary_rules_decide() -> None:
    world = World(config=IceConfig(check_transmissions=1))
    world.gather()
    world.filter = lambda _agent, _sent: False
    world.exchange()
    world.run(10.0)
    # The only pair has failed long ago (RFC 8445 §6.1.3), and that is not said yet.
    assert [pair.state for pair in world.a.ice._slots.current.checklist] == [PairState.FAILED]
    assert world.a.state == "checking"
    world.run(29.4)
    assert world.a.state == "checking"
    world.run(0.2)
    assert world.states == ("failed", "failed")
