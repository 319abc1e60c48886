"""A numbered stream through a data channel: what is lost, comes twice or out of order shows, and how long it paused."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Final

__all__ = ["Stream"]

#: So many pieces may wait to arrive, and no more are sent.
_ROOM: Final = 400
#: Every so often one is larger than a packet.
_LARGE: Final = 2500


class Stream:
    """One end: it sends pieces of any size, and takes the peer's.

    Args:
        seed: Of sizes.
        complain: Told of what is wrong.
    """

    def __init__(self, seed: int, complain: Callable[[str], None]) -> None:
        self.peer: Stream
        self.channel: int | None = None
        self.sent = 0
        self.received = 0
        #: When the last piece came.
        self.heard_at: float | None = None
        #: The longest time between two pieces since `watch`.
        self.pause = 0.0
        self._watched_until = math.inf
        self._dice = random.Random(seed)
        self._complain = complain

    @property
    def has_room(self) -> bool:
        """Whether more may be under way."""
        return self.sent - self.peer.received < _ROOM

    @property
    def is_complete(self) -> bool:
        """Whether everything arrived."""
        return self.sent == self.peer.received

    def open(self, channel: int) -> None:
        """The channel is open."""
        self.channel = channel

    def next(self) -> bytes:
        """The next piece."""
        size = _LARGE if self._dice.random() < 0.02 else self._dice.randrange(1, 60)
        piece = self.sent.to_bytes(4, "big") + bytes([self.sent & 0xFF]) * size
        self.sent += 1
        return piece

    def receive(self, piece: bytes, now: float) -> None:
        """Take one of the peer's."""
        number = int.from_bytes(piece[:4], "big")
        if number != self.received or piece[4:].strip(bytes([number & 0xFF])):
            self._complain(f"piece {number} of {len(piece)} bytes came instead of {self.received}")
        self.received = number + 1
        if self.heard_at is not None and self.heard_at < self._watched_until:
            self.pause = max(self.pause, now - self.heard_at)
        self.heard_at = now

    def watch(self, now: float, until: float) -> None:
        """Measure the pauses that begin from now on until then."""
        self.pause, self.heard_at, self._watched_until = 0.0, now, until
