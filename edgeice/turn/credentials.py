"""Credentials for a TURN server: fixed ones, and those that a service derives from a shared secret for a while.

The secret stays with the service: devices and operators are handed user name and password (the TURN REST API, §2.2 of
its draft).
"""

from __future__ import annotations

import re
from base64 import b64encode
from hmac import digest
from typing import Final

import attrs

from edgeice.errors import ConfigError, LocalProtocolError
from edgeice.stun.integrity import opaque_string
from edgeice.stun.values import SENT_LIMIT

__all__ = ["TurnCredentials", "rest_credentials"]

_EXPIRY: Final = re.compile(r"([0-9]{1,12})(?::.*)?", re.ASCII | re.DOTALL)


@attrs.frozen
class TurnCredentials:
    """User name and password, prepared as OpaqueString (RFC 8489 §9.2.2, RFC 8265 §4.2).

    Preparation maps other spaces to U+0020, composes (form C) and refuses controls, surrogates, private use and
    unassigned characters.  The standard library has no table of PRECIS' exceptions and context rules (RFC 5892), so
    those are not checked: a server refuses what differs by them.

    Raises:
        ConfigError: One of the two is empty, too long, or holds forbidden characters.
    """

    username: str
    #: Never shown.
    password: str = attrs.field(repr=False)

    def __attrs_post_init__(self) -> None:
        for name in ("username", "password"):
            try:
                prepared = opaque_string(getattr(self, name))
            except LocalProtocolError:
                raise ConfigError(f"a TURN {name} is empty or holds forbidden characters") from None
            if len(prepared.encode()) > SENT_LIMIT:
                raise ConfigError(f"a TURN {name} has at most {SENT_LIMIT} bytes")
            object.__setattr__(self, name, prepared)

    @property
    def expires_at(self) -> int | None:
        """Until when they open new allocations, in seconds since 1970; None if the user name does not say."""
        match = _EXPIRY.fullmatch(self.username)
        return int(match[1]) if match else None


def rest_credentials(secret: str, *, expires_at: int, user: str = "") -> TurnCredentials:
    """Derive credentials that a server with the same secret accepts until `expires_at` (seconds since 1970).

    For the service that hands them out; the secret belongs on no device.
    """
    username = f"{expires_at}:{user}" if user else str(expires_at)
    password = b64encode(digest(secret.encode(), username.encode(), "sha1")).decode()
    return TurnCredentials(username, password)
