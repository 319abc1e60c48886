"""Multicast DNS on the host's links, while a name is being looked up (RFC 6762).

Each link gets two sockets, one family at a time.  Questions leave from an address and port of this host, as one-shot
look-ups do (RFC 6762 §5.1): most responders answer there.  Browsers answer to the group alone, which a second socket
has joined, beside whatever else on this host listens to it.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Final

import attrs
import trio

from edgeice.addresses import Base
from edgeice.mdns import MESSAGE_LIMIT, Lookups
from edgeice.net.bases import pin_socket
from edgeice.net.interfaces import Snapshot
from edgeice.net.monitor import InterfaceMonitor
from edgeice.net.udp import Sockaddr
from edgeice.sansio import DropCounter

__all__ = ["MulticastResolver"]

#: RFC 6762 §3.
GROUPS: Final = {4: "224.0.0.251", 6: "ff02::fb"}
PORT: Final = 5353
#: Links asked at once: interfaces times families.
LINKS_LIMIT: Final = 16
#: Messages read from one socket before other tasks get their turn.
BATCH: Final = 16
#: RFC 6762 §11.
_TTL: Final = 255

# Not in the socket module; <linux/in.h> and <linux/in6.h>.
_IP_MULTICAST_ALL: Final = 49
_IPV6_MULTICAST_ALL: Final = 29

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@attrs.frozen(eq=False)
class _Link:
    """One family on one interface."""

    asker: socket.socket
    listener: socket.socket
    group: Sockaddr
    #: Networks of the interface: only from there unicast answers are taken.
    networks: tuple[_Network, ...]

    def is_near(self, source: str) -> bool:
        """Whether an answer came from the link itself (RFC 6762 §11)."""
        address = ipaddress.ip_address(source.partition("%")[0])
        return any(address in network for network in self.networks)

    def close(self) -> None:
        for sock in (self.asker, self.listener):
            trio.lowlevel.notify_closing(sock)
            sock.close()


class MulticastResolver:
    """Looks names up on the links of the bases; sockets are open only while a name is under way.

    Args:
        nursery: Where the look-ups run.
        on_resolved: Called with the name and its addresses as text, no addresses on failure.
        counters: Counts those of `Lookups`, `mdns_link` (a link that cannot be asked, or one too many), `mdns_far`
            (an answer from another network) and `mdns_send`.
        bases: The bases that are open.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        on_resolved: Callable[[str, list[str]], None],
        counters: DropCounter,
        bases: Callable[[], Iterable[Base]],
    ) -> None:
        self._nursery = nursery
        self._on_resolved = on_resolved
        self._counters = counters
        self._bases = bases
        self._lookups = Lookups(counters)
        self._wanted: list[str] = []
        self._wake: trio.Event | None = None

    def resolve(self, name: str) -> None:
        """Start a look-up; does nothing if one for this name is under way."""
        self._wanted.append(name)
        if self._wake is None:
            self._wake = trio.Event()
            self._nursery.start_soon(self._run)
        else:
            self._wake.set()

    # Inside

    async def _run(self) -> None:
        links: dict[tuple[str, int], _Link] = {}
        try:
            async with trio.open_nursery() as nursery:
                while self._wanted or self._lookups:
                    wake = self._wake = trio.Event()
                    if self._wanted:
                        await self._open_links(links, nursery)
                        self._begin(links)
                    at = self._lookups.next_timeout()
                    if at is not None:
                        with trio.move_on_at(at):
                            await wake.wait()
                    self._lookups.handle_timeout(now=trio.current_time())
                    self._settle(links)
                # A name that comes from here on is another run's.
                self._wake = None
                nursery.cancel_scope.cancel()
        finally:
            for link in links.values():
                link.close()

    def _begin(self, links: dict[tuple[str, int], _Link]) -> None:
        wanted, self._wanted = self._wanted, []
        for name in wanted:
            self._lookups.ask(name, now=trio.current_time())
        if not links:
            self._lookups.abandon()
        self._settle(links)

    def _settle(self, links: dict[tuple[str, int], _Link]) -> None:
        """Send questions and tell answers."""
        while (query := self._lookups.poll_query()) is not None:
            for link in links.values():
                try:
                    link.asker.sendto(query, link.group)
                except OSError:  # full, or the link is gone: the question is repeated
                    self._counters.count("mdns_send")
        while (event := self._lookups.poll_event()) is not None:
            self._on_resolved(event.name, list(event.addresses))

    async def _open_links(self, links: dict[tuple[str, int], _Link], nursery: trio.Nursery) -> None:
        """Open what is not open yet: bases may have come since the last name."""
        new: dict[tuple[str, int], str] = {}
        for base in self._bases():
            key = (base.interface or "lo", base.address.family)
            if key not in links:
                new.setdefault(key, base.address.ip)
        if not new:
            return
        try:
            with InterfaceMonitor() as monitor:
                snapshot = monitor.read()
        except OSError:
            self._counters.count("mdns_link", len(new))
            return
        for (interface, family), ip in new.items():
            try:
                if len(links) >= LINKS_LIMIT:
                    raise OSError(errno.EMFILE, "too many links")  # noqa: TRY301  # counted like every other reason
                link = _open_link(interface, family, ip, _networks(snapshot, interface))
            except OSError:
                self._counters.count("mdns_link")
                continue
            links[interface, family] = link
            nursery.start_soon(self._receive, link.asker, link)
            nursery.start_soon(self._receive, link.listener, None)

    async def _receive(self, sock: socket.socket, near: _Link | None) -> None:
        """Read messages until canceled.

        What comes to the group is from the link, since no router passes it on (RFC 6762 §11); what comes to the own
        address of `near` may be from anywhere.
        """
        while True:
            await trio.lowlevel.wait_readable(sock)
            answered = False
            for _ in range(BATCH):
                try:
                    data, source = sock.recvfrom(MESSAGE_LIMIT + 1)
                except OSError:  # nothing more, or an error of the link that is told and gone
                    break
                if near is None or near.is_near(source[0]):
                    answered = self._lookups.receive(data) or answered
                else:
                    self._counters.count("mdns_far")
            if answered and self._wake is not None:
                self._wake.set()


def _networks(snapshot: Snapshot, interface: str) -> tuple[_Network, ...]:
    return tuple(
        ipaddress.ip_network(f"{address.ip}/{address.prefix}", strict=False)
        for each in snapshot.interfaces.values()
        if each.name == interface
        for address in each.addresses
    )


def _open_link(interface: str, family: int, ip: str, networks: tuple[_Network, ...]) -> _Link:
    """Both sockets of a link; raises OSError where the kernel refuses one."""
    index = socket.if_nametoindex(interface)
    group = (GROUPS[family], PORT) if family == 4 else (GROUPS[family], PORT, 0, index)
    asker = _open_socket(family)
    try:
        listener = _open_socket(family)
        try:
            _join(listener, family, index, group)
            _aim(asker, family, index, ip, interface)
        except BaseException:
            listener.close()
            raise
    except BaseException:
        asker.close()
        raise
    return _Link(asker, listener, group, networks)


def _open_socket(family: int) -> socket.socket:
    return socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


def _join(listener: socket.socket, family: int, index: int, group: Sockaddr) -> None:
    """Hear the group on one interface, and nothing that others on this host joined."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == 4:
        listener.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        listener.bind(group)
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _membership(index))
    else:
        listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
        listener.bind(group)
        request = struct.pack("16si", socket.inet_pton(socket.AF_INET6, GROUPS[6]), index)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)


def _aim(asker: socket.socket, family: int, index: int, ip: str, interface: str) -> None:
    """Send to the group by one interface, from an address on it."""
    pin_socket(asker, interface)
    if family == 4:
        asker.bind((ip, 0))
        asker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _membership(index))
        asker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _TTL)
    else:
        linked = ipaddress.ip_address(ip).is_link_local
        asker.bind((ip, 0, 0, index if linked else 0))
        asker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        asker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _TTL)


def _membership(index: int) -> bytes:
    """Struct ip_mreqn: group, no address, interface."""
    return struct.pack("4s4si", socket.inet_aton(GROUPS[4]), bytes(4), index)
