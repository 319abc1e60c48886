import attrs
import pytest

from edgeice.errors import LocalProtocolError
from edgeice.sctp import (
    AssociationClosed,
    BufferedAmountLow,
    ChannelClosed,
    ChannelOpened,
    DataChannels,
    MessageReceived,
    SctpConfig,
)
from edgeice.sctp.chunks import (
    DATA_HEADER,
    Cause,
    ChunkType,
    ForwardTsn,
    decode_forward_tsn,
    decode_parameters,
    encode_cause,
    encode_chunk,
    encode_forward_tsn,
    encode_parameter,
    split_chunks,
)
from edgeice.sctp.dcep import OpenMessage, encode_open
from tests.unit.sctp.link import Link, data_chunk, forge, kinds, values


def pair(**options: object) -> tuple[Link, int]:
    """A connected link with one open channel and empty records."""
    link = Link()
    link.connect()
    channel = link.client.open("label", "proto", now=link.now, **options)  # type: ignore[arg-type]
    link.run(1.0)
    for records in (*link.sent, *link.events):
        records.clear()
    return link, channel


def inject(link: Link, side: int, payload: bytes, **options: int) -> None:
    """Deliver a DATA chunk that the other end did not send."""
    end = link.ends[side]
    tsn = end._association._receiver.cum + 1
    end.receive_packets([forge(end, data_chunk(tsn, payload, **options))], now=link.now)
    link.drain()


# --- opening


def test_dc_01_ids_by_role() -> None:
    link = Link()
    assert [link.client.open("l", now=0.0) for _ in range(3)] == [0, 2, 4]
    assert [link.server.open("l", now=0.0) for _ in range(3)] == [1, 3, 5]


def test_dc_02_open_and_ack_by_exact_counts() -> None:
    link = Link()
    link.connect()
    for sent in link.sent:
        sent.clear()
    channel = link.client.open("label", "proto", now=link.now)
    link.run(0.05)
    fields = DATA_HEADER.unpack(link.sent[0][0][12:28])
    assert (fields[1] & 4, fields[4], fields[6]) == (0, channel, 50)
    assert [kinds(packet) for packet in link.sent[1]] == [[ChunkType.SACK], [ChunkType.DATA]]
    assert link.of(0, ChannelOpened) == [ChannelOpened(0, "label", "proto", True, False)]
    assert link.of(1, ChannelOpened) == [ChannelOpened(0, "label", "proto", True, True)]


@pytest.mark.parametrize("channel_id", [0, 2, 65_534])
def test_dc_01_wrong_parity_is_reset_without_ack(channel_id: int) -> None:
    link = Link()
    link.connect()
    inject(link, 0, encode_open(OpenMessage("l", "")), stream_id=channel_id, ppid=50)
    assert link.of(0, ChannelOpened) == []
    last = link.sent[0][-1]
    assert ChunkType.RE_CONFIG in kinds(last)
    assert ChunkType.DATA not in kinds(last)
    assert link.client.drops["open-id"] == 1


def test_dc_01_used_id_closes_the_channel() -> None:
    link, channel = pair()
    inject(link, 1, encode_open(OpenMessage("again", "")), stream_id=channel, ssn=1, ppid=50)
    assert link.of(1, ChannelClosed) == [ChannelClosed(channel, "peer opened the channel again", broken=True)]
    link.run(1.0)
    assert link.of(0, ChannelClosed) == [ChannelClosed(channel, "closed by peer")]


def test_dc_03_unordered_only_after_the_ack() -> None:
    link = Link()
    link.connect()
    for sent in link.sent:
        sent.clear()
    channel = link.client.open("l", ordered=False, now=link.now)
    link.client.send(channel, b"early", now=link.now)
    link.drain()
    link.run(0.1)
    link.client.send(channel, b"late", now=link.now)
    link.drain()
    flags = [flags & 4 for packet in link.sent[0] for kind, flags, _start, _end in split_chunks(packet) if kind == 0]
    assert flags == [0, 0, 4]  # OPEN, early, late
    link.run(0.5)
    assert link.messages(1) == [b"early", b"late"]


def test_data_of_the_peer_says_as_much_as_an_ack() -> None:
    link = Link()
    link.connect()
    channel = link.client.open("l", now=link.now)
    inject(link, 0, b"data", stream_id=channel)
    assert link.of(0, ChannelOpened) == [ChannelOpened(channel, "l", "", True, False)]
    assert link.messages(0) == [b"data"]


def test_channels_opened_before_the_association_wait_for_it() -> None:
    link = Link()
    channel = link.client.open("l", now=0.0)
    link.client.send(channel, "waits", now=0.0)
    assert link.client.poll_transmit() is None
    assert link.client.buffered_amount(channel) > 0
    link.connect()
    assert link.messages(1) == ["waits"]
    assert link.client.buffered_amount(channel) == 0


def test_dc_07_negotiated_channel_on_a_used_id_fails() -> None:
    link = Link()
    link.connect()
    assert link.client.open("l", negotiated=4, now=link.now) == 4
    assert link.server.open("l", negotiated=4, now=link.now) == 4
    with pytest.raises(LocalProtocolError, match="not free"):
        link.client.open("l", negotiated=4, now=link.now)
    link.client.send(4, "x", now=link.now)
    link.run(0.5)
    assert link.messages(1) == ["x"]
    assert link.of(0, ChannelOpened) == [ChannelOpened(4, "l", "", True, False)]


def test_host_23_channels_are_capped() -> None:
    link = Link(configs=(SctpConfig(), SctpConfig(max_channels=3)))
    link.connect()
    for _ in range(6):
        link.client.open("l", now=link.now)
    link.run(5.0)
    assert len(link.of(1, ChannelOpened)) == 3
    assert len(link.of(0, ChannelClosed)) == 3
    assert link.server.drops["open-limit"] == 3
    with pytest.raises(LocalProtocolError, match="too many"):
        link.server.open("l", now=link.now)


def test_host_23_opens_that_nobody_polls_are_bounded_by_the_window() -> None:
    link = Link(configs=(SctpConfig(), SctpConfig(receive_window=2_000, max_message_size=1_000)))
    link.connect()
    link.poll_events[1] = False
    for _ in range(100):
        link.client.open("l", now=link.now)
    link.run(5.0)
    assert len(link.server._events) < 40


def test_peer_with_few_streams() -> None:
    link = Link()
    channels = [link.client.open("l", now=0.0) for _ in range(3)]
    link.client.start(now=0.0)
    init = link.client.poll_transmit()
    assert init is not None
    link.server.receive_packets([init], now=0.0)
    ack = link.server.poll_transmit()
    assert ack is not None
    value = bytearray(values(ack, 2)[0])
    value[10:12] = (3).to_bytes(2, "big")  # inbound streams
    link.client.receive_packets([forge(link.client, encode_chunk(2, bytes(value)))], now=0.0)
    link.run(1.0)
    assert link.of(0, ChannelClosed) == [ChannelClosed(channels[2], "the peer has too few streams", broken=True)]


# --- messages


@pytest.mark.parametrize("data", ["", "text", "é€𝄞", b"", b"\0", b"bytes"])
def test_dc_04_kinds_of_messages(data: bytes | str) -> None:
    link, channel = pair()
    link.client.send(channel, data, now=link.now)
    link.run(0.1)
    assert link.messages(1) == [data]


@pytest.mark.parametrize(
    ("ppid", "payload", "expected"),
    [(51, b"a", "a"), (52, b"a", b"a"), (53, b"a", b"a"), (54, b"a", "a"), (56, b"\0", ""), (57, b"\0", b"")],
)
def test_dc_04_ppids(ppid: int, payload: bytes, expected: bytes | str) -> None:
    link, channel = pair()
    inject(link, 1, payload, stream_id=channel, ssn=1, ppid=ppid)
    assert link.messages(1) == [expected]


@pytest.mark.parametrize(("ppid", "payload"), [(51, b"\xff"), (54, b"\xc3"), (0, b"a"), (55, b"a"), (50, b"\x09")])
def test_dc_04_bad_utf8_or_ppid_closes_the_channel(ppid: int, payload: bytes) -> None:
    link, channel = pair()
    other = link.client.open("other", now=link.now)
    link.run(0.1)
    inject(link, 1, payload, stream_id=channel, ssn=1, ppid=ppid)
    assert link.of(1, ChannelClosed) == [ChannelClosed(channel, "peer sent an invalid message", broken=True)]
    assert link.server.established
    link.client.send(other, b"lives", now=link.now)
    assert link.messages(1) == []


def test_message_for_no_channel_is_dropped_and_gives_its_window_back() -> None:
    link, _channel = pair()
    inject(link, 1, b"lost", stream_id=8)
    assert link.server.drops.snapshot() == {"channel-unknown": 1}
    assert link.server._association._receiver.used == 0


@pytest.mark.parametrize(
    ("announced", "size", "accepted"), [(1000, 1000, True), (1000, 1001, False), (0, 300_000, True)]
)
def test_peers_message_size_is_respected(announced: int, size: int, accepted: bool) -> None:
    link, channel = pair()
    link.client.set_remote_max_message_size(announced)
    if accepted:
        link.client.send(channel, bytes(size), now=link.now)
    else:
        with pytest.raises(LocalProtocolError, match="the peer takes 1000"):
            link.client.send(channel, bytes(size), now=link.now)


def test_host_23_message_above_the_announced_size_ends_the_association() -> None:
    link, channel = pair()
    link.client.set_remote_max_message_size(0)
    link.client.send(channel, bytes(262_145), now=link.now)
    link.run(5.0)
    assert link.server.ended == ("message larger than announced", True)
    assert link.of(0, AssociationClosed)[0].broken


def test_wrong_use_is_refused() -> None:
    link, channel = pair()
    for call in (
        lambda: link.client.send(99, b"x", now=link.now),
        lambda: link.client.open("l", max_retransmits=1, max_lifetime=1, now=link.now),
        lambda: link.client.open("l", max_retransmits=-1, now=link.now),
        lambda: link.client.open("l" * 65_536, now=link.now),
        lambda: link.client.set_buffered_amount_low(99, 1),
    ):
        with pytest.raises(LocalProtocolError):
            call()
    link.client.close_channel(channel, now=link.now)
    with pytest.raises(LocalProtocolError):
        link.client.send(channel, b"x", now=link.now)


# --- buffers


def test_buffered_amount_and_its_event() -> None:
    link, channel = pair()
    for _ in range(10):
        link.client.send(channel, bytes(16_000), now=link.now)
    while link.client.poll_event() is not None:
        pass  # the first message fell to the default mark by itself
    link.client.set_buffered_amount_low(channel, 10_000)
    assert link.client.buffered_amount(channel) == 160_000 - 11 * 1172
    link.run(2.0)
    assert link.client.buffered_amount(channel) == 0
    assert link.of(0, BufferedAmountLow) == [BufferedAmountLow(channel)]


def test_send_buffer_has_a_hard_bound() -> None:
    link = Link(SctpConfig(send_buffer=100_000))
    channel = link.client.open("l", now=0.0)
    for _ in range(9):
        link.client.send(channel, bytes(10_000), now=0.0)
    with pytest.raises(LocalProtocolError, match="buffer full"):
        link.client.send(channel, bytes(10_000), now=0.0)
    assert link.client.send_buffer_used <= 100_000
    many = link.client.open("m", now=0.0)
    for _ in range((100_000 - link.client.send_buffer_used) // 65):
        link.client.send(many, b"x", now=0.0)
    with pytest.raises(LocalProtocolError, match="buffer full"):
        link.client.send(many, b"x", now=0.0)
    link.connect()
    link.run(5.0)
    assert link.client.send_buffer_used == 0


def test_bulk_does_not_starve_a_terminal() -> None:
    link, bulk = pair()
    shell = link.client.open("shell", now=link.now)
    link.run(0.1)
    for _ in range(40):
        link.client.send(bulk, bytes(16_384), now=link.now)
    link.client.send(shell, b"key", now=link.now)
    link.run(5.0)
    assert [event.channel_id for event in link.of(1, MessageReceived)].index(shell) == 1


def test_streams_take_turns_by_message() -> None:
    link, one = pair()
    two = link.client.open("two", now=link.now)
    link.run(0.1)
    link.events[1].clear()
    link.client._association.sender.congestion.window = 0
    for n in range(3):
        link.client.send(one, bytes((n,)) * 5_000, now=link.now)
    for n in range(3):
        link.client.send(two, bytes((n,)) * 5_000, now=link.now)
    link.client.path_changed(now=link.now)
    link.run(2.0)
    assert [event.channel_id for event in link.of(1, MessageReceived)] == [one, two] * 3


# --- partial reliability


def lose_data(link: Link, count: int) -> None:
    """Lose the client's next packets with data."""
    left = [count]

    def script(side: int, _number: int, packet: bytes) -> bool:
        if side == 0 and ChunkType.DATA in kinds(packet) and left[0]:
            left[0] -= 1
            return True
        return False

    link.script = script


@pytest.mark.parametrize("ordered", [True, False])
def test_sctp_16_zero_retransmissions_send_once(ordered: bool) -> None:
    link, channel = pair(max_retransmits=0, ordered=ordered)
    lose_data(link, 1)
    for n in range(3):
        link.client.send(channel, str(n), now=link.now)
    link.run(5.0)
    assert link.messages(1) == ["1", "2"]
    assert sum(kinds(packet).count(ChunkType.DATA) for packet in link.sent[0]) == 3
    forward = [value for packet in link.sent[0] for value in values(packet, ChunkType.FORWARD_TSN)]
    assert decode_forward_tsn(forward[0]).streams == (((channel, 1),) if ordered else ())
    assert link.client._association.sender.idle
    assert link.server._association._receiver.used == 0


@pytest.mark.parametrize(("losses", "delivered"), [(1, True), (2, True), (3, False)])
def test_sctp_16_limited_retransmissions(losses: int, delivered: bool) -> None:
    link, channel = pair(max_retransmits=2)
    lose_data(link, losses)
    link.client.send(channel, "x", now=link.now)
    link.run(10.0)
    link.client.send(channel, "y", now=link.now)
    link.run(10.0)
    assert link.messages(1) == (["x", "y"] if delivered else ["y"])


def test_sctp_16_lifetime_ends_retransmission() -> None:
    link, channel = pair(max_lifetime=300)
    lose_data(link, 2)
    link.client.send(channel, "x", now=link.now)
    link.run(5.0)
    link.client.send(channel, "y", now=link.now)
    link.run(5.0)
    assert link.messages(1) == ["y"]


def test_sctp_16_expired_message_is_never_sent() -> None:
    link = Link()
    channel = link.client.open("l", max_lifetime=100, now=0.0)
    link.client.send(channel, "old", now=0.0)
    link.now = 1.0
    link.connect()
    link.client.send(channel, "new", now=link.now)
    link.run(1.0)
    assert link.messages(1) == ["new"]
    assert link.client.send_buffer_used == 0


def test_sctp_16_fragments_of_an_abandoned_message_do_not_stay() -> None:
    link, channel = pair(max_retransmits=0)
    link.script = lambda side, number, _packet: side == 0 and number == 2
    link.client.send(channel, bytes(9_000), now=link.now)
    link.client.send(channel, "next", now=link.now)
    link.run(10.0)
    assert link.messages(1) == ["next"]
    assert link.server._association._receiver.used == 0
    assert not link.server._association._receiver.reassembly.fragments_waiting


def test_sctp_15_lost_forward_tsn_is_repeated() -> None:
    link, channel = pair(max_retransmits=0)
    left = [3]

    def script(side: int, _number: int, packet: bytes) -> bool:
        left[0] -= side == 0
        return side == 0 and left[0] >= 0

    link.script = script
    link.client.send(channel, "x", now=link.now)
    link.run(20.0)
    assert link.client._association.sender.idle
    assert link.client.ended is None


def test_sctp_15_forward_tsn_moves_the_point_and_skips() -> None:
    link, channel = pair()
    receiver = link.server._association._receiver
    cum = receiver.cum
    for n in (3, 5):
        chunk = data_chunk(cum + n, b"%d" % n, stream_id=channel, ssn=n)
        link.server.receive_packets([forge(link.server, chunk)], now=link.now)
    skip = encode_forward_tsn(ForwardTsn(cum + 4 & 0xFFFFFFFF, ((channel, 4),)))
    link.server.receive_packets([forge(link.server, skip)], now=link.now)
    link.drain()
    assert receiver.cum == cum + 5
    assert link.messages(1) == [b"3", b"5"]
    old = encode_forward_tsn(ForwardTsn(cum & 0xFFFFFFFF, ((channel, 0),)))
    link.sent[1].clear()
    link.server.receive_packets([forge(link.server, old)], now=link.now)
    link.drain()
    assert [kinds(packet) for packet in link.sent[1]] == [[ChunkType.SACK]]
    assert receiver.cum == cum + 5


def test_host_23_forward_tsn_far_ahead_costs_nothing() -> None:
    link, _channel = pair()
    receiver = link.server._association._receiver
    far = encode_forward_tsn(ForwardTsn(receiver.cum + 2**31 - 1 & 0xFFFFFFFF, ((7, 9),)))
    link.server.receive_packets([forge(link.server, far)], now=link.now)
    assert link.server.established
    assert receiver.used == 0


@pytest.mark.parametrize("seed", range(4))
def test_unreliable_channel_on_a_bad_link_stays_in_order_and_alive(seed: int) -> None:
    link = Link(loss=0.2, reorder=0.2, duplicate=0.1, seed=seed)
    for end in link.ends:
        end.start(now=0.0)
    link.run(60.0)
    channel = link.client.open("l", max_retransmits=0, now=link.now)
    link.run(30.0)
    for n in range(200):
        link.client.send(channel, n.to_bytes(2, "big") * 800, now=link.now)
        link.run(0.02)
    link.run(60.0)
    received = [int.from_bytes(bytes(data)[:2], "big") for data in link.messages(1) if isinstance(data, bytes)]
    assert received == sorted(set(received))
    assert len(received) > 80
    assert link.client._association.sender.idle
    assert link.server._association._receiver.used == 0


# --- closing


def test_dc_05_close_resets_both_ways_and_frees_the_id() -> None:
    link, channel = pair()
    link.client.send(channel, "last", now=link.now)
    link.client.close_channel(channel, now=link.now)
    link.run(1.0)
    assert link.messages(1) == ["last"]
    assert link.of(0, ChannelClosed) == [ChannelClosed(channel, "closed")]
    assert link.of(1, ChannelClosed) == [ChannelClosed(channel, "closed by peer")]
    resets = [value for side in (0, 1) for packet in link.sent[side] for value in values(packet, 130)]
    assert sorted(kind for value in resets for kind, _content in decode_parameters(value)) == [13, 13, 16, 16]
    assert link.client.open("again", now=link.now) == channel
    link.client.send(channel, "new", now=link.now)
    link.run(1.0)
    assert link.messages(1) == ["last", "new"]


@pytest.mark.parametrize("lost", range(8))
@pytest.mark.parametrize("side", [0, 1])
def test_dc_05_close_and_reuse_survive_each_loss(side: int, lost: int) -> None:
    link, channel = pair()
    link.script = lambda s, number, _packet: (s, number) == (side, lost)
    link.client.send(channel, "last", now=link.now)
    link.client.close_channel(channel, now=link.now)
    while not link.of(0, ChannelClosed):
        link.run(0.1)
        assert link.now < 30
    assert link.client.open("again", now=link.now) == channel
    link.client.send(channel, "new", now=link.now)
    link.run(5.0)
    assert link.messages(1) == ["last", "new"]
    link.server.send(channel, "back", now=link.now)
    link.run(5.0)
    assert link.messages(0) == ["back"]


def test_both_close_at_once() -> None:
    link, channel = pair()
    for end in link.ends:
        end.close_channel(channel, now=link.now)
    link.run(2.0)
    for side in (0, 1):
        assert link.of(side, ChannelClosed) == [ChannelClosed(channel, "closed")]
    assert link.client._resetting == {}
    assert link.client._awaiting == set()


def test_close_before_the_association_delivers_what_was_queued() -> None:
    link = Link()
    channel = link.client.open("l", now=0.0)
    link.client.send(channel, "x", now=0.0)
    link.client.close_channel(channel, now=0.0)
    link.connect()
    link.run(2.0)
    assert link.messages(1) == ["x"]
    assert link.of(0, ChannelClosed) == [ChannelClosed(channel, "closed")]


def test_close_waits_for_a_long_queue() -> None:
    link, channel = pair()
    for _ in range(30):
        link.client.send(channel, bytes(16_000), now=link.now)
    link.client.close_channel(channel, now=link.now)
    link.run(5.0)
    assert len(link.messages(1)) == 30
    assert link.of(0, ChannelClosed) == [ChannelClosed(channel, "closed")]


def reconfig(kind: int, sequence: int, *words: int) -> bytes:
    value = b"".join(word.to_bytes(4, "big") for word in (sequence, *words))
    return encode_chunk(130, encode_parameter(kind, value))


def answers(link: Link, chunk: bytes) -> list[int]:
    """Results that the server gives to a RE-CONFIG."""
    link.sent[1].clear()
    link.server.receive_packets([forge(link.server, chunk)], now=link.now)
    link.drain()
    found = [value for packet in link.sent[1] for value in values(packet, 130)]
    parameters = [each for value in found for each in decode_parameters(value)]
    return [int.from_bytes(content[4:8], "big") for kind, content in parameters if kind == 16]


def test_sctp_19_results_and_repeats() -> None:
    link, channel = pair()
    tsn = link.server._association._receiver.cum
    sequence = link.server._association._reset._remote_sequence
    outgoing = encode_chunk(
        130,
        encode_parameter(
            13,
            b"".join(word.to_bytes(4, "big") for word in (sequence, 0, tsn + 1 & 0xFFFFFFFF))
            + channel.to_bytes(2, "big"),
        ),
    )
    assert answers(link, outgoing) == [6]  # its last TSN is still to come
    assert answers(link, outgoing) == [6]
    assert answers(link, reconfig(13, sequence + 5 & 0xFFFFFFFF, 0, tsn)) == [5]
    assert link.of(1, ChannelClosed) == []
    inject(link, 1, b"last", stream_id=channel, ssn=1)
    assert link.messages(1) == [b"last"]
    assert link.of(1, ChannelClosed) == [ChannelClosed(channel, "closed by peer")]
    assert answers(link, outgoing) == [1]
    assert len(link.of(1, ChannelClosed)) == 1


@pytest.mark.parametrize("kind", [14, 15, 17, 18])
def test_sctp_19_other_requests_are_denied(kind: int) -> None:
    link, _channel = pair()
    sequence = link.server._association._reset._remote_sequence
    assert answers(link, reconfig(kind, sequence, 0)) == [2]
    assert answers(link, reconfig(kind, sequence, 0)) == [2]


def test_sctp_19_one_request_at_a_time() -> None:
    link, first = pair()
    others = [link.client.open("l", now=link.now) for _ in range(3)]
    link.run(0.5)
    link.sent[0].clear()
    for channel in (first, *others):
        link.client.close_channel(channel, now=link.now)
    link.drain()
    assert sum(kinds(packet).count(130) for packet in link.sent[0]) == 1
    link.run(1.0)
    assert len(link.of(0, ChannelClosed)) == 4
    outgoing = [p for packet in link.sent[0] for v in values(packet, 130) for p in decode_parameters(v) if p[0] == 13]
    assert [len(content) for _kind, content in outgoing] == [14, 18]


def test_host_23_reconfig_storm_is_answered_with_less() -> None:
    link, _channel = pair()
    chunk = reconfig(13, 12345, 0, 0)
    packet = forge(link.server, *[chunk] * 50)
    link.server.receive_packets([packet], now=link.now)
    link.sent[1].clear()
    link.drain()
    assert sum(len(each) for each in link.sent[1]) <= len(packet)


def test_peer_without_reconfig_closes_locally() -> None:
    link, channel = pair()
    association = link.client._association
    assert association._peer is not None
    association._peer = attrs.evolve(association._peer, reconfig=False)
    link.client.close_channel(channel, now=link.now)
    link.drain()
    assert link.of(0, ChannelClosed) == [ChannelClosed(channel, "closed")]


# --- ending


def test_sctp_14_shutdown_drains_first() -> None:
    link, channel = pair()
    for _ in range(20):
        link.client.send(channel, bytes(16_000), now=link.now)
    link.client.shutdown(now=link.now)
    link.run(5.0)
    assert len(link.messages(1)) == 20
    for side in (0, 1):
        assert link.of(side, ChannelClosed) == [ChannelClosed(channel, "shut down")]
        assert link.of(side, AssociationClosed) == [AssociationClosed("shut down", False)]
    assert [kinds(packet) for packet in link.sent[0]][-2:] == [[7], [14]]
    assert link.client.next_timeout() is None
    assert link.server.next_timeout() is None


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("number", range(3))
def test_sctp_14_shutdown_survives_each_loss(side: int, number: int) -> None:
    link, _channel = pair()
    link.script = lambda s, n, _packet: (s, n) == (side, number)
    link.client.shutdown(now=link.now)
    link.run(30.0)
    assert link.client.ended == link.server.ended == ("shut down", False)


def test_sctp_14_both_shut_down() -> None:
    link, _channel = pair()
    for end in link.ends:
        end.shutdown(now=link.now)
    link.run(10.0)
    assert link.client.ended == link.server.ended == ("shut down", False)


def test_sctp_14_shutdown_does_not_wait_for_ever() -> None:
    link, channel = pair()
    link.server.poll_event()
    link.script = lambda side, _number, packet: side == 1 and ChunkType.SHUTDOWN_ACK in kinds(packet)
    link.client.send(channel, b"x", now=link.now)
    link.client.shutdown(now=link.now)
    link.run(120.0)
    assert link.client.ended is not None


def test_sctp_14_abort_ends_both_at_once() -> None:
    link, channel = pair()
    link.client.abort("enough", now=link.now)
    link.run(0.02)
    assert link.of(0, AssociationClosed) == [AssociationClosed("enough", False)]
    assert link.of(1, AssociationClosed) == [AssociationClosed("closed by peer", False)]
    assert link.of(1, ChannelClosed) == [ChannelClosed(channel, "closed by peer")]
    assert len(link.sent[0]) == 1


@pytest.mark.parametrize(
    ("causes", "broken"),
    [
        (b"", False),
        (encode_cause(Cause.USER_ABORT, b"Close called"), False),
        (encode_cause(Cause.PROTOCOL_VIOLATION), True),
        (encode_cause(Cause.USER_ABORT) + encode_cause(Cause.PROTOCOL_VIOLATION), True),
        (b"\0\x0c\0\x01", True),
    ],
    ids=["none", "user", "violation", "both", "malformed"],
)
def test_sctp_14_what_an_abort_says(causes: bytes, broken: bool) -> None:
    link, channel = pair()
    link.server.receive_packets([forge(link.server, encode_chunk(ChunkType.ABORT, causes))], now=link.now)
    reason = "peer saw an error" if broken else "closed by peer"
    assert link.server.ended == (reason, broken)
    link.drain()
    assert link.of(1, ChannelClosed) == [ChannelClosed(channel, reason, broken)]


def test_sctp_14_a_broken_end_is_told_as_one() -> None:
    link, channel = pair()
    link.client.abort("no more", broken=True, now=link.now)
    link.run(0.02)
    assert link.of(0, ChannelClosed) == [ChannelClosed(channel, "no more", broken=True)]
    assert link.of(1, ChannelClosed) == [ChannelClosed(channel, "peer saw an error", broken=True)]


def test_dc_08_lost_association_closes_every_channel_before_itself() -> None:
    link, first = pair()
    second = link.client.open("l", now=link.now)
    link.script = lambda *_args: True
    link.run(200.0)
    closed = [type(event) for event in link.events[0]]
    assert closed[-3:] == [ChannelClosed, ChannelClosed, AssociationClosed]
    assert {event.channel_id for event in link.of(0, ChannelClosed)} == {first, second}
    with pytest.raises(LocalProtocolError):
        link.client.open("l", now=link.now)


@pytest.mark.parametrize(("broken", "heard"), [(False, "closed by peer"), (True, "peer saw an error")])
def test_peer_that_missed_the_end_is_told_again(broken: bool, heard: str) -> None:
    link, channel = pair()
    link.script = lambda side, *_args: side == 0
    link.client.abort("gone", broken=broken, now=link.now)
    link.drain()
    link.script = None
    link.server.send(channel, b"hello?", now=link.now)
    link.run(0.1)
    assert link.server.ended == (heard, broken)
    assert link.client.drops["ended"] == 1


def test_abort_before_start() -> None:
    channels = DataChannels("client")
    channels.open("l", now=0.0)
    channels.abort("never mind", now=0.0)
    assert channels.ended == ("never mind", False)
    assert channels.poll_transmit() is None


# --- another path


def test_sctp_20_path_change_sends_again_at_once_and_starts_over() -> None:
    link, channel = pair()
    link.script = lambda *_args: True
    sender = link.client._association.sender
    for _ in range(3):
        link.client.send(channel, bytes(1172), now=link.now)
    link.run(20.0)
    assert sender.rtt.rto > 5
    assert sender.congestion.window == 1200
    link.script = None
    link.client.path_changed(now=link.now)
    assert sender.rtt.srtt is None
    assert sender.congestion.window == 12_000
    link.run(0.05)
    assert len(link.messages(1)) == 3
    assert link.client._association.liveness.errors == 0


def test_sctp_20_path_change_repeats_the_setup() -> None:
    link = Link()
    link.script = lambda *_args: True
    link.client.start(now=0.0)
    link.run(4.0)
    link.script = None
    link.client.path_changed(now=link.now)
    link.run(0.1)
    assert link.client.established


def test_sctp_20_path_change_acknowledges_again() -> None:
    link, channel = pair()
    link.script = lambda side, *_args: side == 1
    link.client.send(channel, b"x", now=link.now)
    link.run(0.3)
    link.script = None
    link.server.path_changed(now=link.now)
    link.run(0.02)
    assert link.client._association.sender.idle


def test_sctp_20_first_packets_fit_1200_bytes() -> None:
    link, channel = pair()
    for _ in range(5):
        link.client.send(channel, bytes(16_000), now=link.now)
        link.server.send(channel, bytes(16_000), now=link.now)
    link.run(2.0)
    assert max(len(packet) for sent in link.sent for packet in sent) == 1200
