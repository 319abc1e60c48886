"""Long-term credentials: challenges, nonces, password algorithms (RFC 8489 §9.2, §18.1)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.errors import LocalProtocolError
from edgeice.stun import (
    Attribute,
    ErrorCode,
    Message,
    MessageClass,
    Method,
    PasswordAlgorithm,
    PasswordAlgorithmEntry,
    decode,
    encode,
    long_term_key,
)
from edgeice.stun.longterm import Challenge, LongTerm, SecurityFeature, discard_reason, security_features
from tests.support.stun_wire import TID, tlv

REALM = "example.org"
PLAIN = b"f//499k954d6OL34oL9FSTvy64sA"
ALGORITHMS = b"obMatJos2gAAA" + PLAIN
ANONYMOUS = b"obMatJos2QAAA" + PLAIN
BOTH = b"obMatJos2wAAA" + PLAIN
MD5 = PasswordAlgorithmEntry(PasswordAlgorithm.MD5)
SHA256 = PasswordAlgorithmEntry(PasswordAlgorithm.SHA256)


def challenge(code: int = 401, **attributes: Any) -> Message:
    """A 401 or 438; an attribute given as None is left out."""
    all_of_them: dict[str, Any] = {"realm": REALM, "nonce": PLAIN, **attributes}
    listed = [(Attribute[name.upper()], value) for name, value in all_of_them.items() if value is not None]
    return decode(encode(Method.ALLOCATE, MessageClass.ERROR, TID, [(Attribute.ERROR_CODE, ErrorCode(code)), *listed]))


def challenged(**attributes: Any) -> tuple[Challenge, LongTerm]:
    long_term = LongTerm("user", "pass")
    return long_term.challenged(challenge(**attributes)), long_term


def test_stun_40_before_a_challenge_a_request_carries_nothing() -> None:
    long_term = LongTerm("user", "pass")
    assert long_term.attributes() == []
    assert long_term.key is None


def test_stun_41_name_realm_and_nonce_are_sent_after_a_401() -> None:
    verdict, long_term = challenged()
    assert verdict is Challenge.ACCEPTED
    assert long_term.attributes() == [
        (Attribute.USERNAME, "user"),
        (Attribute.REALM, REALM),
        (Attribute.NONCE, PLAIN),
    ]
    assert long_term.key == long_term_key("user", REALM, "pass")
    assert long_term.integrity == "sha1"


def test_stun_42_a_new_nonce_replaces_the_old_one() -> None:
    _, long_term = challenged()
    assert long_term.challenged(challenge(438, nonce=b"other")) is Challenge.ACCEPTED
    assert (Attribute.NONCE, b"other") in long_term.attributes()


def test_stun_42_a_new_nonce_may_come_without_the_realm() -> None:
    _, long_term = challenged()
    assert long_term.challenged(challenge(438, nonce=b"other", realm=None)) is Challenge.ACCEPTED
    assert long_term.realm == REALM


@pytest.mark.parametrize(
    ("nonce", "flags"),
    [
        (PLAIN, 0),
        (b"", 0),
        (b"obMatJos2", 0),
        (b"obMatJos2gAA", 0),
        (b"obMatJos2AAAA", 0),
        (b"obMatJos2gAAA", 0x800000),
        (b"obMatJos2QAAA" + PLAIN, 0x400000),
        (b"obMatJos2wAAA" + PLAIN, 0xC00000),
        (b"obMatJos2AAAB" + PLAIN, 1),
        (b"obMatJos2////" + PLAIN, 0xFFFFFF),
        # Broken base64 is a nonce like any other.
        (b"obMatJos2gA=A" + PLAIN, 0),
        (b"obMatJos2gAA=" + PLAIN, 0),
        (b"obMatJos2g\0AA" + PLAIN, 0),
        (b"obMatJos2g-_A" + PLAIN, 0),
        (b"obMatJos2\xff\xff\xff\xff" + PLAIN, 0),
        (b"obmatjos2gAAA" + PLAIN, 0),
        (b" obMatJos2gAAA", 0),
    ],
)
def test_stun_43_flags_in_a_nonce(nonce: bytes, flags: int) -> None:
    assert security_features(nonce) == flags


def test_stun_43_numbers_of_the_flags() -> None:
    assert security_features(ALGORITHMS) == SecurityFeature.PASSWORD_ALGORITHMS.value
    assert security_features(ANONYMOUS) == SecurityFeature.USERNAME_ANONYMITY.value


@given(st.binary(max_size=40))
def test_stun_43_any_nonce_has_flags_or_none(tail: bytes) -> None:
    assert 0 <= security_features(b"obMatJos2" + tail) <= 0xFFFFFF


@pytest.mark.parametrize("code", [401, 438])
def test_stun_44_no_retry_where_algorithms_were_stripped(code: int) -> None:
    long_term = LongTerm("user", "pass")
    assert long_term.challenged(challenge(code, nonce=ALGORITHMS)) is Challenge.BID_DOWN
    assert long_term.attributes() == []


@pytest.mark.parametrize("message_class", [MessageClass.SUCCESS, MessageClass.ERROR])
def test_stun_44_other_responses_without_their_algorithms_are_ignored(message_class: MessageClass) -> None:
    attributes: list[tuple[int, object]] = [(Attribute.NONCE, ALGORITHMS)]
    if message_class is MessageClass.ERROR:
        attributes.append((Attribute.ERROR_CODE, ErrorCode(403)))
    stripped = decode(encode(Method.ALLOCATE, message_class, TID, attributes))
    assert discard_reason(stripped, signed=True) == "bid_down"
    whole = decode(
        encode(Method.ALLOCATE, message_class, TID, [*attributes, (Attribute.PASSWORD_ALGORITHMS, (SHA256,))])
    )
    assert discard_reason(whole, signed=True) is None
    assert discard_reason(challenge(401, nonce=ALGORITHMS), signed=True) is None  # judged as a challenge


def test_stun_44_a_list_that_was_there_does_not_go_away() -> None:
    _, long_term = challenged(nonce=ALGORITHMS, password_algorithms=(SHA256, MD5))
    before = long_term.attributes()
    assert long_term.challenged(challenge(438, nonce=b"other")) is Challenge.BID_DOWN
    assert long_term.attributes() == before
    assert long_term.integrity == "sha256"


@pytest.mark.parametrize(
    ("offered", "chosen", "key_algorithm"),
    [
        # RFC 8656 §6: SHA-256 wherever both have it, whatever the order.
        ((MD5, SHA256), SHA256, PasswordAlgorithm.SHA256),
        ((SHA256, MD5), SHA256, PasswordAlgorithm.SHA256),
        ((MD5,), MD5, PasswordAlgorithm.MD5),
        ((PasswordAlgorithmEntry(7, b"abc"), MD5), MD5, PasswordAlgorithm.MD5),
    ],
)
def test_stun_45_algorithms_are_echoed_with_the_chosen_one(
    offered: tuple[PasswordAlgorithmEntry, ...], chosen: PasswordAlgorithmEntry, key_algorithm: PasswordAlgorithm
) -> None:
    verdict, long_term = challenged(nonce=ALGORITHMS, password_algorithms=offered)
    assert verdict is Challenge.ACCEPTED
    assert long_term.attributes()[3:] == [
        (Attribute.PASSWORD_ALGORITHMS, offered),
        (Attribute.PASSWORD_ALGORITHM, chosen),
    ]
    assert long_term.key == long_term_key("user", REALM, "pass", key_algorithm)
    assert long_term.integrity == "sha256"


@pytest.mark.parametrize(
    "offered",
    [(), (PasswordAlgorithmEntry(7),), (PasswordAlgorithmEntry(PasswordAlgorithm.SHA256, b"salt"),)],
)
def test_stun_45_no_algorithm_that_is_known_ends_it(offered: tuple[PasswordAlgorithmEntry, ...]) -> None:
    verdict, long_term = challenged(nonce=ALGORITHMS, password_algorithms=offered)
    assert verdict is Challenge.NO_ALGORITHM
    assert long_term.attributes() == []


def test_stun_45_the_list_counts_without_its_flag_too() -> None:
    verdict, long_term = challenged(password_algorithms=(SHA256,))
    assert verdict is Challenge.ACCEPTED
    assert long_term.integrity == "sha256"


def test_stun_45_a_list_too_long_to_echo() -> None:
    verdict, _ = challenged(nonce=ALGORITHMS, password_algorithms=(SHA256,) * 9)
    assert verdict is Challenge.MALFORMED


@pytest.mark.parametrize("nonce", [ANONYMOUS, BOTH])
def test_stun_46_the_hash_of_the_name_where_the_server_can_take_it(nonce: bytes) -> None:
    # RFC 8489 §14.4 on the user and realm of its own example.
    long_term = LongTerm("\u30de\u30c8\u30ea\u30c3\u30af\u30b9", "TheMatrIX")
    algorithms = (SHA256,) if nonce == BOTH else None
    assert long_term.challenged(challenge(nonce=nonce, password_algorithms=algorithms)) is Challenge.ACCEPTED
    kind, value = long_term.attributes()[0]
    assert kind == Attribute.USERHASH
    assert isinstance(value, bytes)
    assert value.hex() == "4a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704"
    assert Attribute.USERNAME not in dict(long_term.attributes())


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        (None, "8493fbc53ba582fb4c044c456bdc40eb"),
        (SHA256, "07e934117abd40836e7c6329b54731b2b2d2a5f9a71f544922d75e0730d8251b"),
    ],
)
def test_stun_47_key_of_user_realm_and_password(algorithm: PasswordAlgorithmEntry | None, key: str) -> None:
    algorithms = None if algorithm is None else (algorithm,)
    _, long_term = challenged(realm="realm", password_algorithms=algorithms)
    assert long_term.key is not None
    assert long_term.key.hex() == key


def test_stun_47_the_realm_is_prepared_for_the_key_and_sent_as_it_came() -> None:
    _, long_term = challenged(realm="a\u3000b")
    assert long_term.key == long_term_key("user", "a b", "pass")
    assert (Attribute.REALM, "a\u3000b") in long_term.attributes()


def error_400(*, signed: bool) -> Message:
    key = b"key" if signed else None
    return decode(encode(Method.ALLOCATE, MessageClass.ERROR, TID, [(Attribute.ERROR_CODE, ErrorCode(400))], key=key))


def test_stun_48_an_unsigned_400_to_a_signed_request_never_came() -> None:
    assert discard_reason(error_400(signed=False), signed=True) == "unsigned_400"
    assert discard_reason(error_400(signed=False), signed=False) is None
    assert discard_reason(error_400(signed=True), signed=True) is None


@pytest.mark.parametrize(
    "attributes",
    [
        {"nonce": None},
        {"nonce": b""},
        {"realm": None},
        {"realm": ""},
        {"realm": "a\nb"},
        {"realm": "\u0378"},
    ],
)
def test_challenges_that_cannot_be_answered(attributes: dict[str, Any]) -> None:
    verdict, long_term = challenged(**attributes)
    assert verdict is Challenge.MALFORMED
    assert long_term.attributes() == []


@pytest.mark.parametrize("kind", [Attribute.NONCE, Attribute.REALM])
@pytest.mark.parametrize("size", [508, 509, 763])
def test_stun_13_what_can_be_received_and_not_sent_back(kind: Attribute, size: int) -> None:
    values = {Attribute.NONCE: PLAIN, Attribute.REALM: REALM.encode(), kind: b"x" * size}
    body = b"".join(tlv(each, value) for each, value in values.items())
    header = (0x0113).to_bytes(2, "big") + len(body).to_bytes(2, "big") + bytes.fromhex("2112a442") + TID
    long_term = LongTerm("user", "pass")
    verdict = long_term.challenged(decode(header + body))
    assert verdict is (Challenge.ACCEPTED if size == 508 else Challenge.MALFORMED)
    encode(Method.ALLOCATE, MessageClass.REQUEST, TID, long_term.attributes(), key=long_term.key)


def test_neither_password_nor_key_is_shown() -> None:
    _, long_term = challenged()
    assert long_term.key is not None
    assert "pass" not in repr(long_term)
    assert long_term.key.hex() not in repr(long_term)
    with pytest.raises(LocalProtocolError):
        long_term_key("", REALM, "pass")
