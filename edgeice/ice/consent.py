"""Consent to send, kept fresh on each pair by itself (RFC 7675).

Its requests leave at intervals of 4 to 6 s to every peer, a lite one too, so they also do what keepalives are for
(RFC 8445 §11): no indications are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import attrs

from edgeice.addresses import Path
from edgeice.ice.checklist import Checklist
from edgeice.ice.config import Role
from edgeice.ice.liveness import Pulse
from edgeice.ice.pair import CandidatePair
from edgeice.ice.shared import Shared
from edgeice.sansio import Entropy
from edgeice.stun import Attribute, AuthenticatedMessage, MessageClass

__all__ = ["Consent", "ConsentAnswer", "Consents"]

#: Unanswered requests that are remembered: those that ask whether a silent path lives, in the time in which an answer
#: counts; at 4 s apart 8 are enough.
_OUTSTANDING: Final = 80
#: Seconds between requests on a metered pair that only waits: two more fit in before consent ends.
_SPARING_INTERVAL: Final = 12.0
#: The errors of RFC 7675 §5.2 and RFC 8445 §7.3.1.1.
_FORBIDDEN: Final = 403
_CONFLICT: Final = 487


class Consent:
    """The peer's consent on one 5-tuple: granted by a check that succeeded, ended by 30 s without an answer.

    Each request is sent once under its own transaction id, and an answer counts as long as consent lasts, so that a
    round trip of several seconds harms nothing.  The peer's answer within 30 s is what counts, not how many requests
    went unanswered.
    """

    __slots__ = ("_entropy", "_interval", "_lifetime", "_outstanding", "due_at", "expires_at", "pulse", "unanswered")

    def __init__(self, *, interval: float, lifetime: float, entropy: Entropy, now: float) -> None:
        self._interval = interval
        self._lifetime = lifetime
        self._entropy = entropy
        #: transaction id -> in which role it was sent, whether it nominated the pair, and when, as `Liveness` counts
        self._outstanding: dict[bytes, tuple[Role, bool, float]] = {}
        #: How long answers take here, and how many come.
        self.pulse = Pulse()
        self.expires_at = now + lifetime
        #: When the next request is due; None once one waits for its turn.
        self.due_at: float | None = now + self._spread(interval)
        #: Requests since the latest answer.
        self.unanswered = 0

    def _spread(self, interval: float) -> float:
        # RFC 7675 §5.1: randomized, so that sessions do not fall into step, and never under 4 s.
        return interval * self._entropy.jitter.uniform(0.8, 1.2)

    def sent(
        self, transaction_id: bytes, role: Role, now: float, *, nominates: bool = False, asked_at: float = 0.0
    ) -> None:
        """Note a request; the next one is due one interval from now.  `asked_at`: what `Liveness.ask` gave for it."""
        while len(self._outstanding) >= _OUTSTANDING:
            del self._outstanding[next(iter(self._outstanding))]
        self._outstanding[transaction_id] = (role, nominates, asked_at)
        self.unanswered += 1
        self.due_at = now + self._spread(self._interval)

    def take(self, transaction_id: bytes) -> tuple[Role, bool, float] | None:
        """What `sent` was told of an open request, which is closed by this; None if there is none such."""
        return self._outstanding.pop(transaction_id, None)

    def expects(self, transaction_id: bytes) -> bool:
        """Whether an answer to this transaction may still come."""
        return transaction_id in self._outstanding

    @property
    def renewed_at(self) -> float:
        """When it was given, or an answer came last."""
        return self.expires_at - self._lifetime

    def fades_at(self, ahead: float) -> float:
        """Until when the next answer must have come, for consent to be fresh: so long ahead of its end."""
        return max(self.expires_at - ahead, self.expires_at - self._lifetime)

    def renew(self, now: float, *, sparing: bool = False) -> None:
        """An authentic answer came: consent lasts from now on.

        RFC 7675 §5.1: one that comes after the expiry revives nothing; by then this object is gone.

        `sparing`: each byte costs, and no data goes here, so the next request comes later; one that is not answered is
        repeated no later than elsewhere.
        """
        self.expires_at = now + self._lifetime
        self.unanswered = 0
        if sparing and self.due_at is not None:
            self.due_at = now + self._spread(_SPARING_INTERVAL)

    def hasten(self, now: float) -> None:
        """Data goes here from now on: ask as often as where it does."""
        if self.due_at is not None:
            self.due_at = min(self.due_at, now + self._spread(self._interval))


@attrs.frozen
class ConsentAnswer:
    """What an authenticated response says about the pair that consent was asked on."""

    pair: CandidatePair
    #: The peer took the pair's nomination, which the request repeated.
    nominated: bool = False
    #: Nothing may be sent to the peer any more (RFC 7675 §5.2).
    revoked: bool = False
    #: The role that this side must take after a conflict (RFC 8445 §7.2.5.1).
    role: Role | None = None


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

    def grant(self, pair: CandidatePair, now: float, *, sparing: bool = False) -> None:
        """A check on the pair succeeded (RFC 7675 §5.1); `sparing` as in `Consent.renew`."""
        pair.note_answer(now)
        if pair.consent is None:
            config = self._shared.config
            pair.consent = Consent(
                interval=config.consent_interval,
                lifetime=config.consent_expiry,
                entropy=self._shared.entropy,
                now=now,
            )
            self._granted[pair] = None
            if pair.rtt is not None:
                pair.consent.pulse.measure(pair.rtt)
        else:
            pair.consent.renew(now, sparing=sparing)

    def next(self, wants: Callable[[CandidatePair], bool]) -> tuple[CandidatePair, Consent] | None:
        """Whose request waits for its turn and is needed soonest, of the pairs that are wanted."""
        waiting = [each for each in self if each[1].due_at is None and wants(each[0])]
        return min(waiting, key=lambda each: each[1].expires_at, default=None)

    def expects(self, transaction_id: bytes) -> bool:
        """Whether a response belongs to one of the open requests."""
        return any(consent.expects(transaction_id) for _, consent in self)

    def answer(
        self, response: AuthenticatedMessage, path: Path, *, spares: Callable[[CandidatePair], bool], now: float
    ) -> ConsentAnswer | None:
        """Close the request that a response answers, and renew consent where it is a success, some `sparing`.

        A response from elsewhere answers nothing and is counted.
        """
        for pair, consent in self:
            sent = consent.take(response.transaction_id) if pair.path == path else None
            if sent is None:
                continue
            role, nominates, asked_at = sent
            if response.message_class is MessageClass.SUCCESS:
                consent.renew(now, sparing=spares(pair))
                pair.note_answer(now)
                pair.responses_received += 1
                self._shared.liveness.answer(consent.pulse, asked_at, now=now)
                pair.rtt = consent.pulse.srtt
                return ConsentAnswer(pair, nominated=nominates)
            error = response.get(Attribute.ERROR_CODE)
            code = 0 if error is None else error.code
            return ConsentAnswer(pair, revoked=code == _FORBIDDEN, role=role.opposite if code == _CONFLICT else None)
        self._shared.drops.count("unexpected_response")
        return None
