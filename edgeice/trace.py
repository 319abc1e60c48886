"""Structured trace records, and the redaction of addresses and secrets in them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

import attrs

__all__ = ["Record", "Tracer", "ignore", "redact"]


@attrs.frozen
class Record:
    """One thing that happened: when (machine time, seconds), in which layer, what, and with which facts."""

    at: float
    layer: str
    name: str
    fields: Mapping[str, object] = attrs.field(factory=dict)


Tracer: TypeAlias = Callable[[Record], None]

_SECRET_FIELDS = frozenset({"pwd", "password", "credential", "key", "token", "nonce"})
_ADDRESS = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7})(?![\w.])")


def ignore(_record: Record) -> None:
    """The tracer that keeps nothing."""


def redact(record: Record, *, addresses: bool = True) -> Record:
    """A copy without secrets and, where asked, with IP addresses shortened to their network (/16 or /32)."""
    fields: dict[str, object] = {}
    for name, value in record.fields.items():
        if name in _SECRET_FIELDS:
            fields[name] = "[secret]"
        elif addresses and isinstance(value, str):
            fields[name] = _ADDRESS.sub(_shorten, value)
        else:
            fields[name] = value
    return attrs.evolve(record, fields=fields)


def _shorten(match: re.Match[str]) -> str:
    try:
        ip = ipaddress.ip_address(match[0])
    except ValueError:
        return match[0]
    prefix = 16 if ip.version == 4 else 32
    return str(ipaddress.ip_network((ip, prefix), strict=False).network_address)
