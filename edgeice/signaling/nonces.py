"""Freshness without a clock: a device's nonces and its memory of used sessions (contract §5)."""

from __future__ import annotations

from enum import Enum, auto

from edgeice.sansio import Entropy
from edgeice.signaling.encoding import b64url_encode

__all__ = ["ACCEPTED_PER_NONCE", "PREVIOUS_TIME", "Freshness", "NonceKeeper"]

#: New sessions after which the nonce changes; bounds the memory of used ones.
ACCEPTED_PER_NONCE = 1024
#: Seconds for which the nonce before stays valid.
PREVIOUS_TIME = 120.0


class Freshness(Enum):
    """What a nonce and a (`kid`, `sid`) say about an offer."""

    FRESH = auto()
    #: The nonce is not, or no longer, valid.
    STALE = auto()
    #: The nonce is valid, but this session was offered before.
    REPLAYED = auto()


class NonceKeeper:
    """The current nonce, the one before, and which sessions used them."""

    __slots__ = ("_current", "_entropy", "_previous", "_previous_until", "_since_change", "_used", "_used_previous")

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._current = self._new()
        self._used: set[tuple[str, str]] = set()
        self._previous: str | None = None
        self._previous_until = 0.0
        self._used_previous: set[tuple[str, str]] = set()
        self._since_change = 0

    @property
    def current(self) -> str:
        """The nonce to publish."""
        return self._current

    def change(self, *, now: float) -> None:
        """Take a new nonce, as at each connect; the present one stays valid for 120 s, and what used it known."""
        self._previous, self._used_previous = self._current, self._used
        self._previous_until = now + PREVIOUS_TIME
        self._current, self._used = self._new(), set()
        self._since_change = 0

    def judge(self, nonce: str, kid: str, sid: str, *, now: float) -> Freshness:
        """Whether an offer with this nonce may begin this session."""
        used = self._memory(nonce, now)
        if used is None:
            return Freshness.STALE
        return Freshness.REPLAYED if (kid, sid) in used else Freshness.FRESH

    def use(self, nonce: str, kid: str, sid: str, *, now: float) -> bool:
        """Remember a session as used; True when the nonce changed with it and is to be published."""
        used = self._memory(nonce, now)
        if used is None:
            return False
        used.add((kid, sid))
        self._since_change += 1
        if self._since_change < ACCEPTED_PER_NONCE:
            return False
        self.change(now=now)
        return True

    def knows(self, kid: str, sid: str) -> bool:
        """Whether this session was offered while the nonce was valid, or the one before."""
        return (kid, sid) in self._used or (kid, sid) in self._used_previous

    def _memory(self, nonce: str, now: float) -> set[tuple[str, str]] | None:
        if nonce == self._current:
            return self._used
        return self._used_previous if nonce == self._previous and now < self._previous_until else None

    def _new(self) -> str:
        return b64url_encode(self._entropy.token_bytes(16))
