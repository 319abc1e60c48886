"""MESSAGE-INTEGRITY in both forms, FINGERPRINT, and long-term keys (RFC 8489 §9.2.2, §14.5-14.7)."""

from __future__ import annotations

import hashlib
import unicodedata
from binascii import crc32
from functools import lru_cache
from hmac import compare_digest
from struct import Struct
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.stun.values import PasswordAlgorithm

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["AuthenticationError", "Integrity", "long_term_key", "opaque_string", "userhash"]

#: sha1 is MESSAGE-INTEGRITY, sha256 is MESSAGE-INTEGRITY-SHA256 in its full 32 bytes.
Integrity: TypeAlias = Literal["sha1", "sha256"]

#: Size of the whole attribute, header included.
INTEGRITY_SIZES: Final[dict[Integrity, int]] = {"sha1": 24, "sha256": 36}
INTEGRITY_HEADERS: Final[dict[Integrity, bytes]] = {"sha1": b"\0\x08\0\x14", "sha256": b"\0\x1c\0\x20"}
FINGERPRINT_SIZE: Final = 8
_FINGERPRINT_MASK: Final = 0x5354554E

_pack_length = Struct("!H").pack

# SHA-1 and SHA-256 have blocks of the same size.
_BLOCK_SIZE: Final = 64
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))


class AuthenticationError(DecodeError):
    """A message is not from who it should be from.

    `code` is what a server answers a request with (RFC 8489 §9.1.3): 400 if what authentication needs is missing,
    401 if it does not verify.  Responses and indications with this error are dropped in silence.
    """

    def __init__(self, reason: str, code: Literal[400, 401]) -> None:
        super().__init__(reason)
        self.code = code


def fingerprint_value(before: bytes) -> int:
    """FINGERPRINT's value for the bytes `before` it, whose header already counts it (RFC 8489 §14.7)."""
    return crc32(before) ^ _FINGERPRINT_MASK


# Both hashes of HMAC (RFC 2104 §2) after their key block.  Taking copies of these halves the cost of hmac.digest for
# messages as short as connectivity checks; a session needs two keys, so the bound is generous, and a key that falls
# out is only computed again.
@lru_cache(maxsize=64)
def _keyed_hashes(key: bytes, algorithm: Integrity) -> tuple[_Hash, _Hash]:
    if len(key) > _BLOCK_SIZE:
        key = hashlib.new(algorithm, key).digest()
    block = key.ljust(_BLOCK_SIZE, b"\0")
    return hashlib.new(algorithm, block.translate(_INNER)), hashlib.new(algorithm, block.translate(_OUTER))


def integrity_value(key: bytes, covered: bytes, algorithm: Integrity) -> bytes:
    """HMAC of the bytes `covered`, whose header's length ends at the attribute (RFC 8489 §14.5, §14.6)."""
    keyed_inner, keyed_outer = _keyed_hashes(key, algorithm)
    inner = keyed_inner.copy()
    inner.update(covered)
    outer = keyed_outer.copy()
    outer.update(inner.digest())
    return outer.digest()


def verify(data: bytes, position: int, algorithm: Integrity, key: bytes) -> bool:
    """Whether the integrity attribute that starts at `position` is right for `key`, compared in constant time.

    The hash covers what stands before the attribute as it was received, so that padding need not be zero, and the
    header's length as it would be if the message ended here.
    """
    end = position + INTEGRITY_SIZES[algorithm]
    covered = data[:2] + _pack_length(end - 20) + data[4:position]
    return compare_digest(integrity_value(key, covered, algorithm), data[position + 4 : end])


def opaque_string(text: str) -> str:
    """Prepare a user name, realm or password (RFC 8489 §9.2.2, OpaqueString of RFC 8265 §4.2).

    Other spaces become U+0020 and the result is in form C.  Refused are an empty string and what the standard
    library can tell to be outside PRECIS' FreeformClass: controls, surrogates, private use, unassigned.

    Raises:
        LocalProtocolError: The text cannot be a credential.
    """
    spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in text)
    prepared = unicodedata.normalize("NFC", spaced)
    if not prepared or any(unicodedata.category(c) in {"Cc", "Cs", "Co", "Cn"} for c in prepared):
        raise LocalProtocolError("a user name, realm or password is empty or holds forbidden characters")
    return prepared


def long_term_key(
    username: str, realm: str, password: str, algorithm: PasswordAlgorithm = PasswordAlgorithm.MD5
) -> bytes:
    """Key of the long-term credential mechanism (RFC 8489 §18.5.1).

    Raises:
        LocalProtocolError: One of the three cannot be a credential, or the algorithm is unknown.
    """
    joined = ":".join((opaque_string(username), opaque_string(realm), opaque_string(password))).encode()
    if algorithm == PasswordAlgorithm.MD5:
        return hashlib.md5(joined, usedforsecurity=False).digest()
    if algorithm == PasswordAlgorithm.SHA256:
        return hashlib.sha256(joined).digest()
    raise LocalProtocolError(f"no such password algorithm: {algorithm!r}")


def userhash(username: str, realm: str) -> bytes:
    """Value of USERHASH, which hides the user name on the wire (RFC 8489 §14.4)."""
    return hashlib.sha256(f"{opaque_string(username)}:{opaque_string(realm)}".encode()).digest()
