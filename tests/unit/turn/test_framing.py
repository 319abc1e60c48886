"""ChannelData, and messages on a stream (RFC 8656 §12.4-12.6)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.errors import DecodeError
from edgeice.stun import Attribute, MessageClass, Method, encode
from edgeice.turn.framing import Deframer, decode_channel_data, encode_channel_data

STUN = encode(Method.DATA, MessageClass.INDICATION, bytes(12), [(Attribute.DATA, b"12345")], fingerprint=False)


@pytest.mark.parametrize(
    ("data", "padded", "wire"),
    [
        (b"", False, "40010000"),
        (b"a", False, "4001000161"),
        (b"abc", False, "40010003616263"),
        (b"abcd", False, "4001000461626364"),
        (b"", True, "40010000"),
        (b"a", True, "4001000161000000"),
        (b"abc", True, "4001000361626300"),
        (b"abcd", True, "4001000461626364"),
    ],
)
def test_turn_28_channel_data_is_padded_on_streams_and_its_length_leaves_that_out(
    data: bytes, padded: bool, wire: str
) -> None:
    message = encode_channel_data(0x4001, data, padded=padded)
    assert message.hex() == wire
    assert decode_channel_data(message) == (0x4001, data)


def test_turn_28_padding_over_udp_is_tolerated() -> None:
    assert decode_channel_data(bytes.fromhex("4001000161ffffff")) == (0x4001, b"a")


@pytest.mark.parametrize("message", ["4001", "400100", "40010001", "4001000561626364", "4001ffff61"])
def test_turn_29_channel_data_shorter_than_it_says(message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_channel_data(bytes.fromhex(message))
    assert caught.value.reason == "channel_length"


STREAM = [
    encode_channel_data(0x4000, b"", padded=True),
    STUN,
    encode_channel_data(0x4FFF, b"a", padded=True),
    encode_channel_data(0x4001, b"abc", padded=True),
    STUN,
    encode_channel_data(0x4001, b"abcd", padded=True),
]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 19, 20, 21, 1000])
def test_turn_28_a_stream_cut_anywhere_gives_the_same_messages(size: int) -> None:
    stream = b"".join(STREAM)
    deframer = Deframer()
    messages: list[bytes] = []
    for start in range(0, len(stream), size):
        messages += deframer.feed(stream[start : start + size])
    assert messages == STREAM
    assert not deframer.broken


def test_turn_28_a_stream_cut_at_every_byte() -> None:
    stream = b"".join(STREAM)
    for cut in range(len(stream) + 1):
        deframer = Deframer()
        assert deframer.feed(stream[:cut]) + deframer.feed(stream[cut:]) == STREAM


@pytest.mark.parametrize(
    "start",
    [
        "50000000",  # reserved: nobody knows how long it is
        "7fff0000",
        "80000000",
        "ffffffff",
        "00010001",  # STUN, and no multiple of four
        "000100002112a443",  # no cookie
        "3fff0000deadbeef",
    ],
)
def test_turn_29_what_cannot_be_framed_breaks_the_stream_after_what_came_before(start: str) -> None:
    deframer = Deframer()
    assert deframer.feed(STUN + bytes.fromhex(start) + STUN) == [STUN]
    assert deframer.broken
    assert deframer.feed(STUN) == []


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_whatever_comes_is_framed_or_breaks_the_stream(parts: list[bytes]) -> None:
    deframer = Deframer()
    taken = b"".join(message for part in parts for message in deframer.feed(part))
    assert b"".join(parts).startswith(taken)


def test_a_stream_holds_no_more_than_one_message() -> None:
    deframer = Deframer()
    largest = encode_channel_data(0x4000, bytes(0xFFFF), padded=True)
    assert deframer.feed(largest[:-1]) == []
    assert len(deframer._buffer) == 65_539
    assert deframer.feed(largest[-1:] + b"\x40") == [largest]
    assert len(deframer._buffer) == 1
