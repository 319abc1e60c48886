"""Runs a scenario: the network, its agents and their sessions, what happens to them, and what must come of it."""

from __future__ import annotations

import traceback
from typing import Final

import attrs

from edgeice.addresses import Path, TransportAddress
from edgeice.ice import IceConfig, Role
from edgeice.peer import TurnServer
from tests.sim.agents import Agent
from tests.sim.invariants import Monitor
from tests.sim.links import PROBE, Fairness
from tests.sim.network import Clock, Network, StalledError
from tests.sim.oracle import Oracle, Verdict
from tests.sim.parties import Party
from tests.sim.records import Violation
from tests.sim.scenario import Action, Blackout, Flush, Move, Restart, Scenario, SessionPlan
from tests.sim.servers import ServerHost, StunServer
from tests.sim.signaling import CandidateSaid, CandidatesEndedSaid, Description, Mailbox
from tests.sim.topology import ServerPlan
from tests.sim.turn_server import PASSWORD, USERNAME
from tests.sim.turn_server import TurnServer as Relay

__all__ = ["Result", "World", "run_scenario"]

#: A session with a path has it within this time, seconds: silent servers hold an offer back that does not trickle, and
#: the answer; then comes patience.
_CONNECTS: Final = 120.0
#: After a move too, but where all is trickled no second restart is waited for.
_MOVES: Final = 45.0
#: One without fails within this time: patience, or the last checks at the slowest RTO.
_FAILS: Final = 300.0
#: After a loss that nobody was told of: consent's end, and a failed restart's patience.
_RECOVERS: Final = 120.0
#: After the last session a relay is kept for another one that comes soon.
_LINGERS: Final = 33.0
_DATA_INTERVAL: Final = 1.0


@attrs.frozen
class Result:
    """What came of a scenario."""

    seed: int
    violations: tuple[Violation, ...]
    #: Of each session at its first rest: what the oracle says.
    reach: tuple[str, ...]
    datagrams: int
    log: tuple[str, ...] = ()


class World:
    """A running scenario.

    Args:
        scenario: What to run.
        traced: Whether to keep a log.
    """

    def __init__(self, scenario: Scenario, *, traced: bool = False) -> None:
        self.scenario = scenario
        topology = scenario.topology
        self.clock = Clock()
        fairness = Fairness(per_transaction=scenario.losses)
        self.network = Network(topology, seed=scenario.seed, fairness=fairness, clock=self.clock)
        servers = {TransportAddress(each.ip, each.port) for each in topology.servers}
        self.monitor = Monitor(servers, traced=traced)
        self.relays: list[Relay] = []
        hosts: dict[TransportAddress, ServerHost] = {}
        for server in topology.servers:
            if server.answers:
                address = TransportAddress(server.ip, server.port)
                place = ServerHost(self.network, self._service(server, address), address, ports=server.relays)
                if server.takes_streams:
                    hosts[address] = place
        uris = tuple(
            f"stun:[{each.ip}]:{each.port}" if ":" in each.ip else f"stun:{each.ip}" for each in topology.servers
        )
        turn = tuple(
            TurnServer(f"turn:{server.ip}?transport={transport}", USERNAME, PASSWORD)
            for server in topology.servers
            if server.relays
            for transport in (("udp", "tcp") if server.takes_streams else ("udp",))
        )
        pacing = dict(scenario.pacing)
        self.agents: dict[str, Agent] = {}
        self.up: set[tuple[str, str]] = set()
        for number, host in enumerate(topology.hosts):
            self.agents[host.name] = Agent(
                self.network,
                host.name,
                config=IceConfig(pacing=pacing.get(host.name, 0.02)),
                seed=scenario.seed * 8 + number,
                stun=uris,
                turn=turn,
                hosts=hosts,
                watch=self.monitor,
            )
        self.sessions: list[tuple[Party, Party]] = []
        self._probes = 0
        #: Sessions whose last checks had to do with a network that was broken for a while.
        self._disturbed: set[tuple[Party, Party]] = set()
        #: Sessions that failed, rightly.
        self._given_up: set[tuple[Party, Party]] = set()

    def _service(self, server: ServerPlan, address: TransportAddress) -> StunServer | Relay:
        if not server.relays:
            return StunServer()
        relay = Relay(address, seed=self.scenario.seed + len(self.relays))
        self.relays.append(relay)
        return relay

    # Beginning

    def begin(self) -> None:
        """Open sockets and sessions, and make the first offers."""
        for host in self.scenario.topology.hosts:
            for interface in host.interfaces:
                if interface.up:
                    self.up.add((host.name, interface.name))
                    self.agents[host.name].open(interface)
        for number, plan in enumerate(self.scenario.sessions):
            self._begin_session(number, plan)
        self._send_data()

    def _begin_session(self, number: int, plan: SessionPlan) -> None:
        roles = [Role.CONTROLLING if controls else Role.CONTROLLED for controls in plan.controlling]
        one = Party(self.agents[plan.one], roles[0], offers=True, trickles=plan.trickles[0])
        other = Party(self.agents[plan.other], roles[1], offers=False, trickles=plan.trickles[1])
        seed = self.scenario.seed * 16 + 2 * number
        for party, peer, each in ((one, other, 0), (other, one, 1)):
            self.monitor.watch(party)
            party.peer = peer
            party.mailbox = Mailbox(self.clock, plan.signaling, seed + each, peer.deliver)
        self.sessions.append((one, other))
        if plan.signaling.retained:
            self._leave_old_messages(one)
            self._leave_old_messages(other)
        one.describe()

    def _leave_old_messages(self, party: Party) -> None:
        """What some earlier session said, and the broker still holds."""
        ufrag, line = "oldOLD12", "candidate:1 1 udp 2130706431 192.168.1.10 4000 typ host"
        old = Description(is_offer=True, generation=0, ufrag=ufrag, pwd="x" * 24, candidates=(line,), ended=True)
        for message in (old, CandidateSaid(line, ufrag), CandidatesEndedSaid(ufrag)):
            party.mailbox.send_old(message)

    def _send_data(self) -> None:
        for pair in self.sessions:
            for party in pair:
                if party.ended is None and party.path.path is not None:
                    party.send(b"\x17data")
        self.clock.after(_DATA_INTERVAL, self._send_data)

    # Going on

    @property
    def parties(self) -> list[Party]:
        """All of them."""
        return [party for pair in self.sessions for party in pair]

    def judge(self, pair: tuple[Party, Party]) -> Verdict:
        """What the oracle says of a session at present."""
        return Oracle(self.scenario.topology, pair[0].name, pair[1].name, up=self.up).judge()

    def rest(self, seconds: float, *, at_least: float = 0.0) -> None:
        """Let time pass until every session is where it will stay."""
        self.clock.run(at_least)
        self.clock.run(
            max(seconds - at_least, 0.0), lambda: all(party.is_settled or party.ended for party in self.parties)
        )

    def act(self, action: Action) -> None:
        """Let something happen and its consequences run their course."""
        self.monitor.note(self.clock.now, f"ACTION {action}")
        match action:
            case Restart():
                pair = self.sessions[action.session]
                self._disturbed.discard(pair)
                (pair[0] if action.by_offerer else pair[1]).restart()
                self.rest(_CONNECTS, at_least=3.0)
            case Move():
                self._move(action)
            case Blackout():
                self._black_out(action)
            case Flush():
                self.monitor.disturbed = True
                self.disturb()
                self.network.routers[action.router].flush()
                self.rest(_RECOVERS, at_least=45.0)
        self.monitor.disturbed = False

    def _move(self, action: Move) -> None:
        if (action.host, action.leaves) not in self.up:
            return
        agent = self.agents[action.host]
        plans = {plan.name: plan for plan in self.scenario.topology.host(action.host).interfaces}
        self.monitor.disturbed = True
        self._disturbed -= {pair for pair in self.sessions if agent in (pair[0].agent, pair[1].agent)}
        self.up.discard((action.host, action.leaves))
        agent.shut(plans[action.leaves])
        self.clock.run(action.gap)
        if (action.host, action.takes) not in self.up:
            self.up.add((action.host, action.takes))
            agent.open(plans[action.takes])
        for party in self.parties:
            if party.agent is agent and party.ended is None:
                party.restart(again=True)
        trickles = all(trickle for plan in self.scenario.sessions for trickle in plan.trickles)
        self.rest(_MOVES if trickles else _CONNECTS, at_least=5.0)

    def _black_out(self, action: Blackout) -> None:
        # RFC 7675 §5.1: a short one leaves time for consent, where nothing else is lost.
        lossless = not any(each.plan.link.loss for each in self.network.interfaces.values())
        settled = all(party.is_settled for party in self.parties)
        self.monitor.disturbed = action.seconds > 5.0 or not lossless or not settled
        self.begin_blackout(action)
        self.clock.run(action.seconds)
        self.rest(_RECOVERS, at_least=40.0 if self.monitor.disturbed else 10.0)

    def begin_blackout(self, action: Blackout) -> None:
        """Break an interface; it mends by itself."""
        interface = self.network.interfaces[action.host, action.interface]
        self.disturb()
        interface.up.broken = interface.down.broken = True

        def mend() -> None:
            interface.up.broken = interface.down.broken = False

        self.clock.after(action.seconds, mend)

    def disturb(self) -> None:
        """Excuse all sessions from ending on the best path there is, until they restart."""
        self._disturbed |= set(self.sessions)

    # Checking

    def check(self) -> tuple[str, ...]:
        """Check every session against the oracle; gives what that says."""
        verdicts = [self.judge(pair) for pair in self.sessions]
        for pair, verdict in zip(self.sessions, verdicts, strict=True):
            self._check_session(pair, verdict)
        for agent in self.agents.values():
            self.monitor.check_sizes(agent)
        return tuple(verdict.reach for verdict in verdicts)

    def _check_session(self, pair: tuple[Party, Party], verdict: Verdict) -> None:
        now, monitor = self.clock.now, self.monitor
        name = f"{pair[0].name}-{pair[1].name}"
        connected = [party.is_connected for party in pair]
        if verdict.reach == "none":
            if any(connected):
                monitor.violate("oracle", now, f"{name} is connected where no path is")
            if any(party.ended for party in pair):
                self._given_up.add(pair)
            return
        if pair in self._given_up:
            return
        if any(party.ended for party in pair):
            monitor.violate("connect", now, f"{name} ended, but {verdict.reach} is possible")
            return
        if not all(party.is_settled for party in pair):
            monitor.violate("connect", now, f"{name} is not connected, but {verdict.reach} is possible: {connected}")
            return
        roles = {party.connection._link.ice.role for party in pair}
        if len(roles) != 2:
            monitor.violate("roles", now, f"{name}: both ends are {roles}")
        self._check_agreement(pair)
        self._check_best(pair, verdict)

    def _check_agreement(self, pair: tuple[Party, Party]) -> None:
        """What one end sends arrives where the other sends from, and the other way round."""
        probes: list[bytes] = []
        for party in pair:
            self._probes += 1
            probes.append(PROBE + str(self._probes).encode())
            party.send(probes[-1])
        self.clock.run(self.network.horizon)
        for party, probe in zip(pair, probes, strict=True):
            arrived = self.monitor.probes.get((party.peer.name, probe))
            if arrived is None:
                self.monitor.violate("arrive", self.clock.now, f"what {party.name} sends does not arrive")
            elif arrived != party.peer.path.path:
                text = f"{party.name} sends on {party.path.path}, {party.peer.name} on {party.peer.path.path}"
                self.monitor.violate("agree", self.clock.now, text)

    def _check_best(self, pair: tuple[Party, Party], verdict: Verdict) -> None:
        """Direct where direct is possible; where nothing delays anything, the best open pair."""
        one, path = pair[0], pair[0].path.path
        if path is None or not one.is_connected:
            return
        calm = self.scenario.is_calm and pair not in self._disturbed
        if calm and verdict.direct and "relay" in (one.path.local_type, one.path.remote_type):
            self.monitor.violate("direct", self.clock.now, f"{one.name} is on a relay: {path}")
        # As the end sees it that chooses.
        chooser = next((party for party in pair if party.connection._link.ice.role is Role.CONTROLLING), one)
        chosen = chooser.path.path
        if not calm or not self.scenario.is_swift or chosen is None:
            return
        ways = [
            (route.base, route.destination) if chooser is one else (route.peer_base, route.seen_as)
            for route in verdict.routes
            if route.is_open
        ]
        best = max((self.monitor.rank(chooser, _path(*way)) for way in ways), default=0)
        if self.monitor.rank(chooser, chosen) < best:
            self.monitor.violate("best", self.clock.now, f"{chooser.name} is on {chosen}, and better ones are open")

    def end(self) -> None:
        """Close every session; none may ask anything after, and no relay may be left with an allocation."""
        for party in self.parties:
            if party.ended is None:
                party.close()
        self.clock.run(_LINGERS)
        left = sum(relay.allocations for relay in self.relays)
        # One whose base is gone ends by its lifetime, as does one whose release was lost.
        if left and self.scenario.is_calm and not self.scenario.actions and not self._disturbed:
            self.monitor.violate("released", self.clock.now, f"{left} allocations are left on relays")


def _path(base: tuple[str, object], destination: tuple[str, object]) -> Path:
    ports = [port if isinstance(port, int) else 0 for port in (base[1], destination[1])]
    return Path(TransportAddress(base[0], ports[0]), TransportAddress(destination[0], ports[1]))


def run_scenario(scenario: Scenario, *, traced: bool = False) -> Result:
    """Run a scenario to its end."""
    world = World(scenario, traced=traced)
    reach: tuple[str, ...] = ()
    try:
        world.begin()
        expected = [world.judge(pair).reach for pair in world.sessions]
        world.rest(_FAILS if "none" in expected else _CONNECTS)
        reach = world.check()
        for action in scenario.actions:
            world.act(action)
            world.check()
        world.end()
    except StalledError as error:
        world.monitor.violate("stalled", world.clock.now, str(error))
    except Exception as error:  # noqa: BLE001  # whatever leaves a machine is a finding like any other
        world.monitor.violate("raised", world.clock.now, f"{type(error).__name__}: {error}")
        world.monitor.note(world.clock.now, traceback.format_exc())
    monitor = world.monitor
    return Result(scenario.seed, tuple(monitor.violations), reach, monitor.sent_count, tuple(monitor.log or ()))
