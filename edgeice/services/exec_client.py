"""`edgeice.exec.1`, operator half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from edgeice.services.channel import Channel
from edgeice.services.client import RemoteProcess, attached
from edgeice.services.control import ErrorCode, ServiceError

__all__ = ["STDERR", "STDIN", "STDOUT", "ExecClient", "open_exec"]

STDIN, STDOUT, STDERR = 0, 1, 2


def open_exec(
    channel: Channel, argv: Sequence[str], env: Mapping[str, str] | None = None
) -> AbstractAsyncContextManager[ExecClient]:
    """Run `argv` on the device over a fresh exec channel; the scope's end ends it.

    `env` adds to the login environment.  Input may be written at once.  That the command cannot be started comes as
    ServiceError from whichever method is called next.
    """
    members: dict[str, object] = {"argv": list(argv)}
    if env:
        members["env"] = dict(env)
    return attached(ExecClient(channel), {"open": members})


class ExecClient(RemoteProcess):
    """A command on the device, with its input, output and error apart.  Made by `open_exec`."""

    _known = ("exit", "exit_signal")

    async def write(self, data: bytes) -> None:
        """Send bytes to its input; waits while the command does not read."""
        await self._guard(lambda: self._link.send_data(data, bytes((STDIN,))))

    async def send_eof(self) -> None:
        """End its input; nothing may be written afterwards."""
        await self._guard(lambda: self._link.send_control({"eof": True}))

    async def read(self) -> tuple[int, bytes] | None:
        """The next output, with its stream (`STDOUT` or `STDERR`), in the order sent; None when it has ended."""
        return await self._next_output()

    def _take(self, message: bytes) -> None:
        if message[:1] not in (b"\1", b"\2"):
            raise ServiceError(ErrorCode.MALFORMED, "bytes that are not for stream 1 or 2")
        self._inbox.put(message[0], memoryview(message)[1:], overhead=1)
