"""Short-lived credentials for relays, signed by an issuer for one party (contract §7).

The relays' shared secret stays with the issuer: a device or operator is handed user name and password for a while
(the TURN REST API), by a retained message on its own `turn` topic.
"""

from __future__ import annotations

from typing import Final

import attrs

from edgeice.errors import DecodeError
from edgeice.signaling import members as m
from edgeice.signaling.jws import decode, sign, verify
from edgeice.signaling.keys import PrivateKey, PublicKey
from edgeice.signaling.names import Party

__all__ = ["RELAY_TYP", "RelayCredentials", "open_relay", "sign_relay"]

#: The `typ` of relay credentials: no other kind of signed thing passes for them (§3).
RELAY_TYP: Final = "edgeice-turn+jws"

_MAX_URLS: Final = 8
#: RFC 8489 §14.3: a user name has less than 509 bytes.
_MAX_TEXT: Final = 508


@attrs.frozen(kw_only=True)
class RelayCredentials:
    """Relays, and what they let a party in with until `exp`."""

    #: Who issued them, for logs; the key is what counts.
    iss: str
    #: Unix seconds.
    iat: int
    exp: int
    #: `turn:` and `turns:` URIs (RFC 7065), not checked here.
    urls: tuple[str, ...]
    username: str
    credential: str = attrs.field(repr=False)


def sign_relay(party: Party, relay: RelayCredentials, key: PrivateKey) -> bytes:
    """The JWS that gives a party its credentials."""
    claims = {
        "iss": relay.iss,
        "aud": str(party),
        "iat": relay.iat,
        "exp": relay.exp,
        "body": {"urls": list(relay.urls), "username": relay.username, "credential": relay.credential},
    }
    return sign(claims, key, typ=RELAY_TYP)


def open_relay(data: bytes, key: PublicKey, party: Party, *, wall: float | None) -> RelayCredentials:
    """Check credentials with the issuer's key.

    Args:
        data: The message.
        key: The issuer's, as the configuration names it.
        party: Who received it.
        wall: Unix seconds, None while the clock is not known to be right: then the relay judges how old they are.

    Raises:
        DecodeError: Those of `jws.decode` and `jws.verify`, `audience` (they are another party's), `expired`.
    """
    claims = verify(decode(data, typ=RELAY_TYP), key).claims
    if claims.get("aud") != str(party):
        raise DecodeError("audience", "relay credentials of another party")
    body = m.mapping(claims, "body")
    relay = RelayCredentials(
        iss=m.text(claims, "iss", limit=160),
        iat=m.integer(claims, "iat"),
        exp=m.integer(claims, "exp"),
        urls=m.string_list(body, "urls", most=_MAX_URLS, limit=320),
        username=m.text(body, "username", limit=_MAX_TEXT),
        credential=m.text(body, "credential", limit=_MAX_TEXT),
    )
    if wall is not None and relay.exp <= wall:
        raise DecodeError("expired", f"relay credentials until {relay.exp}")
    return relay
