"""A process that carries Ethernet frames between two TAP devices, late and not all of them.

    python relay.py FD FD

Its parent hands it the devices' descriptors.  Each line on standard input is a JSON object: the figures of
`tests.lab.links.Impairment` and `seed`, or `carrier` (false: the devices' cables are out), or an empty one.  It is
answered by a line with what was carried and dropped so far, by direction.  The end of the input ends the process, so
that it never outlives its parent.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import json
import os
import random
import select
import struct
import sys
import time
from typing import Any

__all__: list[str] = []

#: Frames under way in one direction at most: 30 ms of 8 Gbit/s.  Further ones are dropped.
_UNDER_WAY = 20_000
#: Frames that are read before what is due is written.
_BATCH = 32
_LONGEST_FRAME = 65_536
_ETHERNET_HEADER = 14
_TUNSETCARRIER = 0x400454E2


class Direction:
    """One way of a link."""

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self._sink = sink
        self._waiting: collections.deque[tuple[float, bytes]] = collections.deque()
        self._dice = random.Random()
        self._delay = self._jitter = self._loss = self._rate = self._queue = 0.0
        #: When the last bit of what was taken has left the sender.
        self._free_at = 0.0
        self._last_due = 0.0
        self.counts = dict.fromkeys(("carried", "lost", "overflowed"), 0)

    def impair(self, *, seed: int, delay: float, jitter: float, loss: float, rate: float, queue: float) -> None:
        """Apply to each frame that is taken from now on."""
        self._dice = random.Random(seed)
        self._delay, self._jitter, self._loss, self._rate, self._queue = delay, jitter, loss, rate, queue

    @property
    def due(self) -> float:
        """When the next frame has to be written."""
        return self._waiting[0][0] if self._waiting else float("inf")

    def read(self, limit: int) -> None:
        """Take so many of the frames that are there."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(limit):
                self._take(os.read(self.source, _LONGEST_FRAME), time.monotonic())

    def _take(self, frame: bytes, now: float) -> None:
        if self._loss and self._dice.random() < self._loss:
            self.counts["lost"] += 1
            return
        sent = now
        if self._rate:
            sent = max(now, self._free_at)
            if sent - now > self._queue:
                self.counts["overflowed"] += 1
                return
            sent = self._free_at = sent + (len(frame) - _ETHERNET_HEADER) * 8 / self._rate
        if len(self._waiting) >= _UNDER_WAY:
            self.counts["overflowed"] += 1
            return
        due = sent + self._delay
        if self._jitter:
            due += self._dice.uniform(-self._jitter, self._jitter)
        due = self._last_due = max(due, self._last_due)  # no frame overtakes another
        self._waiting.append((due, frame))

    def write(self, now: float) -> None:
        """Deliver what is due."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= now:
            _, frame = waiting.popleft()
            try:
                os.write(self._sink, frame)
            except OSError:
                self.counts["overflowed"] += 1  # the device is down
            else:
                self.counts["carried"] += 1


def carry(there: int, here: int) -> None:
    """Carry frames until the parent is gone."""
    directions = [Direction(there, here), Direction(here, there)]
    by_source = {direction.source: direction for direction in directions}
    heard = b""
    while True:
        now = time.monotonic()
        for direction in directions:
            direction.write(now)
        due = min(direction.due for direction in directions)
        # Unlike epoll, select waits to the microsecond.
        timeout = None if due == float("inf") else max(0.0, due - time.monotonic())
        for ready in select.select([0, there, here], [], [], timeout)[0]:
            if ready:
                by_source[ready].read(_BATCH)
                continue
            data = os.read(0, 65_536)
            if not data:
                return
            *lines, heard = (heard + data).split(b"\n")
            for line in lines:
                _obey(directions, json.loads(line))


def _obey(directions: list[Direction], order: dict[str, Any]) -> None:
    for direction in directions:
        direction.read(_UNDER_WAY)  # what was sent before the order is treated as before, and counts
    if "carrier" in order:
        for direction in directions:
            fcntl.ioctl(direction.source, _TUNSETCARRIER, struct.pack("i", order["carrier"]))
    elif order:
        seed = order.pop("seed")
        for number, direction in enumerate(directions):
            direction.impair(seed=seed + number, **order)
    os.write(1, json.dumps([direction.counts for direction in directions]).encode() + b"\n")


if __name__ == "__main__":
    carry(int(sys.argv[1]), int(sys.argv[2]))
