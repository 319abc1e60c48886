"""Standard input and output without changing their mode: the terminal is shared with the shell that started us."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

import trio

__all__ = ["raw_terminal", "read_input", "say_aside", "terminal_size", "write_output"]


#: Seconds until a terminal is tried again that has room for nothing whole.
_CRAMPED = 0.02


async def read_input(size: int) -> bytes:
    """Up to `size` bytes of standard input, b"" at its end, which a terminal's hang-up is too."""
    try:
        await trio.lowlevel.wait_readable(0)
    except OSError:
        # A regular file or /dev/null, which epoll refuses: reading never waits.
        await trio.lowlevel.checkpoint()
    try:
        return os.read(0, size)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


@cache
def _writer(descriptor: int) -> int:
    """What to write to instead of `descriptor`: a terminal is opened anew, for a mode that is ours alone.

    A terminal that is writable may take a single byte, and would hold up the whole process with the rest.
    """
    with suppress(OSError):  # no terminal, or its device is not to be seen here, as in a container
        return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return descriptor


async def write_output(data: bytes, *, error: bool = False) -> None:
    """Write to standard output or error; raises BrokenPipeError where nobody reads any more.

    A pager that shows its first page, or a terminal that is stopped, keeps this task waiting and not the session.
    """
    descriptor = _writer(2 if error else 1)
    rest = memoryview(data)
    while rest:
        try:
            await trio.lowlevel.wait_writable(descriptor)
        except OSError:
            # A regular file or /dev/null, which epoll refuses: writing never waits.
            await trio.lowlevel.checkpoint()
        try:
            # A pipe that is writable takes this much at once, although the descriptor would block.
            written = os.write(descriptor, rest[: select.PIPE_BUF])
        except BlockingIOError:
            # There is room, but not for a line's end that becomes two bytes.
            await trio.sleep(_CRAMPED)
            continue
        except OSError as failed:
            if failed.errno != errno.EIO:
                raise
            raise BrokenPipeError(errno.EPIPE, "the terminal is gone") from None
        rest = rest[written:]


def say_aside(text: str) -> None:
    """Say something on standard error while a service may have the terminal, in raw mode and in the midst of a line.

    Not where that would wait: whoever does not read must not hold up the session.
    """
    begin, end = ("\r\n", "\r") if sys.stderr.isatty() else ("", "")
    data = f"{begin}edgeice: {text}{end}\n".encode(errors="replace")
    with suppress(OSError):  # the terminal is gone, or has room for nothing whole
        if select.select((), (2,), (), 0)[1]:
            os.write(_writer(2), data[: select.PIPE_BUF])


@contextmanager
def raw_terminal() -> Iterator[Callable[[], None]]:
    """Put the terminal into raw mode for a while; nothing happens where input is no terminal.

    Gives what suspends the job, as ^Z does, and returns when it was resumed.
    """
    if not sys.stdin.isatty():
        yield lambda: None
        return
    before = termios.tcgetattr(0)

    def make_raw() -> None:
        tty.setraw(0, termios.TCSADRAIN)  # not its default, which throws away what was typed ahead

    def suspend() -> None:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        # The whole job, as the terminal would: a script that runs us would be waited for otherwise.
        os.killpg(0, signal.SIGTSTP)
        make_raw()

    try:
        make_raw()
        yield suspend
    finally:
        # Without waiting for output: a terminal that is stopped would hold up a command that has to end.
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(0, termios.TCSANOW, before)


def terminal_size() -> tuple[int, int]:
    """(columns, rows) of the terminal, 80 by 24 where there is none."""
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return 80, 24
    return size.columns, size.lines
