"""The attribute table: code points, the Python value of each attribute, and the functions that turn one into the other.

Code points are those of RFC 8489 §14, RFC 8445 §16.1, RFC 8656 §18, RFC 8016 §3.3, and for NOMINATION that of all who
have it (draft-thatcher-ice-renomination-01 names none); NETWORK_INFO is libwebrtc's: an interface's number << 16 | its
cost.  What `Message.get` returns and `encode` takes:

========================================  =====================================================================
attribute                                 value
========================================  =====================================================================
addresses (mapped, peer, relayed, …)      `TransportAddress`
USERNAME, REALM, SOFTWARE, …              `str`
NONCE, DATA, USERHASH, …                  `bytes`, so that what must be echoed is echoed unchanged
PRIORITY, LIFETIME, tie-breakers, …       `int`
USE_CANDIDATE, DONT_FRAGMENT              `True`
EVEN_PORT                                 `bool`: whether the next higher port is to be reserved
address families                          4 or 6
ERROR_CODE, ADDRESS_ERROR_CODE, ICMP      `ErrorCode`, `AddressErrorCode`, `Icmp`
UNKNOWN_ATTRIBUTES                        tuple of code points
PASSWORD_ALGORITHM(S)                     `PasswordAlgorithmEntry`, tuple of them
anything without a name here              `bytes`
========================================  =====================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import partial
from struct import Struct
from typing import Any, Final, Literal, TypeAlias

from edgeice.errors import LocalProtocolError
from edgeice.stun import values

__all__ = ["Attribute"]


class Attribute(IntEnum):
    """Attribute code points; those below 0x8000 must be understood by the receiver (RFC 8489 §14)."""

    MAPPED_ADDRESS = 0x0001
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    CHANNEL_NUMBER = 0x000C
    LIFETIME = 0x000D
    XOR_PEER_ADDRESS = 0x0012
    DATA = 0x0013
    REALM = 0x0014
    NONCE = 0x0015
    XOR_RELAYED_ADDRESS = 0x0016
    REQUESTED_ADDRESS_FAMILY = 0x0017
    EVEN_PORT = 0x0018
    REQUESTED_TRANSPORT = 0x0019
    DONT_FRAGMENT = 0x001A
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    PASSWORD_ALGORITHM = 0x001D
    USERHASH = 0x001E
    XOR_MAPPED_ADDRESS = 0x0020
    RESERVATION_TOKEN = 0x0022
    PRIORITY = 0x0024
    USE_CANDIDATE = 0x0025
    ADDITIONAL_ADDRESS_FAMILY = 0x8000
    ADDRESS_ERROR_CODE = 0x8001
    PASSWORD_ALGORITHMS = 0x8002
    ALTERNATE_DOMAIN = 0x8003
    ICMP = 0x8004
    SOFTWARE = 0x8022
    ALTERNATE_SERVER = 0x8023
    FINGERPRINT = 0x8028
    ICE_CONTROLLED = 0x8029
    ICE_CONTROLLING = 0x802A
    MOBILITY_TICKET = 0x8030
    NOMINATION = 0xC001
    NETWORK_INFO = 0xC057


# Groups of attributes by the type of their value; they type `get`.
AddressAttribute: TypeAlias = Literal[
    Attribute.MAPPED_ADDRESS,
    Attribute.XOR_MAPPED_ADDRESS,
    Attribute.XOR_PEER_ADDRESS,
    Attribute.XOR_RELAYED_ADDRESS,
    Attribute.ALTERNATE_SERVER,
]
TextAttribute: TypeAlias = Literal[Attribute.USERNAME, Attribute.REALM, Attribute.SOFTWARE, Attribute.ALTERNATE_DOMAIN]
BytesAttribute: TypeAlias = Literal[
    Attribute.NONCE, Attribute.DATA, Attribute.USERHASH, Attribute.RESERVATION_TOKEN, Attribute.MOBILITY_TICKET
]
IntAttribute: TypeAlias = Literal[
    Attribute.PRIORITY,
    Attribute.LIFETIME,
    Attribute.CHANNEL_NUMBER,
    Attribute.REQUESTED_TRANSPORT,
    Attribute.REQUESTED_ADDRESS_FAMILY,
    Attribute.ADDITIONAL_ADDRESS_FAMILY,
    Attribute.ICE_CONTROLLED,
    Attribute.ICE_CONTROLLING,
    Attribute.NOMINATION,
    Attribute.NETWORK_INFO,
]
BoolAttribute: TypeAlias = Literal[Attribute.USE_CANDIDATE, Attribute.DONT_FRAGMENT, Attribute.EVEN_PORT]

#: Sizes in `SIZES` that are no size: decoded and checked at once; ends the part of a message that integrity covers.
VARIABLE: Final = -1
TRAILER: Final = -2

_HEADER = Struct("!HH").pack
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")

_DOMAIN_LIMIT: Final = 255  # RFC 8489 §14.16
_NO_LIMIT: Final = 0xFFFF

#: kind -> exact size in bytes, VARIABLE or TRAILER; a kind that is not in here is unknown.
SIZES: dict[int, int] = dict.fromkeys(
    (Attribute.MESSAGE_INTEGRITY, Attribute.MESSAGE_INTEGRITY_SHA256, Attribute.FINGERPRINT), TRAILER
)
#: kind of one size, unless that is zero -> (datagram, where the attribute starts) -> tuple of its value.
UNPACKERS: dict[int, Callable[[bytes, int], tuple[Any, ...]]] = {}
#: kind of variable size -> (value bytes, transaction id) -> Python value; can raise DecodeError.
DECODERS: dict[int, Callable[[bytes, bytes], Any]] = {}
#: kind -> Python value -> whole attribute with header and padding.
ENCODERS: dict[int, Callable[[Any], bytes]] = {}
#: The same for attributes that are masked with the transaction id.
MASKED_ENCODERS: dict[int, Callable[[Any, bytes], bytes]] = {}


def frame(kind: int, value: bytes) -> bytes:
    """Put header and zero padding around a value (RFC 8489 §14)."""
    size = len(value)
    return _HEADER(kind, size) + value + _PADDING[size & 3]


def encode_attribute(kind: int, value: object, transaction_id: bytes) -> bytes:
    """Encode a masked attribute, or one without a name here, whose value is its bytes."""
    masked = MASKED_ENCODERS.get(kind)
    if masked is not None:
        return masked(value, transaction_id)
    if kind in SIZES or not isinstance(value, bytes):
        raise LocalProtocolError(f"attribute 0x{kind:04x} cannot be encoded from {type(value).__name__}")
    return frame(kind, value)


def _integer(layout: str, size: int, *kinds: Attribute) -> None:
    """Register big-endian integers; `layout` is that of the padded value."""
    pack = Struct("!HH" + layout).pack
    unpack = Struct("!4x" + layout).unpack_from
    for kind in kinds:
        SIZES[kind] = size
        UNPACKERS[kind] = unpack
        ENCODERS[kind] = partial(pack, kind, size)


def _flag(*kinds: Attribute) -> None:
    """Register attributes whose presence is all they say."""
    for kind in kinds:
        SIZES[kind] = 0
        ENCODERS[kind] = partial(values.encode_flag, _HEADER(kind, 0))


def _text(limit: int, *kinds: Attribute) -> None:
    """Register UTF-8 text of at most `limit` bytes when sent."""

    def encoder(kind: int) -> Callable[[Any], bytes]:
        def encode(value: str | bytes) -> bytes:
            raw = value.encode() if isinstance(value, str) else value
            size = len(raw)
            if size > limit:
                raise LocalProtocolError(f"attribute 0x{kind:04x} is limited to {limit} bytes, not {size}")
            return _HEADER(kind, size) + raw + _PADDING[size & 3]

        return encode

    for kind in kinds:
        SIZES[kind] = VARIABLE
        DECODERS[kind] = values.decode_text
        ENCODERS[kind] = encoder(kind)


def _opaque(
    kind: Attribute, decode: Callable[[bytes, bytes], bytes] = values.decode_bytes, *, limit: int = _NO_LIMIT
) -> None:
    """Register bytes, at most `limit` when sent."""

    def encode(value: bytes) -> bytes:
        if len(value) > limit:
            raise LocalProtocolError(f"{kind.name} is limited to {limit} bytes, not {len(value)}")
        return frame(kind, value)

    SIZES[kind] = VARIABLE
    DECODERS[kind] = decode
    ENCODERS[kind] = encode


def _block(kind: Attribute, size: int) -> None:
    """Register exactly `size` bytes."""

    def encode(value: bytes) -> bytes:
        if len(value) != size:
            raise LocalProtocolError(f"{kind.name} has {size} bytes, not {len(value)}")
        return frame(kind, value)

    SIZES[kind] = size
    UNPACKERS[kind] = Struct(f"!4x{size}s").unpack_from
    ENCODERS[kind] = encode


def _structured(kind: Attribute, decode: Callable[[bytes, bytes], Any], encode: Callable[[Any], bytes]) -> None:
    """Register an attribute with fields of its own."""
    SIZES[kind] = VARIABLE
    DECODERS[kind] = decode
    ENCODERS[kind] = lambda value: frame(kind, encode(value))


def _address(*kinds: Attribute) -> None:
    for kind in kinds:
        _structured(kind, values.decode_address, values.encode_address)


def _masked_address(*kinds: Attribute) -> None:
    def encoder(kind: Attribute) -> Callable[[Any, bytes], bytes]:
        return lambda value, transaction_id: frame(kind, values.encode_masked_address(value, transaction_id))

    for kind in kinds:
        SIZES[kind] = VARIABLE
        DECODERS[kind] = values.decode_masked_address
        MASKED_ENCODERS[kind] = encoder(kind)


_integer("I", 4, Attribute.PRIORITY, Attribute.LIFETIME, Attribute.NOMINATION, Attribute.NETWORK_INFO)
_integer("Q", 8, Attribute.ICE_CONTROLLED, Attribute.ICE_CONTROLLING)
_integer("Hxx", 4, Attribute.CHANNEL_NUMBER)
_integer("Bxxx", 4, Attribute.REQUESTED_TRANSPORT)
_flag(Attribute.USE_CANDIDATE, Attribute.DONT_FRAGMENT)
_text(values.SENT_LIMIT, Attribute.USERNAME, Attribute.REALM, Attribute.SOFTWARE)
_text(_DOMAIN_LIMIT, Attribute.ALTERNATE_DOMAIN)
_opaque(Attribute.NONCE, values.decode_nonce, limit=values.SENT_LIMIT)
_opaque(Attribute.DATA)
_opaque(Attribute.MOBILITY_TICKET)
_block(Attribute.USERHASH, 32)
_block(Attribute.RESERVATION_TOKEN, 8)
_address(Attribute.MAPPED_ADDRESS, Attribute.ALTERNATE_SERVER)
_masked_address(Attribute.XOR_MAPPED_ADDRESS, Attribute.XOR_PEER_ADDRESS, Attribute.XOR_RELAYED_ADDRESS)
_structured(Attribute.EVEN_PORT, values.decode_even_port, values.encode_even_port)
_structured(Attribute.REQUESTED_ADDRESS_FAMILY, values.decode_family, values.encode_family)
_structured(Attribute.ADDITIONAL_ADDRESS_FAMILY, values.decode_family, values.encode_family)
_structured(Attribute.ERROR_CODE, values.decode_error_code, values.encode_error_code)
_structured(Attribute.ADDRESS_ERROR_CODE, values.decode_address_error_code, values.encode_address_error_code)
_structured(Attribute.ICMP, values.decode_icmp, values.encode_icmp)
_structured(Attribute.UNKNOWN_ATTRIBUTES, values.decode_code_points, values.encode_code_points)
_structured(Attribute.PASSWORD_ALGORITHM, values.decode_password_algorithm, values.encode_password_algorithm)
_structured(Attribute.PASSWORD_ALGORITHMS, values.decode_password_algorithms, values.encode_password_algorithms)
