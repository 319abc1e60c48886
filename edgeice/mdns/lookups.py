"""Names that are being looked up: when to ask again, and when to give up (RFC 6762 §5.1, §5.2)."""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs

from edgeice.dns import Labels, labels_of
from edgeice.errors import DecodeError
from edgeice.mdns.message import decode_addresses, encode_questions
from edgeice.sansio import DropCounter, Event

__all__ = ["Lookups", "NameResolved"]

#: Names under way on one host; a further one has no address.
NAMES_LIMIT: Final = 64
#: When to ask, seconds after the first time (RFC 6762 §5.2: a second first, then at least twice as long each time), and
#: whether the question has the unicast-response bit.  Chromium's responder does not answer one that has; others answer
#: in unicast without it too, to where a question comes from (RFC 6762 §6.7).
_ASKED_AT: Final = (0.0, 1.0, 3.0)
_UNICAST: Final = (False, True, False)
#: Seconds until a name counts as unknown: Wi-Fi that saves power delivers multicast late, and loses some.
_TIMEOUT: Final = 5.0


@attrs.frozen
class NameResolved(Event):
    """A look-up ended."""

    name: str
    #: All addresses that one answer gave, none if nobody answered.
    addresses: tuple[str, ...]


@attrs.define(eq=False)
class _Lookup:
    name: str
    began_at: float
    asked: int = 0

    @property
    def due_at(self) -> float:
        return self.began_at + (_ASKED_AT[self.asked] if self.asked < len(_ASKED_AT) else _TIMEOUT)


class Lookups:
    """Looks names up on all of the host's links at once: what `poll_query` gives goes to each of them.

    Everybody on the link can answer, and the first answer counts: what a name resolves to is a candidate like any
    other, which proves itself in its checks.

    Args:
        drops: Counts messages that cannot be read (`dns_message`, `mdns_size`) and names beyond the limit
            (`mdns_full`).
    """

    __slots__ = ("_asked", "_drops", "_events", "_queries")

    def __init__(self, drops: DropCounter) -> None:
        self._drops = drops
        self._asked: dict[Labels, _Lookup] = {}
        self._queries: deque[bytes] = deque()
        self._events: deque[NameResolved] = deque()

    def ask(self, name: str, *, now: float) -> None:
        """Begin to look a name up; does nothing while that is under way.

        Raises:
            LocalProtocolError: It is no host name.
        """
        labels = labels_of(name)
        if labels in self._asked:
            return
        if len(self._asked) >= NAMES_LIMIT:
            self._drops.count("mdns_full")
            self._events.append(NameResolved(name, ()))
            return
        self._asked[labels] = _Lookup(name, now)
        self.handle_timeout(now=now)

    def receive(self, data: bytes) -> bool:
        """Take a message from a link; True if it answered a name."""
        try:
            found = decode_addresses(data, self._asked)
        except DecodeError as error:
            self._drops.count(error.reason)
            return False
        for labels, addresses in found.items():
            self._end(labels, addresses)
        return bool(found)

    def abandon(self) -> None:
        """There is no link to ask on: all names end without an address."""
        for labels in list(self._asked):
            self._end(labels, ())
        self._queries.clear()

    def handle_timeout(self, *, now: float) -> None:
        """Ask again and give up what is due."""
        for labels, lookup in list(self._asked.items()):
            while lookup.due_at <= now and lookup.asked < len(_ASKED_AT):
                # A host that slept asks once on waking.
                lookup.asked += 1
                if lookup.due_at > now:
                    self._queries.extend(encode_questions(labels, unicast=_UNICAST[lookup.asked - 1]))
            if lookup.due_at <= now:
                self._end(labels, ())

    def next_timeout(self) -> float | None:
        """The earliest deadline, None while no name is under way."""
        return min((lookup.due_at for lookup in self._asked.values()), default=None)

    def poll_query(self) -> bytes | None:
        """The next message to send on every link."""
        return self._queries.popleft() if self._queries else None

    def poll_event(self) -> NameResolved | None:
        """The next name that is done."""
        return self._events.popleft() if self._events else None

    def __len__(self) -> int:
        return len(self._asked)

    def _end(self, labels: Labels, addresses: tuple[str, ...]) -> None:
        self._events.append(NameResolved(self._asked.pop(labels).name, addresses))
