"""Who may open the next channel of a shared session: a device takes only so many of one session.

Clients of a session do not know of each other, and each may want as many channels as it has connections.  What a
device refuses, a client's user would see as a broken connection; so whoever has to wait, waits here.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import trio

__all__ = ["Place", "Places"]

#: The part of the places that is kept for clients that have none yet: a shell opens while forwards wait for theirs.
_KEPT_PART: Final = 8


class Place:
    """A client's place, asked for; to be given back with `Places.give_back` also where it was never granted."""

    def __init__(self, client: int) -> None:
        self.client = client
        #: Set once the client may open its channel.
        self.granted = trio.Event()


class Places:
    """The places of a session.

    Among those who wait, the next one is of the client that has the fewest, and of these who asked first.

    Args:
        total: How many channels the device takes.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._kept = total // _KEPT_PART
        #: By client, those that have any.
        self._held: Counter[int] = Counter()
        #: In the order in which they asked; who serves bounds them.
        self._waiting: list[Place] = []

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def ask(self, client: int) -> Place:
        """Ask for a place; it is granted at once where nobody has to wait."""
        place = Place(client)
        self._waiting.append(place)
        self._grant()
        return place

    def give_back(self, place: Place) -> None:
        """The channel is closed at both ends, or its client does not want it any more."""
        if place.granted.is_set():
            self._held[place.client] -= 1
            self._held += Counter()  # without those that have none
        else:
            self._waiting.remove(place)
        self._grant()

    def _grant(self) -> None:
        while (free := self.total - self._held.total()) and self._waiting:
            place = min(self._waiting, key=lambda each: self._held[each.client])
            if self._held[place.client] and free <= self._kept:
                return
            self._waiting.remove(place)
            self._held[place.client] += 1
            place.granted.set()
