"""What the operator halves of shell and exec share: a remote process seen through a channel."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import trio

from edgeice.errors import DecodeError
from edgeice.services.channel import Channel
from edgeice.services.control import JsonValue, ServiceError, as_int, as_text, command, malformed
from edgeice.services.credit import CreditedChannel, Inbox
from edgeice.services.signals import ExitStatus

__all__ = ["RemoteProcess", "attached"]

#: How long the device may take to close the channel after `exit`, seconds (the contract's figure).
_CLOSE_AFTER = 2.0
#: How long a failed call waits for the reason that the device sent before it closed the channel, seconds.
_REASON_PATIENCE = 1.0
#: How long leaving the scope waits for the channel to close, seconds.
_LEAVE_PATIENCE = 2.0

_SIGNAL = re.compile(r"[A-Z][A-Z0-9+]{0,19}")

P = TypeVar("P", bound="RemoteProcess")


class RemoteProcess:
    """A process on the device.  Output must be read, or the process stops for want of credit.

    Every method raises ServiceError once the device has ended the channel with an error (`not-found`, `refused`,
    `unauthorized`, …), and trio.BrokenResourceError once the channel or its session is gone without an exit.
    """

    #: Commands of the device that the pump understands.
    _known: tuple[str, ...] = ("exit",)

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._link = CreditedChannel(channel)
        self._inbox = Inbox()
        self._over = trio.Event()
        self._status: ExitStatus | None = None
        self._failure: Exception | None = None

    async def signal(self, name: str) -> None:
        """Signal the process group by a name without `SIG`; in a shell what is in the foreground."""
        await self._guard(lambda: self._link.send_control({"signal": name}))

    async def wait(self) -> ExitStatus:
        """Wait for the exit; somebody must read meanwhile."""
        await self._over.wait()
        if self._status is None:
            assert self._failure is not None
            raise self._failure
        return self._status

    async def _begin(self, opening: Mapping[str, object]) -> None:
        """Send the first message, and wait for its answer where the protocol has one."""
        await self._guard(lambda: self._link.send_control(opening))

    async def _next_output(self) -> tuple[int, bytes] | None:
        item = await self._inbox.get()
        if item is None:
            if self._failure is not None:
                raise self._failure
            return None
        stream, data, cost = item
        if not self._over.is_set():
            # What was received counts even where the channel has just ended; the next call tells that.
            with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
                await self._link.consumed(cost)
        return stream, data

    async def _guard(self, send: Callable[[], Awaitable[None]]) -> None:
        """Send something; where the channel is over, prefer the reason why to the channel's own exception."""
        try:
            await send()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            with trio.move_on_after(_REASON_PATIENCE):  # the reason may still be under way to the pump
                await self._over.wait()
            raise self._failure or trio.BrokenResourceError("the process has ended") from None

    async def _pump(self) -> None:
        """Take messages off the channel until it is over, always at once."""
        try:
            while self._status is None:
                message = await self._link.receive()
                if isinstance(message, bytes):
                    self._take(message)
                else:
                    self._act(*command(message, self._known))
        except DecodeError as error:
            await self._fail(malformed(error))
        except ServiceError as error:
            await self._fail(error)
        except (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError):
            await self._fail(trio.BrokenResourceError("the channel ended before the process did"))
        else:
            self._end()
            await self._await_close()

    def _take(self, message: bytes) -> None:
        """Put a binary message into the inbox; raises ServiceError `malformed`."""
        self._inbox.put(1, message)

    def _act(self, name: str, value: JsonValue) -> None:
        """Act on a command of the device; raises DecodeError for a bad value."""
        if name == "exit":
            self._status = ExitStatus(code=as_int(value, "exit", 0, 255))
        elif name == "exit_signal":
            if _SIGNAL.fullmatch(as_text(value, "exit_signal")) is None:
                raise DecodeError("control-range", "exit_signal is not a signal's name")
            self._status = ExitStatus(signal=str(value))

    async def _fail(self, failure: Exception) -> None:
        self._failure = failure
        self._end()
        with trio.move_on_after(_LEAVE_PATIENCE):
            await self._channel.aclose()
        self._channel.abort()

    def _end(self) -> None:
        self._over.set()
        self._inbox.close()
        self._link.sending.close()

    async def _await_close(self) -> None:
        ended = (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError)
        with trio.move_on_after(_CLOSE_AFTER), suppress(*ended):
            while True:
                await self._channel.receive()
        await self._channel.aclose()


@asynccontextmanager
async def attached(remote: P, opening: Mapping[str, object]) -> AsyncIterator[P]:
    """Open a remote process and keep its channel served inside the scope; leaving it closes the channel."""
    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remote._pump)  # noqa: SLF001  # one half of the class, outside because it yields
            try:
                await remote._begin(opening)  # noqa: SLF001  # likewise
                yield remote
            except Exception as error:  # noqa: BLE001  # raised below, alone instead of in the nursery's group
                failure = error
            nursery.cancel_scope.cancel()
        with trio.move_on_after(_LEAVE_PATIENCE):
            await remote._channel.aclose()  # noqa: SLF001  # likewise
    finally:
        remote._channel.abort()  # noqa: SLF001  # likewise
    if failure is not None:
        raise failure
