"""What a service needs of a data channel, and the sizes that bound its messages."""

from __future__ import annotations

from typing import Protocol

__all__ = ["MAX_BINARY", "MAX_CONTROL", "Channel", "ServedChannel"]

#: Largest binary message that any service sends or takes, bytes.
MAX_BINARY = 16 * 1024
#: Largest control message, bytes of UTF-8.
MAX_CONTROL = 16 * 1024


class Channel(Protocol):
    """One ordered, reliable data channel: text messages are `str`, binary messages `bytes`.

    `send` may be called by several tasks, `receive` by one at a time.
    """

    @property
    def label(self) -> str:
        """The name that whoever opened the channel gave it."""

    @property
    def protocol(self) -> str:
        """The service that it is for, such as `edgeice.shell.1` (RFC 8832 §5.1)."""

    async def send(self, data: bytes | str, /) -> None:
        """Queue one message; waits while too much is buffered.

        Raises:
            trio.ClosedResourceError: this side closed the channel.
            trio.BrokenResourceError: the channel or its session is gone.
        """

    async def receive(self) -> bytes | str:
        """The next message.

        Raises:
            trio.EndOfChannel: the peer closed the channel and everything before that was received.
            trio.ClosedResourceError: this side closed the channel.
            trio.BrokenResourceError: the session broke.
        """

    async def aclose(self) -> None:
        """Send what is queued, then close; does nothing on a closed channel."""

    def abort(self) -> None:
        """Close at once and drop what is queued; does nothing on a closed channel."""


class ServedChannel(Channel, Protocol):
    """A channel as the session has it that serves it."""

    @property
    def closed(self) -> bool:
        """Whether either side closed it, although what came before may not be received yet."""
