"""ChannelData, and how messages are told apart on a stream (RFC 8656 §12.4-12.6)."""

from __future__ import annotations

from struct import Struct
from typing import Final

from edgeice.errors import DecodeError
from edgeice.stun.values import MAGIC_COOKIE

__all__ = ["CHANNELS", "Deframer", "decode_channel_data", "encode_channel_data"]

#: Channel numbers (RFC 8656 §12).
CHANNELS: Final = range(0x4000, 0x5000)

_HEADER = Struct("!HH")
_COOKIE: Final = MAGIC_COOKIE.to_bytes(4, "big")
_STUN_HEADER_SIZE: Final = 20
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


def encode_channel_data(number: int, data: bytes, *, padded: bool) -> bytes:
    """One ChannelData message; on a stream padded to a multiple of four, not counted in its length (RFC 8656 §12.5)."""
    size = len(data)
    message = _HEADER.pack(number, size) + data
    return message + _PADDING[size & 3] if padded else message


def decode_channel_data(message: bytes) -> tuple[int, bytes]:
    """Channel number and data of a message whose first byte is 0x40 to 0x4F; what follows the data is padding.

    Raises:
        DecodeError: `channel_length` if the message is shorter than it says (RFC 8656 §12.6).
    """
    if len(message) < 4:
        raise DecodeError("channel_length", f"{len(message)} bytes")
    number, size = _HEADER.unpack_from(message)
    if size > len(message) - 4:
        raise DecodeError("channel_length", f"says {size}, has {len(message) - 4}")
    return number, message[4 : 4 + size]


class Deframer:
    """Cuts what arrives on a TCP or TLS connection into STUN and ChannelData messages.

    Holds less than one message, 65,555 bytes at most, besides what a call gives.
    """

    __slots__ = ("_buffer", "broken")

    def __init__(self) -> None:
        self._buffer = bytearray()
        #: Something else than the two began; nothing after it can be found again, and all of it is dropped.
        self.broken = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in order; the messages that they complete, ChannelData with its padding."""
        messages: list[bytes] = []
        if self.broken:
            return messages
        buffer = self._buffer
        buffer += data
        position = 0
        try:
            while (size := _message_size(buffer, position)) is not None and position + size <= len(buffer):
                messages.append(bytes(buffer[position : position + size]))
                position += size
        except DecodeError:
            self.broken = True
            position = len(buffer)
        del buffer[:position]
        return messages


def _message_size(buffer: bytearray, position: int) -> int | None:
    """Size of the message that starts at `position`, None if its header is not there yet."""
    if position + 4 > len(buffer):
        return None
    kind = int.from_bytes(buffer[position : position + 2], "big")
    length = int.from_bytes(buffer[position + 2 : position + 4], "big")
    if kind in CHANNELS:
        return 4 + (length + 3 & ~3)
    # RFC 8489 §5: two zero bits, a length that is a multiple of four, the cookie.
    if kind > 0x3FFF or length & 3:
        raise DecodeError("turn_framing", f"0x{kind:04x}")
    if position + 8 > len(buffer):
        return None
    if buffer[position + 4 : position + 8] != _COOKIE:
        raise DecodeError("turn_framing", "cookie")
    return _STUN_HEADER_SIZE + length
