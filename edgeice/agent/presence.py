"""The device at its broker: connection, epoch, birth document, status (wire contract §1, §2, §5)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

from edgeice.agent.log import Log
from edgeice.agent.state import EpochFile
from edgeice.errors import DecodeError
from edgeice.sansio import DropCounter, Entropy
from edgeice.signaling import (
    EpochKeeper,
    Info,
    Party,
    PrivateKey,
    State,
    Status,
    StatusKeeper,
    Topic,
    TopicKind,
    Topics,
    open_info,
    own_retained_epoch,
    sign_info,
)
from edgeice.signaling.broker import (
    BrokerConfig,
    Message,
    MqttConnected,
    MqttConnectFailed,
    MqttDisconnected,
    MqttError,
    MqttRefusedError,
    Will,
)
from edgeice.signaling.mqtt import MqttClient

__all__ = ["InfoFields", "Presence"]

#: How long the own retained `info` is waited for after SUBACK, seconds (§1).
_RETAINED_WAIT: Final = 0.5

#: Least time between repairs of the own `info`, seconds.
_REPAIR_INTERVAL: Final = 5.0

#: How long the broker's access rules are left alone after they refused what the device cannot do without, seconds.
_REFUSED_RETRY: Final = 60.0

#: Seconds that what the `info` tells of sessions may lag behind: less would cost a publication for each short session.
_REFRESH_DELAY: Final = 30.0

#: Makes the changing part of the birth document: given epoch, the whole Info.
InfoFields = Callable[[int], Info]


class Presence:
    """Keeps the device connected and known.

    Args:
        party: The device.
        key: Its key.
        topics: The topics of its fleet.
        broker: Where to connect.
        epochs: Where the epoch is kept.
        make_info: The birth document for an epoch; called each time it is published, after `on_connected`.
        on_connected: A new connection is up; the nonce changes here.
        on_message: Hears what comes on the device's `rx` topics: sender and payload.
        on_relay: Hears what comes on the device's `turn` topic; None where nobody is to be heard there.
        log: Where events go.
        entropy: For the jitter of reconnection.
    """

    def __init__(
        self,
        *,
        party: Party,
        key: PrivateKey,
        topics: Topics,
        broker: BrokerConfig,
        epochs: EpochFile,
        make_info: InfoFields,
        on_connected: Callable[[], None],
        on_message: Callable[[Party, bytes], None],
        on_relay: Callable[[bytes], None] | None,
        log: Log,
        entropy: Entropy,
    ) -> None:
        self._party = party
        self._key = key
        self._topics = topics
        self._epochs = epochs
        self._make_info = make_info
        self._on_connected = on_connected
        self._on_message = on_message
        self._on_relay = on_relay
        self._log = log
        self._keeper = EpochKeeper(epochs.load())
        self._status = StatusKeeper()
        self._state = State.READY
        self._epoch = 0
        self._announced = False
        self._retained: bytes | None = None
        self._retained_came = trio.Event()
        self._scope = trio.CancelScope()
        self._wake = trio.Event()
        #: What was published last as `info`, and what stands there as far as was heard.
        self._own_info = b""
        self._seen_info = b""
        self._told: Info | None = None
        #: Topics of posted messages that the broker has refused on this connection.
        self._refused: set[str] = set()
        self._info_stale = trio.Event()
        self._info_spoiled = trio.Event()
        #: Messages on the own topics that are not what the device published, by reason.
        self.drops = DropCounter()
        self.client = MqttClient(broker, will=self._make_will, entropy=entropy)
        self._status_topic = topics.of(TopicKind.STATUS, party)
        self._info_topic = topics.of(TopicKind.INFO, party)
        self._relay_topics = () if on_relay is None else (topics.of(TopicKind.TURN, party),)

    @property
    def epoch(self) -> int:
        """The present epoch."""
        return self._epoch

    @property
    def announced(self) -> bool:
        """Whether `info` and `status` stand at the broker for the present connection."""
        return self._announced

    async def run(self) -> None:
        """Stay connected until canceled or `leave`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._repair_status)
            nursery.start_soon(self._repair_info)
            nursery.start_soon(self._refresh_info)
            nursery.start_soon(self._hear, nursery)
            await self.client.run()
            nursery.cancel_scope.cancel()

    async def publish_info(self) -> bool:
        """Publish the birth document as it is now; failures are logged, the next connection publishes anew."""
        return await self._publish(self._info_topic, self._signed_info(), "info")

    def post_info(self) -> None:
        """The same without waiting, in order with other messages that are posted."""
        self.post(self._info_topic, self._signed_info(), retain=True)

    def post(self, topic: str, payload: bytes, *, retain: bool = False, expiry: int | None = None) -> None:
        """Publish without waiting; a topic that the broker refuses is logged once a connection."""

        def refused(error: MqttRefusedError) -> None:
            if topic not in self._refused:
                self._refused.add(topic)
                self._log.error("publish-refused", topic=topic, reason=error)

        self.client.post(topic, payload, retain=retain, expiry=expiry, on_refused=refused)

    def info_changed(self) -> None:
        """What stands in the birth document may have changed; published some time later, where it still differs."""
        self._info_stale.set()

    async def leave(self) -> None:
        """Publish `off` and disconnect, so that no Will fires."""
        self._state = State.OFF
        with trio.move_on_after(2):
            if self._announced:
                await self._publish_status()
        await self.client.disconnect()

    # Inside

    def _signed_info(self) -> bytes:
        # iat is for the operator's eyes; a wrong clock cannot hide the device (§5).
        self._told = self._make_info(self._epoch)
        self._own_info = sign_info(self._party, self._told, self._key, iat=int(time.time()))
        return self._own_info

    def _make_will(self) -> Will:
        self._epoch = self._keeper.next()
        self._epochs.save(self._epoch)
        return Will(self._status_topic, Status(State.LOST, self._epoch).encode())

    async def _hear(self, nursery: trio.Nursery) -> None:
        connection = trio.CancelScope()
        async for event in self.client.events:
            match event:
                case MqttConnected():
                    connection.cancel()
                    connection = trio.CancelScope()
                    self._keeper.connected()
                    self._refused.clear()
                    by = event.interface or None
                    self._log.info("broker-connected", mqtt=event.version, session=event.session_present, by=by)
                    nursery.start_soon(self._announce, connection)
                case MqttDisconnected():
                    connection.cancel()
                    self._announced = False
                    self._status.disconnected()
                    self._log.warning("broker-lost", reason=event.reason, retry_in=round(event.retry_in, 1))
                case MqttConnectFailed():
                    self._log.warning(
                        "broker-unreachable", kind=event.kind, reason=event.message, retry_in=round(event.retry_in, 1)
                    )
                case Message():
                    self._take(event)

    def _take(self, message: Message) -> None:
        topic = self._parse(message.topic)
        if topic is None:
            return
        if topic.kind is TopicKind.RX and topic.sender is not None:
            self._on_message(topic.sender, message.payload)
        elif topic.kind is TopicKind.TURN and self._on_relay is not None:
            if message.payload:  # else the issuer took back what stood there
                self._on_relay(message.payload)
        elif topic.kind is TopicKind.INFO:
            self._take_info(message.payload)
        elif topic.kind is TopicKind.STATUS:
            try:
                Status.decode(message.payload)
            except DecodeError as error:
                self.drops.count(error.reason)
            self._status.receive(message.payload, now=trio.current_time())
            self._wake.set()

    def _parse(self, text: str) -> Topic | None:
        try:
            return self._topics.parse(text)
        except DecodeError as error:
            self.drops.count(error.reason)
            return None

    def _take_info(self, payload: bytes) -> None:
        """Hear what stands on the own `info` topic: the own document, or what somebody put over it."""
        self._seen_info = payload
        if self._retained is None:
            self._retained = payload
            self._retained_came.set()
        try:
            if open_info(payload).info.key != self._key.public:
                raise DecodeError("foreign-info")  # noqa: TRY301  # counted like every other reason
        except DecodeError as error:
            self.drops.count(error.reason)
            self._info_spoiled.set()

    async def _announce(self, scope: trio.CancelScope) -> None:
        """Subscribe, look at the own retained `info`, publish `info`, then `status` (§1)."""
        with scope:
            self._forget_retained()
            while not await self._subscribe():  # noqa: ASYNC110  # the broker tells nobody that its rules changed
                await trio.sleep(_REFUSED_RETRY)
            with trio.move_on_after(_RETAINED_WAIT):
                await self._retained_came.wait()
            retained = None
            if self._retained is not None:
                retained = own_retained_epoch(self._retained, self._party, self._key.public)
            verdict = self._keeper.judge_retained(retained)
            if verdict.persist:
                self._epochs.save(verdict.epoch)
                self._log.warning("epoch-raised", epoch=verdict.epoch, retained=retained)
            if verdict.reconnect:
                self.client.reconnect_now()
                return
            self._epoch = verdict.epoch
            self._on_connected()
            while not (await self.publish_info() and await self._publish_status()):  # noqa: ASYNC110  # as above
                await trio.sleep(_REFUSED_RETRY)
            self._announced = True
            self._log.info("announced", epoch=self._epoch, state=self._state)

    async def _subscribe(self) -> bool:
        """Whether operators are heard: without that the device must not call itself ready."""
        rx = self._topics.rx_filter(self._party)
        try:
            result = await self.client.subscribe(rx, self._status_topic, self._info_topic, *self._relay_topics)
        except MqttError as error:
            self._log.warning("subscribe-failed", reason=error)
            return False
        for topic, reason in result.refused.items():
            self._log.error("subscription-refused", topic=topic, reason=reason)
        return rx not in result.refused

    def _forget_retained(self) -> None:
        self._retained, self._retained_came = None, trio.Event()

    async def _publish_status(self) -> bool:
        payload = self._status.publish(Status(self._state, self._epoch), now=trio.current_time())
        self._wake.set()
        return await self._publish(self._status_topic, payload, "status")

    async def _publish(self, topic: str, payload: bytes, what: str) -> bool:
        try:
            await self.client.publish(topic, payload, retain=True, wait_connected=False)
        except MqttRefusedError as error:
            self._log.error("publish-refused", topic=topic, reason=error)
        except MqttError as error:
            self._log.warning("publish-failed", what=what, reason=error)
        else:
            return True
        return False

    async def _repair_status(self) -> None:
        while True:
            at = self._status.next_timeout()
            self._wake = trio.Event()
            with trio.move_on_after(float("inf") if at is None else max(at - trio.current_time(), 0)):
                await self._wake.wait()
                continue
            payload = self._status.handle_timeout(now=trio.current_time())
            if payload is not None:
                self._log.info("status-repaired", state=self._state)
                await self._publish(self._status_topic, payload, "status")

    async def _repair_info(self) -> None:
        while True:
            await self._info_spoiled.wait()
            # Time for the rest of a burst, and for the echo of what was published meanwhile.
            await trio.sleep(_REPAIR_INTERVAL)
            self._info_spoiled = trio.Event()
            if self._announced and self._seen_info != self._own_info:
                self._log.warning("info-repaired")
                await self.publish_info()

    async def _refresh_info(self) -> None:
        while True:
            await self._info_stale.wait()
            await trio.sleep(_REFRESH_DELAY)
            self._info_stale = trio.Event()
            if self._announced and self._make_info(self._epoch) != self._told:
                await self.publish_info()
