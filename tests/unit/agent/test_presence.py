"""What the device publishes of itself while it stays connected, packet by packet."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from edgeice.agent.log import Log
from edgeice.agent.presence import Presence
from edgeice.agent.state import EpochFile
from edgeice.sansio import Entropy
from edgeice.signaling import Info, Limits, Party, PrivateKey, Topics, open_info
from tests.support.scripted_broker import PUBLISH, SUBSCRIBE, Packet, ScriptedBroker, ScriptedSession, puback, suback

KEY = PrivateKey.generate(Entropy.seeded(5))
#: MQTT 5 §2.4.
NOT_AUTHORIZED = 0x87
TOPICS = "edgeice/1/f/d/a"


@pytest.fixture
def mock_clock() -> MockClock:
    """Time runs, as the broker is at a real socket; long waits are jumped over."""
    return MockClock(rate=1.0)


@attrs.define
class Visitor:
    """A device at a scripted broker."""

    broker: ScriptedBroker
    presence: Presence
    session: ScriptedSession
    log: io.StringIO
    clock: MockClock
    #: Sessions that its birth document counts.
    active: int = 0

    async def subscribed(self, refused: int | None = None) -> None:
        """It subscribes, and waits in vain for its own retained `info`; the filter with this index is refused."""
        packet = await self.session.expect(SUBSCRIBE)
        codes = bytes(NOT_AUTHORIZED if index == refused else 1 for index in range(3))
        await self.session.send(suback(int.from_bytes(packet.body[:2]), codes))
        await trio.testing.wait_all_tasks_blocked(0.01)
        self.clock.jump(0.5)

    async def published(self, kind: str, *, refused: bool = False) -> Packet:
        """The next packet, which must publish this topic."""
        packet = await self.session.expect(PUBLISH)
        assert packet.topic == f"{TOPICS}/{kind}"
        await self.session.send(puback(packet.packet_id, NOT_AUTHORIZED if refused else 0))
        return packet

    async def published_info(self) -> Info:
        """The next packet, which must be the birth document."""
        packet = await self.published("info")
        return open_info(packet.body[packet.body.index(b"ey") :]).info

    async def becomes_announced(self) -> None:
        """It publishes `info` and `status`."""
        await self.published_info()
        await self.published("status")
        await self._until(lambda: self.presence.announced)

    async def logged(self, line: str) -> None:
        """A line comes into its log."""
        await self._until(lambda: line in self.log.getvalue().splitlines())

    async def nothing_was_published(self) -> None:
        """What it publishes next is what it is asked to publish now."""
        await trio.testing.wait_all_tasks_blocked(0.01)
        self.presence.post("mark", b"")
        packet = await self.session.expect(PUBLISH)
        assert packet.topic == "mark"
        await self.session.send(puback(packet.packet_id))

    async def _until(self, holds: Callable[[], bool]) -> None:
        with trio.fail_after(5):
            while not holds():  # noqa: ASYNC110  # packets are on their way through sockets
                await trio.sleep(0.001)


@asynccontextmanager
async def letting_in(folder: Path, clock: MockClock) -> AsyncIterator[Visitor]:
    """A device whose CONNECT was accepted."""
    visitors: list[Visitor] = []

    def make_info(epoch: int) -> Info:
        limits = Limits(8, visitors[0].active)
        return Info(version="1", nonce="n", epoch=epoch, time_synced=True, key=KEY.public, limits=limits)

    written = io.StringIO()
    async with ScriptedBroker() as broker, trio.open_nursery() as nursery:
        presence = Presence(
            party=Party.device("f", "a"),
            key=KEY,
            topics=Topics("f"),
            broker=broker.config(keepalive=3600),
            epochs=EpochFile(folder),
            make_info=make_info,
            on_connected=lambda: None,
            on_message=lambda _sender, _payload: None,
            on_relay=None,
            log=Log("debug", stream=written, wall=lambda: 0.0),
            entropy=Entropy.seeded(1),
        )
        nursery.start_soon(presence.run)
        session = await broker.accept()
        await session.welcome()
        visitors.append(Visitor(broker, presence, session, written, clock))
        yield visitors[0]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def announced(folder: Path, clock: MockClock) -> AsyncIterator[Visitor]:
    """A device that has announced itself."""
    async with letting_in(folder, clock) as device:
        await device.subscribed()
        await device.becomes_announced()
        yield device


# Sessions in the birth document


async def test_sessions_that_last_are_told_half_a_minute_later(tmp_path: Path, mock_clock: MockClock) -> None:
    async with announced(tmp_path, mock_clock) as device:
        device.active = 1
        device.presence.info_changed()
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(29)
        device.active = 2
        device.presence.info_changed()
        await device.nothing_was_published()
        mock_clock.jump(1)
        assert (await device.published_info()).limits == Limits(8, 2)
        device.active = 3
        device.presence.info_changed()
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(30)
        assert (await device.published_info()).limits == Limits(8, 3)


async def test_a_short_session_costs_no_publication(tmp_path: Path, mock_clock: MockClock) -> None:
    async with announced(tmp_path, mock_clock) as device:
        device.active = 1
        device.presence.info_changed()
        await trio.testing.wait_all_tasks_blocked(0.01)
        device.active = 0
        device.presence.info_changed()
        mock_clock.jump(60)
        await device.nothing_was_published()


async def test_a_document_published_meanwhile_is_not_published_again(tmp_path: Path, mock_clock: MockClock) -> None:
    async with announced(tmp_path, mock_clock) as device:
        device.active = 1
        device.presence.info_changed()
        device.presence.post_info()  # a new nonce, for instance
        assert (await device.published_info()).limits == Limits(8, 1)
        mock_clock.jump(60)
        await device.nothing_was_published()


# The broker's access rules


async def test_a_device_that_may_not_listen_does_not_call_itself_ready(tmp_path: Path, mock_clock: MockClock) -> None:
    async with letting_in(tmp_path, mock_clock) as device:
        await device.subscribed(refused=0)
        await device.logged('subscription-refused topic=edgeice/1/f/d/a/rx/+ reason="Not authorized"')
        mock_clock.jump(59)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not device.presence.announced
        mock_clock.jump(1)
        await device.subscribed()
        await device.becomes_announced()


@pytest.mark.parametrize("topic", ["status", "info"])
async def test_a_device_that_may_not_hear_itself_is_reached_all_the_same(
    tmp_path: Path, mock_clock: MockClock, topic: str
) -> None:
    async with letting_in(tmp_path, mock_clock) as device:
        await device.subscribed(refused=["rx", "status", "info"].index(topic))
        await device.logged(f'subscription-refused topic={TOPICS}/{topic} reason="Not authorized"')
        await device.becomes_announced()


@pytest.mark.parametrize("topic", ["info", "status"])
async def test_a_device_that_may_not_announce_itself_tries_again(
    tmp_path: Path, mock_clock: MockClock, topic: str
) -> None:
    async with letting_in(tmp_path, mock_clock) as device:
        await device.subscribed()
        if topic == "status":
            await device.published("info")
        await device.published(topic, refused=True)
        await device.logged(
            f'publish-refused topic={TOPICS}/{topic} reason="the broker refuses the message: Not authorized"'
        )
        assert not device.presence.announced
        mock_clock.jump(60)
        await device.becomes_announced()


async def test_a_topic_that_the_broker_refuses_is_said_once_a_connection(tmp_path: Path, mock_clock: MockClock) -> None:
    async with announced(tmp_path, mock_clock) as device:
        topic = "edgeice/1/f/o/alice/rx/a"
        for _ in range(3):
            device.presence.post(topic, b"answer")
            packet = await device.session.expect(PUBLISH)
            await device.session.send(puback(packet.packet_id, NOT_AUTHORIZED))
        line = f'publish-refused topic={topic} reason="the broker refuses the message: Not authorized"'
        await device.logged(line)
        await device.nothing_was_published()
        assert device.log.getvalue().count("publish-refused") == 1
        assert device.presence.client.drops.snapshot() == {"post-MqttRefusedError": 3}
        device.presence.client.reconnect_now()
        device.session = await device.broker.accept()
        await device.session.welcome()
        await device.subscribed()
        await device.becomes_announced()
        device.presence.post(topic, b"answer")
        await device.session.send(puback((await device.session.expect(PUBLISH)).packet_id, NOT_AUTHORIZED))
        await device.nothing_was_published()
        assert device.log.getvalue().count("publish-refused") == 2
