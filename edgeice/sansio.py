"""The driving contract: how pure protocol machines take bytes and time, and give back actions and events.

A *machine* does no I/O, reads no clock and throws no dice.  Its owner calls inputs and commands with the present
time, then empties it, in this order, before anything else happens (only datagrams may be given several at a time):

1. `poll_action` until None: what to do to the outside world;
2. `poll_event` until None: what the owner should know;
3. `next_timeout`: when to call `handle_timeout` at the latest.

`drain` does steps 1 and 2.  `now` is monotonic seconds with an opaque origin (`trio.current_time()` in production,
a simulated clock in tests) and never goes back; every call that changes state takes it, so no machine holds a
stale one.  `handle_timeout` does nothing before the deadline, `next_timeout` is a pure query.

Nothing that a remote datagram holds raises out of an input: it is dropped and counted by reason (`DropCounter`).
Wrong use by the caller raises LocalProtocolError.

Randomness comes in as `Entropy`.  This module alone touches `os.urandom` and `random`.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import Final, Generic, Literal, Protocol, TypeAlias, TypeVar

import attrs

from edgeice.addresses import Path, TransportAddress

__all__ = [
    "REFUSALS",
    "Action",
    "BoundedQueue",
    "CloseFlow",
    "DatagramMachine",
    "Delivery",
    "DropCounter",
    "Entropy",
    "Event",
    "Machine",
    "OpenFlow",
    "Resolve",
    "SendStream",
    "TimerTable",
    "Transmit",
    "drain",
]

#: Errors of sending that repeating will not cure, if they are true: ICMP's unreachable, no route, a firewall here.
REFUSALS: Final = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.EADDRNOTAVAIL}
)

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@attrs.frozen(kw_only=True)
class Entropy:
    """The only source of randomness of a machine; tests pass `Random(7).randbytes`."""

    #: n -> n unguessable bytes: credentials, transaction ids, tie-breakers, tags, keys.
    token_bytes: Callable[[int], bytes] = os.urandom
    #: Spread of timers only, never a secret.
    jitter: random.Random = attrs.field(factory=random.Random)

    @classmethod
    def seeded(cls, seed: int) -> Entropy:
        """Reproducible entropy for tests and simulations; never for a real session."""
        return cls(token_bytes=random.Random(seed).randbytes, jitter=random.Random(seed + 1))


class Event:
    """Base of what machines tell their owner; concrete events are attrs.frozen and named by a past participle."""

    __slots__ = ()


@attrs.frozen
class Transmit:
    """Send one datagram from the base `path.local` to `path.remote`."""

    path: Path
    data: bytes


@attrs.frozen
class OpenFlow:
    """Open a TCP or TLS connection, or a UDP socket of its own; the answer is `flow_opened` or `flow_failed`."""

    flow_id: int
    remote: TransportAddress
    #: Interface to pin the socket to, None for the kernel's choice.
    interface: str | None = None
    #: Name to verify the server's certificate against; None for plain TCP.
    tls_name: str | None = None
    #: Over UDP: each SendStream is a datagram, and each `receive_stream` brings one.
    datagrams: bool = False


@attrs.frozen
class SendStream:
    """Write bytes to an open flow."""

    flow_id: int
    data: bytes


@attrs.frozen
class CloseFlow:
    """Close a flow; no further input for it is wanted."""

    flow_id: int


@attrs.frozen
class Resolve:
    """Look a host name up; the driver answers with `resolved(name, addresses)`, an empty list on failure.

    With a service the answer is `located(name, service, servers)`: addresses with the ports that DNS names for it, or,
    where DNS names none, those of the host with None for a port.
    """

    name: str
    #: The service whose servers are wanted, `_stun._udp` (RFC 2782); empty for the host itself.
    service: str = ""
    #: On the links of the bases (RFC 6762), not by the system's resolver.
    multicast: bool = False


Action: TypeAlias = Transmit | OpenFlow | SendStream | CloseFlow | Resolve


class Machine(Protocol):
    """What every machine has, whatever its inputs."""

    def handle_timeout(self, *, now: float) -> None:
        """Act on every deadline that `now` has reached; nothing before."""

    def next_timeout(self) -> float | None:
        """The earliest deadline, None when only an input can change anything."""

    def poll_action(self) -> Action | None:
        """Next thing to do to the outside world, None when there is none."""

    def poll_event(self) -> Event | None:
        """Next thing the owner should know, None when there is none."""


class DatagramMachine(Machine, Protocol):
    """A machine that takes datagrams from paths, those that came together as one batch."""

    def receive_datagram(self, data: bytes, path: Path, *, now: float) -> None:
        """Take one datagram that arrived on `path`; drops and counts what it cannot use."""

    def batch_received(self, *, now: float) -> None:
        """No further datagram is there at the moment: act on what came.

        One acknowledgment for many packets, and many packets for one acknowledgment, is what makes bulk data cheap.
        """


@attrs.frozen
class Delivery:
    """A datagram that reached a machine wrapped in another, as a relay's do, and the session that it is for."""

    session: DatagramMachine
    path: Path
    data: bytes


def drain(machine: Machine, on_action: Callable[[Action], None], on_event: Callable[[Event], None]) -> None:
    """Empty a machine: all actions, then all events, until both are dry.

    An event handler may call the machine's commands; what they cause is drained too.
    """
    while True:
        while (action := machine.poll_action()) is not None:
            on_action(action)
        event = machine.poll_event()
        if event is None:
            return
        on_event(event)


class TimerTable(Generic[K]):
    """A machine's few deadlines by name, so that a trace can say what woke the device."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at: dict[K, float] = {}

    def set(self, name: K, at: float) -> None:
        """Arm or move a timer to fire at `at`."""
        self._at[name] = at

    def cancel(self, name: K) -> None:
        """Disarm a timer; nothing happens if it is not armed."""
        self._at.pop(name, None)

    def clear(self) -> None:
        """Disarm all."""
        self._at.clear()

    def at(self, name: K) -> float | None:
        """Deadline of a timer, None while it is not armed."""
        return self._at.get(name)

    def next(self) -> float | None:
        """The earliest deadline."""
        return min(self._at.values(), default=None)

    def pop_due(self, now: float) -> K | None:
        """Disarm and return the earliest timer whose deadline `now` has reached."""
        if not self._at:
            return None
        name = min(self._at, key=self._at.__getitem__)
        if self._at[name] > now:
            return None
        del self._at[name]
        return name


class BoundedQueue(Generic[T]):
    """A queue with a limit and a stated behaviour at it: the newest or the oldest item is dropped and counted."""

    __slots__ = ("_items", "dropped", "limit", "overflow")

    def __init__(self, limit: int, overflow: Literal["drop_newest", "drop_oldest"] = "drop_newest") -> None:
        self._items: deque[T] = deque()
        self.limit = limit
        self.overflow = overflow
        #: How many items the limit cost so far.
        self.dropped = 0

    def push(self, item: T) -> bool:
        """Append an item; False if the limit cost an item (this one or the oldest)."""
        if len(self._items) < self.limit:
            self._items.append(item)
            return True
        self.dropped += 1
        if self.overflow == "drop_oldest":
            self._items.popleft()
            self._items.append(item)
        return False

    def pop(self) -> T | None:
        """Take the oldest item, None when empty."""
        return self._items.popleft() if self._items else None

    def clear(self) -> None:
        """Forget all items."""
        self._items.clear()

    def __len__(self) -> int:
        return len(self._items)


class DropCounter:
    """Counts dropped input by reason.  Reasons are slugs from the code, never text from a peer."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, reason: str, n: int = 1) -> None:
        """Note that input was dropped."""
        self._counts[reason] += n

    def snapshot(self) -> dict[str, int]:
        """All counts so far, by reason."""
        return dict(self._counts)

    def __getitem__(self, reason: str) -> int:
        return self._counts[reason]

    @property
    def total(self) -> int:
        """Sum over all reasons."""
        return self._counts.total()
