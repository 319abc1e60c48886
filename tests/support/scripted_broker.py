"""A broker that a test scripts packet by packet, for what real brokers do not do on demand.

```python
async with ScriptedBroker() as broker:
    session = await broker.accept()          # the client has connected
    connect = await session.expect(CONNECT)
    await session.send(connack())
```
"""

from __future__ import annotations

import struct
from types import TracebackType
from typing import Self

import attrs
import trio

from edgeice.signaling.broker import BrokerConfig

__all__ = [
    "CONNECT",
    "DISCONNECT",
    "PINGREQ",
    "PINGRESP",
    "PUBACK",
    "PUBLISH",
    "SUBSCRIBE",
    "Packet",
    "ScriptedBroker",
    "ScriptedSession",
    "connack",
    "packet",
    "puback",
    "publish",
    "suback",
]

CONNECT, PUBLISH, PUBACK, SUBSCRIBE, PINGREQ, DISCONNECT = 0x10, 0x30, 0x40, 0x80, 0xC0, 0xE0
PINGRESP = b"\xd0\x00"


@attrs.frozen
class Packet:
    """One MQTT packet."""

    first_byte: int
    body: bytes

    @property
    def kind(self) -> int:
        """The packet type, in the upper four bits."""
        return self.first_byte & 0xF0

    @property
    def level(self) -> int:
        """CONNECT: the protocol level, 5 or 4 (3.1.1)."""
        return self.body[6]

    @property
    def flags(self) -> int:
        """CONNECT: the connect flags."""
        return self.body[7]

    @property
    def topic(self) -> str:
        """PUBLISH: the topic."""
        (length,) = struct.unpack_from("!H", self.body)
        return self.body[2 : 2 + length].decode()

    @property
    def packet_id(self) -> int:
        """PUBLISH with QoS 1, PUBACK, SUBSCRIBE: the packet identifier."""
        offset = 2 + len(self.topic.encode()) if self.kind == PUBLISH else 0
        return int(struct.unpack_from("!H", self.body, offset)[0])


def packet(first_byte: int, body: bytes) -> bytes:
    """Encode a packet."""
    length, rest = bytearray(), len(body)
    while True:
        rest, digit = divmod(rest, 128) if rest >= 128 else (0, rest)
        length.append(digit | (0x80 if rest else 0))
        if not rest:
            return bytes([first_byte]) + bytes(length) + body


def connack(code: int = 0, *, level: int = 5, session_present: bool = False, properties: bytes = b"") -> bytes:
    """CONNACK."""
    body = bytes([session_present, code])
    return packet(0x20, body + bytes([len(properties)]) + properties if level == 5 else body)


def publish(topic: str, payload: bytes, *, qos: int = 0, packet_id: int = 0, level: int = 5) -> bytes:
    """PUBLISH."""
    body = struct.pack("!H", len(topic)) + topic.encode()
    body += struct.pack("!H", packet_id) if qos else b""
    return packet(0x30 | qos << 1, body + (b"\0" if level == 5 else b"") + payload)


def puback(packet_id: int, code: int = 0) -> bytes:
    """PUBACK, with a reason code if it is not success."""
    return packet(0x40, struct.pack("!H", packet_id) + (bytes([code]) if code else b""))


def suback(packet_id: int, codes: bytes) -> bytes:
    """SUBACK of version 5."""
    return packet(0x90, struct.pack("!H", packet_id) + b"\0" + codes)


class ScriptedSession:
    """One connection of a client."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.stream.send_all(data)

    async def receive(self) -> Packet | None:
        """The next packet, None when the client has closed."""
        head = await self._take(2)
        if head is None:
            return None
        length, shift = head[1] & 0x7F, 7
        last = head[1]
        while last & 0x80:
            more = await self._take(1)
            assert more is not None
            last = more[0]
            length |= (last & 0x7F) << shift
            shift += 7
        body = await self._take(length)
        assert body is not None
        return Packet(head[0], body)

    async def expect(self, kind: int) -> Packet:
        """The next packet, which must be of this type."""
        received = await self.receive()
        assert received is not None, "the client closed the connection"
        assert received.kind == kind, received
        return received

    async def welcome(self, *, session_present: bool = False, properties: bytes = b"") -> Packet:
        """Accept the client; its CONNECT."""
        connect = await self.expect(CONNECT)
        reply = connack(level=connect.level, session_present=session_present, properties=properties)
        await self.send(reply)
        return connect

    def close(self) -> None:
        """Close the connection."""
        self.stream.socket.close()

    async def _take(self, count: int) -> bytes | None:
        while len(self._buffer) < count:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                data = b""
            if not data:
                return None
            self._buffer += data
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


class ScriptedBroker:
    """A listener on loopback."""

    def __init__(self) -> None:
        self._listener: trio.SocketListener
        self._sessions: list[ScriptedSession] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        (self._listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = self._listener.socket.getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.socket.close()
        for session in self._sessions:
            session.close()

    async def accept(self) -> ScriptedSession:
        """The next connection of a client."""
        session = ScriptedSession(await self._listener.accept())
        self._sessions.append(session)
        return session

    def config(self, *, keepalive: int = 60, persistent: bool = True) -> BrokerConfig:
        """How to reach it."""
        return BrokerConfig(
            host="127.0.0.1", port=self.port, client_id="edgeice:f:d:a", keepalive=keepalive, persistent=persistent
        )
