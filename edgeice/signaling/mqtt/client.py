"""A connection to one broker that is kept up for ever."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Iterable

import attrs
import trio

from edgeice.errors import LocalProtocolError
from edgeice.files import read_authorities
from edgeice.sansio import DropCounter, Entropy
from edgeice.signaling.backoff import Backoff
from edgeice.signaling.broker import (
    MAX_FILTERS_PER_SUBSCRIBE,
    BrokerConfig,
    FailureKind,
    MqttConnected,
    MqttConnectFailed,
    MqttDisconnected,
    MqttEvent,
    MqttExpiredError,
    MqttQueueFullError,
    MqttRefusedError,
    MqttUnavailableError,
    MqttVersion,
    SubscribeResult,
    TlsConfig,
    Will,
    check_filter,
    check_publish,
)
from edgeice.signaling.failures import ConnectError
from edgeice.signaling.inbox import Inbox
from edgeice.signaling.mqtt.dial import Dial, Names
from edgeice.signaling.mqtt.link import Link
from edgeice.signaling.outbox import Outbox, Outgoing
from edgeice.signaling.versions import VersionMemory
from edgeice.signaling.ways import Network, Usable

__all__ = ["MqttClient"]

#: A CONNACK came.
_ANSWERS = frozenset({FailureKind.BAD_CREDENTIALS, FailureKind.NOT_AUTHORIZED, FailureKind.REFUSED_BY_BROKER})
#: How long `disconnect` waits for its DISCONNECT to leave, seconds.
_GOODBYE_TIMEOUT = 2.0
#: Seconds between the beginnings of two attempts at least where a change of the network hurries them.
_ATTEMPT_SPACING = 0.5
#: Seconds between two probes at least.
_PROBE_SPACING = 5.0
#: Attempts that a broker may leave unanswered in a row before it is doubted that it still speaks version 5.
_SILENCES = 2


class MqttClient:
    """A connection to one broker that is kept up for ever.

    Start `run` in a nursery and read `events`.  Subscriptions are the caller's: subscribe after each `MqttConnected`.
    `publish` may be called at any time.  A client runs once.
    """

    def __init__(
        self,
        config: BrokerConfig,
        *,
        will: Callable[[], Will | None],
        entropy: Entropy,
        versions: VersionMemory | None = None,
    ) -> None:
        """Prepare a client.

        Args:
            config: The broker, and who we are there.
            will: Called before the first CONNECT, and before the next one once the broker has accepted one; attempts
                without such a CONNACK reuse what it returned.  Choose and persist the epoch of the Will in it.  What
                it raises ends `run`.
            entropy: For the jitter of reconnection.
            versions: What is known of brokers, where several clients of the process use them.

        Raises:
            ConfigError: The TLS authorities cannot be loaded.
        """
        self._config = config
        self._ask_will = will
        self._context = None if config.tls is None else _tls_context(config.tls)
        self._backoff = Backoff(entropy)
        self._outbox = Outbox()
        self._inbox = Inbox()
        self._arrived = trio.lowlevel.ParkingLot()
        self._events_in, events_out = trio.open_memory_channel[MqttEvent](0)
        #: What happens, in order.  `Inbox` states the bounds; ends when the client has ended; what was
        #: not read by then is lost.
        self.events: trio.MemoryReceiveChannel[MqttEvent] = events_out
        self._network = Network()
        self._names = Names(config)
        self._scope = trio.CancelScope()
        self._pause = trio.CancelScope()
        self._finished = trio.Event()
        self._used = self._running = self._stopping = self._hurried = False
        self._link: Link | None = None
        #: What is under way while there is no connection.
        self._attempt: tuple[Link, Dial] | None = None
        self._attempted_at = self._probed_at = -math.inf
        self._knows_five = False
        self._silences = 0
        self._versions = VersionMemory() if versions is None else versions
        self._version: MqttVersion = "5"
        self._version_is_guess = False
        self._closes = 0
        self._clean_next = False
        self._will: Will | None = None
        self._will_is_due = True

    @property
    def connected(self) -> bool:
        """True between CONNACK and the end of a connection."""
        return self._link is not None

    @property
    def drops(self) -> DropCounter:
        """Messages that were dropped at a bound, by reason; see `Inbox`."""
        return self._inbox.drops

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, and reconnect for ever; return after `disconnect`.

        Cancellation closes the socket without a DISCONNECT, so that the Will tells the others.
        """
        if self._used:
            raise LocalProtocolError("a client runs once")
        self._used = self._running = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump)
                task_status.started()
                self._recall_version()
                while not self._stopping:
                    self._hurried = False
                    with trio.CancelScope() as self._scope:
                        await self._cycle()
                nursery.cancel_scope.cancel()
        finally:
            self._stopping = True
            self._end()

    async def subscribe(self, *filters: str) -> SubscribeResult:
        """Subscribe with QoS 1 and wait for the broker's answers; more than 8 filters take several packets.

        Raises:
            MqttUnavailableError: There is no connection, it was lost, or the broker does not answer.
            LocalProtocolError: A filter is invalid.
        """
        for topic_filter in filters:
            check_filter(topic_filter)
        link = self._link
        granted: list[str] = []
        refused: dict[str, str] = {}
        for start in range(0, len(filters), MAX_FILTERS_PER_SUBSCRIBE):
            batch = filters[start : start + MAX_FILTERS_PER_SUBSCRIBE]
            if link is None:
                raise MqttUnavailableError("not connected to the broker")
            for topic_filter, code in zip(batch, await link.subscribe(batch), strict=True):
                if code.is_failure:
                    refused[topic_filter] = str(code)
                else:
                    granted.append(topic_filter)
        return SubscribeResult(tuple(granted), refused)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry: int | None = None,
        wait_connected: bool = True,
    ) -> None:
        """Publish, and return once the broker has acknowledged (QoS 1) or it was written (QoS 0).

        A message that was not acknowledged is sent again on the next connection.  If the call is canceled, the
        message is not sent any more, but the broker may have it.

        Args:
            topic: At most 6 slashes, no wildcards.
            payload: At most 32 KiB.
            qos: 0 or 1.
            retain: The broker keeps it for later subscribers; an empty payload makes it forget.
            expiry: Seconds after which it is of no use: counted here, and by the broker on version 5.
            wait_connected: False fails at once where there is no connection, and when it is lost meanwhile.

        Raises:
            MqttUnavailableError: No connection with `wait_connected=False`, or the client has ended.
            MqttExpiredError: `expiry` has passed.
            MqttRefusedError: The broker refuses the message (version 5; 3.1.1 brokers drop it and acknowledge).
            MqttQueueFullError: 64 messages wait already.
            LocalProtocolError: A limit of the arguments is broken.
        """
        check_publish(topic, payload, qos, expiry)
        if self._stopping:
            raise MqttUnavailableError("the client has ended")
        if self._link is None and not wait_connected:
            raise MqttUnavailableError("not connected to the broker")
        done = trio.Event()
        expires_at = None if expiry is None else trio.current_time() + expiry
        item = Outgoing(topic, payload, qos, retain, expires_at, not wait_connected, done.set)
        self._outbox.push(item)
        if self._link is not None:
            self._link.flush()
        try:
            with trio.CancelScope(deadline=math.inf if expires_at is None else expires_at):
                await done.wait()
        finally:
            self._outbox.withdraw(
                item, MqttExpiredError(f"the broker did not acknowledge the message within {expiry} s")
            )
        if item.error is not None:
            raise item.error

    def post(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        expiry: int | None = None,
        on_refused: Callable[[MqttRefusedError], None] = lambda _error: None,
    ) -> None:
        """Publish with QoS 1 in the order of calling, without waiting; for what its sender repeats or can do without.

        A message that is never acknowledged, refused, expired or too many is counted in `drops`.

        Args:
            topic: As in `publish`, like the next two.
            payload: See there.
            retain: See there.
            expiry: See there.
            on_refused: Told if the broker refuses the message (version 5); must not raise.

        Raises:
            LocalProtocolError: A limit of the arguments is broken.
        """
        check_publish(topic, payload, 1, expiry)

        def count() -> None:
            if item.error is not None:
                self._inbox.drops.count(f"post-{type(item.error).__name__}")
            if isinstance(item.error, MqttRefusedError):
                on_refused(item.error)

        expires_at = None if expiry is None else trio.current_time() + expiry
        item = Outgoing(topic, payload, 1, retain, expires_at, False, count)
        if self._stopping:
            item.finish(MqttUnavailableError("the client has ended"))
            return
        try:
            self._outbox.push(item)
        except MqttQueueFullError as error:
            item.finish(error)
        if self._link is not None:
            self._link.flush()

    def reconnect_now(self) -> None:
        """Give up the connection, attempt or wait under way and connect at once, with a fresh back-off.

        For when a network interface changed, or a new Will must be registered.  On version 5 the Will does not fire,
        as the session is taken over within the Will delay.
        """
        if self._running and not self._stopping:
            self._hurried = True
            self._backoff.reset()
            self._scope.cancel()

    def network_changed(self, usable: Iterable[tuple[str, str, int]]) -> None:
        """Hear by which addresses others can be reached now; to be called at the beginning, and after each change.

        A connection whose own address or interface is gone is re-made at once, as TCP would hang on to it for minutes.
        An attempt under way gives up the ways that are gone, and tries new ones beside the others; a wait for the next
        attempt ends, and the back-off begins anew.

        Args:
            usable: Address, its interface, and what that costs.
        """
        if not self._network.update(Usable(*each) for each in usable) or self._stopping:
            return
        self._backoff.reset()
        if self._link is not None:
            if self._link.footing is not None and self._link.footing.is_lost():
                self._hurried = True
                self._link.abandon(f"its address {self._link.footing.local} is gone")
        elif self._attempt is None:
            self._hurry()
        else:
            link, dial = self._attempt
            if link.footing is None:
                dial.reconsider()
            elif link.footing.is_lost():
                self.reconnect_now()

    def probe(self) -> None:
        """Find out whether the broker can still be heard, for when something else fell silent without any event.

        Sends a ping, at most one each 5 s.  Where nothing at all is heard for a second, or three round trips, the
        connection is re-made at once, by another interface first.  Where there is no connection, the next attempt is
        not waited for.
        """
        now = trio.current_time()
        if now < self._probed_at + _PROBE_SPACING:
            return
        self._probed_at = now
        if self._link is not None:
            self._link.probe()
        elif self._attempt is None:
            self._hurry()

    async def disconnect(self) -> None:
        """End cleanly: DISCONNECT, so that no Will fires; `run` returns.  Unacknowledged publishes fail."""
        self._stopping = True
        if not self._running:
            self._used = True
            self._end()
            return
        try:
            if self._link is not None:
                self._link.say_goodbye()
                with trio.move_on_after(_GOODBYE_TIMEOUT):
                    await self._finished.wait()
        finally:
            self._scope.cancel()
        await self._finished.wait()

    def _hurry(self) -> None:
        """Let the wait for the next attempt end."""
        self._pause.deadline = min(self._pause.deadline, self._attempted_at + _ATTEMPT_SPACING)

    def _end(self) -> None:
        self._outbox.fail_all(MqttUnavailableError("the client has ended"))
        self._events_in.close()
        self._finished.set()

    async def _pump(self) -> None:
        """Move events to the consumer; acknowledge a message when it was taken."""
        while True:
            delivery = self._inbox.pop()
            if delivery is None:
                await self._arrived.park()
                continue
            try:
                await self._events_in.send(delivery.event)
            except trio.BrokenResourceError:
                return  # the consumer is gone; the bounds of the inbox do the rest
            if delivery.packet_id is not None and self._link is not None and self._link is delivery.connection:
                self._link.acknowledge(delivery.packet_id)

    def _tell(self, event: MqttEvent) -> None:
        self._inbox.push_state(event)
        self._arrived.unpark_all()

    async def _cycle(self) -> None:
        """One attempt, the connection if it leads to one, and the wait before the next attempt."""
        self._attempted_at = trio.current_time()
        try:
            link = await self._connect()
        except ConnectError as failure:
            delay = self._after_failure(failure)
            self._tell(MqttConnectFailed(failure.kind, failure.message, delay))
        else:
            delay = await self._use(link)
        with trio.move_on_after(delay) as self._pause:
            await trio.sleep_forever()

    async def _connect(self) -> Link:
        if self._will_is_due:
            self._will = self._ask_will()
            if self._will is not None:
                check_publish(self._will.topic, self._will.payload, self._will.qos, None)
            self._will_is_due = False
        link = Link(
            self._config,
            self._version,
            self._will,
            outbox=self._outbox,
            inbox=self._inbox,
            arrived=self._arrived,
            clean=self._clean_next,
        )
        dial = Dial(self._config, self._context, self._network, self._names)
        self._attempt = link, dial
        # One that speaks version 5 is not doubted for a packet that gets lost in a move.
        probe = self._answers_3_1_1 if self._version == "5" and not self._knows_five else None
        try:
            await link.open(dial, self._network, probe)
        except BaseException:
            link.close()
            raise
        finally:
            self._attempt = None
            self._will_is_due = link.accepted
        self._silences = 0
        self._knows_five = self._version == "5"
        return link

    async def _answers_3_1_1(self) -> bool:
        """Whether the broker answers a CONNECT of 3.1.1, be it by a refusal.

        The probe has a client id of its own and no Will, so that it takes nothing over where the broker is only slow,
        and our user name and password, so that the broker has as much to look up for it.
        """
        config = attrs.evolve(self._config, client_id=f"{self._config.client_id}:probe", persistent=False)
        nobody = trio.lowlevel.ParkingLot()
        link = Link(config, "3.1.1", None, outbox=Outbox(), inbox=Inbox(), arrived=nobody, clean=True)
        try:
            await link.open(Dial(config, self._context, self._network, self._names), self._network)
            link.say_goodbye()
        except ConnectError as failure:
            return failure.kind in _ANSWERS
        finally:
            link.close()
        return True

    async def _use(self, link: Link) -> float:
        self._closes = 0
        since = trio.current_time()
        if self._version_is_guess:
            self._versions.met_silence(self._config, now=since)
        self._link = link
        delay = 0.0
        try:
            interface = "" if link.footing is None else link.footing.interface
            self._tell(MqttConnected(link.session_present, self._version, interface))
            link.flush()
            await link.run()
        finally:
            self._link = None
            link.close()
            # Once only: the session that comes next has nothing oversized in it.
            self._clean_next = link.oversized
            self._outbox.connection_lost()
            if self._version_is_guess:
                self._recall_version()
            if link.fell_silent and link.footing is not None:
                self._hurried = True
                self._network.fell_silent(link.footing.local)
            if not self._stopping:
                if not self._hurried:
                    self._backoff.connection_lasted(trio.current_time() - since)
                    delay = self._backoff.next_delay()
                self._tell(MqttDisconnected(link.reason, delay))
        return delay

    def _after_failure(self, failure: ConnectError) -> float:
        """Choose the protocol version of the next attempt; returns the delay before it.

        A broker that closes twice before it answers, or says nothing, may not know version 5, or be in trouble.  So
        the same leads back from 3.1.1 to 5: a passing trouble does not cost version 5 for ever.
        """
        self._closes = self._closes + 1 if failure.kind is FailureKind.CLOSED else 0
        unknown = failure.kind is FailureKind.UNSUPPORTED_VERSION
        self._silences = self._silences + 1 if failure.kind is FailureKind.UNANSWERED else 0
        silent = self._silences >= (_SILENCES if self._knows_five else 1)
        if not (unknown or silent or self._closes == 2):
            return self._backoff.next_delay()
        self._closes = 0
        self._knows_five = False
        if self._version == "5":
            self._version, self._version_is_guess = "3.1.1", silent
            return 0.0
        self._version, self._version_is_guess = "5", False
        self._versions.forget(self._config)
        return self._backoff.next_delay()

    def _recall_version(self) -> None:
        self._version = self._versions.version(self._config, now=trio.current_time())
        self._version_is_guess = self._version != "5"


def _tls_context(tls: TlsConfig) -> ssl.SSLContext:
    context = read_authorities(tls.cafile, "the broker's")
    # A renegotiation could make a write wait for reading, which one task that waits for either cannot serve.
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context
