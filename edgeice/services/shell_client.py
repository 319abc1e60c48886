"""`edgeice.shell.1`, operator half."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final

import attrs
import trio

from edgeice.errors import DecodeError
from edgeice.services.channel import Channel
from edgeice.services.client import RemoteProcess, attached
from edgeice.services.control import (
    ErrorCode,
    JsonValue,
    ServiceError,
    as_int,
    as_list,
    as_object,
    as_text,
    malformed,
)
from edgeice.services.credit import CreditedChannel
from edgeice.text import printable

__all__ = ["KeptEntry", "ShellClient", "list_shells", "open_shell"]

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
#: What a number of seconds or bytes may be: what every JSON reader holds exactly.
_MOST: Final = 2**53 - 1
#: How long a device may take to list its kept shells, seconds.
_LIST_PATIENCE: Final = 10.0


def open_shell(
    channel: Channel, term: str, cols: int, rows: int, *, keep: bool = False, attach: str | None = None
) -> AbstractAsyncContextManager[ShellClient]:
    """Open a login shell on the device over a fresh shell channel; the scope's end ends it, if it is not a kept one.

    Entering waits until it runs, without a limit of its own, and raises ServiceError where the device refuses.

    Args:
        channel: the channel.
        term: the terminal's TERM.
        cols: its width, characters.
        rows: its height.
        keep: have the shell go on when the scope or the session ends; an older device raises `unsupported`.
        attach: come back to the kept shell of this name, "" for the one that was left last, instead of opening one.
    """
    members: dict[str, object] = {"term": term, "cols": cols, "rows": rows}
    if keep:
        members["keep"] = True
    if attach is not None:
        members["attach"] = attach or True
    return attached(ShellClient(channel, kept=keep or attach is not None), {"open": members})


@attrs.frozen
class KeptEntry:
    """A kept shell, as the device tells of it."""

    name: str
    #: What runs in its foreground, "" where that is not known.
    running: str
    #: Seconds since it was begun.
    seconds: int
    #: Seconds since it was left, None while somebody is attached.
    left: int | None


async def list_shells(channel: Channel) -> list[KeptEntry]:
    """The operator's kept shells, oldest first, over a fresh shell channel, which is closed then.

    Raises ServiceError: `unsupported` for an older device, `timeout`, or as the device refuses.
    """
    link = CreditedChannel(channel)
    try:
        await link.send_control({"open": {"list": True}})
        value = await link.receive_first("shells", _LIST_PATIENCE)
        try:
            return [_entry(each) for each in as_list(value, "shells")]
        except DecodeError as error:
            raise malformed(error) from None
    except ServiceError as error:
        if error.code is ErrorCode.MALFORMED:  # it looked for a terminal's name
            raise _too_old() from None
        raise
    finally:
        channel.abort()


def _entry(value: JsonValue) -> KeptEntry:
    members = as_object(value, "shells[]")
    left = members.get("left")
    return KeptEntry(
        _name(members.get("name")),
        printable(as_text(members.get("running", ""), "running"), 64),
        as_int(members.get("seconds"), "seconds", 0, _MOST),
        None if left is None else as_int(left, "left", 0, _MOST),
    )


def _name(value: JsonValue) -> str:
    """A kept shell's name; people are shown commands with it, which they paste."""
    name = as_text(value, "name")
    if _NAME.fullmatch(name) is None:
        raise DecodeError("control-range", "not a kept shell's name")
    return name


def _too_old() -> ServiceError:
    return ServiceError(ErrorCode.UNSUPPORTED, "the device keeps no shells: its edgeice is older than this one")


class ShellClient(RemoteProcess):
    """A shell on a terminal of the device.  Made by `open_shell`."""

    _known = ("opened", "exit")

    def __init__(self, channel: Channel, *, kept: bool = False) -> None:
        super().__init__(channel)
        self._opened = trio.Event()
        self._wants_kept = kept
        #: Name of the user whose shell it is.
        self.user = ""
        #: Name of the kept shell, "" for one that ends with its channel.
        self.kept = ""
        #: Bytes of earlier output that come first.
        self.replay = 0
        #: Bytes before those that nobody may have seen, and that are gone.
        self.lost = 0

    @property
    def ended(self) -> bool:
        """Whether there is nothing to come back to: the shell has ended, or the device said that it is taken over."""
        failure = self._failure
        return self._status is not None or (isinstance(failure, ServiceError) and failure.code is ErrorCode.REFUSED)

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
        if self._wants_kept and not self.kept:
            raise _too_old()

    def _act(self, name: str, value: JsonValue) -> None:
        if name == "opened":
            members = as_object(value, "opened")
            self.user = printable(as_text(members.get("user"), "user"), 64)
            if "kept" in members:
                self.kept = _name(members["kept"])
            self.replay = as_int(members.get("replay", 0), "replay", 0, _MOST)
            self.lost = as_int(members.get("lost", 0), "lost", 0, _MOST)
            self._opened.set()
        else:
            super()._act(name, value)

    def _end(self) -> None:
        super()._end()
        self._opened.set()
