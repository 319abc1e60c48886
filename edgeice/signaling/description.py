"""The few facts of a session description that signaling needs; everything else is for whoever applies it.

Candidates are matched to their description by ufrag, and a restart must keep the DTLS fingerprint and role
(contract §5).
"""

from __future__ import annotations

import re

import attrs

__all__ = ["Description", "RestartGuard"]

_ATTRIBUTE = re.compile(r"^a=(ice-ufrag|fingerprint|setup|end-of-candidates)(?::(.*?))?[ \t]*\r?$", re.MULTILINE)


@attrs.frozen
class Description:
    """Facts of one session description."""

    #: In their order, each once: the first m-section's comes first.
    ufrags: tuple[str, ...]
    #: Lower-case algorithm, upper-case digest: `sha-256 AB:CD…`.
    fingerprints: frozenset[str]
    setups: frozenset[str]
    end_of_candidates: bool

    @classmethod
    def read(cls, sdp: str) -> Description:
        """Find the facts; absent ones are empty."""
        # Dictionaries serve as ordered sets.
        found: dict[str, dict[str, None]] = {"ice-ufrag": {}, "fingerprint": {}, "setup": {}, "end-of-candidates": {}}
        for match in _ATTRIBUTE.finditer(sdp):
            found[match[1]][(match[2] or "").strip()] = None
        prints = (value.split(None, 1) for value in found["fingerprint"])
        return cls(
            tuple(found["ice-ufrag"]),
            frozenset(f"{p[0].lower()} {p[1].upper()}" for p in prints if len(p) == 2),
            frozenset(value.lower() for value in found["setup"]),
            bool(found["end-of-candidates"]),
        )


_OPPOSITE = (("active", "passive"), ("passive", "active"))


class RestartGuard:
    """Remembers the peer's DTLS fingerprints and role, which a restart may not change (contract §5, §6)."""

    __slots__ = ("_fingerprints", "_setup")

    def __init__(self) -> None:
        self._fingerprints: frozenset[str] | None = None
        self._setup: str | None = None

    def allows(self, description: Description, *, offer: bool) -> bool:
        """Whether the peer may send this; before the first description anything goes."""
        if self._fingerprints is None:
            return True
        # A restart's offer says actpass or the present role, its answer the present role.
        allowed = {self._setup, "actpass"} if offer else {self._setup}
        keeps_role = self._setup is None or description.setups <= allowed
        return keeps_role and description.fingerprints == self._fingerprints

    def learn_offer(self, description: Description) -> None:
        """The peer's first offer."""
        if self._fingerprints is None:
            self._fingerprints = description.fingerprints

    def learn_own_answer(self, description: Description) -> None:
        """The own first answer takes one role and leaves the peer the other (RFC 8842 §5.2)."""
        if self._setup is None:
            self._setup = next((peer for own, peer in _OPPOSITE if own in description.setups), None)

    def learn_answer(self, description: Description) -> None:
        """The peer's first answer."""
        if self._fingerprints is None:
            self._fingerprints = description.fingerprints
            self._setup = next(iter(description.setups), None)
