"""Which TURN server serves one interface: all are raced, the nearest that allocates is kept (RFC 8656 §3.9).

Each server is asked once without credentials, which allocates nothing and tells how far it is.  The first answer does
not win by itself: those that were asked at the same time and may be nearer get twice its round trip.  Then the nearest
one allocates; where it will not, the next.  UDP goes first; TCP follows half a second later and TLS another half, at
once where nothing else is left: a network that lets no UDP through costs that much and no more.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from edgeice.addresses import Base, TransportAddress
from edgeice.ice import SharedTurn
from edgeice.peer.relay_link import RelayLink, RelayTarget

__all__ = ["Uplink", "UplinkOwner", "reaches"]

#: Seconds after the start of a race until servers are asked by this transport, while others are still under way.
_DELAYS: Final = {"udp": 0.0, "tcp": 0.5, "tls": 1.0}
#: Seconds until all servers are asked again after none had an allocation to give; doubled each time.
_RETRY: Final = 30.0
_RETRY_MOST: Final = 480.0
#: The first of these where there was an allocation.
_RETRY_LOST: Final = 0.5
#: The same after a server that leads in a circle: not one that was tried in the last five minutes (RFC 8489 §10).
_REDIRECT_PAUSE: Final = 300.0
#: After 437, which a server answers for a moment after it deleted an allocation: seconds, for so many times; then long.
_MISMATCH_PAUSE: Final = 2.0
_MISMATCHES: Final = 3
_MISMATCH_LONG: Final = 120.0
#: Servers and transports in one race; further ones are not asked.
_RACE_LIMIT: Final = 16


@attrs.frozen
class UplinkOwner:
    """What an uplink has done by its owner."""

    #: Begins a link to a target from a base; None while the last allocation there is still being given back.
    start: Callable[[RelayTarget, Base, float], RelayLink | None]
    #: Lets a link allocate.
    proceed: Callable[[RelayLink, float], None]
    #: Makes the winner's allocation a base.
    keep: Callable[[RelayLink], None]
    #: Ends a link for good.
    drop: Callable[[RelayLink, float], None]
    #: Lets another base carry the winner on, of this interface or another; False where that cannot be.
    carry: Callable[[RelayLink, float], bool]


@attrs.frozen
class _Entry:
    target: RelayTarget
    base: Base


class Uplink:
    """The race of one interface and its winner.

    Args:
        owner: Does what is decided here.
        turn: That of all gathering: one new transaction per Ta (RFC 8445 §5.1.1.2).

    Attributes:
        bases: Usable addresses of the interface.
        held: The link whose allocation sessions use.
        retry_at: When all servers are asked again: none had an allocation to give, or the one that was there is lost.
        is_bereft: An allocation was lost, and there is none since: a server that was started again is back soon.
    """

    def __init__(self, owner: UplinkOwner, turn: SharedTurn) -> None:
        self.bases: list[Base] = []
        self.held: RelayLink | None = None
        self.retry_at: float | None = None
        self.is_bereft = False
        self._owner = owner
        self._turn = turn
        self._tried: set[tuple[TransportAddress, str]] = set()
        #: To be asked.
        self._waiting: deque[_Entry] = deque()
        #: Asked; those that answered; the one that is to allocate.
        self._asked: list[RelayLink] = []
        self._answered: list[RelayLink] = []
        self._chosen: RelayLink | None = None
        self._race_at: float | None = None
        #: The earliest moment at which one of those that failed may be asked again; None if none may.
        self._again_at: float | None = None
        self._failures = 0
        #: Answers with 437, one after the other.
        self._mismatches = 0
        #: Allocations that were lost soon after they were won, one after the other.
        self._losses = 0
        #: Who is next waits for what is being given back.
        self._blocked = False

    @property
    def is_settled(self) -> bool:
        """Whether it has a relay, or found that there is none for now."""
        return self._race_at is None

    @property
    def tried(self) -> frozenset[TransportAddress]:
        """The servers of this race."""
        return frozenset(server for server, _ in self._tried)

    # Inputs

    def race(self, targets: Iterable[RelayTarget], *, now: float) -> None:
        """Ask servers that this race did not ask yet; without one under way a new one begins."""
        if self.held is not None:
            return
        if self._race_at is None:
            self._race_at = now
            self._tried.clear()
        self.retry_at = None
        for target in sorted(targets, key=lambda each: _DELAYS[each.transport]):
            self._enter(target, first=False)
        self.work(now=now)

    def redirect(self, link: RelayLink, server: TransportAddress, host: str | None, *, now: float) -> bool:
        """A server names another (RFC 8489 §10), asked before the rest; False where it cannot be."""
        taken = self._enter(attrs.evolve(link.target, server=server, host=host or link.target.host), first=True)
        self.failed(link, retry_at=None if taken else now + _REDIRECT_PAUSE, now=now)
        return taken

    def answered(self, link: RelayLink, *, now: float) -> None:
        """A server answered for the first time, and is to be told whether to allocate."""
        if link in self._asked:
            self._asked.remove(link)
            self._answered.append(link)
        self.work(now=now)

    def allocated(self, link: RelayLink, *, now: float) -> None:
        """A server allocated: it wins."""
        rest = [each for each in self._links() if each is not link]
        self._clear()
        self._turn.release(self, now)
        self.held = link
        self._failures = self._mismatches = 0
        self.is_bereft = False
        self._owner.keep(link)
        for each in rest:
            self._owner.drop(each, now)

    def failed(self, link: RelayLink, *, retry_at: float | None, now: float) -> None:
        """A link came to nothing; `retry_at` is None where asking again makes no sense."""
        if retry_at is not None:
            self._again_at = min(retry_at, self._again_at or math.inf)
        self._let_go(link, now)
        self.work(now=now)

    def mismatched(self, link: RelayLink, *, now: float) -> None:
        """The server still keeps what this 5-tuple had (437): it is asked again in a moment, a few times.

        RFC 8656 §7.4 would take another port, but the base has only this one.
        """
        self._mismatches += 1
        if self._mismatches < _MISMATCHES:
            self._let_go(link, now)
            self._again_at = min(now + _MISMATCH_PAUSE, self._again_at or math.inf)
            self.work(now=now)
        else:
            self.failed(link, retry_at=now + _MISMATCH_LONG, now=now)

    def lost(self, link: RelayLink, *, now: float) -> None:
        """What a link had is gone: the race is run again, at once if it lasted."""
        # One that is lost soon after it was won may be lost again: that must not become a loop.
        self._losses = 0 if now - link.started_at >= _RETRY else self._losses + 1
        self.retry_at = now if self._losses <= 1 else now + min(_RETRY_LOST * 2 ** (self._losses - 2), _RETRY)
        self.is_bereft = True
        self._let_go(link, now)

    def resume(self, link: RelayLink, *, now: float) -> None:
        """A link that waited for an address goes on from one of these."""
        self.held = link
        self.work(now=now)

    def base_removed(self, address: TransportAddress, *, now: float) -> None:
        """An address is gone, and what was carried from there."""
        self.bases = [base for base in self.bases if base.address != address]
        self._waiting = deque(entry for entry in self._waiting if entry.base.address != address)
        for link in self._links():
            if link.base.address != address:
                continue
            if link is not self.held or not self._owner.carry(link, now):
                self._let_go(link, now)
            elif link.base not in self.bases:
                self.held = None
        self.work(now=now)

    def stop(self, *, now: float) -> None:
        """Give everything back."""
        links = self._links()
        self._clear()
        self._turn.release(self, now)
        self.held = self.retry_at = None
        self._failures = self._mismatches = 0
        for link in links:
            self._owner.drop(link, now)

    def place_freed(self, *, now: float) -> None:
        """An allocation was given back: who waited for its place may go on."""
        self._blocked = False
        self.work(now=now)

    def work(self, *, now: float) -> None:
        """Ask who is next, and decide."""
        if self._race_at is None:
            self._turn.release(self, now)
            return
        while (at := self._ask_at()) is not None and at <= now:
            if not self._turn.take(self, now):
                break
            entry = self._waiting[0]
            link = self._owner.start(entry.target, entry.base, now)
            self._blocked = link is None
            if link is None:
                break
            self._waiting.popleft()
            self._asked.append(link)
        else:
            self._turn.release(self, now)
        if self._chosen is None and self._answered and self._decide_at() <= now:
            self._chosen = min(self._answered, key=lambda link: (_DELAYS[link.target.transport], link.rtt or 0.0))
            self._answered.remove(self._chosen)
            self._owner.proceed(self._chosen, now)
        if not (self._waiting or self._links()):
            self._give_up(now)

    def next_timeout(self) -> float | None:
        """When `work` has something to do, or the race is to be run again."""
        if self._race_at is None:
            return self.retry_at
        times = []
        if (at := self._ask_at()) is not None:
            times.append(max(at, self._turn.opens_at))
        if self._chosen is None and self._answered:
            times.append(self._decide_at())
        return min(times, default=None)

    # Inside

    def _links(self) -> list[RelayLink]:
        links = [*self._asked, *self._answered]
        return links + [link for link in (self._chosen, self.held) if link is not None]

    def _enter(self, target: RelayTarget, *, first: bool) -> bool:
        base = next((base for base in self.bases if reaches(base, target.server)), None)
        if base is None or target.key in self._tried or len(self._tried) >= _RACE_LIMIT or self._race_at is None:
            return False
        self._tried.add(target.key)
        entry = _Entry(target, base)
        if first:
            self._waiting.appendleft(entry)
        else:
            self._waiting.append(entry)
        return True

    def _ask_at(self) -> float | None:
        """When the next server is to be asked; None if none is."""
        if not self._waiting or self._race_at is None or self._blocked:
            return None
        transport = self._waiting[0].target.transport
        ahead = [*self._answered, *([] if self._chosen is None else [self._chosen])]
        if any(_DELAYS[link.target.transport] < _DELAYS[transport] for link in ahead):
            return None
        return self._race_at + _DELAYS[transport] if self._asked else self._race_at

    def _decide_at(self) -> float:
        """When the nearest of those that answered is chosen without waiting for those that did not."""
        nearest = min(link.rtt or 0.0 for link in self._answered)
        rivals = [link for link in self._asked if link.target.transport == self._answered[0].target.transport]
        if self._ask_at() is None and not rivals:
            return -math.inf
        return max(link.started_at for link in [*rivals, *self._answered]) + 2 * nearest

    def _let_go(self, link: RelayLink, now: float) -> None:
        if link is self.held:
            self.held = None
        if link is self._chosen:
            self._chosen = None
        for links in (self._asked, self._answered):
            if link in links:
                links.remove(link)
        self._owner.drop(link, now)

    def _give_up(self, now: float) -> None:
        again_at = self._again_at
        self._clear()
        if 0 < self._mismatches < _MISMATCHES:
            self.retry_at = again_at
        elif again_at is not None:
            self._failures += 1
            pause = _RETRY_LOST if self.is_bereft else _RETRY
            self.retry_at = max(again_at, now + min(pause * 2 ** (self._failures - 1), _RETRY_MOST))

    def _clear(self) -> None:
        self._waiting.clear()
        self._asked.clear()
        self._answered.clear()
        self._chosen = self._race_at = self._again_at = None
        self._blocked = False


def reaches(base: Base, server: TransportAddress) -> bool:
    """Whether datagrams from a base can get to a server."""
    address = base.address
    return address.family == server.family and address.is_link_local == server.is_link_local
