"""A network in virtual time: one heap of events, segments joined by routers, hosts on lossy links.

No sockets, no real time, no threads.  Everything follows from the topology and the seed.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from typing import TypeAlias

import attrs

from edgeice.addresses import TransportAddress
from tests.sim.links import Fairness, Link, transaction_of
from tests.sim.nat import Firewall, Nat
from tests.sim.topology import INTERNET, InterfacePlan, LinkPlan, RouterPlan, Topology

__all__ = ["Clock", "Interface", "Network", "Receiver", "Router", "StalledError"]

#: Takes a datagram: the data, where it was sent to, where it came from.
Receiver: TypeAlias = Callable[[bytes, TransportAddress, TransportAddress], None]

#: A chain of routers longer than this is a loop.
_MAX_HOPS = 16


class StalledError(AssertionError):
    """Events go on and on while no time passes."""


class Clock:
    """Virtual time, seconds, and what happens in it."""

    def __init__(self, start: float = 1000.0) -> None:
        self.now = start
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.steps = 0

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call something at a time, or now if that is over; what has the same time goes in the order of asking."""
        heapq.heappush(self._heap, (max(when, self.now), next(self._order), call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something later."""
        self.at(self.now + seconds, call)

    def run(self, seconds: float, until: Callable[[], bool] | None = None, *, limit: int = 1_000_000) -> bool:
        """Let time pass; ends early, with True, once `until` holds.  Raises StalledError after `limit` events."""
        end = self.now + seconds
        heap = self._heap
        for _ in range(limit):
            if until is not None and until():
                return True
            if not heap or heap[0][0] > end:
                self.now = end
                return False
            self.now, _, call = heapq.heappop(heap)
            self.steps += 1
            call()
        raise StalledError(f"{limit} events within {seconds} s")


@attrs.define(eq=False)
class Interface:
    """A host's place on a segment."""

    plan: InterfacePlan
    host: str
    up: Link
    down: Link
    receive: Receiver | None = None


@attrs.define(eq=False)
class Router:
    """A router with its state."""

    plan: RouterPlan
    nat: Nat
    firewall: Firewall | None

    def flush(self) -> None:
        """Forget all bindings and sessions."""
        self.nat.flush()
        if self.firewall is not None:
            self.firewall.flush()


@attrs.frozen
class _Datagram:
    data: bytes
    source: TransportAddress
    destination: TransportAddress
    transaction: bytes | None


class Network:
    """Carries datagrams between hosts.

    Args:
        topology: What there is.
        seed: Of all luck.
        fairness: Bounds the luck.
        clock: Of the simulation.

    Attributes:
        lost: Datagrams that came nowhere, by reason: `link`, `filtered`, `udp_blocked`, `unroutable`, `closed`.
    """

    def __init__(self, topology: Topology, *, seed: int, fairness: Fairness, clock: Clock) -> None:
        self.topology = topology
        self.clock = clock
        self.lost = dict.fromkeys(("link", "filtered", "udp_blocked", "unroutable", "closed"), 0)
        self._fairness = fairness
        self._dice = random.Random(seed)
        self.interfaces: dict[tuple[str, str], Interface] = {}
        self.routers: dict[str, Router] = {}
        #: What is on a segment, by address.
        self._members: dict[tuple[str, str], Interface | Router] = {}
        self._gateways: dict[str, Router] = {}
        self._v6: dict[str, Interface] = {}
        for plan in topology.routers:
            firewall = None if plan.firewall is None else Firewall(plan.firewall)
            router = Router(plan, Nat(plan.nat, plan.ip, self._dice), firewall)
            self.routers[plan.name] = self._members[plan.outer, plan.ip] = self._gateways[plan.inner] = router
        for host in topology.hosts:
            for each in host.interfaces:
                self.add_interface(host.name, each)
        for server in topology.servers:
            link = LinkPlan(delay=0.002)
            self.add_interface(
                f"server-{server.ip}", InterfacePlan(name="eth0", segment=INTERNET, ips=(server.ip,), link=link)
            )

    def add_interface(self, host: str, plan: InterfacePlan) -> Interface:
        """Plug an interface in."""
        up, down = (Link(plan.link, self._dice, self._fairness) for _ in range(2))
        interface = Interface(plan, host, up, down)
        self.interfaces[host, plan.name] = interface
        for ip in plan.ips:
            if ":" in ip:
                self._v6[ip] = interface
            else:
                self._members[plan.segment, ip] = interface
        return interface

    def readdress(self, host: str, name: str, ips: tuple[str, ...]) -> InterfacePlan:
        """Give an interface other addresses; what goes to the old ones comes nowhere."""
        interface = self.interfaces[host, name]
        old = interface.plan
        for ip in old.ips:
            if ":" in ip:
                self._v6.pop(ip, None)
            else:
                self._members.pop((old.segment, ip), None)
        interface.plan = plan = attrs.evolve(old, ips=ips)
        for ip in ips:
            if ":" in ip:
                self._v6[ip] = interface
            else:
                self._members[plan.segment, ip] = interface
        hosts = tuple(
            attrs.evolve(each, interfaces=tuple(plan if i.name == name else i for i in each.interfaces))
            if each.name == host
            else each
            for each in self.topology.hosts
        )
        self.topology = attrs.evolve(self.topology, hosts=hosts)
        return plan

    def renumber(self, name: str, ip: str) -> None:
        """Give a router another outer address; its bindings are gone with the old one."""
        router = self.routers[name]
        del self._members[router.plan.outer, router.plan.ip]
        router.plan = attrs.evolve(router.plan, ip=ip)
        router.nat.ip = ip
        router.nat.flush()
        self._members[router.plan.outer, ip] = router
        routers = tuple(router.plan if each.name == name else each for each in self.topology.routers)
        self.topology = attrs.evolve(self.topology, routers=routers)

    def send(self, interface: Interface, data: bytes, source: TransportAddress, destination: TransportAddress) -> None:
        """Let a host send a datagram."""
        transaction, peer = transaction_of(data) or (None, b"")
        self._fairness.begin(transaction, (source, destination, peer))
        datagram = _Datagram(data, source, destination, transaction)
        arrivals = interface.up.arrivals(data, transaction, self.clock.now)
        if not arrivals:
            self.lost["link"] += 1
        for at in arrivals:
            self.clock.at(at, lambda: self._leave(interface.plan.segment, datagram))

    # Inside

    def _leave(self, segment: str, datagram: _Datagram) -> None:
        """From a host's segment outwards, to where the destination is."""
        if datagram.destination.family == 6:
            self._leave_v6(segment, datagram)
            return
        source, destination, now = datagram.source, datagram.destination, self.clock.now
        crossed = False
        for _ in range(_MAX_HOPS):
            member = self._members.get((segment, destination.ip))
            if member is not None:
                break
            router = self._gateways.get(segment)
            if router is None:
                self.lost["unroutable"] += 1
                return
            if not router.plan.passes_udp:
                self.lost["udp_blocked"] += 1
                return
            if destination.ip == router.plan.ip:
                # To the router's own outer address, from inside (RFC 4787 §6, REQ-9: the source is the outer one).
                if not router.nat.rules.hairpin:
                    self.lost["filtered"] += 1
                    return
                source = router.nat.outbound(source, destination, now)
                member, segment = router, router.plan.outer
                break
            source = router.nat.outbound(source, destination, now)
            segment = router.plan.outer
            crossed = True
        moved = attrs.evolve(datagram, source=source)
        if member is None:
            raise StalledError("routers form a loop")
        if crossed and segment == INTERNET and self.topology.core_delay:
            found = member
            self.clock.after(self.topology.core_delay, lambda: self._enter(found, moved))
        else:
            self._enter(member, moved)

    def _enter(self, member: Interface | Router, datagram: _Datagram) -> None:
        """From the segment where the destination is inwards, through the translations of its routers."""
        while isinstance(member, Router):
            if not member.plan.passes_udp:
                self.lost["udp_blocked"] += 1
                return
            inside = member.nat.inbound(datagram.destination.port, datagram.source, self.clock.now)
            if inside is None:
                self.lost["filtered"] += 1
                return
            datagram = attrs.evolve(datagram, destination=inside)
            following = self._members.get((member.plan.inner, inside.ip))
            if following is None:
                self.lost["unroutable"] += 1
                return
            member = following
        self._deliver(member, datagram)

    def _leave_v6(self, segment: str, datagram: _Datagram) -> None:
        target = self._v6.get(datagram.destination.ip)
        if target is None:
            self.lost["unroutable"] += 1
            return
        inward = self._chain(target.plan.segment)
        segments = [each.plan.inner for each in inward]
        outward = self._chain(segment)
        # Up to the first segment that the destination is behind, then down.
        up = list(itertools.takewhile(lambda router: router.plan.inner not in segments, outward))
        top = up[-1].plan.outer if up else segment
        down = inward[: segments.index(top)] if top in segments else inward
        for router in (*up, *down):
            if router.firewall is None or not router.plan.passes_udp:
                self.lost["unroutable" if router.plan.passes_udp else "udp_blocked"] += 1
                return
        for router in up:
            if router.firewall is not None:
                router.firewall.outbound(datagram.source, datagram.destination, self.clock.now)
        self.clock.after(
            self.topology.core_delay if up or down else 0.0, lambda: self._enter_v6(target, down, datagram)
        )

    def _enter_v6(self, target: Interface, down: list[Router], datagram: _Datagram) -> None:
        for router in down:
            firewall = router.firewall
            if firewall is None or not firewall.admits(datagram.destination, datagram.source, self.clock.now):
                self.lost["filtered"] += 1
                return
        self._deliver(target, datagram)

    def _chain(self, segment: str) -> list[Router]:
        """The routers from a segment to the internet."""
        chain: list[Router] = []
        while (router := self._gateways.get(segment)) is not None and len(chain) < _MAX_HOPS:
            chain.append(router)
            segment = router.plan.outer
        return chain

    def _deliver(self, interface: Interface, datagram: _Datagram) -> None:
        arrivals = interface.down.arrivals(datagram.data, datagram.transaction, self.clock.now)
        if not arrivals:
            self.lost["link"] += 1
        for at in arrivals:
            self.clock.at(at, lambda: self._hand_over(interface, datagram))

    def _hand_over(self, interface: Interface, datagram: _Datagram) -> None:
        if interface.receive is None:
            self.lost["closed"] += 1
        else:
            interface.receive(datagram.data, datagram.destination, datagram.source)

    @property
    def horizon(self) -> float:
        """No datagram is longer under way than this, seconds."""
        slowest = max(
            (each.plan.link.delay + each.plan.link.jitter + 0.35 for each in self.interfaces.values()), default=math.inf
        )
        # With a relay at either end.
        return 2 * slowest + 4 * self.topology.core_delay + 0.1
