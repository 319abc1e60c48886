"""Certificate fingerprints as session descriptions carry them (RFC 8122 §5)."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable

import attrs

__all__ = ["ExpectedFingerprints", "select_fingerprints"]

#: Hash functions by preference, with OpenSSL's names.  MD5 and MD2 must never be used (RFC 8122 §5); SHA-1 no
#: longer resists collisions and no WebRTC peer sends it alone.
_HASHES = {"sha-512": ("sha512", 64), "sha-384": ("sha384", 48), "sha-256": ("sha256", 32)}
_HEX_PAIRS = re.compile(r"[0-9A-F]{2}(?::[0-9A-F]{2})*", re.ASCII)


@attrs.frozen
class ExpectedFingerprints:
    """What the peer's certificate must match: one of `values` under one hash function."""

    #: OpenSSL's name of the hash function.
    digest_name: str
    #: Uppercase hex pairs separated by colons; may be empty, then nothing matches.
    values: tuple[bytes, ...]

    def matches(self, digest: bytes) -> bool:
        """True if a certificate's digest, in the form of `values`, is one of them."""
        return any(hmac.compare_digest(value, digest) for value in self.values)


def select_fingerprints(offered: Iterable[tuple[str, str]]) -> ExpectedFingerprints | None:
    """Pick those of the most preferred hash function among (algorithm, value) pairs (RFC 8122 §5.1).

    Letter case does not matter in either.  Unknown and broken hash functions are ignored; None when no other is
    offered.  A malformed value matches no certificate, and never makes a weaker hash function count.
    """
    by_hash: dict[str, list[str]] = {}
    for algorithm, value in offered:
        by_hash.setdefault(algorithm.lower(), []).append(value.upper())
    for name, (digest_name, size) in _HASHES.items():
        if name in by_hash:
            length = 3 * size - 1
            values = [v.encode() for v in by_hash[name] if len(v) == length and _HEX_PAIRS.fullmatch(v)]
            return ExpectedFingerprints(digest_name, tuple(values))
    return None
