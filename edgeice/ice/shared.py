"""What the generations of one session share."""

from __future__ import annotations

from typing import Final

import attrs

from edgeice.addresses import Path
from edgeice.ice.config import IceConfig, Role
from edgeice.ice.destinations import Destinations
from edgeice.ice.liveness import Liveness
from edgeice.sansio import BoundedQueue, DropCounter, Entropy, Event, Transmit
from edgeice.trace import Record, Tracer, ignore

__all__ = ["Networks", "Shared"]

#: Between two drains a session sends one new request and few retransmissions and replies; these are far more.
_MAX_ACTIONS: Final = 1024
_MAX_EVENTS: Final = 1024
_MAX_NETWORKS: Final = 255


def _actions() -> BoundedQueue[Transmit]:
    return BoundedQueue(_MAX_ACTIONS)


def _events() -> BoundedQueue[Event]:
    return BoundedQueue(_MAX_EVENTS)


class Networks:
    """Numbers the interfaces of this host for the peer, each by its name, from 1 on."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, interface: str) -> int:
        """The interface's number; 0, which says nothing, without a name and once there are 255 others."""
        if not interface or (interface not in self._numbers and len(self._numbers) >= _MAX_NETWORKS):
            return 0
        return self._numbers.setdefault(interface, len(self._numbers) + 1)


@attrs.define(eq=False, kw_only=True)
class Shared:
    """Configuration, role, and where output goes.

    A full queue drops the newest item; an owner that drains never sees one.
    """

    config: IceConfig
    entropy: Entropy
    tracer: Tracer
    role: Role
    tie_breaker: int
    destinations: Destinations = attrs.field(factory=Destinations)
    #: Of foundations, so that they say nothing about addresses.
    salt: bytes
    actions: BoundedQueue[Transmit] = attrs.field(factory=_actions)
    events: BoundedQueue[Event] = attrs.field(factory=_events)
    drops: DropCounter = attrs.field(factory=DropCounter)
    networks: Networks = attrs.field(factory=Networks)
    #: Of the path that carries data.
    liveness: Liveness = attrs.field(factory=Liveness)

    def transmit(self, path: Path, data: bytes) -> None:
        """Queue a datagram."""
        if not self.actions.push(Transmit(path, data)):
            self.drops.count("action_queue_full")

    def emit(self, event: Event) -> None:
        """Queue an event."""
        if not self.events.push(event):
            self.drops.count("event_queue_full")

    def trace(self, now: float, name: str, **fields: object) -> None:
        """Record what happened."""
        if self.tracer is not ignore:
            self.tracer(Record(now, "ice", name, fields))

    def new_tie_breaker(self) -> None:
        """Draw the tie-breaker anew (RFC 8445 §7.2.5.1)."""
        self.tie_breaker = int.from_bytes(self.entropy.token_bytes(8), "big")
