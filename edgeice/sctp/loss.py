"""Which chunks are lost, judged by what was acknowledged after them (RFC 9260 §7.2.4, RFC 8985 §6.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgeice.sctp.streams import IN_FLIGHT, OutChunk

__all__ = ["MISSING_REPORTS", "LossDetection"]

MISSING_REPORTS = 3  # RFC 9260 §7.2.4


class LossDetection:
    """Counts missing reports, and compares times.

    A chunk that was sent once is lost with the third report that something behind it arrived.  RFC 9260 leaves one that
    is lost again to T3-rtx, 400 ms at least and the whole window sent anew; here it is lost once something that was
    sent later than its repeat is acknowledged, by more than reordering explains, as TCP does it.
    """

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        #: When the latest of the chunks was sent that were sent once and are acknowledged.
        self._latest = 0.0

    def acknowledged(self, chunk: OutChunk) -> None:
        """The last of some chunks that were acknowledged together."""
        # Of a repeated one nobody knows which copy arrived.
        if chunk.transmits == 1 and chunk.sent_at > self._latest:
            self._latest = chunk.sent_at

    def find(
        self,
        outstanding: Mapping[int, OutChunk],
        cum: int,
        blocks: Mapping[int, int],
        newest: int,
        *,
        reports: int = MISSING_REPORTS,
        reordering: float,
    ) -> Iterator[OutChunk]:
        """Report the holes below a TSN missing, and give the chunks that are lost by that.

        Args:
            outstanding: Chunks by TSN, without holes above `cum`.
            cum: Cumulative TSN acknowledged.
            blocks: Gap blocks, first TSN -> last TSN, ascending.
            newest: TSN below which holes count: the highest that is newly acknowledged.
            reports: How many reports make a chunk lost that was sent once.
            reordering: Seconds by which packets may overtake each other.
        """
        later = self._latest - reordering
        hole = cum + 1
        for first, last in blocks.items():
            for tsn in range(hole, min(first, newest)):
                chunk = outstanding[tsn]
                if chunk.state != IN_FLIGHT:
                    continue
                chunk.misses += 1
                if chunk.sent_at < later if chunk.fast else chunk.misses >= reports:
                    chunk.fast = True
                    yield chunk
            hole = last + 1
            if hole > newest:
                return
