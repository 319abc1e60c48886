"""An endpoint with relays in virtual time: TURN servers at addresses, each so far away, over UDP and streams."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import attrs

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice import IceConfig, Role
from edgeice.peer import Endpoint, EndpointConfig, IceConnection, TurnServer
from edgeice.sansio import Action, CloseFlow, Entropy, Event, Machine, OpenFlow, Resolve, SendStream, Transmit, drain
from edgeice.stun import Attribute, decode
from edgeice.turn.framing import Deframer
from tests.support import turn_server

__all__ = ["CREDENTIALS", "Relay", "RelayedEndpoint"]

CREDENTIALS = turn_server.CREDENTIALS


@attrs.define(eq=False)
class Relay:
    """A TURN server on the network.

    Attributes:
        delay: One way, seconds.
        udp, stream: Whether it can be reached so.
        clients: One server for each 5-tuple or flow that it was spoken to by.
    """

    address: TransportAddress
    delay: float = 0.005
    udp: bool = True
    stream: bool = True
    #: Makes the server of a new client; `relayed` is set to an address of its own.
    make: Callable[[], turn_server.TurnServer] = turn_server.TurnServer
    clients: dict[object, turn_server.TurnServer] = attrs.field(factory=dict)
    _ports: itertools.count[int] = attrs.field(factory=lambda: itertools.count(50000))

    def client(self, key: object) -> turn_server.TurnServer:
        """The server's side of a 5-tuple or flow."""
        if key not in self.clients:
            server = self.clients[key] = self.make()
            server.relayed = [TransportAddress(self.address.ip, next(self._ports))]
        return self.clients[key]

    def serve(self, key: object, data: bytes, now: float) -> list[bytes]:
        """What is answered to a datagram or message; a ticket moves the allocation that it is for (RFC 8016)."""
        server = self.client(key)
        ticket = decode(data).get(Attribute.MOBILITY_TICKET) if data[0] < 4 else None
        if ticket and server.allocated_until is None:
            for other, owner in self.clients.items():
                if owner.allocated_until is not None and owner.tickets[-1:] == [ticket]:
                    server = self.clients[key] = self.clients.pop(other)
                    server.is_here = False
                    break
        return server.receive(data, now)

    @property
    def allocations(self) -> int:
        """How many stand."""
        return sum(server.allocated_until is not None for server in self.clients.values())

    @property
    def deleted(self) -> int:
        """How many were given back."""
        return sum(server.deleted for server in self.clients.values())


class RelayedEndpoint:
    """An endpoint, its relays and a clock; nothing happens but in `run`.

    Args:
        relays: The servers that there are.
        uris: What the endpoint is told of them.
        names: Addresses by host name.
    """

    def __init__(
        self, *relays: Relay, uris: list[str] | None = None, names: dict[str, list[str]] | None = None
    ) -> None:
        self.now = 1000.0
        self.relays = {relay.address: relay for relay in relays}
        if uris is None:
            uris = [f"turn:{relay.address.ip}:{relay.address.port}" for relay in relays]
        self.names = names or {}
        self.endpoint = Endpoint(EndpointConfig(ice=IceConfig(), turn=self.servers(*uris)), entropy=Entropy.seeded(3))
        self.events: list[Event] = []
        #: What the sessions sent to elsewhere than a relay.
        self.sent: list[Transmit] = []
        self.opened: list[OpenFlow] = []
        #: What the sessions told.
        self.told: list[Event] = []
        self.sessions: list[IceConnection] = []
        self._flows: dict[int, tuple[Relay, Deframer | None]] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._acted = 0

    @staticmethod
    def servers(
        *uris: str, username: str = CREDENTIALS.username, password: str = CREDENTIALS.password
    ) -> tuple[TurnServer, ...]:
        """Configuration of relays."""
        return tuple(TurnServer(uri, username, password) for uri in uris)

    def add_base(self, ip: str = "10.0.0.1", port: int = 4000, interface: str = "eth0", cost: int = 0) -> Base:
        """A socket is open."""
        base = Base(TransportAddress(ip, port), interface, cost=cost)
        self.endpoint.base_added(base, now=self.now)
        self.drain()
        return base

    def remove_base(self, base: Base) -> None:
        """A socket is closed."""
        self.endpoint.base_removed(base.address, now=self.now)
        self.drain()

    def connect(self) -> IceConnection:
        """A session."""
        session = self.endpoint.connect_raw(Role.CONTROLLING, now=self.now)
        self.sessions.append(session)
        self.drain()
        return session

    def release(self, session: IceConnection) -> None:
        """A session is over."""
        session.close(now=self.now)
        self.endpoint.release(session, now=self.now)
        self.sessions.remove(session)
        self.drain()

    def break_flow(self, flow_id: int) -> None:
        """The other end of a flow is gone."""
        del self._flows[flow_id]
        self.endpoint.flow_closed(flow_id, now=self.now)
        self.drain()

    def relayed(self, session: IceConnection) -> list[str]:
        """The relayed candidates that a session has told."""
        lines, _ = session.local_candidates(now=self.now)
        return [line for line in lines if " typ relay " in line]

    def of(self, kind: type[Event]) -> list[Event]:
        """Events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        for _ in range(100_000):
            self.drain()
            machines: list[Machine] = [self.endpoint, *self.sessions]
            arrival = self._due[0][0] if self._due else None
            times = [arrival, *(machine.next_timeout() for machine in machines)]
            nearest = min((each for each in times if each is not None), default=end + 1)
            if nearest > end:
                break
            self.now = max(self.now, nearest)
            if arrival is not None and arrival <= self.now:
                heapq.heappop(self._due)[2]()
            else:
                for machine in machines:
                    machine.handle_timeout(now=self.now)
        else:
            raise AssertionError("time does not pass")
        self.now = end

    def drain(self) -> None:
        """Send and hear what there is."""
        while True:
            drain(self.endpoint, self._act, self.events.append)
            delivery = self.endpoint.poll_delivery()
            if delivery is not None:
                delivery.session.receive_datagram(delivery.data, delivery.path, now=self.now)
                delivery.session.batch_received(now=self.now)
                continue
            before = self._acted
            for session in self.sessions:
                drain(session, self._act, self.told.append)
            if self._acted == before:
                return

    def arrive(self, path: Path, data: bytes) -> None:
        """A datagram comes."""
        session = self.endpoint.receive_datagram(data, path, now=self.now)
        assert session is None
        self.drain()

    # Inside

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._order), call))

    def _act(self, action: Action) -> None:
        self._acted += 1
        match action:
            case Transmit():
                self._transmit(action)
            case OpenFlow():
                self._open(action)
            case SendStream():
                self._stream(action)
            case CloseFlow():
                self._flows.pop(action.flow_id, None)
            case Resolve():
                self._after(0.001, lambda: self._resolve(action))

    def _resolve(self, action: Resolve) -> None:
        addresses = self.names.get(action.name, [])
        if action.service:
            self.endpoint.located(action.name, action.service, [(ip, None) for ip in addresses], now=self.now)
        else:
            self.endpoint.resolved(action.name, addresses, now=self.now)

    def _transmit(self, action: Transmit) -> None:
        relay = self.relays.get(action.path.remote)
        if self.endpoint.send_relayed(action.path, action.data, now=self.now):
            return
        if relay is None:
            self.sent.append(action)
        elif relay.udp:
            self._after(relay.delay, lambda: self._serve(relay, action))

    def _serve(self, relay: Relay, action: Transmit) -> None:
        for answer in relay.serve(action.path, action.data, self.now):
            self._after(relay.delay, lambda answer=answer: self.arrive(action.path, answer))  # type: ignore[misc]

    def _open(self, action: OpenFlow) -> None:
        self.opened.append(action)
        relay, flow_id = self.relays.get(action.remote), action.flow_id
        if relay is None:
            self._after(0.001, lambda: self.endpoint.flow_failed(flow_id, "Connection refused", now=self.now))
        elif relay.udp if action.datagrams else relay.stream:
            self._flows[flow_id] = relay, None if action.datagrams else Deframer()
            local = TransportAddress("10.0.0.1", 30000 + flow_id, "tcp")
            connected = 0.0 if action.datagrams else 2 * relay.delay
            self._after(connected, lambda: self.endpoint.flow_opened(flow_id, local, now=self.now))

    def _stream(self, action: SendStream) -> None:
        relay, deframer = self._flows[action.flow_id]
        for message in [action.data] if deframer is None else deframer.feed(action.data):
            self._after(relay.delay, lambda message=message: self._serve_stream(relay, action.flow_id, message))  # type: ignore[misc]

    def _serve_stream(self, relay: Relay, flow_id: int, message: bytes) -> None:
        for answer in relay.serve(flow_id, message, self.now):
            self._after(relay.delay, lambda answer=answer: self._answer_stream(flow_id, answer))  # type: ignore[misc]

    def _answer_stream(self, flow_id: int, answer: bytes) -> None:
        if flow_id in self._flows:
            self.endpoint.receive_stream(flow_id, answer, now=self.now)
