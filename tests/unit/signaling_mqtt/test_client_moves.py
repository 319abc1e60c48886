"""The client when the network under it changes, and when it is asked whether the broker is still there."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing

from edgeice.signaling.broker import FailureKind, MqttConnected, MqttConnectFailed, MqttDisconnected
from edgeice.signaling.mqtt import link as link_module
from tests.support.mqtt_clients import Party, running
from tests.support.scripted_broker import (
    CONNECT,
    PINGREQ,
    PINGRESP,
    PUBLISH,
    ScriptedBroker,
    ScriptedSession,
    connack,
    puback,
    publish,
)

LOOPBACK = ("127.0.0.1", "lo", 0)
ELSEWHERE = ("192.0.2.1", "eth0", 0)


async def connected(broker: ScriptedBroker, party: Party) -> ScriptedSession:
    session = await broker.accept()
    await session.welcome()
    await party.next(MqttConnected)
    return session


async def nothing_comes(session: ScriptedSession, seconds: float = 0.02) -> None:
    with trio.move_on_after(seconds) as waited:
        await session.receive()
    assert waited.cancelled_caught


async def test_a_connection_whose_address_is_gone_is_remade_at_once() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        party.client.network_changed([LOOPBACK, ELSEWHERE])
        session = await connected(broker, party)
        for name in "ab":
            party.client.post(name, b"")
        first = await session.expect(PUBLISH)
        await session.expect(PUBLISH)
        await session.send(puback(first.packet_id))
        await trio.testing.wait_all_tasks_blocked()
        party.client.network_changed([LOOPBACK])
        await nothing_comes(session)
        party.client.network_changed([ELSEWHERE])
        party.client.post("c", b"")
        assert await party.next(MqttDisconnected) == MqttDisconnected("its address 127.0.0.1 is gone", 0.0)
        assert await session.receive() is None
        session = await broker.accept()
        await session.expect(CONNECT)
        await session.send(connack(session_present=True))
        # Right behind CONNACK, before anybody subscribed: what is not acknowledged, in its order.
        assert [(await session.expect(PUBLISH)).topic for _ in range(2)] == ["b", "c"]


async def test_a_change_that_is_no_news_or_of_other_addresses_disturbs_nothing() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await connected(broker, party)
        for usable in ([], [ELSEWHERE], [ELSEWHERE], [LOOPBACK], [LOOPBACK, ELSEWHERE]):
            party.client.network_changed(usable)
        await party.client.publish("a", b"", qos=0)
        await session.expect(PUBLISH)


async def test_a_connection_that_waits_for_connack_on_an_address_that_is_gone_begins_anew() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        party.client.network_changed([LOOPBACK])
        session = await broker.accept()
        await session.expect(CONNECT)
        party.client.network_changed([])
        assert await session.receive() is None
        await connected(broker, party)


@pytest.mark.slow
async def test_a_change_of_the_network_ends_the_wait_for_the_next_attempt_and_begins_the_backoff_anew() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        delays = []
        for number in range(5):
            session = await broker.accept()
            await session.expect(CONNECT)
            await session.send(connack(0x88))
            delays.append((await party.next(MqttConnectFailed)).retry_in)
            if number < 3:
                party.client._pause.cancel()  # skip the wait
            else:
                begun = trio.current_time()
                party.client.network_changed([("192.0.2.1", f"eth{number}", 0)])
        assert 4 <= delays[3] <= 8
        assert delays[4] <= 1
        await broker.accept()
        # But a network that changes all the time leads to no more than two attempts a second.
        assert trio.current_time() - begun > 0.4


async def test_a_probe_pings_at_once_and_not_again_soon() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await connected(broker, party)
        link = party.client._link
        assert link is not None
        before = link.wakeups
        party.client.probe()
        await session.expect(PINGREQ)
        await session.send(PINGRESP)
        await trio.testing.wait_all_tasks_blocked()
        # The call itself, and the answer.
        assert link.wakeups == before + 2
        assert link._silent_at == float("inf")
        party.client.probe()
        await nothing_comes(session)


@pytest.mark.parametrize("sign", [PINGRESP, publish("a", b"")], ids=["answer", "anything"])
async def test_a_broker_that_is_heard_keeps_its_connection(sign: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_PROBE_PATIENCE", 0.05)
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await connected(broker, party)
        party.client.probe()
        await session.expect(PINGREQ)
        await session.send(sign)
        await nothing_comes(session, 0.1)
        assert party.client.connected


async def test_a_broker_that_falls_silent_costs_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_PROBE_PATIENCE", 0.05)
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await connected(broker, party)
        begun = trio.current_time()
        party.client.probe()
        await session.expect(PINGREQ)
        assert await party.next(MqttDisconnected) == MqttDisconnected("the broker fell silent", 0.0)
        assert 0.05 <= trio.current_time() - begun < 0.5
        await connected(broker, party)


@pytest.mark.slow
async def test_a_slow_broker_gets_three_round_trips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_PROBE_PATIENCE", 0.05)
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await broker.accept()
        await session.expect(CONNECT)
        await trio.sleep(0.1)
        await session.send(connack())
        await party.next(MqttConnected)
        link = party.client._link
        assert link is not None
        party.client.probe()
        assert 0.3 <= link._silent_at - trio.current_time() < 0.5
        await session.expect(PINGREQ)
        await trio.sleep(0.05)
        await session.send(PINGRESP)
        await trio.testing.wait_all_tasks_blocked()
        party.client._probed_at -= 5
        party.client.probe()
        # As the latest ping took.
        assert 0.15 <= link._silent_at - trio.current_time() < 0.3


async def test_output_that_is_stuck_does_not_hide_the_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_PROBE_PATIENCE", 0.05)
    async with ScriptedBroker() as broker, running(broker.config()) as party, trio.open_nursery() as nursery:
        await connected(broker, party)

        async def flood() -> None:
            while True:
                await party.client.publish("a", bytes(32 * 1024), qos=0)

        nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked()
        party.client.probe()
        assert (await party.next(MqttDisconnected)).reason == "the broker fell silent"
        nursery.cancel_scope.cancel()


async def test_a_probe_without_a_connection_ends_the_wait_for_the_next_attempt() -> None:
    async with ScriptedBroker() as broker, running(broker.config(), patience=5) as party:
        for _ in range(3):
            session = await broker.accept()
            await session.expect(CONNECT)
            await session.send(connack(0x88))
            failed = await party.next(MqttConnectFailed)
            party.client._pause.cancel()
        session = await broker.accept()
        await session.expect(CONNECT)
        await session.send(connack(0x88))
        failed = await party.next(MqttConnectFailed)
        assert failed.retry_in >= 4
        party.client._attempted_at -= 1
        party.client.probe()
        await connected(broker, party)


@pytest.mark.slow
async def test_a_broker_known_to_speak_5_is_not_doubted_for_one_lost_packet() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        await connected(broker, party)
        party.client.reconnect_now()
        session = await broker.accept()
        await session.expect(CONNECT)
        # No probe with 3.1.1 comes beside it.
        with trio.move_on_after(0.6) as waited:
            await broker.accept()
        assert waited.cancelled_caught
        await session.send(connack())
        assert (await party.next(MqttConnected)).version == "5"


@pytest.mark.slow
async def test_a_broker_known_to_speak_5_is_doubted_after_two_silences() -> None:
    async with ScriptedBroker() as broker, running(attrs.evolve(broker.config(), connect_timeout=0.2)) as party:
        await connected(broker, party)
        party.client.reconnect_now()
        levels = []
        for _ in range(3):
            session = await broker.accept()
            levels.append((await session.expect(CONNECT)).level)
            assert (await party.next(MqttConnectFailed)).kind is FailureKind.UNANSWERED
            party.client._pause.cancel()
        assert levels == [5, 5, 4]
