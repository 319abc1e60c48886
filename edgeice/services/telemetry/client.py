"""`edgeice.telemetry.1`, operator half."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import attrs
import trio

from edgeice.errors import DecodeError
from edgeice.services.channel import Channel
from edgeice.services.control import (
    ErrorCode,
    JsonValue,
    ServiceError,
    as_int,
    as_list,
    as_object,
    as_text,
    command,
    decode_control,
    encode_control,
    malformed,
    parse_error,
)

__all__ = ["Gap", "Row", "Samples", "TelemetryClient", "open_telemetry"]

#: Messages of a stream from one acknowledgment to the next; a device waits for one after 16.
_ACK_EVERY: Final = 4
#: How long leaving the scope waits for the channel to close, seconds.
_LEAVE_PATIENCE: Final = 2.0
_MOST_LOST: Final = 2**53
#: Streams that a device may tell of on one channel.
_MOST_STREAMS: Final = 64
_LATEST: Final = 1e12
_LARGEST: Final = 2**64


@attrs.frozen
class Row:
    """One value at one time, as it was told: text in it may hold anything, and is made safe where it is shown."""

    #: Unix seconds, by the clock of the device or of whoever measured.
    t: float
    name: str
    value: float | int | str | bool
    tags: Mapping[str, str]


@attrs.frozen
class Samples:
    """What a stream told at once."""

    stream: str
    #: The place after it, for `since`.
    cursor: str
    #: None at a subscription's beginning.
    rows: tuple[Row, ...]
    #: Whether further messages belong to the same sample.
    more: bool = False


@attrs.frozen
class Gap:
    """Something of a stream will not come."""

    stream: str
    #: Samples of `system`, rows of all others; None where the device does not know.
    lost: int | None


Told: TypeAlias = "Samples | Gap"


@asynccontextmanager
async def open_telemetry(
    channel: Channel, streams: Iterable[str] = ("*",), *, interval: float | None = None, since: str | None = None
) -> AsyncIterator[TelemetryClient]:
    """Subscribe to streams over a fresh telemetry channel; the scope's end ends it.

    `async for told in client` gives `Samples` and `Gap`.  Whoever takes them slowly gets gaps instead of memory
    filling up.

    Args:
        channel: As it was opened.
        streams: Their names; `*` for all that the device has and the session may use.
        interval: Seconds between samples of `system`, and at least between messages of others; None for the device's
            choice.
        since: A cursor to go on from, with the one stream that it is of.
    """
    client = TelemetryClient(channel)
    try:
        await client.subscribe(streams, interval=interval, since=since)
        yield client
        with trio.move_on_after(_LEAVE_PATIENCE):
            await channel.aclose()
    finally:
        channel.abort()


class TelemetryClient:
    """Subscriptions over one channel.  Made by `open_telemetry`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        #: Messages since the last acknowledgment, by stream; and what was given last.
        self._taken: dict[str, int] = {}
        self._last: Samples | None = None

    async def subscribe(
        self, streams: Iterable[str], *, interval: float | None = None, since: str | None = None
    ) -> None:
        """Begin to hear streams, or hear them in another way; see `open_telemetry`."""
        asked: dict[str, object] = {"streams": list(streams)}
        if since is not None:
            asked["since"] = since
        if interval is not None:
            asked["interval"] = interval
        await self._say({"subscribe": asked})

    async def unsubscribe(self, streams: Iterable[str]) -> None:
        """Hear streams no more; what is under way still comes."""
        await self._say({"unsubscribe": list(streams)})

    def __aiter__(self) -> TelemetryClient:
        return self

    async def __anext__(self) -> Told:
        """The next samples or gap; what was given before counts as taken, which the device is told now and then.

        Raises:
            ServiceError: the device ended the channel with an error (`not-found`, `unauthorized`, …), or misused it.
            trio.BrokenResourceError: the channel or its session is gone.
        """
        await self._acknowledge()
        try:
            message = await self._channel.receive()
        except trio.EndOfChannel:
            raise trio.BrokenResourceError("the device ended the channel") from None
        if isinstance(message, bytes):
            raise ServiceError(ErrorCode.MALFORMED, "bytes on a telemetry channel")
        try:
            told = _parse(message)
        except DecodeError as error:
            raise malformed(error) from None
        if isinstance(told, Samples):
            if told.stream not in self._taken and len(self._taken) >= _MOST_STREAMS:
                raise ServiceError(ErrorCode.LIMIT, f"more than {_MOST_STREAMS} streams")
            self._last = told
        return told

    async def _acknowledge(self) -> None:
        """Tell the device of the first message of a stream, so that it counts on being told, and of each fourth."""
        taken, self._last = self._last, None
        if taken is None:
            return
        count = self._taken.get(taken.stream, _ACK_EVERY - 1) + 1
        if count >= _ACK_EVERY:
            await self._say({"ack": taken.cursor})
            count = 0
        self._taken[taken.stream] = count

    async def _say(self, message: Mapping[str, object]) -> None:
        try:
            await self._channel.send(encode_control(message))
        except trio.BrokenResourceError:
            # The device may have said why before it closed: that is still to be received.
            await trio.lowlevel.checkpoint()


def _parse(text: str) -> Told:
    message = decode_control(text)
    if "error" in message:
        raise parse_error(message["error"])
    name, value = command(message, ("samples", "gap"))
    members = as_object(value, name)
    stream = as_text(members.get("stream"), "stream")
    if name == "gap":
        lost = members.get("lost")
        return Gap(stream, None if lost is None else as_int(lost, "lost", 0, _MOST_LOST))
    cursor = as_text(members.get("cursor"), "cursor")
    rows = tuple(_parse_row(row) for row in as_list(members.get("rows"), "rows"))
    return Samples(stream, cursor, rows, members.get("more") is True)


def _parse_row(value: JsonValue) -> Row:
    members = as_object(value, "a row")
    at, measured = members.get("t"), members.get("value")
    if isinstance(at, bool) or not isinstance(at, int | float) or not abs(at) < _LATEST:
        raise DecodeError("control-type", "a row's t is no time")
    if not isinstance(measured, bool | int | float | str):
        raise DecodeError("control-type", "a row's value is not a number, a string or a boolean")
    if isinstance(measured, int) and not abs(measured) < _LARGEST:
        raise DecodeError("control-range", "a row's value has more than 64 bits")
    tags = as_object(members.get("tags", {}), "tags")
    return Row(
        t=float(at),
        name=as_text(members.get("name"), "name"),
        value=measured,
        tags={key: as_text(text, "a tag") for key, text in tags.items()},
    )
