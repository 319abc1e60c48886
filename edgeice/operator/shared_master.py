"""The process that keeps a session open and opens channels in it for others: what `edgeice session` runs.

Clients are processes of the same user, and may stall, send garbage or vanish.  Each has a connection for each channel,
a task that takes what the device sends always at once (see `edgeice.services.credit`: who does not would stall all
channels of the session), and a bounded buffer in between, which a client that heeds its credit never fills.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from edgeice.errors import DecodeError, EdgeIceError
from edgeice.local_socket import listen_local, peer_of
from edgeice.operator.errors import OperatorError
from edgeice.operator.interface import DeviceSession, Step
from edgeice.operator.shared_frames import FrameSocket, Kind, as_message
from edgeice.sansio import DropCounter
from edgeice.services.channel import Channel
from edgeice.services.control import Control, ErrorCode, ServiceError, as_list, as_object, as_text, command
from edgeice.services.credit import INITIAL_CREDIT
from edgeice.signaling import first_uncovered
from edgeice.transport import SIGNAL_PROTOCOL

__all__ = ["SharedMaster", "listen_shared"]

#: Connections served at once; further ones are told so.  A forward has one for each of its connections.
_AT_ONCE: Final = 256
_BACKLOG: Final = 128
#: Seconds that a client may take to say what it wants, and at the end to be told that it is over.
_FIRST_TIME: Final = 5.0
_GOODBYE_TIME: Final = 1.0
#: How long to wait where no descriptor is left for another connection, seconds.
_ACCEPT_PAUSE: Final = 0.1
#: Most that waits for a client in one channel, bytes: its credit, and room for messages that need none.
_RELAY_LIMIT: Final = 2 * INITIAL_CREDIT
#: What a message takes of that beside its bytes.
_MESSAGE_COST: Final = 64
_LONGEST_PROTOCOL: Final = 64
_QUESTIONS: Final = ("status", "stop", "join", "open")


def listen_shared(path: Path) -> socket.socket:
    """Listen for clients.  Raises AlreadyServedError where another process does, and OSError."""
    return listen_local(path, _BACKLOG)


class SharedMaster:
    """Serves the clients of one session.

    Args:
        device: The device's name.
        path: The socket, which is removed at the end.
        idle: Seconds without a client after which it ends; None for never.
    """

    def __init__(self, device: str, path: Path, *, idle: float | None = None) -> None:
        self._device = device
        self._path = path
        self._idle = idle
        self._session: DeviceSession | None = None
        self._want: tuple[str, ...] = ()
        self._since = int(time.time())
        self._shown = ""
        #: The last notice, and how many there were.
        self._notice = 0, ""
        self._over = trio.Event()
        self._reason = ""
        self._served = 0
        self._joined = 0
        self._channels = 0
        #: Unparked when a client comes or leaves, and when the path changes.
        self._changed = trio.lowlevel.ParkingLot()
        #: What clients sent and should not have, by reason.
        self.drops = DropCounter()

    # The process that keeps the session

    def watch(self, step: Step) -> None:
        """Hear the session's steps: clients are told of the path, and what a person should know."""
        if step.name == "path":
            self._shown = step.text
        elif step.name == "notice":
            self._notice = self._notice[0] + 1, step.text
        self._changed.unpark_all()

    async def hold(self, session: DeviceSession, want: tuple[str, ...]) -> None:
        """Share a session until `end`, or until nobody used it for long; raises UnreachableError if it ends itself."""
        self._session, self._want = session, want
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, session)
            if self._idle is not None:
                nursery.start_soon(self._end_when_idle, self._idle)
            await self._over.wait()
            nursery.cancel_scope.cancel()
        self._session = None

    def end(self, reason: str) -> None:
        """End it: clients are told the reason, as long as `serve` goes on."""
        self._end(f"the shared session with {self._device} ended: {reason}")

    def _end(self, reason: str) -> None:
        if not self._over.is_set():
            self._reason = reason
            self._path.unlink(missing_ok=True)  # first: whoever waits for our end may open a session anew
            self._over.set()

    @asynccontextmanager
    async def serve(self, listener: socket.socket) -> AsyncIterator[None]:
        """Serve clients for as long as the scope lasts; at its end they are told, and the socket is removed."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._accept, listener, nursery)
                try:
                    yield
                finally:
                    self.end("the process that kept it open was ended")
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + _GOODBYE_TIME):
                        while self._served:
                            await self._changed.park()
                    nursery.cancel_scope.cancel()
        finally:
            listener.close()

    async def _follow(self, session: DeviceSession) -> None:
        try:
            await session.wait_ended()
        except OperatorError as error:
            self._end(str(error))
            raise

    async def _end_when_idle(self, patience: float) -> None:
        while True:
            while self._joined + self._channels:
                await self._changed.park()
            with trio.move_on_after(patience) as scope:
                while not self._joined + self._channels:
                    await self._changed.park()
            if scope.cancelled_caught:
                self.end(f"nobody used it for {patience:g} s")
                return

    # Clients

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            while self._served >= 2 * _AT_ONCE:
                await self._changed.park()
            await trio.lowlevel.wait_readable(listener)
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                continue
            except OSError:
                await trio.sleep(_ACCEPT_PAUSE)
                continue
            nursery.start_soon(self._serve_one, connection)

    async def _serve_one(self, connection: socket.socket) -> None:
        frames = FrameSocket(connection)
        self._served += 1
        try:
            if peer_of(connection)[1] != os.geteuid():
                self.drops.count("other-user")
                return
            await self._answer(frames)
        except DecodeError:
            self.drops.count("garbage")
        except trio.TooSlowError:
            self.drops.count("silent")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it is gone
        finally:
            frames.close()
            self._served -= 1
            self._changed.unpark_all()

    async def _answer(self, frames: FrameSocket) -> None:
        with trio.fail_after(_FIRST_TIME):
            message = await frames.receive_control()
        if message is None:
            return
        question, value = command(message, _QUESTIONS)
        if question == "status":
            await frames.send_control({"status": self.status()})
        elif question == "stop":
            await frames.send_control({"stop": {"pid": os.getpid()}})
            self.end("it was told to stop")
        elif self._session is None:
            await _refuse(
                frames, ErrorCode.UNREACHABLE, "it is not open yet" if not self._over.is_set() else "it ended"
            )
        elif self._served > _AT_ONCE:
            await _refuse(frames, ErrorCode.LIMIT, f"it has {_AT_ONCE} connections already")
        elif question == "join":
            await self._join(frames, as_object(value, "join"))
        else:
            await self._open(frames, self._session, as_object(value, "open"))

    async def _ending(self) -> str:
        await self._over.wait()
        return self._reason

    def status(self) -> dict[str, object]:
        """What `edgeice session --check` shows."""
        return {
            "device": self._device,
            "pid": os.getpid(),
            "since": self._since,
            "open": self._session is not None,
            "path": self._shown,
            "want": list(self._want),
            "clients": self._joined,
            "channels": self._channels,
            "socket": str(self._path),
            "drops": self.drops.snapshot(),
        }

    async def _join(self, frames: FrameSocket, members: Control) -> None:
        wants = [as_text(want, "want") for want in as_list(members.get("want"), "join.want")]
        uncovered = first_uncovered(self._want, wants)
        if uncovered is not None:
            await _refuse(frames, ErrorCode.UNAUTHORIZED, f"it did not ask for {uncovered}")
            return
        self._joined += 1
        self._changed.unpark_all()
        try:
            told = self._shown, self._notice
            await frames.send_control({"joined": {"path": told[0]}})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._await_leaving, frames, nursery.cancel_scope)
                nursery.start_soon(self._tell_changes, frames, told, nursery.cancel_scope)
                await self._over.wait()
                nursery.cancel_scope.cancel()
            if self._over.is_set():
                await frames.send_control({"ended": {"reason": self._reason}})
        finally:
            self._joined -= 1
            self._changed.unpark_all()

    async def _tell_changes(
        self, frames: FrameSocket, told: tuple[str, tuple[int, str]], scope: trio.CancelScope
    ) -> None:
        """Tell what is new; a client that reads slowly misses what was overtaken meanwhile."""
        path, notice = told
        with suppress(trio.BrokenResourceError):
            while True:
                if self._notice != notice:
                    notice = self._notice
                    await frames.send_control({"notice": notice[1]})
                elif self._shown != path:
                    path = self._shown
                    await frames.send_control({"path": path})
                else:
                    await self._changed.park()
        scope.cancel()

    async def _await_leaving(self, frames: FrameSocket, scope: trio.CancelScope) -> None:
        with suppress(DecodeError):
            if await frames.receive() is not None:
                self.drops.count("unasked")
        scope.cancel()

    async def _open(self, frames: FrameSocket, session: DeviceSession, members: Control) -> None:
        protocol = as_text(members.get("protocol"), "open.protocol")
        if not 1 <= len(protocol) <= _LONGEST_PROTOCOL or not protocol.isprintable() or protocol == SIGNAL_PROTOCOL:
            await _refuse(frames, ErrorCode.UNSUPPORTED, "it opens no channel of that protocol")
            return
        try:
            channel = await session.open(protocol)
        except EdgeIceError as error:
            code = ErrorCode.UNREACHABLE if isinstance(error, OperatorError) else ErrorCode.LIMIT
            await _refuse(frames, code, str(error))
            return
        self._channels += 1
        self._changed.unpark_all()
        try:
            await frames.send_control({"open": {}})
            await _Relay(frames, channel, self.drops).run(self._ending)
        finally:
            channel.abort()
            self._channels -= 1
            self._changed.unpark_all()


async def _refuse(frames: FrameSocket, code: ErrorCode, reason: str) -> None:
    await frames.send_control(ServiceError(code, reason).message())


class _Relay:
    """Carries the messages of one channel both ways, unchanged."""

    def __init__(self, frames: FrameSocket, channel: Channel, drops: DropCounter) -> None:
        self._frames = frames
        self._channel = channel
        self._drops = drops
        self._waiting: deque[tuple[Kind, bytes]] = deque()
        self._size = 0
        self._arrived = trio.lowlevel.ParkingLot()
        #: The last frame, once nothing follows what waits.
        self._ended: dict[str, object] | None = None

    async def run(self, ending: Callable[[], Awaitable[str]]) -> None:
        """Carry until either end closes, or until `ending` returns why all has to end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_client, nursery.cancel_scope)
            nursery.start_soon(self._read_channel)
            nursery.start_soon(self._write_client, nursery.cancel_scope)
            self._finish(await ending(), broken=True)

    async def _read_client(self, scope: trio.CancelScope) -> None:
        try:
            while (frame := await self._frames.receive()) is not None:
                await self._channel.send(_message(*frame))
        except EdgeIceError:  # no frame, or no message that the channel takes
            self._drops.count("garbage")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the channel is gone; whoever reads from it tells why
        scope.cancel()

    async def _read_channel(self) -> None:
        try:
            while True:
                message = await self._channel.receive()
                kind, payload = (Kind.TEXT, message.encode()) if isinstance(message, str) else (Kind.BINARY, message)
                self._size += len(payload) + _MESSAGE_COST
                if self._size > _RELAY_LIMIT:
                    break
                self._waiting.append((kind, payload))
                self._arrived.unpark_all()
        except trio.EndOfChannel:
            self._finish("", broken=False)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._finish(str(error), broken=True)
        else:
            self._waiting.clear()
            self._channel.abort()
            self._drops.count("stalled")
            self._finish("too much came that was not read", broken=True)

    async def _write_client(self, scope: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError):
            while self._waiting or self._ended is None:
                if not self._waiting:
                    await self._arrived.park()
                    continue
                kind, payload = self._waiting.popleft()
                self._size -= len(payload) + _MESSAGE_COST
                await self._frames.send(kind, payload)
            await self._frames.send_control({"ended": self._ended})
        scope.cancel()

    def _finish(self, reason: str, *, broken: bool) -> None:
        if self._ended is None:
            self._ended = {"reason": reason, "broken": broken}
            self._arrived.unpark_all()


def _message(kind: Kind, payload: bytes) -> bytes | str:
    """What a client sends into its channel; raises DecodeError."""
    if kind is Kind.CONTROL:
        raise DecodeError("frame", "a control frame after open")
    return as_message(payload) if kind is Kind.TEXT else payload
