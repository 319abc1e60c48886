"""The sending half: fragments, acknowledgments, loss recovery, timers (RFC 9260 §6, §7; RFC 3758 §3)."""

from __future__ import annotations

import heapq
import math

from edgeice.errors import RemoteProtocolError
from edgeice.sctp.chunks import DATA_HEADER, ForwardTsn, Sack
from edgeice.sctp.congestion import CongestionControl
from edgeice.sctp.loss import MISSING_REPORTS
from edgeice.sctp.rto import RttEstimator
from edgeice.sctp.scoreboard import Scoreboard
from edgeice.sctp.serial import MASK32, unwrap32
from edgeice.sctp.streams import ABANDONED, ACKED, BEHIND, IN_FLIGHT, LOST, OutChunk, OutMessage, SendQueue

__all__ = ["Sender"]

_DATA = 0
_END = 0x01
_BEGIN = 0x02
_UNORDERED = 0x04
#: Please acknowledge at once (RFC 9260 §3.3.1): the window is used up, or a packet is alone, as a pressed key is.
_IMMEDIATE = 0x08

_HEADER = 16
#: A message is not cut below this to fill what is left of a packet.
_MIN_FRAGMENT = 512
#: A window below this may be too small for the next chunk: the peer may have to drop what probes it.
_CLOSED_WINDOW = 1500
_EVER = math.inf


class Sender(Scoreboard):
    """Sends what the queue holds as far as the windows allow, until it is acknowledged."""

    __slots__ = (
        "_expired",
        "_first_here",
        "_force",
        "_heard",
        "_recovery_exit",
        "congestion",
        "last_sent_at",
        "peer_rwnd",
        "replaceable",
        "t3_at",
    )

    def __init__(self, queue: SendQueue, rtt: RttEstimator, congestion: CongestionControl, initial_tsn: int) -> None:
        super().__init__(queue, rtt, initial_tsn)
        self.congestion = congestion
        #: Bytes acknowledged since packets were last made: as much new data may go at once.
        self.replaceable = 0
        #: The receive window as last advertised.
        self.peer_rwnd = 0
        self.t3_at = _EVER
        self._recovery_exit: int | None = None
        #: The next packet of retransmissions goes out whatever the window (RFC 9260 §7.2.4 rule 3).
        self._force = False
        #: When data was last sent.
        self.last_sent_at: float | None = None
        self._heard = False
        #: T3-rtx ran out, and nothing was acknowledged since.
        self._expired = False
        #: The first TSN that was new on the present path.
        self._first_here = initial_tsn

    # --- sending

    def fill(self, room: int, *, fresh: bool, now: float) -> tuple[list[bytes], bool]:
        """Chunks for one packet with `room` bytes left, retransmissions first.

        Args:
            room: Bytes that the chunks may take.
            fresh: New data may be sent, not only retransmissions.
            now: Present time.

        Returns:
            The chunks, and whether new data is among them.
        """
        chunks: list[bytes] = []
        if not self._lost and not (fresh and self.queue.queued):
            return chunks, False
        if self._lost:
            room = self._fill_lost(chunks, room, now)
        sent_new = False
        if fresh and not self._lost:
            sent_new = self._fill_new(chunks, room, now)
        if chunks:
            self.last_sent_at = now
            if self.t3_at == _EVER:
                self._restart_t3(now)  # RFC 9260 §6.3.2 R1
        return chunks, sent_new

    def _fill_lost(self, chunks: list[bytes], room: int, now: float) -> int:
        """Add retransmissions; returns the room that is left."""
        lost = self._lost
        while lost:
            chunk = self.outstanding.get(lost[0])
            if chunk is None or chunk.state != LOST:
                heapq.heappop(lost)
                continue
            message = chunk.message
            if self.partial and message.expires_at <= now:
                heapq.heappop(lost)
                self._abandon(message)
                self.forward.advance(self.outstanding, self.cum)
                continue
            size = len(chunk.wire)
            if size > room or (self.flight >= self.congestion.window and not self._force):
                break
            heapq.heappop(lost)
            if chunk.tsn == self.cum + 1:
                self._restart_t3(now)  # RFC 9260 §7.2.4 rule 4
            chunk.state = IN_FLIGHT
            chunk.transmits += 1
            chunk.misses = 0
            chunk.sent_at = now
            self.flight += chunk.size
            self.congestion.on_sent(chunk.size, self.flight, now=now)
            chunks.append(chunk.wire)
            room -= size
        if chunks:
            self._force = False
        return room

    def _fill_new(self, chunks: list[bytes], room: int, now: float) -> bool:
        """Add new data; True if any."""
        queue = self.queue
        if not queue.queued:
            return False
        if not self.outstanding and self.last_sent_at is not None:
            periods = int((now - self.last_sent_at) / self.rtt.rto)
            if periods:
                self.congestion.on_idle(periods, now=now)
        congestion = self.congestion
        any_new = False
        while (message := queue.head()) is not None:
            if message.expires_at <= now:
                self._expire(message)
                continue
            flight = self.flight
            if flight >= congestion.window:
                break
            space = (room & ~3) - _HEADER  # padding must fit too, or the chunk could never be sent again
            offset = message.offset
            size = message.size - offset
            flags = _UNORDERED if message.unordered else 0
            if size > space:
                if space < _MIN_FRAGMENT:
                    break
                size = space
            else:
                flags |= _END
            # RFC 9260 §6.1 rule A: beyond the peer's window only as the one chunk in flight, a probe.
            if flight and flight + self.behind + size > self.peer_rwnd:
                break
            wire = self._make_chunk(message, size, flags, now)
            chunks.append(wire)
            any_new = True
            room -= len(wire)
        return any_new

    def _make_chunk(self, message: OutMessage, size: int, flags: int, now: float) -> bytes:
        """Take the next `size` bytes of a message as a DATA chunk with the next TSN."""
        offset = message.offset
        self.queue.take(message, size)
        tsn = self.next_tsn
        self.next_tsn = tsn + 1
        if not offset:
            flags |= _BEGIN
            message.first_tsn = tsn
        message.last_tsn = tsn
        self.flight = flight = self.flight + size
        asked = flight >= self.congestion.window or (flight == size and not self.queue.queued)
        if asked:
            flags |= _IMMEDIATE
        self.probe.arm(self.rtt, asked=asked, now=now)
        wire = DATA_HEADER.pack(
            _DATA, flags, size + _HEADER, tsn & MASK32, message.stream.id, message.ssn, message.ppid
        )
        wire += message.data if size == message.size else message.data[offset : offset + size]
        if size & 3:
            wire += bytes(-size & 3)
        self.outstanding[tsn] = OutChunk(tsn, size, wire, message, now)
        self.outstanding_bytes += size
        self.congestion.on_sent(size, flight, now=now)
        if self._timed is None:
            self._timed = tsn
        return wire

    # --- acknowledgments

    def on_sack(self, sack: Sack, *, now: float) -> bool:
        """Take a SACK; True if it acknowledged anything new.

        Raises:
            RemoteProtocolError: It acknowledges what was never sent.
        """
        cumulative, a_rwnd, blocks, duplicates = sack
        cum = unwrap32(self.cum, cumulative)
        if cum < self.cum:
            return False  # RFC 9260 §6.2.1 D i: out of order
        if cum >= self.next_tsn:
            raise RemoteProtocolError("acknowledgment of data never sent")
        self._heard = True
        flight_before = self.flight + self.replaceable
        outstanding_before = self.outstanding_bytes
        behind_before = self.behind
        advanced = cum > self.cum
        rtt = None
        timed = self._timed
        if timed is not None and timed <= cum:
            rtt = self._measure(timed, now)
        acked = self._acknowledge_cumulative(cum, now) if advanced else 0
        if blocks:
            acked += self._on_gaps(cum, blocks, advanced=advanced, now=now)
        else:
            self._blocks.clear()
        # RFC 9260 §6.2.1 D iii: what is still outstanding is taken off where the window is compared.
        self.peer_rwnd = a_rwnd
        if self._recovery_exit is not None and cum >= self._recovery_exit:
            self._recovery_exit = None
            self.congestion.on_recovered(now=now)
        if acked:
            self._expired = False
            self.replaceable += acked
            self.congestion.on_acknowledged(
                acked, flight_before, rtt=rtt, advanced=advanced, outstanding=bool(self.outstanding), now=now
            )
            self._settle_probe(duplicates, now)
        if self.behind < behind_before:
            self._on_behind()
        if advanced:
            self._on_advanced(now)
        elif self.forward.abandoned:
            self.forward.advance(self.outstanding, self.cum)
        return acked > 0 or self.outstanding_bytes < outstanding_before or self.behind < behind_before

    def _settle_probe(self, duplicates: int, now: float) -> None:
        """Judge a probe that was answered, and wait anew."""
        tsn = self.probe.tsn
        if tsn is not None and not (tsn in self.outstanding and self.outstanding[tsn].state == IN_FLIGHT):
            self.probe.answered(self.next_tsn)
        if self.probe.repaired(self.cum, duplicates) and self._recovery_exit is None:
            self.congestion.on_loss(now=now)
            self.congestion.on_recovered(now=now)
        if self.outstanding:
            self.probe.put_off(self.rtt, now=now)
        else:
            self.probe.disarm()

    def _on_advanced(self, now: float) -> None:
        """The cumulative point moved: restart or stop the timer (RFC 9260 §6.3.2 R2, R3), skip what was given up."""
        if self.outstanding:
            self._restart_t3(now)
        else:
            self.t3_at = _EVER
        self._skip_abandoned()  # RFC 3758 §3.5 C3

    def _on_behind(self) -> None:
        """Something that the old path carried arrived."""
        if not self.behind:
            self.settles_at = _EVER
        if not self.outstanding:
            self.probe.disarm()

    def _restart_t3(self, now: float) -> None:
        """Wait a timeout from now on; for what the old path still carries, from when it should have come."""
        self.t3_at = (max(now, self.settles_at) if self.behind else now) + self.rtt.rto

    def _skip_abandoned(self) -> None:
        if self.forward.abandoned:
            self.forward.advance(self.outstanding, self.cum)
            self.forward.due = self.forward.point > self.cum

    def _on_gaps(self, cum: int, blocks: list[tuple[int, int]], *, advanced: bool, now: float) -> int:
        """Take gap blocks and count missing reports (RFC 9260 §7.2.4); returns bytes acknowledged."""
        acked, newest, highest = self._acknowledge_gaps(cum, blocks, now)
        if self._recovery_exit is not None and advanced:
            newest = highest  # RFC 9260 §7.2.4: in fast recovery every TSN below the highest one counts
        if newest:
            self._find_lost(cum, newest, now)
        return acked

    def _find_lost(self, cum: int, newest: int, now: float) -> None:
        """Take what is missing below `newest` for lost if enough speaks for it: after a probe, the first report."""
        probed = self.probe.tsn
        answered = probed is not None and (probed <= cum or self.outstanding[probed].state == ACKED)
        reports = 1 if answered else MISSING_REPORTS
        reordering = (self.rtt.srtt or 0.0) / 4  # RFC 8985 §6.2
        lost = self._detection.find(self.outstanding, cum, self._blocks, newest, reports=reports, reordering=reordering)
        lost_any = False
        for chunk in lost:
            self.flight -= chunk.size
            self._lose(chunk, now)
            lost_any = True
        if lost_any and self._recovery_exit is None:
            self._recovery_exit = self.next_tsn - 1
            self._force = True
            self.congestion.on_loss(now=now)

    # --- timers and paths

    def on_t3(self, *, now: float) -> bool:
        """The retransmission timer ran out (RFC 9260 §6.3.3); True if it speaks against the peer's being there.

        It does not while the peer keeps answering probes of its closed window (RFC 9260 §6.1 rule A).
        """
        counts = not (self._heard and self.peer_rwnd < _CLOSED_WINDOW)
        self._heard = False
        self._expired = True
        self.congestion.on_timeout(now=now)
        self.rtt.back_off()
        self.lose_all(now=now)
        return counts

    def stop_timers(self) -> None:
        """Nothing is waited for any more."""
        self.t3_at = self.settles_at = _EVER
        self.probe.disarm()

    def on_probe(self, *, now: float) -> None:
        """Nothing was acknowledged for a while: send the last chunk that is in flight again."""
        self.probe.disarm()
        if self._lost or self._recovery_exit is not None:
            return
        chunk = next((each for each in reversed(self.outstanding.values()) if each.state == IN_FLIGHT), None)
        if chunk is None or chunk.transmits > 1 or chunk.message.max_retransmits is not None:
            return  # T3-rtx takes its time with what was repeated before, or may be so often only
        self.flight -= chunk.size
        self.probe.sent(chunk.tsn, alone=not self.flight)
        self._lose(chunk, now)
        self._force = True
        self.t3_at = now + self.rtt.rto

    def on_path_changed(self, *, lost: bool, rtt: float | None, now: float) -> None:
        """Forget what the old path taught (RFC 8831 §5), and send again what it will not bring.

        Args:
            lost: The old path carries nothing any more: all that is not acknowledged goes again at once.  Where it
                still works, what is under way there gets the time that it needs.
            rtt: Round trip of the new path in seconds, None if nobody measured it.
            now: Present time.
        """
        # What tells of it may come by either path.
        arrives = max(self.probe.latest_answer(self.rtt), 2 * (rtt or 0.0))
        self.rtt.reset(rtt)
        self.congestion.on_path_changed(now=now)
        self._first_here = self.next_tsn
        if lost or self._expired:
            self.lose_all(now=now)
        else:
            self._leave_behind(arrives, now)
        self._expired = False

    def _leave_behind(self, arrives: float, now: float) -> None:
        """What is in flight arrives, if it does, so many seconds after it was sent, and may be overtaken."""
        self._timed = None
        self._recovery_exit = None
        self._force = False
        self.probe.disarm()
        for chunk in self.outstanding.values():
            if chunk.state == IN_FLIGHT:
                chunk.state = BEHIND
                self.behind += chunk.size
                at = max(chunk.sent_at + arrives, now)
                self.settles_at = at if self.settles_at == _EVER else max(at, self.settles_at)
        self.flight = 0
        if self.outstanding:
            self._restart_t3(now)

    def on_settled(self, *, now: float) -> None:
        """What the old path carried should be acknowledged by now, so what is not is missing.

        It is lost if something that was sent later arrived.  If nothing was sent, its last chunk asks what is missing.
        """
        self.settles_at = _EVER
        self.behind = 0
        overtaken = next(reversed(self._blocks.values()), 0) >= self._first_here
        for chunk in list(self.outstanding.values()):
            if chunk.state != BEHIND:
                continue
            if overtaken:
                self._lose(chunk, now)
            else:
                chunk.state = IN_FLIGHT
                self.flight += chunk.size
        self._skip_abandoned()
        if not overtaken:
            self.on_probe(now=now)

    def lose_all(self, *, now: float) -> None:
        """Hold everything unacknowledged for lost, also what the peer acknowledged once and no longer does."""
        self._timed = None
        self._recovery_exit = None
        self._force = False
        self.stop_timers()
        self._lost = []
        self.flight = self.behind = 0
        kept = iter(self._blocks.items())
        first, last = next(kept, (_EVER, _EVER))
        for tsn, chunk in list(self.outstanding.items()):
            while tsn > last:
                first, last = next(kept, (_EVER, _EVER))
            # RFC 9260 §6.2.1 D iii: the receiver may take gap acknowledgments back.
            if chunk.state == ABANDONED or (chunk.state == ACKED and tsn >= first):
                continue
            chunk.fast = False
            self._lose(chunk, now)
        self._skip_abandoned()
        if self.outstanding and not self._lost:
            self.t3_at = now + self.rtt.rto

    def take_forward_tsn(self, *, now: float) -> ForwardTsn | None:
        """The FORWARD-TSN that is due, None if none is."""
        if not self.forward.due:
            return None
        if self.t3_at == _EVER:
            self.t3_at = now + self.rtt.rto  # RFC 3758 §3.5 F2
        return self.forward.take(self.outstanding, self.cum)
