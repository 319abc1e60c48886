"""paho's client as a connection here uses it: how it is made, and what it is kept from."""

from __future__ import annotations

import socket
from typing import Any

import paho.mqtt.client as paho
import trio
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeice.signaling.broker import MAX_PACKET, BrokerConfig, MqttVersion, Will

__all__ = ["PahoClient", "connect_arguments", "new_client", "properties_of"]

#: Session Expiry beyond the Will delay, seconds: a Will fires at the latest when its session ends.
_SESSION_MARGIN = 30


class PahoClient(paho.Client):
    """paho on a socket that is given, with a guard on what it is willing to buffer."""

    #: Which rule the broker broke, one line for people.
    violation = ""
    #: It was a QoS 1 message that is too large.
    oversized = False
    #: Seconds that the latest ping took to be answered, None before.
    round_trip: float | None = None

    _given: socket.socket
    _pinged_at = 0.0

    def connect_over(self, sock: socket.socket, config: BrokerConfig, arguments: dict[str, Any]) -> None:
        """Send CONNECT on a connected socket, which this closes from here on."""
        self._given = sock
        try:
            self.connect(config.host, config.port, config.keepalive, **arguments)
        except BaseException:
            sock.close()
            raise

    def ping(self) -> None:
        """Send PINGREQ now."""
        self._send_pingreq()

    def adopt_keepalive(self, seconds: int) -> None:
        """Take what the broker prescribes (MQTT 5 §3.2.2.3.14); paho does so itself only from 2.2 on."""
        self._keepalive = seconds

    def _create_socket_connection(self) -> socket.socket:
        return self._given

    def _send_pingreq(self) -> MQTTErrorCode:
        self._pinged_at = trio.current_time()
        return super()._send_pingreq()

    def _handle_pingresp(self) -> MQTTErrorCode:
        self.round_trip = trio.current_time() - self._pinged_at
        return super()._handle_pingresp()

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


def new_client(config: BrokerConfig, version: MqttVersion, will: Will | None, *, clean: bool) -> PahoClient:
    """A client for one connection."""
    five = version == "5"
    client = PahoClient(
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
            properties = properties_of(PacketTypes.WILLMESSAGE, WillDelayInterval=config.will_delay)
        client.will_set(will.topic, will.payload, will.qos, will.retain, properties)
    return client


def connect_arguments(
    config: BrokerConfig, version: MqttVersion, receive_maximum: int, *, clean: bool
) -> dict[str, Any]:
    """What `connect` takes besides host, port and keepalive."""
    if version != "5":
        return {}
    properties = properties_of(
        PacketTypes.CONNECT,
        SessionExpiryInterval=config.will_delay + _SESSION_MARGIN,
        MaximumPacketSize=MAX_PACKET,
        ReceiveMaximum=receive_maximum,
    )
    return {"clean_start": clean, "properties": properties}


def properties_of(packet_type: int, **values: int) -> Properties:
    """Properties of a packet of version 5."""
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]  # paho's one untyped signature
    for name, value in values.items():
        setattr(properties, name, value)
    return properties
