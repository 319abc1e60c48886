"""The client's end of a shared session: finds it, and opens channels in it.

Imports no more than that takes: a command that shares a session begins at once.
"""

from __future__ import annotations

import errno
import math
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NoReturn

import trio

from edgeice.errors import DecodeError, EdgeIceError
from edgeice.local_socket import address_of, peer_of
from edgeice.operator.errors import OperatorError, UnreachableError
from edgeice.operator.interface import USUAL_CHANNELS, Move, Step, Watcher
from edgeice.operator.shared_frames import CLOSE, FrameSocket, Kind, as_control, as_message
from edgeice.operator.silence import SILENCE
from edgeice.services.control import (
    Control,
    ErrorCode,
    ServiceError,
    as_int,
    as_number,
    as_object,
    as_text,
    parse_error,
)
from edgeice.text import printable

__all__ = ["NotSharedError", "SharedChannel", "SharedSession", "SilentSessionError", "ask_shared", "join_shared"]

#: Seconds that the process behind the socket may take to take a connection and to answer.
_PATIENCE: Final = 2.0
#: How long closing a channel waits for what was sent last, and a lost channel for the reason, seconds.
_CLOSE_PATIENCE: Final = 2.0
_REASON_PATIENCE: Final = 1.0
#: How soon a full backlog is tried again, seconds.
_BACKLOG_PAUSE: Final = 0.01
_MOST_CHANNELS: Final = 65535
_LONGEST_SILENCE: Final = 1 << 31
#: Characters that are shown of what the process behind the socket says.
_MOST_SHOWN: Final = 500
_MISSING: Final = {
    errno.ENOENT: "there is no {}",
    errno.ECONNREFUSED: "the process behind {} is gone",
    errno.EAGAIN: "the process behind {} takes no connection",
}


class NotSharedError(EdgeIceError):
    """There is no shared session, or none that can be used; says why."""


class SilentSessionError(NotSharedError):
    """There is one, but its device has not answered for long."""


async def join_shared(path: Path, device: str, want: tuple[str, ...]) -> SharedSession:
    """Become a client of the session behind a socket; use it with `SharedSession.kept`.

    Raises NotSharedError where nobody keeps one open that has these wants, SilentSessionError where its device has not
    answered for long: a session of one's own finds it sooner, or finds that it is gone.
    """
    frames, pid = await _connect(path)
    try:
        answer = await _ask(frames, {"join": {"want": list(want)}})
        try:
            if "error" in answer:
                raise NotSharedError(f"{path}: {parse_error(answer['error']).reason}")
            joined = as_object(answer.get("joined"), "joined")
            path_shown = as_text(joined.get("path"), "joined.path")
            channels = as_int(joined.get("channels", USUAL_CHANNELS), "joined.channels", 1, _MOST_CHANNELS)
            if "silent" in joined:
                silent = as_int(joined["silent"], "joined.silent", 0, _LONGEST_SILENCE)
                raise SilentSessionError(f"{device} has not answered for {silent} s in the session that is shared")
        except DecodeError as error:
            raise NotSharedError(f"{path}: what answers there is no shared session: {error}") from None
    except BaseException:
        frames.close()
        raise
    return SharedSession(path, device, frames, pid, path_shown, max_channels=channels)


async def ask_shared(path: Path, question: str) -> tuple[Control, FrameSocket]:
    """Ask whoever keeps a session open, "status" or "stop"; gives the answer, and the connection, to be closed.

    Raises NotSharedError where nobody does.
    """
    frames, _pid = await _connect(path)
    try:
        answer = await _ask(frames, {question: {}})
        try:
            return as_object(answer.get(question), question), frames
        except DecodeError as error:
            raise NotSharedError(f"{path}: what answers there is no shared session: {error}") from None
    except BaseException:
        frames.close()
        raise


async def _connect(path: Path) -> tuple[FrameSocket, int]:
    """A connection, and the process at its other end; raises NotSharedError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.setblocking(False)
    try:
        with trio.move_on_after(_PATIENCE):
            while (failed := _try_to_connect(connection, path)) == errno.EAGAIN:  # noqa: ASYNC110  # nothing tells
                await trio.sleep(_BACKLOG_PAUSE)
        pid, uid = (0, 0) if failed else peer_of(connection)
    except BaseException:
        connection.close()
        raise
    if failed or uid != os.geteuid():
        connection.close()
        what = os.strerror(failed) if failed else "another user serves it"
        raise NotSharedError(_MISSING.get(failed, f"{{}}: {what}").format(path))
    return FrameSocket(connection), pid


def _try_to_connect(connection: socket.socket, path: Path) -> int:
    try:
        with address_of(path) as address:
            return connection.connect_ex(address)
    except OSError as error:  # the folder of a long name
        return error.errno or errno.EIO


async def _ask(frames: FrameSocket, question: dict[str, object]) -> Control:
    try:
        with trio.fail_after(_PATIENCE):
            await frames.send_control(question)
            answer = await frames.receive_control()
    except trio.TooSlowError:
        raise NotSharedError("whoever shares a session does not answer") from None
    except (trio.BrokenResourceError, DecodeError):
        answer = None
    if answer is None:
        raise NotSharedError("whoever shares a session gave no answer")
    return answer


class SharedSession:
    """A session that another process keeps open.  Made by `join_shared`."""

    def __init__(
        self, path: Path, device: str, frames: FrameSocket, pid: int, shown: str, *, max_channels: int
    ) -> None:
        self._path = path
        self._device = device
        self._frames = frames
        self._shown = shown
        self._over = trio.Event()
        self._reason = ""
        self._channels: set[SharedChannel] = set()
        self._watch: Watcher | None = None
        self._told_waiting = False
        self._joined_at = trio.current_time()
        #: Set when the device has to answer, and when it did; in between it has so many seconds.
        self._asked = trio.Event()
        self._heard = trio.Event()
        self._patience = math.inf
        #: The process that keeps it open.
        self.pid = pid
        #: How many channels all clients may have at once; beyond it `open` waits.
        self.max_channels = max_channels

    @property
    def name(self) -> str:
        """The device's name."""
        return self._device

    @asynccontextmanager
    async def kept(self, watch: Watcher | None, patience: float = math.inf) -> AsyncIterator[None]:
        """Stay a client for a while, and hear notices and path changes, the present path at once.

        Args:
            watch: Hears them.
            patience: Seconds that the device may take for its first sign of life once a channel is opened;
                UnreachableError where there is none.  It is due for what is opened at first; later on, those who keep
                the session tell of silence.
        """
        self._watch, self._patience = watch, patience
        try:
            async with trio.open_nursery() as nursery:
                self._say("path", self._shown)
                nursery.start_soon(self._listen)
                nursery.start_soon(self._insist)
                yield
                nursery.cancel_scope.cancel()
        finally:
            for channel in tuple(self._channels):
                channel.abort()
            self._frames.close()

    async def open(self, protocol: str) -> SharedChannel:
        """Open a service's channel; waits for a place where all are in use, and says so once.

        Raises UnreachableError if the session is over, and ServiceError if the other process opens none.
        """
        try:
            frames, _pid = await _connect(self._path)
        except NotSharedError:
            raise await self.why_ended() from None
        try:
            answer = await _ask(frames, {"open": {"protocol": protocol}})
            self._expect_answer(waiting="waiting" in answer)
            if "waiting" in answer:
                answer = await self._await_place(frames, answer)
            if "error" in answer:
                error = parse_error(answer["error"])
                if error.code is ErrorCode.UNREACHABLE:
                    raise NotSharedError(error.reason)  # noqa: TRY301  # likewise
                raise ServiceError(error.code, error.reason)  # noqa: TRY301  # closed below
        except (NotSharedError, DecodeError):
            frames.close()
            raise await self.why_ended() from None
        except BaseException:
            frames.close()
            raise
        channel = SharedChannel(frames, protocol, self._channels.discard)
        self._channels.add(channel)
        return channel

    def _expect_answer(self, *, waiting: bool) -> None:
        if self._asked.is_set() or trio.current_time() - self._joined_at > SILENCE:
            return
        if waiting:  # nothing goes out yet; what the session itself says is heard within this time
            self._patience = max(self._patience, SILENCE)
        self._asked.set()

    async def _insist(self) -> None:
        """Give up where the device, which may have died just before, does not answer."""
        await self._asked.wait()
        with trio.move_on_after(self._patience) as scope:
            await self._heard.wait()
        if scope.cancelled_caught:
            raise UnreachableError(
                "session", f"{self._device} did not answer in the shared session (waited {self._patience:g} s)"
            )

    async def _await_place(self, frames: FrameSocket, answer: Control) -> Control:
        if not self._told_waiting:
            self._told_waiting = True
            most = as_int(
                as_object(answer["waiting"], "waiting").get("channels"), "waiting.channels", 1, _MOST_CHANNELS
            )
            self._say("notice", f"no channel of the shared session's {most} is free for this; waiting until one ends")
        try:
            following = await frames.receive_control()
        except trio.BrokenResourceError:
            following = None
        if following is None:
            raise NotSharedError("it is gone")
        return following

    async def wait_ended(self) -> NoReturn:
        """Wait for the session's end; raises UnreachableError that says why."""
        await self._over.wait()
        raise self._ended_error()

    async def why_ended(self) -> OperatorError:
        """Why the session is over, for a service that lost its channel: the reason may be under way yet."""
        with trio.move_on_after(_REASON_PATIENCE):
            await self._over.wait()
        return self._ended_error()

    def _ended_error(self) -> OperatorError:
        return UnreachableError("session", self._reason or self._lost("gave up the channel"))

    def _lost(self, what: str) -> str:
        return f"the shared session with {self._device} is lost: process {self.pid}, which kept it open, {what}"

    async def _listen(self) -> None:
        self._reason = await self._hear() or self._lost("is gone")
        self._over.set()

    async def _hear(self) -> str:
        """Hand on what is new until the end; the reason that was told."""
        try:
            while (message := await self._frames.receive_control()) is not None:
                if "ended" in message:
                    return _reason(as_object(message["ended"], "ended"))
                if "heard" in message:
                    self._heard.set()
                    continue
                if "move" in message:
                    self._say_move(as_object(message["move"], "move"))
                    continue
                name = "notice" if "notice" in message else "path"
                self._say(name, as_text(message.get(name), name))
        except DecodeError as error:
            return self._lost(f"makes no sense: {error}")
        return ""

    def _say(self, name: str, text: str) -> None:
        if self._watch is not None and text:
            self._watch(Step(name, printable(text, _MOST_SHOWN)))

    def _say_move(self, facts: Control) -> None:
        was, way, path, cause = (
            printable(as_text(facts.get(name), f"move.{name}"), _MOST_SHOWN) for name in ("from", "to", "path", "cause")
        )
        rtt = facts.get("rtt_ms")
        pause_ms = as_number(facts.get("pause_ms"), "move.pause_ms")
        move = Move(was, way, path, cause, pause_ms, None if rtt is None else as_number(rtt, "move.rtt_ms"))
        if self._watch is not None:
            self._watch(Step("move", move.text, move))


class SharedChannel:
    """A data channel of a shared session, with the manners of `edgeice.services.channel.Channel`."""

    def __init__(self, frames: FrameSocket, protocol: str, on_close: Callable[[SharedChannel], None]) -> None:
        self.label = self.protocol = protocol
        self._on_close = on_close
        self._frames = frames
        #: (reason, broken) once the channel is gone.
        self._ended: tuple[str, bool] | None = None

    async def send(self, data: bytes | str) -> None:
        """Send one message; waits while the other process takes no more.

        Raises:
            trio.ClosedResourceError: This side closed the channel.
            trio.BrokenResourceError: The channel or its session is gone.
        """
        if self._ended is not None and not self._frames.closed:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError(self._ended[0])
        if isinstance(data, str):
            await self._frames.send(Kind.TEXT, data.encode())
        else:
            await self._frames.send(Kind.BINARY, data)

    async def receive(self) -> bytes | str:
        """The next message.

        Raises:
            trio.EndOfChannel: The peer closed the channel, and everything that came before was received.
            trio.ClosedResourceError: This side closed the channel.
            trio.BrokenResourceError: The session, or the process that keeps it, is gone.
        """
        if self._ended is None and not self._frames.closed:
            try:
                frame = await self._frames.receive()
                if frame is not None and frame[0] is Kind.BINARY:
                    return frame[1]
                if frame is not None and frame[0] is Kind.TEXT:
                    return as_message(frame[1])
                self._ended = ("the shared session is gone", True) if frame is None else _ending(frame[1])
            except DecodeError as error:
                self._ended = (f"the shared session's process sent no message: {error}", True)
        await trio.lowlevel.checkpoint()
        if self._frames.closed or self._ended is None:
            raise trio.ClosedResourceError
        reason, broken = self._ended
        raise trio.BrokenResourceError(reason) if broken else trio.EndOfChannel

    async def aclose(self) -> None:
        """Close the channel: what was sent before still goes out, what was not received yet is dropped."""
        try:
            if not self._frames.closed:
                with trio.move_on_after(_CLOSE_PATIENCE):
                    await self._frames.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.abort()
        await trio.lowlevel.checkpoint()

    async def wait_closed(self) -> None:
        """Nothing: the process that keeps the session waits for that before it opens another one."""
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Close at once."""
        self._frames.close_with({CLOSE: {}})
        self._on_close(self)


def _ending(payload: bytes) -> tuple[str, bool]:
    ended = as_object(as_control(payload).get("ended"), "ended")
    return _reason(ended), ended.get("broken") is not False


def _reason(ended: Control) -> str:
    return printable(as_text(ended.get("reason"), "ended.reason"), _MOST_SHOWN)
