"""The seam where a service asks for a process: who starts it, and as whom.

`LocalSpawner` runs it as the agent's own user or as another one of the machine; services do not see the difference.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import termios
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import attrs

from edgeice.services.account import Account, Identity
from edgeice.services.control import ErrorCode, ServiceError
from edgeice.services.process import Descriptor, LocalProcess, in_thread, set_window_size
from edgeice.services.signals import ExitStatus

__all__ = ["LimitedSpawner", "LocalSpawner", "Process", "Spawner", "Terminal"]

#: Input is UTF-8, so that erasing a character erases all its bytes (Linux's termbits.h; Python 3.11 lacks the name).
_IUTF8 = 0o40000
#: Errors of a device that is full, or of a command line that is too long for it.
_NO_ROOM = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.E2BIG})


@attrs.frozen
class Terminal:
    """The terminal that a process gets: its TERM, and its size in characters."""

    term: str
    cols: int
    rows: int


class Process(Protocol):
    """A started process, valid inside the scope that `Spawner.spawn` gives; see `LocalProcess`."""

    @property
    def user(self) -> str:
        """Name of the user it runs as."""

    @property
    def streams(self) -> tuple[int, ...]:
        """Its output streams: 1 and 2, or 1 alone for a terminal."""

    async def read(self, stream: int, limit: int) -> bytes:
        """Up to `limit` bytes of output, b"" at the end."""

    async def write(self, data: bytes) -> int:
        """Write some of `data` to its input; returns how many bytes; raises trio.BrokenResourceError if closed."""

    def close_input(self) -> None:
        """End its input."""

    def resize(self, cols: int, rows: int) -> None:
        """Change the size of its terminal."""

    def signal(self, name: str) -> None:
        """Signal its process group, or the terminal's foreground one."""

    def foreground(self) -> str:
        """Name of what runs in the terminal's foreground, "" where that is not known."""

    async def wait(self) -> ExitStatus:
        """Wait for its exit."""


class Spawner(Protocol):
    """Starts processes."""

    def spawn(
        self, argv: Sequence[str] | None, env: Mapping[str, str], terminal: Terminal | None
    ) -> AbstractAsyncContextManager[Process]:
        """Start `argv`, or the user's login shell for None; the process and its session end with the scope.

        `env` adds to the login environment.  With a terminal, that is input, output and error; without, each is a
        pipe.  Entering raises ServiceError: `not-found`, `refused`, `limit` or `internal`.
        """


class LimitedSpawner:
    """A spawner that lets only so many processes run at a time, such as one session's."""

    def __init__(self, spawner: Spawner, limit: int) -> None:
        self._spawner = spawner
        self._limit = limit
        #: Processes that run now, those under way to their end included.
        self.running = 0

    @asynccontextmanager
    async def spawn(
        self, argv: Sequence[str] | None, env: Mapping[str, str], terminal: Terminal | None
    ) -> AsyncIterator[Process]:
        """See `Spawner.spawn`; ServiceError `limit` where one more would be too many."""
        if self.running >= self._limit:
            raise ServiceError(ErrorCode.LIMIT, f"{self._limit} processes run already")
        self.running += 1
        try:
            async with self._spawner.spawn(argv, env, terminal) as process:
                yield process
        finally:
            self.running -= 1


class LocalSpawner:
    """Starts processes of one user, in an environment as after a login.

    Nothing of the agent's own environment is handed on: that is where service managers put credentials.

    Args:
        user: Name of the user; None for the one that the agent runs as.  It is looked up for each process.
        grace: Seconds between SIGTERM and SIGKILL at the end of a scope.
        lang: The language of their environment.
    """

    def __init__(self, user: str | None = None, *, grace: float = 3.0, lang: str = "C.UTF-8") -> None:
        self._user = user
        self._grace = grace
        self._lang = lang

    @asynccontextmanager
    async def spawn(
        self, argv: Sequence[str] | None, env: Mapping[str, str], terminal: Terminal | None
    ) -> AsyncIterator[Process]:
        """See `Spawner.spawn`."""
        try:
            # In a worker thread, because starting waits for the disk, and the user database may ask the network.
            process = await in_thread(self._start, argv, env, terminal)
        except OSError as error:
            raise _as_service_error(error, "the login shell" if argv is None else "the command") from None
        try:
            yield process
        finally:
            await process.aclose()

    def _start(self, argv: Sequence[str] | None, env: Mapping[str, str], terminal: Terminal | None) -> LocalProcess:
        try:
            account = Account.of(self._user)
        except KeyError:
            raise ServiceError(ErrorCode.INTERNAL, f"the device has no user {self._user} any more") from None
        environment = account.environment(self._lang)
        if terminal is not None:
            environment["TERM"] = terminal.term
        environment.update(env)
        if argv is None:
            # A leading "-" in its name makes a shell a login shell, whichever shell it is.
            command = partial(_popen, ["-" + Path(account.shell).name], executable=account.shell)
        else:
            command = partial(_popen, list(argv))
        start = partial(command, env=environment, cwd=account.directory(), identity=account.identity())
        if terminal is not None:
            return _start_on_terminal(start, terminal, account, self._grace)
        return _start_on_pipes(start, account, self._grace)


def _start_on_terminal(
    start: Callable[..., subprocess.Popen[bytes]], terminal: Terminal, account: Account, grace: float
) -> LocalProcess:
    ours, theirs = _open_terminal(terminal, account)
    try:
        popen = start(stdin=theirs, stdout=theirs, stderr=theirs, controlling=True)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    descriptor = Descriptor(ours)
    return _adopt(
        popen,
        [ours],
        partial(
            LocalProcess,
            popen,
            account.name,
            stdin=descriptor,
            outputs=[(1, descriptor)],
            terminal=descriptor,
            grace=grace,
        ),
    )


def _open_terminal(terminal: Terminal, account: Account) -> tuple[int, int]:
    """Both ends of a pseudo-terminal that is the account's.

    Raises ServiceError, or OSError where descriptors or memory are short.
    """
    try:
        ours, theirs = os.openpty()
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        if error.errno == errno.ENOSPC:
            raise ServiceError(
                ErrorCode.LIMIT, "all of the device's terminals are in use (kernel.pty.max, or max= of its devpts)"
            ) from None
        reason = os.strerror(error.errno or errno.EIO)
        raise ServiceError(ErrorCode.INTERNAL, f"no terminal can be had: {reason} (is devpts mounted?)") from None
    try:
        set_window_size(ours, terminal.cols, terminal.rows)
        attributes = termios.tcgetattr(theirs)
        attributes[0] |= _IUTF8
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)
        try:
            account.own_terminal(theirs)
        except OSError as error:
            reason = f"its terminal cannot be given to {account.name}: {error.strerror}"
            raise ServiceError(ErrorCode.INTERNAL, reason) from None
    except BaseException:
        os.close(ours)
        os.close(theirs)
        raise
    return ours, theirs


def _start_on_pipes(start: Callable[..., subprocess.Popen[bytes]], account: Account, grace: float) -> LocalProcess:
    fds: list[int] = []
    try:
        for _ in range(3):
            fds.extend(os.pipe())
        theirs, ours = [fds[0], fds[3], fds[5]], [fds[1], fds[2], fds[4]]
        for fd in theirs:
            account.own_pipe(fd)
        popen = start(stdin=theirs[0], stdout=theirs[1], stderr=theirs[2], controlling=False)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    for fd in theirs:
        os.close(fd)
    stdin, stdout, stderr = (Descriptor(fd) for fd in ours)
    return _adopt(
        popen,
        ours,
        partial(
            LocalProcess,
            popen,
            account.name,
            stdin=stdin,
            outputs=[(1, stdout), (2, stderr)],
            terminal=None,
            grace=grace,
        ),
    )


def _adopt(popen: subprocess.Popen[bytes], fds: list[int], make: Callable[[], LocalProcess]) -> LocalProcess:
    """Make the handle of a process that runs already; ends it if there is no descriptor left for the handle."""
    try:
        return make()
    except OSError:
        for fd in fds:
            os.close(fd)
        popen.kill()
        popen.wait()
        raise


def _popen(
    argv: list[str],
    *,
    executable: str | None = None,
    env: Mapping[str, str],
    cwd: str,
    identity: Identity,
    stdin: int,
    stdout: int,
    stderr: int,
    controlling: bool,
) -> subprocess.Popen[bytes]:
    ignored = [number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM) if _ignored(number)]
    # Code of ours between fork and exec is unsafe in general: another thread may have held a lock at the fork.  This
    # code takes none.  Where it is not needed, leaving it out lets the C library use vfork, which is much cheaper.
    prepare = partial(_prepare_child, controlling, ignored) if controlling or ignored else None
    return subprocess.Popen(  # noqa: S603  # running what an authorized operator asks for is the purpose
        argv,
        executable=executable,
        env=env,
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        close_fds=True,
        start_new_session=True,
        umask=0o022,
        **identity,
        preexec_fn=prepare,  # noqa: PLW1509  # no other way to get a controlling terminal; see above
    )


def _ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


def _prepare_child(controlling: bool, ignored: Sequence[int]) -> None:
    # A script that starts the agent in the background makes it ignore SIGINT; its processes must not inherit that.
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    if controlling:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _as_service_error(error: OSError, what: str) -> ServiceError:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            said = "no such command" if what == "the command" else f"{what} is not there: {error.filename}"
            return ServiceError(ErrorCode.NOT_FOUND, said)
        case errno.EACCES | errno.EPERM | errno.ENOEXEC:
            return ServiceError(ErrorCode.REFUSED, f"{what} cannot be run: {os.strerror(error.errno)}")
        case number if number in _NO_ROOM:
            return ServiceError(ErrorCode.LIMIT, f"the device has no room: {os.strerror(number)}")
        case _:
            return ServiceError(ErrorCode.INTERNAL, f"{what} could not be started: {error.strerror}")
