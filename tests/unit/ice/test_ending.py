"""What a session sends and takes once a pair is nominated, and when it has failed (RFC 8445 §6.1.3, §8.1, §11, §12)."""

from __future__ import annotations

import itertools

import pytest

from edgeice import stun
from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice import IceConfig, IceFailed, PairNominated, PairState, RemoteParameters, RestartFailed, SendPathChanged
from edgeice.sansio import Transmit
from tests.support.ice_pair import Agent, World, address

SELECTED = Path(address(1), address(2))
OTHER = Path(address(11), address(2))


def kind_of(sent: Transmit) -> stun.MessageClass:
    return stun.decode(sent.data).message_class


def requests_on(agent: Agent, path: Path) -> int:
    """Requests that an agent sent on a path, repetitions included."""
    return sum(sent.path == path and kind_of(sent) is stun.MessageClass.REQUEST for sent in agent.sent)


def check_of_b(world: World, number: int = 1, *, nominate: bool = False) -> bytes:
    local, remote = world.b.ice.local_credentials, world.a.ice.local_credentials
    attributes: list[tuple[int, object]] = [
        (stun.Attribute.USERNAME, f"{remote.ufrag}:{local.ufrag}"),
        (stun.Attribute.PRIORITY, 1862270975),
        (stun.Attribute.ICE_CONTROLLED, 1),
    ]
    if nominate:
        attributes.append((stun.Attribute.USE_CANDIDATE, True))
    return stun.encode(stun.Method.BINDING, stun.MessageClass.REQUEST, number.to_bytes(12), attributes, key=remote.key)


def two_ways(*, nominates: bool = True, renominates: bool = False) -> World:
    """A has two addresses; both pairs are valid, and the first is nominated unless that is held back."""
    world = World(delay=0.05)
    world.a.renominates = world.b.renominates = renominates
    for host, agent in ((1, world.a), (11, world.a), (2, world.b)):
        agent.add_base(address(host))
    world.a.end()
    world.b.end()
    if not nominates:
        world.filter = lambda _agent, sent: stun.decode(sent.data).get(stun.Attribute.USE_CANDIDATE) is None
    world.exchange()
    world.run(0.5)
    return world


def test_ice_52_a_check_after_nomination_is_answered_and_triggers_none() -> None:
    world = two_ways()
    world.run(5.0)  # unselected pairs are released
    world.a.sent.clear()
    for path in (OTHER, Path(address(1), address(77))):
        world.a.ice.receive_stun(check_of_b(world, path.remote.port + len(world.a.sent)), path, now=world.now)
        world.a.drain()
    assert [(sent.path, kind_of(sent)) for sent in world.a.sent] == [
        (OTHER, stun.MessageClass.SUCCESS),
        (Path(address(1), address(77)), stun.MessageClass.SUCCESS),
    ]
    world.run(20.0)
    assert requests_on(world.a, OTHER) == 0
    assert requests_on(world.a, Path(address(1), address(77))) == 0


def test_ice_52_checks_that_wait_in_the_queue_are_not_sent_any_more() -> None:
    world = World(delay=0.004)
    others = [Path(address(host), address(2)) for host in range(11, 15)]
    for host in (1, 11, 12, 13, 14):
        world.a.add_base(address(host))
    world.b.add_base(address(2))
    world.filter = lambda _agent, sent: SELECTED.local in (sent.path.local, sent.path.remote)
    world.exchange()
    world.run(5.0, lambda: any(stun.decode(sent.data).get(stun.Attribute.USE_CANDIDATE) for sent in world.a.sent))
    # Checks of the peer come while the nominating one is under way: each triggers one, 20 ms apart.
    for number, path in enumerate(others):
        world.a.ice.receive_stun(check_of_b(world, number), path, now=world.now)
        world.a.drain()
    sent = [requests_on(world.a, path) for path in others]
    world.run(0.01)
    assert len(world.a.of(PairNominated)) == 1
    world.run(60.0)
    assert [requests_on(world.a, path) for path in others] == sent


@pytest.mark.parametrize("renominates", [False, True])
def test_ice_50_only_renomination_takes_another_valid_pair_when_the_selected_one_is_lost(*, renominates: bool) -> None:
    world = two_ways(renominates=renominates)
    world.run(1.0)
    world.a.remove_base(address(1))
    assert world.a.sends_to() is None
    world.run(2.0)
    # A plain peer sees no second nomination; a restart is due.
    assert len(world.a.of(PairNominated)) == len(world.b.of(PairNominated)) == 1 + renominates
    assert world.a.ice.send_path == (OTHER if renominates else None)
    assert world.b.sends_to() == address(11 if renominates else 1)


def failing() -> World:
    """Patience and candidates are over, and the only pair has failed."""
    world = World()
    world.a.add_base(address(1))
    world.a.end()
    world.b.add_base(address(2))
    world.b.end()
    world.filter = lambda _agent, _sent: False
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    return world


def test_ice_54_pairs_in_progress_keep_a_list_from_failing() -> None:
    world = failing()
    world.run(20.0)
    # A check of the peer makes a second pair, whose check goes on beyond patience.
    world.a.ice.receive_stun(check_of_b(world), Path(address(1), address(66)), now=world.now)
    world.a.drain()
    world.run(19.4)
    assert world.a.state == "checking"
    world.run(5.0)
    states = {pair.path.remote: pair.state for pair in world.a.ice._slots.current.checklist}
    assert states == {address(2): PairState.FAILED, address(66): PairState.IN_PROGRESS}
    assert world.a.state == "checking"
    world.run(14.9)
    assert world.a.state == "checking"
    world.run(0.3)
    assert world.a.state == "failed"


@pytest.mark.parametrize("restarts", [False, True])
def test_ice_54_a_valid_pair_keeps_a_list_from_failing_although_nothing_is_nominated(*, restarts: bool) -> None:
    """A waits for candidates and for ever; B has heard of all that there are."""
    world = World(config=IceConfig(relay_nomination_wait=1e9))
    relay, server = address(21), TransportAddress("203.0.113.1", 3478)
    world.b.add_base(address(2))
    world.a.add_base(address(1))
    if restarts:
        world.exchange()
        world.run(1.0)
        assert world.states == ("completed", "completed")
        for agent in (world.a, world.b):
            agent.ice.restart(now=world.now)
    world.b.ice.end_of_local_candidates(now=world.now)
    world.b.drain()
    world.hosts[relay] = world.a
    new = {agent.ice.local_credentials.ufrag for agent in (world.a, world.b)}

    def old_or_relayed(_agent: Agent, sent: Transmit) -> bool:
        username = stun.decode(sent.data).get(stun.Attribute.USERNAME) or ""
        return relay in (sent.path.local, sent.path.remote) or username.partition(":")[0] not in new

    world.filter = old_or_relayed
    world.a.ice.base_added(Base(relay, "", server=server, mapped=relay), now=world.now)
    world.a.drain()
    ufrag = world.a.ice.local_credentials.ufrag
    world.a.candidates[:] = [each for each in world.a.candidates if each[0].address == relay and each[1] == ufrag]
    world.b.events.clear()  # A does not hear of the end
    world.exchange()
    world.b.ice.end_of_remote_candidates(ufrag=ufrag, now=world.now)
    world.b.drain()
    world.run(100.0)
    assert PairState.SUCCEEDED in {pair.state for pair in world.b.ice._slots.newest.checklist}
    assert world.states == (("completed", "completed") if restarts else ("connected", "connected"))
    for agent in (world.a, world.b):
        assert agent.of(IceFailed) == []
        assert agent.of(RestartFailed) == []
        assert len(agent.of(PairNominated)) <= restarts


def test_ice_55_data_goes_by_the_best_valid_pair_before_nomination_and_only_by_the_selected_one_after() -> None:
    world = two_ways(nominates=False)
    assert world.states == ("connected", "connected")
    before = [event.path for event in world.a.of(SendPathChanged) if isinstance(event, SendPathChanged)]
    assert before[0] in (SELECTED, OTHER)  # whichever was valid first
    assert world.a.ice.send_path == SELECTED
    world.filter = lambda _agent, _sent: True
    world.run(2.0)
    assert world.states == ("completed", "completed")
    told = world.a.of(SendPathChanged)[-1]
    assert isinstance(told, SendPathChanged)
    assert (told.path, told.nominated) == (SELECTED, True)
    # The other pair is still valid, and carries nothing when the selected one is lost.
    assert [pair.path for pair in world.a.ice._slots.current.checklist if pair.is_valid] == [SELECTED, OTHER]
    world.a.remove_base(address(1))
    assert world.a.sends_to() is None


def test_ice_56_the_peer_may_send_on_any_candidate_of_the_latest_exchange() -> None:
    world = two_ways()
    world.run(10.0)
    here = [SELECTED, OTHER]
    assert [world.a.ice.accepts(path) for path in here] == [True, True]
    assert [world.b.ice.accepts(Path(path.remote, path.local)) for path in here] == [True, True]
    # Not so from where nobody proved to be the peer.
    assert not world.a.ice.accepts(Path(address(1), address(66)))
    # A restart's exchange adds to that; the former one counts until it is retired.
    third = Path(address(12), address(2))
    world.a.add_base(address(12))
    world.restart()
    world.run(1.0)
    assert [world.a.ice.accepts(path) for path in (*here, third)] == [True, True, True]


def test_ice_57_dec_10_something_is_sent_on_the_selected_path_within_fifteen_seconds() -> None:
    """Consent does it, to lite peers too, so no keepalive indication is ever needed."""
    for lite in (False, True):
        world = World()
        world.gather()
        parameters = RemoteParameters(credentials=world.b.ice.local_credentials, lite=lite, pacing=0.02)
        world.a.ice.set_remote_description(parameters, now=world.now)
        world.a.describe_to(world.b)
        for candidate, ufrag in world.b.candidates:
            world.a.ice.add_remote_candidate(candidate, ufrag=ufrag, now=world.now)
        world.a.drain()
        world.run(3600.0)
        assert world.a.state == "completed"
        times = [
            at
            for at, sent in zip(world.a.sent_at, world.a.sent, strict=True)
            if kind_of(sent) is stun.MessageClass.REQUEST
        ]
        assert max(later - earlier for earlier, later in itertools.pairwise(times)) <= 6.0
        assert stun.MessageClass.INDICATION not in {kind_of(sent) for sent in world.a.sent}


@pytest.mark.parametrize("fingerprint", [True, False])
def test_ice_57_a_keepalive_of_the_peer_is_taken_without_a_word(*, fingerprint: bool) -> None:
    world = World()
    world.connect()
    world.a.sent.clear()
    events = len(world.a.events)
    indication = stun.encode(stun.Method.BINDING, stun.MessageClass.INDICATION, b"k" * 12, [], fingerprint=fingerprint)
    for path in (SELECTED, Path(address(1), address(66))):
        world.a.ice.receive_stun(indication, path, now=world.now)
        world.a.drain()
    assert world.a.sent == []
    assert len(world.a.events) == events
    assert world.a.ice.drops.total == 0
    assert not world.a.ice.accepts(Path(address(1), address(66)))
