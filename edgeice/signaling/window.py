"""The window in which each `seq` of a peer is accepted once (contract §5)."""

from __future__ import annotations

__all__ = ["WINDOW", "SequenceWindow"]

#: How far behind the highest accepted `seq` a message may come.
WINDOW = 64


class SequenceWindow:
    """Remembers which of the latest 64 sequence numbers came, whatever road they took."""

    __slots__ = ("_highest", "_seen")

    def __init__(self) -> None:
        self._highest = -1
        #: Bit n is set when `_highest - n` came.
        self._seen = 0

    def is_new(self, seq: int) -> bool:
        """Whether `seq` did not come yet and is not too old to tell."""
        behind = self._highest - seq
        return behind < 0 or (behind < WINDOW and not self._seen >> behind & 1)

    def mark(self, seq: int) -> None:
        """Remember `seq`; called once signature and claims hold."""
        ahead = seq - self._highest
        if ahead > 0:
            self._seen = (self._seen << min(ahead, WINDOW) | 1) & ((1 << WINDOW) - 1)
            self._highest = seq
        else:
            self._seen |= 1 << -ahead

    def all_below(self, seq: int) -> bool:
        """Whether nothing below `seq` can still come: all came, or are too old to be accepted."""
        for missing in range(max(0, self._highest - WINDOW + 1), seq):
            if missing > self._highest or not self._seen >> (self._highest - missing) & 1:
                return False
        return True
