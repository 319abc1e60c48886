"""The MQTT client with real brokers: mosquitto (version 5), and amqtt (3.1.1 only)."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import attrs
import paho.mqtt.subscribe
import pytest
import trio
import trio.testing
from paho.mqtt.client import MQTTv5

from edgeice.signaling.broker import (
    BrokerConfig,
    FailureKind,
    Message,
    MqttConnected,
    MqttConnectFailed,
    MqttDisconnected,
    MqttRefusedError,
    TlsConfig,
    Will,
)
from tests.support.brokers import MOSQUITTO, Amqtt, Authority, Mosquitto, amqtt, mosquitto
from tests.support.mqtt_clients import Party, running

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]


def config_for(broker: Mosquitto | Amqtt, name: str = "a", *, will_delay: int = 30) -> BrokerConfig:
    return BrokerConfig(host="127.0.0.1", port=broker.port, client_id=f"edgeice:f:d:{name}", will_delay=will_delay)


def tls_config(broker: Mosquitto, *, host: str = "localhost", cafile: Path | None = None) -> BrokerConfig:
    assert broker.authority is not None
    assert broker.tls_port is not None
    tls = TlsConfig(cafile=cafile or broker.authority.cafile)
    return BrokerConfig(host=host, port=broker.tls_port, client_id="edgeice:f:d:a", tls=tls)


async def ready(party: Party, *filters: str) -> MqttConnected:
    """Wait for the connection and subscribe, as every party does on each connect."""
    connected = await party.next(MqttConnected)
    if filters:
        assert not (await party.client.subscribe(*filters)).refused
    return connected


async def test_subscribe_then_publish_then_receive(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker, running(config_for(broker)) as party:
        assert await ready(party, "t/#") == MqttConnected(session_present=False, version="5")
        await party.client.publish("t/x", b"now")
        assert await party.next(Message) == Message("t/x", b"now", retained=False)


async def test_tls_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    async with mosquitto(tmp_path, tls=True) as broker:
        for host in ("localhost", "127.0.0.1"):
            async with running(tls_config(broker, host=host)) as party:
                await ready(party, "t")
                # More than one TLS record each way.
                await party.client.publish("t", bytes(32 * 1024))
                assert len((await party.next(Message)).payload) == 32 * 1024
                await party.client.disconnect()


async def test_many_messages_in_one_tls_record_all_arrive(tmp_path: Path) -> None:
    async with mosquitto(tmp_path, tls=True) as broker:
        async with running(config_for(broker, "sender")) as sender:
            await ready(sender)
            for number in range(30):
                await sender.client.publish(f"t/{number}", b"x", retain=True)
        async with running(tls_config(broker)) as party:
            await ready(party, "t/+")
            topics = {(await party.next(Message)).topic for _ in range(30)}
            assert len(topics) == 30


async def test_a_server_name_of_its_own(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "tls", names=("broker.example",), addresses=())
    async with mosquitto(tmp_path, tls=authority) as broker:
        config = tls_config(broker)
        async with running(config) as party:
            failed = await party.next(MqttConnectFailed)
            assert failed.kind is FailureKind.TLS_CERTIFICATE
            assert "set the TLS server name" in failed.message
        named = attrs.evolve(config, tls=TlsConfig(cafile=authority.cafile, server_name="broker.example"))
        async with running(named) as party:
            await ready(party)


async def test_a_certificate_of_another_authority(tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other")
    async with mosquitto(tmp_path, tls=True) as broker:
        for cafile in (other.cafile, None):
            config = attrs.evolve(tls_config(broker), tls=TlsConfig(cafile=cafile))
            async with running(config) as party:
                failed = await party.next(MqttConnectFailed)
                assert failed.kind is FailureKind.TLS_CERTIFICATE
                assert "TLS CA file" in failed.message


@pytest.mark.parametrize(("days_ago", "said"), [(60, "certificate has expired"), (-2, "not yet valid")])
async def test_a_certificate_of_another_time(tmp_path: Path, days_ago: int, said: str) -> None:
    valid_from = dt.datetime.now(dt.UTC) - dt.timedelta(days=days_ago)
    authority = Authority.create(tmp_path / "tls", valid_from=valid_from)
    async with mosquitto(tmp_path, tls=authority) as broker, running(tls_config(broker)) as party:
        failed = await party.next(MqttConnectFailed)
        assert failed.kind is FailureKind.TLS_CERTIFICATE
        assert said in failed.message
        assert "clock" in failed.message


async def test_tls_to_a_plain_port_and_plain_to_a_tls_port(tmp_path: Path) -> None:
    async with mosquitto(tmp_path, tls=True) as broker:
        config = tls_config(broker)
        async with running(attrs.evolve(config, port=broker.port)) as party:
            failed = await party.next(MqttConnectFailed)
            assert failed.kind is FailureKind.TLS
        async with running(attrs.evolve(config, tls=None)) as party:
            failed = await party.next(MqttConnectFailed)
            assert failed.kind is FailureKind.CLOSED
            assert "is this a TLS port?" in failed.message


async def test_user_names_passwords_and_access_rules(tmp_path: Path) -> None:
    users = {"f/d/a": "right", "f/o/b": "right"}
    acl = "pattern readwrite root/%u/#\nuser f/o/b\ntopic write root/f/d/a/rx/b\n"
    async with mosquitto(tmp_path, users=users, acl=acl) as broker:
        config = attrs.evolve(config_for(broker), username="f/d/a", password="right")
        for wrong in ("wrong", None):
            async with running(attrs.evolve(config, password=wrong)) as party:
                failed = await party.next(MqttConnectFailed)
                # mosquitto does not say "bad user name or password".
                assert failed.kind is FailureKind.NOT_AUTHORIZED
                assert "user name and password" in failed.message
        operator = attrs.evolve(config, client_id="edgeice:f:o:b", username="f/o/b")
        async with running(config) as device, running(operator) as other:
            await ready(device, "root/f/d/a/rx/+")
            await ready(other)
            await other.client.publish("root/f/d/a/rx/b", b"offer")
            assert (await device.next(Message)).topic == "root/f/d/a/rx/b"
            with pytest.raises(MqttRefusedError, match="Not authorized"):
                await other.client.publish("root/f/d/a/status", b"forged", retain=True)


async def test_an_unresolvable_host(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker:
        config = attrs.evolve(config_for(broker), host="broker.invalid")
        async with running(config) as party:
            assert (await party.next(MqttConnectFailed)).kind is FailureKind.NAME_NOT_RESOLVED


async def test_retained_messages_come_again_with_each_subscription_and_can_be_erased(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker:
        async with running(config_for(broker)) as party:
            await ready(party)
            await party.client.publish("t/info", b"1", retain=True)
            for _ in range(2):
                await party.client.subscribe("t/+")
                assert await party.next(Message) == Message("t/info", b"1", retained=True)
            await party.client.publish("t/info", b"", retain=True)
            assert (await party.next(Message)).payload == b""
        async with running(config_for(broker, "b")) as party:
            await ready(party, "t/+")
            await party.client.publish("t/mark", b"end")
            assert (await party.next(Message)).topic == "t/mark"


async def test_the_will_fires_on_a_crash_and_not_on_a_clean_end(tmp_path: Path) -> None:
    def will() -> Will:
        return Will("t/status", b"lost")

    async with mosquitto(tmp_path) as broker, running(config_for(broker, "watcher")) as watcher:
        await ready(watcher, "t/#")
        async with running(config_for(broker, will_delay=0), will=will) as party:
            await ready(party)
            await party.client.publish("t/status", b"off", retain=True)
            await party.client.disconnect()
        # Had the Will fired, it would come before this.
        await watcher.client.publish("t/mark", b"")
        assert [(await watcher.next(Message)).payload for _ in range(2)] == [b"off", b""]
        async with running(config_for(broker, will_delay=0), will=will) as party:
            await ready(party)
            party.crash()
            assert await watcher.next(Message) == Message("t/status", b"lost", retained=False)


@pytest.mark.slow
async def test_a_move_within_the_will_delay_fires_no_will_and_keeps_the_session(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker, running(config_for(broker, "watcher")) as watcher:
        await ready(watcher, "t/status")
        async with running(config_for(broker, will_delay=1), will=lambda: Will("t/status", b"lost")) as party:
            await ready(party, "t/rx")
            party.client.reconnect_now()
            assert (await party.next(MqttConnected)).session_present
            # The subscription is the session's.
            await watcher.client.publish("t/rx", b"offer")
            assert (await party.next(Message)).payload == b"offer"
            with trio.move_on_after(1.6) as waited:
                await watcher.next(Message)
            assert waited.cancelled_caught


@pytest.mark.slow
async def test_the_broker_restarts_under_the_client(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker, running(config_for(broker)) as party, trio.open_nursery() as nursery:
        await ready(party, "t/rx")
        # It takes the bytes and acknowledges nothing.
        broker.pause()
        published = trio.Event()

        async def publish() -> None:
            await party.client.publish("t/info", b"in flight", retain=True)
            published.set()

        nursery.start_soon(publish)
        await trio.testing.wait_all_tasks_blocked(0.05)
        broker.kill()
        assert "lost" in (await party.next(MqttDisconnected)).reason
        assert not published.is_set()
        broker.start()
        await broker.wait_ready()
        party.client.reconnect_now()
        await ready(party, "t/rx", "t/info")
        await published.wait()
        await party.client.publish("t/rx", b"offer")
        assert [(await party.next(Message)).payload for _ in range(2)] == [b"in flight", b"offer"]


@pytest.mark.slow
async def test_the_client_comes_back_by_itself(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker, running(config_for(broker)) as party:
        await ready(party)
        broker.stop()
        await party.next(MqttDisconnected)
        assert (await party.next(MqttConnectFailed)).kind is FailureKind.CONNECTION_REFUSED
        broker.start()
        await broker.wait_ready()
        await ready(party)


async def test_a_paused_broker_times_out(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker:
        broker.pause()
        # The kernel accepts for it.
        async with running(attrs.evolve(config_for(broker), connect_timeout=0.2)) as party:
            failed = await party.next(MqttConnectFailed)
            assert failed.kind is FailureKind.UNANSWERED


async def test_oversized_packets_are_kept_off_by_the_broker_on_version_5(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker, running(config_for(broker)) as party:
        await ready(party, "t/#")
        await publish_raw(broker, "t/big", bytes(70_000))
        await party.client.publish("t/small", b"x")
        assert (await party.next(Message)).topic == "t/small"


async def publish_raw(broker: Mosquitto | Amqtt, topic: str, payload: bytes) -> None:
    """Publish with QoS 1 what the client would refuse, and wait until the broker has it."""
    import paho.mqtt.publish

    await trio.to_thread.run_sync(
        lambda: paho.mqtt.publish.single(topic, payload, qos=1, hostname="127.0.0.1", port=broker.port)
    )


async def test_one_client_id_takes_the_connection_over(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker, running(config_for(broker)) as first:
        await ready(first)
        async with running(config_for(broker)) as second:
            await ready(second)
            await first.next(MqttDisconnected)
            # The new one is in its place and works.
            assert not (await second.client.subscribe("t")).refused


async def test_the_broker_knows_when_a_message_expires(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker, running(config_for(broker)) as party:
        await ready(party)
        await party.client.publish("t/offer", b"x", retain=True, expiry=30)
        await party.client.publish("t/info", b"x", retain=True)
        messages = await trio.to_thread.run_sync(
            lambda: paho.mqtt.subscribe.simple(  # type: ignore[no-untyped-call]
                ["t/offer", "t/info"], qos=1, msg_count=2, hostname="127.0.0.1", port=broker.port, protocol=MQTTv5
            )
        )
        left = {each.topic: getattr(each.properties, "MessageExpiryInterval", None) for each in messages}
        # The broker counts down by itself.
        assert left["t/offer"] in range(20, 31)
        assert left["t/info"] is None


async def test_what_was_not_consumed_is_delivered_again(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker, running(config_for(broker, "sender")) as sender:
        await ready(sender)
        async with running(config_for(broker)) as party:
            await ready(party, "t")
            for number in range(40):
                await sender.client.publish("t", b"%d" % number)
            assert (await party.next(Message)).payload == b"0"
            assert party.client.drops.total == 0
        async with running(config_for(broker)) as party:
            assert (await party.next(MqttConnected)).session_present
            got = [(await party.next(Message)).payload for _ in range(39)]
            # The first may or may not have been acknowledged in time.
            assert got[-1] in {b"38", b"39"}
            assert got == sorted(got, key=int)


@pytest.mark.slow
async def test_amqtt_is_spoken_to_in_3_1_1(tmp_path: Path) -> None:
    async with amqtt(tmp_path) as broker, running(config_for(broker), will=lambda: Will("t/s", b"lost")) as party:
        begun = trio.current_time()
        assert (await ready(party, "t/rx")).version == "3.1.1"
        assert trio.current_time() - begun < 2.5  # 0.4 where nothing else runs
        await party.client.publish("t/rx", b"x", expiry=30)
        assert (await party.next(Message)).payload == b"x"
        party.client.reconnect_now()
        assert (await ready(party)).version == "3.1.1"
        assert [event.kind for event in party.seen if isinstance(event, MqttConnectFailed)] == [FailureKind.UNANSWERED]


@pytest.mark.slow
async def test_an_oversized_packet_on_3_1_1_costs_one_clean_session(tmp_path: Path) -> None:
    async with amqtt(tmp_path) as broker, running(config_for(broker)) as party:
        await ready(party, "t/#")
        await publish_raw(broker, "t/big", bytes(70_000))
        assert "more than 65536 bytes" in (await party.next(MqttDisconnected)).reason
        connected = await ready(party, "t/#")
        assert not connected.session_present
        await party.client.publish("t/small", b"x")
        assert (await party.next(Message)).topic == "t/small"
