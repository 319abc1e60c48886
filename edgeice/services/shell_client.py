"""`edgeice.shell.1`, operator half."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

import trio

from edgeice.services.channel import Channel
from edgeice.services.client import RemoteProcess, attached
from edgeice.services.control import JsonValue, as_object, as_text

__all__ = ["ShellClient", "open_shell"]


def open_shell(channel: Channel, term: str, cols: int, rows: int) -> AbstractAsyncContextManager[ShellClient]:
    """Open a login shell on the device over a fresh shell channel; the scope's end ends it.

    Entering waits until it runs, without a limit of its own, and raises ServiceError where the device refuses.
    """
    return attached(ShellClient(channel), {"open": {"term": term, "cols": cols, "rows": rows}})


class ShellClient(RemoteProcess):
    """A shell on a terminal of the device.  Made by `open_shell`."""

    _known = ("opened", "exit")

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self._opened = trio.Event()
        #: Name of the user whose shell it is.
        self.user = ""

    async def write(self, data: bytes) -> None:
        """Send keystrokes; waits while the terminal does not take them."""
        await self._guard(lambda: self._link.send_data(data))

    async def resize(self, cols: int, rows: int) -> None:
        """Tell the terminal its new size, characters."""
        await self._guard(lambda: self._link.send_control({"resize": [cols, rows]}))

    async def read(self) -> bytes:
        """The terminal's next output; b"" when it has ended."""
        item = await self._next_output()
        return b"" if item is None else item[1]

    async def _begin(self, opening: Mapping[str, object]) -> None:
        await super()._begin(opening)
        await self._opened.wait()
        if self._failure is not None:
            raise self._failure

    def _act(self, name: str, value: JsonValue) -> None:
        if name == "opened":
            user = as_text(as_object(value, "opened").get("user"), "user")
            self.user = "".join(c if c.isprintable() else "?" for c in user[:64])
            self._opened.set()
        else:
            super()._act(name, value)

    def _end(self) -> None:
        super()._end()
        self._opened.set()
