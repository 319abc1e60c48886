"""Credit: how many binary bytes a channel may have under way, so that one stalled stream stalls no other.

SCTP has one receive window for all channels of a session.  A service must therefore take every message off its
channel at once, whether or not the process behind it reads.  Credit is what makes that safe: a peer may send
256 KiB that were not granted yet, so a channel never holds more than that, and who stops consuming stops the sender.

The one rule that follows for the code: *the task that receives from a channel never sends on it*.  Grants are sent
by the task that consumes.  Otherwise a peer that stops reading would stop us reading, and with us its other channels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import trio

from edgeice.errors import DecodeError
from edgeice.services.channel import MAX_BINARY, Channel
from edgeice.services.control import (
    Control,
    ErrorCode,
    JsonValue,
    ServiceError,
    as_int,
    command,
    decode_control,
    encode_control,
    malformed,
    parse_error,
)

__all__ = ["INITIAL_CREDIT", "CreditedChannel", "Inbox", "ReceiveCredit", "SendCredit"]

#: What either side may send before the first grant, bytes.
INITIAL_CREDIT = 256 * 1024
#: Consumed bytes are granted again when they reach this; the contract's bound is 64 KiB.
_GRANT_AT = 32 * 1024
#: Largest increment that a peer may grant at once: what every JSON reader holds exactly.
_MAX_GRANT = 2**53 - 1


class SendCredit:
    """What this side may still send."""

    __slots__ = ("_closed", "_waiting", "available")

    def __init__(self, initial: int = INITIAL_CREDIT) -> None:
        self.available = initial
        self._waiting = trio.lowlevel.ParkingLot()
        self._closed = False

    def grant(self, increment: int) -> None:
        """The peer consumed and grants more."""
        self.available += increment
        self._waiting.unpark_all()

    def close(self) -> None:
        """No grant will come any more: whoever waits, or takes later, gets trio.ClosedResourceError."""
        self._closed = True
        self._waiting.unpark_all()

    async def take(self, wanted: int, at_least: int = 1) -> int:
        """Wait until `at_least` bytes may be sent, then spend and return as many as there are up to `wanted`."""
        while not self._closed and self.available < at_least:
            await self._waiting.park()
        if self._closed:
            raise trio.ClosedResourceError("the other side takes no more")
        taken = min(wanted, self.available)
        self.available -= taken
        return taken


class ReceiveCredit:
    """What the peer may still send, and what was consumed but not granted again."""

    __slots__ = ("_ungranted", "available")

    def __init__(self, initial: int = INITIAL_CREDIT) -> None:
        self.available = initial
        self._ungranted = 0

    def spend(self, size: int) -> None:
        """Note a received message; raises ServiceError `limit` if the peer had no credit for it."""
        if size > self.available:
            raise ServiceError(ErrorCode.LIMIT, "more bytes than credit")
        self.available -= size

    def consume(self, size: int) -> int:
        """Note that bytes left the buffer; returns the increment to grant now, 0 while it is too little."""
        self._ungranted += size
        if self._ungranted < _GRANT_AT:
            return 0
        increment, self._ungranted = self._ungranted, 0
        self.available += increment
        return increment


class Inbox:
    """Received bytes that wait for their consumer, at most the channel's credit.

    Neighboring messages of one stream are merged, so that many tiny ones cost no more memory than a few large ones.
    """

    __slots__ = ("_arrived", "_closed", "_runs", "size")

    def __init__(self) -> None:
        #: (stream, bytes, credit that its prefix bytes cost)
        self._runs: deque[tuple[int, bytearray, list[int]]] = deque()
        self._arrived = trio.lowlevel.ParkingLot()
        self._closed = False
        #: Payload bytes held now.
        self.size = 0

    @property
    def closed(self) -> bool:
        """True once nothing can be put any more."""
        return self._closed

    def put(self, stream: int, data: bytes | memoryview, overhead: int = 0) -> None:
        """Append bytes of a stream; `overhead` is the credit that came on top of them."""
        if not self._runs or self._runs[-1][0] != stream:
            self._runs.append((stream, bytearray(), [0]))
        _, run, cost = self._runs[-1]
        run += data
        cost[0] += overhead
        self.size += len(data)
        self._arrived.unpark_all()

    def close(self) -> None:
        """Nothing will follow what is held."""
        self._closed = True
        self._arrived.unpark_all()

    async def get(self, limit: int = MAX_BINARY) -> tuple[int, bytes, int] | None:
        """Wait for up to `limit` bytes: (stream, bytes, credit they cost); None when it is closed and empty."""
        while not self._runs and not self._closed:
            await self._arrived.park()
        if not self._runs:
            return None
        stream, run, cost = self._runs[0]
        data = bytes(run[:limit])
        if len(data) == len(run):
            self._runs.popleft()
        else:
            del run[:limit]
        overhead, cost[0] = cost[0], 0
        self.size -= len(data)
        return stream, data, len(data) + overhead


class CreditedChannel:
    """A channel with its two credits: grants are handled here, everything else goes through."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.sending = SendCredit()
        self.receiving = ReceiveCredit()

    async def receive(self) -> bytes | Control:
        """The next binary message, within credit, or control message other than a grant.

        Raises:
            ServiceError: `malformed` or `limit`, to be told to the peer; PeerError if the peer told one.
            trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError: as the channel does.
        """
        while True:
            data = await self.channel.receive()
            if isinstance(data, bytes):
                if len(data) > MAX_BINARY:
                    raise ServiceError(ErrorCode.LIMIT, f"a binary message of more than {MAX_BINARY} bytes")
                self.receiving.spend(len(data))
                return data
            try:
                message = decode_control(data)
                if "error" in message:
                    raise parse_error(message["error"])
                if "credit" not in message:
                    return message
                self.sending.grant(as_int(message["credit"], "credit", 1, _MAX_GRANT))
            except DecodeError as error:
                raise malformed(error) from None

    async def receive_first(self, name: str, patience: float) -> JsonValue:
        """The value of the channel's first message, `{name: …}`.

        Raises what `receive` does; ServiceError `timeout` after `patience` seconds, `malformed` for anything else.
        """
        with trio.move_on_after(patience) as scope:
            message = await self.receive()
        if scope.cancelled_caught:
            raise ServiceError(ErrorCode.TIMEOUT, f"the other side did not say `{name}` within {patience:g} s")
        if isinstance(message, bytes):
            raise ServiceError(ErrorCode.MALFORMED, f"bytes before {name}")
        try:
            return command(message, (name,))[1]
        except DecodeError as error:
            raise malformed(error) from None

    async def send_control(self, message: Mapping[str, object]) -> None:
        """Send a control message; it needs no credit."""
        await self.channel.send(encode_control(message))

    async def send_data(self, data: bytes, prefix: bytes = b"") -> None:
        """Send bytes in messages of at most 16 KiB, each begun by `prefix`, as credit allows."""
        sent = 0
        while sent < len(data):
            wanted = min(len(data) - sent + len(prefix), MAX_BINARY)
            size = await self.sending.take(wanted, at_least=len(prefix) + 1) - len(prefix)
            await self.channel.send(prefix + data[sent : sent + size])
            sent += size

    async def consumed(self, size: int) -> None:
        """Note that `size` bytes of credit were consumed; grants them again where it is time."""
        increment = self.receiving.consume(size)
        if increment:
            await self.send_control({"credit": increment})
