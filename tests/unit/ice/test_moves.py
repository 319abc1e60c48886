"""The interface that carries data goes, and another one carries on, without signaling."""

from __future__ import annotations

import itertools

import pytest

from edgeice import stun
from edgeice.addresses import Path
from edgeice.ice import PairNominated, RestartSucceeded
from edgeice.sansio import Transmit
from tests.support.ice_pair import Agent
from tests.support.ice_roaming import Roaming, at, moves, nominating


def valid(agent: Agent) -> set[Path]:
    return {pair.path for pair in agent.ice._slots.current.checklist if pair.is_valid}


def silent(world: Roaming) -> Roaming:
    """From now on nothing but the first description was ever signaled."""
    world.a.signals = world.b.signals = False
    return world


def test_a_pair_of_each_combination_stays_valid_for_ever() -> None:
    world = Roaming((2, 3), (1, 2))
    paths = {Path(at(1, here), at(2, there)) for here in (2, 3) for there in (1, 2)}
    assert valid(world.a) == paths
    assert valid(world.b) == {Path(path.remote, path.local) for path in paths}
    world.run(300.0)
    assert valid(world.a) == paths
    assert world.agree_on(2, 1)


@pytest.mark.parametrize("delay", [0.010, 0.3])
def test_the_controlling_side_moves_in_the_same_call_and_the_other_follows_at_once(delay: float) -> None:
    world = silent(Roaming((2, 3), (1,), delay=delay))
    began = world.now
    world.pull(1, 2)
    assert world.a.ice.send_path == Path(at(1, 3), at(2, 1))
    assert [(path, flag) for path, _, flag in nominating(world.a)] == [(Path(at(1, 3), at(2, 1)), True)]
    assert moves(world.a) == [(at(1, 3), at(2, 1), "base_gone")]
    world.run(10.0, lambda: world.b.ice.send_path == Path(at(2, 1), at(1, 3)))
    assert world.now - began == pytest.approx(delay)
    assert moves(world.b) == [(at(2, 1), at(1, 3), "peer_moved")]
    world.run(10.0, lambda: world.a.state == "completed")
    assert world.now - began == pytest.approx(2 * delay)
    assert moves(world.a)[1:] == [(at(1, 3), at(2, 1), "nominated")]
    assert world.agree_on(3, 1)
    world.run(60.0)
    assert world.agree_on(3, 1)


@pytest.mark.parametrize("delay", [0.010, 0.3])
def test_the_controlled_side_moves_in_the_same_call_and_the_controlling_one_follows_and_nominates(delay: float) -> None:
    world = silent(Roaming((1,), (2, 3), delay=delay))
    began = world.now
    world.pull(2, 2)
    assert world.b.ice.send_path == Path(at(2, 3), at(1, 1))
    assert nominating(world.b) == [(Path(at(2, 3), at(1, 1)), 1, False)]
    world.run(10.0, lambda: world.a.ice.send_path == Path(at(1, 1), at(2, 3)))
    assert world.now - began == pytest.approx(delay)
    assert moves(world.a) == [(at(1, 1), at(2, 3), "peer_moved")]
    assert [(path, flag) for path, _, flag in nominating(world.a)] == [(Path(at(1, 1), at(2, 3)), True)]
    world.run(10.0, lambda: world.b.state == "completed")
    assert world.now - began == pytest.approx(2 * delay)
    assert moves(world.b) == [(at(2, 3), at(1, 1), "base_gone"), (at(2, 3), at(1, 1), "nominated")]
    world.run(60.0)
    assert world.agree_on(1, 3)
    assert len(world.a.of(PairNominated)) == len(world.b.of(PairNominated)) == 1


def received_on(agent: Agent, path: Path) -> int:
    return next(pair.requests_received for pair in agent.ice._slots.current.checklist if pair.path == path)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("delay", [0.010, 0.1, 0.3])
def test_cold_a_new_address_carries_data_after_one_round_trip_and_brings_the_other_end_after_one_and_a_half(
    number: int, delay: float
) -> None:
    """Nothing is valid besides: a single interface gets another address, and nothing is signaled."""
    world = silent(Roaming((2,), (2,), delay=delay))
    mover, other = world.agent(number), world.agent(3 - number)
    theirs = at(3 - number, 2)
    world.pull(number, 2)
    assert mover.ice.send_path is None
    assert mover.state == "disconnected"
    world.plug(number, 2, 4100)
    began = world.now
    world.run(20.0, lambda: mover.ice.send_path == Path(at(number, 2, 4100), theirs))
    assert world.now - began == pytest.approx(2 * delay)
    world.run(20.0, lambda: other.ice.send_path == Path(theirs, at(number, 2, 4100)))
    assert world.now - began == pytest.approx(3 * delay)
    world.run(20.0, lambda: world.states == ("completed", "completed"))
    # The controlling end nominates as soon as it knows that the pair works: the mover after one round trip, its peer
    # after one and a half; an answer takes one more.
    assert world.now - began == pytest.approx((4 if number == 1 else 5) * delay)
    assert world.ends == (Path(at(1, 2, 4100 if number == 1 else 4000), at(2, 2, 4100 if number == 2 else 4000)),) * 2
    assert moves(mover)[0][2] == "base_gone"
    assert moves(other)[0][2] == "peer_moved"
    world.run(120.0)
    assert world.states == ("completed", "completed")


@pytest.mark.parametrize("number", [1, 2])
def test_cold_what_did_not_work_before_is_checked_again_at_once(number: int) -> None:
    world = Roaming((2, 3), (2, 3), connected=False)
    world.broken = {(number, 3)}
    world.run(120.0)
    assert world.agree_on(2, 2)
    world.forget()
    silent(world)
    world.broken = set()
    mover, other = world.agent(number), world.agent(3 - number)
    began = world.now
    world.pull(number, 2)
    assert mover.ice.send_path is None
    world.run(20.0, lambda: mover.ice.send_path is not None)
    assert world.now - began == pytest.approx(2 * world.delay)
    world.run(20.0, lambda: other.ice.send_path is not None and other.ice.send_path.remote == at(number, 3))
    assert world.now - began == pytest.approx(3 * world.delay)
    world.run(20.0, lambda: world.states == ("completed", "completed"))
    world.run(10.0)
    assert world.ends[0] == world.ends[1]


@pytest.mark.parametrize("lost", [True, False])
def test_a_restart_without_a_path_nominates_the_first_that_works_and_something_better_later(*, lost: bool) -> None:
    world = Roaming((2,), (1,))
    mover = world.a
    if lost:
        world.broken = {(1, 2), (1, 3)}
        world.pull(1, 2)
        world.plug(1, 2)
    world.plug(1, 3)
    world.broken = {(1, 2)} if lost else set()
    began = world.now
    world.restart()
    world.run(20.0, lambda: bool(mover.of(RestartSucceeded)))
    waited = world.now - began
    assert mover.ice.send_path is not None
    if lost:
        # Two round trips, and Ta before the second check and before the third.
        assert waited == pytest.approx(4 * world.delay + 2 * 0.020)
        assert mover.ice.send_path.local == at(1, 3)
        world.broken = set()
    else:
        assert mover.ice.send_path.local == at(1, 2)
    world.run(120.0)
    assert world.agree_on(2, 1)


def is_request(sent: Transmit) -> bool:
    return stun.decode(sent.data).message_class is stun.MessageClass.REQUEST


def asked(agent: Agent, path: Path) -> list[float]:
    """When an agent sent requests on a path."""
    return [
        when for sent, when in zip(agent.sent, agent.sent_at, strict=True) if sent.path == path and is_request(sent)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_consent_is_asked_for_as_often_as_elsewhere_once_a_metered_pair_carries_data(seed: int) -> None:
    world = Roaming((2, 3), (1,), seed=seed)
    world.run(13.0 + seed)
    world.forget()
    world.pull(1, 2)
    world.run(60.0)
    times = asked(world.a, Path(at(1, 3), at(2, 1)))
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) <= 6.0 + 0.01


def test_the_answer_to_a_nomination_that_another_replaced_moves_nothing() -> None:
    """A nominates a better link, and before the answer comes it follows B elsewhere."""
    world = Roaming((3,), (1, 2), delay=0.1)
    world.plug(1, 2)
    current = world.a.ice._slots.current
    world.run(10.0, lambda: current._selection.nomination.pair is not None)
    assert [path for path, *_ in nominating(world.a)] == [Path(at(1, 2), at(2, 1))]
    world.forget()
    theirs = world.b.ice._slots.current
    there = theirs.checklist.get(at(2, 2), at(1, 3))
    assert there is not None
    theirs._moves.move(there, "silent", now=world.now)
    world.b.drain()
    world.run(1.0)
    assert moves(world.a) == [
        (at(1, 3), at(2, 2), "peer_moved"),
        (at(1, 3), at(2, 2), "nominated"),
        (at(1, 2), at(2, 1), "better"),  # again, in its turn
    ]
    assert world.agree_on(2, 1)


def test_a_move_whose_check_is_never_answered_lasts_as_long_as_consent_does() -> None:
    """All transmissions of the one check are lost, those of consent are not: they say the same."""
    world = Roaming((2,), (2, 3))
    passes, table = world.filter, world.b.ice._slots.current._checks
    world.filter = lambda agent, sent: (
        passes(agent, sent) and not (agent is world.b and table.get(stun.decode(sent.data).transaction_id))
    )
    world.pull(2, 2)
    world.run(14.5)
    assert world.agree_on(2, 3)
    world.run(60.0)
    assert world.agree_on(2, 3)
    assert [path for path, *_ in moves(world.b)] == [at(2, 3), at(2, 3)]


def test_who_becomes_the_controlling_side_after_a_move_nominates_the_pair() -> None:
    world = Roaming((2,), (2, 3), delay=0.1)
    passes = world.filter
    world.filter = lambda agent, sent: passes(agent, sent) and not (agent is world.a and is_request(sent))
    world.pull(2, 2)
    world.run(0.25)
    assert world.states == ("connected", "connected")  # B moved and A followed; its nomination is lost
    for agent in (world.a, world.b):
        agent.ice._take_role(agent.ice.role.opposite)
        agent.drain()
    world.filter = passes
    world.run(5.0)
    assert world.agree_on(2, 3)


@pytest.mark.parametrize("number", [1, 2])
def test_a_pair_that_works_since_a_moment_ago_is_kept_for_the_peer_to_move_to(number: int) -> None:
    """What tells the move is lost once, and meanwhile the time comes to release pairs that came before."""
    world = silent(Roaming((2,), (2,), delay=0.1))
    mover, other = world.agent(number), world.agent(3 - number)
    passes = world.filter
    lost: list[Transmit] = []

    def loses_the_first(agent: Agent, sent: Transmit) -> bool:
        if agent is mover and not lost and nominating(mover):
            lost.append(sent)
            return False
        return passes(agent, sent)

    world.filter = loses_the_first
    world.pull(number, 2)
    world.plug(number, 2, 4100)
    began = world.now
    other.ice._slots.current._selection.settle_at = began + 0.35
    world.run(5.0, lambda: other.sends_to() == at(number, 2, 4100))
    assert len(lost) == 1
    # The answer to the mover's check after 0.2 s, the next transmission 0.5 s later, and half a round trip.
    assert world.now - began == pytest.approx(0.8)
