"""Frames on the local socket of a shared session: its wire, in one place.

A frame is a byte that says its kind, three bytes of length (big-endian), and the payload.  A connection serves one
purpose, which its first frame names: `{"status":{}}`, `{"stop":{}}`, `{"join":{"want":[…]}}` or
`{"open":{"protocol":"edgeice.exec.1"}}`.  An opened connection is one data channel of the session, whose messages
pass through unchanged as TEXT and BINARY frames; so the socket's own back-pressure is the channel's, and no channel
stands in another's way.  Where all channels that the device takes are in use, `{"waiting":{"channels"}}` is the first
answer, and another one follows once there is a place.  A joined connection hears `{"path"}`, `{"path","move"}` where
data moved to that path, `{"notice"}`, and once `{"heard":{}}`, when the device has been heard since it joined;
`{"joined":{"path","channels","silent"}}` says for how many seconds it has not been, where that is long.  A client
ends its channel with `{"close":{}}`; without that it is gone.  `{"ended":{"reason","broken"}}` is the last frame of
the other side, there and on a joined connection.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from enum import IntEnum
from typing import Final

import trio

from edgeice.errors import DecodeError
from edgeice.services.control import Control, decode_control

__all__ = ["CLOSE", "MAX_PAYLOAD", "FrameDecoder", "FrameSocket", "Kind"]

#: Largest payload: that of a data channel's message.
MAX_PAYLOAD: Final = 262_144
#: Name of a client's last frame.
CLOSE: Final = "close"
_HEADER: Final = struct.Struct(">I")
_CHUNK: Final = 65536


class Kind(IntEnum):
    """What a frame holds."""

    #: A JSON object between client and master, as services write theirs.
    CONTROL = 1
    #: A text message of the channel, UTF-8.
    TEXT = 2
    #: A binary message of the channel.
    BINARY = 3


_KINDS: Final = {kind.value: kind for kind in Kind}


class FrameDecoder:
    """Cuts a byte stream into frames; holds at most one frame and what came with it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes off the socket."""
        self._buffer += data

    def next_frame(self) -> tuple[Kind, bytes] | None:
        """The next whole frame; raises DecodeError, after which nothing of the stream can be used."""
        if len(self._buffer) < _HEADER.size:
            return None
        (word,) = _HEADER.unpack_from(self._buffer)
        kind, size = word >> 24, word & 0xFFFFFF
        if kind not in _KINDS or size > MAX_PAYLOAD:
            raise DecodeError("frame", f"kind {kind}, {size} bytes")
        end = _HEADER.size + size
        if len(self._buffer) < end:
            return None
        payload = bytes(memoryview(self._buffer)[_HEADER.size : end])
        del self._buffer[:end]
        return _KINDS[kind], payload


class FrameSocket:
    """A connected local socket that carries frames.  Takes the socket over; close it with `close`."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._decoder = FrameDecoder()
        self._sending = trio.StrictFIFOLock()
        #: What of a frame is not written yet: whoever sends next writes it first, so that no frame is torn.
        self._rest = memoryview(b"")
        self.closed = False

    async def send(self, kind: Kind, payload: bytes) -> None:
        """Send a frame of at most `MAX_PAYLOAD` bytes; waits while the other end does not read.

        Raises:
            trio.ClosedResourceError: This end closed.
            trio.BrokenResourceError: The other end is gone.
        """
        async with self._sending:
            await self._flush()
            self._rest = memoryview(_HEADER.pack(kind << 24 | len(payload)) + payload)
            await self._flush()

    async def send_control(self, message: Mapping[str, object]) -> None:
        """Send a control frame, as `send` does."""
        await self.send(Kind.CONTROL, json.dumps(message).encode())

    async def flush(self) -> None:
        """Write what a canceled `send` left."""
        async with self._sending:
            await self._flush()

    async def receive(self) -> tuple[Kind, bytes] | None:
        """The next frame, None once the other end is gone.

        Raises:
            DecodeError: What came is no frame.
            trio.ClosedResourceError: This end closed.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self.closed:
                raise trio.ClosedResourceError
            if (frame := self._decoder.next_frame()) is not None:
                return frame
            try:
                data = self._socket.recv(_CHUNK)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                continue
            except OSError:
                return None
            if not data:
                return None
            self._decoder.feed(data)

    async def receive_control(self) -> Control | None:
        """The next frame, which has to be a control frame, None once the other end is gone.

        Raises what `receive` does.
        """
        frame = await self.receive()
        if frame is None:
            return None
        kind, payload = frame
        if kind is not Kind.CONTROL:
            raise DecodeError("frame", f"{kind.name} where a control frame was expected")
        return as_control(payload)

    def close(self) -> None:
        """Close; whoever waits here gets trio.ClosedResourceError.  Does nothing the second time."""
        if not self.closed:
            self.closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def close_with(self, message: Mapping[str, object]) -> None:
        """Close, with a last control frame where that can be sent at once: what did not go out can have no end."""
        if not self.closed and not self._rest:
            payload = json.dumps(message).encode()
            with suppress(OSError):  # nobody is there, or nobody reads
                self._socket.send(_HEADER.pack(Kind.CONTROL << 24 | len(payload)) + payload)
        self.close()

    async def _flush(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._rest or self.closed:
            if self.closed:
                raise trio.ClosedResourceError
            try:
                sent = self._socket.send(self._rest)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)
            except OSError as error:
                raise trio.BrokenResourceError("the other end is gone") from error
            else:
                self._rest = self._rest[sent:]


def as_control(payload: bytes) -> Control:
    """The object in a control frame; raises DecodeError."""
    return decode_control(as_message(payload))


def as_message(payload: bytes) -> str:
    """The text in a frame; raises DecodeError."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise DecodeError("frame", "not UTF-8") from None
