"""CRC32c (RFC 9260 Appendix A) by the fastest way at hand.

A wheel (`google-crc32c`, then `crc32c`) uses the processor's instruction.  Without one, `fold_extend` treats the bytes
as one big integer over GF(2) and folds its low half into its high half by a few shifts and exclusive-ors, until so
little is left that a byte table does the rest: the interpreter then works on kilobytes at a time, some twelve times
faster than a table over each byte.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

__all__ = ["Extend", "crc32c", "extend", "fold_extend"]

Extend: TypeAlias = Callable[[int, bytes], int]

_POLYNOMIAL = 0x82F63B78  # bit-reflected
_ONES = 0xFFFFFFFF
#: Folding stops at this many bits; the table does the rest.
_FOLD_UNTIL = 256
#: How far below the half a fold may go to find a power of x with few terms.
_FOLD_SEARCH = 256

_Fold: TypeAlias = tuple[int, int, tuple[int, ...]]


@lru_cache(maxsize=1)
def _table() -> tuple[int, ...]:
    """The 256 remainders of one byte."""
    rows = []
    for value in range(256):
        remainder = value
        for _ in range(8):
            remainder = (remainder >> 1) ^ _POLYNOMIAL if remainder & 1 else remainder >> 1
        rows.append(remainder)
    return tuple(rows)


@lru_cache(maxsize=1)
def _powers() -> list[int]:
    """x^n modulo the polynomial for n = 0, 1, …; grows on demand.  Bit 31 is x^0."""
    return [1 << 31]


def _power(n: int) -> int:
    powers = _powers()
    while len(powers) <= n:
        last = powers[-1]
        powers.append((last >> 1) ^ _POLYNOMIAL if last & 1 else last >> 1)
    return powers[n]


@lru_cache(maxsize=512)
def _plan(size: int) -> tuple[tuple[_Fold, ...], int]:
    """How to fold `size` bytes: (bits to fold, their mask, shifts) for each step, and the bytes that are left.

    The low h bits are the first bytes, the highest powers of x.  Folding replaces them by their product with
    x^(bits that remain), reduced; among the cuts near the middle the one with the fewest terms is taken.
    """
    steps: list[_Fold] = []
    bits = size * 8
    while bits > _FOLD_UNTIL:
        half = (bits - 32) // 2 // 8 * 8
        cut = min(range(half, max(half - _FOLD_SEARCH, 32), -8), key=lambda h: _power(bits - h).bit_count())
        remaining = bits - cut
        factor = _power(remaining)
        base = remaining - (cut + 31)
        steps.append((cut, (1 << cut) - 1, tuple(base + j for j in range(32) if factor >> j & 1)))
        bits = remaining
    return tuple(steps), bits // 8


def fold_extend(crc: int, data: bytes) -> int:
    """Continue `crc` over `data` in pure Python."""
    table = _table()
    remainder = crc ^ _ONES
    if len(data) >= 4:
        steps, left = _plan(len(data))
        value = int.from_bytes(data, "little") ^ remainder
        for cut, mask, shifts in steps:
            low = value & mask
            value >>= cut
            for shift in shifts:
                value ^= low << shift
        data = value.to_bytes(left, "little")
        remainder = 0
    for byte in data:
        remainder = table[(remainder ^ byte) & 0xFF] ^ (remainder >> 8)
    return remainder ^ _ONES


def _choose() -> Extend:
    """The fastest implementation that can be imported."""
    try:
        with warnings.catch_warnings():
            # Without its C part the package warns and would be slower than folding.
            warnings.simplefilter("ignore")
            import google_crc32c  # noqa: PLC0415 - optional; absent on 32-bit ARM
    except ImportError:
        pass
    else:
        if google_crc32c.implementation == "c":
            extend_c: Extend = google_crc32c.extend
            return extend_c
    try:
        import crc32c as package  # noqa: PLC0415 - optional
    except ImportError:
        return fold_extend

    def extend_package(crc: int, data: bytes) -> int:
        result: int = package.crc32c(data, crc)
        return result

    return extend_package


#: Continue a CRC over more bytes: `extend(extend(0, a), b) == crc32c(a + b)`.
extend: Extend = _choose()


def crc32c(data: bytes) -> int:
    """The CRC32c of `data`; in an SCTP packet it stands in little-endian order."""
    return extend(0, data)
