"""ICE alone with Trio's manners: datagrams over the best candidate pair, secured by whoever uses it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

import trio

from edgeice.ice import IceCredentials, RemoteParameters
from edgeice.net import Driver
from edgeice.peer import (
    CandidateGathered,
    CandidatesEnded,
    ConnectionEnded,
    ConnectionState,
    DatagramReceived,
    Endpoint,
    IceConnection,
    PathChanged,
)
from edgeice.sansio import Event
from edgeice.transport.peer import ConnectionFailedError

__all__ = ["IceTransport"]

#: Datagrams kept for a reader that is slow; newer ones are dropped, as on a network.
RECEIVE_LIMIT = 1024
#: Candidates that nobody took yet: interfaces that come and go for long may not fill the memory; newer ones are lost.
CANDIDATES_LIMIT = 1024


class IceTransport:
    """A session of plain datagrams.  Made by `Node.ice_transport`.

    Give the peer `ufrag`, `pwd` and what `candidates` yields (an empty string is the last), by a signaling of your
    own; call `set_remote` and `add_candidate` with the peer's; then `wait_connected`, `send`, `receive`.
    """

    def __init__(
        self, connection: IceConnection, endpoint: Endpoint, driver: Driver, watch: Callable[[PathChanged], None]
    ) -> None:
        self._connection = connection
        self._endpoint = endpoint
        self._driver = driver
        self._watch = watch
        self._remote_ufrag = ""
        self._candidates_send, self.candidates = trio.open_memory_channel[str](CANDIDATES_LIMIT)
        self._received_send, self._received = trio.open_memory_channel[bytes](RECEIVE_LIMIT)
        self._connected = trio.Event()
        self._ended: ConnectionEnded | None = None
        driver.attach(connection, self._on_event)
        lines, ended = connection.local_candidates(now=trio.current_time())
        for line in lines:
            self._announce(line)
        if ended:
            self._announce("")

    @property
    def ufrag(self) -> str:
        """This side's username fragment."""
        return self._connection.credentials.ufrag

    @property
    def pwd(self) -> str:
        """This side's password."""
        return self._connection.credentials.pwd

    @property
    def path(self) -> PathChanged:
        """The candidate pair that carries data."""
        return self._connection.pathways.current

    def candidates_so_far(self) -> list[str]:
        """Candidate lines that nobody took from `candidates` yet, without waiting for more."""
        lines: list[str] = []
        with contextlib.suppress(trio.WouldBlock):
            while True:
                lines.append(self.candidates.receive_nowait())
        return lines

    def set_remote(
        self,
        ufrag: str,
        pwd: str,
        candidates: Iterable[str] = (),
        *,
        lite: bool = False,
        pacing: float | None = None,
    ) -> None:
        """Take the peer's credentials and what it announces; raises DecodeError for credentials that are none.

        Args:
            ufrag: The peer's username fragment.
            pwd: Its password.
            candidates: Lines of those that came with these; of the pairs that they make the best are checked first.
            lite: It only answers checks (RFC 8445 §2.5).
            pacing: Its Ta in seconds, if it announces one; without, checks go 50 ms apart (RFC 8445 §14.2).
        """
        self._remote_ufrag = ufrag
        parameters = RemoteParameters(credentials=IceCredentials.parse(ufrag, pwd), lite=lite, pacing=pacing)
        self._connection.set_remote(parameters, candidates, now=trio.current_time())
        self._touch()

    def add_candidate(self, line: str) -> None:
        """Take a candidate line of the peer; an empty one is the last.  What cannot be used is ignored."""
        if line:
            self._connection.add_remote_candidate(line, self._remote_ufrag, now=trio.current_time())
        else:
            self._connection.end_of_candidates(self._remote_ufrag, now=trio.current_time())
        self._touch()

    async def wait_connected(self) -> None:
        """Wait for a path; raises ConnectionFailedError if there is none.

        That there is none is known only once the peer's last candidate was added (the empty string, RFC 8838 §14):
        bound the wait (`trio.fail_after`) where a peer may never say so.
        """
        await self._connected.wait()
        if self._ended is not None:
            raise ConnectionFailedError(self._ended)

    async def send(self, data: bytes) -> None:
        """Send one datagram, which may be lost.

        Raises trio.ClosedResourceError after the end and LocalProtocolError while no path carries data.
        """
        await trio.lowlevel.checkpoint()
        if self._ended is not None:
            raise trio.ClosedResourceError
        self._connection.send(data)
        self._touch()

    async def receive(self) -> bytes:
        """The next datagram; raises trio.EndOfChannel after the end."""
        return await self._received.receive()

    def close(self) -> None:
        """End the session."""
        self._connection.close(now=trio.current_time())
        self._touch()

    def _touch(self) -> None:
        self._driver.touch(self._connection)

    def _on_event(self, event: Event) -> None:
        match event:
            case DatagramReceived():
                # At the bound the newest is lost, as a full socket buffer would lose it.
                with contextlib.suppress(trio.WouldBlock):
                    self._received_send.send_nowait(event.data)
            case CandidateGathered():
                self._announce(event.candidate)
            case CandidatesEnded():
                self._announce("")
            case ConnectionEnded():
                self._end(event)
            case _:
                if isinstance(event, PathChanged):
                    self._watch(event)
                if self._connection.state is ConnectionState.CONNECTED:
                    self._connected.set()

    def _announce(self, line: str) -> None:
        with contextlib.suppress(trio.WouldBlock):
            self._candidates_send.send_nowait(line)

    def _end(self, event: ConnectionEnded) -> None:
        self._ended = event
        self._candidates_send.close()
        self._received_send.close()
        self._endpoint.release(self._connection, now=trio.current_time())
        self._driver.detach(self._connection)
        self._connected.set()
