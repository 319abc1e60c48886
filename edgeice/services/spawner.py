"""The seam where a service asks for a process: who starts it, and as whom.

`LocalSpawner` runs it as the agent's own user.  A spawner that changes the user would be another class with the same
method; services do not see the difference.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import signal
import subprocess
import termios
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import attrs

from edgeice.services.control import ErrorCode, ServiceError
from edgeice.services.process import Descriptor, LocalProcess, in_thread, set_window_size
from edgeice.services.signals import ExitStatus

__all__ = ["LimitedSpawner", "LocalSpawner", "Process", "Spawner", "Terminal"]

#: Input is UTF-8, so that erasing a character erases all its bytes (Linux's termbits.h; Python 3.11 lacks the name).
_IUTF8 = 0o40000
#: Errors of a device that is full, or of a command line that is too long for it.
_NO_ROOM = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.E2BIG})
_ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_USER_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"


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
    """Starts processes as the user that the agent runs as, in an environment as after a login.

    Nothing of the agent's own environment is handed on: that is where service managers put credentials.
    """

    def __init__(self, *, grace: float = 3.0, lang: str = "C.UTF-8") -> None:
        #: Seconds between SIGTERM and SIGKILL at the end of a scope.
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
        account = _Account.current()
        environment = account.environment(self._lang)
        if terminal is not None:
            environment["TERM"] = terminal.term
        environment.update(env)
        if argv is None:
            # A leading "-" in its name makes a shell a login shell, whichever shell it is.
            command = partial(_popen, ["-" + Path(account.shell).name], executable=account.shell)
        else:
            command = partial(_popen, list(argv))
        start = partial(command, env=environment, cwd=account.directory())
        if terminal is not None:
            return _start_on_terminal(start, terminal, account.name, self._grace)
        return _start_on_pipes(start, account.name, self._grace)


@attrs.frozen
class _Account:
    name: str
    home: str
    shell: str

    @classmethod
    def current(cls) -> _Account:
        uid = os.geteuid()
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:  # a container may run as a number without a name
            return cls(str(uid), "/", "/bin/sh")
        return cls(entry.pw_name, entry.pw_dir or "/", entry.pw_shell or "/bin/sh")

    def directory(self) -> str:
        """Where its processes start: home, or / where there is none."""
        return self.home if Path(self.home).is_dir() and os.access(self.home, os.X_OK) else "/"

    def environment(self, lang: str) -> dict[str, str]:
        return {
            "HOME": self.home,
            "USER": self.name,
            "LOGNAME": self.name,
            "SHELL": self.shell,
            "PATH": _ROOT_PATH if os.geteuid() == 0 else _USER_PATH,
            "LANG": lang,
        }


def _start_on_terminal(
    start: Callable[..., subprocess.Popen[bytes]], terminal: Terminal, user: str, grace: float
) -> LocalProcess:
    ours, theirs = _open_terminal(terminal)
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
            LocalProcess, popen, user, stdin=descriptor, outputs=[(1, descriptor)], terminal=descriptor, grace=grace
        ),
    )


def _open_terminal(terminal: Terminal) -> tuple[int, int]:
    """Both ends of a pseudo-terminal; raises ServiceError, or OSError where descriptors or memory are short."""
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
    except BaseException:
        os.close(ours)
        os.close(theirs)
        raise
    return ours, theirs


def _start_on_pipes(start: Callable[..., subprocess.Popen[bytes]], user: str, grace: float) -> LocalProcess:
    fds: list[int] = []
    try:
        for _ in range(3):
            fds.extend(os.pipe())
        theirs, ours = [fds[0], fds[3], fds[5]], [fds[1], fds[2], fds[4]]
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
        partial(LocalProcess, popen, user, stdin=stdin, outputs=[(1, stdout), (2, stderr)], terminal=None, grace=grace),
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
