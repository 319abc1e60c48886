"""How long to wait before the next attempt to reach the broker."""

from __future__ import annotations

import attrs

from edgeice.sansio import Entropy

__all__ = ["Backoff"]


@attrs.define
class Backoff:
    """Doubling delays with jitter: at most 1, 2, 4, … 60 s, from 1 s again after a stable connection.

    Each delay is spread over the upper half of its bound, so that a fleet that lost its broker at one moment does not
    come back at one moment.
    """

    entropy: Entropy
    #: Bound of the first delay, seconds.
    initial: float = 1.0
    #: Longest delay, seconds.
    maximum: float = 60.0
    #: A connection that lasted this long counts as stable, seconds.  A broker that accepts and then throws out at
    #: once (two clients under one name do this to each other) is not hurried.
    stable_after: float = 30.0
    _attempts: int = attrs.field(default=0, init=False)

    def next_delay(self) -> float:
        """Seconds to wait now; the one after will be about twice as long."""
        # 2**6 s is over a minute: the exponent stops growing, so that a year of failures overflows nothing.
        bound: float = min(self.initial * 2.0 ** min(self._attempts, 6), self.maximum)
        self._attempts += 1
        return bound * self.entropy.jitter.uniform(0.5, 1.0)

    def connection_lasted(self, seconds: float) -> None:
        """Note how long a connection lasted; a stable one makes the next delay short again."""
        if seconds >= self.stable_after:
            self.reset()

    def reset(self) -> None:
        """Begin anew with the first delay."""
        self._attempts = 0
