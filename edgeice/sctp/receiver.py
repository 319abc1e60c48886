"""The receiving half: which TSNs came, what to acknowledge and when (RFC 9260 §6.2, §6.7; RFC 3758 §3.6)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque

from edgeice.sansio import DropCounter
from edgeice.sctp.chunks import MAX_GAP_BLOCKS, ForwardTsn, encode_sack
from edgeice.sctp.config import SctpConfig
from edgeice.sctp.reassembly import OVERHEAD, Reassembly
from edgeice.sctp.serial import MASK32, unwrap32

__all__ = ["Receiver"]

#: Gap blocks are 16-bit offsets, so nothing further ahead could be acknowledged.
_MAX_AHEAD = 0xFFFF
_MAX_DUPLICATES = 32
_IMMEDIATE = 0x08
_NEVER = math.inf


class Receiver:
    """Tracks TSNs (unwrapped integers), bounds what waits here, and decides when a SACK is due."""

    __slots__ = (
        "_advertised",
        "_batch",
        "_delay",
        "_drops",
        "_duplicates",
        "_gaps",
        "_immediate",
        "_limit",
        "_packets",
        "_saw_data",
        "_spare",
        "cum",
        "reassembly",
        "sack_at",
        "sack_due",
        "used",
    )

    def __init__(self, config: SctpConfig, initial_tsn: int, ready: deque[object], drops: DropCounter) -> None:
        #: Cumulative TSN.
        self.cum = initial_tsn - 1
        #: Bytes that wait for order, completion or the application.
        self.used = 0
        #: A SACK must go out now.
        self.sack_due = False
        #: Deadline of a delayed one.
        self.sack_at = _NEVER
        self.reassembly = Reassembly(ready, config.max_message_size)
        self._drops = drops
        self._limit = config.receive_window
        #: Beyond the window, for what fills a gap and so frees memory.
        self._spare = config.max_message_size
        self._delay = config.sack_delay
        self._advertised = config.receive_window
        #: Sorted [first, last] of what came above `cum`, with holes between.
        self._gaps: list[list[int]] = []
        self._duplicates: list[int] = []
        #: Packets with data since the last SACK, and since the batch began.
        self._packets = 0
        self._batch = 0
        self._saw_data = False
        self._immediate = False

    # --- input

    def begin_batch(self) -> None:
        """The packets up to the next call came together."""
        self._batch = 0

    def on_data(self, tsn: int, flags: int, stream_id: int, ssn: int, ppid: int, payload: bytes) -> None:  # noqa: PLR0917 - hot
        """Take a DATA chunk; `tsn` has 32 bits, `payload` is not empty.

        Raises:
            RemoteProtocolError: The peer breaks the protocol in a way that cannot be repaired.
        """
        self._saw_data = True
        if flags & _IMMEDIATE:
            self._immediate = True
        cost = len(payload) + OVERHEAD
        gaps = self._gaps
        ahead = (tsn - self.cum) & MASK32
        if ahead == 1:
            # Dropped without being noted, so that it comes again (RFC 9260 §6.2).
            if self.used + cost > self._limit + (self._spare if gaps else 0):
                self._refuse("window")
                return
            full = self.cum = self.cum + 1
            if gaps:
                self._immediate = True
                if gaps[0][0] == full + 1:
                    self.cum = gaps.pop(0)[1]
        else:
            full = self.cum + ahead
            if not self._note_ahead(full, ahead, cost):
                return
        self.used += cost - self.reassembly.add(full, flags, stream_id, ssn, ppid, payload)

    def _refuse(self, reason: str) -> None:
        self._drops.count(reason)
        self._immediate = True

    def _note_ahead(self, tsn: int, ahead: int, cost: int) -> bool:
        """Note a TSN that is not the next one; False if it is a duplicate or cannot be taken."""
        self._immediate = True  # RFC 9260 §6.7
        if ahead == 0 or ahead >= 0x80000000:
            self._duplicate(tsn & MASK32)
            return False
        if ahead > _MAX_AHEAD:
            self._refuse("tsn-ahead")
            return False
        gaps = self._gaps
        newest = not gaps or tsn > gaps[-1][1]
        at = len(gaps) if newest else bisect_right(gaps, tsn, key=lambda gap: gap[0])
        before = gaps[at - 1] if at else None
        after = gaps[at] if at < len(gaps) else None
        if before is not None and tsn <= before[1]:
            self._duplicate(tsn & MASK32)
            return False
        if self.used + cost > self._limit + (0 if newest else self._spare):
            self._refuse("window")
            return False
        if before is not None and before[1] + 1 == tsn:
            before[1] = tsn
            if after is not None and after[0] == tsn + 1:
                before[1] = after[1]
                del gaps[at]
        elif after is not None and after[0] == tsn + 1:
            after[0] = tsn
        elif len(gaps) >= MAX_GAP_BLOCKS:
            self._refuse("gap-blocks")
            return False
        else:
            gaps.insert(at, [tsn, tsn])
        return True

    def _duplicate(self, tsn: int) -> None:
        self._drops.count("duplicate-tsn")
        if len(self._duplicates) < _MAX_DUPLICATES:
            self._duplicates.append(tsn)

    def on_forward_tsn(self, chunk: ForwardTsn) -> None:
        """The peer gave up everything up to a TSN (RFC 3758 §3.6)."""
        self._saw_data = True
        self._immediate = True
        point = unwrap32(self.cum, chunk.new_cumulative)
        if point <= self.cum:
            return  # old: the SACK was lost
        self.cum = point
        gaps = self._gaps
        while gaps and gaps[0][0] <= self.cum + 1:
            self.cum = max(self.cum, gaps.pop(0)[1])
        self.used -= self.reassembly.skip(point, chunk.streams)

    def on_packet_end(self, *, now: float) -> None:
        """A packet was worked off: decide about its acknowledgment (RFC 9260 §6.2)."""
        if not self._saw_data:
            return
        self._saw_data = False
        self._packets += 1
        self._batch += 1
        if self._immediate or self._gaps or self._packets >= 2:
            self.sack_due = True
        elif self.sack_at == _NEVER:
            self.sack_at = now + self._delay

    def release(self, cost: int) -> None:
        """The owner took something that cost so much of the window; may ask for a window update."""
        self.used -= cost
        advertised = self._advertised
        if advertised < self._limit // 2 and self._limit - self.used >= advertised + self._limit // 4:
            self.sack_due = True

    # --- output

    @property
    def sack_overdue(self) -> bool:
        """True if a SACK cannot wait for the end of the batch.

        Every second packet gets one (RFC 9260 §6.2), but ever fewer in the course of a long batch: to acknowledge what
        is here already in small portions costs both ends much and tells the sender nothing sooner.  More than one per
        batch it must be for a sender that answers each with one short burst, as RFC 9260 §6.1 rule D has it.  While
        something is missing every packet gets one, since missing reports are counted (§7.2.4).
        """
        return bool(self._gaps and self._packets) or self._packets >= 2 + self._batch // 4

    @property
    def sack_wanted(self) -> bool:
        """True if a SACK is due or delayed: a packet that leaves anyway should carry it (RFC 9260 §6.1)."""
        return self.sack_due or self.sack_at != _NEVER

    def sack_size(self, room: int) -> int:
        """Bytes that `take_sack` will need, at most half of `room` beyond the fixed part."""
        if not self._gaps and not self._duplicates:
            return 16
        return 16 + min(4 * (len(self._gaps) + len(self._duplicates)), room // 8 * 4)

    def take_sack(self, room: int) -> bytes:
        """The SACK chunk as things stand, in at most `room` bytes (at least 16)."""
        self.sack_due = False
        self.sack_at = _NEVER
        self._packets = 0
        self._immediate = False
        self._advertised = window = max(self._limit - self.used, 0)
        cum = self.cum
        if not self._gaps and not self._duplicates:
            return encode_sack(cum & MASK32, window, [], [])
        fit = (room - 16) // 4
        gaps = [(first - cum, last - cum) for first, last in self._gaps[:fit] if last - cum <= _MAX_AHEAD]
        duplicates = self._duplicates[: fit - len(gaps)]
        self._duplicates = []
        return encode_sack(cum & MASK32, window, gaps, duplicates)
