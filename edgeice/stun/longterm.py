"""The long-term credential mechanism seen from the client: challenges, nonces and what they ask for (RFC 8489 §9.2).

`LongTerm` holds what one server said in its challenges, and gives what the next request to it carries.  How often a
request is sent again is for whoever sends it: see `edgeice.turn.requests`.
"""

from __future__ import annotations

import binascii
from enum import Enum
from typing import Final

from edgeice.errors import LocalProtocolError
from edgeice.stun.attributes import Attribute
from edgeice.stun.integrity import Integrity, long_term_key, userhash
from edgeice.stun.message import AuthenticatedMessage, Message, MessageClass
from edgeice.stun.values import SENT_LIMIT, PasswordAlgorithm, PasswordAlgorithmEntry

__all__ = ["Challenge", "LongTerm", "SecurityFeature", "discard_reason", "security_features"]

#: RFC 8489 §9.2: a nonce that starts so is followed by four base64 characters that hold 24 flags.
_NONCE_COOKIE: Final = b"obMatJos2"
_FLAGS_END: Final = len(_NONCE_COOKIE) + 4
#: RFC 8489 §9.2.5: these are challenges; all other responses are judged by their integrity.
CHALLENGE_CODES: Final = frozenset({401, 438})
#: The list is echoed in each request, which must stay small (RFC 8489 §6.1); there are two algorithms in all.
_MAX_ALGORITHMS: Final = 8


class SecurityFeature(Enum):
    """Flags in a nonce; bit 0 is the most significant of 24 (RFC 8489 §18.1)."""

    PASSWORD_ALGORITHMS = 0x800000
    USERNAME_ANONYMITY = 0x400000


def security_features(nonce: bytes) -> int:
    """The 24 flags in a nonce, 0 if it has none or they are not base64: a nonce like any other then (RFC 8489 §9.2)."""
    if not nonce.startswith(_NONCE_COOKIE) or len(nonce) < _FLAGS_END:
        return 0
    try:
        flags = binascii.a2b_base64(nonce[len(_NONCE_COOKIE) : _FLAGS_END])
    except binascii.Error:
        return 0
    return int.from_bytes(flags, "big") if len(flags) == 3 else 0


def _lacks_algorithms(response: Message | AuthenticatedMessage) -> bool:
    nonce = response.get(Attribute.NONCE)
    return (
        nonce is not None
        and bool(security_features(nonce) & SecurityFeature.PASSWORD_ALGORITHMS.value)
        and Attribute.PASSWORD_ALGORITHMS not in response
    )


def discard_reason(response: Message, *, signed: bool) -> str | None:
    """Why a response is to be treated as if it had never come, a slug; None if it is not (RFC 8489 §9.2.5).

    Args:
        response: Any response of the server.
        signed: Whether the request that it answers carried credentials.
    """
    error = response.get(Attribute.ERROR_CODE) if response.message_class is MessageClass.ERROR else None
    if error is not None and error.code in CHALLENGE_CODES:
        return None
    if _lacks_algorithms(response):
        return "bid_down"
    # Whoever strips or breaks a request on its way could end it by this.
    if signed and error is not None and error.code == 400 and not response.has_integrity:
        return "unsigned_400"
    return None


class Challenge(Enum):
    """What a 401 or 438 came to; the values are reasons for verdicts."""

    #: The next request carries what was asked for.
    ACCEPTED = "accepted"
    #: No REALM or NONCE, or one that cannot be sent back.
    MALFORMED = "challenge_malformed"
    #: The nonce says that algorithms follow, and none do, or they followed earlier (RFC 8489 §9.2.5).
    BID_DOWN = "bid_down"
    #: None of the server's algorithms is known here (RFC 8489 §9.2.5).
    NO_ALGORITHM = "no_password_algorithm"


class LongTerm:
    """One user's credentials on one server.

    Args:
        username: As it was given; sent as OpaqueString (RFC 8265 §4.2).
        password: The same; used for keys only.
    """

    __slots__ = (
        "_algorithm",
        "_algorithms",
        "_anonymous",
        "_nonce",
        "_password",
        "integrity",
        "key",
        "realm",
        "username",
    )

    def __init__(self, username: str, password: str) -> None:
        self.username: Final = username
        self._password = password
        #: The server's realm, None before its first challenge.
        self.realm: str | None = None
        #: What requests are signed with, None before the first challenge: they carry nothing then (RFC 8489 §9.2.3.1).
        self.key: bytes | None = None
        #: The form of integrity of requests, and the only one taken in responses (RFC 8489 §9.2.5).
        self.integrity: Integrity = "sha1"
        self._nonce = b""
        self._algorithms: tuple[PasswordAlgorithmEntry, ...] | None = None
        self._algorithm = PasswordAlgorithmEntry(PasswordAlgorithm.MD5)
        self._anonymous = False

    def __repr__(self) -> str:
        return f"<LongTerm realm={self.realm!r}>"

    def attributes(self) -> list[tuple[int, object]]:
        """What a request carries besides its own attributes; nothing before the first challenge."""
        if self.key is None or self.realm is None:
            return []
        # RFC 8489 §9.2.5: which of the two depends on the anonymity flag.
        who: tuple[int, object] = (
            (Attribute.USERHASH, userhash(self.username, self.realm))
            if self._anonymous
            else (Attribute.USERNAME, self.username)
        )
        attributes = [who, (Attribute.REALM, self.realm), (Attribute.NONCE, self._nonce)]
        if self._algorithms is not None:
            # RFC 8489 §9.2.5: the list unchanged, so that the server sees what became of it on its way.
            attributes.append((Attribute.PASSWORD_ALGORITHMS, self._algorithms))
            attributes.append((Attribute.PASSWORD_ALGORITHM, self._algorithm))
        return attributes

    def challenged(self, response: Message | AuthenticatedMessage) -> Challenge:
        """Take the realm, nonce and algorithms of a 401 or 438; nothing changes unless they are accepted."""
        nonce = response.get(Attribute.NONCE)
        realm = response.get(Attribute.REALM)
        if realm is None:
            realm = self.realm
        if not nonce or realm is None or len(nonce) > SENT_LIMIT or len(realm.encode()) > SENT_LIMIT:
            return Challenge.MALFORMED
        algorithms = response.get(Attribute.PASSWORD_ALGORITHMS)
        # A list that was there and is gone was taken away on its way too.
        if _lacks_algorithms(response) or (algorithms is None and self._algorithms is not None):
            return Challenge.BID_DOWN
        chosen: PasswordAlgorithmEntry | None = PasswordAlgorithmEntry(PasswordAlgorithm.MD5)
        if algorithms is not None:
            if len(algorithms) > _MAX_ALGORITHMS:
                return Challenge.MALFORMED
            chosen = _choose(algorithms)
        if chosen is None:
            return Challenge.NO_ALGORITHM
        try:
            key = long_term_key(self.username, realm, self._password, PasswordAlgorithm(chosen.algorithm))
        except LocalProtocolError:
            return Challenge.MALFORMED  # the realm holds what no realm may: user and password were checked before
        self.realm, self.key, self._nonce = realm, key, nonce
        self._algorithms, self._algorithm = algorithms, chosen
        # RFC 8489 §9.2.5: who is told of algorithms signs with SHA-256 only.
        self.integrity = "sha1" if algorithms is None else "sha256"
        self._anonymous = bool(security_features(nonce) & SecurityFeature.USERNAME_ANONYMITY.value)
        return Challenge.ACCEPTED


def _choose(offered: tuple[PasswordAlgorithmEntry, ...]) -> PasswordAlgorithmEntry | None:
    """SHA-256 wherever both ends have it (RFC 8656 §5; RFC 8489 §9.2.5 alone takes the first that is known)."""
    for algorithm in (PasswordAlgorithm.SHA256, PasswordAlgorithm.MD5):
        entry = PasswordAlgorithmEntry(algorithm)  # neither has parameters (RFC 8489 §18.5.1)
        if entry in offered:
            return entry
    return None
