"""`edgeice.ping.1`: the device returns each message unchanged, the operator measures how long that takes."""

from __future__ import annotations

import itertools

import trio

from edgeice.errors import DecodeError
from edgeice.services.channel import MAX_BINARY, Channel
from edgeice.services.control import ErrorCode, ServiceError, decode_control, parse_error

__all__ = ["PING_PROTOCOL", "PingClient", "serve_ping"]

PING_PROTOCOL = "edgeice.ping.1"

_COUNTER_SIZE = 8


async def serve_ping(channel: Channel) -> None:
    """Return each message as it came, text as text and bytes as bytes, until the peer closes the channel.

    Raises ServiceError `limit` for a message of more than 16 KiB, otherwise what the channel raises.
    """
    while True:
        message = await channel.receive()
        if len(message) > MAX_BINARY:
            raise ServiceError(ErrorCode.LIMIT, f"a message of more than {MAX_BINARY} bytes")
        await channel.send(message)


class PingClient:
    """Measures round trips over one ping channel, one at a time."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._counter = itertools.count()

    async def round_trip(self, size: int = 56) -> float:
        """Send `size` bytes (at least 8) and wait for them; returns seconds.

        Leaving it by a timeout of the caller is fine: the late echo is recognized by its counter and dropped.

        Raises:
            ServiceError: the peer ended the channel with an error, or returned something else than was sent.
            trio.EndOfChannel, trio.BrokenResourceError: the channel is gone.
        """
        counter = next(self._counter)
        payload = counter.to_bytes(_COUNTER_SIZE, "big").ljust(size, b"\xa5")
        sent_at = trio.current_time()
        await self._channel.send(payload)
        while True:
            echo = await self._channel.receive()
            if isinstance(echo, str):
                raise _as_error(echo)
            if echo == payload:
                return trio.current_time() - sent_at
            if int.from_bytes(echo[:_COUNTER_SIZE], "big") >= counter:
                raise ServiceError(ErrorCode.MALFORMED, "the echo differs from what was sent")


def _as_error(text: str) -> ServiceError:
    try:
        return parse_error(decode_control(text).get("error"))
    except DecodeError:
        return ServiceError(ErrorCode.MALFORMED, "the echo differs from what was sent")
