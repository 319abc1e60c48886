"""Decoders of signaling: signed documents and messages, their parts, names, topics, and the files of trusted keys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from edgeice.errors import ConfigError, DecodeError
from edgeice.sansio import Entropy
from edgeice.signaling import (
    AuthorizedOperators,
    KnownDevices,
    Party,
    PrivateKey,
    PublicKey,
    Topics,
    open_audit,
    open_info,
)
from edgeice.signaling.capabilities import check_capability, covers
from edgeice.signaling.documents import Audit, SignedInfo
from edgeice.signaling.encoding import b64url_decode, b64url_encode, dump_json, parse_json_object
from edgeice.signaling.jws import MAX_SIZE, TYP, UnverifiedJws, decode, verify
from edgeice.signaling.messages import Envelope, SessionBody, decode_body
from edgeice.signaling.names import Topic
from edgeice.signaling.presence import Status
from edgeice.signaling.relay import RELAY_TYP, RelayCredentials, open_relay
from tests.property.target import decoder

__all__ = ["SIGNED", "resigned", "signed_payloads"]

VECTORS = Path(__file__).parents[1] / "vectors" / "signaling"
_JSON = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"NaN",
    b"true",
    b'"v":1',
    b'"sealed":1',
    b"\\",
)


@cache
def _load(name: str) -> Mapping[str, str]:
    vector: Mapping[str, str] = json.loads((VECTORS / f"{name}.json").read_text())
    return vector


@cache
def _keys() -> Mapping[str, PrivateKey]:
    rows = json.loads((VECTORS / "keys.json").read_text())["keys"]
    return {
        name: PrivateKey.generate(Entropy(token_bytes=partial(_seed, bytes.fromhex(row["seed"]))))
        for name, row in rows.items()
    }


def _seed(seed: bytes, _size: int) -> bytes:
    return seed


@cache
def _names() -> Sequence[str]:
    return tuple(
        path.stem for path in sorted(VECTORS.glob("*.json")) if path.stem not in ("keys", "capabilities", "refused")
    )


def _jws_seeds() -> Sequence[bytes]:
    return tuple(_load(name)["jws"].encode() for name in _names())


def signed_payloads() -> Sequence[bytes]:
    """What is signed in the examples of the wire."""
    return tuple(_load(name)["payload"].encode() for name in _names())


def resigned(payload: bytes, key: PrivateKey, *, typ: str = TYP) -> bytes:
    """A JWS of any payload, whatever it holds."""
    header = dump_json({"alg": "EdDSA", "kid": key.public.kid, "typ": typ})
    signed = b".".join(b64url_encode(part).encode("ascii") for part in (header, payload))
    return signed + b"." + b64url_encode(key.cryptography_key.sign(signed)).encode("ascii")


def _jws_holds(data: bytes, message: UnverifiedJws) -> None:
    assert len(data) <= MAX_SIZE
    assert message.raw == data
    for key in _keys().values():
        try:
            claims = verify(message, key.public).claims
        except DecodeError:
            continue
        assert data in _jws_seeds() or claims == {}, "a signature holds for what was never signed"


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def _json_holds(data: bytes, value: dict[str, object]) -> None:
    assert json.loads(data, object_pairs_hook=_unique) == value
    json.dumps(value, ensure_ascii=False).encode()


def _base64_holds(data: bytes, value: bytes) -> None:
    assert b64url_encode(value).encode() == data


def _message(payload: bytes) -> SessionBody:
    key = _keys()["alice"]
    return decode_body(Envelope.decode(verify(decode(resigned(payload, key)), key.public).claims))


def _message_holds(_payload: bytes, body: SessionBody) -> None:
    again = body.to_body(0)
    assert dump_json(again)


def _info_holds(_payload: bytes, signed: SignedInfo) -> None:
    assert all(text.isprintable() for pair in signed.info.labels.items() for text in pair)
    assert signed.info.version.isprintable()
    assert signed.info.to_body()["jwk"] == dict(signed.info.key.jwk)


def _open_audit(payload: bytes) -> tuple[Party, Audit]:
    key = _keys()["device"]
    return open_audit(resigned(payload, key), key.public)


_RELAY = (
    b'{"iss":"lab/i/1","aud":"lab/d/pi17","iat":1800000000,"exp":1800003600,"body":'
    b'{"urls":["turn:relay.example.org:3478?transport=udp"],"username":"1800003600:pi17","credential":"c2VjcmV0"}}'
)


def _open_relay(payload: bytes) -> RelayCredentials:
    key = _keys()["alice"]
    jws = resigned(payload, key, typ=RELAY_TYP)
    return open_relay(jws, key.public, Party.device("lab", "pi17"), wall=1_800_000_000)


def _relay_holds(_payload: bytes, relay: RelayCredentials) -> None:
    assert relay.exp > 1_800_000_000
    assert len(relay.urls) <= 8


def _status_holds(_data: bytes, status: Status) -> None:
    assert Status.decode(status.encode()) == status


JWS = decoder("jws", _jws_seeds, decode, _jws_holds, tokens=(b".", b"=", b"-", b"_", b"A"))
JSON = decoder("json", signed_payloads, parse_json_object, _json_holds, tokens=_JSON, examples=300)
BASE64 = decoder(
    "base64url",
    lambda: (b"AAECAwQFBgcICQoLDA0ODw", b"", b"_-8"),
    b64url_decode,
    _base64_holds,
    tokens=(b"=", b"\n", b"+"),
)
MESSAGE = decoder("session-message", signed_payloads, _message, _message_holds, tokens=_JSON, examples=200)
INFO = decoder(
    "info",
    lambda: (_load("info")["payload"].encode(), _load("info_channels")["payload"].encode()),
    lambda payload: open_info(resigned(payload, _keys()["device"])),
    _info_holds,
    tokens=_JSON,
    examples=100,
)
RELAY = decoder(
    "relay-credentials",
    lambda: (_RELAY,),
    _open_relay,
    _relay_holds,
    tokens=_JSON,
    examples=100,
)
AUDIT = decoder("audit", lambda: (_load("audit")["payload"].encode(),), _open_audit, tokens=_JSON, examples=100)
STATUS = decoder(
    "status",
    lambda: (b'{"s":"ready","epoch":7}', b'{"epoch":0,"s":"lost"}'),
    Status.decode,
    _status_holds,
    tokens=_JSON,
)


# --- names


_TOPICS = Topics("lab")


def _topic_holds(data: bytes, topic: Topic) -> None:
    sender = topic.sender
    assert data.decode() == (_TOPICS.of(topic.kind, topic.owner) if sender is None else _TOPICS.rx(topic.owner, sender))


TOPIC = decoder(
    "topic",
    lambda: (
        b"edgeice/1/lab/d/pi17/status",
        b"edgeice/1/lab/d/pi17/info",
        b"edgeice/1/lab/d/pi17/rx/alice",
        b"edgeice/1/lab/o/alice/rx/pi17",
        b"edgeice/1/lab/d/pi17/audit",
    ),
    lambda data: _TOPICS.parse(data.decode("utf-8", "surrogateescape")),
    _topic_holds,
    tokens=(b"/", b"+", b"#", b"$SYS", b"\0", b"\n", b"rx", b"/d/", b"/o/"),
    examples=300,
)


def _party_holds(data: bytes, party: Party) -> None:
    assert str(party).encode() == data


PARTY = decoder(
    "party",
    lambda: (b"lab/d/pi17", b"lab/o/alice"),
    lambda data: Party.parse(data.decode("utf-8", "surrogateescape")),
    _party_holds,
    tokens=(b"/", b"d", b"o", b"\n"),
)


def _capability_holds(data: bytes, capability: str) -> None:
    assert covers(capability, capability)
    assert "," not in capability
    for want in ("shell", "forward:localhost:22", "telemetry:system", "forward:*:*"):
        covers(capability, want)
        covers("forward:*:*", capability)
        covers("telemetry:*", capability)


CAPABILITY = decoder(
    "capability",
    lambda: (
        b"shell",
        b"forward:localhost:22",
        b"forward:[::1]:*",
        b"files:read:/srv/*",
        b"telemetry:*",
        b"video:cam0",
    ),
    lambda data: check_capability(data.decode("utf-8", "surrogateescape")),
    _capability_holds,
    refuses=ConfigError,
    tokens=(b":", b"*", b"[", b"]", b",", b"%eth0"),
)


# --- files of keys


def _lines(party: str) -> bytes:
    return "".join(f"{party} {key.public.openssh(name)}\n" for name, key in _keys().items()).encode()


def _known_hold(_data: bytes, known: KnownDevices) -> None:
    again = KnownDevices(known.text(), source="again")
    assert [(device, again.get(device)) for device in again] == [(device, known.get(device)) for device in known]


def _trust_holds(_data: bytes, trust: AuthorizedOperators) -> None:
    text = "".join(f"{line.format()}\n" for line in trust.lines)
    again = AuthorizedOperators.parse(text, source="again")
    assert not again.refused
    assert again.lines == trust.lines


KNOWN = decoder(
    "known_devices",
    lambda: (b"# pins\n\n" + _lines("lab/d/pi17").splitlines(keepends=True)[0] + _lines("lab/d/pi18").splitlines()[1],),
    lambda data: KnownDevices(data.decode("utf-8", "replace"), source="known_devices"),
    _known_hold,
    refuses=ConfigError,
    tokens=(b"ssh-ed25519", b" ", b"\n", b"#", "\x85".encode(), b"\x0b"),
)
TRUST = decoder(
    "authorized_operators",
    lambda: (
        b"# who may\n" + _lines('operator="alice",can="shell,exec,forward:localhost:22",expires="2030-01-31"'),
        _lines('operator="bob"') + _lines('can="telemetry:*",operator="carol"'),
    ),
    lambda data: AuthorizedOperators.parse(data.decode("utf-8", "replace"), source="trust"),
    _trust_holds,
    tokens=(b'"', b"\\", b",", b"=", b"can=", b"\n", b" ", "\x85".encode(), b"9999-12-31", b"\t"),
)
PUBLIC = decoder(
    "public-key",
    lambda: tuple(_lines("").splitlines()),
    lambda data: PublicKey.from_openssh(data.decode("utf-8", "surrogateescape")),
    lambda _data, key: _same_key(key),
    refuses=ConfigError,
    tokens=(b"ssh-ed25519", b" ", b"=", b"AAAA"),
    examples=100,
)


def _same_key(key: PublicKey) -> None:
    assert PublicKey.from_openssh(key.openssh()) == PublicKey.from_jwk(dict(key.jwk)) == key


@cache
def _private_seeds() -> Sequence[bytes]:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = _keys()["alice"].cryptography_key
    return tuple(
        key.private_bytes(Encoding.PEM, form, NoEncryption()) for form in (PrivateFormat.OpenSSH, PrivateFormat.PKCS8)
    )


PRIVATE = decoder(
    "private-key",
    _private_seeds,
    lambda data: PrivateKey.load(data, source="key", passphrase=lambda: b""),
    lambda _data, key: _same_key(key.public),
    refuses=ConfigError,
    tokens=(b"-----BEGIN OPENSSH PRIVATE KEY-----", b"ENCRYPTED ", b"\n", b"="),
    examples=100,
)

SIGNED = (
    JWS,
    JSON,
    BASE64,
    MESSAGE,
    INFO,
    RELAY,
    AUDIT,
    STATUS,
    TOPIC,
    PARTY,
    CAPABILITY,
    KNOWN,
    TRUST,
    PUBLIC,
    PRIVATE,
)
