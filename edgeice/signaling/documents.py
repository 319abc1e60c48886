"""The signed documents that are no session messages: `info` and `audit` (contract §5)."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from edgeice.errors import DecodeError
from edgeice.signaling import members as m
from edgeice.signaling.jws import Claims, UnverifiedJws, decode, peek_claims, sign, verify
from edgeice.signaling.keys import PrivateKey, PublicKey
from edgeice.signaling.messages import VERSION, check_version
from edgeice.signaling.names import Party, Role
from edgeice.text import printable

__all__ = ["MAX_EPOCH", "Audit", "Info", "Limits", "SignedInfo", "open_audit", "open_info", "sign_audit", "sign_info"]

#: Leaves room for one more than the highest that is accepted.
MAX_EPOCH = m.MAX_INTEGER - 2

_LINKS = ("wired", "wifi", "cellular", "other")
_MAX_LABELS = 64
_EVENTS = ("opened", "refused", "narrowed", "ended")


@attrs.frozen
class Limits:
    """How many sessions a device takes, and of what."""

    #: Most at once.
    sessions: int
    #: How many were open when the document was signed.
    active: int = 0
    #: Channels of one session at once; None where the document does not say.
    channels: int | None = None

    def to_body(self) -> dict[str, object]:
        """The member `limits`."""
        body: dict[str, object] = {"sessions": self.sessions, "active": self.active}
        return body if self.channels is None else body | {"channels": self.channels}

    @classmethod
    def from_body(cls, limits: Claims) -> Limits:
        """Read the member `limits`; raises DecodeError("claims")."""
        channels = m.integer(limits, "channels", low=1) if "channels" in limits else None
        return cls(m.integer(limits, "sessions"), m.integer(limits, "active"), channels)


@attrs.frozen(kw_only=True)
class Info:
    """A device's birth document: what it is and how to reach it."""

    #: Version of its software.
    version: str
    #: What an offer of generation 0 must hold to prove that it is new.
    nonce: str
    #: Grows by one at each connect; orders the documents of one device.
    epoch: int
    #: Whether the device knows its clock to be right.
    time_synced: bool
    key: PublicKey
    labels: Mapping[str, str] = attrs.field(factory=dict)
    profile: str = ""
    #: Protocol names of the services that it has, such as `edgeice.shell.1`.
    services: tuple[str, ...] = ()
    #: `wired`, `wifi`, `cellular` or `other`.
    link: str = "other"
    metered: bool = False
    #: MQTT keep-alive in seconds: how long a silent death may stay unnoticed.
    keepalive: int = 60
    limits: Limits = Limits(sessions=8)

    def to_body(self) -> dict[str, object]:
        """The members of `body`."""
        return {
            "version": self.version,
            "nonce": self.nonce,
            "epoch": self.epoch,
            "time_synced": self.time_synced,
            "jwk": dict(self.key.jwk),
            "labels": dict(self.labels),
            "profile": self.profile,
            "services": list(self.services),
            "link": self.link,
            "metered": self.metered,
            "keepalive": self.keepalive,
            "limits": self.limits.to_body(),
        }

    @classmethod
    def from_body(cls, body: Claims, key: PublicKey) -> Info:
        """Read the members of `body`, whose `jwk` is `key`; raises DecodeError("claims")."""
        link = m.text(body, "link", limit=32)
        nonce = m.text(body, "nonce", limit=64)
        if not nonce:
            raise DecodeError("claims", "nonce: empty")
        return cls(
            version=printable(m.text(body, "version", limit=128)),
            nonce=nonce,
            epoch=m.integer(body, "epoch", high=MAX_EPOCH),
            time_synced=m.boolean(body, "time_synced"),
            key=key,
            labels=_labels(m.mapping(body, "labels")),
            profile=printable(m.text(body, "profile", limit=128)),
            services=m.string_list(body, "services", most=64, limit=64),
            # A kind of link that only newer devices know is no reason not to reach them.
            link=link if link in _LINKS else "other",
            metered=m.boolean(body, "metered"),
            keepalive=m.integer(body, "keepalive", high=65535),
            limits=Limits.from_body(m.mapping(body, "limits")),
        )


@attrs.frozen
class SignedInfo:
    """An `info` whose signature holds with the key that it carries: whose key that is stays to be decided."""

    device: Party
    info: Info
    iat: int


@attrs.frozen(kw_only=True)
class Audit:
    """One thing that an auditor wants to know about a session."""

    #: `opened`, `refused`, `narrowed` or `ended`.
    event: str
    operator: str
    kid: str
    sid: str
    why: str = ""
    want: tuple[str, ...] = ()

    def to_body(self) -> dict[str, object]:
        """The members of `body`."""
        return {
            "event": self.event,
            "operator": self.operator,
            "kid": self.kid,
            "sid": self.sid,
            "why": self.why,
            "want": list(self.want),
        }

    @classmethod
    def from_body(cls, body: Claims) -> Audit:
        """Read the members of `body`; raises DecodeError("claims")."""
        event = m.text(body, "event", limit=32)
        if event not in _EVENTS:
            raise DecodeError("claims", "event")
        return cls(
            event=event,
            operator=m.text(body, "operator", limit=64),
            kid=m.text(body, "kid", limit=43),
            sid=m.random_id(body, "sid"),
            why=printable(m.optional_text(body, "why", limit=4096) or ""),
            want=m.string_list(body, "want", most=32, limit=256) if "want" in body else (),
        )


def sign_info(device: Party, info: Info, key: PrivateKey, *, iat: int) -> bytes:
    """The JWS of a birth document; `iat` is Unix seconds."""
    return sign({"v": VERSION, "t": "info", "iss": str(device), "iat": iat, "body": info.to_body()}, key)


def open_info(data: bytes) -> SignedInfo:
    """Check an `info` with the key that stands in it; raises DecodeError.

    The caller matches `info.key` with the pin, and `device` with the topic.
    """
    unverified = decode(data)
    key = _key_inside(unverified)
    claims = verify(unverified, key).claims
    return SignedInfo(_device(claims, "info"), Info.from_body(m.mapping(claims, "body"), key), m.integer(claims, "iat"))


def sign_audit(device: Party, audit: Audit, key: PrivateKey, *, iat: int) -> bytes:
    """The JWS of an audit record; `iat` is Unix seconds."""
    return sign({"v": VERSION, "t": "audit", "iss": str(device), "iat": iat, "body": audit.to_body()}, key)


def open_audit(data: bytes, key: PublicKey) -> tuple[Party, Audit]:
    """Check an audit record with the device's key; raises DecodeError.  The caller matches the party with the topic."""
    claims = verify(decode(data), key).claims
    return _device(claims, "audit"), Audit.from_body(m.mapping(claims, "body"))


def _key_inside(unverified: UnverifiedJws) -> PublicKey:
    body = peek_claims(unverified).get("body")
    return PublicKey.from_jwk(body.get("jwk") if isinstance(body, dict) else None)


def _device(claims: Claims, kind: str) -> Party:
    check_version(claims)
    if claims.get("t") != kind:
        raise DecodeError("type", f"not {kind}")
    party = Party.parse(m.text(claims, "iss", limit=160))
    if party.role is not Role.DEVICE:
        raise DecodeError("claims", "iss is no device")
    return party


def _labels(members: Mapping[str, object]) -> dict[str, str]:
    if len(members) > _MAX_LABELS:
        raise DecodeError("claims", f"labels: at most {_MAX_LABELS}")
    return {printable(name, 64): printable(m.text(members, name, limit=256)) for name in members}
