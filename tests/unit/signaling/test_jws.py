from __future__ import annotations

import base64
import hashlib
import hmac
import json

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.errors import DecodeError
from edgeice.signaling.encoding import b64url_encode
from edgeice.signaling.jws import MAX_SIZE, TYP, decode, peek_claims, sign, verify
from tests.unit.signaling.kit import ALICE_KEY, MALLORY_KEY

KID = ALICE_KEY.public.kid
HEADER = {"alg": "EdDSA", "typ": TYP, "kid": KID}


def raw_jws(header: object, payload: bytes = b'{"a":1}', signature: bytes | None = None) -> bytes:
    """A JWS of any header, text or object, signed by Alice unless told."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    signing_input = f"{b64url_encode(head)}.{b64url_encode(payload)}".encode()
    signature = ALICE_KEY.cryptography_key.sign(signing_input) if signature is None else signature
    return signing_input + b"." + b64url_encode(signature).encode()


def reason(data: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        verify(decode(data), ALICE_KEY.public)
    return caught.value.reason


def test_a_signed_message_is_read_back() -> None:
    jws = sign({"v": 1, "text": "ä"}, ALICE_KEY)
    verified = verify(decode(jws), ALICE_KEY.public)
    assert verified.claims == {"v": 1, "text": "ä"}
    assert verified.key == ALICE_KEY.public
    assert verified.digest == base64.urlsafe_b64encode(hashlib.sha256(jws).digest()).decode().rstrip("=")


def test_equal_claims_give_equal_bytes() -> None:
    assert sign({"a": 1}, ALICE_KEY) == sign({"a": 1}, ALICE_KEY)


def test_another_implementation_reads_what_is_signed() -> None:
    read = jwt.PyJWS(algorithms=["EdDSA"]).decode_complete(
        sign({"a": 1}, ALICE_KEY), ALICE_KEY.cryptography_key.public_key(), algorithms=["EdDSA"]
    )
    assert (read["header"], read["payload"]) == (HEADER, b'{"a":1}')


def test_what_another_implementation_signs_is_read() -> None:
    jws = jwt.PyJWS(algorithms=["EdDSA"]).encode(
        b'{"a":1}', ALICE_KEY.cryptography_key, "EdDSA", {"typ": TYP, "kid": KID}
    )
    assert verify(decode(jws.encode()), ALICE_KEY.public).claims == {"a": 1}


def test_any_order_and_further_members_of_the_header_are_taken() -> None:
    assert verify(decode(raw_jws({"kid": KID, "x": [1], "alg": "EdDSA", "typ": TYP})), ALICE_KEY.public).claims == {
        "a": 1
    }


GOOD = raw_jws(HEADER)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "jws-form"),
        (b"..", "jws-form"),
        (b"a.b", "jws-form"),
        (GOOD + b".", "jws-form"),
        (GOOD + b"\n", "jws-form"),
        (GOOD + b"=", "jws-form"),
        (b" " + GOOD, "jws-form"),
        (GOOD[:-1], "jws-form"),
        (GOOD + b"AAAA", "jws-form"),
        (GOOD.replace(b".", b"=.", 1), "jws-form"),
        (b"\xff" + GOOD, "jws-form"),
        (b"{}", "jws-form"),
        (b"x" * (MAX_SIZE + 1), "jws-size"),
        (b"A" * 5600 + b".e30.AAAA", "jws-size"),
        (raw_jws(b'{"a":"' + b"x" * 4090 + b'"}'), "jws-size"),
        (raw_jws(b"[]"), "jws-form"),
        (raw_jws(b"not json"), "jws-form"),
        (raw_jws(b'{"kid":' * 1), "jws-form"),
        (raw_jws({"x": 1} | {"alg": "EdDSA", "typ": TYP}), "jws-form"),
        (raw_jws(HEADER | {"kid": 7}), "jws-form"),
        (raw_jws(HEADER, signature=b""), "jws-form"),
        (raw_jws(HEADER, signature=b"x" * 63), "jws-form"),
        (raw_jws(HEADER | {"crit": []}), "jws-form"),
        (raw_jws(HEADER | {"crit": ["b64"], "b64": False}), "jws-form"),
        (raw_jws(HEADER | {"b64": True}), "jws-form"),
        (raw_jws(json.dumps(HEADER)[:-1].encode() + b',"alg":"EdDSA"}'), "jws-form"),
        (raw_jws(json.dumps(HEADER)[:-1].encode() + b',"x":' + b"[" * 17 + b"]" * 17 + b"}"), "jws-form"),
        (raw_jws(HEADER | {"typ": "edgeice-grant+jwt"}), "jws-typ"),
        (raw_jws(HEADER | {"typ": "EDGEICE+JWS"}), "jws-typ"),
        (raw_jws(HEADER | {"typ": None}), "jws-typ"),
        (raw_jws({"alg": "EdDSA", "kid": KID}), "jws-typ"),
        (raw_jws(HEADER | {"alg": "none"}), "jws-alg"),
        (raw_jws(HEADER | {"alg": "HS256"}), "jws-alg"),
        (raw_jws(HEADER | {"alg": "Ed25519"}), "jws-alg"),
        (raw_jws(HEADER | {"alg": "eddsa"}), "jws-alg"),
        (raw_jws(HEADER | {"alg": ["EdDSA"]}), "jws-alg"),
        (raw_jws(HEADER | {"kid": MALLORY_KEY.public.kid}), "jws-key"),
        (raw_jws(HEADER, signature=b"\x00" * 64), "jws-signature"),
        (raw_jws(HEADER, b"not json"), "claims"),
        (raw_jws(HEADER, b""), "claims"),
        (raw_jws(HEADER, b'{"a":1,"a":2}'), "claims"),
        (raw_jws(HEADER, b'{"a":' + b"[" * 16 + b"]" * 16 + b"}"), "claims"),
    ],
)
def test_host_24_hostile_messages(data: bytes, expected: str) -> None:
    assert reason(data) == expected


def test_host_25_alg_hs256_with_the_public_key_as_secret() -> None:
    head = b64url_encode(json.dumps(HEADER | {"alg": "HS256"}).encode())
    signing_input = f"{head}.{b64url_encode(b'{}')}".encode()
    forged = hmac.digest(ALICE_KEY.public.raw, signing_input, "sha256") * 2
    assert reason(signing_input + b"." + b64url_encode(forged).encode()) == "jws-alg"


def test_checks_come_in_the_stated_order() -> None:
    wrong_everything = HEADER | {"typ": "x", "alg": "none", "kid": "other"}
    assert reason(raw_jws(wrong_everything | {"crit": ["x"]}, b"no", b"s" * 64)) == "jws-form"
    assert reason(raw_jws(wrong_everything, b"no", b"s" * 64)) == "jws-typ"
    assert reason(raw_jws(wrong_everything | {"typ": TYP}, b"no", b"s" * 64)) == "jws-alg"
    assert reason(raw_jws(HEADER | {"kid": "other"}, b"no", b"s" * 64)) == "jws-key"
    assert reason(raw_jws(HEADER, b"no", b"s" * 64)) == "jws-signature"


@pytest.mark.parametrize("at", range(0, len(GOOD), 7))
def test_host_25_any_changed_byte_is_refused(at: int) -> None:
    changed = bytearray(GOOD)
    changed[at] = ord("A") if changed[at] != ord("A") else ord("B")
    reason(bytes(changed))


def test_the_payload_is_not_parsed_before_the_signature_holds() -> None:
    assert reason(raw_jws(HEADER, b"[" * 10_000, b"s" * 64)) == "jws-signature"


def test_the_largest_message_passes() -> None:
    room = MAX_SIZE - len(sign({"a": ""}, ALICE_KEY))
    jws = sign({"a": "x" * (room * 3 // 4 - 2)}, ALICE_KEY)
    assert MAX_SIZE - 4 <= len(jws) <= MAX_SIZE
    assert verify(decode(jws), ALICE_KEY.public)


@given(st.binary(max_size=300) | st.lists(st.binary(max_size=40), min_size=3, max_size=3).map(b".".join))
def test_any_bytes_are_accepted_or_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(data)


@given(
    st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit"]), st.sampled_from(["EdDSA", TYP, KID, 1, None])),
    st.binary(max_size=40),
    st.binary(min_size=64, max_size=64),
)
def test_any_header_is_accepted_or_a_decode_error(header: dict[str, object], payload: bytes, signature: bytes) -> None:
    data = raw_jws(header, payload, signature)
    try:
        unverified = decode(data)
    except DecodeError:
        return
    assert unverified.payload == payload
    with pytest.raises(DecodeError):
        verify(unverified, ALICE_KEY.public)
    with pytest.raises(DecodeError):
        peek_claims(unverified)
