"""Host names to addresses through the system's resolver, off the event loop.

getaddrinfo honours /etc/hosts, nsswitch and VPN split DNS, which a resolver of our own would not; it blocks, so it
runs in a few worker threads.  A thread cannot be interrupted: a look-up that takes too long is answered as failed
while its thread keeps its place until the system gives up.

Names that hide addresses of candidates go another way: `edgeice.net.mdns` asks the bases' own links.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import trio

from edgeice.addresses import Base
from edgeice.sansio import DropCounter

if TYPE_CHECKING:
    from edgeice.net.mdns import MulticastResolver

__all__ = ["Resolver", "system_lookup"]

#: Look-ups that run at the same time.
CONCURRENCY = 4
#: Names that may be under way or waiting; a further one is answered as failed.
PENDING_LIMIT = 64
#: Seconds until a look-up counts as failed, waiting for a thread included.
TIMEOUT = 10.0


def system_lookup(name: str) -> list[str]:
    """Addresses of `name` in the system's order of preference (RFC 6724), empty on failure.  Blocks."""
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except (OSError, ValueError):  # ValueError: a name that cannot be encoded, or that holds a NUL
        return []
    ips = [str(sockaddr[0]) for _, _, _, _, sockaddr in answers]
    # A link-local answer means nothing without the interface that it was learned on.
    return list(dict.fromkeys(ip for ip in ips if "%" not in ip))


class Resolver:
    """Looks names up concurrently, within bounds; each name asked for is answered exactly once while it is pending.

    Args:
        nursery: Where the look-ups run.
        on_resolved: Called with the name and its addresses as text, no addresses on failure.
        counters: Counts `resolve_timeout` and `resolve_queue` (too many names pending).
        lookup: The blocking look-up.
        bases: The bases on whose links names are looked up by multicast.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        on_resolved: Callable[[str, list[str]], None],
        counters: DropCounter,
        lookup: Callable[[str], list[str]] = system_lookup,
        *,
        bases: Callable[[], Iterable[Base]] = tuple,
    ) -> None:
        self._nursery = nursery
        self._on_resolved = on_resolved
        self._counters = counters
        self._lookup = lookup
        self._bases = bases
        self._multicast: MulticastResolver | None = None
        self._pending: set[str] = set()
        self._limiter = trio.CapacityLimiter(CONCURRENCY)

    def resolve(self, name: str, *, multicast: bool = False) -> None:
        """Start a look-up; does nothing if one for this name is under way.

        With `multicast` it goes to the links of the bases (RFC 6762), not to the system's resolver.
        """
        if multicast:
            self._resolve_on_links(name)
            return
        if name in self._pending:
            return
        if len(self._pending) >= PENDING_LIMIT:
            self._counters.count("resolve_queue")
            self._nursery.start_soon(self._answer, name)
            return
        self._pending.add(name)
        self._nursery.start_soon(self._run, name)

    def _resolve_on_links(self, name: str) -> None:
        if self._multicast is None:
            from edgeice.net.mdns import MulticastResolver  # noqa: PLC0415  # most hosts never need it

            self._multicast = MulticastResolver(self._nursery, self._on_resolved, self._counters, self._bases)
        self._multicast.resolve(name)

    async def _run(self, name: str) -> None:
        ips: list[str] = []
        try:
            with trio.move_on_after(TIMEOUT) as scope:
                ips = _literal(name) or await trio.to_thread.run_sync(
                    self._lookup, name, abandon_on_cancel=True, limiter=self._limiter
                )
        finally:
            self._pending.discard(name)
        if scope.cancelled_caught:
            self._counters.count("resolve_timeout")
        self._on_resolved(name, ips)

    async def _answer(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self._on_resolved(name, [])


def _literal(name: str) -> list[str]:
    """`name` itself in canonical form where it is an address."""
    try:
        return [str(ipaddress.ip_address(name))]
    except ValueError:
        return []
