"""The device's half of `edgeice.telemetry.1`.

A channel has at most one subscription to each stream; another `subscribe` takes the place of the one before.  Each
begins with a message of samples without rows, which says that the stream is there and gives the cursor to resume
from.  Then come rows: of `system` one sample each interval, of `local` what processes write, at once or gathered over
the interval.  A sample that does not fit into one message comes in several of one cursor, all but the last of which
have `"more":true` beside their rows.

**Slow subscribers.**  Telemetry has no binary messages and so no credit; acknowledgments bound what is under way.  From
the first `ack` of a stream on, at most 16 of its messages are unacknowledged; beyond that samples of `system` are not
taken, and rows of `local` wait in the ring that all subscribers share (`local.py`).  What is lost so is counted, and
said by a `gap` before what follows: samples of `system`, rows of `local`.  An operator that never acknowledges is
bounded by the channel's own buffer, which a message has to wait for while it is full.

**Resuming.**  `since` takes a cursor of `local` up where it was as long as somebody has subscribed all the while; what
the ring has no more is a gap.  Any other cursor (of an agent's earlier run, of a time before nobody listened, of
`system`) means that something was missed and nobody knows how much: a gap with `lost` null, then what comes now.  A
cursor belongs to the stream that it names, so streams are resumed with one `subscribe` each.

**Idle channels.**  Where the device limits how long a channel may be idle, one is while nothing is subscribed to, and
while 16 messages of a stream are unacknowledged; a stream on which nothing happens makes nobody idle.

While a channel has no subscription it costs one task that waits for a message; without channels there is nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Final

import trio

from edgeice.errors import DecodeError
from edgeice.sansio import DropCounter, Entropy
from edgeice.services.channel import Channel
from edgeice.services.control import (
    ErrorCode,
    JsonValue,
    ServiceError,
    command,
    decode_control,
    malformed,
    parse_error,
)
from edgeice.services.telemetry.local import LocalStream, Ring
from edgeice.services.telemetry.system import Reading, SystemReader, rows_between
from edgeice.services.telemetry.wire import (
    ALL,
    LOCAL,
    SYSTEM,
    Cursor,
    Subscribe,
    encode_gap,
    encode_row,
    encode_samples,
    pack,
    parse_names,
    parse_subscribe,
)
from edgeice.signaling import covers

__all__ = ["Hub"]

#: Channels of all sessions at a time.
MAX_CHANNELS: Final = 32
#: Messages of a stream that an operator who acknowledges may leave unacknowledged.
WINDOW: Final = 16
#: Seconds between samples of `system` where the operator does not say.
DEFAULT_INTERVAL: Final = 2.0
#: Seconds at most until the first sample: how busy processors are is a difference.
FIRST_SAMPLE: Final = 0.5

_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)
_COMMANDS: Final = ("subscribe", "unsubscribe", "ack")


class Hub:
    """What the telemetry channels of a device share; see `Telemetry` for the arguments."""

    def __init__(
        self,
        *,
        socket: Path | None,
        mounts: tuple[Path, ...],
        root: Path,
        wall: Callable[[], float],
        entropy: Entropy,
        drops: DropCounter,
    ) -> None:
        self.system = SystemReader(root, mounts, trio.current_time)
        self.local = None if socket is None else LocalStream(socket, wall, entropy, drops)
        self.wall = wall
        self.entropy = entropy
        self.drops = drops
        self._channels = 0

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that there are."""
        return (SYSTEM,) if self.local is None else (LOCAL, SYSTEM)

    async def serve(self, channel: Channel, wants: Collection[str], idle_time: float = 0) -> None:
        """Serve one channel until it is over; raises ServiceError, and what the channel raises.

        Args:
            channel: The channel.
            wants: What the session asked for and was allowed.
            idle_time: Seconds that the channel may be idle, after which `timeout` is raised; 0 sets no limit.
        """
        if self._channels >= MAX_CHANNELS:
            raise ServiceError(ErrorCode.LIMIT, f"{MAX_CHANNELS} telemetry channels are open already")
        self._channels += 1
        try:
            await _Subscriber(self, channel, wants, idle_time).run()
        finally:
            self._channels -= 1


class _Window:
    """The messages of a stream that are sent and not acknowledged."""

    def __init__(self) -> None:
        #: Their numbers; while nothing was acknowledged only the last ones matter.
        self._unacknowledged: deque[int] = deque(maxlen=WINDOW)
        self._acknowledges = False
        self._acknowledged = trio.lowlevel.ParkingLot()

    @property
    def full(self) -> bool:
        return len(self._unacknowledged) >= WINDOW

    def sent(self, number: int) -> None:
        self._unacknowledged.append(number)

    def ack(self, number: int) -> None:
        self._acknowledges = True
        while self._unacknowledged and self._unacknowledged[0] <= number:
            self._unacknowledged.popleft()
        self._acknowledged.unpark_all()

    async def wait_open(self) -> None:
        while self._acknowledges and self.full:
            await self._acknowledged.park()


class _Subscription:
    """One stream of one channel."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.window = _Window()
        self.scope = trio.CancelScope()

    def ack(self, cursor: Cursor) -> None:
        if cursor.epoch == self.epoch:
            self.window.ack(cursor.number)


class _Subscriber:
    """One channel.  The task that receives never sends: each subscription does so in its own."""

    def __init__(self, hub: Hub, channel: Channel, wants: Collection[str], idle_time: float) -> None:
        self._hub = hub
        self._channel = channel
        self._wants = wants
        self._idle_time = idle_time
        #: What hears the operator; its deadline is when the channel was idle for too long.
        self._hearing = trio.CancelScope()
        self._subscriptions: dict[str, _Subscription] = {}
        self._failure: Exception | None = None
        self._nursery: trio.Nursery

    async def run(self) -> None:
        async with trio.open_nursery() as self._nursery:
            try:
                with self._hearing:
                    while True:
                        self._watch_idleness()
                        self._take(await self._channel.receive())
                what = "acknowledged" if self._subscriptions else "subscribed to"
                self._fail(ServiceError(ErrorCode.TIMEOUT, f"nothing was {what} for {self._idle_time:g} s"))
            except DecodeError as error:
                self._fail(malformed(error))
            except (ServiceError, trio.EndOfChannel, *_GONE) as error:
                self._fail(error)
        if self._failure is not None:
            raise self._failure

    def _fail(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        self._nursery.cancel_scope.cancel()

    def _watch_idleness(self) -> None:
        """The operator said something, or opens the channel."""
        idle = not self._subscriptions or any(each.window.full for each in self._subscriptions.values())
        ends_at = trio.current_time() + self._idle_time if idle and self._idle_time else math.inf
        self._hearing.deadline = ends_at

    # What the operator says

    def _take(self, message: bytes | str) -> None:
        if isinstance(message, bytes):
            raise ServiceError(ErrorCode.MALFORMED, "telemetry has no binary messages")
        members = decode_control(message)
        if "error" in members:
            raise parse_error(members["error"])
        name, value = command(members, _COMMANDS)
        if name == "subscribe":
            self._subscribe(parse_subscribe(value))
        elif name == "unsubscribe":
            for stream in self._resolve(parse_names(value, name)):
                self._unsubscribe(stream)
        else:
            self._acknowledge(value)

    def _acknowledge(self, value: JsonValue) -> None:
        cursor = Cursor.parse(value, "ack")
        found = None if cursor is None else self._subscriptions.get(cursor.stream)
        if cursor is not None and found is not None:  # else it crossed an unsubscribe
            found.ack(cursor)

    def _subscribe(self, asked: Subscribe) -> None:
        allowed = {stream for stream in self._hub.streams if self._may_have(stream)}
        for stream in asked.streams:
            if stream not in (ALL, *self._hub.streams):
                raise ServiceError(ErrorCode.NOT_FOUND, f"no such stream; there are {', '.join(self._hub.streams)}")
            if stream != ALL and stream not in allowed:
                raise ServiceError(ErrorCode.UNAUTHORIZED, f"the session did not ask for telemetry:{stream}")
        if not allowed:
            raise ServiceError(ErrorCode.UNAUTHORIZED, "the session did not ask for any stream")
        for stream in self._resolve(asked.streams):
            if stream in allowed:
                self._begin(stream, asked)

    def _resolve(self, names: Collection[str]) -> tuple[str, ...]:
        return self._hub.streams if ALL in names else tuple(names)

    def _may_have(self, stream: str) -> bool:
        return any(covers(want, f"telemetry:{stream}") for want in self._wants)

    def _unsubscribe(self, stream: str) -> None:
        found = self._subscriptions.pop(stream, None)
        if found is not None:
            found.scope.cancel()

    def _begin(self, stream: str, asked: Subscribe) -> None:
        if stream == SYSTEM:
            subscription = _Subscription(self._hub.entropy.token_bytes(4).hex())
            job = partial(self._run_system, subscription, asked)
        else:
            ring = self._open_ring(needed=stream in asked.streams or not self._may_have(SYSTEM))
            if ring is None:
                return
            subscription = _Subscription(ring.epoch)
            job = partial(self._run_local, subscription, asked, ring)
        self._unsubscribe(stream)  # after the ring was opened, which so stays the same
        self._subscriptions[stream] = subscription
        self._nursery.start_soon(job)

    def _open_ring(self, *, needed: bool) -> Ring | None:
        """The ring of `local`; where it cannot be had, `*` is without it, and who needs it is told so."""
        assert self._hub.local is not None  # that is what its name among the streams says
        try:
            return self._hub.local.open()
        except OSError as error:
            self._hub.drops.count("no-socket")
            if not needed:
                return None
            reason = error.strerror or str(error)
            raise ServiceError(ErrorCode.UNREACHABLE, f"the device cannot make its socket: {reason}") from None

    # What is sent

    def _sending(self, window: _Window, number: int) -> None:
        """A message is about to be sent that has to be acknowledged."""
        window.sent(number)
        if window.full and self._hearing.deadline == math.inf:
            self._watch_idleness()

    async def _send(self, message: str) -> None:
        try:
            await self._channel.send(message)
        except _GONE as error:
            self._fail(error)
            await trio.lowlevel.checkpoint()  # which is canceled now

    async def _run_system(self, subscription: _Subscription, asked: Subscribe) -> None:
        interval = asked.interval or DEFAULT_INTERVAL
        with subscription.scope:
            if asked.resumes(SYSTEM):
                await self._send(encode_gap(SYSTEM, None))
            number = 0
            await self._send(encode_samples(Cursor(SYSTEM, subscription.epoch, number)))
            before = self._hub.system.read()
            due = trio.current_time() + min(interval, FIRST_SAMPLE)
            while True:
                await trio.sleep_until(due)
                await subscription.window.wait_open()
                missed = int((trio.current_time() - due) / interval)
                if missed:
                    await self._send(encode_gap(SYSTEM, missed))
                number += missed + 1
                due += (missed + 1) * interval
                now = self._hub.system.read()
                await self._send_sample(before, now, Cursor(SYSTEM, subscription.epoch, number), subscription.window)
                before = now

    async def _send_sample(self, before: Reading, now: Reading, cursor: Cursor, window: _Window) -> None:
        at = round(self._hub.wall(), 3)
        rows = [encode_row(at, *row) for row in rows_between(before, now)]
        groups = list(pack((row, len(row.encode())) for row in rows))
        for index, group in enumerate(groups, 1):
            self._sending(window, cursor.number)
            await self._send(encode_samples(cursor, group, more=index < len(groups)))

    async def _run_local(self, subscription: _Subscription, asked: Subscribe, ring: Ring) -> None:
        local = self._hub.local
        assert local is not None  # the ring is its
        try:
            with subscription.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(local.read)
                    await self._send_local(subscription.window, asked, ring)
        finally:
            local.close()

    async def _send_local(self, window: _Window, asked: Subscribe, ring: Ring) -> None:
        number: int | None = ring.newest
        if asked.resumes(LOCAL):
            number = ring.find(asked.since)
            if number is None:
                await self._send(encode_gap(LOCAL, None))
        place = ring.newest if number is None else number
        await self._send(encode_samples(ring.cursor(place)))
        while True:
            await ring.wait_beyond(place)
            await window.wait_open()
            lost, rows, place = ring.take(place)
            if lost:
                await self._send(encode_gap(LOCAL, lost))
            self._sending(window, place)
            await self._send(encode_samples(ring.cursor(place), rows))
            if asked.interval is not None:
                await trio.sleep(asked.interval)
