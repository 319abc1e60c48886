"""Consent to send, kept fresh on each pair by itself (RFC 7675)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from edgeice.addresses import Path
from edgeice.ice.checklist import Checklist
from edgeice.ice.config import Role
from edgeice.ice.pair import CandidatePair
from edgeice.ice.shared import Shared
from edgeice.sansio import Entropy

__all__ = ["Consent", "Consents"]

#: Unanswered requests that are remembered; at 4 s apart 8 reach over the 30 s in which an answer counts.
_OUTSTANDING: Final = 16


class Consent:
    """The peer's consent on one 5-tuple: granted by a check that succeeded, ended by 30 s without an answer.

    Each request is sent once under its own transaction id, and an answer counts as long as consent lasts, so that a
    round trip of several seconds harms nothing.  The peer's answer within 30 s is what counts, not how many requests
    went unanswered.
    """

    __slots__ = ("_entropy", "_interval", "_lifetime", "_outstanding", "due_at", "expires_at")

    def __init__(self, *, interval: float, lifetime: float, entropy: Entropy, now: float) -> None:
        self._interval = interval
        self._lifetime = lifetime
        self._entropy = entropy
        #: transaction id -> when it was sent, and in which role
        self._outstanding: dict[bytes, tuple[float, Role]] = {}
        self.expires_at = now + lifetime
        #: When the next request is due; None once one waits for its turn.
        self.due_at: float | None = now + self._spread()

    def _spread(self) -> float:
        # RFC 7675 §5.1: randomized, so that sessions do not fall into step, and never under 4 s.
        return self._interval * self._entropy.jitter.uniform(0.8, 1.2)

    def sent(self, transaction_id: bytes, role: Role, now: float) -> None:
        """Note a request; the next one is due one interval from now."""
        while len(self._outstanding) >= _OUTSTANDING:
            del self._outstanding[next(iter(self._outstanding))]
        self._outstanding[transaction_id] = (now, role)
        self.due_at = now + self._spread()

    def take(self, transaction_id: bytes) -> tuple[float, Role] | None:
        """When and in which role an open request was sent; it is closed by this.  None if there is none such."""
        return self._outstanding.pop(transaction_id, None)

    def expects(self, transaction_id: bytes) -> bool:
        """Whether an answer to this transaction may still come."""
        return transaction_id in self._outstanding

    def fades_at(self, ahead: float) -> float:
        """Until when the next answer must have come, for consent to be fresh: so long ahead of its end."""
        return max(self.expires_at - ahead, self.expires_at - self._lifetime)

    def renew(self, now: float) -> None:
        """An authentic answer came: consent lasts from now on.

        RFC 7675 §5.1: one that comes after the expiry revives nothing; by then this object is gone.
        """
        self.expires_at = now + self._lifetime


class Consents:
    """Consent on all pairs of a checklist: whose answer came, and what has ended."""

    __slots__ = ("_checklist", "_granted", "_shared")

    def __init__(self, shared: Shared, checklist: Checklist) -> None:
        self._shared = shared
        self._checklist = checklist
        #: Pairs that consent was given on; it may be over since, or the pair may be gone.
        self._granted: dict[CandidatePair, None] = {}

    def __iter__(self) -> Iterator[tuple[CandidatePair, Consent]]:
        """The pairs that there is consent on."""
        for pair in list(self._granted):
            if pair.consent is not None and self._checklist.get(*pair.key) is pair:
                yield pair, pair.consent
            else:
                self._granted.pop(pair, None)

    def grant(self, pair: CandidatePair, now: float) -> None:
        """A check on the pair succeeded (RFC 7675 §5.1)."""
        if pair.consent is None:
            config = self._shared.config
            pair.consent = Consent(
                interval=config.consent_interval,
                lifetime=config.consent_expiry,
                entropy=self._shared.entropy,
                now=now,
            )
            self._granted[pair] = None
        else:
            pair.consent.renew(now)

    def expects(self, transaction_id: bytes) -> bool:
        """Whether a response belongs to one of the open requests."""
        return any(consent.expects(transaction_id) for _, consent in self)

    def take(self, transaction_id: bytes, path: Path) -> tuple[CandidatePair, Consent, Role] | None:
        """Close the request that a response answers; gives its pair and the role that it claimed.

        A response from elsewhere answers nothing and is counted.
        """
        for pair, consent in self:
            if pair.path == path:
                sent = consent.take(transaction_id)
                if sent is not None:
                    return pair, consent, sent[1]
        self._shared.drops.count("unexpected_response")
        return None
