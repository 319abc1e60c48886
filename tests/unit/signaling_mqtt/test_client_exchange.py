"""What the client does while connected: publish, subscribe, receive, keep alive."""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeice.errors import LocalProtocolError
from edgeice.signaling.broker import (
    Message,
    MqttConnected,
    MqttDisconnected,
    MqttExpiredError,
    MqttQueueFullError,
    MqttRefusedError,
    MqttUnavailableError,
)
from tests.support.mqtt_clients import Party, running
from tests.support.scripted_broker import (
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    PUBACK,
    PUBLISH,
    SUBSCRIBE,
    ScriptedBroker,
    ScriptedSession,
    connack,
    packet,
    puback,
    publish,
    suback,
)


async def connected(
    broker: ScriptedBroker, party: Party, *, session_present: bool = False, properties: bytes = b""
) -> ScriptedSession:
    session = await broker.accept()
    await session.welcome(session_present=session_present, properties=properties)
    await party.next(MqttConnected)
    return session


async def connected_3_1_1(broker: ScriptedBroker, party: Party) -> ScriptedSession:
    session = await broker.accept()
    await session.expect(CONNECT)
    await session.send(connack(0x84))
    return await connected(broker, party)


class Outcome:
    """What a publish ended in."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: Exception | None = None

    async def publish(self, party: Party, topic: str, payload: bytes = b"p", *, wait_connected: bool = True) -> None:
        try:
            await party.client.publish(topic, payload, wait_connected=wait_connected)
        except Exception as error:  # noqa: BLE001  (a test looks at it)
            self.error = error
        self.done.set()


async def test_publish_returns_after_puback_and_carries_its_expiry() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party, trio.open_nursery() as nursery:
        session = await connected(broker, party)
        returned = trio.Event()

        async def publish_one() -> None:
            await party.client.publish("a/b", b"payload", retain=True, expiry=30)
            returned.set()

        nursery.start_soon(publish_one)
        sent = await session.expect(PUBLISH)
        # QoS 1, retain; Message Expiry 30 s.
        assert sent.first_byte == 0x33
        assert sent.body == b"\0\3a/b\0\1\x05\x02\0\0\0\x1epayload"
        await trio.testing.wait_all_tasks_blocked()
        assert not returned.is_set()
        await session.send(puback(1))
        await returned.wait()


async def test_qos_0_returns_at_once() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await connected(broker, party)
        await party.client.publish("a", b"x", qos=0)
        assert (await session.expect(PUBLISH)).body == b"\0\1a\0x"


async def test_a_broker_that_refuses_a_message() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party, trio.open_nursery() as nursery:
        session = await connected(broker, party)
        outcome = Outcome()
        nursery.start_soon(outcome.publish, party, "a")
        await session.send(puback((await session.expect(PUBLISH)).packet_id, 0x87))
        await outcome.done.wait()
        assert isinstance(outcome.error, MqttRefusedError)
        assert "Not authorized" in str(outcome.error)


async def test_limits_of_a_publish() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        with pytest.raises(LocalProtocolError, match="exceeds 32768"):
            await party.client.publish("a", bytes(32 * 1024 + 1))
        with pytest.raises(LocalProtocolError, match="QoS 2"):
            await party.client.publish("a", b"", qos=2)
        with pytest.raises(MqttUnavailableError):
            await party.client.publish("a", b"", wait_connected=False)


async def test_the_brokers_receive_maximum_holds() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party, trio.open_nursery() as nursery:
        session = await connected(broker, party, properties=b"\x21\0\x02")
        for number in range(4):
            nursery.start_soon(Outcome().publish, party, "a", b"%d" % number)
        ids = [(await session.expect(PUBLISH)).packet_id for _ in range(2)]
        with trio.move_on_after(0.02) as waited:
            await session.receive()
        assert waited.cancelled_caught
        await session.send(puback(ids[0]))
        await session.send(puback((await session.expect(PUBLISH)).packet_id))
        await session.send(puback((await session.expect(PUBLISH)).packet_id))
        await session.send(puback(ids[1]))


async def test_the_brokers_maximum_packet_size_holds() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await connected(broker, party, properties=b"\x27\0\0\0\x40")
        with pytest.raises(MqttRefusedError, match="over 64 bytes"):
            await party.client.publish("a", bytes(49))
        await party.client.publish("a", bytes(48), qos=0)
        await session.expect(PUBLISH)


async def test_unacknowledged_messages_come_again_in_order() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party, trio.open_nursery() as nursery:
        session = await connected(broker, party)
        outcomes = {name: Outcome() for name in "abc"}
        for name, outcome in outcomes.items():
            nursery.start_soon(outcome.publish, party, name)
            # One after the other, as tasks start in any order.
            assert (await session.expect(PUBLISH)).topic == name
        await session.send(puback(2))
        await outcomes["b"].done.wait()
        session.close()
        await party.next(MqttDisconnected)
        later = Outcome()
        nursery.start_soon(later.publish, party, "d")
        await trio.testing.wait_all_tasks_blocked()
        party.client.reconnect_now()
        session = await connected(broker, party, session_present=True)
        again = [await session.expect(PUBLISH) for _ in range(3)]
        assert [item.topic for item in again] == ["a", "c", "d"]
        for item in again:
            await session.send(puback(item.packet_id))
        for outcome in (*outcomes.values(), later):
            await outcome.done.wait()
            assert outcome.error is None


async def test_what_does_not_wait_fails_with_the_connection() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await connected(broker, party)
        outcome = Outcome()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: outcome.publish(party, "a", wait_connected=False))
            await session.expect(PUBLISH)
            session.close()
        assert isinstance(outcome.error, MqttUnavailableError)


async def test_a_full_queue_refuses() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party, trio.open_nursery() as nursery:
        for _ in range(64):
            nursery.start_soon(Outcome().publish, party, "a")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(MqttQueueFullError):
            await party.client.publish("a", b"")
        nursery.cancel_scope.cancel()


async def test_expiry_counts_without_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        started = trio.current_time()
        monkeypatch.setattr("edgeice.signaling.mqtt.client.check_publish", lambda *_arguments: None)
        with pytest.raises(MqttExpiredError):
            await party.client.publish("a", b"", expiry=0.02)  # type: ignore[arg-type]  # a test has no whole second
        assert trio.current_time() - started < 0.5
        session = await connected(broker, party)
        await party.client.publish("b", b"", qos=0)
        assert (await session.expect(PUBLISH)).topic == "b"


async def test_a_canceled_publish_is_not_sent() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        with trio.move_on_after(0.01):
            await party.client.publish("a", b"")
        session = await connected(broker, party)
        await party.client.publish("b", b"", qos=0)
        assert (await session.expect(PUBLISH)).topic == "b"


async def test_subscribe_takes_eight_filters_at_a_time_and_tells_each_answer() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party, trio.open_nursery() as nursery:
        session = await connected(broker, party)
        filters = tuple(f"t/{number}" for number in range(10))

        async def answer() -> None:
            first = await session.expect(SUBSCRIBE)
            assert first.body.count(b"t/") == 8
            await session.send(suback(first.packet_id, b"\1\1\x87\1\0\1\1\1"))
            second = await session.expect(SUBSCRIBE)
            await session.send(suback(second.packet_id, b"\1\x8f"))

        nursery.start_soon(answer)
        result = await party.client.subscribe(*filters)
        assert result.granted == tuple(name for name in filters if name not in {"t/2", "t/9"})
        assert result.refused == {"t/2": "Not authorized", "t/9": "Topic filter invalid"}


async def test_subscribe_on_3_1_1() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party, trio.open_nursery() as nursery:
        session = await connected_3_1_1(broker, party)

        async def answer() -> None:
            asked = await session.expect(SUBSCRIBE)
            assert asked.body[2:] == b"\0\1a\1\0\1b\1"
            await session.send(packet(0x90, struct.pack("!H", asked.packet_id) + b"\1\x80"))

        nursery.start_soon(answer)
        result = await party.client.subscribe("a", "b")
        assert result.granted == ("a",)
        assert list(result.refused) == ["b"]


async def test_subscribe_without_and_with_a_lost_connection() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        with pytest.raises(LocalProtocolError):
            await party.client.subscribe("a#")
        with pytest.raises(MqttUnavailableError):
            await party.client.subscribe("a")
        session = await connected(broker, party)
        async with trio.open_nursery() as nursery:

            async def hang_up() -> None:
                await session.expect(SUBSCRIBE)
                session.close()

            nursery.start_soon(hang_up)
            with pytest.raises(MqttUnavailableError):
                await party.client.subscribe("a")


async def test_a_message_is_acknowledged_when_the_consumer_has_it() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await connected(broker, party)
        await session.send(publish("a", b"1", qos=1, packet_id=7) + publish("a", b"2", qos=1, packet_id=9))
        with trio.move_on_after(0.02) as waited:
            await session.receive()
        assert waited.cancelled_caught
        assert await party.next(Message) == Message("a", b"1", retained=False)
        assert (await session.expect(PUBACK)).packet_id == 7
        assert await party.next(Message) == Message("a", b"2", retained=False)
        assert (await session.expect(PUBACK)).packet_id == 9


async def test_an_identifier_of_an_earlier_connection_is_not_acknowledged() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await connected(broker, party)
        await session.send(publish("a", b"1", qos=1, packet_id=7) + publish("a", b"2", qos=1, packet_id=8))
        await trio.testing.wait_all_tasks_blocked()
        session.close()
        await trio.testing.wait_all_tasks_blocked(0.01)
        party.client.reconnect_now()
        session = await broker.accept()
        await session.welcome()
        assert [(await party.next(Message)).payload for _ in range(2)] == [b"1", b"2"]
        await party.next(MqttConnected)
        await session.send(publish("a", b"3", qos=1, packet_id=1))
        await party.next(Message)
        assert (await session.expect(PUBACK)).packet_id == 1


async def test_a_slow_consumer_stalls_nothing_and_its_queue_is_bounded() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party, trio.open_nursery() as nursery:
        session = await connected(broker, party)
        for number in range(100):
            await session.send(publish("a", b"%d" % number))
        # Read up to the end: what follows it in the stream is answered.
        outcome = Outcome()
        nursery.start_soon(outcome.publish, party, "b")
        await session.send(puback((await session.expect(PUBLISH)).packet_id))
        await outcome.done.wait()
        # One is on its way to the consumer, 32 wait.
        assert party.client.drops.snapshot() == {"qos0": 67}
        assert [(await party.next(Message)).payload for _ in range(33)] == [b"%d" % number for number in range(33)]


async def test_an_oversized_qos_1_message_is_not_buffered_and_costs_one_clean_session() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await connected_3_1_1(broker, party)
        # The header alone: closed before a byte of the body is kept.
        await session.send(b"\x32\x80\x80\x04\0")
        disconnected = await party.next(MqttDisconnected)
        assert disconnected.reason == "the broker sent a packet of more than 65536 bytes"
        assert await session.receive() is None
        flags = []
        for _ in range(2):
            party.client.reconnect_now()
            session = await broker.accept()
            flags.append((await session.welcome()).flags)
            await party.next(MqttConnected)
        assert flags == [2, 0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x30\x80\x80\x04\0", "the broker sent a packet of more than 65536 bytes"),
        (publish("a", b"", qos=2, packet_id=1), "the broker sent a message with QoS 2"),
    ],
)
async def test_other_violations_keep_the_session(data: bytes, reason: str) -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await connected(broker, party)
        await session.send(data)
        assert (await party.next(MqttDisconnected)).reason == reason
        party.client.reconnect_now()
        assert (await (await broker.accept()).welcome()).flags == 0


async def test_a_packet_of_the_limit_is_taken() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await connected(broker, party)
        data = publish("a", bytes(65536 - 4 - 4))
        assert len(data) == 65536
        await session.send(data)
        assert len((await party.next(Message)).payload) == 65528


async def test_a_topic_that_is_no_text_is_dropped_and_acknowledged() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await connected(broker, party)
        await session.send(packet(0x32, b"\0\1\xff\0\5\0x"))
        assert (await session.expect(PUBACK)).packet_id == 5
        assert party.client.drops.snapshot() == {"topic": 1}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (0x8E, "the broker ended the connection: another client took over our client id"),
        (0x8B, "the broker ended the connection: server shutting down"),
    ],
)
async def test_the_brokers_goodbye_is_told(code: int, reason: str) -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await connected(broker, party)
        # With an empty Reason String.
        await session.send(packet(DISCONNECT, bytes([code, 3, 0x1F, 0, 0])))
        disconnected = await party.next(MqttDisconnected)
        assert disconnected.reason == reason
        assert 0.5 <= disconnected.retry_in <= 1


async def test_connections_that_do_not_last_come_ever_more_slowly() -> None:
    delays = []
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        for _ in range(4):
            session = await connected(broker, party)
            await session.send(bytes([0xE0, 2, 0x8E, 0]))
            delays.append((await party.next(MqttDisconnected)).retry_in)
            party.client._scope.cancel()  # skip the wait, without the fresh start of reconnect_now
    assert [bound / 2 <= delay <= bound for delay, bound in zip(delays, [1, 2, 4, 8], strict=True)] == [True] * 4


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60) | st.builds(packet, st.integers(0, 255), st.binary(max_size=30)))
def test_arbitrary_bytes_end_a_connection_at_most(data: bytes) -> None:
    async def main() -> None:
        async with ScriptedBroker() as broker, running(broker.config()) as party:
            session = await connected(broker, party)
            await session.send(data)
            session.close()
            await party.next(MqttDisconnected)

    trio.run(main)


@pytest.mark.slow
async def test_an_idle_client_wakes_up_once_per_ping_and_once_per_answer() -> None:
    async with ScriptedBroker() as broker, running(broker.config(keepalive=1)) as party:
        session = await connected(broker, party)
        link = party.client._link
        assert link is not None
        before, started = link.wakeups, trio.current_time()
        for _ in range(2):
            await session.expect(PINGREQ)
            await session.send(PINGRESP)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert trio.current_time() - started > 1.9
        assert link.wakeups - before == 4


@pytest.mark.slow
async def test_the_broker_prescribes_the_keepalive_and_must_answer_pings() -> None:
    async with ScriptedBroker() as broker, running(broker.config(keepalive=60)) as party:
        session = await connected(broker, party, properties=b"\x13\0\1")
        started = trio.current_time()
        await session.expect(PINGREQ)
        assert 0.9 < trio.current_time() - started < 1.9
        assert (await party.next(MqttDisconnected)).reason == "the broker did not answer a ping"
        assert 1.9 < trio.current_time() - started < 4


@pytest.mark.slow
async def test_what_comes_in_does_not_replace_our_own_sign_of_life() -> None:
    async with ScriptedBroker() as broker, running(broker.config(keepalive=1)) as party, trio.open_nursery() as nursery:
        session = await connected(broker, party)

        async def chatter() -> None:
            while True:
                await session.send(publish("a", b""))
                await party.next(Message)
                await trio.sleep(0.1)

        nursery.start_soon(chatter)
        started = trio.current_time()
        await session.expect(PINGREQ)
        # A broker waits one and a half times the keepalive.
        assert trio.current_time() - started < 1.5
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_output_that_is_stuck_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeice.signaling.mqtt.link._STALL", 0.3)
    async with ScriptedBroker() as broker, running(broker.config()) as party, trio.open_nursery() as nursery:
        await connected(broker, party)

        async def flood() -> None:
            while True:
                await party.client.publish("a", bytes(32 * 1024), qos=0)

        async def trickle() -> None:
            # More output must not begin the count anew.
            while True:
                nursery.start_soon(Outcome().publish, party, "b")
                await trio.sleep(0.1)

        started = trio.current_time()
        nursery.start_soon(flood)
        nursery.start_soon(trickle)
        # The script reads nothing.
        assert (await party.next(MqttDisconnected)).reason == "the broker took nothing for 0.3 s"
        assert trio.current_time() - started < 1.2
        nursery.cancel_scope.cancel()
