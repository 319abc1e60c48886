"""One channel of a shared session between its client and the device: messages pass both ways, unchanged.

What either end sends is taken at once, into a buffer of bounded size which ends that heed their credit never fill
(see `edgeice.services.credit`).  So a stalled channel stalls no other of the session, and a client that dies is noticed
whatever its channel waits for.  A client that closes says so with its last frame, and what it sent before still goes
out; one that is gone without it was ended in the midst of something, and its channel ends at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from edgeice.errors import EdgeIceError
from edgeice.operator.shared_frames import CLOSE, FrameSocket, Kind, as_control, as_message
from edgeice.sansio import DropCounter
from edgeice.services.channel import Channel
from edgeice.services.control import command
from edgeice.services.credit import INITIAL_CREDIT

__all__ = ["Relay"]

#: Most that waits in one direction, bytes: the credit, and room for messages that need none.
_LIMIT: Final = 2 * INITIAL_CREDIT
#: What a message takes of that beside its bytes.
_MESSAGE_COST: Final = 64

_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class _Buffer:
    """Messages on their way in one direction."""

    def __init__(self) -> None:
        self._messages: deque[tuple[Kind, bytes]] = deque()
        self._size = 0
        self._ended = False
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def is_full(self) -> bool:
        return self._size > _LIMIT

    def put(self, kind: Kind, payload: bytes) -> None:
        self._messages.append((kind, payload))
        self._size += len(payload) + _MESSAGE_COST
        self._changed.unpark_all()

    def end(self) -> None:
        """Nothing follows."""
        self._ended = True
        self._changed.unpark_all()

    def clear(self) -> None:
        self._messages.clear()
        self._size = 0

    async def wait_room(self) -> None:
        while self.is_full:
            await self._changed.park()

    async def get(self) -> tuple[Kind, bytes] | None:
        """The next message, None at the end."""
        while not self._messages and not self._ended:
            await self._changed.park()
        if not self._messages:
            return None
        kind, payload = self._messages.popleft()
        self._size -= len(payload) + _MESSAGE_COST
        self._changed.unpark_all()
        return kind, payload


class Relay:
    """Carries the messages of one channel.

    Args:
        frames: The connection to its client.
        channel: The channel.
        drops: Counts what clients do and should not.
    """

    def __init__(self, frames: FrameSocket, channel: Channel, drops: DropCounter) -> None:
        self._frames = frames
        self._channel = channel
        self._drops = drops
        self._to_channel = _Buffer()
        self._to_client = _Buffer()
        self._scope = trio.CancelScope()
        #: The client closed; what it sent may still be under way.
        self._closed = False
        #: Nobody takes what the device sends.
        self._unheard = False
        #: The last frame, once the channel is over.
        self._ended: dict[str, object] | None = None

    async def run(self, ending: Callable[[], Awaitable[str]]) -> None:
        """Carry until either end closes, or until `ending` returns why all has to end."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_client)
                nursery.start_soon(self._write_channel)
                nursery.start_soon(self._read_channel)
                nursery.start_soon(self._write_client)
                self._finish(await ending(), broken=True)

    async def _read_client(self) -> None:
        try:
            while (frame := await self._frames.receive()) is not None:
                kind, payload = frame
                if kind is Kind.CONTROL:
                    command(as_control(payload), (CLOSE,))
                    self._closed = True
                    self._to_channel.end()
                    return
                if kind is Kind.TEXT:
                    as_message(payload)
                self._to_channel.put(kind, payload)
                await self._to_channel.wait_room()
        except EdgeIceError:  # no frame, or none that belongs here
            self._drops.count("garbage")
        except trio.ClosedResourceError:
            return
        self._scope.cancel()

    async def _write_channel(self) -> None:
        try:
            while (message := await self._to_channel.get()) is not None:
                kind, payload = message
                await self._channel.send(payload.decode() if kind is Kind.TEXT else payload)
        except EdgeIceError:  # no message that the channel takes
            self._drops.count("garbage")
        except _GONE:
            return  # whoever reads from it tells why
        self._scope.cancel()

    async def _read_channel(self) -> None:
        try:
            while not self._to_client.is_full:
                message = await self._channel.receive()
                if self._unheard:
                    continue
                if isinstance(message, str):
                    self._to_client.put(Kind.TEXT, message.encode())
                else:
                    self._to_client.put(Kind.BINARY, message)
        except trio.EndOfChannel:
            self._finish("", broken=False)
        except _GONE as error:
            self._finish(str(error), broken=True)
        else:
            self._to_client.clear()
            self._channel.abort()
            self._drops.count("stalled")
            self._finish("too much came that was not read", broken=True)

    async def _write_client(self) -> None:
        try:
            while (message := await self._to_client.get()) is not None:
                await self._frames.send(*message)
            await self._frames.send_control({"ended": self._ended})
        except trio.BrokenResourceError:
            if self._closed and self._ended is None:
                # It left in order: what it sent last still goes out.
                self._unheard = True
                self._to_client.clear()
                return
        self._scope.cancel()

    def _finish(self, reason: str, *, broken: bool) -> None:
        if self._ended is None:
            self._ended = {"reason": reason, "broken": broken}
            self._to_client.end()
        if self._unheard:
            self._scope.cancel()
