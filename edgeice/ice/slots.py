"""The generations of a session: current, pending, retiring, and how one follows the other."""

from __future__ import annotations

from typing import Final

import attrs

from edgeice.ice.generation import Generation

__all__ = ["Slots"]

#: Generations that restarts replaced and that still answer; of more, the oldest is dropped.
_RETIRING_LIMIT: Final = 2


@attrs.define
class _Retiring:
    generation: Generation
    until: float


class Slots:
    """Holds a session's generations.

    Attributes:
        current: Carries the session.
        pending: What a restart opened, until it nominates a pair or is given up.
    """

    __slots__ = ("_retire_time", "_retiring", "current", "pending")

    def __init__(self, first: Generation, retire_time: float) -> None:
        self.current = first
        self.pending: Generation | None = None
        self._retiring: list[_Retiring] = []
        self._retire_time = retire_time

    @property
    def newest(self) -> Generation:
        """The one that descriptions are about."""
        return self.pending or self.current

    @property
    def carrier(self) -> Generation:
        """The one that carries the session, or where it has no path is to do so."""
        return self.newest if self.current.best_pair is None else self.current

    def active(self) -> list[Generation]:
        """Those that check, current first."""
        return [self.current] if self.pending is None else [self.current, self.pending]

    def all(self) -> list[Generation]:
        """Those that answer."""
        return [*self.active(), *(each.generation for each in self._retiring)]

    def by_local(self, ufrag: str) -> Generation | None:
        """The one with this local ufrag."""
        return next((each for each in self.all() if each.local.ufrag == ufrag), None)

    def by_remote(self, ufrag: str) -> Generation | None:
        """The active one whose peer has this ufrag."""
        return next(
            (each for each in self.active() if each.remote is not None and each.remote.credentials.ufrag == ufrag), None
        )

    def expecting(self, transaction_id: bytes) -> Generation | None:
        """The one that sent a request and waits for its answer."""
        return next((each for each in self.all() if each.expects(transaction_id)), None)

    def promote(self, pending: Generation, *, now: float) -> None:
        """The pending one takes over; the one before answers for a while."""
        self.current.retire()
        self._retiring.append(_Retiring(self.current, now + self._retire_time))
        del self._retiring[:-_RETIRING_LIMIT]
        self.current, self.pending = pending, None

    def handle_timeout(self, *, now: float) -> None:
        """Drop those that have answered for long enough."""
        self._retiring = [each for each in self._retiring if each.until > now]

    def next_timeout(self) -> float | None:
        """When the next one is dropped."""
        return min((each.until for each in self._retiring), default=None)

    def clear(self) -> None:
        """Drop all but the one that carries the session."""
        self.current = self.carrier
        self.pending = None
        self._retiring = []
