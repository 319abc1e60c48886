"""The end of channels on which nothing passes any more."""

from __future__ import annotations

import trio

from edgeice.services.channel import Channel
from edgeice.services.control import ErrorCode, ServiceError

__all__ = ["WatchedChannel"]


class WatchedChannel:
    """A channel that cancels `scope`, which its service runs in, once no message passed either way for too long.

    Nothing wakes while messages pass, and a peer that takes nothing lets none pass.

    Args:
        channel: The channel.
        idle_time: How long, seconds.
    """

    def __init__(self, channel: Channel, idle_time: float) -> None:
        self._channel = channel
        self._idle_time = idle_time
        self.label = channel.label
        self.protocol = channel.protocol
        #: What the channel's service runs in.
        self.scope = trio.CancelScope(deadline=trio.current_time() + idle_time)

    def error(self) -> ServiceError:
        """What to tell the peer once the scope was canceled."""
        return ServiceError(ErrorCode.TIMEOUT, f"nothing passed for {self._idle_time:g} s")

    async def send(self, data: bytes | str, /) -> None:
        """See `Channel`."""
        await self._channel.send(data)
        self._moved()

    async def receive(self) -> bytes | str:
        """See `Channel`."""
        data = await self._channel.receive()
        self._moved()
        return data

    async def aclose(self) -> None:
        """See `Channel`."""
        await self._channel.aclose()

    def abort(self) -> None:
        """See `Channel`."""
        self._channel.abort()

    def _moved(self) -> None:
        self.scope.deadline = trio.current_time() + self._idle_time
