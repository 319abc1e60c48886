"""Whether a device takes an offer of generation 0: the checks of contract §5, in their order.

The cached answer comes before all of these and is the session's (`SignalingSession.receive`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import attrs

from edgeice.errors import DecodeError
from edgeice.sansio import Entropy
from edgeice.signaling.capabilities import first_uncovered
from edgeice.signaling.clock import check_times
from edgeice.signaling.events import SessionId
from edgeice.signaling.jws import VerifiedJws
from edgeice.signaling.messages import Envelope, Offer, Reject, RejectCode, decode_body
from edgeice.signaling.nonces import Freshness, NonceKeeper
from edgeice.signaling.slots import Slots
from edgeice.signaling.trust import OperatorLine
from edgeice.text import printable

__all__ = ["Admission", "Admitted", "Refused", "SdpCheck"]

#: Looks at an offer's description: None where it can be answered, otherwise the reject
#: (`malformed` or `unsupported`).  Raises nothing.
SdpCheck: TypeAlias = Callable[[str], Reject | None]


@attrs.frozen
class Admitted:
    """The offer may begin a session."""

    envelope: Envelope
    offer: Offer


@attrs.frozen
class Refused:
    """The offer is to be rejected."""

    reject: Reject
    #: The session's nonce, where the offer got as far as being new: it is used up once the reject is sent.
    nonce: str | None = None
    want: tuple[str, ...] = ()


class Admission:
    """Judges first offers whose signature holds."""

    def __init__(self, *, entropy: Entropy, slots: Slots, check_sdp: SdpCheck, floor: int) -> None:
        self.nonces = NonceKeeper(entropy)
        #: The device ends soon: running sessions go on, new ones are refused.
        self.draining = False
        self._slots = slots
        self._check_sdp = check_sdp
        self._floor = floor

    def judge(
        self,
        message: VerifiedJws,
        session: SessionId,
        lines: Sequence[OperatorLine],
        *,
        now: float,
        wall: int | None,
    ) -> Admitted | Refused:
        """Check an offer from the key and operator that `lines` trust; raises DecodeError("replayed")."""
        try:
            envelope = Envelope.decode(message.claims)
            check_times(envelope.iat, envelope.exp, wall=wall)
        except DecodeError as error:
            return Refused(_form_reject(error))
        assert envelope.nonce is not None
        match self.nonces.judge(envelope.nonce, session.kid, session.sid, now=now):
            case Freshness.STALE:
                return Refused(Reject(RejectCode.STALE_NONCE, "the nonce is not the device's present one"))
            case Freshness.REPLAYED:
                raise DecodeError("replayed")
            case Freshness.FRESH:
                return self._judge_fresh(envelope, envelope.nonce, session, lines, wall=wall)

    def _judge_fresh(  # noqa: PLR0911 - one return per check keeps their order plain
        self,
        envelope: Envelope,
        nonce: str,
        session: SessionId,
        lines: Sequence[OperatorLine],
        *,
        wall: int | None,
    ) -> Admitted | Refused:
        holding = [line for line in lines if line.holds(wall=wall, floor=self._floor)]
        if not holding:
            return Refused(Reject(RejectCode.EXPIRED, "the device's trust in this key has expired"), nonce)
        if self.draining:
            return Refused(Reject(RejectCode.DRAINING, "the device takes no new sessions"), nonce)
        try:
            offer = decode_body(envelope)
        except DecodeError as error:
            return Refused(_form_reject(error), nonce)
        assert isinstance(offer, Offer)
        uncovered = first_uncovered((capability for line in holding for capability in line.can), offer.want)
        if uncovered is not None:
            return Refused(Reject(RejectCode.UNAUTHORIZED, f"not allowed: {printable(uncovered)}"), nonce, offer.want)
        reject = self._check_sdp(offer.sdp)
        if reject is not None:
            return Refused(reject, nonce, offer.want)
        busy = self._slots.busy(session.kid)
        if busy is not None:
            return Refused(Reject(RejectCode.BUSY, busy.reason, busy.retry_after), nonce, offer.want)
        return Admitted(envelope, offer)


def _form_reject(error: DecodeError) -> Reject:
    codes = {"version": RejectCode.UNSUPPORTED, "sealed": RejectCode.UNSUPPORTED, "expired": RejectCode.EXPIRED}
    return Reject(codes.get(error.reason, RejectCode.MALFORMED), printable(str(error)))
