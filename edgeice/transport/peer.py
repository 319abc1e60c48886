"""A peer connection with Trio's manners: descriptions and candidates in and out, data channels to use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from edgeice import sctp
from edgeice.errors import EdgeIceError
from edgeice.net import Driver
from edgeice.peer import (
    CandidateGathered,
    CandidatesEnded,
    CandidateWithdrawn,
    ConnectionEnded,
    ConnectionState,
    Endpoint,
    PathChanged,
    PathMoved,
    RestartEnded,
    StateChanged,
)
from edgeice.sansio import Event
from edgeice.transport.channel import DataChannel

if TYPE_CHECKING:
    from edgeice.peer import Connection

__all__ = ["ConnectionFailedError", "PeerConnection", "Progress"]

#: What a watcher of a connection hears.
Progress: TypeAlias = (
    CandidateGathered | CandidateWithdrawn | CandidatesEnded | StateChanged | PathChanged | PathMoved | RestartEnded
)

#: Channels that the peer opened and nobody accepted yet; further ones are closed at once.
INCOMING_LIMIT = 64


class ConnectionFailedError(EdgeIceError):
    """A session did not come to be, or ended.

    Attributes:
        step: "ice", "dtls", "sctp" or "closed".
        verdict: What was tried, for a machine to read.
    """

    def __init__(self, ended: ConnectionEnded) -> None:
        super().__init__(f"{ended.step}: {ended.reason}")
        self.step = ended.step
        self.reason = ended.reason
        self.verdict: Mapping[str, object] = ended.verdict


@attrs.define
class _Port:
    """Brings a channel's wishes to its connection."""

    connection: Connection
    driver: Driver

    def send(self, channel_id: int, data: bytes | str) -> None:
        now = trio.current_time()
        self.connection.channels.send(channel_id, data, now=now)
        self._flush(now)

    def buffered_amount(self, channel_id: int) -> int:
        return self.connection.channels.buffered_amount(channel_id)

    def consumed(self, octets: int) -> None:
        if self.connection.state is not ConnectionState.CLOSED:
            now = trio.current_time()
            if self.connection.channels.consumed(octets, now=now):
                self._flush(now)

    def close(self, channel_id: int) -> None:
        if self.connection.state is not ConnectionState.CLOSED:
            now = trio.current_time()
            self.connection.channels.close_channel(channel_id, now=now)
            self._flush(now)

    def _flush(self, now: float) -> None:
        self.connection.flush(now=now)
        self.driver.touch(self.connection)


class PeerConnection:
    """One session with a peer.  Made by `Node.connection`; close it with `aclose` or `abort`.

    All methods but those marked `async` act at once.  They raise DecodeError for a broken description,
    RemoteProtocolError for one that a running session must refuse, LocalProtocolError when called out of turn.

    Args:
        connection: The machine.
        endpoint: Where it is registered.
        driver: What moves its bytes.
        watch: Hears everything that a person might want to see while it connects.
        on_failure: Told of a bug that ended the session; without it, such a bug ends the node.
    """

    def __init__(
        self,
        connection: Connection,
        endpoint: Endpoint,
        driver: Driver,
        watch: Callable[[Progress], None],
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        self._connection = connection
        self._endpoint = endpoint
        self._driver = driver
        self._watch = watch
        self._port = _Port(connection, driver)
        self._channels: dict[int, DataChannel] = {}
        self._incoming_send, self.incoming = trio.open_memory_channel[DataChannel](INCOMING_LIMIT)
        self._connected = trio.Event()
        self._closed = trio.Event()
        self._ended: ConnectionEnded | None = None
        self._on_failure = on_failure
        driver.attach(connection, self._on_event, None if on_failure is None else self._fail)

    # Description and candidates

    def create_offer(self) -> str:
        """The description that opens the session."""
        offer = self._connection.create_offer(now=trio.current_time())
        self._touch()
        return offer

    def accept_offer(self, text: str) -> str:
        """Take the peer's offer, the first or an ICE restart, and give the answer."""
        answer = self._connection.accept_offer(text, now=trio.current_time())
        self._touch()
        return answer

    def accept_answer(self, text: str) -> None:
        """Take the peer's answer."""
        self._connection.accept_answer(text, now=trio.current_time())
        self._touch()

    def restart(self) -> str:
        """Begin an ICE restart beside the working path; gives the offer for it."""
        offer = self._connection.restart(now=trio.current_time())
        self._touch()
        return offer

    def rollback(self) -> None:
        """Take the restart's offer back."""
        self._connection.rollback(now=trio.current_time())
        self._touch()

    def add_candidate(self, line: str, ufrag: str) -> None:
        """Take a candidate line of the peer."""
        self._connection.add_remote_candidate(line, ufrag, now=trio.current_time())
        self._touch()

    def remove_candidate(self, line: str, ufrag: str) -> None:
        """Take back a candidate line of the peer, which withdrew it."""
        self._connection.remove_remote_candidate(line, ufrag, now=trio.current_time())
        self._touch()

    def end_of_candidates(self, ufrag: str) -> None:
        """The peer has no more candidates."""
        self._connection.end_of_candidates(ufrag, now=trio.current_time())
        self._touch()

    # State

    @property
    def ufrag(self) -> str:
        """The local ufrag of the newest generation."""
        return self._connection.ufrag

    @property
    def mobility(self) -> bool:
        """Whether both ends move data from pair to pair by themselves (`edgeice-mobility`)."""
        return self._connection.mobility

    @property
    def state(self) -> ConnectionState:
        """Where the session stands."""
        return self._connection.state

    @property
    def awaits_answer(self) -> bool:
        """Whether an offer is out."""
        return self._connection.awaits_answer

    @property
    def path(self) -> PathChanged:
        """The candidate pair that carries data."""
        return self._connection.pathways.current

    @property
    def heard_at(self) -> float:
        """When the peer was last heard, on Trio's clock."""
        return self._connection.heard_at

    @property
    def remote_fingerprints(self) -> tuple[tuple[str, str], ...]:
        """The peer's DTLS fingerprints."""
        return self._connection.remote_fingerprints

    @property
    def ended(self) -> ConnectionEnded | None:
        """Why the session is over, None while it is not."""
        return self._ended

    @property
    def path_used(self) -> PathChanged:
        """The pair that carries data, or carried it last."""
        return self._connection.pathways.last

    @property
    def session_id(self) -> int:
        """What tells the session from others of this process, in its trace too."""
        return self._connection.session_id

    def verdict(self) -> Mapping[str, object]:
        """What was tried and what became of it so far, or when the session ended: see `edgeice.peer.verdict`."""
        if self._ended is None:
            return self._connection.verdict(now=trio.current_time())
        # One that a bug ended has none.
        return self._ended.verdict or {"outcome": "failed", "step": self._ended.step, "reason": self._ended.reason}

    def drops(self) -> dict[str, int]:
        """Input that was dropped, by reason."""
        return self._connection.drop_counts()

    async def wait_connected(self) -> None:
        """Wait until data channels work; raises ConnectionFailedError if they never will."""
        await self._connected.wait()
        if self._ended is not None:
            raise ConnectionFailedError(self._ended)

    async def wait_closed(self) -> ConnectionEnded:
        """Wait for the end."""
        await self._closed.wait()
        assert self._ended is not None
        return self._ended

    # Channels

    async def open_channel(self, protocol: str = "", label: str = "", **options: bool | int | None) -> DataChannel:
        """Open a data channel, usable at once; waits for the session to be connected.

        Args:
            protocol: What it is for (RFC 8832 §5.1).
            label: Its name.
            **options: `ordered`, `max_retransmits`, `max_lifetime` (ms), as `sctp.DataChannels.open` takes them.
        """
        await self.wait_connected()
        now = trio.current_time()
        channel_id = self._connection.channels.open(label, protocol, now=now, **options)  # type: ignore[arg-type]
        channel = self._channels[channel_id] = DataChannel(channel_id, label, protocol, self._port)
        self._connection.flush(now=now)
        self._touch()
        return channel

    # End

    def abort(self) -> None:
        """End the session at once; the peer is told by SCTP and DTLS."""
        if self._ended is not None:
            return
        self._connection.close(now=trio.current_time())
        self._touch()

    async def aclose(self) -> None:
        """End the session as `abort` does."""
        self.abort()
        await trio.lowlevel.checkpoint()

    # Inside

    def _touch(self) -> None:
        self._driver.touch(self._connection)

    def _on_event(self, event: Event) -> None:
        match event:
            case sctp.MessageReceived():
                channel = self._channels.get(event.channel_id)
                if channel is not None:
                    channel.deliver(event.data, event.charge)
                else:
                    self._port.consumed(event.charge)
            case sctp.BufferedAmountLow():
                channel = self._channels.get(event.channel_id)
                if channel is not None:
                    channel.drained()
            case sctp.ChannelOpened() | sctp.ChannelClosed():
                self._on_channel(event)
            case ConnectionEnded():
                self._end(event)
            case (
                StateChanged()
                | PathChanged()
                | PathMoved()
                | CandidateGathered()
                | CandidateWithdrawn()
                | CandidatesEnded()
                | RestartEnded()
            ):
                if self._connection.state is ConnectionState.CONNECTED:
                    self._connected.set()
                self._watch(event)
            case _:
                pass  # the association's own events: the connection's state says it

    def _on_channel(self, event: sctp.ChannelOpened | sctp.ChannelClosed) -> None:
        if isinstance(event, sctp.ChannelClosed):
            channel = self._channels.pop(event.channel_id, None)
            if channel is not None:
                channel.ended(event.reason, broken=event.broken)
        elif event.incoming:
            self._take_incoming(event)

    def _take_incoming(self, event: sctp.ChannelOpened) -> None:
        channel = DataChannel(event.channel_id, event.label, event.protocol, self._port)
        self._channels[event.channel_id] = channel
        try:
            self._incoming_send.send_nowait(channel)
        except trio.WouldBlock:
            channel.abort()

    def _fail(self, error: Exception) -> None:
        """The machine raised: it cannot be used any more, not even to say so."""
        assert self._on_failure is not None
        self._end(ConnectionEnded("defect", "this side failed"))
        self._on_failure(error)

    def _end(self, event: ConnectionEnded) -> None:
        self._ended = event
        for channel in self._channels.values():
            channel.ended(event.reason, broken=event.broken)
        self._channels.clear()
        self._incoming_send.close()
        self._endpoint.release(self._connection, now=trio.current_time())
        self._driver.detach(self._connection)
        self._connected.set()
        self._closed.set()
