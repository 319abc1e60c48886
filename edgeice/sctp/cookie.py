"""The state cookie (RFC 9260 §5.1.3): what a responder must remember, kept by the initiator, under a MAC.

No state is made before a cookie that was made here comes back.
"""

from __future__ import annotations

import hmac
import struct

import attrs

from edgeice.errors import DecodeError

__all__ = ["CookieSigner", "StateCookie"]

_FIELDS = struct.Struct("!dHHIIIIIHH??II")
_MAC_SIZE = 32


@attrs.frozen
class StateCookie:
    """Both ends' terms as INIT and INIT ACK stated them."""

    #: Machine time at which it was made, seconds.
    made_at: float
    local_port: int
    remote_port: int
    local_tag: int
    remote_tag: int
    local_tsn: int
    remote_tsn: int
    a_rwnd: int
    #: What the peer stated.
    remote_outbound: int
    remote_inbound: int
    forward_tsn: bool
    reconfig: bool
    #: Tags of the association that stood when it was made, else 0 (RFC 9260 §5.2.2).
    local_tie_tag: int = 0
    remote_tie_tag: int = 0


class CookieSigner:
    """Makes and checks cookies with one secret."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encode(self, cookie: StateCookie) -> bytes:
        """The cookie's bytes under a MAC."""
        body = _FIELDS.pack(*attrs.astuple(cookie))
        return body + hmac.digest(self._key, body, "sha256")

    def decode(self, data: bytes) -> StateCookie:
        """Check the MAC and read the cookie; raises DecodeError for anything not made by this signer."""
        if len(data) != _FIELDS.size + _MAC_SIZE:
            raise DecodeError("cookie-length")
        body = data[: _FIELDS.size]
        if not hmac.compare_digest(data[_FIELDS.size :], hmac.digest(self._key, body, "sha256")):
            raise DecodeError("cookie-mac")
        return StateCookie(*_FIELDS.unpack(body))
