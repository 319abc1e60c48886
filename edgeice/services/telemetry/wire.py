"""What telemetry says on the wire: requests in, cursors, and rows packed into messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import attrs

from edgeice.errors import DecodeError
from edgeice.services.channel import MAX_CONTROL
from edgeice.services.control import ErrorCode, JsonValue, ServiceError, as_list, as_object, as_text

__all__ = [
    "ALL",
    "LOCAL",
    "MAX_INTERVAL",
    "MIN_INTERVAL",
    "SYSTEM",
    "Cursor",
    "Subscribe",
    "encode_gap",
    "encode_row",
    "encode_samples",
    "pack",
    "parse_names",
    "parse_subscribe",
]

SYSTEM: Final = "system"
LOCAL: Final = "local"
#: Subscribes to every stream that the session may have.
ALL: Final = "*"

#: Intervals are taken for the nearest of these, seconds.
MIN_INTERVAL: Final = 0.1
MAX_INTERVAL: Final = 3600.0

#: Streams that one message may name.
_MOST_NAMES: Final = 16
_LONGEST_NAME: Final = 64
_LONGEST_CURSOR: Final = 128
#: What a message of samples has besides its rows, bytes at most.
_ENVELOPE: Final = 256
#: Bytes of rows in a message, commas included.
_ROOM: Final = MAX_CONTROL - _ENVELOPE

_CURSOR: Final = re.compile(r"([a-z]{1,16}):([0-9a-f]{8}):([0-9]{1,15})", re.ASCII)
#: One encoder for all rows: `json.dumps` with these would make one for each.
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@attrs.frozen
class Cursor:
    """A place in a stream.  Opaque to operators: `STREAM:EPOCH:NUMBER`."""

    stream: str
    #: Random, 8 hexadecimal digits; another one makes numbers incomparable.
    epoch: str
    #: Of the last row or sample before the place, from 1 on; 0 is the beginning.
    number: int

    def __str__(self) -> str:
        return f"{self.stream}:{self.epoch}:{self.number}"

    @classmethod
    def parse(cls, value: JsonValue, name: str) -> Cursor | None:
        """A cursor of ours, None for any other short text; raises DecodeError for what can be none."""
        text = as_text(value, name)
        if len(text) > _LONGEST_CURSOR:
            raise DecodeError("control-range", f"{name} is longer than {_LONGEST_CURSOR} characters")
        match = _CURSOR.fullmatch(text)
        return None if match is None else cls(match[1], match[2], int(match[3]))


@attrs.frozen
class Subscribe:
    """What an operator asks for."""

    #: Names in the order given, each once; `*` may be among them.
    streams: tuple[str, ...]
    #: Whether a cursor was given, and which, None if it is none of ours.
    has_since: bool
    since: Cursor | None
    #: Seconds, within the bounds; None for the device's choice.
    interval: float | None

    def resumes(self, stream: str) -> bool:
        """Whether the subscription to a stream goes on with an earlier one."""
        return self.has_since and (self.since is None or self.since.stream == stream)


def parse_subscribe(value: JsonValue) -> Subscribe:
    """Read the value of `subscribe`; raises DecodeError, or ServiceError `limit` for too many names."""
    members = as_object(value, "subscribe")
    streams = parse_names(members.get("streams"), "subscribe.streams")
    if not streams:
        raise DecodeError("control-range", "subscribe.streams is empty")
    since = members.get("since")
    return Subscribe(
        streams,
        since is not None,
        None if since is None else Cursor.parse(since, "subscribe.since"),
        _parse_interval(members.get("interval")),
    )


def parse_names(value: JsonValue, name: str) -> tuple[str, ...]:
    """Names of streams, each once; raises as `parse_subscribe` does."""
    items = as_list(value, name)
    if len(items) > _MOST_NAMES:
        raise ServiceError(ErrorCode.LIMIT, f"{name} has more than {_MOST_NAMES} names")
    names = [as_text(item, f"a name in {name}") for item in items]
    if any(len(each) > _LONGEST_NAME for each in names):
        raise DecodeError("control-range", f"a name in {name} is longer than {_LONGEST_NAME} characters")
    return tuple(dict.fromkeys(names))


def _parse_interval(value: JsonValue) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DecodeError("control-type", "subscribe.interval is not a number")
    if value <= 0:
        raise DecodeError("control-range", "subscribe.interval is not above 0")
    return float(min(max(value, MIN_INTERVAL), MAX_INTERVAL))  # compared first: an integer may be too large for a float


def encode_row(at: float, name: str, value: object, tags: Mapping[str, str]) -> str:
    """One row as JSON; `tags` are left out where there are none."""
    row: dict[str, object] = {"t": at, "name": name, "value": value}
    if tags:
        row["tags"] = tags
    return _encode(row)


def encode_samples(cursor: Cursor, rows: Iterable[str] = (), *, more: bool = False) -> str:
    """A message of rows that are JSON already, as `pack` grouped them; `cursor` is the place after them.

    `more` says that other rows of the same sample follow, which its place is after as well.
    """
    rest = ',"more":true' if more else ""
    return f'{{"samples":{{"stream":"{cursor.stream}","cursor":"{cursor}","rows":[{",".join(rows)}]{rest}}}}}'


def encode_gap(stream: str, lost: int | None) -> str:
    """What of a stream will not come; None where nobody knows how much."""
    return _encode({"gap": {"stream": stream, "lost": lost}})


def pack(rows: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    """Group rows, given with their sizes in bytes, so that each group fits into a message; none for no rows."""
    group: list[str] = []
    size = 0
    for row, octets in rows:
        if group and size + octets + 1 > _ROOM:
            yield group
            group, size = [], 0
        group.append(row)
        size += octets + 1
    if group:
        yield group
