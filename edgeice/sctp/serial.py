"""Serial number arithmetic (RFC 1982) by unwrapping.

Inside the association TSNs are plain integers that never wrap: what arrives is unwrapped against a number that is
known to be near, and what leaves is taken modulo 2^32.  Comparisons are then ordinary ones.
"""

from __future__ import annotations

__all__ = ["MASK16", "MASK32", "unwrap32"]

MASK16 = 0xFFFF
MASK32 = 0xFFFFFFFF


def unwrap32(near: int, value: int) -> int:
    """The integer nearest to `near` that equals `value` modulo 2^32 (RFC 1982 §3.2)."""
    return near + ((value - near + 0x80000000) & MASK32) - 0x80000000
