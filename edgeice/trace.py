"""Structured trace records: what happened, in which layer and session, and with which facts; never a secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import attrs

__all__ = ["Record", "Tracer", "entry_of", "fields_of", "ignore", "of_session", "plain", "without_secrets"]


@attrs.frozen
class Record:
    """One thing that happened: when (machine time, seconds), in which layer, what, and with which facts."""

    at: float
    layer: str
    name: str
    fields: Mapping[str, object] = attrs.field(factory=dict)


Tracer: TypeAlias = Callable[[Record], None]

_SECRET_FIELDS = frozenset({"pwd", "password", "credential", "key", "token", "nonce"})


def ignore(_record: Record) -> None:
    """The tracer that keeps nothing."""


def fields_of(event: object) -> dict[str, object]:
    """What an event, an attrs class, says."""
    return {each.name: getattr(event, each.name) for each in attrs.fields(type(event))}  # type: ignore[arg-type]


def of_session(tracer: Tracer, session: int) -> Tracer:
    """What traces for one session: its records have a field `session`."""
    if tracer is ignore:
        return ignore

    def trace(record: Record) -> None:
        tracer(Record(record.at, record.layer, record.name, {"session": session, **record.fields}))

    return trace


def without_secrets(record: Record) -> Record:
    """A copy whose fields hold no secret, by their names; bytes, which may be anything, become their number."""
    fields: dict[str, object] = {}
    for name, value in record.fields.items():
        if name in _SECRET_FIELDS:
            fields[name] = "[secret]"
        elif isinstance(value, bytes | bytearray | memoryview):
            fields[name] = f"[{len(value)} bytes]"
        else:
            fields[name] = value
    return attrs.evolve(record, fields=fields)


def entry_of(record: Record) -> dict[str, object]:
    """A record as strings, numbers, lists and dicts; the time in seconds as the record has it."""
    facts = {name: plain(value) for name, value in record.fields.items()}
    return {"at": round(record.at, 4), "layer": record.layer, "name": record.name, **facts}


def plain(value: object) -> object:
    """A value for JSON: of an enumeration its value, of what JSON does not have its text."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(plain(name)): plain(item) for name, item in value.items()}
    return str(getattr(value, "value", value))
