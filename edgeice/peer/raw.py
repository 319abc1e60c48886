"""A session without DTLS: datagrams over the best candidate pair, as they are (RFC 8445 §12)."""

from __future__ import annotations

from collections.abc import Iterable

from edgeice.addresses import Path
from edgeice.errors import LocalProtocolError
from edgeice.ice import IceCredentials, RemoteParameters
from edgeice.peer.events import ConnectionState, DatagramReceived
from edgeice.peer.link import IceLink
from edgeice.peer.session import PeerSession
from edgeice.sansio import BoundedQueue, Event

__all__ = ["IceConnection"]

#: Datagrams kept for an owner that does not poll; the oldest goes first, as on a network.
RECEIVE_LIMIT = 1024


class IceConnection(PeerSession):
    """ICE alone, for those who bring their own security; `state` is never SECURING.

    Credentials and candidates travel by the caller's own signaling.

    Args:
        session_id: The session's key in the Endpoint.
        link: Its ICE session and routes.
        now: Present time.
    """

    def __init__(self, session_id: int, link: IceLink, *, now: float) -> None:
        super().__init__(session_id, link, now=now)
        self._datagrams: BoundedQueue[DatagramReceived] = BoundedQueue(RECEIVE_LIMIT, "drop_oldest")

    @property
    def credentials(self) -> IceCredentials:
        """The newest generation's ufrag and pwd."""
        return self._link.ice.local_credentials

    def local_candidates(self, *, now: float) -> tuple[tuple[str, ...], bool]:
        """Candidate lines so far, and whether they are all; later ones become events."""
        self._pump(now)
        return self._pathways.describe(self.credentials.ufrag)

    def set_remote(self, parameters: RemoteParameters, candidates: Iterable[str] = (), *, now: float) -> None:
        """Take the peer's credentials and the candidate lines that came with them; the best pairs are checked first."""
        self._link.ice.set_remote_description(parameters, now=now)
        self._link.add_remote_candidates(candidates, parameters.credentials.ufrag, now=now)
        if self._state is ConnectionState.NEW:
            self._set_state(ConnectionState.CHECKING, now)
        self._pump(now)

    def restart(self, *, now: float) -> IceCredentials:
        """Open a new generation beside the working one."""
        credentials = self._link.restart(now=now)
        self._pump(now)
        return credentials

    def send(self, data: bytes) -> None:
        """Send a datagram; raises LocalProtocolError while no path carries data."""
        if self._link.ice.send_path is None:
            raise LocalProtocolError(f"no path carries data while {self._state.value}")
        self._link.send(data)

    def receive_datagram(self, data: bytes, path: Path, *, now: float) -> None:
        """Take a datagram that the endpoint routed here."""
        if self._link.receive(data, path, now=now):
            self._datagrams.push(DatagramReceived(data))

    def poll_event(self) -> Event | None:
        """The next thing that the owner should know; datagrams come last."""
        return super().poll_event() or self._datagrams.pop()

    def _pump(self, now: float) -> None:
        if self._state is ConnectionState.CLOSED:
            return
        self._pathways.take_events(now=now)
        if self._pathways.take_move() is not None:
            self._link.release()
            has_path = self._link.ice.send_path is not None
            self._set_state(ConnectionState.CONNECTED if has_path else ConnectionState.INTERRUPTED, now)
        if self._pathways.failure is not None and self._state is ConnectionState.CHECKING:
            self._end(self._pathways.failure, now)
