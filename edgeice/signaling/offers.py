"""The offers of a session that stand: the own one with its repetitions, and the peer's with its cached reply."""

from __future__ import annotations

from enum import Enum, auto

import attrs

from edgeice.errors import DecodeError
from edgeice.signaling.encoding import b64url_sha256
from edgeice.signaling.messages import Envelope, Reject, RejectCode, decode_body

__all__ = ["REPEATS", "LocalOffer", "OfferState", "RemoteOffer", "disowning_reject", "pending_offer"]

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


def pending_offer(local: LocalOffer | None, envelope: Envelope) -> LocalOffer:
    """The own offer that an answer or reject is about; `re` binds them even where clocks are wrong.

    Raises DecodeError where there is none such.
    """
    if local is None or local.state is not OfferState.PENDING:
        raise DecodeError("nothing-pending")
    if local.gen != envelope.route.gen or local.digest != envelope.re:
        raise DecodeError("re-mismatch")
    return local


def disowning_reject(envelope: Envelope) -> Reject | None:
    """A device's word that it does not know the session of a restart, None for any other message.

    That it is new, `re` proves; its `seq`, which is 0, proves nothing.  Raises DecodeError.
    """
    if envelope.route.type != "reject" or not envelope.route.gen:
        return None
    body = decode_body(envelope)
    return body if isinstance(body, Reject) and body.code == RejectCode.NO_SESSION else None


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
