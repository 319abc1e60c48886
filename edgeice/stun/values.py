"""How the value of each kind of attribute is laid out in bytes.

Decoders take the value without padding and the transaction id, encoders give the value without padding.
A decoder raises DecodeError, an encoder LocalProtocolError; nothing else leaves either.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from functools import lru_cache
from struct import Struct, unpack
from typing import Final, Literal, NamedTuple

from edgeice.addresses import TransportAddress
from edgeice.errors import DecodeError, LocalProtocolError

__all__ = [
    "MAGIC_COOKIE",
    "AddressErrorCode",
    "ErrorCode",
    "Icmp",
    "PasswordAlgorithm",
    "PasswordAlgorithmEntry",
]

#: RFC 8489 §5.
MAGIC_COOKIE: Final = 0x2112A442
_COOKIE_BYTES: Final = MAGIC_COOKIE.to_bytes(4, "big")
_PORT_MASK: Final = MAGIC_COOKIE >> 16

_FAMILY_V4: Final = 1
_FAMILY_V6: Final = 2
# What has to be understood; senders stay below 509 bytes (RFC 8489 §14.3, §14.8-14.10, §14.14).
_RECEIVED_LIMIT: Final = 763
SENT_LIMIT: Final = 508

_V4 = Struct("!xBHI")
_V6 = Struct("!xBH16s")
_PAIR = Struct("!HH")


class PasswordAlgorithm(IntEnum):
    """How a long-term key is made of user name, realm and password (RFC 8489 §18.5)."""

    MD5 = 1
    SHA256 = 2


class PasswordAlgorithmEntry(NamedTuple):
    """One algorithm as PASSWORD-ALGORITHM and PASSWORD-ALGORITHMS carry it (RFC 8489 §14.11, §14.12)."""

    #: A `PasswordAlgorithm` if it is one of those.
    algorithm: int
    parameters: bytes = b""


class ErrorCode(NamedTuple):
    """Value of ERROR-CODE (RFC 8489 §14.8): 300 to 699, and text for people."""

    code: int
    reason: str = ""


class AddressErrorCode(NamedTuple):
    """Value of ADDRESS-ERROR-CODE (RFC 8656 §18.12): what went wrong for one address family."""

    family: Literal[4, 6]
    code: int
    reason: str = ""


class Icmp(NamedTuple):
    """Value of ICMP (RFC 8656 §18.13): an ICMP error that a relay received about a peer."""

    type: int
    code: int
    #: The next-hop MTU for "packet too big", otherwise zero.
    data: int = 0


def encode_flag(whole: bytes, value: object) -> bytes:
    """The attribute `whole`, made beforehand; False has no encoding."""
    if value is not True:
        raise LocalProtocolError("a flag attribute is True or left out")
    return whole


def decode_text(value: bytes, _transaction_id: bytes) -> str:
    """UTF-8 of at most 763 bytes (RFC 8489 §14.3, §14.9, §14.14)."""
    if len(value) > _RECEIVED_LIMIT:
        raise DecodeError("stun_attribute", f"text of {len(value)} bytes")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise DecodeError("stun_attribute", "text is not UTF-8") from None


def decode_nonce(value: bytes, _transaction_id: bytes) -> bytes:
    """At most 763 bytes, whatever they are: they are only echoed (RFC 8489 §14.10)."""
    if len(value) > _RECEIVED_LIMIT:
        raise DecodeError("stun_attribute", f"nonce of {len(value)} bytes")
    return value


def decode_bytes(value: bytes, _transaction_id: bytes) -> bytes:
    """The value as it is."""
    return value


def _v4_text(number: int) -> str:
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


# Text to bytes is slow in pure Python, and one process talks to few addresses.
@lru_cache(maxsize=256)
def _packed(ip: str) -> bytes:
    try:
        return ipaddress.ip_address(ip).packed
    except ValueError:
        raise LocalProtocolError(f"not an IP address: {ip!r}") from None


def _decode_address(value: bytes, port_mask: int, v4_mask: int, v6_mask: bytes) -> TransportAddress:
    if len(value) == 8:
        family, port, number = _V4.unpack(value)
        if family == _FAMILY_V4:
            return TransportAddress(_v4_text(number ^ v4_mask), port ^ port_mask)
    elif len(value) == 20:
        family, port, raw = _V6.unpack(value)
        if family == _FAMILY_V6:
            return TransportAddress(str(ipaddress.IPv6Address(_xor(raw, v6_mask))), port ^ port_mask)
    # RFC 8489 §14.1: any other family, or a size that is not its own.
    raise DecodeError("stun_attribute", f"address of {len(value)} bytes")


def _encode_address(address: TransportAddress, port_mask: int, mask: bytes) -> bytes:
    raw = _packed(address.ip)
    family = _FAMILY_V4 if len(raw) == 4 else _FAMILY_V6
    if not 0 <= address.port <= 0xFFFF:
        raise LocalProtocolError(f"port out of range: {address.port}")
    return _PAIR.pack(family, address.port ^ port_mask) + _xor(raw, mask[: len(raw)])


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")


def decode_address(value: bytes, _transaction_id: bytes) -> TransportAddress:
    """An address in clear (RFC 8489 §14.1)."""
    return _decode_address(value, 0, 0, bytes(16))


def encode_address(value: TransportAddress) -> bytes:
    """An address in clear (RFC 8489 §14.1)."""
    return _encode_address(value, 0, bytes(16))


def decode_masked_address(value: bytes, transaction_id: bytes) -> TransportAddress:
    """An address xored with cookie and transaction id (RFC 8489 §14.2)."""
    return _decode_address(value, _PORT_MASK, MAGIC_COOKIE, _COOKIE_BYTES + transaction_id)


def encode_masked_address(value: TransportAddress, transaction_id: bytes) -> bytes:
    """An address xored with cookie and transaction id (RFC 8489 §14.2)."""
    return _encode_address(value, _PORT_MASK, _COOKIE_BYTES + transaction_id)


def _decode_reason(value: bytes) -> str:
    if len(value) > _RECEIVED_LIMIT:
        raise DecodeError("stun_attribute", f"reason of {len(value)} bytes")
    # It is shown to people and nothing depends on it, so broken UTF-8 does not cost the code.
    return value.decode(errors="replace")


def _decode_code(hundreds: int, number: int) -> int:
    hundreds &= 7  # The other bits are reserved and ignored.
    if not 3 <= hundreds <= 6 or number > 99:
        raise DecodeError("stun_attribute", f"error class {hundreds}, number {number}")
    return hundreds * 100 + number


def _encode_code(code: int, reason: str) -> bytes:
    raw = reason.encode()
    if not 300 <= code <= 699 or len(raw) > SENT_LIMIT:
        raise LocalProtocolError(f"not an error code and reason: {code}, {len(raw)} bytes")
    return bytes(divmod(code, 100)) + raw


def decode_error_code(value: bytes, _transaction_id: bytes) -> ErrorCode:
    """Two reserved bytes, class, number, reason (RFC 8489 §14.8)."""
    if len(value) < 4:
        raise DecodeError("stun_attribute", "ERROR-CODE is too short")
    return ErrorCode(_decode_code(value[2], value[3]), _decode_reason(value[4:]))


def encode_error_code(value: tuple[int, str]) -> bytes:
    """Two reserved bytes, class, number, reason (RFC 8489 §14.8)."""
    return b"\0\0" + _encode_code(*value)


def decode_address_error_code(value: bytes, _transaction_id: bytes) -> AddressErrorCode:
    """Family, a reserved byte, then as in ERROR-CODE (RFC 8656 §18.12)."""
    if len(value) < 4:
        raise DecodeError("stun_attribute", "ADDRESS-ERROR-CODE is too short")
    return AddressErrorCode(_decode_family(value[0]), _decode_code(value[2], value[3]), _decode_reason(value[4:]))


def encode_address_error_code(value: tuple[Literal[4, 6], int, str]) -> bytes:
    """Family, a reserved byte, then as in ERROR-CODE (RFC 8656 §18.12)."""
    family, code, reason = value
    return encode_family(family)[:2] + _encode_code(code, reason)


def _decode_family(number: int) -> Literal[4, 6]:
    if number == _FAMILY_V4:
        return 4
    if number == _FAMILY_V6:
        return 6
    raise DecodeError("stun_attribute", f"address family {number}")


def decode_family(value: bytes, _transaction_id: bytes) -> Literal[4, 6]:
    """Family and three reserved bytes (RFC 8656 §18.6, §18.11)."""
    if len(value) != 4:
        raise DecodeError("stun_attribute", f"address family of {len(value)} bytes")
    return _decode_family(value[0])


def encode_family(value: int) -> bytes:
    """Family and three reserved bytes (RFC 8656 §18.6, §18.11)."""
    if value not in (4, 6):
        raise LocalProtocolError(f"address family is 4 or 6, not {value!r}")
    return bytes((_FAMILY_V4 if value == 4 else _FAMILY_V6, 0, 0, 0))


def decode_even_port(value: bytes, _transaction_id: bytes) -> bool:
    """The R bit (RFC 8656 §18.7)."""
    if len(value) != 1:
        raise DecodeError("stun_attribute", f"EVEN-PORT of {len(value)} bytes")
    return bool(value[0] & 0x80)


def encode_even_port(value: bool) -> bytes:
    """The R bit (RFC 8656 §18.7)."""
    return b"\x80" if value else b"\0"


def decode_icmp(value: bytes, _transaction_id: bytes) -> Icmp:
    """Two reserved bytes, 7 bits of type, 9 of code, 4 bytes of data (RFC 8656 §18.13)."""
    if len(value) != 8:
        raise DecodeError("stun_attribute", f"ICMP of {len(value)} bytes")
    both, data = unpack("!2xHI", value)
    return Icmp(both >> 9, both & 0x1FF, data)


def encode_icmp(value: tuple[int, int, int]) -> bytes:
    """Two reserved bytes, 7 bits of type, 9 of code, 4 bytes of data (RFC 8656 §18.13)."""
    kind, code, data = value
    if not (0 <= kind < 1 << 7 and 0 <= code < 1 << 9 and 0 <= data < 1 << 32):
        raise LocalProtocolError(f"not an ICMP value: {value!r}")
    return (kind << 41 | code << 32 | data).to_bytes(8, "big")


def decode_code_points(value: bytes, _transaction_id: bytes) -> tuple[int, ...]:
    """Attribute code points, two bytes each (RFC 8489 §14.13)."""
    if len(value) % 2:
        raise DecodeError("stun_attribute", "UNKNOWN-ATTRIBUTES has an odd size")
    return unpack(f"!{len(value) // 2}H", value)


def encode_code_points(value: tuple[int, ...]) -> bytes:
    """Attribute code points, two bytes each (RFC 8489 §14.13)."""
    return b"".join(code_point.to_bytes(2, "big") for code_point in value)


def decode_password_algorithm(value: bytes, transaction_id: bytes) -> PasswordAlgorithmEntry:
    """Exactly one algorithm (RFC 8489 §14.12)."""
    entries = decode_password_algorithms(value, transaction_id)
    if len(entries) != 1:
        raise DecodeError("stun_attribute", f"PASSWORD-ALGORITHM holds {len(entries)} algorithms")
    return entries[0]


def encode_password_algorithm(value: tuple[int, bytes]) -> bytes:
    """Exactly one algorithm (RFC 8489 §14.12)."""
    return encode_password_algorithms((value,))


def decode_password_algorithms(value: bytes, _transaction_id: bytes) -> tuple[PasswordAlgorithmEntry, ...]:
    """Algorithms in the server's order of preference (RFC 8489 §14.11)."""
    entries: list[PasswordAlgorithmEntry] = []
    position = 0
    while position < len(value):
        if position + 4 > len(value):
            raise DecodeError("stun_attribute", "password algorithm is cut off")
        algorithm, size = _PAIR.unpack_from(value, position)
        end = position + 4 + size
        if end > len(value):
            raise DecodeError("stun_attribute", "password algorithm is cut off")
        entries.append(PasswordAlgorithmEntry(algorithm, value[position + 4 : end]))
        position = end + (-size & 3)
    return tuple(entries)


def encode_password_algorithms(value: tuple[tuple[int, bytes], ...]) -> bytes:
    """Algorithms in the server's order of preference (RFC 8489 §14.11)."""
    return b"".join(
        _PAIR.pack(algorithm, len(parameters)) + parameters + bytes(-len(parameters) & 3)
        for algorithm, parameters in value
    )
