"""A byte stream carried over one channel, as forwards need it: the same on either side.

Each direction ends by itself (`eof`, a half-close); a stream that breaks on one side is reset on the other (`reset`),
so that nobody takes the rest of a broken transfer for its end.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, Protocol

import trio

from edgeice.errors import DecodeError, EdgeIceError
from edgeice.services.channel import MAX_BINARY
from edgeice.services.control import ErrorCode, ServiceError, command
from edgeice.services.credit import CreditedChannel, Inbox
from edgeice.services.jobs import Jobs

__all__ = ["ByteStream", "StreamBrokenError", "relay"]

_COMMANDS: Final = ("eof", "reset")
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class ByteStream(Protocol):
    """What is carried: a TCP connection, or standard input and output."""

    async def receive_some(self, max_bytes: int, /) -> bytes:
        """The next bytes, b"" at the end; raises trio.BrokenResourceError where the stream broke."""

    async def send_all(self, data: bytes, /) -> None:
        """Write; raises trio.BrokenResourceError where nobody takes it any more."""

    async def send_eof(self) -> None:
        """Nothing more will be written."""

    def reset(self) -> None:
        """Close at once, and let whoever is at the other end see that it is no orderly end."""


class StreamBrokenError(EdgeIceError):
    """The carried stream was reset, at this side or at the other."""


async def relay(link: CreditedChannel, stream: ByteStream) -> None:
    """Carry bytes both ways until both directions have ended.

    Raises:
        StreamBrokenError: the stream broke here, which the other side was told, or there; it is reset here.
        ServiceError: the peer broke the rules, or told an error; the stream is reset.
        trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError: the channel ended before; likewise.
    """
    carrier = _Relay(link, stream)
    try:
        await carrier.run()
    except BaseException:
        stream.reset()
        raise


class _Relay:
    def __init__(self, link: CreditedChannel, stream: ByteStream) -> None:
        self._link = link
        self._stream = stream
        self._inbox = Inbox()
        self._jobs = Jobs(StreamBrokenError)
        self._sent_eof = False

    async def run(self) -> None:
        with self._jobs.scope:
            async with trio.open_nursery() as pumping:
                pumping.start_soon(self._jobs.run, self._pump)
                async with trio.open_nursery() as directions:
                    directions.start_soon(self._jobs.run, self._feed)
                    directions.start_soon(self._jobs.run, self._send)
                pumping.cancel_scope.cancel()
        if self._jobs.failure is not None:
            raise self._jobs.failure

    async def _pump(self) -> None:
        """Take messages off the channel, always at once; never sends (see credit.py)."""
        while True:
            try:
                message = await self._link.receive()
            except trio.EndOfChannel:
                if self._inbox.closed and self._sent_eof:
                    return  # both are done; what is left here is still written
                raise
            if isinstance(message, bytes):
                if self._inbox.closed:
                    raise ServiceError(ErrorCode.MALFORMED, "bytes after eof")
                self._inbox.put(0, message)
                continue
            name, value = command(message, _COMMANDS)
            if value is not True:
                raise DecodeError("control-type", f"{name} is not true")
            if name == "reset":
                raise StreamBrokenError("the connection was reset at the other side")
            self._inbox.close()

    async def _feed(self) -> None:
        """Write what arrived to the stream, and grant credit as it takes it."""
        while (item := await self._inbox.get()) is not None:
            _, data, cost = item
            try:
                await self._stream.send_all(data)
            except _GONE:
                await self._break("it takes no more")
            with suppress(*_GONE):  # who has closed needs no credit; whether that was in order, `_pump` finds out
                await self._link.consumed(cost)
        try:
            await self._stream.send_eof()
        except _GONE:
            await self._break("it takes no more")

    async def _send(self) -> None:
        while True:
            try:
                data = await self._stream.receive_some(MAX_BINARY)
            except _GONE:
                await self._break("it was reset")
            try:
                if not data:
                    self._sent_eof = True
                    await self._link.send_control({"eof": True})
                    return
                await self._link.send_data(data)
            except _GONE:
                return  # the peer may have said why before it closed: `_pump` comes to it

    async def _break(self, why: str) -> None:
        with suppress(*_GONE):
            await self._link.send_control({"reset": True})
        raise StreamBrokenError(f"the stream broke: {why}")
