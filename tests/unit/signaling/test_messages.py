from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.errors import DecodeError
from edgeice.signaling import Audit, Info, Limits, open_audit, open_info, sign_audit, sign_info
from edgeice.signaling.description import Description
from edgeice.signaling.jws import sign
from edgeice.signaling.messages import (
    MAX_GENERATION,
    Answer,
    Bye,
    Candidates,
    Envelope,
    Offer,
    Reject,
    SessionBody,
    decode_body,
)
from tests.unit.signaling.kit import (
    ALICE,
    ALICE_KEY,
    CANDIDATE,
    DEVICE,
    DEVICE_KEY,
    FINGERPRINT_A,
    SID,
    WALL,
    altered,
    make_info,
    make_sdp,
    message,
    read_claims,
)

RE = "A" * 43
BODIES: list[tuple[SessionBody, int, dict[str, str]]] = [
    (Offer("v=0", ("shell", "exec")), 0, {"nonce": "n"}),
    (Offer("v=0", ()), 0, {"nonce": "n"}),
    (Offer("v=0"), 3, {}),
    (Answer("v=0"), 1, {"re": RE}),
    (Candidates("abcd", (CANDIDATE, CANDIDATE), end=False), 0, {}),
    (Candidates("abcd", (), end=True), 0, {}),
    (Candidates("abcd", (CANDIDATE,), end=False, removed=(CANDIDATE, CANDIDATE)), 2, {}),
    (Reject("busy", "no room", 30), 0, {"re": RE}),
    (Reject("expired"), 2, {"re": RE}),
    (Bye("done", "bye"), 1, {}),
]


@pytest.mark.parametrize(("body", "gen", "more"), BODIES)
def test_messages_are_read_back(body: SessionBody, gen: int, more: dict[str, Any]) -> None:
    claims = read_claims(message(body, gen=gen, seq=4, **more))
    envelope = Envelope.decode(claims)
    assert decode_body(envelope) == body
    assert (envelope.route.iss, envelope.route.aud, envelope.route.sid, envelope.route.gen) == (ALICE, DEVICE, SID, gen)
    assert (envelope.iat, envelope.exp, envelope.seq) == (WALL, WALL + 60, 4)
    assert (envelope.nonce, envelope.re) == (more.get("nonce"), more.get("re"))


def test_unknown_members_are_ignored() -> None:
    claims = dict(read_claims(message(Bye("done")))) | {"new": {"x": 1}, "body": {"code": "done", "reason": "", "y": 2}}
    assert decode_body(Envelope.decode(claims)) == Bye("done")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v": 2}, "version"),
        ({"v": "1"}, "version"),
        ({"v": True}, "version"),
        ({"v": 1.0}, "version"),
        ({"v": ...}, "version"),
        ({"t": "info"}, "type"),
        ({"t": "audit"}, "type"),
        ({"t": "Offer"}, "type"),
        ({"t": 1}, "claims"),
        ({"iss": "lab/d"}, "party"),
        ({"iss": 1}, "claims"),
        ({"aud": ...}, "claims"),
        ({"aud": ["lab/d/pi17"]}, "claims"),
        ({"iat": "1"}, "claims"),
        ({"iat": 1.0}, "claims"),
        ({"iat": -1}, "claims"),
        ({"exp": ...}, "claims"),
        ({"exp": True}, "claims"),
        ({"exp": 2**53}, "claims"),
        ({"sid": "short"}, "claims"),
        ({"sid": SID + "A"}, "claims"),
        ({"sid": SID[:-1] + "B"}, "claims"),
        ({"sid": 5}, "claims"),
        ({"gen": -1}, "claims"),
        ({"gen": MAX_GENERATION + 1}, "claims"),
        ({"gen": "0"}, "claims"),
        ({"seq": -1}, "claims"),
        ({"seq": None}, "claims"),
        ({"nonce": ...}, "claims"),
        ({"nonce": "n" * 65}, "claims"),
        ({"body": ...}, "claims"),
        ({"body": []}, "claims"),
        ({"body": "x"}, "claims"),
        ({"sealed": "x", "body": ...}, "sealed"),
    ],
)
def test_host_24_envelopes_with_wrong_claims(change: dict[str, object], reason: str) -> None:
    jws = altered(message(Offer("v=0"), nonce="n"), ALICE_KEY, **change)
    with pytest.raises(DecodeError) as caught:
        Envelope.decode(read_claims(jws))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("body", "more", "change"),
    [
        (Offer(""), {"nonce": "n"}, {"sdp": 1}),
        (Offer(""), {"nonce": "n"}, {"sdp": "x" * 30000, "want": []}),
        (Offer(""), {"nonce": "n"}, {"sdp": ""}),
        (Offer(""), {"nonce": "n"}, {"sdp": "", "want": "shell"}),
        (Offer(""), {"nonce": "n"}, {"sdp": "", "want": [1]}),
        (Offer(""), {"nonce": "n"}, {"sdp": "", "want": ["x"] * 33}),
        (Offer(""), {"nonce": "n"}, {"sdp": "", "want": ["x" * 257]}),
        (Answer(""), {"re": RE}, {}),
        (Candidates("abcd", ()), {}, {"ufrag": "abcd", "candidates": [], "end": 1}),
        (Candidates("abcd", ()), {}, {"ufrag": "abcd", "candidates": []}),
        (Candidates("abcd", ()), {}, {"ufrag": "a:b!", "candidates": [], "end": False}),
        (Candidates("abcd", ()), {}, {"ufrag": "abc", "candidates": [], "end": False}),
        (Candidates("abcd", ()), {}, {"ufrag": "abcd", "candidates": ["a=candidate:1"], "end": False}),
        (Candidates("abcd", ()), {}, {"ufrag": "abcd", "candidates": ["candidate:1\r\na=x"], "end": False}),
        (Candidates("abcd", ()), {}, {"ufrag": "abcd", "candidates": ["candidate:\x00"], "end": False}),
        (Candidates("abcd", ()), {}, {"ufrag": "abcd", "candidates": [CANDIDATE] * 65, "end": False}),
        (Candidates("abcd", ()), {}, {"ufrag": "abcd", "candidates": ["candidate:" + "x" * 510], "end": False}),
        *(
            (Candidates("abcd", ()), {}, {"ufrag": "abcd", "candidates": [], "end": False, "removed": removed})
            for removed in (
                None,
                CANDIDATE,
                {"0": CANDIDATE},
                [1],
                [[CANDIDATE]],
                [""],
                ["a=candidate:1"],
                ["candidate:1\nx"],
                ["candidate:é"],
                ["candidate:" + "x" * 510],
                [CANDIDATE] * 65,
            )
        ),
        (Reject("busy"), {"re": RE}, {"code": "BUSY", "reason": ""}),
        (Reject("busy"), {"re": RE}, {"code": "busy", "reason": "", "retry_after": 1.5}),
        (Reject("busy"), {"re": RE}, {"code": "busy", "reason": 5}),
        (Bye("done"), {}, {"code": "", "reason": ""}),
        (Bye("done"), {}, {"reason": ""}),
    ],
)
def test_host_24_bodies_of_wrong_shape(body: SessionBody, more: dict[str, Any], change: dict[str, object]) -> None:
    jws = altered(message(body, **more), ALICE_KEY, body=change)
    with pytest.raises(DecodeError) as caught:
        decode_body(Envelope.decode(read_claims(jws)))
    assert caught.value.reason == "claims"


def test_reasons_are_made_safe_to_show() -> None:
    claims = read_claims(message(Bye("error", "\x1b]0;owned\x07" + "x" * 1000)))
    bye = decode_body(Envelope.decode(claims))
    assert isinstance(bye, Bye)
    assert bye.reason.startswith("?]0;owned?")
    assert len(bye.reason) == 256


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = ["v", "t", "iss", "aud", "iat", "exp", "sid", "gen", "seq", "nonce", "re", "body"]


@given(
    st.sampled_from(BODIES),
    st.dictionaries(st.sampled_from(NAMES), json_values, max_size=2),
    st.dictionaries(
        st.sampled_from(["sdp", "want", "ufrag", "candidates", "end", "removed", "code", "reason"]), json_values
    ),
)
def test_any_claims_are_accepted_or_a_decode_error(
    good: tuple[SessionBody, int, dict[str, Any]], claims: dict[str, object], members: dict[str, object]
) -> None:
    body, gen, more = good
    base = dict(read_claims(message(body, gen=gen, **more)))
    base["body"] = body.to_body(gen) | members
    try:
        envelope = Envelope.decode(base | claims)
        read = decode_body(envelope)
    except DecodeError:
        return
    assert type(read) is type(body) or "t" in claims


FULL_INFO = make_info(
    labels={"site": "roof"},
    profile="rpi4",
    services=("edgeice.shell.1", "edgeice.exec.1"),
    link="cellular",
    metered=True,
    keepalive=240,
    limits=Limits(8, 2, 64),
)


@pytest.mark.parametrize("info", [make_info(), FULL_INFO])
def test_info_is_read_back(info: Info) -> None:
    signed = open_info(sign_info(DEVICE, info, DEVICE_KEY, iat=WALL))
    assert (signed.device, signed.info, signed.iat) == (DEVICE, info, WALL)


def test_an_info_of_another_key_names_that_key() -> None:
    # Whoever owns the broker can publish this; the pin decides, and `iss` proves nothing.
    forged = sign_info(DEVICE, make_info(key=ALICE_KEY.public), ALICE_KEY, iat=WALL)
    assert open_info(forged).info.key == ALICE_KEY.public


def test_host_25_an_info_with_a_key_that_did_not_sign_it() -> None:
    with pytest.raises(DecodeError) as caught:
        open_info(sign_info(DEVICE, make_info(), ALICE_KEY, iat=WALL))
    assert caught.value.reason == "jws-key"


@pytest.mark.parametrize(
    ("claims", "members", "reason"),
    [
        ({"v": 2}, {}, "version"),
        ({"t": "audit"}, {}, "type"),
        ({"iss": "lab/o/alice"}, {}, "claims"),
        ({"iat": None}, {}, "claims"),
        ({}, {"nonce": ""}, "claims"),
        ({}, {"epoch": -1}, "claims"),
        ({}, {"epoch": 2**53 - 1}, "claims"),
        ({}, {"time_synced": 1}, "claims"),
        ({}, {"labels": {"a": 1}}, "claims"),
        ({}, {"labels": []}, "claims"),
        ({}, {"labels": {str(n): "" for n in range(65)}}, "claims"),
        ({}, {"services": "shell"}, "claims"),
        ({}, {"metered": None}, "claims"),
        ({}, {"keepalive": 65536}, "claims"),
        ({}, {"limits": {"sessions": 1}}, "claims"),
        ({}, {"limits": {"sessions": 1, "active": 0, "channels": 0}}, "claims"),
        ({}, {"jwk": None}, "jwk"),
    ],
)
def test_host_24_infos_of_wrong_shape(claims: dict[str, object], members: dict[str, object], reason: str) -> None:
    good = read_claims(sign_info(DEVICE, make_info(), DEVICE_KEY, iat=WALL))
    body = good["body"]
    assert isinstance(body, dict)
    with pytest.raises(DecodeError) as caught:
        open_info(sign({**good, **claims, "body": body | members}, DEVICE_KEY))
    assert caught.value.reason == reason


def test_a_link_that_only_newer_devices_know_is_other() -> None:
    info = make_info(link="satellite")
    assert open_info(sign_info(DEVICE, info, DEVICE_KEY, iat=WALL)).info.link == "other"


@given(st.binary(max_size=100))
def test_any_bytes_are_no_info(data: bytes) -> None:
    with pytest.raises(DecodeError):
        open_info(data)


def test_audit_records_are_read_back_and_bound_to_the_key() -> None:
    audit = Audit(event="refused", operator="alice", kid=ALICE_KEY.public.kid, sid=SID, why="busy", want=("shell",))
    jws = sign_audit(DEVICE, audit, DEVICE_KEY, iat=WALL)
    assert open_audit(jws, DEVICE_KEY.public) == (DEVICE, audit)
    with pytest.raises(DecodeError):
        open_audit(jws, ALICE_KEY.public)
    with pytest.raises(DecodeError) as caught:
        open_audit(sign_info(DEVICE, make_info(), DEVICE_KEY, iat=WALL), DEVICE_KEY.public)
    assert caught.value.reason == "type"


def test_facts_of_a_description() -> None:
    sdp = make_sdp("Uf+/", setup="Active", fingerprint=FINGERPRINT_A.lower(), end=True)
    assert Description.read(sdp) == Description(
        ("Uf+/",), frozenset({f"sha-256 {FINGERPRINT_A}"}), frozenset({"active"}), end_of_candidates=True
    )
    assert Description.read("") == Description((), frozenset(), frozenset(), end_of_candidates=False)
