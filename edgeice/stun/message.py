"""The STUN message codec (RFC 8489 §5, §14).

`decode` checks structure, the sizes and values of known attributes and FINGERPRINT, and gives a `Message`: what
somebody claims.  `authenticate` checks the integrity attribute and gives an `AuthenticatedMessage`: what the holder
of the key said.  Sessions act on the second type only; a type checker sees to it, since neither is the other.

Attributes that follow the integrity attribute are in neither, except FINGERPRINT and the other form of integrity
(RFC 8489 §14.5, §14.6).  Of a repeated attribute the first counts (RFC 8489 §14).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from enum import IntEnum
from struct import Struct
from typing import Final, Literal, overload

from edgeice.addresses import TransportAddress
from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.stun.attributes import (
    DECODERS,
    ENCODERS,
    SIZES,
    TRAILER,
    UNPACKERS,
    VARIABLE,
    AddressAttribute,
    Attribute,
    BoolAttribute,
    BytesAttribute,
    IntAttribute,
    TextAttribute,
    encode_attribute,
)
from edgeice.stun.integrity import (
    FINGERPRINT_SIZE,
    INTEGRITY_HEADERS,
    INTEGRITY_SIZES,
    AuthenticationError,
    Integrity,
    fingerprint_value,
    integrity_value,
    verify,
)
from edgeice.stun.values import (
    MAGIC_COOKIE,
    AddressErrorCode,
    ErrorCode,
    Icmp,
    PasswordAlgorithmEntry,
)

__all__ = ["AuthenticatedMessage", "Message", "MessageClass", "Method", "authenticate", "decode", "encode", "is_stun"]


class MessageClass(IntEnum):
    """What role a message plays in a transaction (RFC 8489 §5)."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class Method(IntEnum):
    """What a message is about (RFC 8489 §18.2, RFC 8656 §17)."""

    BINDING = 1
    ALLOCATE = 3
    REFRESH = 4
    SEND = 6
    DATA = 7
    CREATE_PERMISSION = 8
    CHANNEL_BIND = 9


HEADER_SIZE: Final = 20
TRANSACTION_ID_SIZE: Final = 12
_METHOD_LIMIT: Final = 0xFFF
_OVER_THE_END: Final = "an attribute reaches over the end"

_HEADER = Struct("!HHI12s")
_pack_header = _HEADER.pack
_unpack_header = _HEADER.unpack_from
_unpack_tlv = Struct("!HH").unpack_from
_pack_fingerprint = Struct("!HHI").pack
_unpack_fingerprint = Struct("!4xI").unpack_from
_COOKIE: Final = MAGIC_COOKIE.to_bytes(4, "big")
# Plain integers: looking a member up in its enumeration costs more than comparing it.
_MESSAGE_INTEGRITY: Final = int(Attribute.MESSAGE_INTEGRITY)
_MESSAGE_INTEGRITY_SHA256: Final = int(Attribute.MESSAGE_INTEGRITY_SHA256)
_FINGERPRINT: Final = int(Attribute.FINGERPRINT)

# How nearly every message ends: MESSAGE-INTEGRITY and FINGERPRINT, here read at once.
_USUAL_TRAILER_SIZE: Final = 32
_unpack_usual_trailer = Struct("!I20xII").unpack_from
_MESSAGE_INTEGRITY_HEADER: Final = _MESSAGE_INTEGRITY << 16 | 20
_FINGERPRINT_HEADER: Final = _FINGERPRINT << 16 | 4


def _type_code(method: int, message_class: int) -> int:
    if not 0 <= method <= _METHOD_LIMIT:
        raise LocalProtocolError(f"a method has 12 bits: {method:#x}")
    # RFC 8489 §5: the class bits stand between the method bits, at 4 and 8.
    return (
        method & 0x00F
        | (method & 0x070) << 1
        | (method & 0xF80) << 2
        | (message_class & 1) << 4
        | (message_class & 2) << 7
    )


def _split_type(code: int) -> tuple[int, MessageClass]:
    method = code & 0x00F | code >> 1 & 0x070 | code >> 2 & 0xF80
    return method, MessageClass(code >> 4 & 1 | code >> 7 & 2)


_TYPE_CODES: Final[dict[tuple[int, MessageClass], int]] = {
    (method, message_class): _type_code(method, message_class) for method in Method for message_class in MessageClass
}
_TYPES: Final[dict[int, tuple[int, MessageClass]]] = {code: pair for pair, code in _TYPE_CODES.items()}


class _Attributes:
    """What Message and AuthenticatedMessage share: the header and reading attributes."""

    __slots__ = (
        "_values",
        "data",
        "has_fingerprint",
        "message_class",
        "method",
        "transaction_id",
        "unknown_required",
    )

    #: The datagram.
    data: bytes
    #: A `Method`, or the bare number of one that is not known here.
    method: int
    message_class: MessageClass
    transaction_id: bytes
    #: Code points below 0x8000 that are not known here, in order, each once (RFC 8489 §6.3.1).
    unknown_required: tuple[int, ...]
    has_fingerprint: bool
    # First occurrences, in order.
    _values: dict[int, object]

    @overload
    def get(self, attribute: AddressAttribute) -> TransportAddress | None: ...
    @overload
    def get(self, attribute: TextAttribute) -> str | None: ...
    @overload
    def get(self, attribute: BytesAttribute) -> bytes | None: ...
    @overload
    def get(self, attribute: IntAttribute) -> int | None: ...
    @overload
    def get(self, attribute: BoolAttribute) -> bool | None: ...
    @overload
    def get(self, attribute: Literal[Attribute.ERROR_CODE]) -> ErrorCode | None: ...
    @overload
    def get(self, attribute: Literal[Attribute.ADDRESS_ERROR_CODE]) -> AddressErrorCode | None: ...
    @overload
    def get(self, attribute: Literal[Attribute.ICMP]) -> Icmp | None: ...
    @overload
    def get(self, attribute: Literal[Attribute.UNKNOWN_ATTRIBUTES]) -> tuple[int, ...] | None: ...
    @overload
    def get(self, attribute: Literal[Attribute.PASSWORD_ALGORITHM]) -> PasswordAlgorithmEntry | None: ...
    @overload
    def get(self, attribute: Literal[Attribute.PASSWORD_ALGORITHMS]) -> tuple[PasswordAlgorithmEntry, ...] | None: ...
    @overload
    def get(self, attribute: int) -> object: ...
    def get(self, attribute: int) -> object:
        """Value of an attribute, None if it is absent; never raises.

        The types of the values stand in `edgeice.stun.attributes`.  Integrity attributes and FINGERPRINT are not
        to be read: see `integrity` and `has_fingerprint`.
        """
        return self._values.get(attribute)

    def get_all(self, attribute: AddressAttribute) -> tuple[TransportAddress, ...]:
        """Every occurrence of an attribute that may stand more than once, such as XOR-RELAYED-ADDRESS of both families.

        Repetitions that are malformed are left out, as in `get`, which does not look at them.
        """
        found: list[TransportAddress] = []
        position = HEADER_SIZE
        while position < len(self.data):
            kind, size = _unpack_tlv(self.data, position)
            if SIZES.get(kind) == TRAILER:
                break
            if kind == attribute:
                with suppress(DecodeError):
                    raw = self.data[position + 4 : position + 4 + size]
                    found.append(DECODERS[kind](raw, self.transaction_id))
            position += size + 7 & ~3
        return tuple(found)

    def __contains__(self, attribute: int) -> bool:
        return attribute in self._values

    def __repr__(self) -> str:
        # Names only: values may be secrets or addresses.
        names = " ".join(Attribute(kind).name if kind in SIZES else f"0x{kind:04x}" for kind in self._values)
        method = Method(self.method).name if self.method in Method.__members__.values() else f"0x{self.method:03x}"
        return f"<{type(self).__name__} {method} {self.message_class.name} {self.transaction_id.hex()} [{names}]>"


class Message(_Attributes):
    """A well-formed message of which nothing is proved."""

    __slots__ = ("_sha1_at", "_sha256_at")

    def __init__(  # noqa: PLR0917  # called once per datagram: keywords cost
        self,
        data: bytes,
        kind: tuple[int, MessageClass],
        transaction_id: bytes,
        values: dict[int, object],
        unknown_required: tuple[int, ...],
        trailer: tuple[int, int, bool],
    ) -> None:
        self.data = data
        self.method, self.message_class = kind
        self.transaction_id = transaction_id
        self._values = values
        self.unknown_required = unknown_required
        self._sha1_at, self._sha256_at, self.has_fingerprint = trailer

    @property
    def has_integrity(self) -> bool:
        """Whether there is something that `authenticate` could verify."""
        return bool(self._sha1_at or self._sha256_at)


class AuthenticatedMessage(_Attributes):
    """A message that the holder of a key sent; made by `authenticate` only."""

    __slots__ = ("integrity",)

    #: The form of integrity that was verified, and that an answer has to have (RFC 8489 §9.1.3).
    integrity: Integrity

    def __init__(self, message: Message, integrity: Integrity) -> None:
        self.data = message.data
        self.method = message.method
        self.message_class = message.message_class
        self.transaction_id = message.transaction_id
        self._values = message._values  # noqa: SLF001  # the two classes are one, seen twice
        self.unknown_required = message.unknown_required
        self.has_fingerprint = message.has_fingerprint
        self.integrity = integrity


def is_stun(data: bytes) -> bool:
    """Whether a datagram is a STUN message and nothing else that shares the port (RFC 8489 §5, RFC 7983 §7)."""
    size = len(data)
    return (
        size >= HEADER_SIZE
        and data[0] < 4
        and data[4:8] == _COOKIE
        and not size & 3
        and int.from_bytes(data[2:4], "big") + HEADER_SIZE == size
    )


def decode(data: bytes) -> Message:  # noqa: C901, PLR0912  # a call per attribute would double its cost
    """Parse a datagram.

    Linear in its size whatever it holds.  Integrity is not looked at: see `authenticate`.

    Raises:
        DecodeError: `stun_header` if it is no STUN message, `stun_length` if a length is wrong, `stun_attribute` if
            a known attribute has a wrong size or value, `stun_integrity` and `stun_fingerprint` if those are malformed,
            or FINGERPRINT is wrong or not last.
    """
    end = len(data)
    if end < HEADER_SIZE:
        raise DecodeError("stun_header", "shorter than a header")
    code, length, cookie, transaction_id = _unpack_header(data)
    if cookie != MAGIC_COOKIE or code > 0x3FFF:
        raise DecodeError("stun_header", "type or cookie")
    if length & 3 or length + HEADER_SIZE != end:
        raise DecodeError("stun_length", f"header says {length}, datagram has {end - HEADER_SIZE}")
    values: dict[int, object] = {}
    has_unknown = False
    trailer = (0, 0, False)
    position = HEADER_SIZE
    try:
        while position < end:
            kind, size = _unpack_tlv(data, position)
            expected = SIZES.get(kind)
            if expected == TRAILER:
                trailer = _scan_trailer(data, position)
                break
            if kind not in values:
                if expected == size:
                    values[kind] = UNPACKERS[kind](data, position)[0] if size else True
                else:
                    value = data[position + 4 : position + 4 + size]
                    if len(value) != size:
                        raise DecodeError("stun_length", _OVER_THE_END)
                    if expected == VARIABLE:
                        values[kind] = DECODERS[kind](value, transaction_id)
                    elif expected is not None:
                        raise DecodeError("stun_attribute", f"0x{kind:04x} has {size} bytes")
                    else:
                        values[kind] = value
                        has_unknown = True
            position += size + 7 & ~3  # its header, and padding to a multiple of four
    except struct.error:
        raise DecodeError("stun_length", _OVER_THE_END) from None
    if position > end:
        raise DecodeError("stun_length", _OVER_THE_END)
    # RFC 8489 §14: those below 0x8000 must be understood.
    unknown = tuple(kind for kind in values if kind < 0x8000 and kind not in SIZES) if has_unknown else ()
    return Message(data, _TYPES.get(code) or _split_type(code), transaction_id, values, unknown, trailer)


def _scan_trailer(data: bytes, position: int) -> tuple[int, int, bool]:  # noqa: C901  # one flat walk
    """Read from the first integrity attribute or FINGERPRINT on: where both integrities are, whether a FINGERPRINT is.

    Everything else here is ignored (RFC 8489 §14.5, §14.6).
    """
    end = len(data)
    if end - position == _USUAL_TRAILER_SIZE:
        integrity_header, fingerprint_header, value = _unpack_usual_trailer(data, position)
        if (
            integrity_header == _MESSAGE_INTEGRITY_HEADER
            and fingerprint_header == _FINGERPRINT_HEADER
            and value == fingerprint_value(data[:-FINGERPRINT_SIZE])
        ):
            return position, 0, True
    sha1_at = sha256_at = 0
    has_fingerprint = False
    while position < end:
        kind, size = _unpack_tlv(data, position)
        following = position + (size + 7 & ~3)
        if following > end:
            raise DecodeError("stun_length", _OVER_THE_END)
        if kind == _MESSAGE_INTEGRITY:
            if size != 20:
                raise DecodeError("stun_integrity", f"{size} bytes")
            # RFC 8489 §14.6: only FINGERPRINT counts after the SHA-256 form.
            if not sha1_at and not sha256_at:
                sha1_at = position
        elif kind == _MESSAGE_INTEGRITY_SHA256:
            # RFC 8489 §14.6: a usage may allow shorter ones; ICE and TURN do not.
            if size != 32:
                raise DecodeError("stun_integrity", f"{size} bytes")
            sha256_at = sha256_at or position
        elif kind == _FINGERPRINT:
            # RFC 8489 §14.7: it is the last attribute.
            if size != 4 or following != end:
                raise DecodeError("stun_fingerprint", "not last or not four bytes")
            if fingerprint_value(data[:position]) != _unpack_fingerprint(data, position)[0]:
                raise DecodeError("stun_fingerprint", "wrong")
            has_fingerprint = True
        position = following
    return sha1_at, sha256_at, has_fingerprint


def authenticate(message: Message, key: bytes, *, integrity: Integrity | None = None) -> AuthenticatedMessage:
    """Verify the integrity of a message.

    Args:
        message: What `decode` gave.
        key: The password's bytes (short-term) or `long_term_key`.
        integrity: The only form to accept: in a response, the one that the request had (RFC 8489 §9.1.4).
            Otherwise SHA-256 is looked at if it is there, else SHA-1.

    Raises:
        AuthenticationError: `integrity_missing` or `integrity_mismatch`.
    """
    sha256_at = message._sha256_at  # noqa: SLF001  # the other half of the codec
    sha1_at = message._sha1_at  # noqa: SLF001
    if sha256_at and integrity != "sha1":
        position, integrity = sha256_at, "sha256"
    elif sha1_at and integrity != "sha256":
        position, integrity = sha1_at, "sha1"
    else:
        raise AuthenticationError("integrity_missing", 400)
    if not verify(message.data, position, integrity, key):
        raise AuthenticationError("integrity_mismatch", 401)
    return AuthenticatedMessage(message, integrity)


def encode(
    method: int,
    message_class: MessageClass,
    transaction_id: bytes,
    attributes: Sequence[tuple[int, object]],
    *,
    key: bytes | None = None,
    integrity: Integrity = "sha1",
    fingerprint: bool = True,
) -> bytes:
    """Build a message.

    Args:
        method: A `Method`.
        message_class: Request, indication, success or error.
        transaction_id: 12 bytes, unguessable and fresh for each transaction (RFC 8489 §5).
        attributes: Code points and values in the order in which they are to stand.
        key: Adds an integrity attribute made with it.
        integrity: The form of that attribute.
        fingerprint: Whether to end with FINGERPRINT.

    Raises:
        LocalProtocolError: A value does not fit its attribute, or the message is too long.
    """
    if len(transaction_id) != TRANSACTION_ID_SIZE:
        raise LocalProtocolError(f"a transaction id has 12 bytes, not {len(transaction_id)}")
    parts = []
    try:
        for kind, value in attributes:
            encoder = ENCODERS.get(kind)
            parts.append(encode_attribute(kind, value, transaction_id) if encoder is None else encoder(value))
        code = _TYPE_CODES.get((method, message_class))
        if code is None:
            code = _type_code(method, message_class)
        body = b"".join(parts)
        length = len(body)
        if key is not None:
            length += INTEGRITY_SIZES[integrity]
            # RFC 8489 §14.5: the length that is hashed ends at the attribute itself.
            covered = _pack_header(code, length, MAGIC_COOKIE, transaction_id) + body
            body += INTEGRITY_HEADERS[integrity] + integrity_value(key, covered, integrity)
        if not fingerprint:
            return _pack_header(code, length, MAGIC_COOKIE, transaction_id) + body
        before = _pack_header(code, length + FINGERPRINT_SIZE, MAGIC_COOKIE, transaction_id) + body
        return before + _pack_fingerprint(_FINGERPRINT, 4, fingerprint_value(before))
    except (struct.error, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise LocalProtocolError(f"a value does not fit its attribute: {error}") from error
