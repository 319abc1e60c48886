"""Two ends of a data channel in memory: ordered, bounded in bytes, closed or broken on demand."""

from __future__ import annotations

from collections import deque

import trio

__all__ = ["MemoryChannel", "channel_pair", "drain"]


class MemoryChannel:
    """One end.  `sent` logs what this end sent if asked to; `high_water` is the most that was ever under way."""

    def __init__(self, protocol: str, label: str, limit: int, log: bool) -> None:
        self.protocol = protocol
        self.label = label
        self.sent: list[bytes | str] | None = [] if log else None
        self.high_water = 0
        self.peer: MemoryChannel = self
        #: The other end's close is heard at once.
        self.acknowledges = True
        self._limit = limit
        self._arrived: deque[bytes | str] = deque()
        self._buffered = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._closed = False
        self._peer_closed = False
        self._broken = False

    async def send(self, data: bytes | str) -> None:
        """See `edgeice.services.channel.Channel`."""
        await trio.lowlevel.checkpoint()
        peer = self.peer
        while peer._buffered > 0 and peer._buffered + len(data) > self._limit and not self._gone:
            await peer._changed.park()
        if self._broken or self._peer_closed:
            raise trio.BrokenResourceError
        if self._closed:
            raise trio.ClosedResourceError
        peer._arrived.append(data)
        peer._buffered += len(data)
        peer.high_water = max(peer.high_water, peer._buffered)
        peer._changed.unpark_all()
        if self.sent is not None:
            self.sent.append(data)

    async def receive(self) -> bytes | str:
        """See `edgeice.services.channel.Channel`."""
        await trio.lowlevel.checkpoint()
        while not self._arrived and not self._gone:
            await self._changed.park()
        if self._broken:
            raise trio.BrokenResourceError
        if self._closed:
            raise trio.ClosedResourceError
        if not self._arrived:
            raise trio.EndOfChannel
        data = self._arrived.popleft()
        self._buffered -= len(data)
        self._changed.unpark_all()
        return data

    async def aclose(self) -> None:
        """See `edgeice.services.channel.Channel`."""
        self._end()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """See `edgeice.services.channel.Channel`."""
        self._end()

    def break_session(self) -> None:
        """Both ends lose the session at once."""
        for end in (self, self.peer):
            end._broken = True
            end._changed.unpark_all()

    @property
    def closed(self) -> bool:
        """See `edgeice.services.channel.ServedChannel`."""
        return self._gone

    async def wait_closed(self) -> None:
        """See `edgeice.transport.DataChannel`."""
        await trio.lowlevel.checkpoint()
        while not self.peer.acknowledges and not self._broken:
            await self._changed.park()

    async def wait_peer_closed(self) -> None:
        """Wait until the other end closes, whatever was not received yet."""
        while not self._peer_closed:
            await self._changed.park()

    def acknowledge(self) -> None:
        """Let the other end know that its close was heard, where `acknowledges` was false."""
        self.acknowledges = True
        self.peer._changed.unpark_all()

    @property
    def _gone(self) -> bool:
        return self._closed or self._peer_closed or self._broken

    def _end(self) -> None:
        self._closed = True
        self.peer._peer_closed = True
        for end in (self, self.peer):
            end._changed.unpark_all()


def channel_pair(protocol: str, *, limit: int = 64 * 1024, log: bool = False) -> tuple[MemoryChannel, MemoryChannel]:
    """The operator's and the device's end; at most `limit` bytes are under way each way, `log` keeps what was sent."""
    operator, device = (MemoryChannel(protocol, "test", limit, log) for _ in range(2))
    operator.peer, device.peer = device, operator
    return operator, device


async def drain(channel: MemoryChannel) -> list[bytes | str]:
    """All messages until the other end closes; fails after 5 s."""
    messages = []
    with trio.fail_after(5):
        while True:
            try:
                messages.append(await channel.receive())
            except trio.EndOfChannel:
                return messages
