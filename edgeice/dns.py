"""The part of DNS messages that look-ups of our own need: one question out, records in (RFC 1035 §4).

`decode_response` is total and linear in the message's size: names are followed through few pointers, each of which has
to point backwards.
"""

from __future__ import annotations

import ipaddress
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate
from struct import Struct
from typing import Final, TypeAlias

import attrs

from edgeice.errors import DecodeError, LocalProtocolError

__all__ = [
    "AAAA",
    "IN",
    "SRV",
    "A",
    "Labels",
    "Record",
    "Service",
    "address_of",
    "decode_response",
    "decode_services",
    "encode_question",
    "in_order",
    "labels_of",
]

#: Types (RFC 1035 §3.2.2, RFC 3596 §2.1, RFC 2782) and the class of the Internet.
A: Final = 1
AAAA: Final = 28
SRV: Final = 33
IN: Final = 1

#: A name by its labels, in lower case (RFC 4343), without the empty one of the root.
Labels: TypeAlias = tuple[bytes, ...]

_HEADER: Final = Struct("!6H")
_QUESTION: Final = Struct("!HH")
_RECORD: Final = Struct("!HHIH")
_SERVICE: Final = Struct("!HHH")
_QR: Final = 0x8000
#: Opcode and response code: what is not a plain success answers nothing.
_FAILURE: Final = 0x780F
_LABEL_LIMIT: Final = 63
_NAME_LIMIT: Final = 255
#: Pointers followed in one name; a sender that compresses well needs two or three.
_POINTER_LIMIT: Final = 16
#: Records of a message that are looked at; one with more is refused.
_RECORD_LIMIT: Final = 256
_OVER_THE_END: Final = "reaches over the end"


@attrs.frozen
class Record:
    """One resource record of an answer or additional section."""

    name: Labels
    type: int
    #: With the flag of Multicast DNS in its highest bit (RFC 6762 §10.2).
    klass: int
    #: Seconds for which it holds.
    ttl: int
    data: bytes
    #: Of SRV, the name at the end of `data` (RFC 2782), which may point into the message; otherwise empty.
    target: Labels = ()


def labels_of(name: str) -> Labels:
    """A host name's labels.

    Raises:
        LocalProtocolError: It is no name that DNS can carry.
    """
    try:
        labels = tuple(name.lower().removesuffix(".").encode("ascii").split(b"."))
    except UnicodeEncodeError:
        raise LocalProtocolError("a host name is ASCII") from None
    if not all(0 < len(label) <= _LABEL_LIMIT for label in labels) or _wire_size(labels) > _NAME_LIMIT:
        raise LocalProtocolError("a host name has labels of 1 to 63 bytes, and at most 255 in all")
    return labels


def encode_question(name: Labels, kind: int, *, klass: int = IN) -> bytes:
    """A query with one question and identifier 0 (RFC 6762 §18)."""
    encoded = b"".join(bytes((len(label),)) + label for label in name) + b"\0"
    return _HEADER.pack(0, 0, 1, 0, 0, 0) + encoded + _QUESTION.pack(kind, klass)


def decode_response(data: bytes) -> list[Record]:
    """The records of a successful response, those of the authority section left out.

    Raises:
        DecodeError: `dns_message` if it is malformed, too large to be looked at, or no successful response.
    """
    try:
        _identifier, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
        if not flags & _QR or flags & _FAILURE:
            raise DecodeError("dns_message", "no successful response")
        if questions + answers + authorities + additional > _RECORD_LIMIT:
            raise DecodeError("dns_message", "too many records")
        position = _HEADER.size
        for _ in range(questions):
            position = _skip_name(data, position) + _QUESTION.size
        records: list[Record] = []
        for number in range(answers + authorities + additional):
            record, position = _read_record(data, position)
            if not answers <= number < answers + authorities:
                records.append(record)
    except (struct.error, IndexError):
        raise DecodeError("dns_message", _OVER_THE_END) from None
    return records


@attrs.frozen
class Service:
    """A server of a service (RFC 2782)."""

    #: The lowest comes first.
    priority: int
    #: Its share among those of the same priority.
    weight: int
    port: int
    #: The server's host name.
    target: str

    @property
    def is_refusal(self) -> bool:
        """The name does not offer the service."""
        return not self.target


def decode_services(data: bytes) -> list[Service]:
    """The servers in an answer to a question for SRV records.

    Raises:
        DecodeError: As `decode_response`; and `dns_message` for a name that is not ASCII.
    """
    services: list[Service] = []
    for record in decode_response(data):
        if record.type == SRV and record.klass == IN:
            try:
                target = b".".join(record.target).decode("ascii")
            except UnicodeDecodeError:
                raise DecodeError("dns_message", "a target that is no host name") from None
            priority, weight, port = _SERVICE.unpack_from(record.data)
            services.append(Service(priority, weight, port, target))
    return services


def in_order(services: Iterable[Service], draw: Callable[[int], int]) -> list[Service]:
    """Servers by priority, those of the same drawn by their weights (RFC 2782); `draw(n)` is between 0 and n."""
    ordered: list[Service] = []
    left = sorted(services, key=lambda each: (each.priority, each.weight))
    while left:
        same = [each for each in left if each.priority == left[0].priority]
        sums = list(accumulate(each.weight for each in same))
        # The lightest come first, so that those of weight 0 are drawn too, by a 0.
        drawn = same[bisect_left(sums, draw(sums[-1]))]
        left.remove(drawn)
        ordered.append(drawn)
    return ordered


def address_of(record: Record) -> str | None:
    """The address that an A or AAAA record holds, in canonical form; None for any other record."""
    if record.type == A and len(record.data) == 4:
        return str(ipaddress.IPv4Address(record.data))
    if record.type == AAAA and len(record.data) == 16:
        return str(ipaddress.IPv6Address(record.data))
    return None


def _read_record(data: bytes, position: int) -> tuple[Record, int]:
    name_at = position
    position = _skip_name(data, position)
    kind, klass, ttl, size = _RECORD.unpack_from(data, position)
    position += _RECORD.size
    end = position + size
    if end > len(data):
        raise DecodeError("dns_message", _OVER_THE_END)
    # Only what somebody may have asked for: names cost more than all the rest.
    name = _read_name(data, name_at) if kind in {A, AAAA, SRV} else ()
    target: Labels = ()
    if kind == SRV:
        target = _read_name(data, position + 6)
        if _skip_name(data, position + 6) != end:
            raise DecodeError("dns_message", "an SRV record of another size")
    return Record(name, kind, klass, ttl, data[position:end], target), end


def _skip_name(data: bytes, position: int) -> int:
    """Where what follows a name begins."""
    while (size := data[position]) and size <= _LABEL_LIMIT:
        position += 1 + size
    if not size:
        return position + 1
    if size < 0xC0:
        raise DecodeError("dns_message", "a label of unknown kind")
    return position + 2


def _read_name(data: bytes, position: int) -> Labels:
    """A name, through its pointers (RFC 1035 §4.1.4)."""
    labels: list[bytes] = []
    room = _NAME_LIMIT - 1
    for _ in range(_POINTER_LIMIT + 1):
        start = position
        while (size := data[position]) and size <= _LABEL_LIMIT:
            label = data[position + 1 : position + 1 + size]
            room -= 1 + size
            if len(label) != size or room < 0:
                raise DecodeError("dns_message", "a name that is cut off or too long")
            labels.append(label.lower())
            position += 1 + size
        if not size:
            return tuple(labels)
        pointed = (size & 0x3F) << 8 | data[position + 1]
        if size < 0xC0 or pointed >= start:
            raise DecodeError("dns_message", "a name that points forward, or of unknown kind")
        position = pointed
    raise DecodeError("dns_message", "a name of too many pieces")


def _wire_size(labels: Labels) -> int:
    return sum(1 + len(label) for label in labels) + 1
