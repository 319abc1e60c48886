"""One connection to the broker: a paho client, driven by one Trio task.

- The task waits for its socket, for writing as long as something could not be written and else for reading, with the
  time of the next keepalive as deadline.  So an idle device wakes up once per keepalive and for what arrives, not each
  second; and nothing is read while output is stuck, which bounds what answers can pile up.
- Each connection has a paho client of its own, so that a thread that was given up shares nothing with the next
  attempt.  What is to survive a connection is in the client's `Outbox` and `Inbox`, with bounds that they state.
- Callbacks are set once connecting came back from its thread, and hence run in Trio's.  There is none for writing:
  without it paho writes at once where it can, and `want_write` tells of the rest.
- paho may close its socket in any call that writes.  `on_socket_close` tells Trio in time.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import paho.mqtt.client as paho
import trio
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgeice.signaling.broker import (
    MAX_PACKET,
    BrokerConfig,
    FailureKind,
    Message,
    MqttRefusedError,
    MqttUnavailableError,
    MqttVersion,
    Will,
)
from edgeice.signaling.failures import ConnectError, closed, refusal, timed_out, unanswered
from edgeice.signaling.inbox import Inbox
from edgeice.signaling.mqtt.dial import Dial
from edgeice.signaling.outbox import Outbox

__all__ = ["Link"]

#: QoS 1 messages under way at once, if the broker does not want fewer (Receive Maximum).
_WINDOW = 16
#: Output that makes no progress for this long ends the connection, seconds.
_STALL = 30.0
#: A SUBSCRIBE that is not answered for this long fails, seconds.
_SUBACK_TIMEOUT = 10.0
#: A version 5 CONNECT that is not answered for this long, or four times what connecting took, may not have been
#: understood, seconds: brokers for 3.1.1 alone may take our properties for a length and wait for more.
_V5_SILENCE = 0.25
#: How long version 5 has still for its answer once the same broker answered 3.1.1, seconds.
_V5_GRACE = 0.05
#: Session Expiry beyond the Will delay, seconds: a Will fires at the latest when its session ends.
_SESSION_MARGIN = 30


class Link:
    """One connection to the broker, from its attempt to its end."""

    def __init__(
        self,
        config: BrokerConfig,
        version: MqttVersion,
        will: Will | None,
        *,
        outbox: Outbox,
        inbox: Inbox,
        arrived: trio.lowlevel.ParkingLot,
        clean: bool,
    ) -> None:
        self._config = config
        self._version = version
        self._outbox = outbox
        self._inbox = inbox
        self._arrived = arrived
        self._client = _new_client(config, version, will, clean=clean)
        self._arguments = _connect_arguments(config, version, inbox.receive_maximum, clean=clean)
        self._failure: ConnectError | None = None
        self._subacks: dict[int, _Suback] = {}
        self._reading: trio.CancelScope | None = None
        self._more_buffered = False
        self._window = _WINDOW
        self._largest_packet = 0xFFFFFFFF
        self._keepalive: float = config.keepalive
        self._last_in = self._last_out = math.inf
        self._dialed = self._closed = self._leaving = self._misread = False
        #: The broker has sent a CONNACK that accepts, and so registered the Will.
        self.accepted = False
        self.session_present = False
        #: Why the connection ended, one line for people.
        self.reason = "the connection was lost"
        #: How often its task woke up.
        self.wakeups = 0

    @property
    def oversized(self) -> bool:
        """It ended over a QoS 1 packet beyond our limit, which the broker would send again for ever."""
        return self._client.oversized

    async def open(
        self,
        context: ssl.SSLContext | None,
        threads: trio.CapacityLimiter,
        probe: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        """Connect, and wait for the CONNACK; raises ConnectError.

        Args:
            context: For TLS.
            threads: Bounds the threads that connect.
            probe: Asked while the broker is silent: whether it answers another version.  True ends the attempt.
        """
        dial = Dial(self._client, self._config, context, self._arguments)
        began = trio.current_time()
        with trio.move_on_after(self._config.connect_timeout):
            try:
                await trio.to_thread.run_sync(dial.run, abandon_on_cancel=True, limiter=threads)
            except BaseException:
                dial.give_up()
                raise
            self._dialed = True
        if not self._dialed:
            raise timed_out(self._config, dial.step)
        self._set_callbacks()
        now = trio.current_time()
        patience = max(0.0, began + self._config.connect_timeout - now)
        with trio.move_on_after(patience) as scope:
            async with trio.open_nursery() as nursery:
                if probe is not None:
                    silence = max(_V5_SILENCE, 4 * (now - began))
                    nursery.start_soon(self._doubt, silence, probe, nursery.cancel_scope)
                while self._open and not self.accepted and self._failure is None:
                    await self._step()
                nursery.cancel_scope.cancel()
        if self._failure is not None:
            if self.accepted:
                self.say_goodbye()  # or the Will would fire
            raise self._failure
        if self.accepted:
            return
        if scope.cancelled_caught or self._misread:
            raise unanswered(self._config, trio.current_time() - now)
        if not self._open:
            raise closed(self._config, self.reason)

    async def _doubt(self, silence: float, probe: Callable[[], Awaitable[bool]], attempt: trio.CancelScope) -> None:
        """End the attempt if the broker lets our CONNECT wait and answers the probe, which came later."""
        await trio.sleep(silence)
        if await probe():
            await trio.sleep(_V5_GRACE)
            self._misread = True
            attempt.cancel()

    async def run(self) -> None:
        """Move packets until the connection ends; `reason` then says why."""
        while self._open:
            await self._step()

    @property
    def _open(self) -> bool:
        return not self._closed and self._client.socket() is not None

    def close(self) -> None:
        """Close the socket, without a DISCONNECT; fail what waits for an answer that only it could bring."""
        # From here on the client object may be collected at any time, and would call this.
        self._client.on_socket_close = None
        # A thread that was given up closes its socket itself.
        sock = self._client.socket() if self._dialed and not self._closed else None
        self._closed = True
        if sock is not None:
            trio.lowlevel.notify_closing(sock)
            sock.close()
        for waiter in self._subacks.values():
            waiter.event.set()
        self._subacks.clear()

    def say_goodbye(self) -> None:
        """Send DISCONNECT; the connection ends once it is written."""
        properties = None
        if self._version == "5":
            # The session is of no use any more: nothing is to be kept for us.
            properties = _properties(PacketTypes.DISCONNECT, SessionExpiryInterval=0)
        self._leaving = True
        self._client.disconnect(properties=properties)
        self._wrote()

    def acknowledge(self, packet_id: int) -> None:
        """Send the PUBACK of a message that the consumer has taken."""
        self._client.ack(packet_id, 1)
        self._wrote()

    async def subscribe(self, filters: tuple[str, ...]) -> list[ReasonCode]:
        """Send one SUBSCRIBE and wait for its SUBACK; a reason code for each filter."""
        if self._version == "5":
            result, packet_id = self._client.subscribe([(name, SubscribeOptions(qos=1)) for name in filters])
        else:
            result, packet_id = self._client.subscribe([(name, 1) for name in filters])
        waiter = _Suback()
        if result == MQTTErrorCode.MQTT_ERR_SUCCESS and packet_id is not None:
            self._subacks[packet_id] = waiter
            self._wrote()
            with trio.move_on_after(_SUBACK_TIMEOUT):
                await waiter.event.wait()
            self._subacks.pop(packet_id, None)
        if len(waiter.codes) != len(filters):
            raise MqttUnavailableError("the broker did not answer the subscription")
        return waiter.codes

    def flush(self) -> None:
        """Send what waits in the outbox, as far as the window allows."""
        while (item := self._outbox.pop_sendable(self._window, trio.current_time())) is not None:
            properties = None
            expiry = item.remaining(trio.current_time())
            if self._version == "5" and expiry is not None:
                properties = _properties(PacketTypes.PUBLISH, MessageExpiryInterval=expiry)
            # Fixed header 5, topic length 2, packet identifier 2, properties 1 + 5: never more.
            if len(item.topic.encode()) + len(item.payload) + 15 > self._largest_packet:
                item.finish(MqttRefusedError(f"the broker takes no packets over {self._largest_packet} bytes"))
                continue
            info = self._client.publish(item.topic, item.payload, item.qos, item.retain, properties)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._outbox.unsent(item)
                return
            if item.qos == 0 and info.is_published():
                item.finish()
            else:
                self._outbox.sent(item, info.mid)
            self._wrote()

    async def _step(self) -> None:
        """Wait until there is something to do, and do it."""
        sock = self._client.socket()
        assert sock is not None
        writing = self._client.want_write()
        deadline = trio.current_time() + _STALL if writing else self._misc_at()
        ready = False
        try:
            with trio.CancelScope(deadline=deadline) as scope:
                # Output that gets stuck meanwhile interrupts reading, but not the count of a stall.
                self._reading = None if writing else scope
                if writing:
                    await trio.lowlevel.wait_writable(sock)
                elif self._more_buffered:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(sock)
                ready = True
        except trio.ClosedResourceError:
            return  # another task's write found the connection broken, and paho closed the socket
        self.wakeups += 1
        if ready and writing:
            self._guarded(self._client.loop_write)
            self._wrote()
        elif ready:
            self._read()
        elif trio.current_time() >= deadline:
            self._overdue(writing=writing)

    def _read(self) -> None:
        self._guarded(self._client.loop_read)
        self._last_in = trio.current_time()
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            # mosquitto leaves Nagle's algorithm on: after a packet that we do not answer, its next one would wait for
            # the acknowledgment that Linux delays by 40 ms.  The option does not last (tcp(7)), so after each read.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        # TLS decrypts whole records: the rest of one makes the socket readable for nobody.
        self._more_buffered = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        if self.accepted and self._open:
            self.flush()

    def _overdue(self, *, writing: bool) -> None:
        if writing:
            self.reason = f"the broker took nothing for {_STALL:g} s"
            self.close()
            return
        self._guarded(self._client.loop_misc)
        self._last_in = self._last_out = trio.current_time()

    def _misc_at(self) -> float:
        """When paho's keepalive has something to do: ping after silence in a direction, or miss the answer."""
        return min(self._last_in, self._last_out) + self._keepalive

    def _wrote(self) -> None:
        """Note that a packet was given to paho; if it could not be written, let the task wait for that."""
        if not self._client.want_write():
            self._last_out = trio.current_time()
        elif self._reading is not None:
            self._reading.cancel()

    def _guarded(self, function: Callable[[], MQTTErrorCode]) -> None:
        try:
            function()
        except Exception as error:  # noqa: BLE001  (paho's decoders raise many things for malformed packets)
            self.reason = f"the broker sent a malformed packet ({type(error).__name__})"
            self.close()

    # What paho calls, in Trio's thread ---------------------------------------------------------------------------

    def _set_callbacks(self) -> None:
        client = self._client
        client.on_socket_close = self._on_socket_close
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe

    def _on_socket_close(self, _client: paho.Client, _userdata: object, sock: Any) -> None:  # noqa: ANN401  (paho's)
        trio.lowlevel.notify_closing(sock)

    def _on_connect(
        self,
        _client: paho.Client,
        _userdata: object,
        flags: paho.ConnectFlags,
        code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if code.is_failure:
            self._failure = refusal(code.value, str(code))
            return
        self.accepted = True
        self.session_present = flags.session_present
        self._last_in = self._last_out = trio.current_time()
        # MQTT 5 §3.2.2.3: what the broker can and wants; absent means no limit.
        self._window = max(1, min(_WINDOW, getattr(properties, "ReceiveMaximum", _WINDOW)))
        self._largest_packet = getattr(properties, "MaximumPacketSize", self._largest_packet)
        keepalive: int = getattr(properties, "ServerKeepAlive", self._config.keepalive)
        self._client.adopt_keepalive(keepalive)
        self._keepalive = keepalive or math.inf
        if getattr(properties, "MaximumQoS", 1) < 1:
            self._failure = ConnectError(FailureKind.REFUSED_BY_BROKER, "the broker offers no QoS 1")
        elif not getattr(properties, "RetainAvailable", True):
            self._failure = ConnectError(FailureKind.REFUSED_BY_BROKER, "the broker keeps no retained messages")

    def _on_disconnect(
        self,
        client: paho.Client,
        _userdata: object,
        flags: paho.DisconnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if self._leaving:
            self.reason = "disconnected"
        elif isinstance(client, _Paho) and client.violation:
            self.reason = client.violation
        elif flags.is_disconnect_packet_from_server:
            taken_over = code.value == 0x8E  # MQTT 5 §3.14.2.1
            text = "another client took over our client id" if taken_over else str(code).lower()
            self.reason = f"the broker ended the connection: {text}"
        elif code.value == 0x8D:
            self.reason = "the broker did not answer a ping"

    def _on_message(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            # MQTT 5 §1.5.4: a malformed packet; acknowledged, or it would come again for ever.
            self._inbox.drops.count("topic")
            if message.qos:
                self._client.ack(message.mid, 1)
            return
        packet_id = message.mid if message.qos else None
        self._inbox.push_message(Message(topic, bytes(message.payload), message.retain), self, packet_id)
        self._arrived.unpark_all()

    def _on_publish(
        self, _client: paho.Client, _userdata: object, packet_id: int, code: ReasonCode, _properties: Properties | None
    ) -> None:
        error = MqttRefusedError(f"the broker refuses the message: {code}") if code.is_failure else None
        self._outbox.acknowledged(packet_id, error)

    def _on_subscribe(
        self,
        _client: paho.Client,
        _userdata: object,
        packet_id: int,
        codes: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        waiter = self._subacks.pop(packet_id, None)
        if waiter is not None:
            waiter.codes = codes
            waiter.event.set()


@attrs.define(eq=False)
class _Suback:
    event: trio.Event = attrs.field(factory=trio.Event)
    codes: list[ReasonCode] = attrs.field(factory=list)


class _Paho(paho.Client):
    """paho with a guard on what it is willing to buffer."""

    #: Which rule the broker broke, one line for people.
    violation = ""
    #: It was a QoS 1 message that is too large.
    oversized = False

    def adopt_keepalive(self, seconds: int) -> None:
        """Take what the broker prescribes (MQTT 5 §3.2.2.3.14); paho does so itself only from 2.2 on."""
        self._keepalive = seconds

    def _sock_recv(self, bufsize: int) -> bytes:
        # paho asks for a packet's body once it has read its length and before it keeps any of it.
        packet = self._in_packet
        if packet["have_remaining"]:
            qos = packet["command"] >> 1 & 3 if packet["command"] & 0xF0 == paho.PUBLISH else 0
            if 1 + len(packet["remaining_count"]) + packet["remaining_length"] > MAX_PACKET:
                self.violation = f"the broker sent a packet of more than {MAX_PACKET} bytes"
                self.oversized = qos == 1
            elif qos > 1:
                # We subscribe with QoS 1, so none comes from an honest broker; paho would keep it without bound.
                self.violation = "the broker sent a message with QoS 2"
            if self.violation:
                raise ConnectionAbortedError(self.violation)
        return super()._sock_recv(bufsize)


def _new_client(config: BrokerConfig, version: MqttVersion, will: Will | None, *, clean: bool) -> _Paho:
    five = version == "5"
    client = _Paho(
        CallbackAPIVersion.VERSION2,
        client_id=config.client_id,
        clean_session=None if five else clean or not config.persistent,
        protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
        # Reconnection is ours; paho would also downgrade to 3.1 by a blocking call.
        reconnect_on_failure=False,
        manual_ack=True,
    )
    # The window is ours; beyond it paho would queue in its own way.
    client.max_inflight_messages = 0
    if config.username is not None:
        client.username_pw_set(config.username, config.password)
    if will is not None:
        properties = None
        if five:
            properties = _properties(PacketTypes.WILLMESSAGE, WillDelayInterval=config.will_delay)
        client.will_set(will.topic, will.payload, will.qos, will.retain, properties)
    return client


def _connect_arguments(
    config: BrokerConfig, version: MqttVersion, receive_maximum: int, *, clean: bool
) -> dict[str, Any]:
    if version != "5":
        return {}
    properties = _properties(
        PacketTypes.CONNECT,
        SessionExpiryInterval=config.will_delay + _SESSION_MARGIN,
        MaximumPacketSize=MAX_PACKET,
        ReceiveMaximum=receive_maximum,
    )
    return {"clean_start": clean, "properties": properties}


def _properties(packet_type: int, **values: int) -> Properties:
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]  # paho's one untyped signature
    for name, value in values.items():
        setattr(properties, name, value)
    return properties
