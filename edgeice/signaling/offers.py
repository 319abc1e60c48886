"""The offers of a session that stand: the own one with its repetitions, and the peer's with its cached reply."""

from __future__ import annotations

from enum import Enum, auto

import attrs

from edgeice.signaling.encoding import b64url_sha256
from edgeice.signaling.messages import Reject

__all__ = ["REPEATS", "LocalOffer", "OfferState", "RemoteOffer"]

#: Seconds after the first copy at which an unanswered offer is repeated byte for byte (§5).
REPEATS = (1.0, 2.0, 4.0)


class OfferState(Enum):
    """What became of an own offer."""

    PENDING = auto()
    #: Nobody answered: the generation is used up, but the peer may never have heard of it.
    EXPIRED = auto()
    #: Answered, rejected or canceled.
    SETTLED = auto()


@attrs.define
class LocalOffer:
    """The newest own offer."""

    gen: int
    jws: bytes
    sent_at: float
    repeats: int = 0
    state: OfferState = OfferState.PENDING

    @property
    def digest(self) -> str:
        """What the answer's `re` must hold."""
        return b64url_sha256(self.jws)

    def repeat_at(self) -> float | None:
        """When the next copy goes, None after the last one."""
        return self.sent_at + REPEATS[self.repeats] if self.repeats < len(REPEATS) else None


@attrs.define
class RemoteOffer:
    """The peer's offer that stands, until a higher generation takes its place."""

    gen: int
    jws: bytes
    digest: str
    #: The answer or reject, to be sent again when a copy of the offer comes.
    reply: bytes | None = None
    #: Why it is refused, while the rate limit keeps the reject back.
    refusal: Reject | None = None

    @property
    def is_open(self) -> bool:
        """Neither answered nor refused yet."""
        return self.reply is None and self.refusal is None
