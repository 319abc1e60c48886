"""`edgeice` on a pseudo-terminal, driven as a person would."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from tests.agent.kit import PATIENCE, Operator, environment

__all__ = ["TerminalSession", "on_terminal"]


class TerminalSession:
    """A command on a terminal, and what it has shown there."""

    def __init__(self, process: trio.Process, master: int) -> None:
        self.process = process
        self.screen = b""
        self._master = master
        self._stream = trio.lowlevel.FdStream(os.dup(master))

    async def type(self, text: str) -> None:
        """Press keys."""
        await self._stream.send_all(text.encode())

    async def expect(self, pattern: str) -> re.Match[bytes]:
        """Read until a pattern is shown; what was shown up to its end is forgotten."""
        wanted = re.compile(pattern.encode())
        with trio.move_on_after(8):
            while True:
                if found := wanted.search(self.screen):
                    self.screen = self.screen[found.end() :]
                    return found
                self.screen += await self._stream.receive_some()
        raise AssertionError(f"no {pattern!r} on the screen: {self.screen!r}")

    async def end(self) -> int:
        """Read until the command ends; its status."""
        with trio.fail_after(PATIENCE):
            try:
                while data := await self._stream.receive_some():
                    self.screen += data
            except (trio.BrokenResourceError, OSError):
                pass  # that is how a terminal ends on Linux
            return await self.process.wait()

    def resize(self, columns: int, rows: int) -> None:
        """Change the window's size, as a terminal program does."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def mode(self) -> list[object]:
        """The terminal's settings."""
        return list(termios.tcgetattr(self._master))

    async def hang_up(self) -> None:
        """Close the window: the terminal is gone, and the kernel tells the command so."""
        await self._stream.aclose()
        os.close(self._master)
        self._master = -1

    async def aclose(self) -> None:
        """Give the terminal back."""
        await self._stream.aclose()
        if self._master >= 0:
            os.close(self._master)


@asynccontextmanager
async def on_terminal(
    operator: Operator, *arguments: str, columns: int = 80, starter: str = "tests.agent.controlling"
) -> AsyncIterator[TerminalSession]:
    """`edgeice` on a terminal of its own, started by a module that makes it the controlling one."""
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = await trio.lowlevel.open_process(
        # The terminal has to be the controlling one for SIGWINCH to come.
        [sys.executable, "-m", starter, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(operator.folder),
        start_new_session=True,
    )
    os.close(slave)
    session = TerminalSession(process, master)
    try:
        yield session
    finally:
        with trio.CancelScope(shield=True):
            await session.aclose()
            with trio.move_on_after(5):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
