"""Header, attributes and the order of checks (RFC 8489 §5, §6.3, §14)."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.addresses import TransportAddress
from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.stun import (
    AddressErrorCode,
    Attribute,
    AuthenticatedMessage,
    ErrorCode,
    Icmp,
    Message,
    MessageClass,
    Method,
    PasswordAlgorithm,
    PasswordAlgorithmEntry,
    authenticate,
    decode,
    encode,
    is_stun,
)
from edgeice.stun.attributes import DECODERS, SIZES, UNPACKERS
from tests.support.stun_wire import DATA, KEY, TID, append, raw_message, seal, sign, tlv

V4 = TransportAddress("192.0.2.1", 32853)
V6 = TransportAddress("2001:db8:1234:5678:11:2233:4455:6677", 32853)


def check_request(**options: Any) -> bytes:
    attributes = [
        (Attribute.USERNAME, "evtj:h6vY"),
        (Attribute.PRIORITY, 0x6E0001FF),
        (Attribute.ICE_CONTROLLED, 0x932FF9B151263B36),
    ]
    return encode(Method.BINDING, MessageClass.REQUEST, TID, attributes, **{"key": KEY, **options})


def request(body: bytes) -> bytes:
    return raw_message(body)


def reason_of(data: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(data)
    return caught.value.reason


WHOLE = DATA["rfc5769_2_1_request"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bytes([WHOLE[0] | 0x40]) + WHOLE[1:], id="top bit 01"),
        pytest.param(bytes([WHOLE[0] | 0x80]) + WHOLE[1:], id="top bit 10"),
        pytest.param(bytes([WHOLE[0] | 0xC0]) + WHOLE[1:], id="top bits 11"),
        *(pytest.param(WHOLE[:n] + bytes([WHOLE[n] ^ 1]) + WHOLE[n + 1 :], id=f"cookie byte {n}") for n in range(4, 8)),
        *(pytest.param(WHOLE[:2] + n.to_bytes(2, "big") + WHOLE[4:], id=f"length {n}") for n in (0, 84, 86, 89, 92)),
        pytest.param(WHOLE[:2] + (108).to_bytes(2, "big") + WHOLE[4:], id="length counts the header"),
        pytest.param(WHOLE + b"\0\0\0\0", id="trailing bytes"),
        pytest.param(WHOLE[:-4], id="cut off"),
        pytest.param(request(b"\0\0")[:22], id="length 2"),
        pytest.param(DATA["rfc8489_b_1_published"], id="RFC 8489 B.1 as published"),
    ],
)
def test_stun_01_dec_1_a_wrong_header_is_not_stun(data: bytes) -> None:
    assert not is_stun(data)
    assert reason_of(data) in {"stun_header", "stun_length"}


def test_stun_01_a_right_header_is_stun() -> None:
    assert is_stun(WHOLE)
    assert is_stun(request(b""))
    assert decode(request(b"")).get(Attribute.USERNAME) is None


@pytest.mark.parametrize("size", range(20))
def test_host_01_shorter_than_a_header(size: int) -> None:
    assert not is_stun(WHOLE[:size])
    assert reason_of(WHOLE[:size]) == "stun_header"


@pytest.mark.parametrize(
    ("method", "message_class", "code"),
    [
        (Method.BINDING, MessageClass.REQUEST, 0x0001),
        (Method.BINDING, MessageClass.INDICATION, 0x0011),
        (Method.BINDING, MessageClass.SUCCESS, 0x0101),
        (Method.BINDING, MessageClass.ERROR, 0x0111),
        (Method.ALLOCATE, MessageClass.REQUEST, 0x0003),
        (Method.ALLOCATE, MessageClass.SUCCESS, 0x0103),
        (Method.ALLOCATE, MessageClass.ERROR, 0x0113),
        (Method.SEND, MessageClass.INDICATION, 0x0016),
        (Method.DATA, MessageClass.INDICATION, 0x0017),
        (Method.CHANNEL_BIND, MessageClass.REQUEST, 0x0009),
        (Method.CHANNEL_BIND, MessageClass.SUCCESS, 0x0109),
        (Method.CHANNEL_BIND, MessageClass.ERROR, 0x0119),
    ],
)
def test_stun_02_type_codes(method: Method, message_class: MessageClass, code: int) -> None:
    assert encode(method, message_class, TID, ())[:2] == code.to_bytes(2, "big")


def test_stun_02_every_method_and_class_survives() -> None:
    seen = set()
    for method, message_class in product(range(0x1000), MessageClass):
        data = encode(method, message_class, TID, (), fingerprint=False)
        message = decode(data)
        assert (message.method, message.message_class) == (method, message_class)
        seen.add(data[:2])
    assert len(seen) == 0x1000 * 4


@pytest.mark.parametrize(("method", "transaction_id"), [(0x1000, TID), (-1, TID), (1, TID[:11]), (1, TID + b"\0")])
def test_encode_refuses_what_the_header_cannot_hold(method: int, transaction_id: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        encode(method, MessageClass.REQUEST, transaction_id, ())


@pytest.mark.parametrize("value", [b"", b"a", b"ab", b"abc", b"abcd", b"abcde"])
def test_stun_04_padding_is_zero_when_sent_and_ignored_when_received(value: bytes) -> None:
    data = encode(Method.BINDING, MessageClass.REQUEST, TID, [(Attribute.NONCE, value)], fingerprint=False)
    assert data[20:] == tlv(0x0015, value)
    for padding in (b"\0", b" ", b"\xff"):
        message = decode(request(tlv(0x0015, value, padding=padding) + tlv(0x0024, bytes(4))))
        assert message.get(Attribute.NONCE) == value
        assert message.get(Attribute.PRIORITY) == 0


def test_stun_05_the_first_of_repeated_attributes_wins() -> None:
    first = encode(
        Method.BINDING,
        MessageClass.REQUEST,
        TID,
        [
            (Attribute.USERNAME, "first"),
            (Attribute.XOR_MAPPED_ADDRESS, V4),
            (Attribute.PRIORITY, 1),
            (0x7A01, b"one"),
            (Attribute.USERNAME, "second"),
            (Attribute.XOR_MAPPED_ADDRESS, V6),
            (Attribute.PRIORITY, 2),
            (0x7A01, b"two"),
        ],
    )
    message = decode(first)
    assert message.get(Attribute.USERNAME) == "first"
    assert message.get(Attribute.XOR_MAPPED_ADDRESS) == V4
    assert message.get(Attribute.PRIORITY) == 1
    assert message.get(0x7A01) == b"one"
    assert message.unknown_required == (0x7A01,)


def test_stun_05_what_a_repetition_holds_does_not_matter() -> None:
    message = decode(request(tlv(0x0006, b"first") + tlv(0x0006, b"\xff") + tlv(0x0024, bytes(4)) + tlv(0x0024, b"")))
    assert message.get(Attribute.USERNAME) == "first"
    assert message.get(Attribute.PRIORITY) == 0


def test_repeated_addresses_can_all_be_read() -> None:
    attributes = [(Attribute.XOR_RELAYED_ADDRESS, V4), (Attribute.LIFETIME, 600), (Attribute.XOR_RELAYED_ADDRESS, V6)]
    message = decode(encode(Method.ALLOCATE, MessageClass.SUCCESS, TID, attributes, key=KEY))
    assert message.get_all(Attribute.XOR_RELAYED_ADDRESS) == (V4, V6)
    assert message.get_all(Attribute.XOR_PEER_ADDRESS) == ()


def test_repeated_addresses_end_at_integrity_and_leave_out_the_malformed() -> None:
    good = encode(Method.ALLOCATE, MessageClass.SUCCESS, TID, [(Attribute.XOR_RELAYED_ADDRESS, V4)], fingerprint=False)
    signed = sign(raw_message(good[20:] + tlv(0x0016, b"short"), code=0x0103))
    data = signed[:2] + (len(signed) - 20 + 12).to_bytes(2, "big") + signed[4:] + good[20:]
    assert decode(data).get_all(Attribute.XOR_RELAYED_ADDRESS) == (V4,)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(WHOLE[:4] + b"\0" + WHOLE[5:-4], "stun_header", id="cookie before length"),
        pytest.param(WHOLE[:-1] + b"\0\0\0\0\0", "stun_length", id="length before FINGERPRINT"),
        pytest.param(
            WHOLE[:-20] + bytes([WHOLE[-20] ^ 1]) + WHOLE[-19:], "stun_fingerprint", id="FINGERPRINT before integrity"
        ),
        pytest.param(request(tlv(0x7A01, b"", claimed=8) + tlv(0x0006, b"")), "stun_length", id="reaches over"),
        pytest.param(request(tlv(0x0006, b"abcd", claimed=9)), "stun_length", id="length before text"),
        pytest.param(request(tlv(0x0020, b"\0\2" + bytes(6), claimed=20)), "stun_length", id="length before address"),
        pytest.param(
            request(tlv(0x0006, b"ab") + tlv(0x0006, b"abcd", claimed=9)), "stun_length", id="length of a repetition"
        ),
        pytest.param(
            append(sign(request(b"")), tlv(0x0006, b"", claimed=4)), "stun_length", id="length behind integrity"
        ),
    ],
)
def test_stun_06_the_earlier_rule_decides(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


def test_stun_07_unknown_required_attributes_are_listed_in_order() -> None:
    message = decode(seal(sign(request(tlv(0x7A02, b"x") + tlv(0x7A01, b"") + tlv(0xFA01, b"") + tlv(0x7A02, b"y")))))
    assert message.unknown_required == (0x7A02, 0x7A01)
    assert authenticate(message, KEY).unknown_required == (0x7A02, 0x7A01)


def test_stun_09_unknown_optional_and_unexpected_attributes_are_ignored() -> None:
    attributes = [(Attribute.REALM, "example.org"), (0xC067, b"\0\x01\0\x32"), (Attribute.XOR_MAPPED_ADDRESS, V4)]
    message = decode(encode(Method.BINDING, MessageClass.SUCCESS, TID, attributes))
    assert message.unknown_required == ()
    assert message.get(Attribute.XOR_MAPPED_ADDRESS) == V4
    assert message.get(0xC067) == b"\0\x01\0\x32"
    assert 0xC067 in message
    assert 0xC068 not in message


@pytest.mark.parametrize("attribute", [0x0001, 0x0012, 0x0016, 0x0020, 0x8023])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0\1\x80\x55", id="no address"),
        pytest.param(b"\0\3" + bytes(6), id="family 3"),
        pytest.param(b"\0\0" + bytes(6), id="family 0"),
        pytest.param(b"\0\1" + bytes(18), id="IPv4 with 16 bytes"),
        pytest.param(b"\0\2" + bytes(6), id="IPv6 with 4 bytes"),
        pytest.param(b"\0\1" + bytes(7), id="IPv4 with 5 bytes"),
    ],
)
def test_stun_10_malformed_addresses(attribute: int, value: bytes) -> None:
    assert reason_of(request(tlv(attribute, value))) == "stun_attribute"


def test_stun_10_the_reserved_byte_of_an_address_is_ignored() -> None:
    assert decode(request(tlv(0x0001, b"\x7f\1\x80\x55\xc0\0\2\1"))).get(Attribute.MAPPED_ADDRESS) == V4


def test_stun_10_masking() -> None:
    data = encode(Method.BINDING, MessageClass.SUCCESS, TID, [(Attribute.XOR_MAPPED_ADDRESS, V6)], fingerprint=False)
    mask = (0x2112A442).to_bytes(4, "big") + TID
    packed = bytes.fromhex("20010db8123456780011223344556677")
    assert data[24:] == b"\0\2" + (32853 ^ 0x2112).to_bytes(2, "big") + bytes(
        a ^ b for a, b in zip(packed, mask, strict=True)
    )


def test_stun_11_a_success_without_address_gives_none() -> None:
    assert decode(raw_message(b"", code=0x0101)).get(Attribute.XOR_MAPPED_ADDRESS) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\0\0\3\0", (300, "")),
        (b"\0\0\4\x57No\x00", (487, "No\0")),
        (b"\xff\xff\xfc\x14", (420, "")),
        (b"\0\0\6\x63" + b"x" * 763, (699, "x" * 763)),
        (b"\0\0\4\1\xff", (401, "\ufffd")),
    ],
)
def test_stun_12_error_codes(value: bytes, expected: tuple[int, str]) -> None:
    assert decode(request(tlv(0x0009, value))).get(Attribute.ERROR_CODE) == expected


@pytest.mark.parametrize(
    "value", [b"", b"\0\0\4", b"\0\0\2\0", b"\0\0\7\0", b"\0\0\0\0", b"\0\0\4\x64", b"\0\0\4\1" + b"x" * 764]
)
def test_stun_12_malformed_error_codes(value: bytes) -> None:
    assert reason_of(request(tlv(0x0009, value))) == "stun_attribute"


@pytest.mark.parametrize("value", [ErrorCode(299), ErrorCode(700), ErrorCode(400, "x" * 509)])
def test_stun_12_error_codes_that_cannot_be_sent(value: ErrorCode) -> None:
    with pytest.raises(LocalProtocolError):
        encode(Method.BINDING, MessageClass.ERROR, TID, [(Attribute.ERROR_CODE, value)])


@pytest.mark.parametrize("attribute", [Attribute.USERNAME, Attribute.REALM, Attribute.NONCE, Attribute.SOFTWARE])
def test_stun_13_limits_of_text(attribute: Attribute) -> None:
    def sent(size: int) -> bytes:
        value = b"x" * size if attribute is Attribute.NONCE else "x" * size
        return encode(Method.BINDING, MessageClass.REQUEST, TID, [(attribute, value)])

    assert attribute in decode(sent(508))
    with pytest.raises(LocalProtocolError):
        sent(509)
    assert attribute in decode(request(tlv(attribute, b"x" * 763)))
    assert reason_of(request(tlv(attribute, b"x" * 764))) == "stun_attribute"


@pytest.mark.parametrize("attribute", [Attribute.USERNAME, Attribute.REALM, Attribute.SOFTWARE])
def test_text_is_utf_8(attribute: Attribute) -> None:
    assert reason_of(request(tlv(attribute, b"abc\xff"))) == "stun_attribute"


def test_stun_35_the_largest_check_fits_a_small_datagram() -> None:
    attributes = [
        (Attribute.USERNAME, "u" * 256 + ":" + "v" * 32),
        (Attribute.PRIORITY, 2**31 - 1),
        (Attribute.ICE_CONTROLLING, 2**64 - 1),
        (Attribute.NOMINATION, 2**24 - 1),
        (Attribute.NETWORK_INFO, 2**32 - 1),
        (Attribute.USE_CANDIDATE, True),
    ]
    assert len(encode(Method.BINDING, MessageClass.REQUEST, TID, attributes, key=KEY, integrity="sha256")) <= 548


# One value for each attribute that has one, with its bytes.
ROUND_TRIPS: list[tuple[Attribute, object, bytes]] = [
    (Attribute.MAPPED_ADDRESS, V4, bytes.fromhex("00018055c0000201")),
    (Attribute.ALTERNATE_SERVER, V6, bytes.fromhex("0002805520010db8123456780011223344556677")),
    (Attribute.XOR_MAPPED_ADDRESS, V4, bytes.fromhex("0001a147e112a643")),
    (Attribute.XOR_PEER_ADDRESS, V4, bytes.fromhex("0001a147e112a643")),
    (Attribute.XOR_RELAYED_ADDRESS, V4, bytes.fromhex("0001a147e112a643")),
    (Attribute.USERNAME, "ab:c\u30de", b"ab:c\xe3\x83\x9e"),
    (Attribute.REALM, "example.org", b"example.org"),
    (Attribute.SOFTWARE, "", b""),
    (Attribute.ALTERNATE_DOMAIN, "example.org", b"example.org"),
    (Attribute.NONCE, b"\xff\0", b"\xff\0"),
    (Attribute.DATA, b"", b""),
    (Attribute.USERHASH, bytes(range(32)), bytes(range(32))),
    (Attribute.RESERVATION_TOKEN, b"12345678", b"12345678"),
    (Attribute.MOBILITY_TICKET, b"", b""),
    (Attribute.PRIORITY, 0x6E0001FF, bytes.fromhex("6e0001ff")),
    (Attribute.LIFETIME, 600, bytes.fromhex("00000258")),
    (Attribute.CHANNEL_NUMBER, 0x4001, bytes.fromhex("40010000")),
    (Attribute.REQUESTED_TRANSPORT, 17, bytes.fromhex("11000000")),
    (Attribute.REQUESTED_ADDRESS_FAMILY, 6, bytes.fromhex("02000000")),
    (Attribute.ADDITIONAL_ADDRESS_FAMILY, 4, bytes.fromhex("01000000")),
    (Attribute.ICE_CONTROLLED, 2**64 - 1, b"\xff" * 8),
    (Attribute.ICE_CONTROLLING, 1, bytes(7) + b"\1"),
    (Attribute.NOMINATION, 2, bytes.fromhex("00000002")),
    (Attribute.NETWORK_INFO, 3 << 16 | 900, bytes.fromhex("00030384")),
    (Attribute.USE_CANDIDATE, True, b""),
    (Attribute.DONT_FRAGMENT, True, b""),
    (Attribute.EVEN_PORT, True, b"\x80"),
    (Attribute.EVEN_PORT, False, b"\0"),
    (Attribute.ERROR_CODE, ErrorCode(487, "Role Conflict"), b"\0\0\4\x57Role Conflict"),
    (Attribute.ADDRESS_ERROR_CODE, AddressErrorCode(6, 440, "no"), b"\2\0\4\x28no"),
    (Attribute.ICMP, Icmp(3, 4, 1280), bytes.fromhex("0000060400000500")),
    (Attribute.UNKNOWN_ATTRIBUTES, (0x7A01, 0x7A02, 0x7A03), bytes.fromhex("7a017a027a03")),
    (Attribute.PASSWORD_ALGORITHM, PasswordAlgorithmEntry(PasswordAlgorithm.SHA256), bytes.fromhex("00020000")),
    (
        Attribute.PASSWORD_ALGORITHMS,
        (PasswordAlgorithmEntry(7, b"abc"), PasswordAlgorithmEntry(PasswordAlgorithm.MD5)),
        bytes.fromhex("0007000361626300") + bytes.fromhex("00010000"),
    ),
    (Attribute.PASSWORD_ALGORITHMS, (), b""),
]


@pytest.mark.parametrize(("attribute", "value", "encoded"), ROUND_TRIPS)
def test_attributes_on_the_wire(attribute: Attribute, value: object, encoded: bytes) -> None:
    data = encode(Method.BINDING, MessageClass.REQUEST, TID, [(attribute, value)], fingerprint=False)
    assert data[20:] == tlv(attribute, encoded)
    message = decode(data)
    assert attribute in message
    found = message.get(int(attribute))
    assert found == value
    assert type(found) is type(value)
    assert message.get(int(attribute)) == value


def test_every_attribute_is_in_the_table() -> None:
    trailers = {Attribute.MESSAGE_INTEGRITY, Attribute.MESSAGE_INTEGRITY_SHA256, Attribute.FINGERPRINT}
    assert {row[0] for row in ROUND_TRIPS} | trailers == set(Attribute) == set(SIZES)
    flags = {Attribute.USE_CANDIDATE, Attribute.DONT_FRAGMENT}
    assert set(DECODERS) | set(UNPACKERS) | flags == set(Attribute) - trailers
    assert not set(DECODERS) & set(UNPACKERS)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        (Attribute.PRIORITY, -1),
        (Attribute.PRIORITY, 2**32),
        (Attribute.PRIORITY, "1"),
        (Attribute.ICE_CONTROLLING, 2**64),
        (Attribute.CHANNEL_NUMBER, 0x10000),
        (Attribute.REQUESTED_TRANSPORT, 256),
        (Attribute.REQUESTED_ADDRESS_FAMILY, 1),
        (Attribute.USE_CANDIDATE, False),
        (Attribute.USE_CANDIDATE, None),
        (Attribute.USERNAME, 5),
        (Attribute.USERNAME, "\ud800"),
        (Attribute.ALTERNATE_DOMAIN, "x" * 256),
        (Attribute.RESERVATION_TOKEN, b"1234567"),
        (Attribute.USERHASH, b""),
        (Attribute.DATA, bytes(0x10000)),
        (Attribute.DATA, bytes(0xFFFD)),
        (Attribute.XOR_MAPPED_ADDRESS, "192.0.2.1"),
        (Attribute.XOR_MAPPED_ADDRESS, TransportAddress("example.org", 1)),
        (Attribute.MAPPED_ADDRESS, TransportAddress("192.0.2.1", 0x10000)),
        (Attribute.ERROR_CODE, 400),
        (Attribute.ICMP, (128, 0, 0)),
        (Attribute.UNKNOWN_ATTRIBUTES, (0x10000,)),
        (Attribute.PASSWORD_ALGORITHM, PasswordAlgorithmEntry(0x10000)),
        (Attribute.MESSAGE_INTEGRITY, bytes(20)),
        (Attribute.FINGERPRINT, bytes(4)),
        (0x7A01, "text"),
        (0x10000, b""),
    ],
)
def test_encode_refuses_values_that_do_not_fit(attribute: int, value: object) -> None:
    with pytest.raises(LocalProtocolError):
        encode(Method.BINDING, MessageClass.REQUEST, TID, [(attribute, value)])


FIXED = sorted((kind, size) for kind, size in SIZES.items() if size >= 0)


@pytest.mark.parametrize(("kind", "size"), FIXED, ids=lambda n: f"{n:#x}")
def test_host_02_fixed_sizes_are_exact(kind: int, size: int) -> None:
    decode(request(tlv(kind, bytes(size))))
    for wrong in {0, 1, size - 1, size + 1, size + 4, 2 * size} - {size, -1}:
        assert reason_of(request(tlv(kind, bytes(wrong)))) == "stun_attribute"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (0x0018, b""),
        (0x0018, b"\x80\0"),
        (0x8004, bytes(7)),
        (0x8004, bytes(9)),
        (0x0017, b""),
        (0x0017, b"\3\0\0\0"),
        (0x8000, bytes(8)),
        (0x8001, b"\1\0\4"),
        (0x8001, b"\3\0\4\x28"),
        (0x8001, b"\1\0\7\0"),
        (0x000A, b"\x7a"),
        (0x001D, b""),
        (0x001D, bytes.fromhex("0001000000020000")),
        (0x001D, bytes.fromhex("00020001")),
        (0x8002, b"\0\1"),
        (0x8002, bytes.fromhex("0001ffff")),
    ],
)
def test_host_02_malformed_values(kind: int, value: bytes) -> None:
    assert reason_of(request(tlv(kind, value))) == "stun_attribute"


@pytest.mark.parametrize("kind", [*SIZES, 0x7A01, 0xFA01], ids=lambda n: f"{n:#x}")
@pytest.mark.parametrize("claimed", [5, 8, 0xFFFC, 0xFFFF])
def test_host_02_sizes_past_the_end(kind: int, claimed: int) -> None:
    assert reason_of(request(tlv(kind, b"abcd", claimed=claimed))) in {
        "stun_length",
        "stun_attribute",
        "stun_integrity",
        "stun_fingerprint",
    }


def test_host_03_a_flood_of_attributes_is_bounded_by_its_bytes() -> None:
    message = decode(request(tlv(0x0025, b"") * 300))
    assert message.get(Attribute.USE_CANDIDATE) is True
    unknown = decode(request(b"".join(tlv(0x7000 + n, b"") for n in range(370)))).unknown_required
    assert unknown == tuple(range(0x7000, 0x7000 + 370))


def test_neither_type_passes_for_the_other() -> None:
    assert not issubclass(AuthenticatedMessage, Message)
    assert not issubclass(Message, AuthenticatedMessage)


def test_a_message_tells_names_and_no_values() -> None:
    text = repr(authenticate(decode(check_request()), KEY))
    expected = f"<AuthenticatedMessage BINDING REQUEST {TID.hex()} [USERNAME PRIORITY ICE_CONTROLLED]>"
    assert text == expected
    assert repr(decode(raw_message(tlv(0x7A01, b""), code=0x0002))) == f"<Message 0x002 REQUEST {TID.hex()} [0x7a01]>"


@st.composite
def framed(draw: st.DrawFn) -> bytes:
    """A right header before attributes that are mostly known, and often wrong."""
    kinds = st.one_of(st.sampled_from(sorted(SIZES)), st.integers(0, 0xFFFF))
    body = b"".join(
        tlv(draw(kinds), draw(st.binary(max_size=40)), claimed=draw(st.one_of(st.none(), st.integers(0, 60))))
        for _ in range(draw(st.integers(0, 6)))
    )
    return raw_message(body, code=draw(st.integers(0, 0x3FFF)))


@given(st.one_of(st.binary(max_size=200), framed(), framed().map(seal), framed().map(sign).map(seal)))
def test_host_01_any_bytes_are_accepted_or_a_decode_error(data: bytes) -> None:
    try:
        message = decode(data)
    except DecodeError:
        return
    # RFC 7983 §7: only methods below 0x100 can share a port.
    assert is_stun(data) == (data[0] < 4)
    for attribute in Attribute:
        message.get(int(attribute))
        assert (attribute in message) == (message.get(int(attribute)) is not None)
    message.get_all(Attribute.XOR_PEER_ADDRESS)
    repr(message)
    try:
        authenticated = authenticate(message, KEY)
    except DecodeError:
        return
    assert authenticated.transaction_id == data[8:20]


@given(
    st.lists(st.sampled_from(ROUND_TRIPS).map(lambda row: (row[0], row[1])), max_size=8, unique_by=lambda row: row[0]),
    st.sampled_from([None, KEY]),
    st.sampled_from(["sha1", "sha256"]),
    st.booleans(),
)
def test_what_is_encoded_is_decoded(
    attributes: list[tuple[Attribute, object]], key: bytes | None, integrity: Any, fingerprint: bool
) -> None:
    data = encode(
        Method.ALLOCATE, MessageClass.REQUEST, TID, attributes, key=key, integrity=integrity, fingerprint=fingerprint
    )
    message = decode(data)
    assert message.has_fingerprint == fingerprint
    assert message.has_integrity == (key is not None)
    seen = message if key is None else authenticate(message, key)
    assert {kind: seen.get(int(kind)) for kind, _ in attributes} == dict(attributes)
