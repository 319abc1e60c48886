"""The Data Channel Establishment Protocol (RFC 8832): DATA_CHANNEL_OPEN and DATA_CHANNEL_ACK."""

from __future__ import annotations

import struct

import attrs

from edgeice.errors import DecodeError

__all__ = ["ACK", "OpenMessage", "decode_dcep", "encode_open"]

_ACK_TYPE = 0x02
_OPEN_TYPE = 0x03
_FIXED = struct.Struct("!BBHIHH")
_UNORDERED = 0x80
_RELIABLE = 0x00
_RETRANSMITS = 0x01
_LIFETIME = 0x02
_NORMAL_PRIORITY = 256  # RFC 8831 §6.4

#: DATA_CHANNEL_ACK.
ACK = bytes((_ACK_TYPE,))


@attrs.frozen
class OpenMessage:
    """DATA_CHANNEL_OPEN (RFC 8832 §5.1); at most one limit of reliability is set."""

    label: str
    protocol: str
    ordered: bool = True
    #: Retransmissions of a message at most; 0 sends it once.
    max_retransmits: int | None = None
    #: Milliseconds for which a message is sent and sent again.
    max_lifetime: int | None = None
    priority: int = _NORMAL_PRIORITY


def encode_open(message: OpenMessage) -> bytes:
    """The bytes of an OPEN; label and protocol have at most 65,535 bytes in UTF-8."""
    kind, reliability = _RELIABLE, 0
    if message.max_retransmits is not None:
        kind, reliability = _RETRANSMITS, message.max_retransmits
    elif message.max_lifetime is not None:
        kind, reliability = _LIFETIME, message.max_lifetime
    if not message.ordered:
        kind |= _UNORDERED
    label = message.label.encode()
    protocol = message.protocol.encode()
    return _FIXED.pack(_OPEN_TYPE, kind, message.priority, reliability, len(label), len(protocol)) + label + protocol


def decode_dcep(data: bytes) -> OpenMessage | None:
    """Read a message: an OPEN, or None for an ACK; raises DecodeError."""
    if data == ACK:
        return None
    if not data or data[0] != _OPEN_TYPE:
        raise DecodeError("dcep-type")
    if len(data) < _FIXED.size:
        raise DecodeError("dcep-length")
    _type, kind, priority, reliability, label_size, protocol_size = _FIXED.unpack_from(data)
    # RFC 8832 §5.1: the lengths fill the message exactly.
    if len(data) != _FIXED.size + label_size + protocol_size:
        raise DecodeError("dcep-length")
    policy = kind & ~_UNORDERED
    if policy not in (_RELIABLE, _RETRANSMITS, _LIFETIME):
        raise DecodeError("dcep-channel-type")
    try:
        label = data[_FIXED.size : _FIXED.size + label_size].decode()
        protocol = data[_FIXED.size + label_size :].decode()
    except UnicodeDecodeError:
        raise DecodeError("dcep-utf8") from None
    return OpenMessage(
        label,
        protocol,
        ordered=not kind & _UNORDERED,
        max_retransmits=reliability if policy == _RETRANSMITS else None,
        max_lifetime=reliability if policy == _LIFETIME else None,
        priority=priority,
    )
