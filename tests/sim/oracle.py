"""Which paths exist, told from the topology alone: neither ICE nor the simulated network has a part in it.

Hole punching is a search.  Every base sends to every address that it may know, over and over; routers keep what that
opens.  Nothing expires here, so what is open only grows, and the search ends where nothing new opens.  A path is a pair
of a base and a destination such that what is sent arrives, and what is sent back to where it came from arrives too.

Ports are symbols: a router's outer port is named by the mapping that has it, so no coincidence of numbers opens a way.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final, TypeAlias

import attrs

from tests.sim.topology import INTERNET, Dependence, HostPlan, RouterPlan, ServerPlan, Topology

__all__ = ["Address", "Oracle", "Route", "Verdict"]

#: An address: its IP and a port, or what stands for one.
Address: TypeAlias = tuple[str, Hashable]

_MAX_HOPS: Final = 16
#: Two ends that both map by destination show each other a new address with each answer.  None of these is a path that
#: is not one of the first: what is answered from elsewhere each time never mirrors.
_MAX_STEPS: Final = 3


@attrs.frozen
class Route:
    """A path between two agents that works both ways, seen from the first one."""

    base: Address
    #: Where it sends to.
    destination: Address
    peer_base: Address
    #: Where the peer answers to.
    seen_as: Address
    #: How many relays are on it.
    relays: int
    #: Nothing on it translates or filters: two hosts on one segment, or on open IPv6.
    is_open: bool


@attrs.frozen
class Verdict:
    """What there is between two agents."""

    routes: tuple[Route, ...]

    @property
    def direct(self) -> tuple[Route, ...]:
        """Routes without a relay."""
        return tuple(route for route in self.routes if not route.relays)

    @property
    def reach(self) -> str:
        """`direct`, `relay` or `none`: the best there is."""
        if not self.routes:
            return "none"
        return "direct" if self.direct else "relay"


@attrs.define(eq=False)
class _Base:
    """A place to send from, and where it might send to."""

    agent: str
    segment: str
    address: Address
    is_relay: bool = False
    #: Where it sends to, and how many steps of learning that took.
    targets: dict[Address, int] = attrs.field(factory=dict)


class Oracle:
    """Searches the paths between two hosts.

    Args:
        topology: The network.
        one: Name of a host.
        other: Name of another one.
        up: Interfaces that are in use, as (host, interface); None for all that begin so.
    """

    def __init__(
        self,
        topology: Topology,
        one: str,
        other: str,
        *,
        up: Iterable[tuple[str, str]] | None = None,
    ) -> None:
        self._topology = topology
        self._up = None if up is None else set(up)
        self._routers = {router.inner: router for router in topology.routers}
        self._outer = {(router.outer, router.ip): router for router in topology.routers}
        #: (router, inside address, what the mapping depends on), and the outer address that stands for it.
        self._mapped: dict[Address, Address] = {}
        self._open: set[Hashable] = set()
        self._bases: list[_Base] = []
        self._one, self._other = one, other

    def judge(self) -> Verdict:
        """Search."""
        ends = [self._topology.host(name) for name in (self._one, self._other)]
        for host in ends:
            self._bases += self._bases_of(host)
        self._tell_candidates()
        arrived = self._punch()
        return Verdict(tuple(self._routes(arrived)))

    # What agents know

    def _is_up(self, host: str, interface: str, begins_up: bool) -> bool:
        return begins_up if self._up is None else (host, interface) in self._up

    def _bases_of(self, host: HostPlan) -> list[_Base]:
        bases: list[_Base] = []
        for interface in host.interfaces:
            if not self._is_up(host.name, interface.name, interface.up):
                continue
            bases += [
                _Base(host.name, interface.segment, (ip, port)) for ip in interface.ips for port in interface.ports
            ]
        return bases

    def _tell_candidates(self) -> None:
        """Each agent learns the other's host, server-reflexive and relayed addresses."""
        relays: list[_Base] = []
        candidates: dict[str, set[Address]] = {self._one: set(), self._other: set()}
        for base in self._bases:
            candidates[base.agent].add(base.address)
            for server in self._topology.servers:
                seen = self._ask(base, server)
                if seen is not None:
                    candidates[base.agent].add(seen)
                by_stream = server.takes_streams and _family((server.ip, 0)) == _family(base.address)
                if server.relays and server.answers and (seen is not None or by_stream):
                    relay = (server.ip, ("relay", base.agent, base.address))
                    relays.append(_Base(base.agent, INTERNET, relay, is_relay=True))
                    candidates[base.agent].add(relay)
        self._bases += relays
        for base in self._bases:
            other = self._other if base.agent == self._one else self._one
            base.targets |= {each: 0 for each in candidates[other] if _family(each) == _family(base.address)}

    def _ask(self, base: _Base, server: ServerPlan) -> Address | None:
        """How a server sees a base; None if nothing comes back."""
        target = (server.ip, server.port)
        if not server.answers or _family(target) != _family(base.address):
            return None
        came = self._walk(base.segment, base.address, target)
        if came is None or came[0] != INTERNET or came[1] != target:
            return None
        back = self._walk(INTERNET, target, came[2])
        return came[2] if back is not None and back[1] == base.address and back[0] == base.segment else None

    # Punching holes

    def _punch(self) -> dict[tuple[str, Address, Address], tuple[_Base, Address]]:
        """Send until nothing new opens; gives who heard what each base sent to each address, and from where."""
        # Bases of two segments may have the same private address.
        by_place = {(base.segment, base.address): base for base in self._bases}
        while True:
            before = len(self._open) + len(self._mapped) + sum(len(base.targets) for base in self._bases)
            arrived: dict[tuple[str, Address, Address], tuple[_Base, Address]] = {}
            for base in self._bases:
                for target, steps in list(base.targets.items()):
                    if base.is_relay:
                        self._open.add((base.address, target[0]))  # a permission (RFC 8656 §9)
                    came = self._walk(base.segment, base.address, target)
                    if came is None:
                        continue
                    heard = by_place.get((came[0], came[1]))
                    if heard is None or heard.agent == base.agent:
                        continue
                    if heard.is_relay and (heard.address, came[2][0]) not in self._open:
                        continue
                    arrived[base.agent, base.address, target] = heard, came[2]
                    if steps < _MAX_STEPS:
                        heard.targets.setdefault(came[2], steps + 1)
            if before == len(self._open) + len(self._mapped) + sum(len(base.targets) for base in self._bases):
                return arrived

    def _routes(self, arrived: dict[tuple[str, Address, Address], tuple[_Base, Address]]) -> Iterable[Route]:
        for (agent, address, target), (heard, seen) in arrived.items():
            if agent != self._one:
                continue
            back = arrived.get((self._other, heard.address, seen))
            if back is None or back[0].agent != self._one or (back[0].address, back[1]) != (address, target):
                continue
            relays = back[0].is_relay + heard.is_relay
            is_open = target == heard.address and seen == address and not relays
            is_open = is_open and self._is_open(back[0].segment, heard.segment)
            yield Route(address, target, heard.address, seen, relays, is_open)

    def _is_open(self, here: str, there: str) -> bool:
        if here == there:
            return True
        routers = [router for segment in (here, there) for router in self._chain(segment)]
        return all(
            router.firewall is not None and router.firewall.filtering is Dependence.INDEPENDENT for router in routers
        )

    # The way of one datagram

    def _walk(self, segment: str, source: Address, target: Address) -> tuple[str, Address, Address] | None:
        """Where a datagram comes out: the segment, the address there, and its source by then; None if nowhere."""
        if _family(target) == 6:
            return self._walk_v6(segment, source, target)
        for _ in range(_MAX_HOPS):
            if self._has(segment, target[0]):
                return segment, target, source
            if (segment, target[0]) in self._outer:
                return self._inward(self._outer[segment, target[0]], target, source)
            router = self._routers.get(segment)
            if router is None or not router.passes_udp:
                return None
            hairpins = target[0] == router.ip
            if hairpins and not router.nat.hairpin:
                return None
            source = self._outward(router, source, target)
            segment = router.outer
        return None

    def _has(self, segment: str, ip: str) -> bool:
        if segment == INTERNET and any(server.ip == ip for server in self._topology.servers):
            return True
        return any(
            interface.segment == segment and ip in interface.ips
            for host in self._topology.hosts
            for interface in host.interfaces
        )

    def _outward(self, router: RouterPlan, source: Address, target: Address) -> Address:
        outer = (router.ip, (router.name, source, _part(router.nat.mapping, target)))
        self._mapped[outer] = source
        self._open.add((outer, _part(router.nat.filtering, target)))
        return outer

    def _inward(self, router: RouterPlan, target: Address, source: Address) -> tuple[str, Address, Address] | None:
        inside = self._mapped.get(target)
        if inside is None or not router.passes_udp or (target, _part(router.nat.filtering, source)) not in self._open:
            return None
        if self._has(router.inner, inside[0]):
            return router.inner, inside, source
        following = self._outer.get((router.inner, inside[0]))
        return None if following is None else self._inward(following, inside, source)

    def _walk_v6(self, segment: str, source: Address, target: Address) -> tuple[str, Address, Address] | None:
        home = next(
            (
                interface.segment
                for host in self._topology.hosts
                for interface in host.interfaces
                if target[0] in interface.ips
            ),
            INTERNET if any(server.ip == target[0] for server in self._topology.servers) else None,
        )
        if home is None:
            return None
        up, down = self._chain(segment), self._chain(home)
        while up and down and up[-1] is down[-1]:
            up, down = up[:-1], down[:-1]
        if any(router.firewall is None or not router.passes_udp for router in (*up, *down)):
            return None
        for router in up:
            if router.firewall is not None:
                self._open.add((router.name, source, _part(router.firewall.filtering, target)))
        for router in down:
            if router.firewall is None or router.firewall.filtering is Dependence.INDEPENDENT:
                continue
            if (router.name, target, _part(router.firewall.filtering, source)) not in self._open:
                return None
        return home, target, source

    def _chain(self, segment: str) -> list[RouterPlan]:
        chain: list[RouterPlan] = []
        while (router := self._routers.get(segment)) is not None and len(chain) < _MAX_HOPS:
            chain.append(router)
            segment = router.outer
        return chain


def _family(address: Address) -> int:
    return 6 if ":" in address[0] else 4


def _part(dependence: Dependence, remote: Address) -> Hashable:
    if dependence is Dependence.INDEPENDENT:
        return None
    return remote[0] if dependence is Dependence.ADDRESS else remote
