import math
from collections.abc import Callable
from itertools import count, pairwise
from random import Random

import pytest

from edgeice.errors import LocalProtocolError
from edgeice.sansio import Entropy
from edgeice.sctp import AssociationClosed, ChannelClosed, MessageReceived, SctpConfig
from edgeice.sctp.chunks import (
    SACK_HEADER,
    Cause,
    ChunkType,
    decode_causes,
    decode_sack,
    encode_chunk,
    encode_sack,
)
from edgeice.sctp.lifecycle import Timer
from edgeice.sctp.loss import LossDetection
from edgeice.sctp.streams import ACKED, OutChunk, OutMessage, OutStream
from tests.unit.sctp.link import Link, data_chunk, forge, kinds, values


def opened(link: Link, **options: object) -> int:
    """Connect and open a channel; what was sent so far is forgotten."""
    link.connect()
    channel = link.client.open("l", now=link.now, **options)  # type: ignore[arg-type]
    link.run(1.0)
    for sent in link.sent:
        sent.clear()
    for events in link.events:
        events.clear()
    return channel


def blobs(count: int, size: int = 16_384, seed: int = 5) -> list[bytes]:
    random = Random(seed)
    return [random.randbytes(size) for _ in range(count)]


@pytest.mark.parametrize("size", [1, 3, 4, 1171, 1172, 1173, 2344, 2345, 16_384, 65_536])
def test_sctp_12_messages_of_every_size_arrive(size: int) -> None:
    link = Link()
    channel = opened(link)
    data = blobs(1, size)[0]
    link.client.send(channel, data, now=link.now)
    link.run(2.0)
    assert link.messages(1) == [data]
    assert len(link.sent[0]) == math.ceil(size / 1172)
    assert max(map(len, link.sent[0])) <= 1200


def test_lossless_transfer_by_exact_counts() -> None:
    link = Link()
    channel = opened(link)
    data = blobs(8, 1172)
    for each in data:
        link.client.send(channel, each, now=link.now)
    link.run(2.0)
    assert link.messages(1) == data
    assert len(link.sent[0]) == 8
    # The first was alone and asked for its acknowledgment, the last waited for another.
    assert [kinds(p) for p in link.sent[1]] == [[ChunkType.SACK]] * 5


@pytest.mark.parametrize(
    ("size", "covered"),
    [(1, []), (2, [2]), (3, [2]), (4, [2, 2]), (8, [2, 3, 3]), (64, [2, 3, 4, 5, 7, 9, 12, 16, 6])],
)
def test_packets_that_came_together_are_acknowledged_in_growing_portions(size: int, covered: list[int]) -> None:
    """How many packets, of one TSN each, every SACK covers for a batch."""
    link = Link()
    link.connect()
    cum = link.server._association._receiver.cum
    batch = [forge(link.server, data_chunk(cum + 1 + n, b"x", ssn=cum + n & 0xFFFF)) for n in range(size)]
    link.server.receive_packets(batch, now=link.now)
    points = [cum & 0xFFFFFFFF]
    points += [decode_sack(values(packet, 3)[0])[0] for packet in iter(link.server.poll_transmit, None)]
    assert [after - before for before, after in pairwise(points)] == covered


def test_while_a_packet_is_missing_each_one_is_acknowledged_even_of_a_batch() -> None:
    """Missing reports are counted by SACKs (RFC 9260 §7.2.4)."""
    link = Link()
    link.connect()
    cum = link.server._association._receiver.cum
    batch = [forge(link.server, data_chunk(cum + n, b"x")) for n in (2, 3, 4)]
    link.server.receive_packets(batch, now=link.now)
    sacks = [decode_sack(values(packet, 3)[0]) for packet in iter(link.server.poll_transmit, None)]
    assert [sack[2] for sack in sacks] == [[(2, 2)], [(2, 3)], [(2, 4)]]


def test_an_acknowledgment_lets_as_many_packets_go_as_it_covers_and_a_burst() -> None:
    link = Link(SctpConfig(initial_window=20, max_burst=4))
    channel = opened(link)
    link.script = lambda *_args: True
    for each in blobs(60, 1172):
        link.client.send(channel, each, now=link.now)
    link.drain()
    sender = link.client._association.sender
    sent = len(link.sent[0])
    assert sender.flight == 21 * 1172  # what passes the window is the last packet that begins within it
    cum = sender.cum
    sacks = [encode_sack(cum + n & 0xFFFFFFFF, 1 << 20, [], []) for n in (2, 9, 16)]
    link.client.receive_packets([forge(link.client, sack) for sack in sacks], now=link.now)
    link.drain()
    assert sender.congestion.window == 20 * 1200 + 1200 + 7 * 1172  # half of what the second and third covered
    assert len(link.sent[0]) - sent == 15 + 4  # the window has room for 24


def test_small_messages_share_a_packet_when_they_wait() -> None:
    link = Link()
    link.connect()
    channel = link.client.open("l", now=link.now)
    link.run(1.0)
    sender = link.client._association.sender
    link.client.send(channel, bytes(sender.congestion.window), now=link.now)  # fills the window
    for _ in range(30):
        link.client.send(channel, b"0123456789", now=link.now)
    before = len(link.sent[0])
    link.run(1.0)
    assert len(link.messages(1)) == 31
    assert len(link.sent[0]) - before <= 14


def test_dc_06_a_small_message_leaves_at_once() -> None:
    link = Link()
    channel = opened(link)
    link.client.send(channel, b"a", now=link.now)
    link.client.send(channel, b"b", now=link.now)
    link.drain()
    assert len(link.sent[0]) == 2


@pytest.mark.parametrize("initial", [2**32 - 3, 2**32 - 1, 0, 2**31 - 2])
def test_sctp_12_tsn_wraps(initial: int) -> None:
    def entropy(seed: int) -> Entropy:
        source = Entropy.seeded(seed)
        draws = count()
        return Entropy(
            # The third draw of the handshake is the initial TSN.
            token_bytes=lambda n: initial.to_bytes(4, "big") if next(draws) == 2 else source.token_bytes(n),
            jitter=source.jitter,
        )

    link = Link(entropy=(entropy(1), entropy(2)), loss=0.05, reorder=0.2, seed=3)
    assert link.client._association._handshake.local_tsn == initial
    for end in link.ends:
        end.start(now=0.0)
    link.run(20.0)
    channel = link.client.open("l", now=link.now)
    data = blobs(10)
    for each in data:
        link.client.send(channel, each, now=link.now)
    link.run(60.0)
    assert link.messages(1) == data
    assert link.client.ended is None


def test_sctp_12_ssn_wraps() -> None:
    link = Link(SctpConfig(receive_window=8 << 20))
    channel = opened(link)
    queue, reassembly = link.client._association.queue, link.server._association._receiver.reassembly
    queue.stream(channel).next_ssn = 65_533
    reassembly._next_ssn[channel] = 65_533
    for n in range(6):
        link.client.send(channel, str(n), now=link.now)
    link.run(1.0)
    assert link.messages(1) == list("012345")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ordered", [True, False])
def test_lossy_link_delivers_everything_once(seed: int, ordered: bool) -> None:
    link = Link(loss=0.08, duplicate=0.05, reorder=0.2, seed=seed)
    for end in link.ends:
        end.start(now=0.0)
    link.run(30.0)
    up = link.client.open("l", ordered=ordered, now=link.now)
    data = blobs(12, 9_000, seed)
    for each in data:
        link.client.send(up, each, now=link.now)
    link.run(30.0)
    for each in data:
        link.server.send(up, each, now=link.now)
    link.run(60.0)
    for side in (0, 1):
        received = link.messages(side)
        assert (
            received == data
            if ordered
            else sorted(each for each in received if isinstance(each, bytes)) == sorted(data)
        )
    assert link.client._association.sender.idle
    assert link.server._association._receiver.used == 0
    assert link.client._association.sender.flight == 0


# --- acknowledgments


def test_sctp_09_single_packet_is_acknowledged_after_200_ms() -> None:
    link = Link()
    link.connect()
    link.sent[1].clear()
    start, cum = link.now, link.server._association._receiver.cum
    link.server.receive_packets([forge(link.server, data_chunk(cum + 1, b"x"))], now=link.now)
    link.run(0.19)
    assert link.sent[1] == []
    assert link.server._association.next_timer() is Timer.SACK
    assert link.server.next_timeout() == pytest.approx(start + 0.2)
    link.run(0.02)
    assert [kinds(p) for p in link.sent[1]] == [[ChunkType.SACK]]


def test_sctp_09_delayed_acknowledgment_rides_on_data() -> None:
    link = Link()
    channel = opened(link)
    cum = link.server._association._receiver.cum
    link.server.receive_packets([forge(link.server, data_chunk(cum + 1, b"x", ssn=1))], now=link.now)
    link.server.send(channel, b"y", now=link.now)
    link.drain()
    assert [kinds(p) for p in link.sent[1]] == [[ChunkType.SACK, ChunkType.DATA]]


def test_sctp_09_gap_is_reported_at_once_and_duplicates_too() -> None:
    link = Link()
    link.connect()
    receiver = link.server._association._receiver
    cum = receiver.cum
    for tsn in (cum + 2, cum + 4, cum + 2):
        link.server.receive_packets([forge(link.server, data_chunk(tsn, b"x"))], now=link.now)
    packets = [link.server.poll_transmit() for _ in range(3)]
    sacks = [decode_sack(values(packet, 3)[0]) for packet in packets if packet is not None]
    assert [sack[2] for sack in sacks] == [[(2, 2)], [(2, 2), (4, 4)], [(2, 2), (4, 4)]]
    assert [sack[3] for sack in sacks] == [0, 0, 1]
    assert link.server.drops["duplicate-tsn"] == 1


def test_sctp_10_old_acknowledgment_is_ignored() -> None:
    link = Link()
    channel = opened(link)
    for _ in range(4):
        link.client.send(channel, b"x", now=link.now)
    link.run(1.0)
    sender = link.client._association.sender
    old = encode_sack(sender.cum - 3 & 0xFFFFFFFF, 0, [], [])
    link.client.receive_packets([forge(link.client, old)], now=link.now)
    assert sender.peer_rwnd > 0


def test_acknowledgment_at_once_where_the_window_is_used_up() -> None:
    link = Link()
    channel = opened(link)
    link.client._association.sender.congestion.window = 1200
    link.client.send(channel, bytes(1172 * 2), now=link.now)
    link.run(0.03)
    assert len(link.sent[1]) == 1  # one packet fills less than the window, the second is marked


# --- loss


def drop_once(*numbers: int) -> Callable[[int, int, bytes], bool]:
    """Drop the client's packets with these numbers."""
    return lambda side, number, _packet: side == 0 and number in numbers


def test_sctp_11_fast_retransmit_after_three_reports() -> None:
    link = Link()
    channel = opened(link)
    link.script = drop_once(2)
    data = blobs(8, 1172)
    for each in data:
        link.client.send(channel, each, now=link.now)
    start = link.now
    sender = link.client._association.sender
    window = sender.congestion.window
    link.run(0.05)
    assert link.messages(1) == data
    assert len(link.sent[0]) == 9
    assert link.now - start < sender.rtt.rto
    assert sender.congestion.window == max(window // 2, 4800)
    assert sender._recovery_exit is None


def test_sctp_11_one_reduction_for_two_losses_in_a_window() -> None:
    link = Link()
    channel = opened(link)
    link.script = drop_once(1, 3)
    window = link.client._association.sender.congestion.window
    for each in blobs(9, 1172):
        link.client.send(channel, each, now=link.now)
    link.run(0.08)
    assert len(link.messages(1)) == 9
    assert len(link.sent[0]) == 11
    assert link.client._association.sender.congestion.window == window // 2


def test_sctp_11_two_reports_are_not_enough() -> None:
    link = Link()
    channel = opened(link)
    link.script = drop_once(0)
    for each in blobs(3, 1172):
        link.client.send(channel, each, now=link.now)
    link.run(0.05)
    assert len(link.sent[0]) == 3
    assert link.client._association.sender.outstanding_bytes == 3 * 1172
    link.run(1.0)
    assert len(link.sent[0]) == 4
    assert len(link.messages(1)) == 3


def test_a_repeat_that_is_lost_too_is_sent_again_without_the_timer() -> None:
    link = Link(delay=0.015)
    channel = opened(link)
    data = blobs(60, 1172)
    copies = [0]

    def script(side: int, _number: int, packet: bytes) -> bool:
        if side == 0 and data[2] in packet:
            copies[0] += 1
            return copies[0] <= 3
        return False

    link.script = script
    for each in data:
        link.client.send(channel, each, now=link.now)
    # Every other round trip it is seen that it is missing, and no timer runs out, which needs 0.4 s.
    link.run(0.26)
    assert link.messages(1) == data
    assert copies == [4]
    assert len(link.sent[0]) == 60 + 3
    assert link.server.drops.snapshot() == {}
    assert link.client._association.sender.rtt.rto == pytest.approx(0.4)


def test_a_repeat_that_is_overtaken_by_less_than_a_quarter_of_a_round_trip_is_not_lost() -> None:
    detection = LossDetection()
    message = OutMessage(OutStream(0, 0), 53, b"x")
    chunks = {tsn: OutChunk(tsn, 1, b"", message, sent_at=tsn / 1000) for tsn in range(1, 30)}
    chunks[1].fast, chunks[1].transmits, chunks[1].sent_at = True, 2, 0.020
    for tsn, lost in ((21, []), (24, []), (25, []), (26, [1])):
        chunks[tsn].state = ACKED
        detection.acknowledged(chunks[tsn])
        found = detection.find(chunks, 0, {tsn: tsn}, 2, reordering=0.005)
        assert [chunk.tsn for chunk in found] == lost, tsn


@pytest.mark.parametrize(("late", "rto"), [(0.0, 0.4), (0.2, 1.6)])
def test_a_repeat_that_is_answered_in_the_usual_time_takes_the_backing_off_back(late: float, rto: float) -> None:
    link = Link(delay=0.015)
    channel = opened(link)
    link.script = drop_once(0, 1, 2)  # the chunk, its probe, and what the timer sent after 0.4 s
    link.client.send(channel, b"x", now=link.now)
    link.run(0.6)
    link.delay += late  # of the next, which leaves 0.8 s later
    link.run(2.0)
    assert len(link.sent[0]) == 4
    assert link.messages(1) == [b"x"]
    assert link.client._association.sender.rtt.rto == pytest.approx(rto)


def test_a_lone_packet_is_acknowledged_at_once() -> None:
    link = Link()
    channel = opened(link)
    link.client.send(channel, b"x", now=link.now)
    link.run(0.0101)
    assert [kinds(p) for p in link.sent[1]] == [[ChunkType.SACK]]


def test_what_is_lost_last_is_sent_again_after_two_round_trips() -> None:
    """A pressed key on a line that loses one packet: nobody waits for the timer, whose least is 400 ms."""
    link = Link(delay=0.015)
    channel = opened(link)
    link.script = drop_once(0)
    begun = link.now
    link.client.send(channel, b"x", now=link.now)
    assert link.client._association.next_timer() is Timer.PROBE
    srtt = link.client._association.sender.rtt.srtt
    assert srtt is not None
    wait = 2 * srtt + 0.02
    link.run(wait + 0.0151)
    assert link.messages(1) == [b"x"]
    assert len(link.sent[0]) == 2
    assert wait < 0.1
    assert begun < link.now
    link.run(1.0)
    assert len(link.sent[0]) == 2
    assert link.client._association.sender.flight == 0


def test_the_acknowledgment_of_a_probe_shows_what_else_is_missing() -> None:
    link = Link()
    channel = opened(link)
    data = blobs(6, 1172)
    link.script = drop_once(2, 3, 4, 5)
    for each in data:
        link.client.send(channel, each, now=link.now)
    window = link.client._association.sender.congestion.window
    link.run(0.55)  # the timer would run out at 0.62: 400 ms after the last acknowledgment
    assert link.messages(1) == data
    assert len(link.sent[0]) == 6 + 4
    assert link.server.drops.snapshot() == {}
    assert link.client._association.sender.congestion.window < window


def test_a_probe_of_a_lone_packet_that_was_not_needed_costs_one_packet_and_no_window() -> None:
    link = Link()
    channel = opened(link)
    window = link.client._association.sender.congestion.window
    link.client.send(channel, b"x", now=link.now)
    link.drain()
    link.delay = 0.1  # the acknowledgment is late
    link.run(1.0)
    assert len(link.sent[0]) == 2
    assert link.server.drops.snapshot() == {"duplicate-tsn": 1}
    assert link.client._association.sender.congestion.window == window


def test_a_probe_is_sent_once_and_the_timer_does_the_rest() -> None:
    link = Link()
    channel = opened(link)
    times: list[float] = []
    link.script = lambda side, _number, _packet: side == 0 and not times.append(link.now)  # type: ignore[func-returns-value]
    sender = link.client._association.sender
    rto, srtt, start = sender.rtt.rto, sender.rtt.srtt, link.now
    assert srtt is not None
    link.client.send(channel, b"x", now=link.now)
    link.run(2.0)
    probe = 2 * srtt + 0.02
    assert [at - start for at in times] == pytest.approx([0, probe, probe + rto, probe + 3 * rto])


def test_what_may_be_sent_once_only_is_not_probed() -> None:
    link = Link()
    channel = opened(link, max_retransmits=0)
    link.script = drop_once(0)
    link.client.send(channel, b"x", now=link.now)
    link.run(5.0)
    assert link.messages(1) == []
    assert sum(ChunkType.DATA in kinds(packet) for packet in link.sent[0]) == 1


def test_sctp_11_timer_backs_off_and_the_window_is_one_packet() -> None:
    link = Link()
    channel = opened(link)
    rto, srtt = link.client._association.sender.rtt.rto, link.client._association.sender.rtt.srtt
    assert srtt is not None
    times: list[float] = []
    link.script = lambda side, _number, _packet: side == 0 and not times.append(link.now)  # type: ignore[func-returns-value]
    start = link.now
    link.client.send(channel, b"x", now=link.now)
    link.run(10.0)
    probe = 2 * srtt + 0.02
    waits = [round((at - start - probe) / rto, 3) for at in times[1:]]
    assert waits == [0, 1, 3, 7, 15]
    assert link.client._association.sender.congestion.window == 1200


def test_sctp_11_lost_acknowledgments_cost_one_repeat() -> None:
    link = Link()
    channel = opened(link)
    link.script = lambda side, number, _packet: side == 1 and number == 0
    link.client.send(channel, b"x", now=link.now)
    link.run(2.0)
    assert len(link.sent[0]) == 2
    assert link.messages(1) == [b"x"]
    assert link.server.drops.snapshot() == {"duplicate-tsn": 1}


def test_sctp_11_round_trip_is_measured_and_never_on_repeats() -> None:
    link = Link(delay=0.15)
    channel = opened(link)
    rtt = link.client._association.sender.rtt
    assert rtt.srtt == pytest.approx(0.3, rel=0.5)
    before = rtt.srtt
    link.script = drop_once(0)
    link.client.send(channel, b"x", now=link.now)
    link.run(5.0)
    assert rtt.srtt == before


def test_taken_back_gap_acknowledgments_are_sent_again() -> None:
    link = Link()
    channel = opened(link)
    link.script = lambda *_args: True
    for each in blobs(4, 1172):
        link.client.send(channel, each, now=link.now)
    link.drain()
    sender = link.client._association.sender
    cum = sender.cum & 0xFFFFFFFF
    link.client.receive_packets([forge(link.client, encode_sack(cum, 1 << 20, [(2, 4)], []))], now=link.now)
    link.client.receive_packets([forge(link.client, encode_sack(cum, 1 << 20, [], []))], now=link.now)
    link.script = None
    link.run(5.0)
    assert len(link.messages(1)) == 4


# --- windows


def test_sctp_11_zero_window_is_probed_for_as_long_as_the_peer_answers() -> None:
    link = Link(SctpConfig(receive_window=20_000))
    channel = opened(link)
    link.poll_events[1] = False
    data = blobs(10, 4_000)
    for each in data:
        link.client.send(channel, each, now=link.now)
    link.run(200.0)
    receiver = link.server._association._receiver
    assert receiver.used <= 20_000
    assert link.client.ended is None
    assert link.client._association.liveness.errors <= 1
    probes = len(link.sent[0])
    link.run(60.0)
    assert 4 <= len(link.sent[0]) - probes <= 20
    link.poll_events[1] = True
    link.run(30.0)
    assert link.messages(1) == data


def test_window_update_when_the_application_catches_up() -> None:
    link = Link(SctpConfig(receive_window=20_000))
    channel = opened(link)
    link.poll_events[1] = False
    for each in blobs(4, 4_000):
        link.client.send(channel, each, now=link.now)
    link.run(1.0)
    assert decode_sack(values(link.sent[1][-1], 3)[0])[1] < 10_000
    link.poll_events[1] = True
    link.drain()
    assert decode_sack(values(link.sent[1][-1], 3)[0])[1] == 20_000


def test_messages_that_are_told_and_not_consumed_close_the_window() -> None:
    link = Link(SctpConfig(receive_window=100_000))
    channel = opened(link)
    other = link.client.open("other", now=link.now)
    link.consumes[1] = False
    data = blobs(100, 4_000)
    for each in data:
        link.client.send(channel, each, now=link.now)
    link.run(3_600.0)  # an hour of probes
    held = link.of(1, MessageReceived)
    charged = sum(event.charge for event in held)
    assert len(held) == 100_000 // 4_064
    assert charged == len(held) * 4_064
    assert charged <= link.server._association._receiver.used <= 100_000
    assert link.client.ended is None
    link.client.send(other, b"behind the same window", now=link.now)
    link.run(10.0)
    assert not link.messages(1, other)
    link.consumes[1] = True
    assert link.server.consumed(charged, now=link.now)
    window = link.server.poll_transmit()
    assert window is not None
    assert decode_sack(values(window, 3)[0])[1] >= charged
    link.run(60.0)  # that window update was lost
    assert link.messages(1, channel) == data
    assert link.messages(1, other) == [b"behind the same window"]


def test_window_updates_come_by_quarters() -> None:
    link = Link(SctpConfig(receive_window=100_000))
    channel = opened(link)
    link.consumes[1] = False
    for each in blobs(20, 4_000):
        link.client.send(channel, each, now=link.now)
    link.run(5.0)
    held = link.of(1, MessageReceived)
    assert len(held) == 20
    updates = [number for number, event in enumerate(held, 1) if link.server.consumed(event.charge, now=link.now)]
    assert updates[0] == 7  # 28,448 bytes: the first that are a quarter of the window
    assert link.server.poll_transmit() is not None
    assert link.server.poll_transmit() is None


def test_no_more_is_consumed_than_was_told() -> None:
    link = Link()
    channel = opened(link)
    link.consumes[1] = False
    link.client.send(channel, b"x" * 36, now=link.now)
    link.run(1.0)
    for octets in (101, -1):
        with pytest.raises(LocalProtocolError, match="of 100"):
            link.server.consumed(octets, now=link.now)
    assert not link.server.consumed(100, now=link.now)
    with pytest.raises(LocalProtocolError, match="1 bytes consumed of 0"):
        link.server.consumed(1, now=link.now)
    assert link.server._association._receiver.used == 0


def test_what_was_told_before_the_end_may_be_consumed_after_it() -> None:
    link = Link(SctpConfig(receive_window=100_000))
    channel = opened(link)
    link.consumes[1] = False
    for each in blobs(20, 4_000):
        link.client.send(channel, each, now=link.now)
    link.run(5.0)
    link.server.abort("enough", now=link.now)
    link.drain()
    for event in link.of(1, MessageReceived):
        link.server.consumed(event.charge, now=link.now)
    assert link.server._association._receiver.used == 0
    assert link.server.poll_transmit() is None


def test_advertised_window_is_true() -> None:
    link = Link()
    channel = opened(link)
    link.poll_events[1] = False
    link.client.send(channel, bytes(10_000), now=link.now)
    link.run(1.0)
    assert decode_sack(values(link.sent[1][-1], 3)[0])[1] == (1 << 20) - 10_000 - 64


def test_congestion_window_bounds_what_is_in_flight() -> None:
    link = Link()
    channel = opened(link)
    link.client.send(channel, bytes(60_000), now=link.now)
    link.drain()
    assert len(link.sent[0]) == 10
    sender = link.client._association.sender
    assert sender.flight == 11_720


def test_slow_start_grows_and_an_idle_window_decays() -> None:
    link = Link(SctpConfig(max_message_size=1 << 20))
    channel = opened(link)
    sender = link.client._association.sender
    for each in blobs(40):
        link.client.send(channel, each, now=link.now)
    link.run(2.0)
    grown = sender.congestion.window
    assert grown > 100_000
    link.run(60.0)
    link.client.send(channel, b"x", now=link.now)
    assert sender.congestion.window == 12_000


# --- heartbeats, failure


def test_sctp_13_heartbeat_is_echoed_byte_for_byte() -> None:
    link = Link()
    link.connect()
    info = bytes(range(7))
    link.server.receive_packets([forge(link.server, encode_chunk(4, info))], now=link.now)
    answer = link.server.poll_transmit()
    assert answer is not None
    assert values(answer, ChunkType.HEARTBEAT_ACK) == [info]


@pytest.mark.parametrize(("size", "echoed"), [(1184, True), (1185, False), (16_000, False)])
def test_sctp_13_a_heartbeat_that_no_packet_can_bring_back_stops_nothing(size: int, *, echoed: bool) -> None:
    link = Link()
    channel = opened(link)
    packet = forge(link.client, encode_chunk(ChunkType.HEARTBEAT, b"x" * size))
    link.client.receive_packets([packet] * 3, now=link.now)
    link.client.close_channel(channel, now=link.now)
    link.run(1.0)
    assert max(map(len, link.sent[0])) <= 1200
    assert [kinds(each) for each in link.sent[0]].count([ChunkType.HEARTBEAT_ACK]) == 3 * echoed
    assert link.client.drops["heartbeat-size"] == 3 * (not echoed)
    assert link.client._association._outbox.control == []
    assert len(link.of(0, ChannelClosed)) == 1


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("lifetime", [None, 30, 100])
def test_sctp_11_16_what_was_probed_for_may_be_acknowledged_or_given_up_with_others(
    seed: int, lifetime: int | None
) -> None:
    link = Link(seed=seed)
    channel = opened(link, max_lifetime=lifetime)
    link._loss = 0.3
    sizes = [1 + number * 701 % 4000 for number in range(12)]
    for number, size in enumerate(sizes):
        link.client.send(channel, bytes(size), now=link.now)
        link.run(0.05 if number % 3 else 0.3)
    link.run(1.0)
    link._loss = 0.0
    link.run(60.0)
    received, sent = [len(data) for data in link.messages(1)], iter(sizes)
    assert all(size in sent for size in received), "out of order, or twice"
    assert lifetime is not None or received == sizes
    assert link.client._association.sender.idle


def test_sctp_14_an_abort_behind_data_leaves_no_timer() -> None:
    link = Link()
    opened(link)
    receiver = link.server._association._receiver
    packet = forge(link.server, data_chunk(receiver.cum + 1, b"x"), encode_chunk(ChunkType.ABORT))
    link.server.receive_packets([packet], now=link.now)
    assert link.server.ended == ("closed by peer", False)
    assert link.server.next_timeout() is None


def test_sctp_13_idle_association_sends_a_heartbeat_each_half_minute() -> None:
    link = Link()
    link.connect()
    for sent in link.sent:
        sent.clear()
    link.run(305.0)
    for side in (0, 1):
        types = [each for packet in link.sent[side] for each in kinds(packet)]
        assert types.count(ChunkType.HEARTBEAT) == types.count(ChunkType.HEARTBEAT_ACK) == len(types) / 2
        assert 9 <= types.count(ChunkType.HEARTBEAT) <= 10
    assert link.client._association.liveness.errors == 0


def test_sctp_13_ten_failures_and_the_peer_is_lost() -> None:
    link = Link()
    opened(link)
    link.script = lambda *_args: True
    while link.client._association.liveness.errors < 10:
        link.run(1.0)
        assert link.now < 600
    assert link.client.ended is None
    link.run(60.0)
    own = [kinds(packet) for packet in link.sent[0] if kinds(packet) != [ChunkType.HEARTBEAT_ACK]]
    assert own == [[ChunkType.HEARTBEAT]] * 11 + [[ChunkType.ABORT]]
    assert link.of(0, AssociationClosed) == [AssociationClosed("peer does not answer", True)]


def test_sctp_13_unanswered_data_counts_too() -> None:
    link = Link()
    channel = opened(link)
    link.script = lambda side, *_args: side == 0
    link.client.send(channel, b"x", now=link.now)
    link.run(100.0)
    assert link.client.ended == ("peer does not answer", True)


def test_sctp_13_forged_heartbeat_ack_is_dropped() -> None:
    link = Link()
    link.connect()
    link.client.receive_packets([forge(link.client, encode_chunk(5, b"\0\1\0\x14" + bytes(16)))], now=link.now)
    assert link.client.drops.snapshot() == {"heartbeat-ack": 1}


# --- hostile input


def cause(packet: bytes | None) -> int:
    assert packet is not None
    return decode_causes(values(packet, ChunkType.ABORT)[0])[0][0]


def test_host_20_data_without_data_is_aborted() -> None:
    link = Link()
    link.connect()
    link.server.receive_packets([forge(link.server, data_chunk(1, b""))], now=link.now)
    assert cause(link.server.poll_transmit()) == Cause.NO_USER_DATA
    assert link.server.ended == ("DATA without data", True)


@pytest.mark.parametrize("gaps", [[], [(2, 3)]], ids=["cumulative", "gap"])
def test_host_22_acknowledgment_of_the_unsent_is_aborted(gaps: list[tuple[int, int]]) -> None:
    link = Link()
    opened(link)
    cum = link.client._association.sender.cum + (0 if gaps else 1)
    link.client.receive_packets([forge(link.client, encode_sack(cum & 0xFFFFFFFF, 1, gaps, []))], now=link.now)
    assert cause(link.client.poll_transmit()) == Cause.PROTOCOL_VIOLATION


def test_host_22_inverted_and_overlapping_blocks_teach_nothing() -> None:
    link = Link()
    channel = opened(link)
    link.script = lambda *_args: True
    for each in blobs(8, 1172):
        link.client.send(channel, each, now=link.now)
    link.drain()
    sender = link.client._association.sender
    window, flight = sender.congestion.window, sender.flight
    gaps = [(5, 4), (0, 0), (1, 1), (3, 4), (3, 4), (2, 8)] + [(4, 4)] * 280
    link.client.receive_packets(
        [forge(link.client, encode_sack(sender.cum & 0xFFFFFFFF, 1 << 20, gaps, []))], now=link.now
    )
    assert sender.flight == flight - 2 * 1172
    assert sender.congestion.window == window


def test_host_22_window_flips_are_harmless() -> None:
    link = Link()
    channel = opened(link)
    sender = link.client._association.sender
    for window in (0xFFFFFFFF, 0, 0xFFFFFFFF):
        sack = SACK_HEADER.pack(3, 0, 16, sender.cum & 0xFFFFFFFF, window, 0, 0)
        link.client.receive_packets([forge(link.client, sack)], now=link.now)
    link.client.send(channel, bytes(60_000), now=link.now)
    link.drain()
    assert sender.flight <= sender.congestion.window + 1200


def test_host_22_sack_that_claims_more_blocks_than_it_has() -> None:
    link = Link()
    link.connect()
    sack = SACK_HEADER.pack(3, 0, 16, 0, 0, 16_000, 16_000)
    link.client.receive_packets([forge(link.client, sack)], now=link.now)
    assert link.client.drops.snapshot() == {"sack-length": 1}


def test_host_23_beginnings_without_end_are_capped() -> None:
    link = Link(SctpConfig(receive_window=100_000, max_message_size=50_000))
    link.connect()
    cum = link.server._association._receiver.cum
    link.server.receive_packets([forge(link.server, data_chunk(cum + 1, bytes(1000), flags=2))], now=link.now)
    for n in range(2, 60):
        link.server.receive_packets([forge(link.server, data_chunk(cum + n, bytes(1000), flags=0))], now=link.now)
    assert link.server.ended == ("message larger than announced", True)


def test_host_23_sparse_tsns_are_capped() -> None:
    link = Link()
    link.connect()
    receiver = link.server._association._receiver
    cum = receiver.cum
    for n in range(2000):
        link.server.receive_packets([forge(link.server, data_chunk(cum + 3 + 2 * n, b"x", flags=2))], now=link.now)
        while (packet := link.server.poll_transmit()) is not None:
            assert len(packet) <= 1200
    assert len(receiver._gaps) == 256
    link.server.receive_packets([forge(link.server, data_chunk(cum + 2**31 - 1, b"x"))], now=link.now)
    assert link.server.drops["tsn-ahead"] == 1
    assert link.server.drops["gap-blocks"] == 2000 - 256


def test_host_23_more_than_the_window_is_dropped_and_not_acknowledged() -> None:
    link = Link(SctpConfig(receive_window=10_000, max_message_size=5_000))
    link.connect()
    receiver = link.server._association._receiver
    cum = receiver.cum
    for n in range(2, 40):
        link.server.receive_packets([forge(link.server, data_chunk(cum + n, bytes(1000), ssn=n))], now=link.now)
    assert receiver.used <= 10_000
    assert receiver._gaps == [[cum + 2, cum + 10]]
    link.server.receive_packets([forge(link.server, data_chunk(cum + 1, bytes(1000), ssn=1))], now=link.now)
    assert receiver.cum == cum + 10  # what fills the gap is taken beyond the window


@pytest.mark.parametrize(("bits", "goes_on", "reported"), [(0, False, 0), (1, False, 1), (2, True, 0), (3, True, 1)])
def test_sctp_08_unknown_chunk_by_its_top_bits(bits: int, goes_on: bool, reported: bool) -> None:
    link = Link()
    link.connect()
    unknown = encode_chunk(bits << 6 | 0x3E, b"abc")
    link.server.receive_packets([forge(link.server, unknown, encode_chunk(4, b"beat"))], now=link.now)
    packet = link.server.poll_transmit()
    found = kinds(packet) if packet else []
    assert found.count(ChunkType.ERROR) == reported
    assert found.count(ChunkType.HEARTBEAT_ACK) == goes_on
    if reported:
        assert packet is not None
        assert decode_causes(values(packet, ChunkType.ERROR)[0]) == [(6, unknown[:7])]


def test_sctp_17_dec_6_i_data_is_not_known() -> None:
    link = Link()
    link.connect()
    link.server.receive_packets([forge(link.server, encode_chunk(64, bytes(20)))], now=link.now)
    assert link.server.drops.snapshot() == {"chunk-unknown": 1}


@pytest.mark.parametrize("seed", range(5))
def test_random_chunks_do_no_harm(seed: int) -> None:
    random = Random(seed)
    link = Link()
    channel = opened(link)
    safe = [4, 5, 9, 10, 11, 12, 13, 130, 132, 192, 64, 77, 200]
    for _ in range(300):
        chunk = encode_chunk(random.choice(safe), random.randbytes(random.randrange(60)), random.randrange(256))
        link.server.receive_packets([forge(link.server, chunk)[: random.choice([9, 20, 10**6])]], now=link.now)
        while (packet := link.server.poll_transmit()) is not None:
            assert len(packet) <= 1200
    assert link.server.ended is None
    link.server.send(channel, "still there", now=link.now)
    link.run(1.0)
    assert link.messages(0) == ["still there"]
