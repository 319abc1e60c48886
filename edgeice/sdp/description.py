"""What a session description says about a data-channel session, and the rules between offer and answer."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import attrs

from edgeice.errors import DecodeError

__all__ = [
    "DEFAULT_MAX_MESSAGE_SIZE",
    "OtherSection",
    "SessionDescription",
    "Setup",
    "answer",
    "answer_setup",
    "is_restart",
    "keeps_dtls",
]

Setup: TypeAlias = Literal["actpass", "active", "passive"]

#: What a peer takes that states no `a=max-message-size` (RFC 8841 §6.1).
DEFAULT_MAX_MESSAGE_SIZE: Final = 65536


@attrs.frozen
class OtherSection:
    """An m-section that is not the data channels': answers list it in its place, with port 0 (RFC 3264 §6).

    The one that leads the bundle cannot be rejected without the bundle's transport (RFC 9143 §7.3.3), and browsers
    refuse such an answer: it is kept, inactive, so that nothing ever flows.
    """

    #: `audio`, `video`, `application`, …
    media: str
    proto: str
    #: Media formats of the m-line, at least one.
    formats: tuple[str, ...]
    mid: str = ""
    #: It leads the data channels' bundle: its transport is theirs.
    leads: bool = False
    #: `rtpmap:…` and `fmtp:…` of its first format, which an answer repeats where it leads; empty elsewhere.
    codec: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class SessionDescription:
    """An offer or answer for one bundle of data channels (RFC 8839, RFC 8841, RFC 8842).

    `build` writes it and `parse` returns an equal one.  Values that stand at both levels are the media level's.
    """

    ufrag: str
    pwd: str = attrs.field(repr=False)
    #: (algorithm in lower case, value in upper case) pairs, at least one.
    fingerprints: tuple[tuple[str, str], ...]
    setup: Setup
    #: ICE options, without duplicates.
    options: tuple[str, ...] = ("trickle", "ice2")
    #: `a=ice-pacing` in milliseconds, as stated by its sender; None when not stated (RFC 8839 §5.5).
    pacing: int | None = None
    lite: bool = False
    #: `a=tls-id` (RFC 8842 §4), empty when not stated.
    tls_id: str = ""
    sctp_port: int = 5000
    #: Largest message that its sender takes, in bytes; 0 for any size (RFC 8841 §6).
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE
    #: `candidate:…` strings, without `a=`.
    candidates: tuple[str, ...] = ()
    end_of_candidates: bool = False
    #: Identification of the data channels' section, empty where it has none.
    mid: str = "0"
    #: Members of the BUNDLE group that holds `mid`; empty without one.
    bundle: tuple[str, ...] = ("0",)
    #: Protocol of the m-line; `DTLS/SCTP` is the form from before RFC 8841.
    proto: str = "UDP/DTLS/SCTP"
    #: Place of the data channels' m-section among all.
    index: int = 0
    #: All other m-sections, in order.
    others: tuple[OtherSection, ...] = ()
    #: The numbers of the o-line (RFC 8866 §5.2): the first stays, the second grows with each new description.
    session_id: int = 0
    session_version: int = 0

    @property
    def is_trickle(self) -> bool:
        """True if its sender takes candidates after the description (RFC 8840 §4.1.1)."""
        return "trickle" in self.options


def answer_setup(offered: Setup, present: Setup | None = None) -> Literal["active", "passive"]:
    """The answer's `a=setup`: active, the DTLS client, where there is a choice (RFC 8842 §5.3).

    `present` is this side's role in a DTLS association that goes on: it is kept (RFC 8842 §5.5).  Raises DecodeError
    (`setup`) where the offer would turn it round.
    """
    if offered == "actpass":
        return "passive" if present == "passive" else "active"
    forced: Literal["active", "passive"] = "passive" if offered == "active" else "active"
    if present in ("active", "passive") and present != forced:
        raise DecodeError("setup", "the offer changes the DTLS role")
    return forced


def answer(
    offer: SessionDescription, description: SessionDescription, *, present: Setup | None = None
) -> SessionDescription:
    """Turn a description of this side into the answer to `offer`: same m-sections, same order, same mids.

    The other sections are rejected and leave the bundle, but for the one that leads it.  Raises DecodeError as
    `answer_setup`.
    """
    kept = [other.mid for other in offer.others if other.leads]
    return attrs.evolve(
        description,
        setup=answer_setup(offer.setup, present),
        mid=offer.mid,
        bundle=(*kept, offer.mid) if offer.bundle else (),
        proto=offer.proto,
        index=offer.index,
        others=tuple(map(_answered, offer.others)),
    )


def _answered(other: OtherSection) -> OtherSection:
    if other.leads:
        return attrs.evolve(other, formats=other.formats[:1])
    # Payload types would want an a=rtpmap each; browsers write 0 in the sections that they reject.
    return attrs.evolve(other, formats=("0",)) if "RTP/" in other.proto else other


def is_restart(previous: SessionDescription, current: SessionDescription) -> bool:
    """True if `current` restarts ICE: both credentials differ (RFC 8839 §4.4.1.1.1).

    Raises DecodeError (`half-restart`) if one alone does.
    """
    changed = (previous.ufrag != current.ufrag, previous.pwd != current.pwd)
    if changed == (True, True):
        return True
    if any(changed):
        raise DecodeError("half-restart", "ufrag and pwd change together or not at all")
    return False


def keeps_dtls(previous: SessionDescription, current: SessionDescription) -> bool:
    """True if a peer's new description means the same DTLS association (RFC 8842 §4): same fingerprints and tls-id."""
    return set(previous.fingerprints) == set(current.fingerprints) and previous.tls_id == current.tls_id
