"""Username fragments and passwords (RFC 8445 §5.3, RFC 8839 §5.4)."""

from __future__ import annotations

import base64
import re
from typing import Final

import attrs

from edgeice.errors import DecodeError
from edgeice.sansio import Entropy

__all__ = ["IceCredentials", "generate_credentials"]

# RFC 8839 §5.4: 4 to 256 and 22 to 256 ice-chars.
_UFRAG: Final = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PWD: Final = re.compile(r"[A-Za-z0-9+/]{22,256}")


@attrs.frozen
class IceCredentials:
    """What the checks of one generation are authenticated with; the password never shows in a repr."""

    ufrag: str
    pwd: str = attrs.field(repr=False)

    @classmethod
    def parse(cls, ufrag: str, pwd: str) -> IceCredentials:
        """Take credentials from a description; raises DecodeError if either is not what RFC 8839 §5.4 allows."""
        if not _UFRAG.fullmatch(ufrag):
            raise DecodeError("ice_ufrag")
        if not _PWD.fullmatch(pwd):
            raise DecodeError("ice_pwd")
        return cls(ufrag, pwd)

    @property
    def key(self) -> bytes:
        """The short-term key that signs what is sent to the holder of these credentials."""
        return self.pwd.encode("ascii")


def generate_credentials(entropy: Entropy) -> IceCredentials:
    """New credentials: 48 random bits of ufrag, 144 of password.

    RFC 8445 §5.3 asks for 24 and 128; the ufrag is longer because it also routes checks among a host's sessions.
    """
    ufrag = base64.b64encode(entropy.token_bytes(6)).decode("ascii")
    pwd = base64.b64encode(entropy.token_bytes(18)).decode("ascii")
    return IceCredentials(ufrag, pwd)
