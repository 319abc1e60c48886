"""What happens to sessions that roam, and the scenarios made of it: all drawn from one seed."""

from __future__ import annotations

import random
from typing import Final, Literal, TypeAlias

import attrs

from tests.sim.roads import BrokerPlan
from tests.sim.scenario import SERVERS, Builder
from tests.sim.topology import HostPlan, InterfacePlan, ServerPlan, Topology

__all__ = [
    "IN_USE",
    "Blackhole",
    "BrokerDown",
    "Dark",
    "Fault",
    "Flap",
    "Gain",
    "Lose",
    "NatReboot",
    "Quiet",
    "Readdress",
    "RelayRestart",
    "Renumber",
    "RoamingScenario",
    "Step",
    "draw_roaming",
]

_COSTS: Final = {"eth0": 0, "wlan0": 10, "wwan0": 900}


#: In place of an interface's name: the one that data leaves by, or any where there is none.
IN_USE: Final = ""


@attrs.frozen
class Lose:
    """An interface loses its carrier, is shut, or loses one of its addresses; it comes back later, or never."""

    host: str
    interface: str
    how: Literal["carrier", "admin", "address"]
    back_after: float | None = None


@attrs.frozen
class Gain:
    """An interface appears: a better one, a worse one, or the only one."""

    host: str
    interface: str


@attrs.frozen
class Readdress:
    """An interface has other addresses from now on."""

    host: str
    interface: str


@attrs.frozen
class Blackhole:
    """An interface swallows everything for so many seconds, and nobody is told."""

    host: str
    interface: str
    seconds: float


@attrs.frozen
class Renumber:
    """A router has another outer address."""

    router: str


@attrs.frozen
class NatReboot:
    """A router forgets its filters, and its ports too unless it keeps those."""

    router: str
    keeps_ports: bool


@attrs.frozen
class RelayRestart:
    """The relays forget their allocations."""


@attrs.frozen
class BrokerDown:
    """Nobody reaches the broker."""

    seconds: float


@attrs.frozen
class Flap:
    """An interface goes and comes so many times, `period` seconds each; it is there in the end."""

    host: str
    interface: str
    times: int
    period: float


@attrs.frozen
class Dark:
    """A host loses all interfaces for a while."""

    host: str
    seconds: float


@attrs.frozen
class Quiet:
    """Nothing happens at all."""

    seconds: float


Fault: TypeAlias = (
    Lose | Gain | Readdress | Blackhole | Renumber | NatReboot | RelayRestart | BrokerDown | Flap | Dark | Quiet
)


@attrs.frozen
class Step:
    """Faults that come together, each so many seconds after the first."""

    faults: tuple[tuple[float, Fault], ...]


@attrs.frozen(kw_only=True)
class RoamingScenario:
    """Everything that a run depends on: `a` is the operator, `b` the device."""

    seed: int
    topology: Topology
    broker: BrokerPlan
    steps: tuple[Step, ...]
    #: Whether each end knows mobility.
    mobility: tuple[bool, bool] = (True, True)
    #: Of `Fairness`.
    losses: int = 2
    #: Links and broker are such that every datagram and message arrives once, soon and in order.
    is_calm: bool = True


def _draw_topology(dice: random.Random, *, rough: bool, slow: bool) -> Topology:
    builder = Builder(dice, rough=rough, swift=not rough)
    plans: list[HostPlan] = []
    for number in range(2):
        names = dice.sample(tuple(_COSTS), dice.choices((1, 2, 3), (1, 5, 4))[0])
        interfaces: list[InterfacePlan] = []
        for place, name in enumerate(names):
            plan = builder.interface(name, number, place, up=place == 0 or dice.random() < 0.85)
            if slow:
                plan = attrs.evolve(
                    plan, link=attrs.evolve(plan.link, delay=1.2, rate=None, jitter=0.0, reordering=0.0)
                )
            if plan.link.loss > 0.15:  # of either end, so that 28 % are lost each way
                plan = attrs.evolve(plan, link=attrs.evolve(plan.link, loss=0.15))
            interfaces.append(attrs.evolve(plan, cost=_COSTS[name], ports=(4000,)))
        plans.append(HostPlan(name="ab"[number], interfaces=tuple(interfaces)))
    relays = dice.random() < 0.6
    server = attrs.evolve(SERVERS[0], relays=relays, takes_streams=relays and dice.random() < 0.3)
    servers: tuple[ServerPlan, ...] = (server,)
    if dice.random() < 0.4:
        servers = (*servers, ServerPlan(ip="2001:db8:ffff::1"))
    return Topology(hosts=tuple(plans), routers=tuple(builder.routers), servers=servers)


def _draw_lose(dice: random.Random, host: str, interface: str) -> Lose:
    how: Literal["carrier", "admin", "address"] = dice.choice(("carrier", "admin", "address"))
    return Lose(host, interface, how, dice.choice((None, None, 4.0, 0.3)))


def _draw_fault(dice: random.Random, topology: Topology, *, calm: bool) -> Fault:
    host = dice.choice(topology.hosts)
    where = host.name, dice.choice((IN_USE, dice.choice(host.interfaces).name))
    faults: list[Fault] = [
        *(_draw_lose(dice, *where) for _ in range(3)),
        Gain(*where),
        Readdress(*where),
        Blackhole(*where, dice.choice((3.0, 20.0, 50.0))),
        Flap(*where, dice.choice((2, 5, 12)), dice.choice((0.01, 0.3, 1.5))),
        Dark(host.name, dice.choice((0.2, 5.0, 70.0))),
        Quiet(15.0 if calm else 45.0),
    ]
    if topology.routers:
        router = dice.choice(topology.routers).name
        faults += [Renumber(router), NatReboot(router, keeps_ports=dice.random() < 0.5)]
    if any(server.relays for server in topology.servers):
        faults.append(RelayRestart())
    return dice.choice(faults)


def _draw_step(dice: random.Random, topology: Topology, *, calm: bool) -> Step:
    fault = _draw_fault(dice, topology, calm=calm)
    faults: list[tuple[float, Fault]] = [(0.0, fault)]
    if not isinstance(fault, Quiet):
        luck = dice.random()
        if luck < 0.15:
            faults.insert(0, (0.0, BrokerDown(dice.choice((2.0, 15.0)))))
        elif luck < 0.35:  # both ends move, or one is hit twice
            second = _draw_fault(dice, topology, calm=calm)
            if not isinstance(second, Quiet):
                faults.append((dice.choice((0.0, 0.05, 1.0)), second))
    return Step(tuple(faults))


def draw_roaming(seed: int) -> RoamingScenario:
    """The scenario of a seed."""
    dice = random.Random(seed)
    rough = dice.random() < 0.4
    slow = rough and dice.random() < 0.25
    topology = _draw_topology(dice, rough=rough, slow=slow)
    delay = dice.choice((0.005, 0.040, 0.200))
    broker = BrokerPlan(delay=delay)
    if rough:
        broker = BrokerPlan(
            delay=delay,
            jitter=dice.choice((0.0, 0.2)),
            loss=dice.choice((0.0, 0.2)),
            duplication=dice.choice((0.0, 0.3)),
            reordering=dice.choice((0.0, 0.3)),
        )
    steps = tuple(_draw_step(dice, topology, calm=not rough) for _ in range(dice.choice((1, 1, 2, 2, 3))))
    return RoamingScenario(
        seed=seed,
        topology=topology,
        broker=broker,
        steps=steps,
        mobility=dice.choices(((True, True), (True, False), (False, True), (False, False)), (6, 1, 1, 2))[0],
        losses=dice.choice((1, 2)),
        is_calm=not rough,
    )
