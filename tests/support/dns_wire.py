"""DNS messages built field by field, well-formed or not, without the codec."""

from __future__ import annotations

import ipaddress
import struct

__all__ = ["address_record", "encode_name", "record", "response"]


def encode_name(name: str) -> bytes:
    """A name without compression."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def record(
    name: bytes, kind: int, data: bytes, *, klass: int = 0x8001, ttl: int = 120, size: int | None = None
) -> bytes:
    """One record; `size` lies about that of its data."""
    return name + struct.pack("!HHIH", kind, klass, ttl, len(data) if size is None else size) + data


def address_record(name: str, ip: str, *, klass: int = 0x8001, ttl: int = 120) -> bytes:
    """An A or AAAA record."""
    packed = ipaddress.ip_address(ip).packed
    return record(encode_name(name), 1 if len(packed) == 4 else 28, packed, klass=klass, ttl=ttl)


def response(
    *answers: bytes,
    questions: tuple[bytes, ...] = (),
    authorities: tuple[bytes, ...] = (),
    additional: tuple[bytes, ...] = (),
    flags: int = 0x8400,
) -> bytes:
    """A response of these sections."""
    counts = (len(questions), len(answers), len(authorities), len(additional))
    return struct.pack("!6H", 0, flags, *counts) + b"".join((*questions, *answers, *authorities, *additional))
