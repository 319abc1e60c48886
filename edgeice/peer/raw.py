"""A session without DTLS: datagrams over the best candidate pair, as they are (RFC 8445 §12)."""

from __future__ import annotations

from collections import deque

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.errors import LocalProtocolError
from edgeice.ice import IceCredentials, RemoteParameters
from edgeice.peer.events import ConnectionEnded, ConnectionState, DatagramReceived, StateChanged
from edgeice.peer.link import IceLink
from edgeice.peer.pathways import Pathways
from edgeice.sansio import Action, BoundedQueue, Event

__all__ = ["IceConnection"]

#: Datagrams kept for an owner that does not poll; the oldest goes first, as on a network.
RECEIVE_LIMIT = 1024


class IceConnection:
    """ICE alone, for those who bring their own security.

    Credentials and candidates travel by the caller's own signaling.

    Args:
        session_id: The session's key in the Endpoint.
        link: Its ICE session and routes.
    """

    def __init__(self, session_id: int, link: IceLink) -> None:
        self.session_id = session_id
        self._link = link
        self._events: deque[Event] = deque()
        self._datagrams: BoundedQueue[DatagramReceived] = BoundedQueue(RECEIVE_LIMIT, "drop_oldest")
        self._pathways = Pathways(link, self._events.append)
        self._state = ConnectionState.NEW

    @property
    def state(self) -> ConnectionState:
        """NEW, CHECKING, CONNECTED, INTERRUPTED or CLOSED."""
        return self._state

    @property
    def pathways(self) -> Pathways:
        """The candidate pair in use."""
        return self._pathways

    @property
    def credentials(self) -> IceCredentials:
        """The newest generation's ufrag and pwd."""
        return self._link.ice.local_credentials

    def local_candidates(self, *, now: float) -> tuple[tuple[str, ...], bool]:
        """Candidate lines so far, and whether they are all; later ones become events."""
        self._pump(now)
        return self._pathways.describe(self.credentials.ufrag)

    def set_remote(self, parameters: RemoteParameters, *, now: float) -> None:
        """Take the peer's credentials."""
        self._link.ice.set_remote_description(parameters, now=now)
        if self._state is ConnectionState.NEW:
            self._set_state(ConnectionState.CHECKING)
        self._pump(now)

    def add_remote_candidate(self, line: str, ufrag: str, *, now: float) -> None:
        """Take a candidate line of the peer."""
        self._link.add_remote_candidate(line, ufrag, now=now)
        self._pump(now)

    def end_of_candidates(self, ufrag: str, *, now: float) -> None:
        """The peer has no more candidates."""
        self._link.ice.end_of_remote_candidates(ufrag=ufrag, now=now)
        self._pump(now)

    def restart(self, *, now: float) -> IceCredentials:
        """Open a new generation beside the working one."""
        credentials = self._link.ice.restart(now=now)
        self._link.rebind()
        self._pump(now)
        return credentials

    def send(self, data: bytes) -> None:
        """Send a datagram; raises LocalProtocolError while no path carries data."""
        if self._link.ice.send_path is None:
            raise LocalProtocolError(f"no path carries data while {self._state.value}")
        self._link.send(data)

    def close(self, *, now: float) -> None:
        """End the session."""
        self._end(ConnectionEnded("closed", "closed here"), now)

    def base_added(self, base: Base, *, now: float) -> None:
        """A base can be used."""
        self._link.ice.base_added(base, now=now)
        self._pump(now)

    def base_removed(self, address: TransportAddress, *, now: float) -> None:
        """A base is gone."""
        self._link.ice.base_removed(address, now=now)
        self._pump(now)

    def server_reflexive_learned(
        self, base: TransportAddress, mapped: TransportAddress, server: TransportAddress, *, now: float
    ) -> None:
        """A STUN server sees `base` as `mapped`."""
        self._link.ice.add_server_reflexive(base, mapped, server, now=now)
        self._pump(now)

    def gathering_finished(self, *, now: float) -> None:
        """No more local candidates will come of their own."""
        self._link.ice.end_of_local_candidates(now=now)
        self._pump(now)

    def receive_datagram(self, data: bytes, path: Path, *, now: float) -> None:
        """Take a datagram that the endpoint routed here."""
        if self._link.receive(data, path, now=now):
            self._datagrams.push(DatagramReceived(data))
        else:
            self._pump(now)

    def handle_timeout(self, *, now: float) -> None:
        """Act on every deadline that has come."""
        if self._state is not ConnectionState.CLOSED:
            self._link.ice.handle_timeout(now=now)
            self._pump(now)

    def next_timeout(self) -> float | None:
        """The earliest deadline."""
        return None if self._state is ConnectionState.CLOSED else self._link.ice.next_timeout()

    def poll_action(self) -> Action | None:
        """The next datagram to send."""
        return self._link.poll_action()

    def poll_event(self) -> Event | None:
        """The next thing that the owner should know."""
        if self._events:
            return self._events.popleft()
        return self._datagrams.pop()

    def _pump(self, now: float) -> None:
        if self._state is ConnectionState.CLOSED:
            return
        if self._pathways.take_events():
            self._link.release()
            has_path = self._link.ice.send_path is not None
            self._set_state(ConnectionState.CONNECTED if has_path else ConnectionState.INTERRUPTED)
        if self._pathways.failure is not None and self._state is ConnectionState.CHECKING:
            self._end(self._pathways.failure, now)

    def _end(self, ended: ConnectionEnded, now: float) -> None:
        if self._state is not ConnectionState.CLOSED:
            self._set_state(ConnectionState.CLOSED)
            self._link.close(now=now)
            self._events.append(ended)

    def _set_state(self, state: ConnectionState) -> None:
        if state is not self._state:
            self._state = state
            self._events.append(StateChanged(state))
