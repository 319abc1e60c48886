"""What a bad link, a broken peer or an attacker makes of an honest input, and the least that is left of a finding."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, Literal

__all__ = ["LIMIT", "minimize", "mutate"]

#: Longest input that `mutate` makes, bytes: more than a datagram holds, and twice the largest signaling message.
LIMIT: Final = 80_000

#: Where lengths, counts and numbers turn over.
_WORDS: Final = (0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 19, 20, 21, 255, 256, 0x7FFF, 0x8000, 0xFFFC, 0xFFFD, 0xFFFF)
_BYTES: Final = (0, 1, 0x0A, 0x20, 0x22, 0x30, 0x5C, 0x7B, 0x7F, 0x80, 0xC0, 0xFE, 0xFF)
_DIGITS: Final = re.compile(rb"[0-9]+")
_NUMBERS: Final = (b"0", b"00", b"-1", b"65536", b"4294967296", b"18446744073709551616", b"9" * 5000, b"1e999", b"1.5")
_REPEATS: Final = (2, 3, 10, 100, 2000)
_CHANGES: Final = (1, 1, 1, 2, 3, 6)

_Change = Callable[[Random, bytearray, Sequence[bytes], Sequence[bytes]], None]


def mutate(dice: Random, seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """An honest input with one to six changes.

    Args:
        dice: The only source of chance: equal dice give equal inputs.
        seeds: Honest inputs, at least one.
        tokens: What has a meaning in them.
    """
    data = bytearray(dice.choice(seeds))
    for _ in range(dice.choice(_CHANGES)):
        dice.choice(_OPERATIONS)(dice, data, seeds, tokens)
        del data[LIMIT:]
    return bytes(data)


def minimize(data: bytes, fails: Callable[[bytes], bool], *, tries: int = 2000) -> bytes:
    """A part of `data` that still fails, with as many of its bytes as possible made plain.

    Args:
        data: An input that fails.
        fails: Whether an input fails in the same way.
        tries: How often that is asked at most.
    """

    def still(candidate: bytes) -> bool:
        nonlocal tries
        tries -= 1
        return tries >= 0 and fails(candidate)

    size = max(len(data) // 2, 1)
    while tries > 0 and data:
        at, shortened = 0, False
        while at < len(data):
            candidate = data[:at] + data[at + size :]
            if still(candidate):
                data, shortened = candidate, True
            else:
                at += size
        if size == 1 and not shortened:
            break
        size = max(size // 2, 1)
    for at in range(len(data)):
        if data[at] and still(candidate := data[:at] + b"\0" + data[at + 1 :]):
            data = candidate
    return data


def _place(dice: Random, data: bytearray) -> int:
    """Half of the time near the beginning, where most headers stand."""
    size = len(data) + 1
    return dice.randrange(min(size, 40) if dice.randrange(2) else size)


def _truncate(dice: Random, data: bytearray, _seeds: Sequence[bytes], _tokens: Sequence[bytes]) -> None:
    del data[_place(dice, data) :]


def _flip(dice: Random, data: bytearray, _seeds: Sequence[bytes], _tokens: Sequence[bytes]) -> None:
    if data:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def _set_byte(dice: Random, data: bytearray, _seeds: Sequence[bytes], _tokens: Sequence[bytes]) -> None:
    if data:
        data[dice.randrange(len(data))] = dice.choice(_BYTES)


def _set_word(dice: Random, data: bytearray, _seeds: Sequence[bytes], _tokens: Sequence[bytes]) -> None:
    """Lengths and counts are words at even places, relative to what stands before them."""
    at = _place(dice, data) & ~1
    order: Literal["big", "little"] = "little" if dice.randrange(4) == 0 else "big"
    data[at : at + 2] = dice.choice((*_WORDS, len(data) & 0xFFFF)).to_bytes(2, order)


def _delete(dice: Random, data: bytearray, _seeds: Sequence[bytes], _tokens: Sequence[bytes]) -> None:
    at = _place(dice, data)
    del data[at : at + 1 + dice.randrange(32)]


def _repeat(dice: Random, data: bytearray, _seeds: Sequence[bytes], _tokens: Sequence[bytes]) -> None:
    at = _place(dice, data)
    times = dice.choice(_REPEATS)
    data[at:at] = data[at : at + 1 + dice.randrange(64 if times < 1000 else 4)] * times


def _move(dice: Random, data: bytearray, _seeds: Sequence[bytes], _tokens: Sequence[bytes]) -> None:
    at = _place(dice, data)
    size = 1 + dice.randrange(32)
    piece = bytes(data[at : at + size])
    del data[at : at + size]
    at = _place(dice, data)
    data[at:at] = piece


def _insert(dice: Random, data: bytearray, _seeds: Sequence[bytes], _tokens: Sequence[bytes]) -> None:
    at = _place(dice, data)
    data[at:at] = bytes(dice.randrange(256) for _ in range(1 + dice.randrange(8)))


def _insert_token(dice: Random, data: bytearray, _seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    at = _place(dice, data)
    data[at : at + dice.randrange(8)] = dice.choice(tokens or _NUMBERS)


def _set_number(dice: Random, data: bytearray, _seeds: Sequence[bytes], _tokens: Sequence[bytes]) -> None:
    found = [match.span() for match in _DIGITS.finditer(data)]
    if found:
        start, end = dice.choice(found)
        data[start:end] = dice.choice(_NUMBERS)


def _splice(dice: Random, data: bytearray, seeds: Sequence[bytes], _tokens: Sequence[bytes]) -> None:
    other = bytearray(dice.choice(seeds))
    data[_place(dice, data) :] = other[_place(dice, other) :]


_OPERATIONS: Final[tuple[_Change, ...]] = (
    _truncate,
    _flip,
    _set_byte,
    _set_word,
    _delete,
    _repeat,
    _move,
    _insert,
    _insert_token,
    _set_number,
    _splice,
)
