"""Which way an allocation goes on to its server once its own way is gone (RFC 8016).

Another address of the same interface is taken first, then another interface, the cheapest.  There it may be a guest
beside the allocation that the interface has of its own: over UDP the two need two 5-tuples (RFC 8656 §3.1), so that
the guest has a socket for itself.  Where no address is left, it waits a moment for one, as a renumbered interface has
none for a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edgeice.addresses import Base, TransportAddress
from edgeice.peer.relay_link import RelayLink, RelayTarget
from edgeice.peer.uplink import Uplink, reaches

__all__ = ["RelayMoves"]

#: Guests at once; beyond these the one that was used longest ago is given back.
_MAX_GUESTS: Final = 4
#: Links that wait for an address at once; further ones are given back.
_MAX_STRANDED: Final = 4
#: Seconds after the last data through a guest whose own interface has another allocation, until it is given back.
_IDLE: Final = 30.0
#: Seconds that an allocation waits for an address to go on from.
_STRANDED: Final = 3.0
#: A flow that broke is opened again if it lasted for so many seconds: a server that breaks each must not become a loop.
_LASTING: Final = 5.0
#: Servers that are remembered for giving no tickets.
_MAX_FORBIDDING: Final = 64


class RelayMoves:
    """Links whose base is gone: where they go, and for how long.

    Args:
        uplinks: All interfaces with an address, by name.
    """

    def __init__(self, uplinks: Mapping[str, Uplink]) -> None:
        self._uplinks = uplinks
        #: Links that no interface holds: another one than their own carries them, or theirs holds a newer one.
        self.guests: dict[RelayLink, None] = {}
        #: Links that nothing carries, and until when they wait.
        self._stranded: dict[RelayLink, float] = {}
        self._forbidding: dict[tuple[TransportAddress, str], None] = {}

    @property
    def links(self) -> list[RelayLink]:
        """Guests, and those that wait."""
        return [*self.guests, *self._stranded]

    # What servers allow

    def may_ask(self, target: RelayTarget) -> bool:
        """Whether a server is to be asked for a ticket: not one that forbade it."""
        return target.key not in self._forbidding

    def forbade(self, target: RelayTarget) -> None:
        """A server gives no tickets."""
        self._forbidding[target.key] = None
        if len(self._forbidding) > _MAX_FORBIDDING:
            del self._forbidding[next(iter(self._forbidding))]

    # Where to

    def next_base(self, link: RelayLink) -> Base | None:
        """The base that carries a link on: of its own interface first, then the cheapest."""
        bases = [base for uplink in self._uplinks.values() for base in uplink.bases]
        usable = [base for base in bases if reaches(base, link.target.server)]
        return min(usable, key=lambda base: (base.interface != link.home, base.cost), default=None)

    def may_reopen(self, link: RelayLink, now: float) -> bool:
        """Whether a link whose flow broke may have another."""
        return link.allocation.is_mobile and now - link.carried_at >= _LASTING

    def strand(self, link: RelayLink, now: float) -> bool:
        """Let a link wait for an address; False if it cannot go on from another, or too many wait."""
        if not link.allocation.is_mobile or len(self._stranded) >= _MAX_STRANDED:
            return False
        self.guests.pop(link, None)
        self._stranded[link] = now + _STRANDED
        return True

    def carried(self, link: RelayLink) -> RelayLink | None:
        """A link is carried again; gives another one that has to go for it.

        One that comes home is a guest still, unless it is what its interface holds or, having waited, is to hold.
        """
        waited = self._stranded.pop(link, None) is not None
        self.guests.pop(link, None)
        home = self._uplinks.get(link.home) if link.base.interface == link.home else None
        if home is not None and (home.held is link or (waited and home.held is None)):
            return None
        self.guests[link] = None
        if len(self.guests) <= _MAX_GUESTS:
            return None
        return min((each for each in self.guests if each is not link), key=lambda each: each.used_at)

    def forget(self, link: RelayLink) -> None:
        """A link is given back or lost."""
        self.guests.pop(link, None)
        self._stranded.pop(link, None)

    @property
    def stranded(self) -> list[RelayLink]:
        """Links that wait for an address."""
        return list(self._stranded)

    # Time

    def next_timeout(self) -> float | None:
        """When a link is to be given back."""
        times = [*self._stranded.values(), *(link.used_at + _IDLE for link in self.guests if self._is_replaced(link))]
        return min(times, default=None)

    def take_due(self, now: float) -> list[RelayLink]:
        """Links whose time is over."""
        late = [link for link, at in self._stranded.items() if at <= now]
        return late + [link for link in self.guests if link.used_at + _IDLE <= now and self._is_replaced(link)]

    def _is_replaced(self, link: RelayLink) -> bool:
        """Whether the interface that a guest came from is back, with an allocation of its own."""
        uplink = self._uplinks.get(link.home)
        return uplink is not None and uplink.held is not None
