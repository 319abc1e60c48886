"""What was sent and is not cumulatively acknowledged, and what became of each chunk (RFC 9260 §6.2.1; RFC 3758 §3.5).

`sender` builds on this and decides what is sent when.  TSNs are unwrapped integers here.
"""

from __future__ import annotations

import heapq
import math

from edgeice.errors import RemoteProtocolError
from edgeice.sctp.forward import ForwardPoint
from edgeice.sctp.loss import LossDetection
from edgeice.sctp.probe import TailProbe
from edgeice.sctp.rto import RttEstimator
from edgeice.sctp.streams import ABANDONED, ACKED, BEHIND, IN_FLIGHT, LOST, OutChunk, OutMessage, SendQueue

__all__ = ["Scoreboard"]

_EVER = math.inf


class Scoreboard:
    """Every TSN above the cumulative acknowledgment, without holes, in `outstanding`."""

    __slots__ = (
        "_blocks",
        "_detection",
        "_lost",
        "_timed",
        "behind",
        "cum",
        "flight",
        "forward",
        "next_tsn",
        "outstanding",
        "outstanding_bytes",
        "partial",
        "probe",
        "queue",
        "rtt",
        "settles_at",
    )

    def __init__(self, queue: SendQueue, rtt: RttEstimator, initial_tsn: int) -> None:
        self.queue = queue
        self.rtt = rtt
        self.next_tsn = initial_tsn
        #: Cumulative TSN that the peer acknowledged.
        self.cum = initial_tsn - 1
        self.forward = ForwardPoint(self.cum)
        #: The peer understands FORWARD-TSN.
        self.partial = False
        self.outstanding: dict[int, OutChunk] = {}
        self.outstanding_bytes = 0
        #: Bytes sent on the present path, not acknowledged and not held for lost.
        self.flight = 0
        #: The same of the path that was left while it worked.
        self.behind = 0
        #: When all that is behind should be acknowledged, infinity while nothing is.
        self.settles_at = _EVER
        self.probe = TailProbe()
        self._detection = LossDetection()
        #: TSNs held for lost, a heap; entries whose chunk is no longer lost are skipped.
        self._lost: list[int] = []
        #: Gap blocks of the last SACK, first TSN -> last TSN.
        self._blocks: dict[int, int] = {}
        #: TSN whose round trip is measured, one at a time (RFC 9260 §6.3.1 C4).
        self._timed: int | None = None

    @property
    def idle(self) -> bool:
        """True if nothing waits to be sent or acknowledged."""
        return not self.outstanding and not self.queue.queued

    # --- acknowledged

    def _measure(self, tsn: int, now: float) -> float | None:
        """The round trip of the timed chunk, unless it was retransmitted (RFC 9260 §6.3.1 C5)."""
        self._timed = None
        chunk = self.outstanding.get(tsn)
        if chunk is None or chunk.transmits != 1 or chunk.state != IN_FLIGHT:
            return None
        rtt = now - chunk.sent_at
        self.rtt.sample(rtt)
        return rtt

    def _acknowledge_cumulative(self, cum: int, now: float) -> int:
        """Forget every chunk up to `cum`; returns the bytes of the present path that were not acknowledged before."""
        pop = self.outstanding.pop
        acked = flown = total = 0
        for tsn in range(self.cum + 1, cum + 1):
            chunk = pop(tsn)
            size = chunk.size
            total += size
            state = chunk.state
            if state == IN_FLIGHT:
                flown += size
                acked += size
            elif state == LOST:
                acked += size
            elif state == BEHIND:
                self.behind -= size
            elif state == ABANDONED:
                self.forward.abandoned -= 1
        if state < LOST:  # else the peer has it because it was told to go on without
            self._detection.acknowledged(chunk)
            if chunk.transmits > 1:
                self.rtt.confirm(now - chunk.sent_at)
        self.flight -= flown
        self.outstanding_bytes -= total
        self.cum = cum
        self.forward.acknowledged(cum)
        return acked

    def _acknowledge_gaps(self, cum: int, blocks: list[tuple[int, int]], now: float) -> tuple[int, int, int]:
        """Take gap blocks (RFC 9260 §6.2.1 D iii).

        Returns:
            Bytes of the present path newly acknowledged, the highest TSN newly acknowledged or 0, and the highest one
            that is.
        """
        previous = self._blocks
        current: dict[int, int] = {}
        acked = 0
        newest = 0
        end = cum + 1  # a block at cum + 1 would have moved cum
        for start_offset, end_offset in blocks:
            first = cum + start_offset
            last = cum + end_offset
            if first <= end or last < first:
                continue  # inverted, overlapping or unsorted: nothing can be learned from it, at no cost
            if last >= self.next_tsn:
                raise RemoteProtocolError("acknowledgment of data never sent")
            current[first] = end = last
            # What the last SACK said already need not be walked again.
            for tsn in range(previous.get(first, first - 1) + 1, last + 1):
                chunk = self.outstanding[tsn]
                state = chunk.state
                if state in (IN_FLIGHT, LOST):
                    if tsn == self._timed:
                        self._measure(tsn, now)
                    if state == IN_FLIGHT:
                        self.flight -= chunk.size
                    chunk.state = ACKED
                    acked += chunk.size
                    newest = tsn
                    self._detection.acknowledged(chunk)
                elif state == BEHIND:
                    self.behind -= chunk.size
                    chunk.state = ACKED
        self._blocks = current
        return acked, newest, end

    # --- lost and given up

    def _lose(self, chunk: OutChunk, now: float) -> None:
        """Mark a chunk for retransmission, or abandon its message (RFC 3758 §3.5 A3)."""
        message = chunk.message
        chunk.state = LOST
        if self._timed is not None and self._timed >= chunk.tsn:
            # Its acknowledgment may now come from the retransmission, or wait for it.
            self._timed = None
        limit = message.max_retransmits
        if self.partial and ((limit is not None and chunk.transmits > limit) or message.expires_at <= now):
            self._abandon(message)
        else:
            heapq.heappush(self._lost, chunk.tsn)

    def _expire(self, message: OutMessage) -> None:
        """The message at the head of the queue outlived its lifetime before all of it was sent."""
        if message.offset and self.partial:
            self._abandon(message)
            self.forward.advance(self.outstanding, self.cum)
        elif message.offset:
            message.expires_at = _EVER  # the peer cannot skip it: finish what was begun
        else:
            self.queue.discard(message)

    def _abandon(self, message: OutMessage) -> None:
        """Give up a message: none of it is sent any more (RFC 3758 §3.5)."""
        if message.abandoned:
            return
        message.abandoned = True
        if message.offset < message.size:
            self.queue.discard(message)
        for tsn in range(max(message.first_tsn, self.cum + 1), message.last_tsn + 1):
            chunk = self.outstanding[tsn]
            if tsn == self.probe.tsn:
                self.probe.disarm()  # no acknowledgment will tell of it
            if chunk.state == IN_FLIGHT:
                self.flight = max(self.flight - chunk.size, 0)
            elif chunk.state == BEHIND:
                self.behind = max(self.behind - chunk.size, 0)
            chunk.state = ABANDONED
            chunk.wire = b""
            self.forward.abandoned += 1
