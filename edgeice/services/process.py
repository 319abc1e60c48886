"""A running process: its descriptors, its signals, its exit, and the end of everything it started."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import subprocess
import termios
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import trio

from edgeice.services.signals import ExitStatus, signal_name, signal_number
from edgeice.text import printable

__all__ = ["Descriptor", "LocalProcess", "end_session", "in_thread", "set_window_size"]

T = TypeVar("T")

#: What a terminal's or default pipe's buffer can hold after its process is gone, bytes.
_KERNEL_BUFFER = 64 * 1024
#: How long a killed process may take to die before it is left to the kernel (it hangs in a driver), seconds.
_KILL_PATIENCE = 2.0
#: Members of a session that one round of signals waits for: bounds the descriptors that a fork bomb costs.
_WAITED_FOR = 16


class Descriptor:
    """One end of a pipe or terminal, non-blocking and owned by this object.  One task may read, one write."""

    __slots__ = ("_fd", "_left")

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        #: Bytes that may still be read once the process is gone, None while it runs.
        self._left: int | None = None

    @property
    def fd(self) -> int:
        """The number, -1 when closed."""
        return self._fd

    async def read(self, limit: int) -> bytes:
        """Up to `limit` bytes; b"" at the end, or when the process is gone and its buffered output was read."""
        while True:
            if self._fd >= 0 and self._left is None:
                with contextlib.suppress(trio.ClosedResourceError):  # woken by finish() or close()
                    await trio.lowlevel.wait_readable(self._fd)
            else:
                await trio.lowlevel.checkpoint()
            if self._fd < 0:
                return b""
            try:
                data = os.read(self._fd, limit if self._left is None else min(limit, self._left))
            except BlockingIOError:
                if self._left is None:
                    continue
                return b""
            except OSError:  # EIO: nobody has the terminal open any more
                return b""
            if self._left is not None:
                self._left -= len(data)
            return data

    async def write(self, data: bytes) -> int:
        """Write some of `data`; returns how many bytes.  Raises trio.BrokenResourceError if nobody will read."""
        while True:
            if self._fd < 0:
                raise trio.BrokenResourceError("closed")
            try:
                await trio.lowlevel.wait_writable(self._fd)
                return os.write(self._fd, data)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                raise trio.BrokenResourceError("nobody reads any more") from None

    def finish(self) -> None:
        """The process is gone: what it left in the buffer is the rest, even where its children hold the other end."""
        if self._fd < 0 or self._left is not None:
            return
        try:
            self._left = fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ)
        except OSError:  # a terminal
            self._left = _KERNEL_BUFFER
        trio.lowlevel.notify_closing(self._fd)

    def close(self) -> None:
        """Close it and wake whoever waits; does nothing the second time."""
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1


class LocalProcess:
    """A process of this machine that leads a session of its own.

    Its exit is noticed without reaping it: as long as the leader is not reaped, no other process can get its number,
    and signals to its group and session cannot hit a stranger.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        user: str,
        *,
        stdin: Descriptor,
        outputs: Sequence[tuple[int, Descriptor]],
        terminal: Descriptor | None,
        grace: float,
    ) -> None:
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self._stdin = stdin
        self._outputs = tuple(outputs)
        self._terminal = terminal
        self._grace = grace
        self._status: ExitStatus | None = None
        #: Name of the user it runs as.
        self.user = user

    @property
    def pid(self) -> int:
        """Its number, also that of its process group and session."""
        return self._popen.pid

    @property
    def streams(self) -> tuple[int, ...]:
        """The output streams it has: 1 and 2, or 1 alone for a terminal."""
        return tuple(stream for stream, _ in self._outputs)

    async def read(self, stream: int, limit: int) -> bytes:
        """Up to `limit` bytes of output, b"" at the end."""
        return await dict(self._outputs)[stream].read(limit)

    async def write(self, data: bytes) -> int:
        """Write some of `data` to its input; returns how many bytes; raises trio.BrokenResourceError if closed."""
        return await self._stdin.write(data)

    def close_input(self) -> None:
        """End its input.  A terminal has no such end: there it is a character, sent as data."""
        if self._terminal is None:
            self._stdin.close()

    def resize(self, cols: int, rows: int) -> None:
        """Tell its terminal the new size; the kernel tells the process (SIGWINCH)."""
        if self._terminal is not None and self._terminal.fd >= 0:
            set_window_size(self._terminal.fd, cols, rows)

    def signal(self, name: str) -> None:
        """Send a signal to its process group, or to what is in the terminal's foreground.

        Does nothing when the process is gone, or for a name that is not known (RFC 4254 §6.9).
        """
        number = signal_number(name)
        if number is None or self._status is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._foreground_group(), number)

    def foreground(self) -> str:
        """Name of what runs in its terminal's foreground, "" where that is not known."""
        try:
            name = Path("/proc", str(self._foreground_group()), "comm").read_text("utf-8", "replace")
        except OSError:
            return ""
        return printable(name.removesuffix("\n"))

    def _foreground_group(self) -> int:
        if self._terminal is not None and self._terminal.fd >= 0:
            with contextlib.suppress(OSError):
                return os.tcgetpgrp(self._terminal.fd) or self.pid
        return self.pid

    async def wait(self) -> ExitStatus:
        """Wait for its exit; readers then get what is buffered and the end.  For one task."""
        while self._status is None:
            await trio.lowlevel.wait_readable(self._pidfd)
            info = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)  # noqa: ASYNC222  # WNOHANG
            if info is None:
                continue
            exited = info.si_code == os.CLD_EXITED
            self._status = ExitStatus(code=info.si_status) if exited else ExitStatus(signal=signal_name(info.si_status))
            for _, output in self._outputs:
                output.finish()
        return self._status

    async def aclose(self) -> None:
        """End it and all that it left in its session, and take back every descriptor; cannot be cancelled.

        SIGHUP and SIGTERM first, SIGKILL after the grace.  What made a session of its own (a daemon, tmux) stays, as
        it does after ssh.
        """
        with trio.CancelScope(shield=True):
            # The terminal's hang-up reaches even processes of other users (su, sudo), which no signal of ours does.
            for descriptor in (self._stdin, *(output for _, output in self._outputs)):
                descriptor.close()
            await end_session(self.pid, self._grace)
            # Needs no descriptor, so that a table of descriptors that is full saves no process.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            with trio.move_on_after(_KILL_PATIENCE):
                await trio.lowlevel.wait_readable(self._pidfd)
            os.close(self._pidfd)
            self._popen.poll()  # reaps the leader


#: Threads for processes alone: whatever else waits in threads is not to keep a process from its start or its end.
_THREADS: Final = trio.CapacityLimiter(16)


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Call `function` in a worker thread; in this one where the device has no room for another.

    Most of all what ends processes has to work where there are too many.
    """
    try:
        return await trio.to_thread.run_sync(function, *arguments, limiter=_THREADS)
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        return function(*arguments)


def set_window_size(fd: int, cols: int, rows: int) -> None:
    """Set the size of the terminal that `fd` is an end of, in characters."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, array.array("H", (rows, cols, 0, 0)))


async def end_session(leader: int, grace: float) -> None:
    """End every process of the session that `leader` leads; `leader` must not have been reaped."""
    # A stopped process takes the other two only once it continues.
    for patience, signals in (
        (grace, (signal.SIGHUP, signal.SIGTERM, signal.SIGCONT)),
        (_KILL_PATIENCE, (signal.SIGKILL,)),
    ):
        with trio.move_on_after(patience) as scope:
            while await _signal_round(leader, signals):
                pass
        if not scope.cancelled_caught:
            return


async def _signal_round(leader: int, signals: Sequence[int]) -> bool:
    """Signal all members and wait until those that were signaled are gone; False if there were none."""
    # Reading /proc takes milliseconds on a small board: not in the thread that serves the sessions.
    waited_for = await in_thread(_signal_members, leader, signals)
    try:
        for pidfd in waited_for:
            await trio.lowlevel.wait_readable(pidfd)
    finally:
        for pidfd in waited_for:
            os.close(pidfd)
    return bool(waited_for)


def _signal_members(leader: int, signals: Sequence[int]) -> list[int]:
    """Signal each living member of the session; returns pidfds of the first few."""
    waited_for: list[int] = []
    try:
        names = os.listdir("/proc")  # noqa: PTH208  # names, not a path object for each process
    except OSError:  # no descriptor left; the caller has another way
        return waited_for
    for name in names:
        if not name.isdigit() or not _is_member(name, leader):
            continue
        try:
            pidfd = os.pidfd_open(int(name))
        except OSError:
            continue
        try:
            # Again, because the number could have changed hands before the pidfd held it.
            if _is_member(name, leader):
                for number in signals:
                    signal.pidfd_send_signal(pidfd, number)
                if len(waited_for) < _WAITED_FOR:
                    waited_for.append(pidfd)
                    continue
        except (ProcessLookupError, PermissionError):
            pass
        os.close(pidfd)
    return waited_for


def _is_member(pid: str, leader: int) -> bool:
    """Whether the process is alive and of the leader's session (proc_pid_stat(5), fields 3 and 6)."""
    try:
        # pathlib would put the number into Python's table of names, which all of them make outgrow its memory.
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  # so
            stat = file.read()
    except OSError:
        return False
    state, _ppid, _group, session = stat.rpartition(b")")[2].split(None, 4)[:4]
    return int(session) == leader and state not in (b"Z", b"X")
