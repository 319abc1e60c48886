"""Scripts of what happens to a conversation: which datagrams are damaged, how, and where the copies come from."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from random import Random
from typing import Final

import attrs

__all__ = ["Fault", "damaged", "example_scripts", "faults_of"]

_FAULT: Final = struct.Struct("!BBHHBB")
#: Faults in a script at most.
_MOST: Final = 256
_KINDS: Final = 8


@attrs.frozen
class Fault:
    """One damaged copy."""

    #: Of how many datagrams after the one of the fault before; 0 is another copy of the same.
    gap: int
    kind: int
    place: int
    value: int
    size: int
    #: Free for the conversation: from where it comes, and the like.
    origin: int


def faults_of(script: bytes) -> Iterator[tuple[int, Fault]]:
    """The faults of a script with the number of the datagram that each damages; any bytes are a script."""
    number = 0
    for fields in _FAULT.iter_unpack(script[: min(len(script) // _FAULT.size, _MOST) * _FAULT.size]):
        fault = Fault(fields[0] % 8, *fields[1:])
        number += fault.gap
        yield number, fault


def damaged(data: bytes, fault: Fault, earlier: list[bytes]) -> bytes:
    """What a fault makes of a datagram; `earlier` ones are mixed in."""
    changed = bytearray(data)
    at = fault.place % (len(changed) + 1)
    size = fault.size % 64
    kind = fault.kind % _KINDS
    if kind == 0:
        changed[at : at + 1] = bytes((fault.value & 0xFF,))
    elif kind == 1:
        changed[at & ~1 : (at & ~1) + 2] = fault.value.to_bytes(2, "big")
    elif kind == 2:
        del changed[at:]
    elif kind == 3:
        del changed[at : at + size + 1]
    elif kind == 4:
        changed[at:at] = fault.value.to_bytes(2, "big") * ((size + 1) * (32 if fault.value & 1 else 1))
    elif kind == 5 and earlier:
        other = earlier[fault.value % len(earlier)]
        changed[at:] = other[at:]
    elif kind == 6 and earlier:
        changed = bytearray(earlier[fault.value % len(earlier)])  # an old one comes again
    elif kind == 7 and changed:
        changed[fault.place % len(changed)] ^= 1 << fault.value % 8
    return bytes(changed)


def example_scripts(count: int = 6, faults: int = 12) -> tuple[bytes, ...]:
    """Scripts to begin with, the empty one among them."""
    dice = Random(7)
    return (b"", *(dice.randbytes(_FAULT.size * faults) for _ in range(count)))
