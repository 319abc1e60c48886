"""Which protocol a datagram belongs to, by its first byte (RFC 7983 §7)."""

from __future__ import annotations

from enum import Enum

__all__ = ["Kind", "classify"]


class Kind(Enum):
    """The protocols that may share one 5-tuple."""

    STUN = "stun"
    DTLS = "dtls"
    CHANNEL_DATA = "channel_data"
    RTP = "rtp"


def _kind_of(first: int) -> Kind | None:
    if first <= 3:
        return Kind.STUN
    if 20 <= first <= 63:
        return Kind.DTLS
    if 64 <= first <= 79:
        return Kind.CHANNEL_DATA
    if 128 <= first <= 191:
        return Kind.RTP
    return None


_KINDS: tuple[Kind | None, ...] = tuple(_kind_of(first) for first in range(256))


def classify(data: bytes) -> Kind | None:
    """The protocol of a datagram; None for an empty one and for first bytes that RFC 7983 leaves open."""
    return _KINDS[data[0]] if data else None
