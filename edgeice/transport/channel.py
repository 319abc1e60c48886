"""A data channel with Trio's manners."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import trio

__all__ = ["ChannelPort", "DataChannel"]

#: `send` waits while more than this many bytes of a channel are unsent.
HIGH_WATER = 1 << 20


class ChannelPort(Protocol):
    """The session behind a channel, as the channel needs it."""

    def send(self, channel_id: int, data: bytes | str) -> None:
        """Queue a message."""

    def buffered_amount(self, channel_id: int) -> int:
        """Bytes queued and not sent yet."""

    def consumed(self, octets: int) -> None:
        """The application took so much of the receive window's memory."""

    def close(self, channel_id: int) -> None:
        """Close the channel when what is queued is out."""


class DataChannel:
    """One data channel: whole messages, text as `str` and binary as `bytes`.

    What the peer sent and nobody received yet counts against the receive window (`sctp.SctpConfig.receive_window`),
    which bounds the memory.  The window is the session's, not the channel's, as in every implementation of RFC 8831: a
    channel that is not read stops all channels of its session once the window is full, and they go on when it is read
    or closed.  A channel that the peer closed keeps what came before until that is read too, or `aclose` drops it.
    Services that share a session use credit on top (`edgeice.services.credit`).
    """

    def __init__(self, channel_id: int, label: str, protocol: str, port: ChannelPort) -> None:
        self.channel_id = channel_id
        self.label = label
        self.protocol = protocol
        self._port = port
        #: Messages with what each takes of the receive window, which bounds them.
        self._inbox: deque[tuple[bytes | str, int]] = deque()
        self._wake = trio.Event()
        self._drained = trio.Event()
        #: (reason, broken) once the channel is gone.
        self._ended: tuple[str, bool] | None = None
        self._closing = False

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._ended is not None or self._closing

    async def send(self, data: bytes | str) -> None:
        """Queue one message; waits while much is buffered.

        Raises:
            trio.ClosedResourceError: This side closed the channel.
            trio.BrokenResourceError: The channel or its session is gone.
        """
        await trio.lowlevel.checkpoint()
        self._check()
        while self._port.buffered_amount(self.channel_id) > HIGH_WATER:
            self._drained = trio.Event()
            await self._drained.wait()
            self._check()
        self._port.send(self.channel_id, data)

    def send_nowait(self, data: bytes | str) -> None:
        """Queue one message without waiting; raises as `send` does."""
        self._check()
        self._port.send(self.channel_id, data)

    async def receive(self) -> bytes | str:
        """The next message.

        Raises:
            trio.EndOfChannel: The peer closed the channel, or either side its session in order, and everything that
                came before was received.
            trio.ClosedResourceError: This side closed the channel.
            trio.BrokenResourceError: The session broke, or the peer misused the channel; says why.
        """
        await trio.lowlevel.checkpoint()
        while not self._inbox:
            if self._closing:
                raise trio.ClosedResourceError
            if self._ended is not None:
                reason, broken = self._ended
                raise trio.BrokenResourceError(reason) if broken else trio.EndOfChannel
            self._wake = trio.Event()
            await self._wake.wait()
        data, charge = self._inbox.popleft()
        self._port.consumed(charge)
        return data

    def __aiter__(self) -> DataChannel:
        return self

    async def __anext__(self) -> bytes | str:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """Close the channel: what was sent before still goes out, what was not received yet is dropped.

        Does nothing on a closed one.
        """
        self.abort()
        await trio.lowlevel.checkpoint()

    async def wait_closed(self) -> None:
        """Wait, on a channel that this side closed, until the peer closed it too, or the session is gone."""
        await trio.lowlevel.checkpoint()
        while self._ended is None:
            if self._drained.is_set():
                self._drained = trio.Event()
            await self._drained.wait()

    def abort(self) -> None:
        """Close without a checkpoint, as `aclose` does."""
        if self._closing:
            return
        self._closing = True
        if self._ended is None:
            self._port.close(self.channel_id)
        dropped = sum(charge for _, charge in self._inbox)
        self._inbox.clear()
        self._port.consumed(dropped)
        self._wake.set()
        self._drained.set()

    # From the connection

    def deliver(self, data: bytes | str, charge: int) -> None:
        """A message came that takes `charge` bytes of the receive window."""
        if self._closing:
            self._port.consumed(charge)
            return
        self._inbox.append((data, charge))
        self._wake.set()

    def drained(self) -> None:
        """Little is buffered now."""
        self._drained.set()

    def ended(self, reason: str, *, broken: bool) -> None:
        """The channel is gone."""
        if self._ended is None:
            self._ended = (reason, broken)
        self._wake.set()
        self._drained.set()

    # Inside

    def _check(self) -> None:
        if self._closing:
            raise trio.ClosedResourceError
        if self._ended is not None:
            raise trio.BrokenResourceError(self._ended[0])
