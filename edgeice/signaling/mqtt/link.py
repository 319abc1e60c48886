"""One connection to the broker: a paho client, driven by one Trio task.

- The task waits for its socket, for writing as long as something could not be written and else for reading, with the
  time of the next keepalive as deadline.  So an idle device wakes up once per keepalive and for what arrives, not each
  second; and nothing is read while output is stuck, which bounds what answers can pile up.
- Each connection has a paho client of its own, on the socket that `Dial` found.  What is to survive a connection is in
  the client's `Outbox` and `Inbox`, with bounds that they state.
- There is no callback for writing: without it paho writes at once where it can, and `want_write` tells of the rest.
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
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgeice.signaling.broker import (
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
from edgeice.signaling.mqtt.paho_client import PahoClient, connect_arguments, new_client, properties_of
from edgeice.signaling.outbox import Outbox
from edgeice.signaling.ways import Footing, Network

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
#: How long a broker that is probed may stay silent, seconds and round trips, whichever is longer.
_PROBE_PATIENCE = 1.0
_PROBE_ROUND_TRIPS = 3


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
        self._client = new_client(config, version, will, clean=clean)
        self._arguments = connect_arguments(config, version, inbox.receive_maximum, clean=clean)
        self._failure: ConnectError | None = None
        self._subacks: dict[int, _Suback] = {}
        self._waiting = trio.CancelScope()
        self._reading: trio.CancelScope | None = None
        self._more_buffered = False
        self._window = _WINDOW
        self._largest_packet = 0xFFFFFFFF
        self._keepalive: float = config.keepalive
        self._last_in = self._last_out = math.inf
        #: When output counts as stuck, and a broker that is probed as silent.
        self._stall_at = self._silent_at = math.inf
        self._round_trip = 0.0
        self._closed = self._leaving = self._misread = False
        #: What it stands on, once a socket is connected.
        self.footing: Footing | None = None
        #: It ended because a probe was not answered.
        self.fell_silent = False
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

    async def open(self, dial: Dial, network: Network, probe: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Connect, and wait for the CONNACK; raises ConnectError.

        Args:
            dial: Finds the socket.
            network: What is known of the own addresses.
            probe: Asked while the broker is silent: whether it answers another version.  True ends the attempt.
        """
        began = trio.current_time()
        dialed = None
        with trio.move_on_after(self._config.connect_timeout):
            dialed = await dial.run()
        if dialed is None:
            raise timed_out(self._config, dial.step)
        self.footing = dialed.footing
        self._set_callbacks()
        self._client.connect_over(dialed.sock, self._config, self._arguments)
        now = trio.current_time()
        patience = max(0.0, began + self._config.connect_timeout - now)
        with trio.move_on_after(patience) as scope:
            async with trio.open_nursery() as nursery:
                if probe is not None:
                    silence = max(_V5_SILENCE, 4 * dialed.seconds)
                    nursery.start_soon(self._doubt, silence, probe, nursery.cancel_scope)
                while self._open and not self.accepted and self._failure is None:
                    await self._step()
                nursery.cancel_scope.cancel()
        if self._failure is not None:
            if self.accepted:
                self.say_goodbye()  # or the Will would fire
            raise self._failure
        if self.accepted:
            self._round_trip = trio.current_time() - now
            network.reached()
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

    def probe(self) -> None:
        """Ask the broker for a sign of life, and end the connection if there is none for a moment."""
        if self._open and self.accepted and self._silent_at == math.inf:
            round_trip = self._client.round_trip or self._round_trip
            self._silent_at = trio.current_time() + max(_PROBE_PATIENCE, _PROBE_ROUND_TRIPS * round_trip)
            self._client.ping()
            self._wrote()
            self._waiting.cancel()

    def abandon(self, reason: str) -> None:
        """End the connection, which is of no use any more."""
        self.reason = reason
        self.close()

    @property
    def _open(self) -> bool:
        return not self._closed and self._client.socket() is not None

    def close(self) -> None:
        """Close the socket, without a DISCONNECT; fail what waits for an answer that only it could bring."""
        # From here on the client object may be collected at any time, and would call this.
        self._client.on_socket_close = None
        sock = None if self._closed else self._client.socket()
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
            properties = properties_of(PacketTypes.DISCONNECT, SessionExpiryInterval=0)
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
                properties = properties_of(PacketTypes.PUBLISH, MessageExpiryInterval=expiry)
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
        if not writing:
            self._stall_at = math.inf
        elif self._stall_at == math.inf:
            self._stall_at = trio.current_time() + _STALL
        deadline = min(self._stall_at if writing else self._misc_at(), self._silent_at)
        ready = False
        try:
            with trio.CancelScope(deadline=deadline) as self._waiting:
                # Output that gets stuck meanwhile interrupts reading.
                self._reading = None if writing else self._waiting
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
            self._stall_at = math.inf
            self._guarded(self._client.loop_write)
            self._wrote()
        elif ready:
            self._read()
        elif trio.current_time() >= deadline:
            self._overdue(writing=writing)

    def _read(self) -> None:
        self._guarded(self._client.loop_read)
        self._last_in = trio.current_time()
        self._silent_at = math.inf
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
        if trio.current_time() >= self._silent_at:
            self.fell_silent = True
            self.abandon("the broker fell silent")
            return
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
        elif isinstance(client, PahoClient) and client.violation:
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
