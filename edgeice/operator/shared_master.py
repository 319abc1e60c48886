"""The process that keeps a session open and opens channels in it for others: what `edgeice session` runs.

Clients are processes of the same user, and may stall, send garbage or vanish.  Each has a connection for each channel
(`edgeice.operator.shared_relay`), and all of them together have no more channels than the device takes
(`edgeice.operator.shared_places`).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from edgeice.errors import DecodeError, EdgeIceError
from edgeice.local_socket import listen_local, peer_of
from edgeice.operator.errors import OperatorError
from edgeice.operator.interface import Move, OwnSession, Step
from edgeice.operator.shared_frames import FrameSocket
from edgeice.operator.shared_places import Place, Places
from edgeice.operator.shared_relay import Relay
from edgeice.operator.silence import SILENCE
from edgeice.sansio import DropCounter
from edgeice.services.control import Control, ErrorCode, ServiceError, as_list, as_object, as_text, command
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
#: How soon the device's first word after a client came is seen, seconds: at first, and where it takes longer.
_FIRST_LOOK: Final = 0.02
_LOOK: Final = 0.25
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
        self._session: OwnSession | None = None
        self._places = Places(0)
        self._want: tuple[str, ...] = ()
        self._since = int(time.time())
        self._shown = ""
        #: The last notice, and how many there were.
        self._notice = 0, ""
        #: The same of moves.
        self._move: tuple[int, Move | None] = 0, None
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
        elif step.move is not None:
            self._move = self._move[0] + 1, step.move
        self._changed.unpark_all()

    async def hold(self, session: OwnSession, want: tuple[str, ...]) -> None:
        """Share a session until `end`, or until nobody used it for long; raises UnreachableError if it ends itself."""
        self._session, self._want, self._places = session, want, Places(session.max_channels)
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

    async def _follow(self, session: OwnSession) -> None:
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
            pid, uid = peer_of(connection)
            if uid != os.geteuid():
                self.drops.count("other-user")
                return
            await self._answer(frames, pid)
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

    async def _answer(self, frames: FrameSocket, client: int) -> None:
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
            await self._join(frames, self._session, as_object(value, "join"))
        else:
            await self._open(frames, client, self._session, as_object(value, "open"))

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
            "silent": self._silence(self._session) if self._session else None,
            "want": list(self._want),
            "clients": self._joined,
            "channels": self._channels,
            "max_channels": self._places.total,
            "waiting": self._places.waiting,
            "socket": str(self._path),
            "drops": self.drops.snapshot(),
        }

    @staticmethod
    def _silence(session: OwnSession) -> int | None:
        """Seconds for which the device has not answered, where that is long; None where it is not."""
        seconds = trio.current_time() - session.heard_at
        return int(seconds) if seconds >= SILENCE else None

    async def _join(self, frames: FrameSocket, session: OwnSession, members: Control) -> None:
        wants = [as_text(want, "want") for want in as_list(members.get("want"), "join.want")]
        uncovered = first_uncovered(self._want, wants)
        if uncovered is not None:
            await _refuse(frames, ErrorCode.UNAUTHORIZED, f"it did not ask for {uncovered}")
            return
        self._joined += 1
        self._changed.unpark_all()
        try:
            told = self._shown, self._notice, self._move
            joined: dict[str, object] = {"path": told[0], "channels": self._places.total}
            silence = self._silence(session)
            # What was said of the silence is no news for the others, but this client has not heard it.
            await frames.send_control({"joined": joined if silence is None else joined | {"silent": silence}})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell_heard, frames, session)
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
        self, frames: FrameSocket, told: tuple[str, tuple[int, str], tuple[int, Move | None]], scope: trio.CancelScope
    ) -> None:
        """Tell what is new; a client that reads slowly misses what was overtaken meanwhile."""
        path, notice, move = told
        with suppress(trio.BrokenResourceError):
            while True:
                if self._notice != notice:
                    notice = self._notice
                    await frames.send_control({"notice": notice[1]})
                elif self._shown != path:
                    path = self._shown
                    await frames.send_control({"path": path})
                elif self._move != move:
                    move = self._move
                    assert move[1] is not None  # something was told
                    await frames.send_control({"path": path, "move": move[1].as_dict()})
                else:
                    await self._changed.park()
        scope.cancel()

    async def _tell_heard(self, frames: FrameSocket, session: OwnSession) -> None:
        """Tell, once, that the device is there: what the client opens it answers, if by no more than an ACK."""
        since, pause = session.heard_at, _FIRST_LOOK
        while session.heard_at == since:
            await trio.sleep(pause)
            pause = min(2 * pause, _LOOK)
        with suppress(trio.BrokenResourceError):  # it left
            await frames.send_control({"heard": {}})

    async def _await_leaving(self, frames: FrameSocket, scope: trio.CancelScope) -> None:
        with suppress(DecodeError):
            if await frames.receive() is not None:
                self.drops.count("unasked")
        scope.cancel()

    async def _open(self, frames: FrameSocket, client: int, session: OwnSession, members: Control) -> None:
        protocol = as_text(members.get("protocol"), "open.protocol")
        if not 1 <= len(protocol) <= _LONGEST_PROTOCOL or not protocol.isprintable() or protocol == SIGNAL_PROTOCOL:
            await _refuse(frames, ErrorCode.UNSUPPORTED, "it opens no channel of that protocol")
            return
        place = self._places.ask(client)
        try:
            if place.granted.is_set() or await self._wait_for(place, frames):
                await self._carry(frames, session, protocol)
        finally:
            self._places.give_back(place)

    async def _wait_for(self, place: Place, frames: FrameSocket) -> bool:
        """Wait until a client may open its channel; False where it left, or the session ended."""
        await frames.send_control({"waiting": {"channels": self._places.total}})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._await_leaving, frames, nursery.cancel_scope)
            nursery.start_soon(self._refuse_at_end, frames, nursery.cancel_scope)
            await place.granted.wait()
            nursery.cancel_scope.cancel()
        return place.granted.is_set() and not self._over.is_set()

    async def _refuse_at_end(self, frames: FrameSocket, scope: trio.CancelScope) -> None:
        await self._over.wait()
        with suppress(trio.BrokenResourceError):
            await _refuse(frames, ErrorCode.UNREACHABLE, "it ended")
        scope.cancel()

    async def _carry(self, frames: FrameSocket, session: OwnSession, protocol: str) -> None:
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
            await Relay(frames, channel, self.drops).run(self._ending)
        finally:
            channel.abort()
            frames.close()
            self._channels -= 1
            self._changed.unpark_all()
            # Only now is it none of the device's channels any more, and another one may take its place.
            await channel.wait_closed()


async def _refuse(frames: FrameSocket, code: ErrorCode, reason: str) -> None:
    await frames.send_control(ServiceError(code, reason).message())
