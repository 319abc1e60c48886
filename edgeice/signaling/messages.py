"""The messages of the wire and their claims (contract §5).

Decoding has two steps because a device must be able to reject an offer whose body it does not understand: first the
`Envelope`, which says who, to whom and in which session, then the body by its type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TypeAlias

import attrs

from edgeice.errors import DecodeError
from edgeice.signaling import members as m
from edgeice.signaling.jws import Claims, sign
from edgeice.signaling.keys import PrivateKey
from edgeice.signaling.names import Party
from edgeice.text import printable

__all__ = [
    "MAX_CANDIDATES",
    "MAX_GENERATION",
    "VERSION",
    "Answer",
    "Bye",
    "ByeCode",
    "Candidates",
    "Envelope",
    "Offer",
    "Reject",
    "RejectCode",
    "Route",
    "SessionBody",
    "SessionMessage",
    "check_version",
    "decode_body",
    "sign_message",
]

VERSION = 1
#: Most candidates in one message, and most withdrawn ones.
MAX_CANDIDATES = 64
#: A generation beyond this is no restart but an attempt to leave no number for the next one.
MAX_GENERATION = 1_000_000

_MAX_SDP = 28 * 1024
_MAX_WANTS = 32
_MAX_WANT = 256
_MAX_CANDIDATE = 512
_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_CODE = re.compile(r"[a-z][a-z-]{0,31}")
_CANDIDATE = re.compile(r"candidate:[\x20-\x7e]+")


class RejectCode(StrEnum):
    """Why an offer is not answered."""

    UNAUTHORIZED = "unauthorized"
    EXPIRED = "expired"
    STALE_NONCE = "stale-nonce"
    BUSY = "busy"
    UNSUPPORTED = "unsupported"
    MALFORMED = "malformed"
    DRAINING = "draining"
    #: Answers a restart of a session that the device does not know, and which so is over.  Its `seq` is 0, as that of a
    #: first offer's reject is: who does not know the session knows no other.
    NO_SESSION = "no-session"


class ByeCode(StrEnum):
    """Why a session ends."""

    DONE = "done"
    SHUTDOWN = "shutdown"
    IDLE = "idle"
    LIMIT = "limit"
    REVOKED = "revoked"
    UNPROVEN = "unproven"
    LOST = "lost"
    ERROR = "error"


@attrs.frozen
class Offer:
    """A session description that wants an answer."""

    sdp: str
    #: Capabilities that the session wants to use; only at generation 0.
    want: tuple[str, ...] = ()

    def to_body(self, gen: int) -> dict[str, object]:
        """The members of `body`."""
        return {"sdp": self.sdp} if gen else {"sdp": self.sdp, "want": list(self.want)}


@attrs.frozen
class Answer:
    """The session description that answers an offer."""

    sdp: str

    def to_body(self, _gen: int) -> dict[str, object]:
        """The members of `body`."""
        return {"sdp": self.sdp}


@attrs.frozen
class Candidates:
    """Candidates found after their description was sent."""

    #: The sender's, naming the ICE generation.
    ufrag: str
    #: Each begins `candidate:` (RFC 8839 §5.1).
    candidates: tuple[str, ...]
    #: No more will come; between peers of `edgeice-mobility`, but for what a move of the host brings.
    end: bool = False
    #: Withdrawn ones, as they were told; they leave before those of `candidates` come.
    removed: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many candidates it speaks of; at least 1."""
        return max(1, len(self.candidates) + len(self.removed))

    def to_body(self, _gen: int) -> dict[str, object]:
        """The members of `body`."""
        body: dict[str, object] = {"ufrag": self.ufrag, "candidates": list(self.candidates), "end": self.end}
        if self.removed:
            body["removed"] = list(self.removed)
        return body


@attrs.frozen
class Reject:
    """An offer is refused; at generation 0, or where the code is `no-session`, this ends its `sid`."""

    #: A `RejectCode`, or a word that a newer peer knows.
    code: str
    reason: str = ""
    #: Seconds after which a new attempt may succeed.
    retry_after: int | None = None

    def to_body(self, _gen: int) -> dict[str, object]:
        """The members of `body`."""
        body: dict[str, object] = {"code": str(self.code), "reason": self.reason}
        if self.retry_after is not None:
            body["retry_after"] = self.retry_after
        return body


@attrs.frozen
class Bye:
    """The session ends."""

    #: A `ByeCode`, or a word that a newer peer knows.
    code: str
    reason: str = ""

    def to_body(self, _gen: int) -> dict[str, object]:
        """The members of `body`."""
        return {"code": str(self.code), "reason": self.reason}


SessionBody: TypeAlias = Offer | Answer | Candidates | Reject | Bye


def _decode_offer(body: Claims, gen: int) -> Offer:
    sdp = m.text(body, "sdp", limit=_MAX_SDP)
    if gen:
        return Offer(sdp)
    return Offer(sdp, m.string_list(body, "want", most=_MAX_WANTS, limit=_MAX_WANT))


def _decode_answer(body: Claims, _gen: int) -> Answer:
    return Answer(m.text(body, "sdp", limit=_MAX_SDP))


def _decode_candidates(body: Claims, _gen: int) -> Candidates:
    ufrag = m.text(body, "ufrag", limit=256)
    candidates = _candidate_list(body, "candidates")
    removed = _candidate_list(body, "removed") if "removed" in body else ()
    if not _UFRAG.fullmatch(ufrag):
        raise DecodeError("claims", "ufrag")
    return Candidates(ufrag, candidates, m.boolean(body, "end"), removed)


def _candidate_list(body: Claims, name: str) -> tuple[str, ...]:
    lines = m.string_list(body, name, most=MAX_CANDIDATES, limit=_MAX_CANDIDATE)
    if not all(map(_CANDIDATE.fullmatch, lines)):
        raise DecodeError("claims", name)
    return lines


def _code(body: Claims) -> str:
    code = m.text(body, "code", limit=32)
    if not _CODE.fullmatch(code):
        raise DecodeError("claims", "code")
    return code


def _decode_reject(body: Claims, _gen: int) -> Reject:
    retry_after = m.integer(body, "retry_after", high=86400 * 366) if "retry_after" in body else None
    return Reject(_code(body), printable(m.optional_text(body, "reason", limit=4096) or ""), retry_after)


def _decode_bye(body: Claims, _gen: int) -> Bye:
    return Bye(_code(body), printable(m.optional_text(body, "reason", limit=4096) or ""))


_DECODERS: Mapping[str, Callable[[Claims, int], SessionBody]] = {
    "offer": _decode_offer,
    "answer": _decode_answer,
    "candidates": _decode_candidates,
    "reject": _decode_reject,
    "bye": _decode_bye,
}
_TYPES: Mapping[type[SessionBody], str] = {
    Offer: "offer",
    Answer: "answer",
    Candidates: "candidates",
    Reject: "reject",
    Bye: "bye",
}


def check_version(claims: Claims) -> None:
    """Raise DecodeError("version") unless `v` is the integer 1."""
    version = claims.get("v")
    if type(version) is not int or version != VERSION:
        raise DecodeError("version", f"v is not {VERSION}")


@attrs.frozen
class Route:
    """Who wrote a session message to whom, and about what: what a reject needs, whatever else is wrong."""

    type: str
    iss: Party
    aud: Party
    sid: str
    gen: int

    @classmethod
    def decode(cls, claims: Claims) -> Route:
        """Read it; raises DecodeError for what no session message of any version is."""
        kind = m.text(claims, "t", limit=32)
        if kind not in _DECODERS:
            raise DecodeError("type", "not a session message")
        return cls(
            kind,
            Party.parse(m.text(claims, "iss", limit=160)),
            Party.parse(m.text(claims, "aud", limit=160)),
            m.random_id(claims, "sid"),
            m.integer(claims, "gen", high=MAX_GENERATION),
        )


@attrs.frozen
class Envelope:
    """All claims of a session message but its body, which is read once its type is known to be wanted."""

    route: Route
    iat: int
    exp: int
    seq: int
    nonce: str | None
    re: str | None
    body: Claims = attrs.field(repr=False)

    @classmethod
    def decode(cls, claims: Claims) -> Envelope:
        """Read it; raises DecodeError: "version", "sealed", "type" or "claims"."""
        check_version(claims)
        route = Route.decode(claims)
        if "sealed" in claims:
            raise DecodeError("sealed", "sealed bodies are not supported")
        first = route.type == "offer" and route.gen == 0
        answers = route.type in ("answer", "reject")
        return cls(
            route,
            iat=m.integer(claims, "iat"),
            exp=m.integer(claims, "exp"),
            seq=m.integer(claims, "seq"),
            nonce=m.text(claims, "nonce", limit=64) if first else None,
            re=m.text(claims, "re", limit=43) if answers else None,
            body=m.mapping(claims, "body"),
        )


def decode_body(envelope: Envelope) -> SessionBody:
    """Read the body by the envelope's type; raises DecodeError("claims")."""
    return _DECODERS[envelope.route.type](envelope.body, envelope.route.gen)


@attrs.frozen(kw_only=True)
class SessionMessage:
    """A session message to sign."""

    iss: Party
    aud: Party
    #: Unix seconds.
    iat: int
    #: Seconds from `iat` to `exp`.
    lifetime: int
    sid: str
    gen: int
    seq: int
    body: SessionBody
    nonce: str | None = None
    re: str | None = None

    def to_claims(self) -> dict[str, object]:
        """The payload, members in the order of the contract's table."""
        claims: dict[str, object] = {
            "v": VERSION,
            "t": _TYPES[type(self.body)],
            "iss": str(self.iss),
            "aud": str(self.aud),
            "iat": self.iat,
            "exp": self.iat + self.lifetime,
            "sid": self.sid,
            "gen": self.gen,
            "seq": self.seq,
        }
        if self.nonce is not None:
            claims["nonce"] = self.nonce
        if self.re is not None:
            claims["re"] = self.re
        claims["body"] = self.body.to_body(self.gen)
        return claims


def sign_message(message: SessionMessage, key: PrivateKey) -> bytes:
    """The JWS of a session message."""
    return sign(message.to_claims(), key)
