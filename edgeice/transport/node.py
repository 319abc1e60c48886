"""The host's side of all sessions: sockets opened and closed as its interfaces come and go."""

from __future__ import annotations

import errno
import ipaddress
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import trio

from edgeice import dtls
from edgeice.addresses import Base, TransportAddress
from edgeice.files import read_authorities
from edgeice.ice import CandidatePolicy, IceConfig, Role
from edgeice.net import (
    Assessed,
    Driver,
    InterfaceMonitor,
    InterfacePolicy,
    Link,
    LinkPolicy,
    Snapshot,
    UsableAddress,
    assess,
    delta,
    usable_addresses,
)
from edgeice.peer import Endpoint, EndpointConfig, PathChanged, TurnServer
from edgeice.sansio import Entropy, Event
from edgeice.settings import IceSection
from edgeice.trace import Record, Tracer, fields_of, ignore
from edgeice.transport.peer import PeerConnection, Progress
from edgeice.transport.relays import RelaySource
from edgeice.transport.uplinks import InterfaceReport, report, uplink

if TYPE_CHECKING:
    from edgeice.transport.ice import IceTransport

__all__ = ["NetworkChange", "NetworkWatcher", "Node", "NodeConfig", "open_node"]


def _unwatched(_progress: Progress) -> None:
    """What a connection without a watcher tells."""


@attrs.frozen(kw_only=True)
class NetworkChange:
    """What changed of this host's interfaces; told when the sockets follow it already."""

    #: In words, losses first; nothing of interfaces that the configuration or their names leave out.
    reasons: tuple[str, ...]
    #: As `Node.usable` and `Node.host_addresses`.
    usable: tuple[UsableAddress, ...]
    host_addresses: tuple[UsableAddress, ...]


#: Hears of changes, at once; not to raise.
NetworkWatcher = Callable[[NetworkChange], None]


def _blind(_change: NetworkChange) -> None:
    """Where nobody watches the network."""


#: Seconds until a socket is tried again that could not be opened: its address may have gone and come in between.
_RETRY: Final = 1.0
#: The same at most, as it doubles each time that nothing has changed.
_LAST_RETRY: Final = 64.0
#: All interfaces that work, whatever the configuration keeps from sessions.
_EVERY_INTERFACE: Final = InterfacePolicy(include=("*",))


@attrs.frozen(kw_only=True)
class NodeConfig:
    """Which addresses a node uses, and the servers that it asks."""

    #: Loopback addresses to use, for demonstrations and tests.
    loopback: tuple[str, ...] = ()
    #: Use the addresses of the host's interfaces.
    interfaces: bool = True
    policy: InterfacePolicy = attrs.field(factory=InterfacePolicy)
    #: UDP ports to take the first free one of for each address; None for the kernel's choice.
    ports: range | None = None
    #: STUN servers, `stun:HOST[:PORT]`.
    stun: tuple[str, ...] = ()
    #: Local IP -> the public one that a NAT maps it to, one to one with ports kept.
    public: Mapping[str, str] = attrs.field(factory=dict)
    #: Relays, asked while there are sessions.
    turn: tuple[TurnServer, ...] = ()
    #: Hosts and ports of other servers of this host, which no peer may make it send checks to.
    servers: tuple[tuple[str, int], ...] = ()
    #: Authorities of `turns:` servers, PEM; None for the system's.
    turn_ca: Path | None = None
    ice: IceConfig = attrs.field(factory=IceConfig)

    @classmethod
    def loopback_only(cls) -> NodeConfig:
        """127.0.0.1 and nothing else: for demonstrations and tests."""
        return cls(loopback=("127.0.0.1",), interfaces=False, ice=IceConfig(allow_loopback=True))

    @classmethod
    def from_section(
        cls, section: IceSection, relays: RelaySource | None = None, *, broker: tuple[str, int] | None = None
    ) -> NodeConfig:
        """From the `[ice]` section of a configuration file, and the relays that its `[turn]` section leads to.

        `broker`: its host and port, which no peer may make this host send checks to.
        """
        return cls(
            loopback=section.loopback,
            interfaces=section.interfaces,
            policy=InterfacePolicy(
                exclude=section.exclude,
                include=section.include,
                only=section.only,
                networks=tuple(map(ipaddress.ip_network, section.networks)),
                exclude_networks=tuple(map(ipaddress.ip_network, section.exclude_networks)),
                links=LinkPolicy(**attrs.asdict(section.links)),
            ),
            ports=section.port_range,
            stun=() if section.policy == "relay" else section.stun,  # what they say would not be told
            public=section.public,
            turn=() if relays is None else relays.servers,
            turn_ca=None if relays is None else relays.ca,
            ice=IceConfig(
                allow_loopback=bool(section.loopback),
                policy=CandidatePolicy(section.policy),
                resolve_names=section.resolve_names,
                peer_networks=tuple(map(ipaddress.ip_network, section.peer_networks)),
                exclude_peer_networks=tuple(map(ipaddress.ip_network, section.exclude_peer_networks)),
            ),
            servers=() if broker is None else (broker,),
        )


class Node:
    """The bases of one process, and the sessions on them.  Made by `open_node`.

    Raises ConfigError where the relays' authorities cannot be read.
    """

    def __init__(
        self, config: NodeConfig, entropy: Entropy, tracer: Tracer, on_network: NetworkWatcher = _blind
    ) -> None:
        self._config = config
        self._tracer = tracer
        self._on_network = on_network
        self._endpoint = Endpoint(self._endpoint_config(), entropy=entropy, tracer=tracer)
        trust = None if config.turn_ca is None else read_authorities(config.turn_ca, "the relay's")
        if trust is not None:
            trust.hostname_checks_common_name = False  # RFC 8489 §6.2.3
        self._driver = Driver(self._endpoint, on_router_event=self._hear, tracer=tracer, tls_context=trust)
        self._snapshot = Snapshot()
        #: Why the socket of an address (and interface) that may be used could not be opened.
        self._refused: dict[tuple[str, str], str] = {}
        self._may_open_later = False
        #: Index of the interface that each base was opened on; 0 for loopback.
        self._opened_on: dict[TransportAddress, int] = {}
        #: What was left out when that was traced last.
        self._told: list[Assessed] = []
        self._watchers: dict[object, Callable[[], None]] = {}

    @property
    def bases(self) -> list[Base]:
        """The open bases."""
        return self._driver.bases

    def watch_network(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` after each change of `bases`; gives what ends that."""
        key = object()
        self._watchers[key] = changed

        def stop() -> None:
            self._watchers.pop(key, None)

        return stop

    @property
    def usable(self) -> list[UsableAddress]:
        """The addresses that sessions have a socket on now, with the cost of their interfaces; a relay's is none."""
        return [UsableAddress(base.address.ip, base.interface, base.cost) for base in self._driver.bases]

    @property
    def host_addresses(self) -> list[UsableAddress]:
        """Every address of this host that works now, least cost first: also by tunnels and what else is left out.

        Loopback is none of them.
        """
        policy = attrs.evolve(_EVERY_INTERFACE, links=self._config.policy.links)
        return sorted(usable_addresses(self._snapshot, policy), key=lambda each: each.cost)

    @property
    def uplink(self) -> Link:
        """What the default route leads by."""
        return uplink(self._snapshot, self._config.policy)

    def interfaces(self) -> list[InterfaceReport]:
        """The interfaces that sessions use, or did, or that lead to the rest of the world."""
        return report(self._snapshot, self._config.policy, self.bases, self._driver.traffic.snapshot())

    def left_out(self) -> list[Assessed]:
        """The interfaces and addresses of this host that sessions do not use, and why."""
        left = [each for each in assess(self._snapshot, self._config.policy) if each.why]
        refused = [Assessed(interface, ip, why) for (ip, interface), why in self._refused.items()]
        return left + refused if self._config.interfaces else refused

    def verdict(self, peer: PeerConnection) -> dict[str, object]:
        """What became of a session, and of what it rests on here: see `edgeice.peer.verdict`."""
        left_out = [attrs.asdict(each) for each in self.left_out()]
        return {**peer.verdict(), **self._endpoint.report(), "left_out": left_out}

    def connection(
        self,
        certificate: dtls.Certificate | None = None,
        watch: Callable[[Progress], None] = _unwatched,
        *,
        offerer: bool = False,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> PeerConnection:
        """Begin a session with data channels.

        Args:
            certificate: The DTLS certificate; a fresh one by default.
            watch: Hears candidates, states and paths.
            offerer: This side makes the offer, and so controls ICE (RFC 8445 §6.1.1).
            on_failure: Told of a bug that ended this session; without it, such a bug ends the node.
        """
        self._endpoint.prepare()
        role = Role.CONTROLLING if offerer else Role.CONTROLLED
        connection = self._endpoint.connect(certificate or dtls.Certificate.generate(), role, now=trio.current_time())
        self._driver.touch(self._endpoint)
        return PeerConnection(connection, self._endpoint, self._driver, watch, on_failure)

    def ice_transport(self, watch: Callable[[PathChanged], None] = _unwatched, *, controlling: bool) -> IceTransport:
        """Begin a session of plain datagrams.

        Args:
            watch: Hears which candidate pair carries data, each time that changes or is nominated.
            controlling: This side nominates (RFC 8445 §6.1.1).
        """
        from edgeice.transport.ice import IceTransport  # noqa: PLC0415  # only who asks for one needs it

        self._endpoint.prepare()
        role = Role.CONTROLLING if controlling else Role.CONTROLLED
        connection = self._endpoint.connect_raw(role, now=trio.current_time())
        self._driver.touch(self._endpoint)
        return IceTransport(connection, self._endpoint, self._driver, watch)

    def reconfigure(self, config: NodeConfig) -> None:
        """Use other addresses from now on; sockets of those that are gone are closed first."""
        if config.turn != self._config.turn:
            self.set_turn_servers(config.turn)
        self._config = config
        self._settle()

    def set_turn_servers(self, servers: tuple[TurnServer, ...]) -> None:
        """Use other relays or credentials for allocations to come."""
        self._endpoint.set_turn_servers(servers, now=trio.current_time())
        self._driver.touch(self._endpoint)

    def drops(self) -> dict[str, int]:
        """Input that was dropped outside of sessions, by layer and reason."""
        counters = {"net": self._driver.counters, "endpoint": self._endpoint.drops}
        return {
            f"{layer}.{reason}": count
            for layer, counter in counters.items()
            for reason, count in counter.snapshot().items()
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep bases in step with interfaces until canceled."""
        with InterfaceMonitor() as monitor:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._driver.run)
                self._snapshot = monitor.read()
                self._settle()
                task_status.started()
                retry = _RETRY
                while True:
                    before = self._snapshot
                    with trio.move_on_after(retry if self._may_open_later else math.inf) as scope:
                        self._snapshot = await monitor.changed()
                    retry = min(2 * retry, _LAST_RETRY) if scope.cancelled_caught else _RETRY
                    self._settle()
                    if self._snapshot is not before:
                        self._tell(delta(self._of_use(before), self._of_use(self._snapshot)))

    # Inside

    def _endpoint_config(self) -> EndpointConfig:
        config = self._config
        return EndpointConfig(
            ice=config.ice, stun=config.stun, public=config.public, turn=config.turn, servers=config.servers
        )

    def _of_use(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot without the interfaces that are left out anyway: containers come and go."""
        policy = self._config.policy
        kept = {index: each for index, each in snapshot.interfaces.items() if policy.objection(each.name) is None}
        return Snapshot(
            kept,
            frozenset(route for route in snapshot.routes if route.index in kept),
            {key: held for key, held in snapshot.held.items() if policy.objection(key[0]) is None},
        )

    def _tell(self, reasons: list[str]) -> None:
        for reason in reasons:
            self._tracer(Record(trio.current_time(), "net", "interfaces", {"reason": reason}))
        self._on_network(
            NetworkChange(reasons=tuple(reasons), usable=tuple(self.usable), host_addresses=tuple(self.host_addresses))
        )

    def _settle(self) -> None:
        before = self._driver.bases
        self._settle_bases()
        if self._driver.bases != before:
            for changed in tuple(self._watchers.values()):
                changed()

    def _settle_bases(self) -> None:
        wanted = [UsableAddress(ip, "") for ip in self._config.loopback]
        if self._config.interfaces:
            wanted += usable_addresses(self._snapshot, self._config.policy)
        # A device that went and came back has another index, and sockets that were pinned to it are dead.
        indexes = {"": 0} | {each.name: each.index for each in self._snapshot.interfaces.values()}
        ports = self._config.ports
        open_now: set[UsableAddress] = set()
        for base in self._driver.bases:
            key = UsableAddress(base.address.ip, base.interface, base.cost)
            is_same = self._opened_on.get(base.address) == indexes.get(base.interface)
            if key in wanted and is_same and (ports is None or base.address.port in ports):
                open_now.add(key)
            else:
                self._driver.close_base(base.address)
                self._opened_on.pop(base.address, None)
        self._refused = {}
        self._may_open_later = False
        for each in wanted:
            if each not in open_now:
                try:
                    base = self._driver.open_base(each.ip, each.interface, ports or 0, each.cost)
                    self._opened_on[base.address] = indexes[each.interface]
                except OSError as error:
                    # Gone again since the kernel told of it, or no port is free.
                    self._refuse(each.ip, each.interface, error)
        if self._tracer is not ignore:
            self._trace_left_out()

    def _trace_left_out(self) -> None:
        left_out = self.left_out()
        for each in left_out:
            if each not in self._told:
                self._tracer(Record(trio.current_time(), "net", "left_out", attrs.asdict(each)))
        self._told = left_out

    def _refuse(self, ip: str, interface: str, error: OSError) -> None:
        self._may_open_later |= error.errno != errno.EADDRINUSE
        why = f"its socket cannot be opened: {error.strerror or error}"
        self._refused[ip, interface] = why
        fields = {"address": ip, "interface": interface, "reason": why}
        self._tracer(Record(trio.current_time(), "net", "base_failed", fields))

    def _hear(self, event: Event) -> None:
        if self._tracer is not ignore:
            self._tracer(Record(trio.current_time(), "endpoint", type(event).__name__, fields_of(event)))


@asynccontextmanager
async def open_node(
    config: NodeConfig,
    entropy: Entropy | None = None,
    tracer: Tracer = ignore,
    on_network: NetworkWatcher = _blind,
) -> AsyncIterator[Node]:
    """A node with its sockets open; on exit all of them are closed, and so are its sessions.

    `on_network` hears of each change of the interfaces.  Raises OSError where the kernel refuses netlink or sockets.
    """
    node = Node(config, entropy or Entropy(), tracer, on_network)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        try:
            yield node
        finally:
            nursery.cancel_scope.cancel()
