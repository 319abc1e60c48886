"""The worked examples of the wire in tests/vectors/signaling, checked without and with this package."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeice.errors import DecodeError
from edgeice.sansio import Entropy
from edgeice.signaling import (
    CandidatesReceived,
    Connector,
    OfferNeeded,
    OperatorLine,
    PrivateKey,
    PublicKey,
    Topic,
    TopicKind,
    Topics,
    open_audit,
    open_info,
)
from edgeice.signaling.capabilities import check_capability, covers
from edgeice.signaling.jws import decode, sign, verify
from edgeice.signaling.messages import Envelope, decode_body
from edgeice.signaling.relay import open_relay, sign_relay
from tests.unit.signaling.kit import ALICE, DEVICE, make_device, trust

VECTORS = Path(__file__).parents[2] / "vectors" / "signaling"
WALL = 1_800_000_000
SESSION = [
    "offer",
    "answer",
    "candidates",
    "reject",
    "restart",
    "restart_answer",
    "candidates_moved",
    "no_session",
    "bye",
]
SIGNED = ["info", "info_channels", "audit", "relay", *SESSION]


def load(name: str) -> dict[str, Any]:
    vector: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return vector


KEYS: dict[str, dict[str, Any]] = load("keys")["keys"]


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def private(name: str) -> PrivateKey:
    return PrivateKey.generate(Entropy(token_bytes=lambda _: bytes.fromhex(KEYS[name]["seed"])))


@pytest.mark.parametrize("name", list(KEYS))
def test_keys(name: str) -> None:
    vector = KEYS[name]
    key = private(name).public
    assert (key.raw.hex(), key.jwk, key.kid) == (vector["public"], vector["jwk"], vector["kid"])
    assert (key.openssh(), key.fingerprint) == (vector["openssh"], vector["fingerprint"])
    assert PublicKey.from_openssh(vector["openssh"]) == PublicKey.from_jwk(vector["jwk"]) == key


@pytest.mark.parametrize("name", SIGNED)
def test_examples_hold_by_the_rfcs_alone(name: str) -> None:
    vector = load(name)
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(KEYS[vector["signer"]]["seed"]))
    signing_input = f"{b64url(vector['header'].encode())}.{b64url(vector['payload'].encode())}"
    signature = key.sign(signing_input.encode())
    assert signature.hex() == vector["signature"]
    assert vector["jws"] == f"{signing_input}.{b64url(signature)}"
    assert vector["sha256"] == b64url(hashlib.sha256(vector["jws"].encode()).digest())
    header = json.loads(vector["header"])
    typ = "edgeice-turn+jws" if name == "relay" else "edgeice+jws"
    assert header == {"alg": "EdDSA", "typ": typ, "kid": KEYS[vector["signer"]]["kid"]}
    if "answers" in vector:
        assert json.loads(vector["payload"])["re"] == load(vector["answers"].removesuffix(".json"))["sha256"]


@pytest.mark.parametrize("name", SIGNED)
def test_examples_are_signed_byte_for_byte(name: str) -> None:
    vector = load(name)
    typ = json.loads(vector["header"])["typ"]
    assert sign(json.loads(vector["payload"]), private(vector["signer"]), typ=typ) == vector["jws"].encode()


@pytest.mark.parametrize("name", SESSION)
def test_session_examples_are_read(name: str) -> None:
    vector = load(name)
    message = verify(decode(vector["jws"].encode()), private(vector["signer"]).public)
    envelope = Envelope.decode(message.claims)
    body = decode_body(envelope)
    assert body.to_body(envelope.route.gen) == json.loads(vector["payload"])["body"]
    topic = Topics("lab").parse(vector["topic"])
    assert (topic.owner, topic.sender) == (envelope.route.aud, envelope.route.iss)


@pytest.mark.parametrize(("name", "channels"), [("info", None), ("info_channels", 64)])
def test_birth_documents_are_read(name: str, channels: int | None) -> None:
    signed = open_info(load(name)["jws"].encode())
    assert (signed.device, signed.info.key, signed.info.epoch) == (DEVICE, private("device").public, 42)
    assert signed.info.limits.channels == channels
    assert signed.info.to_body() == json.loads(load(name)["payload"])["body"]


def test_audit_records_are_read() -> None:
    device, audit = open_audit(load("audit")["jws"].encode(), private("device").public)
    assert (device, audit.event, audit.why) == (DEVICE, "opened", "")


def test_relay_credentials_are_read() -> None:
    vector = load("relay")
    relay = open_relay(vector["jws"].encode(), private(vector["signer"]).public, DEVICE, wall=WALL)
    assert sign_relay(DEVICE, relay, private(vector["signer"])) == vector["jws"].encode()
    assert (relay.username, len(relay.urls)) == ("1800003600:pi17", 2)
    assert Topics("lab").parse(vector["topic"]) == Topic(TopicKind.TURN, DEVICE)


def test_the_example_session_is_what_an_operator_sends() -> None:
    offer, payload = load("offer"), json.loads(load("offer")["payload"])
    sid = base64.urlsafe_b64decode(payload["sid"] + "==")
    connector = Connector(
        me=ALICE,
        key=private("alice"),
        device=DEVICE,
        pinned=private("device").public,
        want=tuple(payload["body"]["want"]),
        entropy=Entropy(token_bytes=lambda _: sid),
    )
    connector.start(now=0.0)
    connector.receive_info(load("info")["jws"].encode())
    assert isinstance(connector.poll_event(), OfferNeeded)
    connector.offer(payload["body"]["sdp"], now=0.0, wall=WALL)
    action = connector.poll_action()
    assert getattr(action, "jws", b"").decode() == offer["jws"]
    assert connector.session is not None
    connector.receive(DEVICE, load("answer")["jws"].encode(), now=0.0, wall=WALL)
    candidates = json.loads(load("candidates")["payload"])["body"]
    connector.session.send_candidates(
        0, candidates["ufrag"], tuple(candidates["candidates"]), end=True, now=0.0, wall=WALL
    )
    connector.session.offer(json.loads(load("restart")["payload"])["body"]["sdp"], now=0.0, wall=WALL)
    connector.receive(DEVICE, load("restart_answer")["jws"].encode(), now=0.0, wall=WALL)
    connector.receive(DEVICE, load("candidates_moved")["jws"].encode(), now=0.0, wall=WALL)
    moved = json.loads(load("candidates_moved")["payload"])["body"]
    heard = []
    while (event := connector.poll_event()) is not None:
        heard.append(event)
    assert heard[-1] == CandidatesReceived(
        connector.session.id, 1, "DeviceU1", tuple(moved["candidates"]), tuple(moved["removed"])
    )
    connector.close("done", "finished", wall=WALL)
    sent = []
    while (action := connector.poll_action()) is not None:
        sent.append(getattr(action, "jws", b"").decode())
    assert sent == [load(name)["jws"] for name in ("candidates", "restart", "bye")]
    assert connector.drops.total == 0


def test_the_example_of_an_unknown_session_is_what_a_device_says() -> None:
    device = make_device(key=private("device"), trust=trust(OperatorLine("alice", private("alice").public, ("shell",))))
    device.receive(ALICE, load("restart")["jws"].encode(), now=0.0, wall=WALL)
    assert getattr(device.poll_action(), "jws", b"").decode() == load("no_session")["jws"]
    assert device.poll_action() is None


@pytest.mark.parametrize("case", load("refused")["cases"], ids=lambda case: str(case["why"]))
def test_host_25_refused_examples(case: dict[str, str]) -> None:
    with pytest.raises(DecodeError) as caught:
        verify(decode(case["jws"].encode()), private("alice").public)
    assert caught.value.reason == case["reason"]
    device = make_device()
    device.receive(ALICE, case["jws"].encode(), now=0.0, wall=WALL)
    assert (device.poll_action(), device.poll_event(), device.drops.total) == (None, None, 1)


@pytest.mark.parametrize("case", load("capabilities")["cases"], ids=lambda c: f"{c['capability']} {c['want']}")
def test_capability_examples(case: dict[str, Any]) -> None:
    assert covers(check_capability(case["capability"]), case["want"]) is case["covered"]
