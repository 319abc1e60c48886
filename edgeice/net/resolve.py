"""Host names to addresses through the system's resolver, off the event loop.

getaddrinfo honours /etc/hosts, nsswitch and VPN split DNS, which a resolver of our own would not; it blocks, so it
runs in a few worker threads.  A thread cannot be interrupted: a look-up that takes too long is answered as failed
while its thread keeps its place until the system gives up.

Names that hide addresses of candidates go another way: `edgeice.net.mdns` asks the bases' own links.  Where a service
is asked for, its servers are looked up too (`edgeice.net.services`), and count before the name itself.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import trio

from edgeice.addresses import Base
from edgeice.sansio import DropCounter

if TYPE_CHECKING:
    from edgeice.net.mdns import MulticastResolver

__all__ = ["Resolver", "system_lookup"]

T = TypeVar("T")

#: Look-ups that run at the same time.
CONCURRENCY = 4
#: Names that may be under way or waiting; a further one is answered as failed.
PENDING_LIMIT = 64
#: Seconds until a look-up counts as failed, waiting for a thread included.
TIMEOUT = 10.0
#: Seconds until a service has no servers of its own: some networks lose questions for them.
SERVICE_TIMEOUT = 3.0


def _ignore(_name: str, _service: str, _servers: list[tuple[str, int | None]]) -> None:
    """Who asks for no service hears of none."""


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
        on_located: Called where a service was asked for, with its name and servers: addresses and ports, None for a
            port that DNS does not tell.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        on_resolved: Callable[[str, list[str]], None],
        counters: DropCounter,
        lookup: Callable[[str], list[str]] = system_lookup,
        *,
        bases: Callable[[], Iterable[Base]] = tuple,
        on_located: Callable[[str, str, list[tuple[str, int | None]]], None] = _ignore,
    ) -> None:
        self._nursery = nursery
        self._on_resolved = on_resolved
        self._counters = counters
        self._lookup = lookup
        self._bases = bases
        self._multicast: MulticastResolver | None = None
        self._on_located = on_located
        #: Names and services.
        self._pending: set[tuple[str, str]] = set()
        self._limiter = trio.CapacityLimiter(CONCURRENCY)

    def resolve(self, name: str, *, multicast: bool = False, service: str = "") -> None:
        """Start a look-up; does nothing if one for this name is under way.

        With `multicast` it goes to the links of the bases (RFC 6762), not to the system's resolver.
        """
        if multicast:
            self._resolve_on_links(name)
            return
        if (name, service) in self._pending:
            return
        if len(self._pending) >= PENDING_LIMIT:
            self._counters.count("resolve_queue")
            self._nursery.start_soon(self._answer, name, service)
            return
        self._pending.add((name, service))
        self._nursery.start_soon(self._run, name, service)

    def _resolve_on_links(self, name: str) -> None:
        if self._multicast is None:
            from edgeice.net.mdns import MulticastResolver  # noqa: PLC0415  # most hosts never need it

            self._multicast = MulticastResolver(self._nursery, self._on_resolved, self._counters, self._bases)
        self._multicast.resolve(name)

    async def _run(self, name: str, service: str) -> None:
        servers: list[tuple[str, int | None]] | None = None
        ips: list[str] = []

        async def look_up() -> None:
            ips.extend(await self._addresses(name))

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look_up)  # at the same time, since few names have servers of their own
                if service and (servers := await self._locate(name, service)) is not None:
                    nursery.cancel_scope.cancel()
        finally:
            self._pending.discard((name, service))
        if servers is not None:
            self._on_located(name, service, servers)
        else:
            self._tell(name, service, ips)

    def _tell(self, name: str, service: str, ips: list[str]) -> None:
        if service:
            self._on_located(name, service, [(ip, None) for ip in ips])
        else:
            self._on_resolved(name, ips)

    async def _addresses(self, name: str) -> list[str]:
        with trio.move_on_after(TIMEOUT):
            return _literal(name) or await self._in_thread(self._lookup, name)
        self._counters.count("resolve_timeout")
        return []

    async def _locate(self, name: str, service: str) -> list[tuple[str, int | None]] | None:
        """Who serves, in order; None where DNS does not say."""
        from edgeice.net.services import locate  # noqa: PLC0415  # few names are those of services

        with trio.move_on_after(SERVICE_TIMEOUT):
            return await locate(f"{service}.{name}", self._lookup, self._in_thread)
        self._counters.count("resolve_timeout")
        return None

    async def _in_thread(self, lookup: Callable[[str], T], name: str) -> T:
        return await trio.to_thread.run_sync(lookup, name, abandon_on_cancel=True, limiter=self._limiter)

    async def _answer(self, name: str, service: str) -> None:
        await trio.lowlevel.checkpoint()
        self._tell(name, service, [])


def _literal(name: str) -> list[str]:
    """`name` itself in canonical form where it is an address."""
    try:
        return [str(ipaddress.ip_address(name))]
    except ValueError:
        return []
