"""The demo's running echo: numbered messages over the ping service, each of which has to come back."""

from __future__ import annotations

from typing import Final

import trio

from edgeice.services import Channel

__all__ = ["EchoStream"]

#: Seconds between messages.
INTERVAL: Final = 0.01
_NUMBER_SIZE: Final = 8
#: Unanswered messages at once; the stream pauses there until echoes come.
_OUTSTANDING_LIMIT: Final = 4096


class EchoStream:
    """Sends a numbered message every 10 ms and counts what comes back.

    The channel is reliable and ordered, so an echo that is not the next number means a message lost on the way.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._sending = trio.CancelScope()
        self._next = 0
        self._last_at = 0.0
        self._came = trio.Event()
        self._sent_at: dict[int, float] = {}
        self.sent = 0
        self.returned = 0
        #: Round trip of the newest echo, seconds.
        self.round_trip = 0.0
        #: Longest silence since `watch_silence`, seconds.
        self.longest_silence = 0.0

    @property
    def lost(self) -> int:
        """Messages that did not come back, so far."""
        return self.sent - self.returned

    async def send(self) -> None:
        """Send until `stop_sending`; raises what the channel raises."""
        due = trio.current_time()
        with self._sending:
            while True:
                if len(self._sent_at) < _OUTSTANDING_LIMIT:
                    # Counted only once it is sent: stopping may cancel the wait before that.
                    await self._channel.send(self.sent.to_bytes(_NUMBER_SIZE, "big"))
                    self._sent_at[self.sent] = trio.current_time()
                    self.sent += 1
                # A late wake-up is not made good by a burst.
                due = max(due + INTERVAL, trio.current_time())
                await trio.sleep_until(due)

    async def receive(self) -> None:
        """Take echoes until canceled; raises what the channel raises."""
        while True:
            message = await self._channel.receive()
            self._take(message, trio.current_time())

    def watch_silence(self) -> None:
        """Measure the longest silence from here on; the one that is under way counts from its start."""
        self.longest_silence = 0.0

    def stop_sending(self) -> None:
        """Send no more."""
        self._sending.cancel()

    async def wait_returned(self, number: int) -> None:
        """Wait until that many messages came back."""
        while self.returned < number:
            await self._came.wait()

    def _take(self, message: bytes | str, now: float) -> None:
        number = int.from_bytes(message, "big") if isinstance(message, bytes) else -1
        sent_at = self._sent_at.pop(number, None)
        if sent_at is None or number < self._next:
            return  # nothing that was sent: it does not count as returned
        for skipped in range(self._next, number):
            self._sent_at.pop(skipped, None)
        self._next = number + 1
        self.returned += 1
        self.round_trip = now - sent_at
        if self._last_at:
            self.longest_silence = max(self.longest_silence, now - self._last_at)
        self._last_at = now
        self._came.set()
        self._came = trio.Event()
