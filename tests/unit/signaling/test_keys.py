from __future__ import annotations

import base64
import builtins
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from edgeice.errors import ConfigError, DecodeError
from edgeice.signaling import PrivateKey, PublicKey
from tests.unit.signaling.kit import ALICE_KEY, MALLORY_KEY, make_key

# RFC 8037 appendix A: the key of A.1, its thumbprint of A.3.
RFC_JWK = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
RFC_KID = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def pkcs8(key: PrivateKey, passphrase: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.cryptography_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def openssh_encrypted(key: PrivateKey, passphrase: bytes) -> bytes:
    encryption = BestAvailableEncryption(passphrase)
    return key.cryptography_key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, encryption)


@pytest.fixture(scope="module")
def encrypted_ssh() -> bytes:
    return openssh_encrypted(ALICE_KEY, b"secret")


def test_kid_is_the_thumbprint_of_rfc_8037() -> None:
    key = PublicKey.from_jwk(RFC_JWK)
    assert key.kid == RFC_KID
    assert key.jwk == RFC_JWK


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_openssh_agrees_about_the_forms(tmp_path: Path) -> None:
    private = tmp_path / "key"
    private.write_bytes(ALICE_KEY.openssh_bytes())
    private.chmod(0o600)
    public = subprocess.run(["ssh-keygen", "-y", "-f", private], capture_output=True, check=True, text=True).stdout
    assert public.split()[:2] == ALICE_KEY.public.openssh().split()
    (tmp_path / "key.pub").write_text(ALICE_KEY.public.openssh("alice@desk") + "\n")
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", tmp_path / "key.pub"], capture_output=True, check=True, text=True
    ).stdout
    assert shown.split() == ["256", ALICE_KEY.public.fingerprint, "alice@desk", "(ED25519)"]


def test_private_keys_are_written_and_read() -> None:
    for data in (ALICE_KEY.openssh_bytes(), pkcs8(ALICE_KEY)):
        assert PrivateKey.load(data, source="k").public == ALICE_KEY.public


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
@pytest.mark.parametrize("comment", ["", "alice@desk", "ä" * 40])
def test_what_ssh_keygen_writes_is_read_without_the_readers_of_all_forms(
    comment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(tmp_path / "key")]
    subprocess.run(command, check=True)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.serialization", None)
    key = PrivateKey.load((tmp_path / "key").read_bytes(), source="k")
    assert key.public == PublicKey.from_openssh((tmp_path / "key.pub").read_text())


def test_a_public_key_of_another_beside_the_secret_is_not_believed() -> None:
    lines = ALICE_KEY.openssh_bytes().splitlines()
    blob = base64.b64decode(b"".join(lines[1:-1])).replace(ALICE_KEY.public.raw, MALLORY_KEY.public.raw)
    data = b"\n".join([lines[0], base64.b64encode(blob), lines[-1]])
    assert PrivateKey.load(data, source="k").public == ALICE_KEY.public


def test_encrypted_keys_ask_once(encrypted_ssh: bytes) -> None:
    for data in (encrypted_ssh, pkcs8(ALICE_KEY, b"secret")):
        asked: list[int] = []

        def ask(asked: list[int] = asked) -> bytes:
            asked.append(1)
            return b"secret"

        assert PrivateKey.load(data, source="k", passphrase=ask).public == ALICE_KEY.public
        assert asked == [1]


def test_wrong_passphrases_are_said(encrypted_ssh: bytes) -> None:
    for data in (encrypted_ssh, pkcs8(ALICE_KEY, b"secret")):
        with pytest.raises(ConfigError, match="k: the passphrase is wrong"):
            PrivateKey.load(data, source="k", passphrase=lambda: b"guess")


def test_encrypted_keys_without_anybody_to_ask(encrypted_ssh: bytes) -> None:
    for data in (encrypted_ssh, pkcs8(ALICE_KEY, b"secret")):
        with pytest.raises(ConfigError, match=r"k: the key is encrypted.*ssh-keygen -p -f k"):
            PrivateKey.load(data, source="k")


def test_encrypted_openssh_keys_without_bcrypt(encrypted_ssh: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_bcrypt(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "bcrypt":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_bcrypt)
    with pytest.raises(ConfigError, match=r"k: .*needs the package bcrypt; run: pip install 'edgeice\[operator\]'"):
        PrivateKey.load(encrypted_ssh, source="k", passphrase=lambda: b"secret")


def ec_key(form: PrivateFormat) -> bytes:
    return ec.derive_private_key(7, ec.SECP256R1()).private_bytes(Encoding.PEM, form, NoEncryption())


def short_pkcs8() -> bytes:
    """A well-formed key of 31 bytes (RFC 8410 §7 has 32)."""
    der = bytes.fromhex("302d020100300506032b6570042104") + bytes((31,)) + bytes(31)
    return b"-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(der) + b"\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "k: the file is empty"),
        (b"hello", "k: this is no private key"),
        (ALICE_KEY.public.openssh().encode(), "k: this is a public key"),
        (ec_key(PrivateFormat.TraditionalOpenSSL), "k: this is a key of another type"),
        (ec_key(PrivateFormat.PKCS8), "k: this is a key of type E"),
        (ec_key(PrivateFormat.OpenSSH), "k: this is a key of type E"),
        (ALICE_KEY.openssh_bytes()[:120], "k: the key is damaged"),
        (ALICE_KEY.openssh_bytes().replace(b"b3Blbn", b"b3Blbm"), "k: the key is damaged"),
        (pkcs8(ALICE_KEY).replace(b"MC4C", b"MC5C"), "k: the key is damaged"),
        (short_pkcs8(), "k: the key is damaged"),
    ],
)
def test_bad_key_files_are_explained(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrivateKey.load(data, source="k")


@given(st.binary(max_size=200))
def test_any_openssh_body_is_a_key_or_a_config_error(body: bytes) -> None:
    data = b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + body + b"\n-----END OPENSSH PRIVATE KEY-----\n"
    with pytest.raises(ConfigError):
        PrivateKey.load(data, source="k", passphrase=lambda: b"")


def test_public_lines_go_both_ways() -> None:
    line = ALICE_KEY.public.openssh("a comment with spaces")
    assert PublicKey.from_openssh(line) == ALICE_KEY.public
    assert PublicKey.from_openssh(ALICE_KEY.public.openssh()) == ALICE_KEY.public


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "found 'nothing'"),
        ("ssh-rsa AAAA", "found 'ssh-rsa'"),
        ("ssh-ed25519", "found 'ssh-ed25519'"),
        ("ssh-ed25519 ????", "damaged"),
        ("ssh-ed25519 ÄÄÄÄ", "damaged"),
        (ALICE_KEY.public.openssh()[:-4], "damaged"),
        (ALICE_KEY.public.openssh() + "AAAA", "damaged"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "this is a private key"),
    ],
)
def test_bad_public_lines_are_explained(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PublicKey.from_openssh(line)


@pytest.mark.parametrize(
    "jwk",
    [
        None,
        {},
        [],
        RFC_JWK | {"kty": "EC"},
        RFC_JWK | {"crv": "X25519"},
        RFC_JWK | {"x": "AAAA"},
        RFC_JWK | {"x": 7},
        RFC_JWK | {"x": RFC_JWK["x"] + "="},
        RFC_JWK | {"d": RFC_JWK["x"]},
    ],
)
def test_bad_jwks(jwk: object) -> None:
    with pytest.raises(DecodeError):
        PublicKey.from_jwk(jwk)


def test_secrets_are_not_shown() -> None:
    assert repr(ALICE_KEY) == f"<PrivateKey {ALICE_KEY.public.fingerprint}>"
    assert ALICE_KEY.public.fingerprint in repr(ALICE_KEY.public)


def test_keys_compare_by_value() -> None:
    again = make_key(2).public
    assert again == ALICE_KEY.public
    assert hash(again) == hash(ALICE_KEY.public)
    assert again != MALLORY_KEY.public
