"""JWS compact serialization, read strictly (RFC 7515, RFC 8037; contract §5).

Reading has two steps with two types: `decode` checks size, form, `typ` and `alg` of bytes that anybody may have
written, `verify` checks key and signature and only then parses the payload.  What either refuses is dropped and
counted by the caller, never answered.

No JOSE library: this profile has one algorithm and one form, so that signing is one call of `cryptography` and reading
is what `decode` does anyway, while such libraries load HTTP clients and every algorithm there is, 2 MiB on a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import attrs
from cryptography.exceptions import InvalidSignature

from edgeice.errors import DecodeError
from edgeice.signaling.encoding import b64url_decode, b64url_encode, b64url_sha256, dump_json, parse_json_object
from edgeice.signaling.keys import PrivateKey, PublicKey

__all__ = [
    "MAX_HEADER",
    "MAX_SIZE",
    "TYP",
    "Claims",
    "UnverifiedJws",
    "VerifiedJws",
    "decode",
    "peek_claims",
    "sign",
    "verify",
]

#: Largest payload of an MQTT message, and so the largest JWS (§1).
MAX_SIZE = 32 * 1024
#: Largest header, decoded (§5).
MAX_HEADER = 4 * 1024
#: The `typ` of session messages, `info` and `audit`; each kind of signed thing has its own (§3).
TYP = "edgeice+jws"

_ALGORITHM = "EdDSA"
_SIGNATURE_SIZE = 64

Claims: TypeAlias = Mapping[str, object]


@attrs.frozen
class UnverifiedJws:
    """A well-formed JWS that anybody may have written."""

    raw: bytes
    #: Thumbprint of the key that it says it was signed with.
    kid: str
    payload: bytes = attrs.field(repr=False)


@attrs.frozen
class VerifiedJws:
    """A JWS whose signature holds; its claims are strict JSON, and nothing more is known about them."""

    raw: bytes = attrs.field(repr=False)
    key: PublicKey
    claims: Claims

    @property
    def digest(self) -> str:
        """What `re` holds in the answer to this message: SHA-256 of the JWS, base64url."""
        return b64url_sha256(self.raw)


def decode(data: bytes, *, typ: str = TYP) -> UnverifiedJws:
    """Check size, form, `typ` and `alg`, in this order; raises DecodeError with the first failing one as reason."""
    if len(data) > MAX_SIZE:
        raise DecodeError("jws-size", f"{len(data)} bytes")
    parts = data.split(b".")
    if len(parts) != 3:
        raise DecodeError("jws-form", "not three parts")
    if len(parts[0]) > MAX_HEADER * 4 // 3 + 3:
        raise DecodeError("jws-size", "header")
    try:
        encoded = b64url_decode(parts[0])
        payload = b64url_decode(parts[1])
        signature = b64url_decode(parts[2])
        header = parse_json_object(encoded)
    except DecodeError as error:
        raise DecodeError("jws-form", str(error)) from None
    if len(encoded) > MAX_HEADER:
        raise DecodeError("jws-size", "header")
    kid = header.get("kid")
    if not isinstance(kid, str) or len(signature) != _SIGNATURE_SIZE:
        raise DecodeError("jws-form", "kid or signature")
    if "crit" in header or "b64" in header:
        raise DecodeError("jws-form", "crit or b64")
    if header.get("typ") != typ:
        raise DecodeError("jws-typ", f"not {typ}")
    if header.get("alg") != _ALGORITHM:
        raise DecodeError("jws-alg", f"not {_ALGORITHM}")
    return UnverifiedJws(bytes(data), kid, payload)


def peek_claims(message: UnverifiedJws) -> Claims:
    """The claims before any signature was checked, only to find a key that stands in the payload (§5)."""
    try:
        return parse_json_object(message.payload)
    except DecodeError as error:
        raise DecodeError("claims", str(error)) from None


def verify(message: UnverifiedJws, key: PublicKey) -> VerifiedJws:
    """Check key, signature and the payload's form, in this order.

    Raises:
        DecodeError: "jws-key" where `kid` is not the thumbprint of `key`, "jws-signature", "claims".
    """
    if message.kid != key.kid:
        raise DecodeError("jws-key", "kid is another key's")
    # RFC 7515 §5.2 step 8: what is signed is what was received, not what it decodes to.
    signed, _, signature = message.raw.rpartition(b".")
    try:
        key.cryptography_key.verify(b64url_decode(signature), signed)
    except InvalidSignature:
        raise DecodeError("jws-signature") from None
    return VerifiedJws(message.raw, key, peek_claims(message))


def sign(claims: Claims, key: PrivateKey, *, typ: str = TYP) -> bytes:
    """Make a JWS; equal claims and keys give equal bytes (Ed25519 is deterministic)."""
    header = {"alg": _ALGORITHM, "kid": key.public.kid, "typ": typ}
    signed = b".".join(b64url_encode(dump_json(part)).encode("ascii") for part in (header, claims))
    return signed + b"." + b64url_encode(key.cryptography_key.sign(signed)).encode("ascii")
