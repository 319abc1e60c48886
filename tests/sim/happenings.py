"""What faults do to a simulated world: interfaces come and go, routers and relays restart, the broker is away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import attrs

from tests.sim.agents import Agent
from tests.sim.faults import (
    Blackhole,
    BrokerDown,
    Dark,
    Fault,
    Flap,
    Gain,
    Lose,
    NatReboot,
    Quiet,
    Readdress,
    RelayRestart,
    Renumber,
)
from tests.sim.network import Network
from tests.sim.roads import Broker
from tests.sim.topology import InterfacePlan
from tests.sim.turn_server import TurnServer

__all__ = ["Happenings"]


class Happenings:
    """Lets faults happen.

    Args:
        network: Where.
        agents: The hosts' agents.
        relays: All of them.
        broker: Of signaling.
        lost: Told of a host and addresses that it has no more.
        changed: Told of a host whose interfaces changed.

    Attributes:
        up: Interfaces in use, as (host, interface).
        broken: Those that swallow everything.
        until: When all that happens in this step has happened.
    """

    def __init__(
        self,
        network: Network,
        agents: Mapping[str, Agent],
        relays: Sequence[TurnServer],
        broker: Broker,
        *,
        lost: Callable[[str, Sequence[str]], None],
        changed: Callable[[str], None],
    ) -> None:
        self.up: set[tuple[str, str]] = set()
        self.broken: set[tuple[str, str]] = set()
        self.until = 0.0
        self._network = network
        self._agents = agents
        self._relays = relays
        self._broker = broker
        self._lost = lost
        self._changed = changed
        #: Of new addresses, and of new sockets.
        self._number = 200
        self._port = 4000
        self._acts: dict[type[Fault], Callable[..., None]] = {
            Lose: self._lose,
            Gain: lambda fault: self._come_back(fault.host, fault.interface),
            Readdress: self._readdress,
            Blackhole: self._black_out,
            Renumber: self._renumber,
            NatReboot: self._reboot,
            RelayRestart: lambda _fault: self._restart_relays(),
            BrokerDown: self._take_broker,
            Flap: self._flap,
            Dark: self._darken,
            Quiet: lambda fault: self._later(fault.seconds, lambda: None),
        }

    @property
    def now(self) -> float:
        """Virtual time."""
        return self._network.clock.now

    @property
    def plans(self) -> dict[tuple[str, str], InterfacePlan]:
        """All interfaces as they are now."""
        return {(host.name, each.name): each for host in self._network.topology.hosts for each in host.interfaces}

    def reaches(self, host: str) -> bool:
        """Whether a host has a network at present."""
        return any(name == host for name, _ in self.up - self.broken)

    def begin(self) -> None:
        """Open the interfaces that are there in the beginning."""
        for place, plan in self.plans.items():
            if plan.up:
                self.up.add(place)
                self._agents[place[0]].open(plan)

    def happen(self, fault: Fault) -> None:
        """Let something happen; `until` says when all of it has."""
        self._acts[type(fault)](fault)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        """Do something then; the step is not over before."""
        self._network.clock.after(seconds, call)
        self.until = max(self.until, self._network.clock.now + seconds)

    # Interfaces

    def _open(self, host: str, interface: str) -> None:
        if (host, interface) not in self.up:
            self.up.add((host, interface))
            # Whoever opens a socket anew gets another port.
            self._port += 1
            self._agents[host].open(attrs.evolve(self.plans[host, interface], ports=(self._port,)))
            self._changed(host)

    def _shut(self, host: str, interface: str) -> None:
        if (host, interface) in self.up:
            self.up.discard((host, interface))
            plan = self.plans[host, interface]
            self._agents[host].shut(plan)
            self._lost(host, plan.ips)
            self._changed(host)

    def _break(self, host: str, interface: str, *, broken: bool) -> None:
        place = self._network.interfaces[host, interface]
        place.up.broken = place.down.broken = broken
        (self.broken.add if broken else self.broken.discard)((host, interface))

    def _come_back(self, host: str, interface: str) -> None:
        self._break(host, interface, broken=False)
        self._open(host, interface)

    def _lose(self, fault: Lose) -> None:
        place = fault.host, fault.interface
        if place not in self.up:
            return
        ips = self.plans[place].ips
        if fault.how == "address" and len(ips) > 1:
            self._agents[fault.host].drop(ips[0])
            self._lost(fault.host, ips[:1])
            self._network.readdress(*place, ips[1:])
            self._changed(fault.host)
            return
        self._shut(*place)
        if fault.how == "carrier":
            self._break(*place, broken=True)
        if fault.back_after is not None:
            self._later(fault.back_after, partial(self._come_back, *place))

    def _readdress(self, fault: Readdress) -> None:
        place = fault.host, fault.interface
        was_up = place in self.up
        self._shut(*place)
        self._number += 1
        ips = [
            f"{ip.rpartition(':')[0]}:{self._number:x}" if ":" in ip else f"{ip.rpartition('.')[0]}.{self._number}"
            for ip in self.plans[place].ips
        ]
        self._network.readdress(*place, tuple(ips))
        if was_up:
            self._open(*place)

    def _black_out(self, fault: Blackhole) -> None:
        place = fault.host, fault.interface
        self._break(*place, broken=True)
        # Nobody waits for its end.
        self._network.clock.after(fault.seconds, partial(self._break, *place, broken=False))

    def _flap(self, fault: Flap) -> None:
        place = fault.host, fault.interface
        for number in range(fault.times):
            at = number * fault.period
            self._later(at, partial(self._shut, *place))
            self._later(at + fault.period / 2, partial(self._open, *place))

    def _darken(self, fault: Dark) -> None:
        there = sorted(interface for host, interface in self.up if host == fault.host)
        for interface in there:
            self._shut(fault.host, interface)
            self._later(fault.seconds, partial(self._open, fault.host, interface))

    # What is between them

    def _renumber(self, fault: Renumber) -> None:
        self._number += 1
        network = self._network.routers[fault.router].plan.ip.rpartition(".")[0]
        self._network.renumber(fault.router, f"{network}.{self._number}")

    def _reboot(self, fault: NatReboot) -> None:
        router = self._network.routers[fault.router]
        router.nat.reboot(keeps_ports=fault.keeps_ports)
        if router.firewall is not None:
            router.firewall.flush()

    def _restart_relays(self) -> None:
        for relay in self._relays:
            relay.restart()

    def _take_broker(self, fault: BrokerDown) -> None:
        self._broker.down = True
        self._later(fault.seconds, self._return_broker)

    def _return_broker(self) -> None:
        self._broker.down = False
