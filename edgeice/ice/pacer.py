"""The host's budget of new transactions (RFC 8445 §14.2)."""

from __future__ import annotations

from typing import Final

from edgeice.errors import LocalProtocolError

__all__ = ["Pacer", "SharedTurn", "TokenBucket", "Turn"]

#: RFC 8445 §14.2: all agents of a host together start a transaction each 5 ms at most.
_MINIMUM: Final = 0.005
#: A turn that is first and does not come for so long has been given up by its owner; seconds.
_ABSENT: Final = 1.0


class Pacer:
    """Hands out the moments at which the host may start a transaction.

    One object serves all sessions and the gathering of a process, each session through a `Turn` of its own.  Turns
    go in the order of asking, whoever wakes late, and each is in the queue once, so no session starves another.  A
    slot whose owner has nothing left to send is lost, which costs 5 ms.  Retransmissions need no slot: their timeouts
    grow with the number of transactions (RFC 8445 §14.3).
    """

    __slots__ = ("_first_since", "_free_at", "_queue", "_used_at", "interval")

    def __init__(self, *, interval: float = _MINIMUM) -> None:
        if interval < _MINIMUM:
            raise LocalProtocolError("RFC 8445 §14.2 forbids less than 5 ms")
        self.interval = interval
        self._free_at = float("-inf")
        self._used_at = float("-inf")
        #: Turns in the order of asking; one for each session at most.
        self._queue: dict[Turn, None] = {}
        #: Since when the first of them has been the first.
        self._first_since = float("-inf")

    def enter(self, turn: Turn, now: float) -> float:
        """Queue a turn; gives the moment at which it comes if everybody is on time."""
        if not self._queue:
            self._first_since = now
        self._queue[turn] = None
        slot = max(now, self._free_at)
        self._free_at = slot + self.interval
        return slot

    def begin(self, turn: Turn, now: float) -> bool:
        """Start the transaction of a queued turn, unless others are before it or one was started just now."""
        first = next(iter(self._queue))
        if first is not turn and now >= self._first_since + _ABSENT:
            self.leave(first, now)
            first = next(iter(self._queue))
        if first is not turn or now < self._used_at + self.interval:
            return False
        self.leave(turn, now)
        self._used_at = now
        self._free_at = max(self._free_at, now + self.interval)
        return True

    def leave(self, turn: Turn, now: float) -> None:
        """Take a turn out of the queue, if it is in there."""
        if turn in self._queue:
            if turn is next(iter(self._queue)):
                self._first_since = now
            del self._queue[turn]

    def expected(self, turn: Turn, now: float) -> float:
        """When a queued turn that was not served comes at the earliest."""
        before = list(self._queue).index(turn)
        return now + self.interval * before if before else self._used_at + self.interval

    def __contains__(self, turn: Turn) -> bool:
        return turn in self._queue


class Turn:
    """One machine's turns at the pacer: at most one transaction each `ta` seconds (RFC 8445 §14.2)."""

    __slots__ = ("_own_at", "_pacer", "opens_at", "ta")

    def __init__(self, pacer: Pacer, ta: float) -> None:
        self._pacer = pacer
        self.ta = ta
        self._own_at = float("-inf")
        #: When `take` may succeed at the earliest, after it gave False.
        self.opens_at = float("-inf")

    def take(self, now: float) -> bool:
        """Whether a transaction is started now; asked only when there is one.  After False the turn is queued."""
        pacer = self._pacer
        if self not in pacer:
            if now < self._own_at:
                self.opens_at = self._own_at
                return False
            self.opens_at = pacer.enter(self, now)
        if now < self.opens_at:
            return False
        if not pacer.begin(self, now):
            self.opens_at = pacer.expected(self, now)
            return False
        self._own_at = now + self.ta
        return True

    def release(self, now: float) -> None:
        """There is nothing to send any more: others may go first."""
        self._pacer.leave(self, now)


class SharedTurn:
    """One turn that several machines of a host ask for, as its gathering does: together they keep the distance `ta`."""

    __slots__ = ("_turn", "_waiting")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._waiting: set[object] = set()

    @property
    def opens_at(self) -> float:
        """When `take` may succeed at the earliest, after it gave False."""
        return self._turn.opens_at

    def take(self, asker: object, now: float) -> bool:
        """Whether `asker` starts a transaction now; after False it asks again or releases."""
        taken = self._turn.take(now)
        if taken:
            self._waiting.discard(asker)
        else:
            self._waiting.add(asker)
        return taken

    def release(self, asker: object, now: float) -> None:
        """`asker` has nothing to send any more; the place in the queue is kept for those who have."""
        if asker in self._waiting:
            self._waiting.remove(asker)
            if not self._waiting:
                self._turn.release(now)


class TokenBucket:
    """Lets `rate` things per second happen, after a burst of as many or of `burst`."""

    __slots__ = ("_at", "_burst", "_tokens", "rate")

    def __init__(self, rate: float, now: float, *, burst: float | None = None) -> None:
        self.rate = rate
        self._burst = self._tokens = rate if burst is None else burst
        self._at = now

    def take(self, now: float) -> bool:
        """Whether one more may happen; if so it is counted."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
