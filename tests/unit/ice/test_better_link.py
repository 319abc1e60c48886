"""Which link data goes by, where there are several that work: what is paid for by the byte comes last."""

from __future__ import annotations

import pytest

from edgeice import stun
from edgeice.addresses import Base, Path
from edgeice.ice import IceConfig, PairNominated, SendPathChanged
from edgeice.sansio import Transmit
from tests.support.ice_pair import Agent, World, address
from tests.support.ice_roaming import Roaming, at, moves


def nominations(agent: Agent) -> int:
    return len(agent.of(PairNominated))


@pytest.mark.parametrize("seed", range(4))
def test_an_unmetered_link_is_nominated_although_it_answers_later(seed: int) -> None:
    world = Roaming((3, 2), (1,), connected=False, seed=seed)
    passes, began = world.filter, world.now
    world.filter = lambda agent, sent: (
        passes(agent, sent) and (at(1, 2) not in (sent.path.local, sent.path.remote) or world.now >= began + 1.0)
    )
    world.run(0.5)
    assert world.ends[0] == Path(at(1, 3), at(2, 1))  # data does not wait
    assert world.states == ("connected", "connected")
    world.run(2.0)
    assert world.agree_on(2, 1)
    assert nominations(world.a) == nominations(world.b) == 1


def relay(agent: Agent, interface: str, cost: int) -> None:
    host = 20 if agent is agent.world.a else 21
    agent.world.hosts[address(host)] = agent
    base = Base(address(host), interface, server=address(30), mapped=address(31), cost=cost)
    agent.ice.base_added(base, now=agent.world.now)
    agent.drain()


@pytest.mark.parametrize("knows", ["mobility", "renomination", "neither"])
def test_a_relay_by_an_unmetered_link_beats_a_direct_pair_by_a_metered_one(knows: str) -> None:
    """But not opposite a plain peer, which goes by priorities."""
    world = World()
    # Of A's own addresses only the metered one reaches B directly.
    world.filter = lambda _agent, sent: at(1, 2) not in (sent.path.local, sent.path.remote)
    for agent in (world.a, world.b):
        agent.mobile, agent.renominates = knows == "mobility", knows == "renomination"
    world.a.add_base(at(1, 2), "wlan0", 10)
    world.a.add_base(at(1, 3), "wwan0", 900)
    relay(world.a, "wlan0", 10)
    world.b.add_base(at(2, 1), "eth0", 0)
    for agent in (world.a, world.b):
        agent.end()
    world.exchange()
    world.run(20.0)
    local = at(1, 3) if knows == "neither" else address(20)
    assert world.a.ice.send_path == Path(local, at(2, 1))
    assert world.b.ice.send_path == Path(at(2, 1), local)
    assert world.states == ("completed", "completed")


@pytest.mark.parametrize("number", [1, 2])
def test_data_moves_back_to_a_better_link_once_it_has_answered_for_three_seconds(number: int) -> None:
    world = Roaming((3,), (3,))
    world.plug(number, 2)
    began = world.now
    path = Path(at(1, 2), at(2, 3)) if number == 1 else Path(at(1, 3), at(2, 2))
    world.run(2.9, lambda: None in world.ends or path in world.ends)
    assert world.now == began + 2.9
    world.run(1.0, lambda: world.ends == (path, path))
    # One round trip until it was valid, three seconds, and one more to nominate it.
    assert world.now - began == pytest.approx(3.0 + 4 * world.delay, abs=2 * world.delay)
    assert moves(world.a)[-1][2] == "better"
    assert moves(world.b)[-1][2] == "peer_moved"
    assert world.ends[0] == world.ends[1]
    assert None not in [event.path for agent in (world.a, world.b) for event in agent.of(SendPathChanged)]  # type: ignore[attr-defined]
    world.run(60.0)
    assert nominations(world.a) == nominations(world.b) == 1


def test_the_pair_that_was_left_for_a_better_one_stays_as_its_backup() -> None:
    world = Roaming((3,), (1,))
    world.plug(1, 2)
    world.run(60.0)
    assert world.agree_on(2, 1)
    world.a.signals = world.b.signals = False
    world.pull(1, 2)
    assert world.a.ice.send_path == Path(at(1, 3), at(2, 1))
    world.run(10.0)
    assert world.agree_on(3, 1)


def test_a_better_link_that_does_not_last_is_not_taken() -> None:
    world = Roaming((3,), (1,))
    world.plug(1, 2)
    world.run(1.0)
    world.broken = {(1, 2)}
    world.run(60.0)
    assert world.agree_on(3, 1)
    assert nominations(world.a) == nominations(world.b) == 0


def test_the_wait_is_configured() -> None:
    world = Roaming((3,), (1,), config=IceConfig(better_link_wait=8.0))
    world.plug(1, 2)
    world.run(7.9)
    assert world.agree_on(3, 1)
    world.run(0.5)
    assert world.agree_on(2, 1)


def test_a_link_that_was_left_must_prove_itself_for_twice_as_long_each_time() -> None:
    world = Roaming((2, 3), (1,))
    waits = []
    for _ in range(4):
        assert world.a.ice.leave(cause="silent", now=world.now)
        world.a.drain()
        assert world.a.ice.send_path == Path(at(1, 3), at(2, 1))
        assert moves(world.a)[-1][2] == "silent"
        began = world.now
        world.run(200.0, lambda: world.a.ice.send_path == Path(at(1, 2), at(2, 1)))
        waits.append(world.now - began)
    # Up to 6 s until the next answer on it, then 6, 12, 24, 48 s.
    for wait, least in zip(waits, (6, 12, 24, 48), strict=True):
        assert least <= wait <= least + 6.1


def test_nothing_is_left_where_no_other_pair_is_valid() -> None:
    world = Roaming((2,), (1,))
    assert not world.a.ice.leave(cause="silent", now=world.now)
    assert world.agree_on(2, 1)
    world.run(60.0)
    assert moves(world.a) == []


def octets_per_minute(agent: Agent, minutes: int) -> dict[str, float]:
    """STUN bytes that an agent sends on each pair, UDP and IPv4 headers included."""
    found: dict[str, float] = {}
    for sent in agent.sent:
        name = f"{sent.path.local.ip[-1]}{sent.path.remote.ip[-1]}"
        found[name] = found.get(name, 0.0) + (len(sent.data) + 28) / minutes
    return found


def requests(agent: Agent, path: Path) -> int:
    return sum(sent.path == path and is_request(sent) for sent in agent.sent)


def is_request(sent: Transmit) -> bool:
    return stun.decode(sent.data).message_class is stun.MessageClass.REQUEST


@pytest.mark.slow
def test_what_backups_cost_at_rest() -> None:
    """An hour: consent every 5 s where bytes are free, every 12 s on a metered pair that only waits."""
    world = Roaming((2, 3), (1, 2))
    world.run(3600.0)
    counts = {(here, there): requests(world.a, Path(at(1, here), at(2, there))) for here in (2, 3) for there in (1, 2)}
    free, metered = [counts[2, 1], counts[2, 2]], [counts[3, 1], counts[3, 2]]
    for count in free:
        assert count == pytest.approx(3600 / 5, rel=0.03)
    for count in metered:
        assert count == pytest.approx(3600 / 12, rel=0.05)
    assert sum(counts.values()) == sum(is_request(sent) for sent in world.a.sent)
    spent = octets_per_minute(world.a, 60)
    # 12 requests of 148 bytes and 12 answers of 76, with the headers of IPv4 and UDP, or 5 of each.
    for name, octets in {"21": 2690, "22": 2690, "31": 1120, "32": 1120}.items():
        assert spent[name] == pytest.approx(octets, rel=0.04)
