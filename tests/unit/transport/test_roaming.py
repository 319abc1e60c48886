"""A session whose hosts lose interfaces and get others: restarts over both roads, counted, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import trio
import trio.testing

from edgeice.ice import IceConfig
from edgeice.peer import way_of
from edgeice.transport import NetworkMissing, NetworkReturned, RestartOffered
from edgeice.transport.restarts import Need
from tests.support.roaming import Broker, Host, Side, session_between

#: For peers that only a restart moves, as those are that do not know edgeice.
PLAIN = IceConfig(mobility=False)


def wlan(host: Host) -> None:
    host.up("192.0.2.1", "wlan0", 10)


def wwan(host: Host) -> None:
    host.up("198.51.100.1", "wwan0", 900)


def both(host: Host) -> None:
    wlan(host)
    wwan(host)


def eth(host: Host) -> None:
    host.up("203.0.113.1", "eth0")


def two(host: Host) -> None:
    eth(host)
    host.up("203.0.113.2", "eth1")


async def until(condition: Callable[[], object], seconds: float = 60.0) -> float:
    """Wait for it, to 10 ms; gives the seconds that it took."""
    begun = trio.current_time()
    while not condition():
        await trio.sleep(0.01)
        assert trio.current_time() < begun + seconds, "it does not come to be"
    return round(trio.current_time() - begun, 2)


async def assert_carries(operator: Side, device: Side) -> None:
    """Both ends hear each other on a channel of its own."""
    channel = await operator.peer.open_channel("echo")
    await channel.send("there")
    there = await device.peer.incoming.receive()
    assert await there.receive() == "there"
    await there.send("back")
    assert await channel.receive() == "back"


async def test_a_session_without_a_network_for_three_minutes_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with session_between(wlan, eth, ice=PLAIN) as (operator, device, _internet):
        channel = await operator.peer.open_channel("echo")
        there = await device.peer.incoming.receive()
        device.host.down("wlan0")
        await trio.sleep(1)
        assert device.troubles == [NetworkMissing(599.5)]
        await channel.send("said without a network")
        await trio.sleep(180)
        assert device.offers == []
        wwan(device.host)
        back_at = trio.current_time()
        assert await there.receive() == "said without a network"
        assert trio.current_time() - back_at < 1
        assert device.troubles[1:] == [NetworkReturned(181.0), RestartOffered(Need.LOST)]
        await there.send("heard")
        assert await channel.receive() == "heard"


async def test_without_a_network_for_longer_than_its_patience_it_is_over_at_both_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with session_between(wlan, eth, ice=PLAIN) as (operator, device, _internet):
        device.host.down("wlan0")
        began = trio.current_time()
        await device.over.wait()
        assert trio.current_time() - began == pytest.approx(600)
        await operator.over.wait()
        # It lost the path when consent to it ended.
        assert 620 < trio.current_time() - began < 631
        assert device.troubles == [NetworkMissing(599.5)]


@pytest.mark.parametrize("seed", range(10))
async def test_over_a_broker_that_loses_repeats_and_reorders_one_restart_is_enough(
    autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    """What is lost is repeated with the same bytes, and what comes twice changes nothing."""
    broker = Broker(random.Random(seed), loss=0.3, duplicates=0.3, spread=0.4)
    async with session_between(both, eth, ice=PLAIN, broker=broker) as (operator, device, _internet):
        device.host.down("wlan0")
        await until(lambda: device.interface == "wwan0" and operator.interface, 10)
        await trio.sleep(60)
        assert (device.offers, operator.offers) == ([Need.LOST], [])
        assert (device.agreed, operator.answered) == ([1], [1])
        await assert_carries(operator, device)


async def test_both_move_at_once_and_the_operators_offer_is_taken(autojump_clock: trio.testing.MockClock) -> None:
    async with session_between(both, two, ice=PLAIN) as (operator, device, _internet):
        device.host.down("wlan0")
        operator.host.down("eth0")
        assert await until(lambda: device.interface == "wwan0" and operator.interface == "eth1", 1) < 0.5
        await trio.sleep(60)
        assert (device.offers, operator.offers) == ([Need.LOST], [Need.LOST])
        assert (device.agreed, device.answered) == ([], [1])
        assert (operator.agreed, operator.answered) == ([1], [])
        await assert_carries(operator, device)


@pytest.mark.parametrize("seed", range(10))
async def test_both_move_at_once_over_a_broker_that_loses_repeats_and_reorders(
    autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    broker = Broker(random.Random(seed), loss=0.3, duplicates=0.3, spread=0.4)
    async with session_between(both, two, ice=PLAIN, broker=broker) as (operator, device, _internet):
        device.host.down("wlan0")
        operator.host.down("eth0")
        await until(lambda: device.interface == "wwan0" and operator.interface == "eth1")
        await trio.sleep(120)
        # One was enough, and whoever made it, each end answered at most what it did not offer itself.
        assert len(device.agreed) + len(operator.agreed) == 1
        assert (device.offers, operator.offers) == ([Need.LOST], [Need.LOST])
        await assert_carries(operator, device)


async def test_a_broker_that_is_away_during_the_move_costs_an_offer_each_ten_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = Broker(random.Random(1))
    async with session_between(both, eth, ice=PLAIN, broker=broker) as (operator, device, _internet):
        broker.is_down = True
        device.host.down("wlan0")
        before = broker.messages
        await trio.sleep(13)
        assert (device.offers, operator.offers) == ([Need.LOST] * 2, [])
        # The first and its three copies, the second and two of its own.
        assert broker.messages - before == 7
        broker.is_down = False
        assert await until(lambda: device.interface, 10) < 2
        await trio.sleep(60)
        assert (device.offers, operator.offers, device.agreed) == ([Need.LOST] * 2, [], [2])
        await assert_carries(operator, device)


async def test_an_address_that_comes_while_an_offer_is_out_is_offered_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = Broker(random.Random(1))
    async with session_between(both, eth, ice=PLAIN, broker=broker) as (operator, device, internet):
        broker.is_down = True
        internet.silent.add("198.51.100.1")  # its other interface leads nowhere
        device.host.down("wlan0")
        await trio.sleep(3)
        device.host.up("192.0.2.77", "eth0")
        await trio.sleep(0.5)
        broker.is_down = False
        # The second offer's first copy.
        assert await until(lambda: device.interface == "eth0" and operator.interface, 10) < 1
        await trio.sleep(60)
        assert (device.offers, operator.offers) == ([Need.LOST, Need.LOST], [])
        assert (device.agreed, operator.answered) == ([2], [2])
        await assert_carries(operator, device)


async def test_a_cheaper_interface_is_moved_to_by_the_sessions_own_road_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = Broker(random.Random(1), is_down=True)
    async with session_between(wwan, eth, ice=PLAIN, broker=broker) as (operator, device, _internet):
        wlan(device.host)
        await trio.sleep(2.9)
        assert device.interface == "wwan0"
        await until(lambda: device.interface == "wlan0", 1)
        assert device.peer.path.path is not None
        await trio.sleep(60)
        assert (device.offers, operator.offers, device.agreed) == ([Need.BETTER], [], [1])
        # No silence at either end: the old path carried on until the new one did.
        assert [move.pause for move in device.moves + operator.moves] == [0.0, 0.0]
        await assert_carries(operator, device)


async def test_a_restart_that_nobody_answers_leaves_the_path_alone(autojump_clock: trio.testing.MockClock) -> None:
    broker = Broker(random.Random(1), is_down=True)
    async with session_between(wwan, eth, ice=PLAIN, broker=broker, second_road=False) as (operator, device, _internet):
        wlan(device.host)
        await trio.sleep(120)
        assert device.offers == [Need.BETTER] * 4
        assert (device.interface, device.moves, operator.moves) == ("wwan0", [], [])
        await assert_carries(operator, device)


async def test_host_16_ten_seconds_of_flapping_leave_a_session_that_works(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with session_between(wlan, eth, ice=PLAIN) as (operator, device, _internet):
        tasks = trio.lowlevel.current_statistics().tasks_living
        for _ in range(1000):
            device.host.down("wlan0")
            await trio.sleep(0.005)
            wlan(device.host)
            await trio.sleep(0.005)
        assert len(device.offers) <= 8
        await until(lambda: device.interface and operator.interface, 10)
        await assert_carries(operator, device)
        await trio.sleep(60)
        assert len(device.offers) <= 9
        assert not operator.offers
        assert trio.lowlevel.current_statistics().tasks_living == tasks


# Peers that move by themselves


async def test_a_move_to_another_interface_needs_no_signaling_and_is_followed_by_one_restart_for_good_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Which goes by the session's own road: the broker is away all the time."""
    broker = Broker(random.Random(1), is_down=True)
    async with session_between(both, eth, broker=broker, settle=10) as (operator, device, _internet):
        device.host.down("wlan0")
        assert device.interface == "wwan0"
        assert await until(lambda: operator.moves and device.moves, 10) < 0.2
        assert [(move.cause, way_of(move.before), way_of(move.after)) for move in device.moves] == [
            ("base_gone", "wlan0 direct to wired", "wwan0 direct to wired")
        ]
        assert device.moves[0].pause == pytest.approx(0.08)
        assert [(move.cause, way_of(move.before), way_of(move.after)) for move in operator.moves] == [
            ("peer_moved", "eth0 direct to wifi", "eth0 direct to metered")
        ]
        assert await until(lambda: operator.offers, 10) < 3
        await trio.sleep(120)
        assert (operator.offers, device.offers) == ([Need.ORDER], [])
        assert (operator.agreed, device.answered) == ([1], [1])
        assert len(device.moves) == len(operator.moves) == 1
        await assert_carries(operator, device)


async def test_moves_in_a_row_are_followed_by_one_restart_once_all_is_quiet(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with session_between(both, two, settle=10) as (operator, device, _internet):
        device.host.down("wlan0")
        await trio.sleep(1)
        operator.host.down("eth0")
        await trio.sleep(1)
        wlan(device.host)
        await trio.sleep(120)
        assert operator.offers + device.offers == [Need.ORDER]
        assert (device.interface, operator.interface) == ("wlan0", "eth1")
        await assert_carries(operator, device)


@pytest.mark.parametrize("seed", range(5))
async def test_twenty_moves_over_a_broker_that_loses_repeats_and_reorders(
    autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    dice = random.Random(seed)
    broker = Broker(dice, loss=0.3, duplicates=0.3, spread=0.4)
    async with session_between(both, two, broker=broker, settle=10) as (operator, device, _internet):
        channel = await operator.peer.open_channel("echo")
        there = await device.peer.incoming.receive()
        for number in range(20):
            device.host.down("wlan0")
            await channel.send(str(number))
            assert await there.receive() == str(number)
            await trio.sleep(10 * dice.random())
            wlan(device.host)
            await trio.sleep(10 + 10 * dice.random())
        assert device.interface == "wlan0"
        # At most one for each loss of an interface, and none for its return.
        assert len(operator.offers + device.offers) <= 20
        assert set(operator.offers + device.offers) == {Need.ORDER}


async def test_a_better_interface_is_used_without_a_restart(autojump_clock: trio.testing.MockClock) -> None:
    async with session_between(wwan, eth, settle=10) as (operator, device, _internet):
        wlan(device.host)
        await until(lambda: device.interface == "wlan0", 10)
        await trio.sleep(60)
        assert (operator.offers, device.offers) == ([], [])
        assert [(move.cause, move.pause) for move in operator.moves] == [("better", 0.0)]
        # The device follows; nothing was under way, so that it cannot tell how long nothing would have come.
        assert [move.cause for move in device.moves] == ["peer_moved"]
