"""Several sessions of one host share its budget of new transactions (RFC 8445 §14.2)."""

from __future__ import annotations

import itertools

import pytest

from edgeice import stun
from edgeice.addresses import Path
from edgeice.ice import Pacer
from edgeice.ice.pacer import Turn
from tests.support.ice_pair import Agent, World, address, run_together

SLOT = 0.005


def began_at(*agents: Agent) -> list[float]:
    """When the agents began transactions; repetitions are no new ones."""
    began: dict[tuple[Agent, bytes], float] = {}
    for agent in agents:
        for sent, at in zip(agent.sent, agent.sent_at, strict=True):
            message = stun.decode(sent.data)
            if message.message_class is stun.MessageClass.REQUEST:
                began.setdefault((agent, message.transaction_id), at)
    return sorted(began.values())


def slots(times: list[float], start: float) -> list[float]:
    return [round((at - start) / SLOT, 6) for at in times]


def host(sessions: int) -> list[World]:
    pacer = Pacer()
    worlds = [World(pacer=pacer, seed=10 * number) for number in range(sessions)]
    for world in worlds:
        world.gather()
    return worlds


def test_ice_22_thirty_sessions_begin_exactly_one_transaction_in_each_slot() -> None:
    worlds = host(30)
    start = worlds[0].now
    for world in worlds:
        world.exchange()
    run_together(worlds, 1.0)
    assert {world.states for world in worlds} == {("completed", "completed")}
    # Each has a check and a nominating one, and the first round is through before anybody has its second.
    assert slots(began_at(*(world.a for world in worlds)), start) == list(range(60))
    firsts = [began_at(world.a)[0] for world in worlds]
    assert max(firsts) < min(began_at(world.a)[1] for world in worlds)


def test_ice_22_consent_waits_for_its_turn_and_nobody_is_left_out() -> None:
    worlds = host(40)
    for world in worlds:
        world.exchange()
    run_together(worlds, 60.0)
    assert {world.states for world in worlds} == {("completed", "completed")}
    times = began_at(*(world.a for world in worlds))
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    # At 8 a second by 40 sessions some are due together: those wait, and the others go when they are due.
    assert min(gaps) == pytest.approx(SLOT)
    for world in worlds:
        own = began_at(world.a)[2:]
        assert 10 <= len(own) <= 15
        assert max(later - earlier for earlier, later in itertools.pairwise(own)) < 6.0 + 40 * SLOT


def check_of(world: World, number: int) -> bytes:
    """A check of B's newest generation."""
    local, remote = world.b.ice.local_credentials, world.a.ice.local_credentials
    return stun.encode(
        stun.Method.BINDING,
        stun.MessageClass.REQUEST,
        number.to_bytes(12),
        [
            (stun.Attribute.USERNAME, f"{remote.ufrag}:{local.ufrag}"),
            (stun.Attribute.PRIORITY, 1),
            (stun.Attribute.ICE_CONTROLLED, 1),
        ],
        key=remote.key,
    )


def test_con_05_a_restart_with_more_checks_than_turns_does_not_starve_consent() -> None:
    world = World()
    world.connect()
    old = world.b.ice.local_credentials.ufrag
    world.filter = lambda _agent, _sent: False
    world.restart()
    new = world.b.ice.local_credentials.ufrag

    def only_old(_agent: Agent, sent: object) -> bool:
        data = sent.data  # type: ignore[attr-defined]
        username = stun.decode(data).get(stun.Attribute.USERNAME)
        return not isinstance(username, str) or not username.startswith(new)

    world.filter = only_old
    world.a.sent.clear()
    world.a.sent_at.clear()
    for number in range(1200):
        # Each check of the peer triggers one here, and none is ever answered.
        world.a.ice.receive_stun(check_of(world, number), Path(address(1), address(2)), now=world.now)
        world.a.drain()
        world.run(0.01)
    names = [stun.decode(sent.data).get(stun.Attribute.USERNAME) for sent in world.a.sent]
    assert sum(isinstance(name, str) and name.startswith(new) for name in names) > 500
    assert sum(isinstance(name, str) and name.startswith(old) for name in names) in {2, 3}  # 12 s, 4 to 6 s apart


def test_ice_22_a_host_that_wakes_late_serves_its_sessions_in_turn() -> None:
    pacer = Pacer()
    turns = [Turn(pacer, 0.02) for _ in range(10)]
    served = []
    for wake in range(100):
        # All want more than there is: whoever is asked first has no advantage.
        served += [number for number, turn in enumerate(turns) if turn.take(wake * 0.05)]
    assert served == [number % 10 for number in range(100)]


def test_ice_22_who_wakes_late_keeps_its_place_and_the_distance_to_the_last() -> None:
    pacer = Pacer()
    first, second, third = (Turn(pacer, 0.02) for _ in range(3))
    assert [turn.take(0.0) for turn in (first, second, third)] == [True, False, False]
    assert [turn.opens_at for turn in (second, third)] == [0.005, 0.01]
    # Both wake late and in the wrong order.
    assert [turn.take(0.011) for turn in (third, second)] == [False, True]
    assert third.opens_at == pytest.approx(0.016)
    assert not third.take(0.0159)
    assert third.take(0.016)


def test_ice_22_a_turn_that_is_released_or_given_up_holds_nobody_up() -> None:
    pacer = Pacer()
    first, released, lost, last = (Turn(pacer, 0.02) for _ in range(4))
    assert [turn.take(0.0) for turn in (first, released, lost, last)] == [True, False, False, False]
    released.release(0.005)
    assert not last.take(0.015)
    assert not last.take(1.004)  # `lost` may just be late
    assert last.take(1.01)
    assert lost.take(1.02)  # it was


def test_a_session_that_has_nothing_to_send_any_more_gives_its_turn_up() -> None:
    busy, other = host(2)
    for world in (busy, other):
        world.exchange()
    assert [len(began_at(world.a)) for world in (busy, other)] == [1, 0]
    other.a.ice.close(now=other.now)
    third = World(pacer=busy.a.ice._requests._turn._pacer)
    third.gather()
    third.exchange()
    run_together([busy, third], 0.1)
    assert busy.states == third.states == ("completed", "completed")
