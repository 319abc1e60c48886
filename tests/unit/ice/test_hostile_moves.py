"""Moves that are forged, replayed, old, too many, or two at once."""

from __future__ import annotations

import random

import attrs
import pytest

from edgeice import stun
from edgeice.addresses import Path, TransportAddress
from edgeice.ice import Candidate, CandidateType, IceConfig, RemoteParameters
from edgeice.ice.incoming import HIGHEST_NOMINATION
from edgeice.sansio import Transmit
from tests.support.ice_pair import Agent, address
from tests.support.ice_roaming import Roaming, at, moves, nominating


def told(agent: Agent) -> list[Transmit]:
    """The requests of an agent that told a nomination or a move."""
    return [
        sent
        for sent in agent.sent
        if (message := stun.decode(sent.data)).get(stun.Attribute.NOMINATION)
        and message.message_class is stun.MessageClass.REQUEST
    ]


def replay(world: Roaming, receiver: Agent, sent: Transmit, source: TransportAddress | None = None) -> None:
    receiver.ice.receive_stun(sent.data, Path(sent.path.remote, source or sent.path.local), now=world.now)
    receiver.drain()


@pytest.mark.parametrize("number", [1, 2])
def test_host_07_a_replayed_move_moves_nothing(number: int) -> None:
    """There and back: what told the first move is sent again after the second, from where it came."""
    world = Roaming((2, 3), (2, 3))
    mover, other = world.agent(number), world.agent(3 - number)
    assert mover.ice.leave(cause="silent", now=world.now)
    mover.drain()
    world.run(1.0)
    first = told(mover)[0]
    assert world.states == ("completed", "completed")
    there = world.ends
    assert mover.ice.leave(cause="silent", now=world.now)
    mover.drain()
    world.run(1.0)
    back = world.ends
    assert there != back
    assert back[0] == back[1]
    world.forget()
    for _ in range(5):
        replay(world, other, first)
    world.run(1.0)
    assert world.ends == back
    assert moves(other) == []


@pytest.mark.parametrize("number", [1, 2])
def test_host_07_a_move_from_elsewhere_is_not_followed_without_an_own_check(number: int) -> None:
    """Somebody sees the check that tells the move, holds it back, and sends it from an address of his own."""
    world = Roaming((2, 3), (2,)) if number == 1 else Roaming((2,), (2, 3))
    world.a.signals = world.b.signals = False
    mover, other = world.agent(number), world.agent(3 - number)
    kept = world.filter
    before = other.ice.send_path
    world.filter = lambda agent, sent: agent is not mover and kept(agent, sent)
    world.pull(number, 2)
    (check,) = told(mover)
    victim = address(99)
    for _ in range(3):
        replay(world, other, check, victim)
    world.run(5.0)
    assert other.ice.send_path == before
    assert moves(other) == []
    asked = [sent for sent in other.sent if sent.path.remote == victim and stun.decode(sent.data).message_class == 0]
    assert 1 <= len(asked) <= 7
    world.filter = kept
    replay(world, other, check)
    assert other.ice.send_path is not None
    assert other.ice.send_path.remote == at(number, 3)


@pytest.mark.parametrize("number", [1, 2])
def test_numbers_end_at_24_bits_and_data_moves_all_the_same(number: int) -> None:
    world = Roaming((2, 3), (2, 3))
    mover = world.agent(number)
    selection = mover.ice._slots.current._selection
    if number == 1:
        selection.nomination.latest = HIGHEST_NOMINATION - 1
    else:
        selection._moves = HIGHEST_NOMINATION - 1
    assert mover.ice.leave(cause="silent", now=world.now)
    mover.drain()
    assert nominating(mover)[0][1:] == (HIGHEST_NOMINATION, number == 1)
    world.run(0.1)
    assert world.ends[0] == world.ends[1]
    world.forget()
    before = mover.ice.send_path
    assert mover.ice.leave(cause="silent", now=world.now)
    mover.drain()
    assert before != mover.ice.send_path is not None
    world.run(30.0)
    numbers = [number for _, number, _ in nominating(world.a) + nominating(world.b)]
    assert all(number <= HIGHEST_NOMINATION for number in numbers)


@pytest.mark.parametrize("value", [HIGHEST_NOMINATION + 1, 2**32 - 1])
def test_numbers_beyond_24_bits_count_as_the_highest(value: int) -> None:
    world = Roaming((2, 3), (2,))
    path = Path(at(2, 2), at(1, 3))
    ours, theirs = world.b.ice.local_credentials, world.a.ice.local_credentials
    request = stun.encode(
        stun.Method.BINDING,
        stun.MessageClass.REQUEST,
        b"n" * 12,
        [
            (stun.Attribute.USERNAME, f"{ours.ufrag}:{theirs.ufrag}"),
            (stun.Attribute.ICE_CONTROLLING, world.a.ice._shared.tie_breaker),
            (stun.Attribute.PRIORITY, 1),
            (stun.Attribute.USE_CANDIDATE, True),
            (stun.Attribute.NOMINATION, value),
        ],
        key=ours.key,
    )
    world.b.ice.receive_stun(request, path, now=world.now)
    world.b.drain()
    assert world.b.ice.send_path == path
    assert world.b.ice._slots.current._selection.number == HIGHEST_NOMINATION


def test_trk_04_host_16_what_is_withdrawn_of_another_generation_or_never_was_takes_nothing() -> None:
    world = Roaming((2, 3), (2,))
    known, _ = world.a.candidates[0]
    old = world.a.ice.local_credentials.ufrag
    world.restart()
    world.run(10.0)
    world.forget()
    drops = world.b.ice.drops
    before = drops["candidate_generation"]
    never = attrs.evolve(known, address=address(77))
    learned = Candidate("x", 1, at(1, 3), CandidateType.HOST)
    for candidate, ufrag in ((known, old), (known, "unknown"), (never, world.a.ice.local_credentials.ufrag)):
        world.b.ice.remove_remote_candidates((candidate,), ufrag=ufrag, now=world.now)
    world.b.drain()
    assert (drops["candidate_generation"] - before, drops["candidate_unknown"]) == (2, 1)
    assert moves(world.b) == []
    world.b.ice.remove_remote_candidates((learned,), ufrag=world.a.ice.local_credentials.ufrag, now=world.now)
    assert at(1, 3) not in {pair.path.remote for pair in world.b.ice._slots.current.checklist}
    assert world.agree_on(2, 2)


@pytest.mark.slow
def test_host_12_a_flood_of_candidates_that_come_and_go_is_bounded() -> None:
    """10,000 in 100 s: no more than 64 and 4 per second are ever checked, and what works goes on working."""
    world = Roaming((2,), (2,))
    ufrag = world.a.ice.local_credentials.ufrag
    for number in range(10_000):
        victim = TransportAddress(f"198.51.{number // 250}.{number % 250 + 1}", 5000)
        candidate = Candidate(f"f{number}", 2_000_000_000 + number, victim, CandidateType.HOST, network=number % 200)
        world.b.ice.add_remote_candidate(candidate, ufrag=ufrag, now=world.now)
        if number % 2:
            world.b.ice.remove_remote_candidates((candidate,), ufrag=ufrag, now=world.now)
        world.b.drain()
        world.run(0.01)
        assert len(world.b.ice._slots.current.checklist) <= 100
    victims = {sent.path.remote for sent in world.b.sent if sent.path.remote.ip.startswith("198.51.")}
    assert len(victims) <= 64 + 4 * 100
    assert world.b.ice.drops["candidate_rate"] >= 9_000
    assert world.b.ice.drops["event_queue_full"] == world.b.ice.drops["action_queue_full"] == 0
    assert world.agree_on(2, 2)


@pytest.mark.slow
def test_a_base_that_comes_and_goes_all_the_time_leaves_nothing_behind() -> None:
    world = Roaming((2,), (2,))
    for number in range(1000):
        world.plug(1, 3, 5000 + number)
        world.run(0.005)
        world.pull(1, 3, 5000 + number)
        world.run(0.005)
    world.run(60.0)
    for agent in (world.a, world.b):
        current = agent.ice._slots.current
        assert len(current.checklist) == 1
        assert len(current._checks) == 0
        assert len(list(current.locals)) == 1
    assert world.agree_on(2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_a_peer_that_changes_its_port_all_the_time_is_followed_without_any_signaling(number: int) -> None:
    """What was learned of the ports before makes room; nothing is left of them."""
    world = Roaming((2,), (2,))
    world.a.signals = world.b.signals = False
    mover, other = world.agent(number), world.agent(3 - number)
    port = 4000
    for _ in range(200):
        world.pull(number, 2, port)
        port += 1
        world.plug(number, 2, port)
        world.run(1.0, lambda port=port: other.sends_to() == at(number, 2, port))  # type: ignore[misc]
        assert other.sends_to() == at(number, 2, port)
        world.run(0.5)
    assert mover.ice.drops.snapshot() == other.ice.drops.snapshot() == {}
    current = other.ice._slots.current
    assert len(list(current.remotes)) <= 33
    world.run(60.0)
    assert world.states == ("completed", "completed")


def claim(world: Roaming, number: int) -> None:
    """The agent announces mobility, and goes by RFC 8445 alone."""
    selection = world.agent(number).ice._slots.current._selection
    selection.mobile = selection.renominates = False
    world.agent(number).ice._slots.current._pairing.mobile = False


@pytest.mark.parametrize("number", [1, 2])
def test_a_peer_that_only_claims_the_option_does_no_harm(number: int) -> None:
    world = Roaming((2, 3), (2, 3))
    mover, other = world.agent(number), world.agent(3 - number)
    claim(world, 3 - number)
    world.pull(number, 2)
    assert mover.ice.send_path is not None
    world.run(120.0)
    assert mover.ice.send_path is not None  # it answers, so it has given consent
    assert other.state in {"completed", "disconnected"}
    # What tells the move is repeated by consent, and no more often.
    assert len(told(mover)) <= 120 / 4 * 3


@pytest.mark.parametrize("seed", range(40))
def test_two_moves_at_once_converge_on_one_pair(seed: int) -> None:
    """Each end loses its interface within a round trip of the other, before or after it hears of the other's move."""
    dice = random.Random(seed)
    world = Roaming((2, 3), (2, 3), delay=dice.uniform(0.005, 0.2), seed=seed)
    world.a.signals = world.b.signals = False
    first = dice.choice((1, 2))
    began = world.now
    world.pull(first, 2)
    world.run(dice.uniform(0, 3) * world.delay)
    world.pull(3 - first, 2)
    world.run(10.0, lambda: world.agree_on(3, 3))
    # To the second loss, then until no answer came there, to the next pair and back, and on to what is nominated.
    assert world.now - began <= 3 * world.delay + (3 * world.delay + 0.07) + 5 * world.delay
    world.run(60.0)
    assert world.agree_on(3, 3)
    assert max(len(moves(world.a)), len(moves(world.b))) <= 8


@pytest.mark.parametrize("seed", range(40))
def test_both_leave_a_silent_path_at_once_and_converge(seed: int) -> None:
    dice = random.Random(seed)
    world = Roaming((2, 3), (2, 3), delay=dice.uniform(0.005, 0.2), seed=seed)
    first = world.agent(dice.choice((1, 2)))
    world.broken = {(1, 2)} if dice.random() < 0.5 else {(2, 2)}
    for agent in (first, first.peer):
        agent.ice.leave(cause="silent", now=world.now)
        agent.drain()
        world.run(dice.uniform(0, 2) * world.delay)
    world.run(40.0)
    assert world.ends[0] == world.ends[1]
    assert world.states == ("completed", "completed")


@pytest.mark.parametrize("seed", range(60))
def test_whatever_comes_and_goes_both_ends_agree_once_it_is_quiet(seed: int) -> None:
    dice = random.Random(seed)
    world = Roaming((2, 3), (1, 2), delay=dice.uniform(0.005, 0.15), seed=seed)
    world.signaling_delay = dice.uniform(0.0, 0.5)
    up = {1: {2: 4000, 3: 4000}, 2: {1: 4000, 2: 4000}}
    ports = iter(range(5000, 6000))
    for _ in range(dice.randrange(2, 30)):
        number, interface = dice.choice((1, 2)), dice.choice((1, 2, 3))
        if interface not in up[number]:
            up[number][interface] = next(ports)
            world.plug(number, interface, up[number][interface])
        elif len(up[number]) > 1:
            world.pull(number, interface, up[number].pop(interface))
        world.run(dice.choice((0.0, 0.01, 0.1, 1.0, 10.0)) * dice.random())
    world.run(80.0)
    assert world.states == ("completed", "completed")
    assert world.ends[0] == world.ends[1]
    path = world.ends[0]
    assert path is not None
    # Nothing cheaper is left unused.
    assert int(path.local.ip[-1]) == min(up[1])
    assert int(path.remote.ip[-1]) == min(up[2])


def test_the_option_needs_renomination() -> None:
    world = Roaming((2,), (2,), connected=False, config=IceConfig())
    remote = RemoteParameters(credentials=world.b.ice.local_credentials, mobility=True)
    world.a.ice.restart(now=world.now)
    world.a.ice.set_remote_description(
        attrs.evolve(remote, credentials=attrs.evolve(remote.credentials, ufrag="other", pwd="p" * 22)), now=world.now
    )
    assert not world.a.ice._slots.newest.is_mobile
