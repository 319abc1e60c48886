"""Integrity, FINGERPRINT, what they cover and what is visible behind them (RFC 8489 §9, §14.5-14.7)."""

import binascii
import hashlib
import hmac
import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.addresses import TransportAddress
from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.stun import (
    Attribute,
    AuthenticationError,
    MessageClass,
    Method,
    PasswordAlgorithm,
    PasswordAlgorithmEntry,
    authenticate,
    decode,
    encode,
    integrity,
    is_stun,
    long_term_key,
    opaque_string,
    userhash,
)
from tests.support.stun_wire import CREDENTIALS, DATA, KEY, KEYS, VECTORS, append, raw_message, seal, sign, tlv

SIGNED = [name for name, row in VECTORS.items() if "mechanism" in row]
FINGERPRINTED = ("rfc5769_2_1", "rfc5769_2_2", "rfc5769_2_3")
MAPPED_V4 = TransportAddress("192.0.2.1", 32853)
MAPPED_V6 = TransportAddress("2001:db8:1234:5678:11:2233:4455:6677", 32853)
LONG_TERM = CREDENTIALS["long-term"]


def verified(data: bytes, **options: Any) -> Any:
    return authenticate(decode(data), KEY, **options)


def refused(data: bytes, key: bytes = KEY, **options: Any) -> tuple[str, int]:
    message = decode(data)
    with pytest.raises(AuthenticationError) as caught:
        authenticate(message, key, **options)
    return caught.value.reason, caught.value.code


MISSING = ("integrity_missing", 400)
MISMATCH = ("integrity_mismatch", 401)


@pytest.mark.parametrize("name", SIGNED)
def test_stun_20_vectors_verify(name: str) -> None:
    row = VECTORS[name]
    message = decode(DATA[name])
    assert message.has_fingerprint == name.startswith(FINGERPRINTED)
    assert authenticate(message, KEYS[row["mechanism"]]).integrity == row["integrity"]
    for wrong in set(KEYS) - {row["mechanism"]}:
        assert refused(DATA[name], KEYS[wrong]) == MISMATCH


@pytest.mark.parametrize("name", [name for name in SIGNED if name.startswith(FINGERPRINTED)])
def test_stun_20_vectors_verify_without_fingerprint(name: str) -> None:
    data = DATA[name]
    stripped = data[:2] + (len(data) - 28).to_bytes(2, "big") + data[4:-8]
    message = decode(stripped)
    assert not message.has_fingerprint
    authenticate(message, KEY)


def test_stun_20_what_the_vectors_hold() -> None:
    request = verified(DATA["rfc5769_2_1_request"])
    assert (request.method, request.message_class) == (Method.BINDING, MessageClass.REQUEST)
    assert request.transaction_id == bytes.fromhex("b7e7a701bc34d686fa87dfae")
    assert request.get(Attribute.USERNAME) == CREDENTIALS["short-term"]["username"]
    assert request.get(Attribute.SOFTWARE) == "STUN test client"
    assert request.get(Attribute.PRIORITY) == 0x6E0001FF
    assert request.get(Attribute.ICE_CONTROLLED) == 0x932FF9B151263B36
    assert request.get(Attribute.USE_CANDIDATE) is None
    long_term = decode(DATA["rfc5769_2_4_long_term_request"])
    assert long_term.get(Attribute.USERNAME) == LONG_TERM["username"]
    assert long_term.get(Attribute.NONCE) == b"f//499k954d6OL34oL9FSTvy64sA"
    assert long_term.get(Attribute.REALM) == LONG_TERM["realm"]


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("rfc5769_2_2_ipv4_response", MAPPED_V4),
        ("rfc5769_2_2_zero_padded", MAPPED_V4),
        ("rfc5769_2_3_ipv6_response", MAPPED_V6),
        ("rfc5769_2_3_zero_padded", MAPPED_V6),
    ],
)
def test_stun_10_mapped_addresses_of_the_vectors(name: str, address: TransportAddress) -> None:
    response = verified(DATA[name])
    assert response.message_class is MessageClass.SUCCESS
    assert response.get(Attribute.XOR_MAPPED_ADDRESS) == address
    assert response.get(Attribute.SOFTWARE) == "test vector"


VECTOR_TID = bytes.fromhex("b7e7a701bc34d686fa87dfae")


@pytest.mark.parametrize(
    ("name", "message_class", "attributes"),
    [
        (
            "rfc5769_2_1_zero_padded",
            MessageClass.REQUEST,
            [
                (Attribute.SOFTWARE, "STUN test client"),
                (Attribute.PRIORITY, 0x6E0001FF),
                (Attribute.ICE_CONTROLLED, 0x932FF9B151263B36),
                (Attribute.USERNAME, "evtj:h6vY"),
            ],
        ),
        (
            "rfc5769_2_2_zero_padded",
            MessageClass.SUCCESS,
            [(Attribute.SOFTWARE, "test vector"), (Attribute.XOR_MAPPED_ADDRESS, MAPPED_V4)],
        ),
        (
            "rfc5769_2_3_zero_padded",
            MessageClass.SUCCESS,
            [(Attribute.SOFTWARE, "test vector"), (Attribute.XOR_MAPPED_ADDRESS, MAPPED_V6)],
        ),
    ],
)
def test_stun_20_dec_2_encoding_gives_the_vectors(
    name: str, message_class: MessageClass, attributes: list[tuple[Attribute, object]]
) -> None:
    assert encode(Method.BINDING, message_class, VECTOR_TID, attributes, key=KEY) == DATA[name]


@pytest.mark.parametrize("named", [False, True])
def test_stun_21_encoding_gives_the_sha256_vectors(*, named: bool) -> None:
    attributes: list[tuple[Attribute, object]] = [
        (Attribute.USERHASH, userhash(LONG_TERM["username"], LONG_TERM["realm"])),
        (Attribute.NONCE, b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA"),
        (Attribute.REALM, LONG_TERM["realm"]),
    ]
    if named:
        attributes.append((Attribute.PASSWORD_ALGORITHM, PasswordAlgorithmEntry(PasswordAlgorithm.SHA256)))
    data = encode(
        Method.BINDING,
        MessageClass.REQUEST,
        bytes.fromhex("78ad3433c6ad72c029da412e"),
        attributes,
        key=long_term_key(LONG_TERM["username"], LONG_TERM["realm"], LONG_TERM["password"], PasswordAlgorithm.SHA256),
        integrity="sha256",
        fingerprint=False,
    )
    assert data == DATA["rfc8489_b_1_password_algorithm" if named else "rfc8489_b_1_right_length"]


BODY = tlv(0x0006, b"evtj:h6vY") + tlv(0x0024, bytes.fromhex("6e0001ff"))


@pytest.mark.parametrize("size", [0, 4, 12, 16, 18, 20, 28, 36])
def test_stun_21_host_04_only_whole_sha256_integrity_counts(size: int) -> None:
    whole = sign(raw_message(BODY), algorithm="sha256")
    mac = (whole[-32:] * 2)[:size]
    with pytest.raises(DecodeError) as caught:
        decode(append(raw_message(BODY), tlv(0x001C, mac)))
    assert caught.value.reason == "stun_integrity"
    assert verified(whole).integrity == "sha256"


@pytest.mark.parametrize("size", [0, 16, 19, 21, 24, 32])
def test_stun_20_only_whole_sha1_integrity_counts(size: int) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(append(raw_message(BODY), tlv(0x0008, bytes(size))))
    assert caught.value.reason == "stun_integrity"


BEHIND = [
    pytest.param(tlv(0x0025, b""), Attribute.USE_CANDIDATE, id="USE-CANDIDATE"),
    pytest.param(tlv(0x0020, bytes.fromhex("0001a147e112a643")), Attribute.XOR_MAPPED_ADDRESS, id="XOR-MAPPED-ADDRESS"),
    pytest.param(tlv(0x0014, b"realm"), Attribute.REALM, id="REALM"),
    pytest.param(tlv(0x0020, b"malformed"), Attribute.XOR_MAPPED_ADDRESS, id="malformed"),
    pytest.param(tlv(0x7A01, b""), 0x7A01, id="unknown"),
]


@pytest.mark.parametrize(("attribute", "kind"), BEHIND)
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_stun_22_host_04_what_follows_integrity_is_invisible(attribute: bytes, kind: int, algorithm: str) -> None:
    data = append(sign(raw_message(BODY), algorithm=algorithm), attribute)
    for final in (data, seal(data)):
        message = decode(final)
        authenticated = authenticate(message, KEY)
        for view in (message, authenticated):
            assert view.get(Attribute.PRIORITY) == 0x6E0001FF
            assert view.get(kind) is None
            assert kind not in view
            assert view.unknown_required == ()


def test_stun_22_sha256_counts_after_sha1_and_is_the_one_verified() -> None:
    both = seal(sign(sign(raw_message(BODY)), algorithm="sha256"))
    assert verified(both).integrity == "sha256"
    assert verified(both, integrity="sha1").integrity == "sha1"
    wrong_sha256 = seal(append(sign(raw_message(BODY)), tlv(0x001C, bytes(32))))
    assert refused(wrong_sha256) == MISMATCH
    assert verified(wrong_sha256, integrity="sha1").integrity == "sha1"


def test_stun_22_nothing_between_the_two_integrities_is_visible() -> None:
    between = append(sign(raw_message(BODY)), tlv(0x0025, b""))
    message = verified(sign(between, algorithm="sha256"))
    assert message.integrity == "sha256"
    assert message.get(Attribute.USE_CANDIDATE) is None


def test_stun_22_sha1_after_sha256_is_ignored() -> None:
    data = sign(sign(raw_message(BODY), algorithm="sha256"))
    assert verified(data).integrity == "sha256"
    assert refused(data, integrity="sha1") == MISSING


def test_host_04_of_two_integrities_the_first_counts() -> None:
    good = sign(raw_message(BODY))
    assert verified(append(good, tlv(0x0008, bytes(20)))).integrity == "sha1"
    good = sign(raw_message(BODY), algorithm="sha256")
    assert verified(append(good, tlv(0x001C, bytes(32)))).integrity == "sha256"
    bad = append(raw_message(BODY), tlv(0x0008, bytes(20)))
    assert refused(sign(bad)) == MISMATCH


def test_host_04_integrity_inside_a_value_is_no_integrity() -> None:
    inner = sign(raw_message(b""))[-24:]
    message = decode(append(raw_message(BODY), tlv(0x0013, inner)))
    assert not message.has_integrity
    assert refused(message.data) == MISSING


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(append(seal(raw_message(BODY)), tlv(0x8022, b"x")), id="SOFTWARE after it"),
        pytest.param(sign(seal(raw_message(BODY))), id="integrity after it"),
        pytest.param(seal(seal(raw_message(BODY))), id="twice"),
        pytest.param(append(raw_message(BODY), tlv(0x8028, bytes(4))), id="wrong"),
        pytest.param(append(raw_message(BODY), tlv(0x8028, b"")), id="empty"),
        pytest.param(append(raw_message(BODY), tlv(0x8028, bytes(8))), id="eight bytes"),
        pytest.param(append(raw_message(BODY), seal(raw_message(BODY))[-8:])[:-4] + bytes(4), id="zero"),
    ],
)
def test_stun_23_host_04_fingerprint_is_last_and_right(data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(data)
    assert caught.value.reason == "stun_fingerprint"


def test_stun_23_fingerprint_is_last_even_where_its_value_is_right() -> None:
    behind = tlv(0x8022, b"x")
    covered = append(raw_message(BODY), bytes(8) + behind)[: -8 - len(behind)]
    data = covered + tlv(0x8028, (binascii.crc32(covered) ^ 0x5354554E).to_bytes(4, "big")) + behind
    assert is_stun(data)
    with pytest.raises(DecodeError) as caught:
        decode(data)
    assert caught.value.reason == "stun_fingerprint"


def test_stun_23_the_length_counts_the_fingerprint() -> None:
    data = DATA["rfc5769_2_1_request"]
    assert decode(seal(data[:2] + (80).to_bytes(2, "big") + data[4:-8])).data == data


def test_stun_24_absent_integrity_never_passes() -> None:
    for data in (raw_message(BODY), seal(raw_message(BODY)), raw_message(b"")):
        assert refused(data) == MISSING
        assert refused(data, b"") == MISSING


def test_stun_27_the_other_form_is_not_taken() -> None:
    assert refused(sign(raw_message(BODY)), integrity="sha256") == MISSING
    assert refused(sign(raw_message(BODY), algorithm="sha256"), integrity="sha1") == MISSING


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_every_covered_bit_matters(algorithm: str) -> None:
    data = sign(raw_message(BODY), algorithm=algorithm)
    accepted = []
    for n in range(len(data) * 8):
        changed = bytearray(data)
        changed[n // 8] ^= 1 << n % 8
        try:
            authenticate(decode(bytes(changed)), KEY)
        except DecodeError:
            continue
        accepted.append(n)
    assert accepted == []


def test_stun_28_macs_are_compared_in_constant_time() -> None:
    source = inspect.getsource(integrity.verify)
    assert "compare_digest(" in source
    assert "==" not in source


def test_an_error_does_not_tell_the_key() -> None:
    with pytest.raises(AuthenticationError) as caught:
        authenticate(decode(DATA["rfc5769_2_1_request"]), b"a wrong secret")
    assert "secret" not in str(caught.value)


@given(st.binary(max_size=150), st.binary(max_size=200), st.sampled_from(["sha1", "sha256"]))
def test_stun_20_the_hash_is_hmac(key: bytes, covered: bytes, algorithm: Any) -> None:
    assert integrity.integrity_value(key, covered, algorithm) == hmac.digest(key, covered, algorithm)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 200])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_stun_20_the_hash_is_hmac_for_keys_of_any_size(size: int, algorithm: Any) -> None:
    key = bytes(range(200))[:size]
    assert integrity.integrity_value(key, b"covered", algorithm) == hmac.digest(key, b"covered", algorithm)


def test_more_keys_than_are_remembered() -> None:
    for n in [*range(200), *range(200)]:
        key = n.to_bytes(2, "big")
        assert integrity.integrity_value(key, b"covered", "sha1") == hmac.digest(key, b"covered", "sha1")


def test_stun_47_long_term_keys() -> None:
    assert long_term_key("user", "realm", "pass").hex() == "8493fbc53ba582fb4c044c456bdc40eb"
    assert (
        long_term_key("user", "realm", "pass", PasswordAlgorithm.SHA256) == hashlib.sha256(b"user:realm:pass").digest()
    )
    names = LONG_TERM["username"], LONG_TERM["realm"], LONG_TERM["password"]
    assert long_term_key(*names).hex() == LONG_TERM["md5_key"]
    assert long_term_key(*names, PasswordAlgorithm.SHA256).hex() == LONG_TERM["sha256_key"]
    with pytest.raises(LocalProtocolError):
        long_term_key("user", "realm", "pass", 3)  # type: ignore[arg-type]  # what a server may ask for


def test_stun_46_userhash() -> None:
    digest = userhash(LONG_TERM["username"], LONG_TERM["realm"])
    assert digest.hex() == "4a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704"


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("TheMatrIX", "TheMatrIX"),
        ("correct horse", "correct horse"),
        ("a\u00a0b\u3000c", "a b c"),
        ("e\u0301", "\u00e9"),
        ("\u2168", "\u2168"),
        ("\U0001f511", "\U0001f511"),
    ],
)
def test_stun_47_opaque_string(text: str, prepared: str) -> None:
    assert opaque_string(text) == prepared


@pytest.mark.parametrize("text", ["", "a\0", "a\nb", "\x7f", "\ud800", "\ue000", "\u0378"])
def test_stun_47_opaque_string_refuses(text: str) -> None:
    with pytest.raises(LocalProtocolError):
        opaque_string(text)
