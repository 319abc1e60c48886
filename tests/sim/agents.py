"""Agents of the simulation: an Endpoint each, driven as its contract says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import attrs

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice import IceConfig
from edgeice.peer import ConnectionEnded, Endpoint, EndpointConfig, TurnServer
from edgeice.peer.session import PeerSession
from edgeice.sansio import Action, CloseFlow, Entropy, Event, OpenFlow, SendStream, Transmit, drain
from tests.sim.network import Interface, Network, StalledError
from tests.sim.servers import Flow, ServerHost
from tests.sim.signaling import (
    Description,
    Message,
)
from tests.sim.topology import InterfacePlan

__all__ = ["Agent", "End", "Ignore", "Watch"]

#: Timers that fire without time passing are a livelock.
_MAX_ROUNDS = 1000


class End(Protocol):
    """One end of a session, as its agent and those who watch see it."""

    @property
    def name(self) -> str:
        """Of its host."""

    @property
    def agent(self) -> Agent:
        """Whose it is."""

    @property
    def connection(self) -> PeerSession:
        """Its machine."""

    @property
    def ended(self) -> ConnectionEnded | None:
        """How it ended."""

    def take(self, event: Event) -> None:
        """Hear what the machine tells."""


class Watch(Protocol):
    """Sees everything that agents do."""

    def sent(self, agent: Agent, sent: Transmit) -> None:
        """An agent sends a datagram."""

    def received(self, agent: Agent, data: bytes, path: Path) -> None:
        """A datagram arrived at an agent, which has not seen it yet."""

    def told(self, party: End, event: Event) -> None:
        """A session told its owner something."""

    def said(self, party: End, message: Message) -> None:
        """A party said something to its peer."""

    def heard(self, party: End, message: Message) -> None:
        """What its peer said has come to a party."""

    def taken(self, party: End, description: Description) -> None:
        """A party takes its peer's parameters."""

    def withdrawn(self, party: End, line: str) -> None:
        """What its peer said that it has no more has come to a party."""


class Ignore:
    """Sees nothing."""

    def sent(self, agent: Agent, sent: Transmit) -> None: ...

    def received(self, agent: Agent, data: bytes, path: Path) -> None: ...

    def told(self, party: End, event: Event) -> None: ...

    def said(self, party: End, message: Message) -> None: ...

    def heard(self, party: End, message: Message) -> None: ...

    def taken(self, party: End, description: Description) -> None: ...

    def withdrawn(self, party: End, line: str) -> None: ...


class Agent:
    """A host's endpoint on the network.

    Args:
        network: Where it is.
        name: Of its host in the topology.
        config: Of ICE.
        seed: Of its randomness.
        stun: STUN servers' URIs.
        turn: Relays.
        hosts: The servers behind those, for streams.
        watch: Sees what it does.
    """

    def __init__(
        self,
        network: Network,
        name: str,
        *,
        config: IceConfig,
        seed: int,
        stun: tuple[str, ...] = (),
        turn: tuple[TurnServer, ...] = (),
        hosts: Mapping[TransportAddress, ServerHost] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.name = name
        self.network = network
        self.config = config
        self.watch: Watch = watch or Ignore()
        self.endpoint = Endpoint(EndpointConfig(ice=config, stun=stun, turn=turn), entropy=Entropy.seeded(seed))
        self.parties: list[End] = []
        #: Open sockets.
        self.bases: dict[TransportAddress, Interface] = {}
        self._hosts = hosts or {}
        self.flows: dict[int, Flow] = {}
        self._paths: dict[tuple[TransportAddress, TransportAddress], Path] = {}
        #: A relay has something to send.
        self._relayed = False
        self._armed_at = math.inf
        #: When nothing was left to do for the last time, and how often since.
        self._idle_at = (-math.inf, 0)

    @property
    def now(self) -> float:
        """Virtual time."""
        return self.network.clock.now

    # Sockets

    def open(self, plan: InterfacePlan) -> None:
        """Open sockets on an interface."""
        interface = self.network.interfaces[self.name, plan.name]
        interface.receive = self._receive
        for ip in plan.ips:
            for port in plan.ports:
                address = TransportAddress(ip, port)
                self.bases[address] = interface
                self.endpoint.base_added(Base(address, plan.name, cost=plan.cost), now=self.now)
                self.settle()

    def shut(self, plan: InterfacePlan) -> None:
        """Close the sockets of an interface; its addresses are gone."""
        interface = self.network.interfaces[self.name, plan.name]
        interface.receive = None
        for address in [address for address, each in self.bases.items() if each is interface]:
            del self.bases[address]
            self.endpoint.base_removed(address, now=self.now)
            self.settle()

    def drop(self, ip: str) -> None:
        """Close the sockets of one address, which is gone."""
        for address in [address for address in self.bases if address.ip == ip]:
            del self.bases[address]
            self.endpoint.base_removed(address, now=self.now)
            self.settle()

    def _receive(self, data: bytes, destination: TransportAddress, source: TransportAddress) -> None:
        if destination not in self.bases:
            return
        # What a relay brings, it hands on in `settle`.
        path = self._paths.setdefault((destination, source), Path(destination, source))
        self.watch.received(self, data, path)
        session = self.endpoint.receive_datagram(data, path, now=self.now)
        if session is not None:
            session.receive_datagram(data, path, now=self.now)
            session.batch_received(now=self.now)
        self.settle()

    # The driving contract

    def settle(self) -> None:
        """Take what every machine has, and arm the timer."""
        endpoint = self.endpoint
        while True:
            drain(endpoint, self._act, _forget)
            while endpoint.poll_touched() is not None:
                pass
            relayed = False
            for party in self.parties:
                drain(party.connection, self._act, party.take)
            while (delivery := endpoint.poll_delivery()) is not None:
                self.watch.received(self, delivery.data, delivery.path)
                delivery.session.receive_datagram(delivery.data, delivery.path, now=self.now)
                delivery.session.batch_received(now=self.now)
                relayed = True
            if not relayed and not self._relayed:
                break
            self._relayed = False
        self._arm()

    def _act(self, action: Action) -> None:
        match action:
            case Transmit():
                self.watch.sent(self, action)
                self._send(action)
            case OpenFlow():
                self._open_flow(action)
            case SendStream():
                if action.flow_id in self.flows:
                    self.flows[action.flow_id].send(action.data)
            case CloseFlow():
                flow = self.flows.pop(action.flow_id, None)
                if flow is not None:
                    flow.close()
            case _:
                raise StalledError(f"nothing here does {action}")

    def _send(self, action: Transmit) -> None:
        if self.endpoint.send_relayed(action.path, action.data, now=self.now):
            self._relayed = True
            return
        interface = self.bases.get(action.path.local)
        if interface is not None:
            self.network.send(interface, action.data, action.path.local, action.path.remote)

    def _open_flow(self, action: OpenFlow) -> None:
        host = self._hosts.get(attrs.evolve(action.remote, protocol="udp"))
        interface = self.network.interfaces.get((self.name, action.interface or ""))
        flow_id = action.flow_id
        if host is None or interface is None or interface not in self.bases.values():
            self.network.clock.after(
                0.01, lambda: self._tell(lambda: self.endpoint.flow_failed(flow_id, "refused", now=self.now))
            )
            return
        # No two flows of a network look the same to the server.
        client = TransportAddress("192.0.2.200", 10000 + 1000 * (ord(self.name[0]) % 40) + flow_id, "tcp")
        flow = Flow(
            self.network,
            interface,
            client,
            host,
            lambda data: self._tell(lambda: self.endpoint.receive_stream(flow_id, data, now=self.now)),
        )
        self.flows[flow_id] = flow
        delay = 2 * (interface.plan.link.delay + self.network.topology.core_delay)
        local = attrs.evolve(client, ip=next(iter(interface.plan.ips)))
        self.network.clock.after(delay, lambda: self._flow_opened(flow_id, local))

    def _flow_opened(self, flow_id: int, local: TransportAddress) -> None:
        if flow_id in self.flows:
            self._tell(lambda: self.endpoint.flow_opened(flow_id, local, now=self.now))

    def _tell(self, call: Callable[[], None]) -> None:
        call()
        self.settle()

    def next_timeout(self) -> float:
        """The earliest deadline of all machines."""
        times = [self.endpoint.next_timeout(), *(party.connection.next_timeout() for party in self.parties)]
        return min((at for at in times if at is not None), default=math.inf)

    def _arm(self) -> None:
        at = self.next_timeout()
        if at < self._armed_at:
            self._armed_at = at
            self.network.clock.at(at, lambda: self._wake(at))

    def _wake(self, at: float) -> None:
        if at != self._armed_at:
            return  # an earlier one took its place
        self._armed_at = math.inf
        now = self.now
        idle_at, times = self._idle_at
        self._idle_at = (now, times + 1 if idle_at == now else 0)
        if times > _MAX_ROUNDS:
            raise StalledError(f"{self.name} leaves a deadline standing at {now}")
        # Of the deadline that was armed, some may have moved: machines do nothing before theirs.
        self.endpoint.handle_timeout(now=now)
        for party in self.parties:
            party.connection.handle_timeout(now=now)
        self.settle()


def _forget(_event: Event) -> None:
    """What an endpoint tells is for traces."""
