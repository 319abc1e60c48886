"""What the signaling machines ask their owner to do, and what they tell it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

from edgeice.sansio import Event
from edgeice.signaling.keys import PublicKey
from edgeice.signaling.names import Party

__all__ = [
    "AnswerReceived",
    "ByeReceived",
    "CandidatesReceived",
    "DeviceBusy",
    "DeviceKeyPresented",
    "DeviceNotSeen",
    "DeviceSaidAway",
    "EndOfCandidatesReceived",
    "FailureKind",
    "LocalOfferCanceled",
    "NothingHeard",
    "OfferExpired",
    "OfferNeeded",
    "OfferReceived",
    "OfferRefused",
    "OfferRejected",
    "OperatorFailed",
    "PublishInfo",
    "Road",
    "SendSignal",
    "SessionEnded",
    "SessionFailed",
    "SessionId",
    "SignalAction",
]

#: The road that a message came by: the broker, or the session's own data channel (§8).
Road = Literal["mqtt", "channel"]


@attrs.frozen(cache_hash=True)
class SessionId:
    """A session is (fleet, peer party, peer's kid, sid); the fleet stands in the party (§5)."""

    peer: Party
    kid: str
    sid: str

    def __str__(self) -> str:
        return f"{self.peer}/{self.sid}"


# Actions


@attrs.frozen
class SendSignal:
    """Send one JWS to the session's peer: publish it on its `rx` topic, write it to the signal channel, or both.

    What a road that is not up cannot take may be dropped: each message that matters is repeated or also goes the
    other road.
    """

    session: SessionId
    road: Literal["mqtt", "channel", "both"]
    #: Compact serialization, ASCII.
    jws: bytes = attrs.field(repr=False)
    #: Message expiry interval in seconds for MQTT 5 (§1).
    expiry: int


@attrs.frozen
class PublishInfo:
    """Sign and publish `info` with the present nonce, before any action that follows (§5, "Freshness")."""


SignalAction: TypeAlias = SendSignal | PublishInfo


# Events of a session, on either side


@attrs.frozen
class OfferReceived(Event):
    """The peer offers a generation; call `answer` or, for a restart, `reject`."""

    session: SessionId
    gen: int
    sdp: str = attrs.field(repr=False)
    #: Capabilities that the session may use and no others; only at generation 0.
    want: tuple[str, ...] = ()
    #: The own offer of this generation lost (glare): roll it back before applying this one.
    rolled_back: bool = False


@attrs.frozen
class AnswerReceived(Event):
    """The peer answered the own offer of this generation."""

    session: SessionId
    gen: int
    sdp: str = attrs.field(repr=False)


@attrs.frozen
class CandidatesReceived(Event):
    """Candidates for a description that was delivered before; also after their end, where ICE decides about them."""

    session: SessionId
    gen: int
    ufrag: str
    candidates: tuple[str, ...] = attrs.field(repr=False)
    #: Withdrawn ones; to be removed before those of `candidates` are added.
    removed: tuple[str, ...] = attrs.field(default=(), repr=False)


@attrs.frozen
class EndOfCandidatesReceived(Event):
    """The peer has told all its candidates of this generation; said once per generation."""

    session: SessionId
    gen: int
    ufrag: str


@attrs.frozen
class OfferRejected(Event):
    """The peer refuses the own offer; at generation 0 the session has ended with it."""

    session: SessionId
    gen: int
    code: str
    reason: str
    retry_after: int | None


@attrs.frozen
class LocalOfferCanceled(Event):
    """The peer's higher generation canceled the own pending offer: drop that generation."""

    session: SessionId
    gen: int


@attrs.frozen
class OfferExpired(Event):
    """Nobody answered the own offer in time: drop that generation; at generation 0 nothing is left."""

    session: SessionId
    gen: int


@attrs.frozen
class ByeReceived(Event):
    """The peer ended the session, or does not know it any more (`no-session`)."""

    session: SessionId
    code: str
    reason: str


# Events of a device


@attrs.frozen
class OfferRefused(Event):
    """An offer of generation 0 with a known key was refused: for the audit log, whether or not a reject was sent."""

    session: SessionId
    code: str
    reason: str
    want: tuple[str, ...]


@attrs.frozen
class SessionEnded(Event):
    """The device's own rules ended a session (`unproven`, `revoked`); its `bye` is among the actions."""

    session: SessionId
    code: str
    reason: str


@attrs.frozen
class SessionFailed(Event):
    """A defect: a session's machine raised what none may.  The session ended; its `bye` is among the actions."""

    session: SessionId
    error: Exception


# Events of an operator's attempt


@attrs.frozen
class DeviceKeyPresented(Event):
    """No pin is there: show the fingerprint, then call `accept_key` or `close`."""

    device: Party
    key: PublicKey


@attrs.frozen
class OfferNeeded(Event):
    """Make a description with a fresh DTLS key for this `sid` and call `offer`."""

    session: SessionId
    #: The nonce of the first offer was stale: whatever was made for it is void.
    retry: bool


@attrs.frozen
class DeviceSaidAway(Event):
    """The device's status is `off` or `lost`, or missing or outdated (`unknown`); it is tried anyway."""

    state: str


@attrs.frozen
class DeviceNotSeen(Event):
    """The broker has shown no `info` of the device so far: its name may be wrong; it is waited for all the same."""


@attrs.frozen
class NothingHeard(Event):
    """Five seconds of silence: the device may be away, or may not know this operator's key."""

    #: The operator's key, as OpenSSH shows it: what the device would have to trust.
    fingerprint: str


@attrs.frozen
class DeviceBusy(Event):
    """The device has no room for a session now; another offer goes out by itself, with its own `OfferNeeded`."""

    reason: str
    #: Seconds until then.
    again_in: float


FailureKind = Literal["no-info", "changed-key", "rejected", "no-answer"]


@attrs.frozen
class OperatorFailed(Event):
    """The attempt is over."""

    kind: FailureKind
    #: The device's code where it rejected, otherwise empty.
    code: str = ""
    reason: str = ""
    retry_after: int | None = None
    #: The key that the device shows, where `kind` is `changed-key`.
    key: PublicKey | None = None
