"""Which TSNs the peer need not wait for: the point up to which all was acknowledged or given up (RFC 3758 §3.5)."""

from __future__ import annotations

from collections.abc import Mapping

from edgeice.sctp.chunks import ForwardTsn
from edgeice.sctp.serial import MASK32
from edgeice.sctp.streams import OutChunk

__all__ = ["ForwardPoint"]

#: As many (stream, SSN) pairs as one FORWARD-TSN names.
_MAX_SKIPPED = 256


class ForwardPoint:
    """Advanced.Peer.Ack.Point, over chunks that a sender holds."""

    __slots__ = ("abandoned", "due", "point")

    def __init__(self, cum: int) -> None:
        self.point = cum
        #: A FORWARD-TSN should go out.
        self.due = False
        #: How many outstanding chunks were given up.
        self.abandoned = 0

    def acknowledged(self, cum: int) -> None:
        """The peer has everything up to `cum`."""
        if self.point <= cum:
            self.point = cum
            self.due = False

    def advance(self, outstanding: Mapping[int, OutChunk], cum: int) -> None:
        """Move the point over chunks that were given up (C2)."""
        point = max(self.point, cum)
        while (chunk := outstanding.get(point + 1)) is not None and chunk.message.abandoned:
            point += 1
        if point > self.point:
            self.due = point > cum
        self.point = point

    def take(self, outstanding: Mapping[int, OutChunk], cum: int) -> ForwardTsn:
        """The FORWARD-TSN that is due."""
        self.due = False
        skipped: dict[int, int] = {}
        point = cum
        while point < self.point:
            message = outstanding[point + 1].message
            if not message.unordered:
                if message.stream.id not in skipped and len(skipped) == _MAX_SKIPPED:
                    break
                skipped[message.stream.id] = message.ssn
            point += 1
        return ForwardTsn(point & MASK32, tuple(skipped.items()))
