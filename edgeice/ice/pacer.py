"""The host's budget of new transactions (RFC 8445 §14.2)."""

from __future__ import annotations

from typing import Final

from edgeice.errors import LocalProtocolError

__all__ = ["Pacer", "TokenBucket", "Turn"]

#: RFC 8445 §14.2: all agents of a host together start a transaction each 5 ms at most.
_MINIMUM: Final = 0.005


class Pacer:
    """Hands out the moments at which the host may start a transaction.

    One object serves all sessions and the gathering of a process, each through a `Turn` of its own.  Slots go in the
    order of asking and each turn holds one at most, so no session starves another.  A slot whose owner has nothing
    left to send is lost, which costs 5 ms.  Retransmissions need no slot: their timeouts grow with the number of
    transactions (RFC 8445 §14.3).
    """

    __slots__ = ("_free_at", "_used_at", "interval")

    def __init__(self, *, interval: float = _MINIMUM) -> None:
        if interval < _MINIMUM:
            raise LocalProtocolError("RFC 8445 §14.2 forbids less than 5 ms")
        self.interval = interval
        self._free_at = float("-inf")
        self._used_at = float("-inf")

    def reserve(self, now: float) -> float:
        """The moment of the next free slot, `now` if the budget is unused."""
        slot = max(now, self._free_at)
        self._free_at = slot + self.interval
        return slot

    def use(self, now: float) -> bool:
        """Start a transaction, unless one was started less than an interval ago because its owner woke late."""
        if now < self._used_at + self.interval:
            return False
        self._used_at = now
        self._free_at = max(self._free_at, now + self.interval)
        return True


class Turn:
    """One machine's turns at the pacer: at most one transaction each `ta` seconds (RFC 8445 §14.2)."""

    __slots__ = ("_own_at", "_pacer", "_slot", "ta")

    def __init__(self, pacer: Pacer, ta: float) -> None:
        self._pacer = pacer
        self.ta = ta
        self._own_at = float("-inf")
        self._slot: float | None = None

    def take(self, now: float) -> bool:
        """Whether a transaction is started now; asked only when there is one.  A False reserves the next slot."""
        if self._slot is None:
            if now < self._own_at:
                return False
            self._slot = self._pacer.reserve(now)
        elif now >= self._slot + self._pacer.interval:
            # There was nothing to send when the slot came, or the driver slept over it.
            self._slot = self._pacer.reserve(now)
        if now < self._slot:
            return False
        if not self._pacer.use(now):
            self._slot = self._pacer.reserve(now)
            return False
        self._slot = None
        self._own_at = now + self.ta
        return True

    @property
    def opens_at(self) -> float:
        """When `take` may succeed at the earliest."""
        return self._own_at if self._slot is None else self._slot


class TokenBucket:
    """Lets `rate` things per second happen, after a burst of as many."""

    __slots__ = ("_at", "_tokens", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._tokens = rate
        self._at = now

    def take(self, now: float) -> bool:
        """Whether one more may happen; if so it is counted."""
        self._tokens = min(self.rate, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
