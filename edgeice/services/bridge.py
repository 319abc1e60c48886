"""What the device halves of shell and exec share: one process carried over one channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import trio

from edgeice.errors import DecodeError
from edgeice.services.channel import MAX_BINARY
from edgeice.services.control import Control, ErrorCode, JsonValue, ServiceError, as_object, command, malformed
from edgeice.services.credit import CreditedChannel, Inbox
from edgeice.services.jobs import Jobs
from edgeice.services.signals import ExitStatus
from edgeice.services.spawner import Process

__all__ = ["Commands", "carry", "receive_open"]

#: By control command, what acts on its value at once; raises DecodeError for a value that it cannot use.
Commands: TypeAlias = Mapping[str, Callable[[JsonValue, Inbox], None]]

#: How long a peer may wait before it says what it opened the channel for, seconds.
OPEN_PATIENCE = 10.0
#: How long a process that outlives its channel may take to read what came last, seconds.
LAST_PATIENCE = 1.0


async def receive_open(link: CreditedChannel) -> Control:
    """The value of the channel's first message, `{"open": {...}}`; raises ServiceError `timeout` or `malformed`."""
    value = await link.receive_first("open", OPEN_PATIENCE)
    try:
        return as_object(value, "open")
    except DecodeError as error:
        raise malformed(error) from None


async def carry(
    link: CreditedChannel,
    process: Process,
    commands: Commands,
    *,
    framed: bool,
    outlives: bool = False,
) -> ExitStatus:
    """Carry bytes both ways until the process has ended and all its output is sent; returns how it ended.

    Args:
        link: the channel, its opening done.
        process: what runs.
        commands: what the peer may ask for meanwhile.
        framed: binary messages begin with the number of their stream.
        outlives: the process goes on when the channel ends, so that what came before is still written to it.

    Raises:
        ServiceError: the peer broke the rules, or told an error.
        trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError: the channel ended before the process.
    """
    return await _Bridge(link, process, commands, framed, outlives).run()


class _Bridge:
    def __init__(
        self,
        link: CreditedChannel,
        process: Process,
        commands: Commands,
        framed: bool,
        outlives: bool,
    ) -> None:
        self._link = link
        self._process = process
        self._commands = commands
        self._framed = framed
        self._outlives = outlives
        #: What was taken from the inbox and not written yet.
        self._unwritten = b""
        self._inbox = Inbox()
        self._jobs = Jobs()
        self._status: ExitStatus | None = None

    async def run(self) -> ExitStatus:
        with self._jobs.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._jobs.run, self._pump)
                nursery.start_soon(self._jobs.run, self._feed)
                nursery.start_soon(self._jobs.run, self._send_output)
        if self._status is not None:
            return self._status
        if (failure := self._jobs.failure) is not None:
            if self._outlives and not isinstance(failure, ServiceError):
                await self._write_the_rest()
            raise failure
        # Only cancellation from outside ends the nursery without one of the two; this scope does not catch it.
        raise AssertionError("a bridge ended without reason")

    async def _pump(self) -> None:
        """Take messages off the channel, always at once; never sends (see credit.py)."""
        while True:
            message = await self._link.receive()
            if isinstance(message, bytes):
                self._take(message)
            else:
                name, value = command(message, self._commands)
                self._commands[name](value, self._inbox)

    def _take(self, message: bytes) -> None:
        if self._inbox.closed:
            raise ServiceError(ErrorCode.MALFORMED, "bytes after eof")
        if not self._framed:
            self._inbox.put(0, message)
        elif message[:1] == b"\0":
            self._inbox.put(0, memoryview(message)[1:], overhead=1)
        else:
            raise ServiceError(ErrorCode.MALFORMED, "bytes that are not for stream 0")

    async def _feed(self) -> None:
        """Write what arrived to the process, and grant credit as it takes it."""
        open_ = True
        while (item := await self._inbox.get()) is not None:
            _, self._unwritten, cost = item
            while self._unwritten and open_:
                try:
                    written = await self._process.write(self._unwritten)
                except trio.BrokenResourceError:
                    open_ = False  # it closed its input: the rest is dropped, and granted, so that the peer can go on
                    break
                self._unwritten, cost = self._unwritten[written:], cost - written
                await self._link.consumed(written)
            await self._link.consumed(cost)
        self._process.close_input()

    async def _write_the_rest(self) -> None:
        """Write what the peer sent last: who types and leaves at once means both."""
        self._inbox.close()
        with trio.move_on_after(LAST_PATIENCE), suppress(trio.BrokenResourceError):
            while True:
                while self._unwritten:
                    self._unwritten = self._unwritten[await self._process.write(self._unwritten) :]
                if (item := await self._inbox.get()) is None:
                    return
                _, self._unwritten, _ = item

    async def _send_output(self) -> None:
        async with trio.open_nursery() as nursery:
            for stream in self._process.streams:
                nursery.start_soon(self._jobs.run, partial(self._send_stream, stream))
            status = await self._process.wait()
        if self._jobs.failure is None:
            self._status = status
        self._jobs.scope.cancel()

    async def _send_stream(self, stream: int) -> None:
        prefix = bytes((stream,)) if self._framed else b""
        while data := await self._process.read(stream, MAX_BINARY - len(prefix)):
            await self._link.send_data(data, prefix)
