"""Runs a scenario of a session that roams: what happens to it, and what must come of it."""

from __future__ import annotations

import traceback
from functools import partial
from typing import Final

import attrs

from edgeice.addresses import TransportAddress
from edgeice.ice import IceConfig
from edgeice.peer import TurnServer
from tests.sim.agents import Agent
from tests.sim.faults import (
    IN_USE,
    Blackhole,
    Fault,
    Flap,
    Gain,
    Lose,
    NatReboot,
    Quiet,
    Readdress,
    RelayRestart,
    Renumber,
    RoamingScenario,
    Step,
)
from tests.sim.happenings import Happenings
from tests.sim.links import PROBE, Fairness
from tests.sim.network import Clock, Network, StalledError
from tests.sim.oracle import Oracle, Verdict
from tests.sim.promises import METERED, interface_of, promised_pause
from tests.sim.roads import Broker
from tests.sim.roamers import Roamer, join
from tests.sim.roaming_rules import RoamingMonitor
from tests.sim.servers import ServerHost, StunServer
from tests.sim.streams import Stream
from tests.sim.turn_server import PASSWORD, USERNAME
from tests.sim.turn_server import TurnServer as Relay
from tests.sim.world import Result

__all__ = ["Roaming", "run_roaming"]

#: Within this time the session is up, seconds.
_CONNECTS: Final = 60.0
#: Between two steps, so that what can be improved is.
_RESTS: Final = 6.0
#: Pieces come so often while something happens, and otherwise, seconds.
_BUSY: Final = 0.05
_IDLE: Final = 1.0
#: For so long after a fault they do.
_WATCHES: Final = 1.0
#: A path is back within this time after the last change: where the ends learn of it at once, and on calm links; where
#: consent has to end first; and where signaling and links are as bad as they get.
_TOLD: Final = 15.0
_UNTOLD: Final = 50.0
_ROUGH: Final = 150.0
#: What was sent arrives within this time, however often its links lose it.
_ARRIVES: Final = 300.0
#: Whether the ends agree is asked so often, and after a move it may take so long, seconds: a nomination on a link that
#: loses a lot.
_ASKED: Final = 12
_SETTLES: Final = 10.0
_LINGERS: Final = 33.0
#: After a move it may take so long until metered links are left.
_THRIFT: Final = 30.0
#: A pair is alive that answered so recently: on metered links it is asked every twelfth second or so.
_ALIVE: Final = 20.0


class Roaming:
    """A running scenario.

    Args:
        scenario: What to run.
        traced: Whether to keep a log.
    """

    def __init__(self, scenario: RoamingScenario, *, traced: bool = False) -> None:
        self.scenario = scenario
        topology = scenario.topology
        self.clock = Clock()
        self.network = Network(
            topology, seed=scenario.seed, fairness=Fairness(per_transaction=scenario.losses), clock=self.clock
        )
        self.monitor = RoamingMonitor(
            {TransportAddress(each.ip, each.port) for each in topology.servers}, traced=traced
        )
        self.monitor.mobile = all(scenario.mobility)
        self.relays: list[Relay] = []
        hosts: dict[TransportAddress, ServerHost] = {}
        stun: list[str] = []
        turn: list[TurnServer] = []
        for server in topology.servers:
            address = TransportAddress(server.ip, server.port)
            service: StunServer | Relay = StunServer()
            if server.relays:
                service = Relay(address, seed=scenario.seed)
                self.relays.append(service)
                turn.append(TurnServer(f"turn:{server.ip}?transport=udp", USERNAME, PASSWORD))
                if server.takes_streams:
                    turn.append(TurnServer(f"turn:{server.ip}?transport=tcp", USERNAME, PASSWORD))
            place = ServerHost(self.network, service, address, ports=server.relays)
            if server.takes_streams:
                hosts[address] = place
            stun.append(f"stun:[{server.ip}]" if ":" in server.ip else f"stun:{server.ip}")
        self.agents = {
            host.name: Agent(
                self.network,
                host.name,
                config=_config(mobility=scenario.mobility[number]),
                seed=scenario.seed * 8 + number,
                stun=tuple(stun),
                turn=tuple(turn),
                hosts=hosts,
                watch=self.monitor,
            )
            for number, host in enumerate(topology.hosts)
        }
        self.broker = Broker(self.clock, scenario.broker, scenario.seed, self._reaches)
        self.happenings = Happenings(
            self.network,
            self.agents,
            self.relays,
            self.broker,
            lost=self.monitor.addresses_gone,
            changed=self._changed,
        )
        self.ends: tuple[Roamer, Roamer]
        self._busy_until = 0.0
        self._is_over = False
        self._senders = 0
        self._probes = 0
        #: Of each step: the pauses of both ends.
        self.pauses: list[tuple[float, float]] = []

    def _reaches(self, host: str) -> bool:
        return self.happenings.reaches(host)

    def _changed(self, host: str) -> None:
        for end in self.ends:
            if end.name == host:
                end.network_changed()

    # Beginning

    def begin(self) -> None:
        """Open sockets and the session."""
        self.happenings.begin()
        ends = [
            Roamer(
                agent,
                is_operator=number == 0,
                broker=self.broker,
                stream=Stream(self.scenario.seed * 2 + number, lambda text: self._complain("stream", text)),
            )
            for number, agent in enumerate(self.agents.values())
        ]
        self.ends = ends[0], ends[1]
        for end in ends:
            self.monitor.watch(end)
        join(*self.ends)
        self.ends[0].begin()
        self._send()

    def _complain(self, rule: str, text: str) -> None:
        self.monitor.violate(rule, self.clock.now, text)

    def _send(self) -> None:
        """Send from now on, as often as it is time for."""
        self._senders += 1
        self._send_on(self._senders)

    def _send_on(self, sender: int) -> None:
        if self._is_over or sender != self._senders:
            return
        for end in self.ends:
            end.send_next()
        busy = self.clock.now < self._busy_until
        self.clock.after(_BUSY if busy else _IDLE, partial(self._send_on, sender))

    # What is

    def judge(self, *, unmetered: bool = False, streams: bool = True) -> Verdict:
        """What the oracle says at present; without metered interfaces, or relays by streams, which die slowly."""
        happenings = self.happenings
        plans = happenings.plans
        up = {place for place in happenings.up - happenings.broken if not unmetered or plans[place].cost < METERED}
        topology = self.network.topology
        if not streams:
            servers = tuple(attrs.evolve(each, takes_streams=False) for each in topology.servers)
            topology = attrs.evolve(topology, servers=servers)
        return Oracle(topology, "a", "b", up=up).judge()

    @property
    def is_settled(self) -> bool:
        """Both ends have a path, and no restart is under way."""
        return all(end.is_settled for end in self.ends)

    @property
    def has_ended(self) -> bool:
        """An end has no session any more."""
        return any(end.ended is not None for end in self.ends)

    # Going on

    def step(self, step: Step) -> None:
        """Let things happen and their consequences run their course."""
        clock, ends = self.clock, self.ends
        begun = clock.now
        step = attrs.evolve(step, faults=tuple((delay, self._aimed(fault)) for delay, fault in step.faults))
        self.happenings.until = begun
        self._busy_until = begun + _WATCHES
        self.monitor.note(begun, f"STEP {step}")
        calm = self.is_settled and not self.happenings.broken
        promised = promised_pause(step, ends, self.happenings, self.monitor) if self.scenario.is_calm else None
        # A piece of each goes first, so that what is under way is lost with what carries it.
        self._send()
        for end in ends:
            end.stream.watch(begun, begun + _WATCHES / 2)
        for delay, fault in step.faults:
            self.happenings.until = max(self.happenings.until, begun + delay)
            clock.at(begun + delay, partial(self._happen, fault))
        clock.run(0.0)
        while clock.now < self.happenings.until:
            clock.run(self.happenings.until - clock.now)
        found = self._await_path(step)
        pause = max(end.stream.pause for end in ends)
        self.pauses.append((ends[0].stream.pause, ends[1].stream.pause))
        if promised is not None and pause > promised:
            self._complain("pause", f"{pause:.3f} s at {step}, {promised:.3f} are promised")
        if calm and isinstance(step.faults[0][1], Quiet):
            self.monitor.check_quiet(begun, clock.now)
        if found:
            clock.run(_RESTS)
            self.check()

    def _aimed(self, fault: Fault) -> Fault:
        """A fault at the interface that it is to hit."""
        if getattr(fault, "interface", None) != IN_USE:
            return fault
        assert isinstance(fault, Lose | Gain | Readdress | Blackhole | Flap)
        end = next(each for each in self.ends if each.name == fault.host)
        first = next(name for host, name in self.happenings.plans if host == fault.host)
        return attrs.evolve(fault, interface=interface_of(end) or first)

    def _await_path(self, step: Step) -> bool:
        """Wait until data flows both ways again, and see that it does in time; False while no path can be."""
        clock, ends = self.clock, self.ends
        verdict = self.judge()
        if verdict.reach == "none":
            clock.run(5.0)
            return False
        # Data that was sent from now on must arrive.
        marks = [end.stream.sent for end in ends]
        begun = clock.now
        limit = _ROUGH
        if self.scenario.is_calm and self.judge(streams=False).reach != "none":
            limit = _TOLD if all(_is_told(fault) for _, fault in step.faults) else _UNTOLD
        self._busy_until = max(self._busy_until, begun + 0.5)

        def recovered() -> bool:
            if not all(end.peer.stream.received > mark for end, mark in zip(ends, marks, strict=True)):
                return self.has_ended
            return all(end.is_connected for end in ends)

        if clock.run(limit, recovered) and not self.has_ended:
            return True
        if self.has_ended:
            self._complain("ended", f"the session ended: {[end.ended for end in ends]}")
        else:
            text = [f"{end.name}: {end.path.path} settled={end.is_settled}" for end in ends]
            self._complain("recovery", f"no path {limit} s after {step}, but {verdict.reach} is possible: {text}")
        return False

    def _happen(self, fault: Fault) -> None:
        self.monitor.note(self.clock.now, f"FAULT {fault}")
        self.happenings.happen(fault)

    # Checking

    def check(self) -> None:
        """See that the ends agree, and that all is within its limits."""
        for agent in self.agents.values():
            self.monitor.check_sizes(agent)
        self.monitor.check_restarts(self.ends, self.clock.now)
        if self.judge().reach == "none":
            return
        if all(end.is_connected for end in self.ends):
            self._check_agreement()
        if self.monitor.mobile and self.scenario.is_calm:
            self._check_thrift()
            self._check_backups()

    def _check_thrift(self) -> None:
        """Metered interfaces carry nothing where there is another way."""
        if self.judge(unmetered=True).reach == "none":
            return
        self.clock.run(_THRIFT, lambda: not self._pays())
        if self._pays():
            self._complain("metered", f"{self._pays()} is used, and a path without it is possible")

    def _check_backups(self) -> None:
        """Each interface from which the peer can be reached has a pair that is alive."""
        happenings = self.happenings
        usable = happenings.up - happenings.broken
        wanted: list[tuple[Roamer, str]] = []
        for end in self.ends:
            for _, interface in sorted(place for place in usable if place[0] == end.name):
                up = {place for place in usable if place[0] != end.name} | {(end.name, interface)}
                if Oracle(self.network.topology, "a", "b", up=up).judge().reach == "direct":
                    wanted.append((end, interface))

        def missing() -> list[str]:
            return [f"{end.name}'s {each}" for end, each in wanted if not self._is_alive(end, each)]

        self.clock.run(_THRIFT, lambda: not missing())
        if missing():
            self._complain("backups", f"nothing is alive on {missing()}")

    def _is_alive(self, end: Roamer, interface: str) -> bool:
        now = self.clock.now
        return any(
            place.plan.name == interface
            for address, place in end.agent.bases.items()
            for path in self.monitor.paths_of(end.name, address)
            if self.monitor.has_consent(end.name, path, now, within=_ALIVE)
        )

    def _pays(self) -> list[str]:
        """The metered interfaces that data goes by."""
        plans = self.happenings.plans
        used = [(end.name, interface_of(end)) for end in self.ends]
        return [f"{name}'s {each}" for name, each in used if each and plans[name, each].cost >= METERED]

    def _check_agreement(self) -> None:
        """What one end sends arrives where the other one sends from, both ways; asked again where one just moves."""
        found: list[tuple[str, str]] = []
        for _ in range(_ASKED):
            before = [end.path for end in self.ends]
            found = self._disagreements()
            if not found or (before == [end.path for end in self.ends] and not self._just_moved()):
                break
            self.clock.run(1.0)
        for rule, text in found:
            self._complain(rule, text)

    def _just_moved(self) -> bool:
        """Whether what one end said of a move may not have reached the other one."""
        return any(moves[-1][0] > self.clock.now - _SETTLES for moves in self.monitor.moves.values())

    def _disagreements(self) -> list[tuple[str, str]]:
        probes: list[bytes] = []
        found: list[tuple[str, str]] = []
        for end in self.ends:
            self._probes += 1
            probes.append(PROBE + str(self._probes).encode())
            end.probe(probes[-1])
        self.clock.run(self.network.horizon)
        for end, probe in zip(self.ends, probes, strict=True):
            arrived = self.monitor.probes.get((end.peer.name, probe))
            if arrived is None:
                found.append(("arrive", f"what {end.name} sends on {end.path.path} does not arrive"))
            elif arrived != end.peer.path.path:
                text = f"{end.name} sends on {end.path.path}, {end.peer.name} on {end.peer.path.path}"
                found.append(("agree", text))
        return found

    def _is_complete(self) -> bool:
        return self.has_ended or all(end.stream.is_complete for end in self.ends)

    def end(self) -> None:
        """Let everything arrive, close the session, and see that nothing is left."""
        ends = self.ends
        self._is_over = True
        reachable = not self.has_ended and self.judge().reach != "none"
        if reachable and not self.clock.run(_ARRIVES, self._is_complete):
            missing = [f"{end.name} sent {end.stream.sent}, {end.peer.stream.received} came" for end in ends]
            self._complain("lost", ", ".join(missing))
        heard = reachable and self.scenario.is_calm and all(end.is_connected for end in ends)
        closer, other = ends if self.scenario.seed % 4 < 2 else reversed(ends)
        if closer.ended is None:
            closer.close()
        self.clock.run(self.network.horizon)
        if other.ended is None:
            if heard:
                self._complain("close", f"{other.name} was not told that the session is over")
            other.close()
        self.clock.run(_LINGERS)
        for agent in self.agents.values():
            self._check_left(agent)

    def _check_left(self, agent: Agent) -> None:
        """After the last session its host holds its own bases and nothing else, and waits for nothing but servers."""
        endpoint = agent.endpoint
        left = {
            "sessions": len(endpoint._sessions),
            "parties": len(agent.parties),
            "routes": len(endpoint._routes),
            "relayed bases": len(endpoint._bases) - len(agent.bases),
            "flows": len(agent.flows),
        }
        if any(left.values()):
            self._complain("left", f"{agent.name} has left: {left}")
        for end in self.ends:
            if end.agent is agent and (end.connection.next_timeout() is not None or end.signaling.next_timeout()):
                self._complain("left", f"{agent.name} still waits for something")


def _is_told(fault: Fault) -> bool:
    """Whether an end learns at once that something happened."""
    return not isinstance(fault, Blackhole | Renumber | NatReboot | RelayRestart)


def _config(*, mobility: bool) -> IceConfig:
    return IceConfig(mobility=mobility)


def run_roaming(scenario: RoamingScenario, *, traced: bool = False) -> Result:
    """Run a scenario to its end."""
    world = Roaming(scenario, traced=traced)
    reach = "none"
    try:
        world.begin()
        reach = world.judge().reach
        if reach != "none":
            if not world.clock.run(_CONNECTS, lambda: world.is_settled and world.ends[1].stream.received > 0):
                world._complain("connect", f"no session, but {reach} is possible")
            else:
                world.broker.loses = True
                world.clock.run(_RESTS)
                for step in scenario.steps:
                    world.step(step)
                    if world.has_ended or world.monitor.violations:
                        break
            world.end()
    except StalledError as error:
        world.monitor.violate("stalled", world.clock.now, str(error))
    except Exception as error:  # noqa: BLE001  # whatever leaves a machine is a finding like any other
        world.monitor.violate("raised", world.clock.now, f"{type(error).__name__}: {error}")
        world.monitor.note(world.clock.now, traceback.format_exc())
    monitor = world.monitor
    return Result(scenario.seed, tuple(monitor.violations), (reach,), monitor.sent_count, tuple(monitor.log or ()))
