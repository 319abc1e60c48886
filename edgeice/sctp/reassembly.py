"""From DATA chunks to messages: fragments joined, ordered streams kept in order (RFC 9260 §6.5, §6.6, §6.9).

Fragments of one message have consecutive TSNs, so what can be joined is found by its neighbors: each run of fragments
is known by its first TSN and by the TSN that comes after it.
"""

from __future__ import annotations

from collections import deque

from edgeice.errors import RemoteProtocolError
from edgeice.sctp.serial import MASK16

__all__ = ["OVERHEAD", "InMessage", "Reassembly"]

_END = 0x01
_BEGIN = 0x02
_UNORDERED = 0x04

#: What a waiting chunk or message costs beside its bytes, so that tiny ones cannot fill the memory.
OVERHEAD = 64


class InMessage:
    """A complete message; `cost` is what it takes of the receive window until it is released."""

    __slots__ = ("cost", "data", "ppid", "ssn", "stream_id")

    def __init__(self, stream_id: int, ssn: int, ppid: int, data: bytes) -> None:
        self.stream_id = stream_id
        self.ssn = ssn
        self.ppid = ppid
        self.data = data
        self.cost = len(data) + OVERHEAD


class _Run:
    """Fragments of one message with consecutive TSNs."""

    __slots__ = ("begins", "ends", "first", "next", "parts", "ppid", "size", "ssn", "stream_id", "unordered")

    def __init__(self, tsn: int, flags: int, stream_id: int, ssn: int, ppid: int, payload: bytes) -> None:  # noqa: PLR0917 - hot
        self.first = tsn
        self.next = tsn + 1
        self.begins = bool(flags & _BEGIN)
        self.ends = bool(flags & _END)
        self.unordered = bool(flags & _UNORDERED)
        self.stream_id = stream_id
        self.ssn = ssn
        self.ppid = ppid
        self.parts: deque[bytes] = deque((payload,))
        self.size = len(payload)


class Reassembly:
    """Joins and orders; what is complete goes to `ready`.

    The caller bounds the bytes; each method returns how many of them were given up without being delivered.
    """

    __slots__ = ("_by_first", "_by_next", "_max_size", "_next_ssn", "_ready", "_waiting")

    def __init__(self, ready: deque[object], max_message_size: int) -> None:
        self._ready = ready
        self._max_size = max_message_size
        self._by_first: dict[int, _Run] = {}
        self._by_next: dict[int, _Run] = {}
        #: Next SSN of each stream that was used, 0 elsewhere.
        self._next_ssn: dict[int, int] = {}
        #: Complete messages that came before their turn, by stream and SSN.
        self._waiting: dict[int, dict[int, InMessage]] = {}

    @property
    def fragments_waiting(self) -> bool:
        """True if an incomplete message is held."""
        return bool(self._by_first)

    def add(self, tsn: int, flags: int, stream_id: int, ssn: int, ppid: int, payload: bytes) -> int:  # noqa: PLR0917 - hot
        """Take a chunk that was not seen before; returns the cost that was given up.

        Raises:
            RemoteProtocolError: Fragments contradict each other, or the message exceeds what was announced.
        """
        if flags & 3 == 3:
            return self._complete(InMessage(stream_id, ssn, ppid, payload), ordered=not flags & _UNORDERED)
        run = None if flags & _BEGIN else self._by_next.pop(tsn, None)
        if run is None or run.ends:
            if run is not None:
                self._by_next[tsn] = run
            run = _Run(tsn, flags, stream_id, ssn, ppid, payload)
            self._by_first[tsn] = run
        else:
            self._check(run, stream_id, ssn, unordered=bool(flags & _UNORDERED))
            run.parts.append(payload)
            run.size += len(payload)
            run.next = tsn + 1
            run.ends = bool(flags & _END)
        if not run.ends:
            after = self._by_first.get(run.next)
            if after is not None and not after.begins:
                run = self._merge(run, after)
        if run.size > self._max_size:
            raise RemoteProtocolError("message larger than announced")
        if not (run.begins and run.ends):
            self._by_next[run.next] = run
            return 0
        del self._by_first[run.first]
        self._by_next.pop(run.next, None)
        message = InMessage(run.stream_id, run.ssn, run.ppid, b"".join(run.parts))
        spared = (len(run.parts) - 1) * OVERHEAD
        return spared + self._complete(message, ordered=not run.unordered)

    @staticmethod
    def _check(run: _Run, stream_id: int, ssn: int, *, unordered: bool) -> None:
        if run.stream_id != stream_id or run.unordered != unordered or (run.ssn != ssn and not unordered):
            raise RemoteProtocolError("fragments of different messages have consecutive TSNs")

    def _merge(self, run: _Run, after: _Run) -> _Run:
        """Join two neighbors, moving the parts of the smaller."""
        self._check(run, after.stream_id, after.ssn, unordered=after.unordered)
        del self._by_first[after.first]
        self._by_next.pop(after.next, None)
        if len(run.parts) >= len(after.parts):
            run.parts.extend(after.parts)
        else:
            after.parts.extendleft(reversed(run.parts))
            run.parts = after.parts
        run.size += after.size
        run.next = after.next
        run.ends = after.ends
        return run

    def _complete(self, message: InMessage, *, ordered: bool) -> int:
        """Deliver a message now, or keep it until its turn (RFC 9260 §6.6)."""
        if not ordered:
            self._ready.append(message)
            return 0
        stream_id = message.stream_id
        expected = self._next_ssn.get(stream_id, 0)
        if message.ssn == expected:
            self._ready.append(message)
            self._next_ssn[stream_id] = (expected + 1) & MASK16
            if stream_id in self._waiting:
                self._deliver_waiting(stream_id)
            return 0
        waiting = self._waiting.setdefault(stream_id, {})
        if (message.ssn - expected) & MASK16 >= 0x8000 or message.ssn in waiting:
            if not waiting:
                del self._waiting[stream_id]
            return message.cost  # an SSN that was delivered or is held: a new TSN cannot bring it again
        waiting[message.ssn] = message
        return 0

    def _deliver_waiting(self, stream_id: int) -> None:
        """Deliver held messages as far as they follow on."""
        waiting = self._waiting[stream_id]
        expected = self._next_ssn.get(stream_id, 0)
        while (message := waiting.pop(expected, None)) is not None:
            self._ready.append(message)
            expected = (expected + 1) & MASK16
        self._next_ssn[stream_id] = expected
        if not waiting:
            del self._waiting[stream_id]

    def skip(self, cum: int, streams: tuple[tuple[int, int], ...]) -> int:
        """The peer gave up what is not complete up to `cum` (RFC 3758 §3.6)."""
        given_up = 0
        for run in [run for run in self._by_first.values() if run.first <= cum + 1 and not self._can_end(run, cum)]:
            del self._by_first[run.first]
            self._by_next.pop(run.next, None)
            given_up += run.size + len(run.parts) * OVERHEAD
        for stream_id, ssn in streams:
            expected = self._next_ssn.get(stream_id, 0)
            if (ssn - expected) & MASK16 >= 0x8000:
                continue
            waiting = self._waiting.get(stream_id)
            if waiting:
                for distance in sorted((held - expected) & MASK16 for held in waiting):
                    held = (expected + distance) & MASK16
                    if (ssn - held) & MASK16 < 0x8000:
                        self._ready.append(waiting.pop(held))
            self._next_ssn[stream_id] = (ssn + 1) & MASK16
            if stream_id in self._waiting:
                self._deliver_waiting(stream_id)
        return given_up

    @staticmethod
    def _can_end(run: _Run, cum: int) -> bool:
        """True if a run can still become a message when everything up to `cum` is settled.

        One that ends exactly there cannot: only what was given up is skipped, and all of a message at once.
        """
        return run.begins and run.next > cum + 1

    def reset_streams(self, stream_ids: list[int]) -> int:
        """Start the given streams, or all, at SSN 0 again (RFC 6525 §5.2.2)."""
        given_up = 0
        for stream_id in stream_ids or list(self._next_ssn):
            self._next_ssn.pop(stream_id, None)
            for message in self._waiting.pop(stream_id, {}).values():
                given_up += message.cost
        return given_up
