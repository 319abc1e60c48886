import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.errors import DecodeError
from edgeice.sctp.chunks import (
    CHUNK_HEADER,
    INIT_FIELDS,
    ChunkType,
    ForwardTsn,
    InitChunk,
    ParameterType,
    decode_causes,
    decode_forward_tsn,
    decode_init,
    decode_parameters,
    decode_sack,
    encode_chunk,
    encode_forward_tsn,
    encode_init,
    encode_parameter,
    encode_sack,
    split_chunks,
)
from edgeice.sctp.cookie import CookieSigner, StateCookie
from edgeice.sctp.dcep import OpenMessage, decode_dcep, encode_open

DECODERS = [decode_init, decode_sack, decode_forward_tsn, decode_parameters, decode_causes, decode_dcep, split_chunks]


@pytest.mark.parametrize("decoder", DECODERS)
@given(data=st.binary(max_size=200))
def test_host_20_decoders_are_total(decoder: Callable[[bytes], object], data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decoder(data)


@given(st.binary(max_size=64), st.lists(st.tuples(st.integers(0, 255), st.integers(0, 40), st.binary(max_size=40))))
def test_host_20_spans_lie_inside_and_advance(prefix: bytes, chunks: list[tuple[int, int, bytes]]) -> None:
    packet = bytes(12) + prefix + b"".join(CHUNK_HEADER.pack(k, 0, n) + v for k, n, v in chunks)
    try:
        spans = split_chunks(packet)
    except DecodeError:
        return
    last = 12
    for _kind, _flags, start, end in spans:
        assert last + 4 <= start <= end <= len(packet)
        last = end


@pytest.mark.parametrize("length", [0, 1, 2, 3, 9, 0xFFFF])
def test_host_20_chunk_length_lies(length: int) -> None:
    with pytest.raises(DecodeError):
        split_chunks(bytes(12) + CHUNK_HEADER.pack(0, 0, length) + bytes(4))


@pytest.mark.parametrize("length", [0, 1, 2, 3, 9, 0xFFFF])
def test_host_20_parameter_length_lies(length: int) -> None:
    with pytest.raises(DecodeError):
        decode_parameters(length.to_bytes(4, "big") + bytes(4))


def test_last_padding_may_be_missing() -> None:
    assert split_chunks(bytes(12) + b"\x0a\x00\x00\x05Z") == [(10, 0, 16, 17)]


def init(*parameters: bytes) -> bytes:
    return INIT_FIELDS.pack(7, 100_000, 10, 20, 99) + b"".join(parameters)


@pytest.mark.parametrize(
    ("bits", "goes_on", "reported"),
    [(0, False, False), (1, False, True), (2, True, False), (3, True, True)],
)
def test_sctp_08_unknown_parameter_by_its_top_bits(bits: int, goes_on: bool, reported: bool) -> None:
    unknown = encode_parameter(bits << 14 | 0x0FFF, b"abc")
    chunk = decode_init(init(unknown, encode_parameter(ParameterType.FORWARD_TSN_SUPPORTED)))
    assert chunk.forward_tsn is goes_on
    assert chunk.unrecognized == ((unknown,) if reported else ())


@pytest.mark.parametrize("kind", [0x8001, 0x8002, 0x8003, 0x8004, 0x8000, 5, 6, 9, 12, 0xC006])
def test_sctp_05_known_parameters_are_not_reported(kind: int) -> None:
    assert decode_init(init(encode_parameter(kind, bytes(4)))).unrecognized == ()


def test_sctp_18_supported_extensions() -> None:
    encoded = encode_init(InitChunk(1, 2, 3, 4, 5, forward_tsn=True, reconfig=True), ChunkType.INIT)
    assert encode_parameter(0x8008, bytes((130, 192))) in encoded
    assert encode_parameter(0xC000) in encoded
    assert decode_init(encoded[4:]) == InitChunk(1, 2, 3, 4, 5, forward_tsn=True, reconfig=True)
    assert not decode_init(init()).reconfig


def test_sack_round_trip() -> None:
    chunk = encode_sack(5, 1000, [(2, 3), (5, 9)], [4, 4])
    assert decode_sack(chunk[4:]) == (5, 1000, [(2, 3), (5, 9)], 2)
    with pytest.raises(DecodeError):
        decode_sack(chunk[4:-4])


def test_forward_tsn_round_trip() -> None:
    chunk = ForwardTsn(7, ((1, 2), (3, 65535)))
    assert decode_forward_tsn(encode_forward_tsn(chunk)[4:]) == chunk


def test_chunks_are_padded() -> None:
    assert encode_chunk(10, b"abcde") == b"\x0a\x00\x00\x09abcde\0\0\0"


COOKIE = StateCookie(1.5, 5000, 5000, 1, 2, 3, 4, 5, 6, 7, True, False, 8, 9)


def test_host_21_cookie_is_bound_to_its_secret() -> None:
    signer = CookieSigner(b"a" * 32)
    data = signer.encode(COOKIE)
    assert signer.decode(data) == COOKIE
    with pytest.raises(DecodeError, match="mac"):
        CookieSigner(b"b" * 32).decode(data)
    for at in range(len(data)):
        with pytest.raises(DecodeError):
            signer.decode(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])


OPENS = [
    (OpenMessage("l", "p"), 0x00),
    (OpenMessage("", "", ordered=False), 0x80),
    (OpenMessage("é", "p", max_retransmits=0), 0x01),
    (OpenMessage("l", "", ordered=False, max_retransmits=7), 0x81),
    (OpenMessage("l", "p", max_lifetime=500), 0x02),
    (OpenMessage("l", "p", ordered=False, max_lifetime=0), 0x82),
]


@pytest.mark.parametrize(("message", "kind"), OPENS)
def test_dc_02_open_round_trip(message: OpenMessage, kind: int) -> None:
    data = encode_open(message)
    assert data[0] == 0x03
    assert data[1] == kind
    assert decode_dcep(data) == message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02\x00",
        b"\x04",
        b"\x03" + bytes(10),
        encode_open(OpenMessage("l", "p")) + b"x",
        encode_open(OpenMessage("l", "p"))[:-1],
        b"\x03\x03" + bytes(10),
        encode_open(OpenMessage("l", ""))[:-1] + b"\xff",
    ],
)
def test_dc_02_open_must_be_exact(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_dcep(data)


def test_dc_02_ack_is_one_byte() -> None:
    assert decode_dcep(b"\x02") is None
