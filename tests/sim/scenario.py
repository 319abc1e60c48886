"""Scenarios: a topology, sessions on it and what happens to them, all drawn from one seed."""

from __future__ import annotations

import random
from ipaddress import ip_address
from typing import Final, TypeAlias

import attrs

from tests.sim.signaling import SignalingPlan
from tests.sim.topology import (
    INTERNET,
    Dependence,
    FirewallRules,
    HostPlan,
    InterfacePlan,
    LinkPlan,
    NatRules,
    RouterPlan,
    ServerPlan,
    Topology,
)

__all__ = [
    "SERVERS",
    "Action",
    "Blackout",
    "Builder",
    "Flush",
    "Move",
    "Restart",
    "Scenario",
    "SessionPlan",
    "draw_scenario",
    "draw_topology",
]

SERVERS: Final = (ServerPlan(ip="203.0.113.1"), ServerPlan(ip="203.0.113.2"))


@attrs.frozen
class Restart:
    """One end of a session restarts ICE."""

    session: int
    by_offerer: bool


@attrs.frozen
class Move:
    """A host leaves an interface for another one, then restarts ICE; `gap` seconds lie between."""

    host: str
    leaves: str
    takes: str
    gap: float


@attrs.frozen
class Blackout:
    """An interface swallows everything for so many seconds, and nobody is told."""

    host: str
    interface: str
    seconds: float


@attrs.frozen
class Flush:
    """A router forgets its bindings."""

    router: str


Action: TypeAlias = Restart | Move | Blackout | Flush


@attrs.frozen(kw_only=True)
class SessionPlan:
    """A session of two hosts; the first one offers."""

    one: str
    other: str
    #: Who believes to be controlling: usually the offerer alone; both or neither is a conflict (RFC 8445 §7.3.1.1).
    controlling: tuple[bool, bool] = (True, False)
    trickles: tuple[bool, bool] = (True, True)
    signaling: SignalingPlan = attrs.field(factory=SignalingPlan)


@attrs.frozen(kw_only=True)
class Scenario:
    """Everything that a run depends on."""

    seed: int
    topology: Topology
    sessions: tuple[SessionPlan, ...]
    actions: tuple[Action, ...] = ()
    #: Ta of each host, seconds.
    pacing: tuple[tuple[str, float], ...] = ()
    #: Of `Fairness`.
    losses: int = 2

    @property
    def is_calm(self) -> bool:
        """Whether links and signaling are such that every first datagram arrives soon and in order."""
        links = [each.link for host in self.topology.hosts for each in host.interfaces]
        return all(
            link.delay <= 0.05
            and link.jitter <= 0.01
            and link.rate is None
            and not (link.loss or link.duplication or link.reordering)
            for link in links
        ) and all(
            # A relay's address that a check shows before signaling names it is not known for one.
            plan.signaling.delay + plan.signaling.jitter <= 0.05
            and not (plan.signaling.duplication or plan.signaling.reordering)
            for plan in self.sessions
        )

    @property
    def is_swift(self) -> bool:
        """Whether besides every check is answered well within the wait for a better pair."""
        links = [each.link for host in self.topology.hosts for each in host.interfaces]
        return self.is_calm and all(link.delay <= 0.010 for link in links)


def _draw_link(dice: random.Random, *, rough: bool, swift: bool) -> LinkPlan:
    delay = dice.choice((0.002, 0.010) if swift else (0.002, 0.010, 0.030, 0.050))
    if not rough:
        return LinkPlan(delay=delay, jitter=dice.choice((0.0, 0.005)))
    return LinkPlan(
        delay=dice.choice((delay, 0.150, 0.300)),
        jitter=dice.choice((0.0, 0.020, 0.100)),
        loss=dice.choice((0.0, 0.05, 0.3)),
        duplication=dice.choice((0.0, 0.1)),
        reordering=dice.choice((0.0, 0.1)),
        rate=dice.choice((None, None, 16_000.0)),
    )


def _draw_nat(dice: random.Random) -> NatRules:
    mapping, filtering = dice.choice(tuple(Dependence)), dice.choice(tuple(Dependence))
    return NatRules(
        mapping=mapping,
        filtering=filtering,
        preserves_port=dice.random() < 0.5,
        lifetime=dice.choice((40.0, 60.0, 120.0)),
        refreshed_by_inbound=dice.random() < 0.5,
        hairpin=dice.random() < 0.3,
    )


def _draw_firewall(dice: random.Random) -> FirewallRules | None:
    if dice.random() < 0.3:
        return None
    return FirewallRules(filtering=dice.choice(tuple(Dependence)), lifetime=dice.choice((40.0, 120.0)))


class Builder:
    """Places hosts on segments, with routers where they are needed."""

    def __init__(self, dice: random.Random, *, rough: bool, swift: bool) -> None:
        self.dice = dice
        self.rough = rough
        self.swift = swift
        self.routers: list[RouterPlan] = []
        self.segments: list[str] = []
        self._numbers = iter(range(1, 250))
        self._carrier: str | None = None
        #: Private addresses in use, by segment and by host.
        self._taken: set[tuple[str | int, str]] = set()

    def segment(self) -> str:
        """A place for an interface: a home, one behind a carrier's NAT, the internet, or one that there is already."""
        dice = self.dice
        if self.segments and dice.random() < 0.2:
            return dice.choice(self.segments)
        if dice.random() < 0.12:
            return INTERNET
        number = next(self._numbers)
        outer, ip = INTERNET, f"198.51.100.{number}"
        if dice.random() < 0.2:
            outer, ip = self._carrier_segment(), f"100.64.0.{number}"
        name = f"home{number}"
        self.routers.append(
            RouterPlan(
                name=f"router{number}",
                outer=outer,
                inner=name,
                ip=ip,
                nat=_draw_nat(dice),
                firewall=_draw_firewall(dice),
                passes_udp=dice.random() >= 0.04,
            )
        )
        self.segments.append(name)
        return name

    def _carrier_segment(self) -> str:
        if self._carrier is None or self.dice.random() < 0.3:
            number = next(self._numbers)
            self._carrier = f"carrier{number}"
            self.routers.append(
                RouterPlan(
                    name=f"cgn{number}",
                    outer=INTERNET,
                    inner=self._carrier,
                    ip=f"198.51.100.{number}",
                    nat=_draw_nat(self.dice),
                    firewall=_draw_firewall(self.dice),
                )
            )
        return self._carrier

    def interface(self, name: str, host: int, place: int, *, up: bool) -> InterfacePlan:
        """An interface with addresses of one or both families."""
        dice = self.dice
        segment = self.segment()
        families = dice.choices(("4", "6", "46"), (6, 1, 3))[0]
        ips: list[str] = []
        if "4" in families:
            ips.append(f"192.0.2.{10 + 10 * host + place}" if segment == INTERNET else self._private(segment, host))
        if "6" in families:
            ips.append(str(ip_address(f"2001:db8:{host}:{place}::{dice.randrange(1, 0x10000):x}")))
        ports = (4000, 4001) if dice.random() < 0.05 else (4000,)
        return InterfacePlan(
            name=name,
            segment=segment,
            ips=tuple(ips),
            ports=ports,
            link=_draw_link(dice, rough=self.rough, swift=self.swift),
            up=up,
        )

    def _private(self, segment: str, host: int) -> str:
        """A private address: homes use the same ones, so another home's candidate may name a host of this one."""
        while True:
            ip = f"192.168.{self.dice.choice((1, 1, 1, 2, 3))}.{self.dice.randrange(10, 15)}"
            if not {(segment, ip), (host, ip)} & self._taken:
                self._taken |= {(segment, ip), (host, ip)}
                return ip


def draw_topology(dice: random.Random, *, hosts: int, rough: bool, swift: bool) -> Topology:
    """A network with hosts named `a`, `b`, …; `rough` links lose and reorder, `swift` ones are short."""
    builder = Builder(dice, rough=rough, swift=swift)
    plans: list[HostPlan] = []
    for number in range(hosts):
        count = dice.choices((1, 2, 3), (6, 3, 1))[0]
        interfaces = [
            builder.interface(name, number, place, up=place == 0 or dice.random() < 0.5)
            for place, name in enumerate(("eth0", "wlan0", "wwan0")[:count])
        ]
        plans.append(HostPlan(name="abc"[number], interfaces=tuple(interfaces)))
    silent, relays, streams = dice.random() < 0.15, dice.random() < 0.5, dice.random() < 0.5
    servers: tuple[ServerPlan, ...] = (
        attrs.evolve(SERVERS[0], answers=not silent, relays=relays and dice.random() < 0.3, takes_streams=streams),
        attrs.evolve(SERVERS[1], relays=relays, takes_streams=streams),
    )
    if dice.random() < 0.5:
        servers = (*servers, ServerPlan(ip="2001:db8:ffff::1"))
    return Topology(hosts=tuple(plans), routers=tuple(builder.routers), servers=servers)


def _draw_signaling(dice: random.Random, *, rough: bool) -> SignalingPlan:
    delay = dice.choice((0.001, 0.040, 0.200))
    if not rough:
        return SignalingPlan(delay=delay, retained=dice.random() < 0.2)
    return SignalingPlan(
        delay=delay,
        jitter=dice.choice((0.0, 0.2)),
        duplication=dice.choice((0.0, 0.2)),
        reordering=dice.choice((0.0, 0.2)),
        retained=dice.random() < 0.3,
    )


def _draw_action(dice: random.Random, topology: Topology, sessions: int) -> Action | None:
    host = dice.choice(topology.hosts)
    kind = dice.randrange(4)
    if kind == 0:
        return Restart(dice.randrange(sessions), dice.random() < 0.5)
    if kind == 1 and len(host.interfaces) > 1:
        leaves, takes = dice.sample([each.name for each in host.interfaces], 2)
        return Move(host.name, leaves, takes, dice.choice((0.0, 0.0, 0.5, 3.0)))
    if kind == 2:
        return Blackout(host.name, dice.choice(host.interfaces).name, dice.choice((3.0, 3.0, 45.0)))
    if kind == 3 and topology.routers:
        return Flush(dice.choice(topology.routers).name)
    return None


def draw_scenario(seed: int) -> Scenario:
    """The scenario of a seed."""
    dice = random.Random(seed)
    rough = dice.random() < 0.5
    swift = not rough and dice.random() < 0.4
    hosts = 3 if dice.random() < 0.15 else 2
    topology = draw_topology(dice, hosts=hosts, rough=rough, swift=swift)
    sessions: list[SessionPlan] = []
    for other in topology.hosts[1:]:
        controlling = dice.choices(((True, False), (False, True), (True, True), (False, False)), (8, 1, 1, 1))[0]
        sessions.append(
            SessionPlan(
                one="a",
                other=other.name,
                controlling=controlling,
                trickles=dice.choices(((True, True), (False, False), (True, False)), (6, 1, 1))[0],
                signaling=_draw_signaling(dice, rough=rough),
            )
        )
    drawn = [_draw_action(dice, topology, len(sessions)) for _ in range(dice.choice((0, 0, 1, 1, 2)))]
    return Scenario(
        seed=seed,
        topology=topology,
        sessions=tuple(sessions),
        actions=tuple(action for action in drawn if action is not None),
        pacing=tuple((host.name, dice.choice((0.02, 0.02, 0.05))) for host in topology.hosts),
        losses=dice.choice((1, 2, 3)),
    )
