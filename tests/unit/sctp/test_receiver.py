from collections import deque
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeice.errors import RemoteProtocolError
from edgeice.sansio import DropCounter
from edgeice.sctp import SctpConfig
from edgeice.sctp.chunks import ForwardTsn, decode_sack
from edgeice.sctp.congestion import Rfc9260
from edgeice.sctp.reassembly import InMessage
from edgeice.sctp.receiver import Receiver
from edgeice.sctp.rto import RttEstimator
from edgeice.sctp.serial import unwrap32

Chunk = tuple[int, int, int, int, bytes]
Conversation = tuple[list[Chunk], list[tuple[int, int, int]]]


def make() -> tuple[Receiver, deque[object]]:
    ready: deque[object] = deque()
    return Receiver(SctpConfig(), 2**32 - 3, ready, DropCounter()), ready


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Chunks of fragmented messages in TSN order, and the messages as (stream, unordered, size)."""
    chunks: list[Chunk] = []
    messages: list[tuple[int, int, int]] = []
    ssn = {0: 0, 1: 0}
    for _ in range(draw(st.integers(1, 8))):
        stream = draw(st.integers(0, 1))
        unordered = draw(st.booleans())
        parts = draw(st.integers(1, 5))
        for part in range(parts):
            flags = (2 if part == 0 else 0) | (1 if part == parts - 1 else 0) | (4 if unordered else 0)
            chunks.append((len(chunks), flags, stream, ssn[stream], bytes((len(messages), part))))
        messages.append((stream, int(unordered), parts))
        if not unordered:
            ssn[stream] += 1
    return chunks, messages


@settings(max_examples=150, deadline=None)
@given(conversations(), st.randoms(use_true_random=False))
def test_any_order_with_duplicates_delivers_everything_once(conversation: Conversation, random: Random) -> None:
    chunks, messages = conversation
    receiver, ready = make()
    arrivals = chunks + random.sample(chunks, len(chunks) // 2)
    random.shuffle(arrivals)
    for tsn, flags, stream, ssn, payload in arrivals:
        receiver.on_data(2**32 - 3 + tsn & 0xFFFFFFFF, flags, stream, ssn, 53, payload)
    delivered = [message for message in ready if isinstance(message, InMessage)]
    assert len(delivered) == len(messages)
    for message in delivered:
        number = message.data[0]
        assert message.data == bytes(byte for part in range(messages[number][2]) for byte in (number, part))
    for stream in (0, 1):
        order = [m.data[0] for m in delivered if m.stream_id == stream and not messages[m.data[0]][1]]
        assert order == sorted(order)
    assert receiver.cum == 2**32 - 4 + len(chunks)
    assert receiver.used == sum(message.cost for message in delivered)
    for message in delivered:
        receiver.release(message.cost)
    assert receiver.used == 0


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 60), max_size=80), st.integers(0, 60))
def test_gap_blocks_say_exactly_what_came(arrivals: list[int], forward: int) -> None:
    receiver, _ready = make()
    base = receiver.cum
    for tsn in arrivals:
        receiver.on_data(base + tsn & 0xFFFFFFFF, 7, 0, 0, 53, b"x")
    receiver.on_forward_tsn(ForwardTsn(base + forward & 0xFFFFFFFF))
    came = set(arrivals) | set(range(1, forward + 1))
    cumulative, _window, gaps, _duplicates = decode_sack(receiver.take_sack(1188)[4:])
    offset = unwrap32(base, cumulative) - base
    said = set(range(1, offset + 1)) | {offset + n for first, last in gaps for n in range(first, last + 1)}
    assert said == came
    assert offset + 1 not in came


def test_fragments_of_different_messages_contradict() -> None:
    receiver, _ready = make()
    receiver.on_data(2**32 - 3, 2, 0, 0, 53, b"a")
    with pytest.raises(RemoteProtocolError):
        receiver.on_data(2**32 - 2, 0, 1, 0, 53, b"b")


def test_backward_fragments_cost_linear_work() -> None:
    receiver, ready = make()
    count = 4_000
    for n in reversed(range(count)):
        flags = (2 if n == 0 else 0) | (1 if n == count - 1 else 0)
        receiver.on_data(2**32 - 3 + n & 0xFFFFFFFF, flags, 0, 0, 53, b"x")
    assert len(ready) == 1
    assert receiver.used == count + 64


@pytest.mark.parametrize(
    ("near", "value", "expected"),
    [(0, 0, 0), (0, 2**32 - 1, -1), (2**32, 5, 2**32 + 5), (2**32 + 5, 2**32 - 2, 2**32 - 2), (2**31, 0, 0)],
)
def test_serial_numbers_unwrap(near: int, value: int, expected: int) -> None:
    assert unwrap32(near, value) == expected


def test_sctp_11_rto_by_the_rule() -> None:
    rtt = RttEstimator(initial=1.0, minimum=0.1, maximum=10.0)
    rtt.sample(0.4)
    assert rtt.srtt == 0.4
    assert rtt.rto == pytest.approx(1.2)
    rtt.sample(0.8)
    assert rtt.srtt == pytest.approx(0.45)
    assert rtt.variation == pytest.approx(0.25)
    for _ in range(9):
        rtt.back_off()
    assert rtt.rto == 10.0
    rtt.reset()
    assert rtt.rto == 1.0
    rtt.sample(0.2)
    assert rtt.rto == pytest.approx(0.6)  # the first one again


def grow(control: Rfc9260, size: int, in_flight: int, *, advanced: bool = True, outstanding: bool = True) -> None:
    control.on_sent(1, in_flight, now=0.0)
    control.on_acknowledged(size, in_flight, rtt=None, advanced=advanced, outstanding=outstanding, now=0.0)


def test_sctp_11_window_by_the_rule() -> None:
    control = Rfc9260(mtu=1000, initial_packets=10)
    assert control.window == 10_000
    grow(control, 5_000, 5_000)
    assert control.window == 10_000  # not used up
    grow(control, 2_000, 10_000)
    assert control.window == 11_000  # one packet for each acknowledgment of two
    grow(control, 600, 11_000)
    assert control.window == 11_600
    grow(control, 600, 11_600, advanced=False)
    assert control.window == 11_600
    control.on_loss(now=0.0)
    assert (control.window, control.ssthresh) == (5_800, 5_800)
    grow(control, 1_000, 5_800)
    assert control.window == 5_800  # recovering
    control.on_recovered(now=0.0)
    grow(control, 1_000, 5_800)
    assert control.window == 6_800
    grow(control, 6_000, 6_800)
    assert control.window == 6_800
    grow(control, 800, 6_800)
    assert control.window == 7_800  # one packet for each window
    control.on_timeout(now=0.0)
    assert (control.window, control.ssthresh) == (1_000, 4_000)
    control.on_path_changed(now=0.0)
    assert control.window == 10_000


def test_an_acknowledgment_of_many_packets_grows_the_window_as_one_for_every_second_would() -> None:
    """RFC 9260 §7.2.1: the factor L."""
    control = Rfc9260(mtu=1000, initial_packets=20)
    grow(control, 20_000, 20_000)
    assert control.window == 30_000
    grow(control, 20_000, 20_000)
    assert control.window == 30_000  # not used up
