"""What the sessions of one host share: bases, server-reflexive addresses, routing and the pace of checks.

A device holds many sessions but few addresses.  The Endpoint owns the addresses and lends them: ten sessions on
three uplinks need three sockets.  It knows no socket itself; the driver opens and closes them and says so.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import attrs

from edgeice import stun
from edgeice.addresses import Base, Path, TransportAddress
from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.ice import IceConfig, Pacer, Role, SharedTurn, Turn
from edgeice.peer.config import ConnectionConfig, TurnServer
from edgeice.peer.demux import Kind, classify
from edgeice.peer.reflexive import Reflexive
from edgeice.peer.routes import Routes
from edgeice.sansio import Action, BoundedQueue, Delivery, DropCounter, Entropy, Event, Resolve, Transmit
from edgeice.trace import Tracer, ignore, of_session

if TYPE_CHECKING:
    from edgeice.dtls import Certificate
    from edgeice.ice import Destinations, ServerReflexiveLearned
    from edgeice.peer.connection import Connection
    from edgeice.peer.host import HostLog
    from edgeice.peer.link import IceLink
    from edgeice.peer.raw import IceConnection
    from edgeice.peer.relays import Relays
    from edgeice.peer.session import PeerSession

__all__ = ["Endpoint", "EndpointConfig"]

#: Sessions at once, over everything that the process does.
SESSION_LIMIT: Final = 1024
#: Datagrams out of relays that wait for the driver, which takes them after each batch; what is more is lost, as on a
#: network.
_DELIVERY_LIMIT: Final = 1024
#: Refusals that wait to be sent, and names to be looked up; what is more is lost, as on a network.
_ACTION_LIMIT: Final = 64


@attrs.frozen(kw_only=True)
class EndpointConfig:
    """What the host has and may do."""

    #: Local IP -> the public one that a NAT maps it to, one to one with ports kept.
    public: Mapping[str, str] = attrs.field(factory=dict)
    ice: IceConfig = attrs.field(factory=IceConfig)
    connection: ConnectionConfig = attrs.field(factory=ConnectionConfig)
    #: STUN servers, `stun:HOST[:PORT]`.
    stun: tuple[str, ...] = ()
    #: Hosts and ports of other servers of this host, which no peer may make it send checks to.
    servers: tuple[tuple[str, int], ...] = ()
    #: Relays, asked while there are sessions.
    turn: tuple[TurnServer, ...] = ()


class Endpoint:
    """Routes datagrams to sessions and lends them bases.

    Attributes:
        drops: Datagrams for nobody, by reason: `unroutable` (a STUN request with no session's ufrag, or data on a
            path that no session owns), `unknown-kind` (a first byte of no protocol here, RFC 7983 §7) and those of the
            STUN decoder; `refusal_rate`: of the unroutable requests, those that were not even refused.
    """

    def __init__(self, config: EndpointConfig, *, entropy: Entropy, tracer: Tracer = ignore) -> None:
        self.drops = DropCounter()
        self._config = config
        self._entropy = entropy
        self._tracer = tracer
        self._pacer = Pacer()
        self._routes: Routes[int] = Routes()
        self._ids = itertools.count(1)
        self._bases: dict[TransportAddress, Base] = {}
        self._sessions: dict[int, PeerSession] = {}
        self._log: HostLog | None = None
        self._touched: deque[PeerSession] = deque()
        self._gathering = SharedTurn(Turn(self._pacer, config.ice.pacing))
        self._reflexive = Reflexive(config.stun, config.ice, self._gathering, entropy, config.public)
        #: None until a session wants one.
        self._relays: Relays | None = None
        self._turn = config.turn
        self._deliveries: BoundedQueue[Delivery] = BoundedQueue(_DELIVERY_LIMIT)
        #: Sessions know that no more candidates will come of their own.
        self._gathered_told = False
        #: Answers to requests that nobody proved, for all sessions together; made with the first session or request.
        self._refusals: stun.RefusalBudget | None = None
        #: Refusals to be sent, and own servers to be looked up.
        self._actions: BoundedQueue[Action] = BoundedQueue(_ACTION_LIMIT)
        #: Where all sessions may send to; made with the first one.
        self._destinations: Destinations | None = None
        #: Names of own servers that were looked up.
        self._asked_for: set[str] = set()

    # Commands

    def prepare(self) -> None:
        """Load what a session needs; without this the first one's `now` is older than what it sends."""
        from edgeice.ice import IceSession  # noqa: F401, PLC0415  # not before the first session
        from edgeice.peer.connection import Connection  # noqa: F401, PLC0415

        if self._turn:
            from edgeice.peer.relays import Relays  # noqa: F401, PLC0415

    def connect(self, certificate: Certificate, role: Role, *, now: float) -> Connection:
        """Begin a session with data channels on the bases that there are."""
        from edgeice.peer.connection import Connection  # noqa: PLC0415  # not before the first session

        session_id, link = self._make_link(role, now)
        connection = Connection(session_id, link, certificate, self._config.connection, self._entropy, now=now)
        self._lend(session_id, connection, now)
        return connection

    def connect_raw(self, role: Role, *, now: float) -> IceConnection:
        """Begin a session of plain datagrams."""
        from edgeice.peer.raw import IceConnection  # noqa: PLC0415  # as above

        session_id, link = self._make_link(role, now)
        connection = IceConnection(session_id, link, now=now)
        self._lend(session_id, connection, now)
        return connection

    def release(self, session: PeerSession, *, now: float) -> None:
        """Forget a session that is over; soon after the last one go the allocations on relays."""
        self._sessions.pop(session.session_id, None)
        self._routes.forget(session.session_id)
        if self._relays is not None and not self._sessions:
            self._relays.release(now=now)
            self._settle(now)

    def set_turn_servers(self, servers: tuple[TurnServer, ...], *, now: float) -> None:
        """Use other relays or credentials for allocations to come."""
        self._turn = servers
        if self._relays is not None:
            self._relays.set_servers(servers, now=now)
        elif self._sessions:
            self._want_relays(now)
        self._protect_servers()
        self._settle(now)

    def close(self, *, now: float) -> None:
        """The host leaves: give back what servers hold for it."""
        if self._relays is not None:
            self._relays.close(now=now)

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    # Inputs

    def receive_datagram(self, data: bytes, path: Path, *, now: float) -> PeerSession | None:
        """The session that a datagram belongs to; None if it was taken here or belongs to nobody."""
        if self._relays is not None and self._relays.is_server(path):
            # The same server may be asked for the server-reflexive address too.
            if not (stun.is_stun(data) and self._reflexive.receive(data, path, now=now)):
                self._relays.receive_datagram(data, path, now=now)
            self._settle(now)
            return None
        return self._route(data, path, now)

    def base_added(self, base: Base, *, now: float) -> None:
        """The driver opened a socket."""
        self._reflexive.base_added(base, now=now)
        if self._relays is not None:
            self._relays.base_added(base, now=now)
        self._add_base(base, now)
        self._settle(now)

    def base_removed(self, address: TransportAddress, *, now: float) -> None:
        """The driver closed a socket."""
        if address not in self._bases:
            return
        self._reflexive.base_removed(address, now=now)
        if self._relays is not None:
            self._relays.base_removed(address, now=now)
        self._remove_base(address, now)
        self._settle(now)

    def socket_error(self, path: Path, errno: int, *, now: float) -> None:
        """The kernel, or a relay, refused to send on a path: a hint that anybody can forge, so checks decide."""
        self.drops.count("socket-error")
        if path.local in self._bases:
            self._host_log.refused(path, errno)
        if self._reflexive.socket_error(path, errno):
            self._settle(now)
        owner = self._sessions.get(self._routes.by_path(path) or 0)
        # A path that nobody owns yet may be checked by several.
        for session in self._sessions.values() if owner is None else (owner,):
            if session.socket_error(path, errno, now=now):
                self._touched.append(session)

    def located(self, name: str, service: str, servers: list[tuple[str, int | None]], *, now: float) -> None:
        """A service's servers were looked up."""
        self._reflexive.located(name, service, servers, now=now)
        if self._relays is not None:
            self._relays.located(name, service, servers, now=now)
        self._protect_servers()
        self._settle(now)

    def resolved(self, name: str, addresses: list[str], *, now: float) -> None:
        """A name was looked up."""
        self._reflexive.resolved(name, addresses, now=now)
        for session in self._sessions.values():
            if session.resolved(name, addresses, now=now):
                self._touched.append(session)
        if self._relays is not None:
            self._relays.resolved(name, addresses, now=now)
        self._protect_servers((name, addresses))
        self._settle(now)

    def flow_opened(self, flow_id: int, local: TransportAddress, *, now: float) -> None:  # noqa: ARG002
        """A relay's TCP or TLS connection stands."""
        self._relays_of(flow_id).flow_opened(flow_id, now=now)
        self._settle(now)

    def flow_failed(self, flow_id: int, reason: str, *, now: float) -> None:
        """A relay could not be connected to."""
        self._relays_of(flow_id).flow_failed(flow_id, reason, now=now)
        self._settle(now)

    def flow_closed(self, flow_id: int, *, now: float) -> None:
        """A relay's connection ended."""
        self._relays_of(flow_id).flow_failed(flow_id, "connection lost", now=now)
        self._settle(now)

    def receive_stream(self, flow_id: int, data: bytes, *, now: float) -> None:
        """Bytes of a relay."""
        self._relays_of(flow_id).receive_stream(flow_id, data, now=now)
        self._settle(now)

    def send_relayed(self, path: Path, data: bytes, *, now: float) -> bool:
        """Send a session's datagram from a relayed address; False if `path.local` is none."""
        if self._relays is None:
            return False
        return self._relays.send(path, data, selected=self._routes.is_selected(path), now=now)

    def handle_timeout(self, *, now: float) -> None:
        """Ask servers again."""
        self._reflexive.handle_timeout(now=now)
        if self._relays is not None:
            self._relays.handle_timeout(now=now)
        self._settle(now)

    # Outputs

    def next_timeout(self) -> float | None:
        """When a server is asked next."""
        at = self._reflexive.next_timeout()
        relays_at = None if self._relays is None else self._relays.next_timeout()
        return relays_at if at is None or (relays_at is not None and relays_at < at) else at

    def poll_action(self) -> Action | None:
        """Requests to servers, and names to look up."""
        action = self._reflexive.poll_action() or self._actions.pop()
        return self._relays.poll_action() if action is None and self._relays is not None else action

    def poll_event(self) -> Event | None:
        """What servers said, for a trace."""
        event = self._reflexive.poll_event()
        if event is None and self._relays is not None:
            event = self._relays.poll_event()
        if event is not None:
            self._host_log.take(event)
        return event

    def report(self) -> dict[str, object]:
        """What servers answered last, and the bases with what the kernel refused: see `edgeice.peer.verdict`."""
        asked = self._reflexive.asked() + ([] if self._relays is None else self._relays.asked())
        return {"servers": self._host_log.servers(asked), "bases": self._host_log.bases(self._bases.values())}

    def poll_delivery(self) -> Delivery | None:
        """A datagram that a relay brought, for a session."""
        return self._deliveries.pop()

    def poll_touched(self) -> PeerSession | None:
        """A session that an input here changed."""
        return self._touched.popleft() if self._touched else None

    # Inside

    @property
    def _host_log(self) -> HostLog:
        if self._log is None:
            from edgeice.peer.host import HostLog  # noqa: PLC0415  # not before there is something to remember

            self._log = HostLog()
        return self._log

    def _make_link(self, role: Role, now: float) -> tuple[int, IceLink]:
        from edgeice.ice import IceSession  # noqa: PLC0415  # as above
        from edgeice.peer.link import IceLink  # noqa: PLC0415

        if len(self._sessions) >= SESSION_LIMIT:
            raise LocalProtocolError(f"{SESSION_LIMIT} sessions are open already")
        session_id = next(self._ids)
        if self._destinations is None:
            self._destinations = self._config.ice.destinations()
        tracer = of_session(self._tracer, session_id)
        ice = IceSession(
            self._config.ice,
            role=role,
            pacer=self._pacer,
            entropy=self._entropy,
            now=now,
            bases=self._bases.values(),
            tracer=tracer,
            refusals=self._refusal_budget(),
            destinations=self._destinations,
        )
        return session_id, IceLink(session_id, ice, self._routes, tracer)

    def _lend(self, session_id: int, session: PeerSession, now: float) -> None:
        self._sessions[session_id] = session
        self._want_relays(now)
        self._protect_servers()
        for learned in self._reflexive.learned():
            session.server_reflexive_learned(learned.base, learned.mapped, learned.server, now=now)
        if self._relays is not None:
            for learned in self._relays.learned():
                session.server_reflexive_learned(learned.base, learned.mapped, learned.server, now=now)
        if self._is_gathered:
            session.gathering_finished(now=now)

    def _protect_servers(self, resolved: tuple[str, list[str]] | None = None) -> None:
        """Let no peer make this host send checks to what serves it; `resolved`: a name with its addresses."""
        if self._destinations is None:
            return
        relays = () if self._relays is None else self._relays.servers
        for server in (*self._reflexive.servers, *relays):
            self._destinations.protect(server)
        for host, port in self._config.servers:
            try:
                addresses = [str(ipaddress.ip_address(host))]
            except ValueError:
                addresses = resolved[1] if resolved is not None and resolved[0] == host else []
                if host not in self._asked_for:
                    self._asked_for.add(host)
                    self._actions.push(Resolve(host))
            for ip in addresses:
                self._destinations.protect(TransportAddress(ip, port))

    def _want_relays(self, now: float) -> None:
        if self._relays is None and self._turn:
            from edgeice.peer.relays import Relays  # noqa: PLC0415  # as above

            self._relays = Relays(self._turn, self._gathering, self._entropy)
            for base in self._bases.values():
                self._relays.base_added(base, now=now)
        if self._relays is not None:
            self._relays.acquire(now=now)

    def _relays_of(self, flow_id: int) -> Relays:
        if self._relays is None:
            raise LocalProtocolError(f"unknown flow {flow_id}")
        return self._relays

    def _add_base(self, base: Base, now: float) -> None:
        self._bases[base.address] = base
        self._gathered_told = False
        for session in self._sessions.values():
            session.base_added(base, now=now)
            self._touched.append(session)

    def _remove_base(self, address: TransportAddress, now: float) -> None:
        del self._bases[address]
        if self._log is not None:
            self._log.base_removed(address)
        for session in self._sessions.values():
            session.base_removed(address, now=now)
            self._touched.append(session)

    def _route(self, data: bytes, path: Path, now: float) -> PeerSession | None:
        owner = self._routes.by_path(path)
        if stun.is_stun(data):
            owner = self._route_stun(data, path, owner, now)
        elif owner is None:
            self.drops.count("unroutable" if classify(data) is Kind.DTLS else "unknown-kind")
        return None if owner is None else self._sessions.get(owner)

    def _route_stun(self, data: bytes, path: Path, owner: int | None, now: float) -> int | None:
        try:
            message = stun.decode(data)
        except DecodeError as error:
            self.drops.count(error.reason)
            return None
        if message.message_class in (stun.MessageClass.SUCCESS, stun.MessageClass.ERROR):
            if self._reflexive.receive(data, path, now=now):
                self._settle(now)
                return None
            asked = self._routes.by_request(message.transaction_id)
            found = owner if asked is None else asked
            if found is None:
                self.drops.count("unroutable")
            return found
        username = message.get(stun.Attribute.USERNAME)
        found = owner if username is None else self._routes.by_ufrag(username.partition(":")[0])
        if found is None:
            self.drops.count("unroutable")
            self._refuse(message, path, now)
        return found

    def _refusal_budget(self) -> stun.RefusalBudget:
        if self._refusals is None:
            ice = self._config.ice
            self._refusals = stun.RefusalBudget(
                overall=ice.error_replies_per_second, per_prefix=ice.error_replies_per_prefix
            )
        return self._refusals

    def _refuse(self, message: stun.Message, path: Path, now: float) -> None:
        """Answer a check for no session here (RFC 8489 §9.1.3), no larger than it is and at a bounded rate."""
        is_check = message.message_class is stun.MessageClass.REQUEST and message.method == stun.Method.BINDING
        if not is_check or not message.has_fingerprint or path.local not in self._bases:
            return  # RFC 8445 §7.3: what has no FINGERPRINT is no check
        named = message.has_integrity and message.get(stun.Attribute.USERNAME) is not None
        if not self._refusal_budget().take(path.remote, now):
            self.drops.count("refusal_rate")
        elif (answer := stun.error_response(message, 401 if named else 400)) is not None:
            self._actions.push(Transmit(path, answer))

    def _settle(self, now: float) -> None:
        """Tell the sessions what servers said."""
        learned = self._reflexive.take_learned()
        if self._relays is not None:
            learned += self._settle_relays(self._relays, now)
        for each in learned:
            for session in self._sessions.values():
                session.server_reflexive_learned(each.base, each.mapped, each.server, now=now)
                self._touched.append(session)
        told, self._gathered_told = self._gathered_told, self._is_gathered
        if self._gathered_told and not told:
            for session in self._sessions.values():
                session.gathering_finished(now=now)
                self._touched.append(session)

    @property
    def _is_gathered(self) -> bool:
        return self._reflexive.finished and (self._relays is None or self._relays.finished)

    def _settle_relays(self, relays: Relays, now: float) -> list[ServerReflexiveLearned]:
        """Take bases that came and went, then what came through them."""
        learned: list[ServerReflexiveLearned] = []
        while (change := relays.poll_change()) is not None:
            if isinstance(change, TransportAddress):
                self._remove_base(change, now)
            else:
                self._add_base(change, now)
                learned = relays.learned()
        while (came := relays.poll_delivery()) is not None:
            path, data = came
            session = self._route(data, path, now)
            if session is not None:
                self._deliveries.push(Delivery(session, path, data))
        while (path_lost := relays.poll_unreachable()) is not None:
            self.socket_error(path_lost, errno.EHOSTUNREACH, now=now)
        return learned
