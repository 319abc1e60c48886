"""When an ICE restart is to be offered, and why: the decision alone, without a clock or a task of its own.

A restart is needed (`Need`) where a session has no path, where its path is about to be lost, where a peer that cannot
be moved otherwise should use another interface, and once after the peers moved by themselves, so that both have new
credentials and know all of each other's addresses again.  How often is the other half of the decision:

- While an offer waits for its answer, and while an answered one is being checked, there is no other one.
- Nothing having changed here, the next one comes 1, 2, 4, 8 and then every 15 s after the one before.
- A usable address that was not there at the last offer sets that back to the beginning, and where there is no path
  that works it is worth taking back an offer that is out: the peer never heard of that address.
- All of that together is bounded by `BURST` offers at once and one every two seconds from then on, which is less than
  what a peer takes (contract §5), so that an interface that comes and goes a hundred times a second costs no more.

Whatever becomes of a restart, the path that works goes on (RFC 8445 §9); so one that failed is made anew only while
its reason is still there.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final

import attrs

from edgeice.addresses import Base, Path
from edgeice.signaling.limits import TokenBucket

__all__ = ["BURST", "ORDER_WAIT", "SPACING", "STABLE_TIME", "Need", "Outlook", "RestartPolicy"]

#: Seconds from one offer to the next at least, while nothing changes; the last one goes on.
SPACING: Final = (1.0, 2.0, 4.0, 8.0, 15.0)
#: Offers at once, whatever changes, and how many a second in the long run.
BURST: Final = 3
_RATE: Final = 0.5
#: Seconds that an answered restart is given to find a path, and as many round trips more: a check, its repetition and
#: a nomination.
_ATTEMPT: Final = 10.0
_ATTEMPT_ROUND_TRIPS: Final = 4
#: Seconds that it is given besides to be agreed on, while a path works all the same.
_AGREEMENT: Final = 60.0
#: Seconds that an own offer is given to be answered where the signaling does not give it up before (contract §5).
_ANSWER: Final = 10.5
#: Seconds for which a cheaper interface has to be usable before a peer that only restarts move is moved to it.
STABLE_TIME: Final = 3.0
#: Seconds without another move after which peers that moved by themselves restart for good order.
ORDER_WAIT: Final = 2.0
#: How often a restart is offered that would only be nice to have.
_NICE_TRIES: Final = 4
#: The cost from which on an interface is metered.
_METERED: Final = 500
#: Causes of a move that a path's end brought about, rather than a better path.
_FAILOVERS: Final = frozenset({"base_gone", "silent"})


class Need(StrEnum):
    """Why a restart is needed; the first that is there counts."""

    #: No path carries data.
    LOST = "lost"
    #: The path will be lost unless the peer is heard on it soon.
    FADING = "fading"
    #: The peer was not heard for long.
    SILENT = "silent"
    #: Data left an interface that is gone, and the peer can only follow by a restart.
    BASE_GONE = "base_gone"
    #: A cheaper interface is there, and the peer can only be moved to it by a restart.
    BETTER = "better"
    #: Both moved by themselves.
    ORDER = "order"


#: Those for which an offer that is out is taken back where there is news.
_URGENT: Final = frozenset({Need.LOST, Need.FADING, Need.SILENT})
#: Those with a path that works meanwhile: they never take the place of a restart that is under way.
_PATIENT: Final = frozenset({Need.BASE_GONE, Need.BETTER, Need.ORDER})


@attrs.frozen(kw_only=True)
class Outlook:
    """What a session rests on at a moment."""

    #: The pair that carries data, None while there is none.
    path: Path | None = None
    fading: bool = False
    #: Name of the interface behind `path`, empty where that is not known.
    interface: str = ""
    #: Round trip of `path`, seconds, None where that is not known.
    rtt: float | None = None
    #: This host's addresses.
    bases: tuple[Base, ...] = ()
    #: Both ends move by themselves, so that only good order asks for a restart (`edgeice-mobility`).
    mobility: bool = False


class RestartPolicy:
    """Says when the next restart is to be offered.

    Args:
        order_wait: Seconds of quiet before a restart for good order: different at both ends, so that one suffices.
        controlling: This end nominates, so that it follows the peer only where that had to move; the other end follows
            whatever is nominated.
    """

    def __init__(self, *, order_wait: float = ORDER_WAIT, controlling: bool = True) -> None:
        self._order_wait = order_wait
        self._failovers = _FAILOVERS | {"peer_moved"} if controlling else _FAILOVERS
        self._outlook = Outlook()
        self._bucket = TokenBucket(BURST, _RATE)
        #: When the latest offer was made, and how many there were since something changed.
        self._offered_at = -math.inf
        self._tries = 0
        #: Until when an attempt that is under way is left alone.
        self._busy_until = -math.inf
        #: The same of a need that can wait.
        self._patient_after = -math.inf
        #: A usable address came that the latest offer, or the session before the first one, did not have.
        self._news = False
        #: Round trip of the latest path.
        self._rtt = 0.0
        self._silent = False
        self._base_gone = False
        #: When good order is due, None while it is there.
        self._order_at: float | None = None
        #: Since when each base is there, and those that the present generation was made with.
        self._since: dict[Base, float] = {}
        self._known: set[Base] = set()

    # What happens

    def look(self, outlook: Outlook, *, now: float) -> None:
        """The path or the host's addresses may have changed."""
        before, self._outlook = self._outlook, outlook
        if outlook.rtt is not None:
            self._rtt = outlook.rtt
        if outlook.bases != before.bases:
            self._since = {base: self._since.get(base, now) for base in outlook.bases}
            if set(outlook.bases) - set(before.bases):
                self._news, self._tries = True, 0
            self._known &= set(outlook.bases)
            self._disturbed(now)
        if outlook.path is not None and before.path is None:
            self._tries = 0

    def moved(self, cause: str, *, now: float) -> None:
        """Data goes another way, for this cause (`ice.SendPathChanged.cause`)."""
        self._disturbed(now)
        if cause not in self._failovers:
            return
        if self._outlook.mobility:
            self._order_at = now + self._order_wait
        elif cause == "base_gone" and self._outlook.path is not None:
            self._base_gone = True

    def fell_silent(self, *, silent: bool) -> None:
        """The peer was not heard for long, or is heard again."""
        self._silent = silent

    def began(self) -> None:
        """A generation carries the session that knows all addresses that there are now: the first, or a restart's."""
        self._busy_until = self._patient_after = -math.inf
        self._tries = 0
        self._news = self._base_gone = self._silent = False
        self._order_at = None
        self._known = set(self._outlook.bases)

    def offered(self, *, now: float) -> None:
        """A restart was offered here."""
        self._offered_at = now
        self._tries += 1
        self._news = False
        self._busy_until = now + _ANSWER

    def checking(self, *, now: float) -> None:
        """A restart was answered, by either side, and its pairs are being checked."""
        self._busy_until = now + _ATTEMPT + _ATTEMPT_ROUND_TRIPS * self._rtt
        self._patient_after = now + _AGREEMENT

    def failed(self) -> None:
        """The restart that was under way came to nothing."""
        self._busy_until = self._patient_after = -math.inf

    # What to do

    def need(self, *, now: float) -> Need | None:
        """Why a restart is needed at present, whether or not it may be offered yet."""
        due = self._due(now)
        return due[0] if due is not None and due[1] <= now else None

    def next_at(self, *, now: float) -> float:
        """When the next restart is to be offered, seconds; `math.inf` while none is needed."""
        due = self._due(now)
        if due is None:
            return math.inf
        need, at = due
        at = max(at, self._bucket.next(now=now))
        if need in _PATIENT:
            at = max(at, self._patient_after)
        if self._news and (need in _URGENT or self._busy_until <= now):
            return at
        if self._tries:
            at = max(at, self._offered_at + SPACING[min(self._tries, len(SPACING)) - 1])
        return max(at, self._busy_until)

    def take(self, *, now: float) -> None:
        """A restart is offered now, as `next_at` said."""
        self._bucket.take(now=now)

    # Inside

    def _due(self, now: float) -> tuple[Need, float] | None:
        """The strongest need, and since or from when it is there."""
        outlook = self._outlook
        if not outlook.bases:
            return None  # nothing could be sent; what comes next is a change
        for is_there, need in (
            (outlook.path is None, Need.LOST),
            (outlook.fading, Need.FADING),
            (self._silent, Need.SILENT),
            (self._base_gone, Need.BASE_GONE),
        ):
            if is_there:
                return need, now
        return self._nice() if self._tries < _NICE_TRIES else None

    def _nice(self) -> tuple[Need, float] | None:
        if self._order_at is not None:
            return Need.ORDER, self._order_at
        if not self._outlook.mobility and (at := self._better_at()) is not None:
            return Need.BETTER, at
        return None

    def _better_at(self) -> float | None:
        """When a cheaper interface than the path's has been there for long enough, None without one.

        One that the present generation was made with is none: its pairs were tried.
        """
        present = [base.cost for base in self._outlook.bases if _carries(base, self._outlook)]
        if not present:
            return None
        times = [
            since + STABLE_TIME
            for base, since in self._since.items()
            if base not in self._known and _rank(base.cost) < _rank(min(present))
        ]
        return min(times, default=None)

    def _disturbed(self, now: float) -> None:
        """Something changed: good order waits until all is quiet."""
        if self._order_at is not None:
            self._order_at = now + self._order_wait


def _carries(base: Base, outlook: Outlook) -> bool:
    assert outlook.path is not None
    if outlook.interface:
        return base.interface == outlook.interface
    return base.address == outlook.path.local


def _rank(cost: int) -> tuple[bool, int]:
    return cost >= _METERED, cost
