"""First offers that wait for a slot (contract §5, "Freshness").

Many sessions that one operator begins at once, as parallel `ssh` does, follow each other within a second or so, and a
reject for each would take longer than that: there is one a second for a key.
"""

from __future__ import annotations

import attrs

from edgeice.signaling.events import SessionId
from edgeice.signaling.jws import VerifiedJws

__all__ = ["Waiting", "WaitingOffers"]

#: Offers that wait: in all, and of one key, so that a key's holder does not crowd out the others.
_OFFERS = 32
_OFFERS_PER_KEY = 24
#: Most bytes of one, and most messages that follow it.
_OFFER_SIZE = 8192
_FOLLOWING = 4
#: Seconds after which it is refused; below the 5 s after which an operator calls the device silent.
_PATIENCE = 4.0
#: Seconds after which it is forgotten where no reject could go out: by now its operator has given up.
_LIFE = 10.0
#: Seconds until a reject is tried again that could not go out.
_AGAIN = 1.0


@attrs.define
class Waiting:
    """An offer, and what came for its session since."""

    offer: VerifiedJws
    since: float
    refuse_at: float
    following: list[VerifiedJws] = attrs.field(factory=list)

    @property
    def forget_at(self) -> float:
        """When nobody waits for an answer any more."""
        return self.since + _LIFE

    def postpone(self, *, now: float) -> None:
        """No reject may go out now."""
        self.refuse_at = now + _AGAIN


class WaitingOffers:
    """Holds what known keys signed, the oldest first."""

    __slots__ = ("_offers", "_slot_freed")

    def __init__(self) -> None:
        self._offers: dict[SessionId, Waiting] = {}
        self._slot_freed = False

    def __contains__(self, session: SessionId) -> bool:
        return session in self._offers

    def hold(self, session: SessionId, offer: VerifiedJws, *, now: float) -> bool:
        """Let an offer wait; False where there is no room for it."""
        of_key = sum(known.kid == session.kid for known in self._offers)
        if len(self._offers) >= _OFFERS or of_key >= _OFFERS_PER_KEY or len(offer.raw) > _OFFER_SIZE:
            return False
        self._offers[session] = Waiting(offer, now, now + _PATIENCE)
        return True

    def follow(self, session: SessionId, message: VerifiedJws) -> bool:
        """Keep what belongs to an offer that waits; False where there is no room."""
        following = self._offers[session].following
        if len(following) >= _FOLLOWING or len(message.raw) > _OFFER_SIZE:
            return False
        following.append(message)
        return True

    def take(self, session: SessionId) -> Waiting | None:
        """Let it wait no longer."""
        return self._offers.pop(session, None)

    def slot_freed(self) -> None:
        """One of them may find a slot now."""
        self._slot_freed = True

    def due(self, *, now: float) -> list[tuple[SessionId, Waiting]]:
        """Those to look at: all where a slot was freed, else those that are to be refused."""
        freed, self._slot_freed = self._slot_freed, False
        return [(session, each) for session, each in self._offers.items() if freed or each.refuse_at <= now]

    def next_timeout(self) -> float | None:
        """When there is one to look at; a time that is over where there is one already."""
        if self._slot_freed:
            return min((each.since for each in self._offers.values()), default=None)
        return min((each.refuse_at for each in self._offers.values()), default=None)
