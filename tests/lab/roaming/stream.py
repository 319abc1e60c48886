"""A stream of numbered records: made at one end, and judged where it comes back.

A record is 32 bytes: `edge`, its number, and 20 bytes that follow from that number alone.  So whoever reads the stream
knows each record whole, finds the next one behind bytes that are none, and can tell what is missing or came twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import attrs

__all__ = ["SIZE", "Reader", "Tally", "record", "tally"]

#: Bytes of a record.
SIZE = 32
_MAGIC = b"edge"


def record(number: int) -> bytes:
    """The record with a number."""
    counted = number.to_bytes(8, "big")
    return _MAGIC + counted + hashlib.sha256(counted).digest()[: SIZE - len(_MAGIC) - len(counted)]


def _number(data: bytes) -> int | None:
    """The number of a whole record, None for what is none."""
    number = int.from_bytes(data[4:12], "big")
    return number if data == record(number) else None


class Reader:
    """Takes a stream apart, whatever pieces it comes in."""

    def __init__(self) -> None:
        self._held = b""
        #: Bytes that were in no record.
        self.stray = 0
        self.digest = hashlib.sha256()
        #: Bytes of all.
        self.size = 0

    def read(self, data: bytes) -> Iterator[int]:
        """Take further bytes; gives the numbers of the records that they complete."""
        self.digest.update(data)
        self.size += len(data)
        held = self._held + data
        start = 0
        while start + SIZE <= len(held):
            number = _number(held[start : start + SIZE])
            if number is None:
                self.stray += 1
                start += 1
            else:
                yield number
                start += SIZE
        self._held = held[start:]

    def end(self) -> None:
        """The stream has ended: what is held is no record."""
        self.stray += len(self._held)
        self._held = b""


@attrs.frozen
class Tally:
    """What became of a stream's bytes."""

    lost: int
    duplicated: int
    #: Of records that came behind a later one.
    disordered: int


def tally(sent: int, arrived: Sequence[int]) -> Tally:
    """Compare the numbers that arrived, in their order, with those that were sent: 0 up to `sent`."""
    known = set(arrived)
    latest, disordered = -1, 0
    seen: set[int] = set()
    for number in arrived:
        disordered += number < latest and number not in seen
        latest = max(latest, number)
        seen.add(number)
    lost = sum(number not in known for number in range(sent))
    return Tally(lost * SIZE, (len(arrived) - len(known)) * SIZE, disordered * SIZE)
