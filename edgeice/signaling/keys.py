"""Ed25519 keys in the forms that people and the wire use (contract §3).

To people a key is shown as OpenSSH shows it (`SHA256:…`), on the wire it is named by its `kid`, the RFC 7638
thumbprint.  Nothing here opens a file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Callable, Mapping
from functools import cached_property

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edgeice.errors import ConfigError, DecodeError
from edgeice.sansio import Entropy
from edgeice.signaling.encoding import b64url_decode, b64url_encode, b64url_sha256

__all__ = ["PrivateKey", "PublicKey"]

_SSH_TYPE = b"ssh-ed25519"
_SSH_MAGIC = b"openssh-key-v1\0"
#: What an unencrypted file with one key begins with: no cipher, no key derivation, no options of it.
_SSH_PLAIN = _SSH_MAGIC + b"\0\0\0\4none\0\0\0\4none\0\0\0\0\0\0\0\1"
_SSH_BEGIN = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_SSH_END = b"-----END OPENSSH PRIVATE KEY-----"


class PublicKey:
    """An Ed25519 public key; equal where the 32 bytes are equal."""

    def __init__(self, raw: bytes) -> None:
        """Take the 32 bytes of RFC 8032; raises DecodeError("key") where they are no key."""
        try:
            self._key = Ed25519PublicKey.from_public_bytes(raw)
        except ValueError:
            raise DecodeError("key", "not an Ed25519 public key") from None
        self.raw = bytes(raw)

    @classmethod
    def from_openssh(cls, line: str) -> PublicKey:
        """Read a one-line public key, with or without a comment; raises ConfigError that says what is wrong."""
        fields = line.split(None, 2)
        if "PRIVATE KEY" in line:
            raise ConfigError("this is a private key; the public one is wanted (the file whose name ends in .pub)")
        if len(fields) < 2 or fields[0] != _SSH_TYPE.decode():
            kind = fields[0][:40] if fields else "nothing"
            raise ConfigError(f"expected a line 'ssh-ed25519 AAAA…', found {kind!r} (ssh-keygen -t ed25519 makes one)")
        try:
            blob = base64.b64decode(fields[1].encode("ascii"), validate=True)
            kind_bytes, raw, rest = _ssh_strings(blob)
        except (ValueError, binascii.Error):
            raise ConfigError("the ssh-ed25519 key is cut off or damaged") from None
        if kind_bytes != _SSH_TYPE or len(raw) != 32 or rest:
            raise ConfigError("the ssh-ed25519 key is cut off or damaged")
        try:
            return cls(raw)
        except DecodeError:
            raise ConfigError("the ssh-ed25519 key is not a valid Ed25519 key") from None

    @classmethod
    def from_jwk(cls, jwk: object) -> PublicKey:
        """Read a JWK (RFC 8037 §2); raises DecodeError("jwk")."""
        if not isinstance(jwk, dict) or jwk.get("kty") != "OKP" or jwk.get("crv") != "Ed25519" or "d" in jwk:
            raise DecodeError("jwk", "not an Ed25519 public JWK")
        x = jwk.get("x")
        raw = b64url_decode(x) if isinstance(x, str) else b""
        if len(raw) != 32:
            raise DecodeError("jwk", "x is not 32 bytes")
        return cls(raw)

    @cached_property
    def kid(self) -> str:
        """The RFC 7638 thumbprint (SHA-256, base64url): 43 characters."""
        x = b64url_encode(self.raw)
        return b64url_sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode("ascii"))

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` shows it: `SHA256:` and base64 without padding."""
        digest = hashlib.sha256(self._ssh_blob()).digest()
        return "SHA256:" + base64.b64encode(digest).rstrip(b"=").decode("ascii")

    @property
    def jwk(self) -> Mapping[str, str]:
        """The public JWK of RFC 8037."""
        return {"kty": "OKP", "crv": "Ed25519", "x": b64url_encode(self.raw)}

    def openssh(self, comment: str = "") -> str:
        """The one-line form, without a line end."""
        line = f"{_SSH_TYPE.decode()} {base64.b64encode(self._ssh_blob()).decode('ascii')}"
        return f"{line} {comment}" if comment else line

    @property
    def cryptography_key(self) -> Ed25519PublicKey:
        """The key object of `cryptography`."""
        return self._key

    def _ssh_blob(self) -> bytes:
        return _ssh_string(_SSH_TYPE) + _ssh_string(self.raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other.raw == self.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"<PublicKey {self.fingerprint}>"


class PrivateKey:
    """An Ed25519 private key; its repr and errors never hold the secret."""

    def __init__(self, key: Ed25519PrivateKey, public: PublicKey | None = None) -> None:
        """Take a key, and its public half where that was read with it."""
        self._key = key
        if public is None:
            from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415  # as below

            public = PublicKey(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
        self.public = public

    @classmethod
    def generate(cls, entropy: Entropy) -> PrivateKey:
        """Make a new key from 32 unguessable bytes (RFC 8032 §5.1.5)."""
        return cls(Ed25519PrivateKey.from_private_bytes(entropy.token_bytes(32)))

    @classmethod
    def load(cls, data: bytes, *, source: str, passphrase: Callable[[], bytes] | None = None) -> PrivateKey:
        """Read a private key file's content: OpenSSH or PKCS#8 PEM.

        Args:
            data: What the file holds.
            source: Its name, for messages.
            passphrase: Called once where the key is encrypted; None where nobody can be asked.

        Raises:
            ConfigError: The content is no usable Ed25519 private key; the message says what to do.
        """
        if (plain := _read_plain_ssh(data)) is not None:
            return plain
        # Every form of every key, 1 MiB: not for the key that `edgeice-agent init` and ssh-keygen write.
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
            load_pem_private_key,
            load_ssh_private_key,
        )

        is_ssh = _SSH_BEGIN in data
        secret: bytes | None = None
        if _is_encrypted_ssh(data, source) if is_ssh else b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data:
            if passphrase is None:
                raise ConfigError(
                    f"{source}: the key is encrypted, and nobody can be asked for its passphrase; "
                    f"use an unencrypted key (ssh-keygen -p -f {source} removes the passphrase)"
                )
            if is_ssh:
                _need_bcrypt(source)
            secret = passphrase()
        elif not is_ssh and b"-----BEGIN PRIVATE KEY-----" not in data:
            raise ConfigError(
                f"{source}: {_what_it_is(data)}; an Ed25519 private key in OpenSSH or PKCS#8 PEM form is needed"
            )
        try:
            key = load_ssh_private_key(data, secret) if is_ssh else load_pem_private_key(data, secret)
        except UnsupportedAlgorithm:
            raise ConfigError(
                f"{source}: the key's type or encryption is not supported; an Ed25519 key is needed"
            ) from None
        except (ValueError, TypeError, InternalError):
            # OpenSSL and OpenSSH forms fail alike here: the check bytes do not match, or OpenSSL cannot use the key.
            hint = "the passphrase is wrong, or the key is damaged" if secret is not None else "the key is damaged"
            raise ConfigError(f"{source}: {hint}") from None
        if not isinstance(key, Ed25519PrivateKey):
            kind = type(key).__name__.lstrip("_").removesuffix("PrivateKey")
            raise ConfigError(
                f"{source}: this is a key of type {kind}; an Ed25519 key is needed (ssh-keygen -t ed25519)"
            )
        return cls(key)

    def openssh_bytes(self) -> bytes:
        """The content of an unencrypted OpenSSH private key file."""
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415  # as in `load`
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        return self._key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())

    @property
    def cryptography_key(self) -> Ed25519PrivateKey:
        """The key object of `cryptography`."""
        return self._key

    def __repr__(self) -> str:
        return f"<PrivateKey {self.public.fingerprint}>"


def _read_plain_ssh(data: bytes) -> PrivateKey | None:
    """Read an unencrypted Ed25519 key in the one form that OpenSSH gives it; None for all else, which others judge."""
    head, _, rest = data.partition(_SSH_BEGIN)
    body, end, tail = rest.partition(_SSH_END)
    try:
        blob = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        return None
    # Two equal check words, the public key, the secret with the public key, a comment, and 1, 2, 3 … up to 8 bytes.
    at = len(_SSH_PLAIN) + 8 + len(_SSH_TYPE) + 4
    public, section = blob[at : at + 32], blob[at + 36 :]
    public_blob = _ssh_string(_SSH_TYPE) + _ssh_string(public)
    at = 8 + len(public_blob) + 4
    seed, rest = section[at : at + 32], section[at + 64 :]
    comment = rest[4 : 4 + int.from_bytes(rest[:4], "big")]
    known = section[:4] * 2 + public_blob + _ssh_string(seed + public) + _ssh_string(comment)
    plain = _SSH_PLAIN + _ssh_string(public_blob) + _ssh_string(known + bytes(range(1, -len(known) % 8 + 1)))
    if head.strip() or tail.strip() or not end or len(seed) != 32 or blob != plain:
        return None
    private = Ed25519PrivateKey.from_private_bytes(seed)
    try:
        read = PublicKey(public)
        read.cryptography_key.verify(private.sign(b""), b"")
    except (DecodeError, InvalidSignature):
        return None  # they do not belong together
    return PrivateKey(private, read)


def _ssh_string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _ssh_strings(blob: bytes) -> tuple[bytes, bytes, bytes]:
    """The first two length-prefixed strings of an OpenSSH blob, and what is left; raises ValueError."""
    strings: list[bytes] = []
    for _ in range(2):
        if len(blob) < 4:
            raise ValueError("cut off")
        length = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + length:
            raise ValueError("cut off")
        strings.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return strings[0], strings[1], blob


def _is_encrypted_ssh(data: bytes, source: str) -> bool:
    body = data.partition(_SSH_BEGIN)[2].partition(_SSH_END)[0]
    try:
        blob = base64.b64decode(b"".join(body.split()), validate=True)
        cipher = _ssh_strings(blob[len(_SSH_MAGIC) :] if blob.startswith(_SSH_MAGIC) else b"")[0]
    except (ValueError, binascii.Error):
        raise ConfigError(f"{source}: the key is damaged") from None
    return cipher != b"none"


def _need_bcrypt(source: str) -> None:
    # Only operators' encrypted keys need it, and it has no wheel for every device: imported late, on purpose.
    try:
        import bcrypt  # noqa: F401, PLC0415 - cryptography uses it; here only its absence matters
    except ImportError:
        raise ConfigError(
            f"{source}: an encrypted OpenSSH key needs the package bcrypt; run: pip install 'edgeice[operator]'"
        ) from None


def _what_it_is(data: bytes) -> str:
    if not data.strip():
        return "the file is empty"
    if data.startswith((b"ssh-", b"ecdsa-")):
        return "this is a public key"
    if b"-----BEGIN RSA" in data or b"-----BEGIN EC" in data or b"-----BEGIN DSA" in data:
        return "this is a key of another type"
    return "this is no private key"
