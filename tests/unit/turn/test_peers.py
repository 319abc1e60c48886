"""Permissions, channels and data through an allocation (RFC 8656 §9-§12)."""

from collections import deque

import pytest

from edgeice.addresses import TransportAddress
from edgeice.stun import Attribute, Icmp, Message, MessageClass, Method, decode, encode
from edgeice.turn import (
    AllocationLost,
    AllocationReleased,
    AllocationState,
    PeerRefused,
    PeerUnreachable,
    TurnConfig,
)
from edgeice.turn.channel import ChannelInput, Channels
from edgeice.turn.framing import encode_channel_data
from tests.support.turn_server import OTHER, PEER, Link, TurnServer

FIRST_CHANNEL = 0x4000
#: The port is not looked at.
SAME_HOST = TransportAddress(PEER.ip, PEER.port + 1)


def requested(link: Link, method: Method) -> list[float]:
    """Seconds after the start at which requests of a method were sent."""
    return [at - 1000 for at, data in link.sent if data[0] < 4 and decode(data).method == method]


def permissions(link: Link) -> list[float]:
    return requested(link, Method.CREATE_PERMISSION)


def bindings(link: Link) -> list[float]:
    return requested(link, Method.CHANNEL_BIND)


def peer(number: int) -> TransportAddress:
    return TransportAddress(f"198.51.{number >> 8}.{number & 255}", 7000)


# Permissions


def test_turn_20_a_permission_is_for_an_address_whatever_the_port() -> None:
    link = Link().allocate()
    link.send(PEER, b"1")
    link.send(SAME_HOST, b"2")
    link.send(OTHER, b"3")
    assert link.server.relayed_data == [(PEER, b"1"), (SAME_HOST, b"2"), (OTHER, b"3")]
    asked = [request for request in link.server.requests if request.method == Method.CREATE_PERMISSION]
    assert [request.get_all(Attribute.XOR_PEER_ADDRESS) for request in asked] == [
        (TransportAddress(PEER.ip, 0),),
        (TransportAddress(OTHER.ip, 0),),
    ]
    link.from_peer(SAME_HOST, b"back")
    assert link.received == [(SAME_HOST, b"back")]


def test_turn_20_twenty_minutes_without_a_gap() -> None:
    link = Link().allocate()
    # The server raises where data comes without a permission.
    for number in range(240):
        link.send(PEER, b"%d" % number)
        link.advance(5)
    assert [data for _, data in link.server.relayed_data] == [b"%d" % number for number in range(240)]
    assert permissions(link) == [0, 240, 480, 720, 960, 1200]


def test_turn_20_renewed_at_once_where_it_is_used_again_late() -> None:
    link = Link().allocate()
    link.send(PEER, b"1")
    link.advance(270)
    assert permissions(link) == [0]
    link.send(PEER, b"2")
    assert permissions(link) == [0, 270]
    link.advance(200)
    link.send(PEER, b"3")
    assert [data for _, data in link.server.relayed_data] == [b"1", b"2", b"3"]


def test_turn_20_what_nobody_uses_ends_and_is_asked_for_anew() -> None:
    link = Link().allocate()
    link.send(PEER, b"1")
    link.advance(301)
    link.from_peer(PEER, b"late")
    assert link.received == []
    link.send(PEER, b"2")
    assert permissions(link) == [0, 301]
    assert link.server.relayed_data == [(PEER, b"1"), (PEER, b"2")]


def test_turn_20_a_lost_renewal_leaves_no_gap() -> None:
    link = Link().allocate()
    link.lost = lambda _index, data: (
        data[0] < 4 and decode(data).method == Method.CREATE_PERMISSION and 1240 <= link.now < 1270
    )
    for _ in range(60):
        link.send(PEER, b"data")
        link.advance(5)
    # Sent at 240, 240.5, 241.5, …; the seventh came through.
    assert permissions(link) == [0, 240, 240.5, 241.5, 243.5, 247.5, 255.5, 271.5]
    assert len(link.server.relayed_data) == 60


def test_turn_20_peers_of_another_family_are_none() -> None:
    link = Link().allocate()
    link.send(TransportAddress("2001:db8::3", 7000), b"data")
    assert not link.bind(TransportAddress("2001:db8::3", 7000))
    assert len(link.server.requests) == 2
    assert link.allocation.drops.snapshot() == {"peer_family": 1}


def test_turn_21_nothing_is_relayed_before_the_permission_stands() -> None:
    link = Link().allocate()
    for number in range(3):
        link.allocation.send(PEER, b"%d" % number, now=link.now)
    data = link.allocation.poll_transmit()
    assert data is not None
    assert decode(data).method == Method.CREATE_PERMISSION
    assert link.allocation.poll_transmit() is None
    for answer in link.server.receive(data, link.now):
        link.allocation.receive(answer, now=link.now)
    link.exchange()
    assert [sent for _, sent in link.server.relayed_data] == [b"0", b"1", b"2"]


def test_turn_21_what_waits_is_bounded_and_the_oldest_goes() -> None:
    link = Link(config=TurnConfig(max_waiting=2)).allocate()
    for number in range(5):
        link.allocation.send(PEER, b"%d" % number, now=link.now)
    link.exchange()
    assert [sent for _, sent in link.server.relayed_data] == [b"3", b"4"]
    assert link.allocation.drops.snapshot() == {"permission_queue_full": 3}


def test_turn_21_a_peer_that_the_server_refuses_is_told_and_left_alone() -> None:
    link = Link().allocate()
    link.server.errors[Method.CREATE_PERMISSION] = deque([403])
    link.send(PEER, b"1")
    assert link.events[2:] == [PeerRefused(PEER.ip, 403)]
    link.send(PEER, b"2")
    link.advance(59)
    link.send(PEER, b"3")
    assert permissions(link) == [0]
    assert link.allocation.drops.snapshot() == {"permission_refused": 3}
    link.advance(2)
    link.send(PEER, b"4")
    assert link.server.relayed_data == [(PEER, b"4")]
    assert link.allocation.state is AllocationState.ALLOCATED


def test_turn_21_a_server_that_does_not_answer_for_a_peer() -> None:
    link = Link().allocate()
    link.server.hook = lambda request: [] if request.method == Method.CREATE_PERMISSION else None
    link.send(PEER, b"1")
    link.advance(39.5)
    assert link.events[2:] == [PeerRefused(PEER.ip, None)]
    assert link.allocation.drops.snapshot() == {"permission_refused": 1}


def test_stun_36_server_errors_are_repeated_four_times() -> None:
    link = Link().allocate()
    link.server.errors[Method.CREATE_PERMISSION] = deque([500] * 4)
    link.send(PEER, b"1")
    link.advance(60)
    assert link.server.relayed_data == [(PEER, b"1")]
    assert len(permissions(link)) == 5
    link.server.errors[Method.CREATE_PERMISSION] = deque([500] * 9)
    link.send(OTHER, b"2")
    link.advance(39)
    assert link.events[2:] == [PeerRefused(OTHER.ip, 500)]
    assert len(permissions(link)) == 10
    pauses = [after - before for before, after in zip(permissions(link), permissions(link)[1:], strict=False)]
    # From 1 s, each twice the one before, spread by a tenth.
    assert all(0.9 * (1 << n) <= pause <= 1.1 * (1 << n) for n, pause in enumerate(pauses[5:]))


def test_stun_34_ten_requests_are_open_and_the_others_wait() -> None:
    link = Link().allocate()
    for number in range(25):
        link.allocation.send(peer(number), b"%d" % number, now=link.now)
    opened = []
    while (data := link.allocation.poll_transmit()) is not None:
        opened.append(data)
    assert len(opened) == 10
    for answer in link.server.receive(opened[3], link.now):
        link.allocation.receive(answer, now=link.now)
    link.exchange()
    # One answer makes room for one request, whose answer makes room for the next.
    assert len(link.server.relayed_data) == 16
    link.advance(1)
    assert sorted(data for _, data in link.server.relayed_data) == sorted(b"%d" % number for number in range(25))


def test_a_refresh_does_not_wait_behind_permissions() -> None:
    link = Link().allocate()
    link.advance(539)
    link.lost = lambda _index, data: decode(data).method == Method.CREATE_PERMISSION
    for number in range(25):
        link.allocation.send(peer(number), b"", now=link.now)
    link.exchange()
    link.advance(45)
    assert requested(link, Method.REFRESH) == [578.5]


def test_permissions_are_bounded() -> None:
    link = Link(config=TurnConfig(max_permissions=3)).allocate()
    for number in range(5):
        link.send(peer(number), b"")
    assert len(link.server.relayed_data) == 3
    assert link.allocation.drops.snapshot() == {"permissions_full": 2}
    link.advance(301)
    link.send(peer(4), b"")
    assert len(link.server.relayed_data) == 4


def test_nothing_is_sent_before_it_stands_or_after_its_end() -> None:
    link = Link()
    link.allocation.send(PEER, b"early", now=link.now)
    assert not link.allocation.bind(PEER, now=link.now)
    link.allocate().close()
    link.send(PEER, b"late")
    assert not link.bind(PEER)
    assert link.allocation.drops.snapshot() == {"not_allocated": 2}
    assert link.events[2:] == [AllocationReleased(confirmed=True)]


# Data


def test_turn_22_a_send_indication_has_peer_and_data_and_no_integrity() -> None:
    link = Link().allocate()
    link.send(PEER, b"data")
    message = decode(link.sent[-1][1])
    assert (message.method, message.message_class) == (Method.SEND, MessageClass.INDICATION)
    assert message.get(Attribute.XOR_PEER_ADDRESS) == PEER
    assert message.get(Attribute.DATA) == b"data"
    assert not message.has_integrity
    assert Attribute.USERNAME not in message


@pytest.mark.parametrize("channel", [False, True])
def test_turn_23_no_data_is_data_too(channel: bool) -> None:
    link = Link().allocate()
    link.send(PEER, b"")
    if channel:
        link.bind(PEER)
        link.send(PEER, b"")
    link.from_peer(PEER, b"", channel=FIRST_CHANNEL if channel else None)
    assert link.received == [(PEER, b"")]
    assert set(link.server.relayed_data) == {(PEER, b"")}


def indication(*attributes: tuple[int, object], method: Method = Method.DATA) -> bytes:
    return encode(method, MessageClass.INDICATION, bytes(12), list(attributes))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (indication((Attribute.DATA, b"x")), "data_without_peer"),
        (indication((Attribute.ICMP, (3, 1, 0))), "data_without_peer"),
        (indication((Attribute.XOR_PEER_ADDRESS, OTHER), (Attribute.DATA, b"x")), "data_without_permission"),
        (indication((Attribute.XOR_PEER_ADDRESS, OTHER), (Attribute.ICMP, (3, 1, 0))), "data_without_permission"),
        (indication((Attribute.XOR_PEER_ADDRESS, PEER)), "data_missing"),
        (
            indication((Attribute.XOR_PEER_ADDRESS, PEER), (Attribute.DATA, b"x"), (0x7A01, b"")),
            "unknown_attributes",
        ),
        (
            indication((Attribute.XOR_PEER_ADDRESS, PEER), (Attribute.DATA, b"x"), method=Method.SEND),
            "stun_unexpected",
        ),
        (encode(Method.DATA, MessageClass.REQUEST, bytes(12), [(Attribute.DATA, b"x")]), "stun_unexpected"),
        (encode(Method.DATA, MessageClass.SUCCESS, bytes(12), [(Attribute.DATA, b"x")]), "stun_unexpected"),
    ],
)
def test_turn_23_what_is_no_data_from_a_peer(message: bytes, reason: str) -> None:
    link = Link().allocate()
    link.send(PEER, b"")
    link.allocation.receive(message, now=link.now)
    link.collect()
    assert link.received == []
    assert link.events[2:] == []
    assert link.allocation.drops.snapshot() == {reason: 1}


def test_turn_23_data_from_where_a_permission_is_only_asked_for_is_dropped() -> None:
    link = Link().allocate()
    link.allocation.send(PEER, b"", now=link.now)
    link.from_peer(PEER, b"x")
    assert link.received == []
    assert link.allocation.drops.snapshot() == {"data_without_permission": 1}


def test_stun_08_data_before_the_allocation_stands_is_dropped() -> None:
    link = Link()
    link.from_peer(PEER, b"x")
    link.from_peer(PEER, b"x", channel=FIRST_CHANNEL)
    assert link.received == []
    assert link.allocation.drops.snapshot() == {"not_allocated": 2}


def test_turn_24_icmp_is_told_and_is_neither_data_nor_an_end() -> None:
    link = Link().allocate()
    link.send(PEER, b"")
    both = link.server.indication(PEER, b"data", (Attribute.ICMP, (3, 3, 0)))
    link.allocation.receive(both, now=link.now)
    port_unknown = TransportAddress(PEER.ip, 0)
    link.allocation.receive(link.server.indication(port_unknown, None, (Attribute.ICMP, (3, 4, 1400))), now=link.now)
    link.collect()
    assert link.events[2:] == [
        PeerUnreachable(PEER, Icmp(3, 3)),
        PeerUnreachable(port_unknown, Icmp(3, 4, 1400)),
    ]
    assert link.received == []
    link.send(PEER, b"more")
    assert link.server.relayed_data[-1] == (PEER, b"more")


def test_turn_24_a_storm_of_icmp_is_bounded_and_hides_no_end() -> None:
    link = Link().allocate()
    link.send(PEER, b"")
    storm = link.server.indication(PEER, None, (Attribute.ICMP, (3, 3, 0)))
    for _ in range(1000):
        link.allocation.receive(storm, now=link.now)
    link.allocation.closed("transport", now=link.now)
    assert link.allocation.poll_event() == AllocationLost("transport")
    link.collect()
    assert len(link.events) == 2 + 64
    assert link.allocation.drops.snapshot() == {"events_full": 936}


def test_queues_in_both_directions_are_bounded() -> None:
    link = Link(config=TurnConfig(max_queue=3)).allocate()
    link.send(PEER, b"")
    for number in range(5):
        link.allocation.receive(link.server.indication(PEER, b"%d" % number), now=link.now)
        link.allocation.send(PEER, b"%d" % number, now=link.now)
    link.exchange()
    assert [data for _, data in link.received] == [b"0", b"1", b"2"]
    assert [data for _, data in link.server.relayed_data] == [b"", b"0", b"1", b"2"]
    assert link.allocation.drops.snapshot() == {"incoming_full": 2, "outgoing_full": 2}


def test_data_that_fits_in_no_datagram_is_dropped() -> None:
    link = Link().allocate()
    link.send(PEER, bytes(65_000))
    link.send(PEER, bytes(65_001))
    assert [len(data) for _, data in link.server.relayed_data] == [65_000]
    assert link.allocation.drops.snapshot() == {"data_size": 1}


# Channels


@pytest.mark.parametrize("stream", [False, True])
def test_turn_31_data_goes_through_a_channel_once_that_is_asked_for(stream: bool) -> None:
    link = Link(stream=stream).allocate()
    link.send(PEER, b"before")
    assert bindings(link) == []
    assert link.bind(PEER)
    link.send(PEER, b"after")
    assert link.sent[-1][1] == encode_channel_data(FIRST_CHANNEL, b"after", padded=stream)
    link.from_peer(PEER, b"back", channel=FIRST_CHANNEL)
    assert link.server.relayed_data == [(PEER, b"before"), (PEER, b"after")]
    assert link.received == [(PEER, b"back")]
    # Another port of the same host is another peer.
    link.send(SAME_HOST, b"other")
    assert decode(link.sent[-1][1]).method == Method.SEND
    assert link.bind(PEER)
    assert len(bindings(link)) == 1


def test_turn_25_numbers_and_peers_are_one_to_one() -> None:
    link = Link().allocate()
    for number in range(5):
        assert link.bind(peer(number))
        assert link.bind(peer(number))
    asked = [request for request in link.server.requests if request.method == Method.CHANNEL_BIND]
    assert [request.get(Attribute.CHANNEL_NUMBER) for request in asked] == [0x4000 + number for number in range(5)]
    assert [request.get(Attribute.XOR_PEER_ADDRESS) for request in asked] == [peer(number) for number in range(5)]
    assert bytes.fromhex("000c000440000000") in asked[0].data


def test_turn_25_there_are_4096_numbers() -> None:
    channels = Channels(TurnConfig())
    for number in range(4096):
        assert channels.bind(peer(number), now=0.0)
    assert {channel.number for channel in channels.take_due(0.0)} == set(range(0x4000, 0x5000))
    assert not channels.bind(peer(4096), now=0.0)
    assert channels.bind(peer(17), now=0.0)


def test_turn_26_all_numbers_are_free_again_five_minutes_after_their_bindings_ended() -> None:
    channels = Channels(TurnConfig())
    for number in range(4096):
        channels.bind(peer(number), now=0.0)
    for channel in channels.take_due(0.0):
        channels.happened(channel.peer, ChannelInput.GRANTED, asked_at=0.0, now=0.0)
    assert channels.take_due(899.0) == []
    assert not channels.bind(OTHER, now=899.0)
    assert channels.take_due(900.0) == []
    assert len(channels) == 0
    assert channels.bind(OTHER, now=900.0)
    assert [channel.number for channel in channels.take_due(900.0)] == [0x4000]


def test_turn_26_a_channel_is_renewed_before_it_ends_and_renews_the_permission() -> None:
    link = Link().allocate()
    link.send(PEER, b"0")
    link.bind(PEER)
    for number in range(240):
        link.send(PEER, b"%d" % number)
        link.advance(5)
    assert len(link.server.relayed_data) == 241
    assert bindings(link) == [0, 240, 480, 720, 960, 1200]
    # No other request is needed for the permission.
    assert permissions(link) == [0]


def test_turn_26_an_unused_channel_ends_and_its_number_is_not_given_to_another_peer() -> None:
    link = Link().allocate()
    link.bind(PEER)
    link.advance(601)
    assert bindings(link) == [0]
    # The server raises where number or peer is bound otherwise too early.
    link.bind(OTHER)
    assert link.server.requests[-1].get(Attribute.CHANNEL_NUMBER) == 0x4001
    link.from_peer(PEER, b"late", channel=0x4000)
    assert link.allocation.drops.snapshot() == {"channel_unbound": 1}


def test_turn_26_the_same_peer_gets_its_number_again() -> None:
    link = Link().allocate()
    link.bind(PEER)
    link.advance(700)
    link.bind(PEER)
    assert link.server.requests[-1].get(Attribute.CHANNEL_NUMBER) == 0x4000
    link.send(PEER, b"data")
    assert link.sent[-1][1][:2] == b"\x40\0"


def test_turn_26_a_channel_that_ended_is_bound_again_by_use() -> None:
    link = Link().allocate()
    link.bind(PEER)
    link.advance(700)
    link.send(PEER, b"1")
    link.send(PEER, b"2")
    assert link.server.relayed_data == [(PEER, b"1"), (PEER, b"2")]
    assert bindings(link) == [0, 700]
    assert link.sent[-1][1][:2] == b"\x40\0"


def test_turn_26_used_again_late_it_is_renewed_before_it_ends() -> None:
    link = Link().allocate()
    link.bind(PEER)
    link.advance(500)
    link.send(PEER, b"1")
    link.advance(60)
    assert bindings(link) == [0, 540]


def test_turn_26_a_binding_that_was_never_answered_may_stand_at_the_server() -> None:
    link = Link().allocate()
    link.server.hook = lambda request: [] if request.method == Method.CHANNEL_BIND else None
    link.bind(PEER)
    link.advance(39.5)
    link.send(PEER, b"1")
    assert decode(link.sent[-1][1]).method == Method.SEND
    assert link.bind(OTHER)
    assert link.server.requests[-1].get(Attribute.CHANNEL_NUMBER) == 0x4001


def test_turn_27_data_is_taken_before_the_answer_and_sent_without_the_channel_until_then() -> None:
    link = Link().allocate()
    link.send(PEER, b"0")
    held: list[Message] = []

    def hold(request: Message) -> list[bytes] | None:
        if request.method != Method.CHANNEL_BIND:
            return None
        held.append(request)
        return []

    link.server.hook = hold
    link.bind(PEER)
    link.from_peer(PEER, b"early", channel=FIRST_CHANNEL)
    assert link.received == [(PEER, b"early")]
    link.send(PEER, b"1")
    assert decode(link.sent[-1][1]).method == Method.SEND
    link.server.hook = lambda _request: None
    for answer in link.server.receive(held[0].data, link.now):
        link.allocation.receive(answer, now=link.now)
    link.send(PEER, b"2")
    assert link.sent[-1][1] == encode_channel_data(FIRST_CHANNEL, b"2", padded=False)


def test_turn_27_a_channel_installs_the_permission_that_data_waits_for() -> None:
    link = Link().allocate()
    link.server.hook = lambda request: [] if request.method == Method.CREATE_PERMISSION else None
    link.send(PEER, b"waits")
    link.bind(PEER)
    assert link.server.relayed_data == [(PEER, b"waits")]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("", "turn_first_byte"),
        ("40", "channel_length"),
        ("40000001", "channel_length"),
        ("4001000161", "channel_unbound"),
        ("4fff000161", "channel_unbound"),
        ("50000000", "turn_first_byte"),
        ("7fff0000", "turn_first_byte"),
        ("1403", "turn_first_byte"),
        ("80000000", "turn_first_byte"),
        ("0003", "stun_header"),
        ("000300002112a442" + "00" * 12, "stun_unexpected"),
        ("010300012112a442" + "00" * 12 + "00", "stun_length"),
    ],
)
def test_turn_29_what_is_neither_stun_nor_of_a_bound_channel_is_dropped(message: str, reason: str) -> None:
    link = Link().allocate()
    link.bind(PEER)
    link.allocation.receive(bytes.fromhex(message), now=link.now)
    link.collect()
    assert link.received == []
    assert link.allocation.drops.snapshot() == {reason: 1}


def test_turn_29_channel_data_without_a_permission_is_dropped() -> None:
    link = Link().allocate()
    link.bind(PEER)
    link.advance(301)
    link.from_peer(PEER, b"late", channel=FIRST_CHANNEL)
    assert link.received == []
    assert link.allocation.drops.snapshot() == {"data_without_permission": 1}


def test_turn_30_an_unexpected_400_deletes_the_allocation() -> None:
    link = Link().allocate()
    link.server.errors[Method.CHANNEL_BIND] = deque([400])
    link.send(PEER, b"data")
    link.bind(PEER)
    assert link.server.deleted == 1
    assert link.events[2:] == [AllocationLost("channel_refused", 400), AllocationReleased(confirmed=True)]


@pytest.mark.parametrize("code", [403, 443, 508])
def test_turn_30_other_errors_leave_the_peer_without_a_channel(code: int) -> None:
    server = TurnServer()
    link = Link(server).allocate()
    server.errors[Method.CHANNEL_BIND] = deque([code])
    link.send(PEER, b"1")
    link.bind(PEER)
    assert not link.bind(PEER)
    link.send(PEER, b"2")
    link.advance(299)
    assert server.relayed_data == [(PEER, b"1"), (PEER, b"2")]
    assert bindings(link) == [0]
    assert link.allocation.state is AllocationState.ALLOCATED
