"""An allocation's life: allocate, refresh, lose, release (RFC 8656 §5, §7, §8)."""

from collections import deque
from typing import Any

import pytest

from edgeice.addresses import TransportAddress
from edgeice.errors import LocalProtocolError
from edgeice.sansio import Entropy
from edgeice.stun import Attribute, Message, MessageClass, Method, decode, encode
from edgeice.turn import (
    Allocated,
    Allocation,
    AllocationFailed,
    AllocationLost,
    AllocationRedirected,
    AllocationReleased,
    AllocationState,
    FamilyRefused,
    ServerChallenged,
    TurnConfig,
    TurnCredentials,
)
from edgeice.turn.allocation import allocate_attributes
from tests.support.turn_server import CREDENTIALS, MAPPED, PEER, RELAYED, RELAYED_6, SERVER, Link, TurnServer

OTHER_SERVER = TransportAddress("192.0.2.16", 3478)


def methods(link: Link) -> list[str]:
    return [Method(message.method).name for message in link.server.requests]


def method_of(data: bytes) -> int:
    return decode(data).method if data[0] < 4 else -1


def refusing(code: int, *attributes: tuple[int, object], method: Method = Method.ALLOCATE) -> TurnServer:
    """A server whose first signed answer to a method is an error."""
    server = TurnServer()
    server.errors[method] = deque([code])
    server.error_attributes = list(attributes)
    return server


def holding(server: TurnServer) -> list[Message]:
    """Let a server keep signed requests to itself: these."""
    held: list[Message] = []

    def hold(request: Message) -> list[bytes] | None:
        if not request.has_integrity:
            return None
        held.append(request)
        return []

    server.hook = hold
    return held


def answering_allocate(*more: tuple[int, object], relayed: list[TransportAddress]) -> TurnServer:
    """A server that grants these relayed addresses, and says more."""
    server = TurnServer()

    def grant(request: Message) -> list[bytes] | None:
        if request.method != Method.ALLOCATE or not request.has_integrity:
            return None
        server.allocated_until = 1e9
        attributes: list[tuple[int, object]] = [(Attribute.XOR_RELAYED_ADDRESS, address) for address in relayed]
        return [server.success(request, [*attributes, (Attribute.XOR_MAPPED_ADDRESS, MAPPED), *more])]

    server.hook = grant
    return server


# Allocate


def test_turn_01_an_allocate_asks_for_udp_and_nothing_else_in_that_field() -> None:
    link = Link().allocate()
    for request in link.server.requests:
        assert request.get(Attribute.REQUESTED_TRANSPORT) == 17
        assert bytes.fromhex("0019000411000000") in request.data


def test_turn_02_relayed_and_mapped_address_and_the_lifetime_that_was_given() -> None:
    server = TurnServer()
    server.lifetime = 600
    link = Link(server, config=TurnConfig(lifetime=3600)).allocate()
    assert [request.get(Attribute.LIFETIME) for request in server.requests] == [3600, 3600]
    assert link.events == [
        ServerChallenged(0.0),
        Allocated(relayed=RELAYED, additional=None, mapped=MAPPED, lifetime=600.0, rtt=0.0),
    ]
    link.advance(539.9)
    assert server.counted()["REFRESH"] == 0
    link.advance(0.2)
    assert server.counted()["REFRESH"] == 1


def test_turn_02_the_round_trip_is_measured_unless_a_request_was_repeated() -> None:
    link = Link()
    link.exchange()
    assert isinstance(link.events[1], Allocated)
    assert link.events[1].rtt == 0.0
    again = Link()
    again.lost = lambda index, _data: index == 1
    again.exchange()
    again.advance(0.5)
    assert isinstance(again.events[1], Allocated)
    assert again.events[1].rtt is None


def test_stun_40_the_first_request_to_a_server_carries_no_credentials() -> None:
    link = Link().allocate()
    first, second = link.server.requests
    secret = {
        Attribute.USERNAME,
        Attribute.USERHASH,
        Attribute.REALM,
        Attribute.NONCE,
        Attribute.PASSWORD_ALGORITHM,
        Attribute.PASSWORD_ALGORITHMS,
    }
    assert not {kind for kind in secret if kind in first}
    assert not first.has_integrity
    assert {kind for kind in secret if kind in second} == {Attribute.USERNAME, Attribute.REALM, Attribute.NONCE}
    assert second.has_integrity


def test_a_server_that_lets_everybody_in_is_not_given_credentials() -> None:
    server = TurnServer()

    def everybody(request: Message) -> list[bytes]:
        attributes: list[tuple[int, object]] = [
            (Attribute.XOR_RELAYED_ADDRESS, RELAYED),
            (Attribute.XOR_MAPPED_ADDRESS, MAPPED),
        ]
        return [encode(request.method, MessageClass.SUCCESS, request.transaction_id, attributes)]

    server.hook = everybody
    link = Link(server).allocate()
    # RFC 8656 §7.2: without LIFETIME, what is usual.
    assert link.events == [Allocated(relayed=RELAYED, additional=None, mapped=MAPPED, lifetime=600.0, rtt=0.0)]
    link.close()
    assert not any(request.has_integrity or Attribute.USERNAME in request for request in server.requests)


def test_turn_06_a_family_is_asked_for_once_and_only_if_it_is_not_ipv4() -> None:
    link = Link().allocate()
    assert Attribute.REQUESTED_ADDRESS_FAMILY not in link.server.requests[0]
    server = TurnServer()
    server.relayed = [RELAYED_6]
    six = Link(server, family=6).allocate()
    assert six.server.requests[1].get(Attribute.REQUESTED_ADDRESS_FAMILY) == 6
    assert six.server.requests[1].data.count(bytes.fromhex("00170004")) == 1
    assert isinstance(six.events[1], Allocated)
    assert six.events[1].relayed == RELAYED_6


@pytest.mark.parametrize(
    "options",
    [
        {"family": 6, "reservation_token": bytes(8)},
        {"family": 4, "additional_family": 6},
    ],
)
def test_turn_06_a_family_excludes_these(options: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        allocate_attributes(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"additional_family": 4},
        {"additional_family": 6, "reservation_token": bytes(8)},
        {"additional_family": 6, "even_port": True},
    ],
)
def test_turn_07_an_additional_family_is_ipv6_and_excludes_these(options: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        allocate_attributes(**options)


def test_turn_07_an_even_port_alone_goes_with_an_additional_family() -> None:
    attributes = dict(allocate_attributes(additional_family=6, even_port=False))
    assert attributes[Attribute.ADDITIONAL_ADDRESS_FAMILY] == 6
    assert attributes[Attribute.EVEN_PORT] is False


def test_turn_07_both_families_by_one_allocation() -> None:
    server = TurnServer()
    server.relayed = [RELAYED, RELAYED_6]
    link = Link(server, dual=True).allocate()
    request = server.requests[1]
    assert request.get(Attribute.ADDITIONAL_ADDRESS_FAMILY) == 6
    assert Attribute.REQUESTED_ADDRESS_FAMILY not in request
    assert link.events[1] == Allocated(relayed=RELAYED, additional=RELAYED_6, mapped=MAPPED, lifetime=600.0, rtt=0.0)
    peer_6 = TransportAddress("2001:db8::3", 7000)
    link.send(PEER, b"4")
    link.send(peer_6, b"6")
    assert server.relayed_data == [(PEER, b"4"), (peer_6, b"6")]
    # RFC 8656 §8.1: without a family, a Refresh is for both.
    link.advance(541)
    assert Attribute.REQUESTED_ADDRESS_FAMILY not in server.requests[-1]
    assert methods(link)[-1] == "REFRESH"


@pytest.mark.parametrize(
    "attribute",
    [
        (Attribute.ADDRESS_ERROR_CODE, (6, 440, "")),
        (0x8033, bytes.fromhex("02000428")),  # as coturn has it
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_turn_08_a_family_that_the_server_does_not_have(attribute: tuple[int, object], first: bool) -> None:
    none = TransportAddress("0.0.0.0", 0)
    relayed = [none, RELAYED] if first else [RELAYED, none]
    link = Link(answering_allocate(attribute, relayed=relayed), dual=True).allocate()
    assert link.events[1:] == [
        Allocated(relayed=RELAYED, additional=None, mapped=MAPPED, lifetime=600.0, rtt=0.0),
        FamilyRefused(6, 440, None),
    ]


def test_turn_08_what_nobody_can_read_says_nothing_about_a_family() -> None:
    link = Link(answering_allocate((0x8033, b"\2\0\7"), relayed=[RELAYED]), dual=True).allocate()
    assert len(link.events) == 2


@pytest.mark.parametrize(("code", "pause"), [(440, None), (508, 60.0)])
def test_turn_08_one_family_of_two_is_refused(code: int, pause: float | None) -> None:
    link = Link(answering_allocate((Attribute.ADDRESS_ERROR_CODE, (6, code, "")), relayed=[RELAYED]), dual=True)
    link.allocate()
    retry_at = None if pause is None else link.now + pause
    assert link.events[2] == FamilyRefused(6, code, retry_at)
    link.send(TransportAddress("2001:db8::3", 7000), b"6")
    assert link.allocation.drops["peer_family"] == 1


def test_turn_09_even_port_and_a_reservation_exclude_each_other() -> None:
    with pytest.raises(LocalProtocolError):
        allocate_attributes(even_port=False, reservation_token=bytes(8))


@pytest.mark.parametrize(
    ("options", "wire"),
    [
        ({"even_port": True}, "0018000180000000"),
        ({"even_port": False}, "0018000100000000"),
        ({"reservation_token": bytes(range(8))}, "002200080001020304050607"),
    ],
)
def test_turn_09_even_port_and_reservation_token_on_the_wire(options: dict[str, Any], wire: str) -> None:
    request = encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12), allocate_attributes(**options))
    assert bytes.fromhex(wire) in request


def test_turn_09_a_reservation_token_has_eight_bytes() -> None:
    for size in (7, 9):
        attributes = allocate_attributes(reservation_token=bytes(size))
        with pytest.raises(LocalProtocolError):
            encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12), attributes)


def test_turn_10_without_dont_fragment_where_the_server_does_not_know_it() -> None:
    server = refusing(420, (Attribute.UNKNOWN_ATTRIBUTES, (Attribute.DONT_FRAGMENT,)))
    link = Link(server, config=TurnConfig(dont_fragment=True)).allocate()
    assert [Attribute.DONT_FRAGMENT in request for request in server.requests] == [True, True, False]
    link.send(PEER, b"data")
    assert server.relayed_data == [(PEER, b"data")]
    assert Attribute.DONT_FRAGMENT not in decode(link.sent[-1][1])


def test_turn_10_with_dont_fragment_where_the_server_knows_it() -> None:
    link = Link(config=TurnConfig(dont_fragment=True)).allocate()
    assert bytes.fromhex("001a0000") in link.server.requests[1].data
    link.send(PEER, b"data")
    assert Attribute.DONT_FRAGMENT in decode(link.sent[-1][1])


def test_turn_10_a_420_for_something_else_is_final() -> None:
    server = refusing(420, (Attribute.UNKNOWN_ATTRIBUTES, (Attribute.REQUESTED_TRANSPORT,)))
    link = Link(server, config=TurnConfig(dont_fragment=True))
    link.exchange()
    assert link.events[-1] == AllocationFailed(reason="unknown_attribute", code=420, retry_at=None)


@pytest.mark.parametrize(("before", "pause"), [(0, 0.0), (1, 0.0), (2, 120.0), (9, 120.0)])
def test_turn_11_three_ports_and_then_two_minutes(before: int, pause: float) -> None:
    link = Link(refusing(437), mismatches=before)
    link.exchange()
    assert link.events[-1] == AllocationFailed(reason="mismatch", code=437, retry_at=link.now + pause, new_port=True)


@pytest.mark.parametrize(
    ("code", "reason", "pause"),
    [
        (400, "bad_request", None),
        (403, "forbidden", None),
        (420, "unknown_attribute", None),
        (440, "family_unsupported", None),
        (441, "wrong_credentials", None),
        (442, "transport_unsupported", None),
        (486, "quota", 60.0),
        (499, "refused", None),
        (508, "capacity", 60.0),
        (699, "server_error", 60.0),
    ],
)
def test_turn_12_what_each_error_means(code: int, reason: str, pause: float | None) -> None:
    link = Link(refusing(code))
    link.exchange()
    retry_at = None if pause is None else link.now + pause
    assert link.events == [ServerChallenged(0.0), AllocationFailed(reason=reason, code=code, retry_at=retry_at)]
    assert link.allocation.is_ended
    assert link.allocation.next_timeout() is None
    assert methods(link) == ["ALLOCATE", "ALLOCATE"]


def test_turn_12_a_401_to_credentials_ends_it() -> None:
    server = TurnServer()
    server.users[CREDENTIALS.username] = "south"
    link = Link(server)
    link.exchange()
    link.advance(300)
    assert link.events == [ServerChallenged(0.0), AllocationFailed(reason="unauthorized", code=401, retry_at=None)]
    assert methods(link) == ["ALLOCATE", "ALLOCATE"]


def test_turn_12_a_server_that_is_silent() -> None:
    link = Link()
    link.lost = lambda _index, _data: True
    link.exchange()
    link.advance(60)
    # RFC 8489 §6.2.1.
    assert [at - 1000 for at, _ in link.sent] == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert link.events == [AllocationFailed(reason="timeout", code=None, retry_at=1000 + 39.5 + 60)]


def test_turn_32_a_stream_repeats_nothing_and_has_the_same_time() -> None:
    link = Link(stream=True)
    link.lost = lambda _index, _data: True
    link.exchange()
    link.advance(39.4)
    assert link.events == []
    link.advance(0.1)
    assert [type(event) for event in link.events] == [AllocationFailed]
    assert len(link.sent) == 1


@pytest.mark.parametrize(
    "attributes",
    [
        [(Attribute.XOR_MAPPED_ADDRESS, MAPPED)],
        [(Attribute.XOR_RELAYED_ADDRESS, RELAYED)],
        [(Attribute.XOR_RELAYED_ADDRESS, RELAYED_6), (Attribute.XOR_MAPPED_ADDRESS, MAPPED)],
        [],
    ],
)
def test_turn_14_addresses_that_are_of_no_use_are_given_back(attributes: list[tuple[int, object]]) -> None:
    server = TurnServer()

    def useless(request: Message) -> list[bytes] | None:
        if request.method == Method.ALLOCATE and request.has_integrity:
            server.allocated_until = 1e9
            return [server.success(request, attributes)]
        return None

    server.hook = useless
    link = Link(server)
    link.exchange()
    assert link.events == [
        ServerChallenged(0.0),
        AllocationFailed(reason="family_not_understood", code=None, retry_at=None),
        AllocationReleased(confirmed=True),
    ]
    assert server.deleted == 1


def test_turn_14_an_address_of_a_family_that_nobody_knows_is_given_back() -> None:
    server = TurnServer()

    def strange(request: Message) -> list[bytes] | None:
        if request.method != Method.ALLOCATE or not request.has_integrity:
            return None
        server.allocated_until = 1e9
        # What the codec cannot build: family 3.
        attributes: list[tuple[int, object]] = [(0x7ABC, b"\0\3" + bytes(6)), (Attribute.XOR_MAPPED_ADDRESS, MAPPED)]
        message = encode(request.method, MessageClass.SUCCESS, request.transaction_id, attributes)
        return [message.replace(b"\x7a\xbc", b"\0\x16", 1)[:-8]]

    server.hook = strange
    link = Link(server)
    link.exchange()
    link.advance(39.5)
    assert link.events[1:] == [
        AllocationFailed(reason="family_not_understood", code=None, retry_at=None),
        AllocationReleased(confirmed=True),
    ]
    assert server.deleted == 1


def test_turn_35_software_stands_in_allocate_and_refresh_or_nowhere() -> None:
    named = Link(software="edgeice 1").allocate()
    named.send(PEER, b"")
    named.advance(541)
    named.close()
    told = [(Method(request.method), request.get(Attribute.SOFTWARE)) for request in named.server.requests]
    assert [software for method, software in told if method in {Method.ALLOCATE, Method.REFRESH}] == ["edgeice 1"] * 4
    assert {software for method, software in told if method == Method.CREATE_PERMISSION} == {None}
    silent = Link().allocate()
    silent.close()
    assert not [request for request in silent.server.requests if Attribute.SOFTWARE in request]


# Refresh


def test_turn_03_refreshed_a_minute_before_it_ends() -> None:
    link = Link().allocate()
    link.advance(3600)
    refreshes = [at - 1000 for at, data in link.sent if method_of(data) == Method.REFRESH]
    assert refreshes == [540, 1080, 1620, 2160, 2700, 3240]
    assert link.allocation.state is AllocationState.ALLOCATED


def test_turn_03_refreshed_after_half_of_a_short_life() -> None:
    server = TurnServer()
    server.lifetime = 90
    link = Link(server).allocate()
    link.advance(91)
    assert [at - 1000 for at, data in link.sent if method_of(data) == Method.REFRESH] == [45, 90]


def test_turn_03_the_first_two_refreshes_are_lost() -> None:
    link = Link().allocate()
    lost: list[float] = []

    def two(_index: int, data: bytes) -> bool:
        if method_of(data) != Method.REFRESH or len(lost) == 2:
            return False
        lost.append(link.now - 1000)
        return True

    link.lost = two
    link.advance(600)
    assert lost == [540, 540.5]
    assert [at - 1000 for at, data in link.sent if method_of(data) == Method.REFRESH] == [540, 540.5, 541.5]
    assert link.server.allocated_until == 1000 + 541.5 + 600
    # The client counts from the first request, since it cannot know which one counted.
    link.advance(500)
    assert link.server.counted()["REFRESH"] == 2


def test_turn_03_a_whole_transaction_without_answer_is_repeated_while_there_is_time() -> None:
    link = Link().allocate()
    link.lost = lambda _index, data: method_of(data) == Method.REFRESH and link.now < 1000 + 580
    link.advance(600)
    assert link.server.counted()["REFRESH"] == 1
    assert link.allocation.state is AllocationState.ALLOCATED


def test_turn_03_what_was_not_refreshed_in_time_is_lost() -> None:
    link = Link().allocate()
    link.lost = lambda _index, _data: True
    link.advance(599.9)
    assert link.events[2:] == []
    link.advance(0.2)
    assert link.events[2:] == [AllocationLost("expired")]
    assert link.allocation.next_timeout() is None
    assert link.allocation.poll_transmit() is None


@pytest.mark.parametrize("lifetime", [0, 1, 5])
def test_turn_03_an_allocation_that_hardly_lasts_is_not_refreshed_all_the_time(lifetime: int) -> None:
    server = TurnServer()
    server.lifetime = lifetime
    link = Link(server)
    link.exchange()
    link.advance(5)
    assert link.events[2:] == [AllocationLost("expired")]
    assert methods(link) == ["ALLOCATE", "ALLOCATE"]


def test_turn_03_server_errors_to_a_refresh_are_repeated_until_it_ends() -> None:
    server = TurnServer()
    link = Link(server).allocate()
    server.hook = lambda request: [server.error(request, 500)]
    link.advance(601)
    assert link.events[2:] == [AllocationLost("expired")]
    # Five in a series (RFC 8489 §6.3.4), with pauses that grow, and a pause between the series.
    assert 5 < server.counted()["REFRESH"] <= 20


# The end


@pytest.mark.parametrize("method", [Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND])
def test_turn_05_a_437_to_anything_else_means_that_it_is_gone(method: Method) -> None:
    link = Link().allocate()
    link.server.errors[method] = deque([437])
    if method == Method.CREATE_PERMISSION:
        link.send(PEER, b"data")
    elif method == Method.CHANNEL_BIND:
        link.bind(PEER)
    else:
        link.advance(541)
    assert link.events[2:] == [AllocationLost("mismatch", 437)]
    assert link.allocation.is_ended
    link.close()
    assert link.events[3:] == []


def test_turn_05_a_437_to_the_deletion_is_what_was_wanted() -> None:
    link = Link(refusing(437, method=Method.REFRESH)).allocate()
    link.close()
    assert link.events[2:] == [AllocationReleased(confirmed=True)]


@pytest.mark.parametrize("stream", [False, True])
def test_turn_04_close_deletes_the_allocation_at_the_server(stream: bool) -> None:
    link = Link(stream=stream).allocate()
    link.send(PEER, b"data")
    link.close()
    assert link.server.deleted == 1
    assert link.server.requests[-1].get(Attribute.LIFETIME) == 0
    assert link.events[2:] == [AllocationReleased(confirmed=True)]
    assert link.allocation.is_ended
    link.close()
    assert link.events[3:] == []


def test_turn_04_the_last_message_is_there_to_be_sent_when_close_returns() -> None:
    link = Link().allocate()
    link.allocation.send(PEER, b"never sent", now=link.now)
    link.allocation.close(now=link.now)
    data = link.allocation.poll_transmit()
    assert data is not None
    assert decode(data).get(Attribute.LIFETIME) == 0
    assert link.allocation.poll_transmit() is None


def test_turn_04_closing_takes_no_longer_than_it_may() -> None:
    link = Link().allocate()
    link.lost = lambda _index, _data: True
    link.close()
    link.advance(3.9)
    assert link.events[2:] == []
    link.advance(0.2)
    assert link.events[2:] == [AllocationReleased(confirmed=False)]
    assert [at - 1000 for at, data in link.sent if method_of(data) == Method.REFRESH] == [0, 0.5, 1.5, 3.5]


def test_turn_04_closing_with_a_stale_nonce() -> None:
    link = Link().allocate()
    link.server.nonce = b"nonce-2"
    link.close()
    assert link.server.deleted == 1


def test_turn_04_closed_before_the_server_answered_nothing_is_allocated() -> None:
    link = Link()
    first = link.allocation.poll_transmit()
    assert first is not None
    link.allocation.close(now=link.now)
    for answer in link.server.receive(first, link.now):
        link.allocation.receive(answer, now=link.now)
    link.exchange()
    assert link.events == [AllocationReleased(confirmed=False)]
    assert methods(link) == ["ALLOCATE"]


def test_turn_04_closed_while_the_server_allocates_it_is_given_back() -> None:
    link = Link()
    held = holding(link.server)
    link.exchange()
    link.allocation.close(now=link.now)
    assert link.allocation.state is AllocationState.ABANDONED
    link.server.hook = lambda _request: None
    for answer in link.server.receive(held[0].data, link.now):
        link.allocation.receive(answer, now=link.now)
    link.exchange()
    assert link.server.deleted == 1
    assert link.events[1:] == [AllocationReleased(confirmed=True)]


@pytest.mark.parametrize("answered", [False, True])
def test_turn_04_closed_while_the_server_refuses_or_is_silent(answered: bool) -> None:
    link = Link()
    held = holding(link.server)
    link.exchange()
    link.close()
    if answered:
        link.allocation.receive(link.server.error(held[0], 486), now=link.now)
        link.collect()
    else:
        link.advance(4)
    assert link.events[1:] == [AllocationReleased(confirmed=False)]


def test_turn_04_the_flow_breaks_while_closing() -> None:
    link = Link(stream=True).allocate()
    link.allocation.close(now=link.now)
    link.allocation.closed("flow", now=link.now)
    link.collect()
    assert link.events[2:] == [AllocationReleased(confirmed=False)]


def test_turn_32_the_flow_breaks() -> None:
    link = Link(stream=True).allocate()
    link.allocation.closed("flow_closed", now=link.now)
    link.collect()
    assert link.events[2:] == [AllocationLost("flow_closed")]
    link.allocation.closed("flow_closed", now=link.now)
    link.allocation.receive(b"\x01\x03", now=link.now)
    link.collect()
    assert link.events[3:] == []


def test_stun_33_the_flow_breaks_before_the_server_answered() -> None:
    link = Link(stream=True)
    link.allocation.closed("transport", now=link.now)
    link.collect()
    assert link.events == [AllocationFailed(reason="transport", code=None, retry_at=link.now + 60)]
    assert link.allocation.next_timeout() is None


def test_turn_29_a_stream_that_cannot_be_framed_is_lost() -> None:
    link = Link(stream=True).allocate()
    link.allocation.receive(b"\x50\0\0\0", now=link.now)
    link.allocation.receive(b"\x50\0\0\0", now=link.now)
    link.collect()
    assert link.events[2:] == [AllocationLost("framing")]
    assert link.allocation.drops["turn_framing"] == 1


# Credentials over time


def test_turn_13_an_allocation_belongs_to_its_user() -> None:
    link = Link().allocate()
    newer = TurnCredentials("dev-8", "west")
    link.server.users[newer.username] = newer.password
    link.allocation.set_credentials(newer)
    link.send(PEER, b"")
    link.advance(1200)
    assert {request.get(Attribute.USERNAME) for request in link.server.requests[1:]} == {"dev-7"}
    # The old ones are refused from now on: the newer are of another user, and this allocation is lost.
    link.server.users[CREDENTIALS.username] = "changed"
    link.advance(600)
    assert {request.get(Attribute.USERNAME) for request in link.server.requests[1:]} == {"dev-7"}
    assert link.events[-1] == AllocationLost("unauthorized", 401)


def test_turn_13_another_password_of_the_same_user_is_taken_when_the_old_one_is_refused() -> None:
    link = Link().allocate()
    link.server.users[CREDENTIALS.username] = "south"
    link.allocation.set_credentials(TurnCredentials(CREDENTIALS.username, "south"))
    link.advance(1200)
    assert link.allocation.state is AllocationState.ALLOCATED
    assert link.server.counted()["REFRESH"] == 3


def test_turn_37_credentials_that_expire_do_not_end_an_allocation_that_stands() -> None:
    link = Link(credentials=TurnCredentials("1001:dev-7", "north"))
    link.server.users["1001:dev-7"] = "north"
    link.allocate().advance(1200)
    assert link.allocation.state is AllocationState.ALLOCATED
    assert link.server.counted()["REFRESH"] == 2


def test_stun_41_newer_credentials_are_a_reason_to_try_again() -> None:
    link = Link()
    first = link.allocation.poll_transmit()
    assert first is not None
    newer = TurnCredentials("dev-8", "west")
    link.server.users = {newer.username: newer.password}
    challenge = link.server.receive(first, link.now)
    link.allocation.receive(challenge[0], now=link.now)
    # The first answer goes out with the old ones, then come the newer.
    link.allocation.set_credentials(newer)
    link.allocate()
    names = [request.get(Attribute.USERNAME) for request in link.server.requests]
    assert names == [None, "dev-7", "dev-8"]


def test_stun_41_newer_credentials_before_the_first_challenge_replace_the_others() -> None:
    link = Link()
    newer = TurnCredentials("dev-8", "west")
    link.server.users = {newer.username: newer.password}
    link.allocation.set_credentials(newer)
    link.allocate()
    assert [request.get(Attribute.USERNAME) for request in link.server.requests] == [None, "dev-8"]


# Redirects


def redirect(*attributes: tuple[int, object]) -> TurnServer:
    return refusing(300, *attributes)


def test_stun_50_a_proved_300_names_another_server() -> None:
    link = Link(redirect((Attribute.ALTERNATE_SERVER, OTHER_SERVER)))
    link.exchange()
    assert link.events[1:] == [AllocationRedirected(OTHER_SERVER, None)]
    assert link.allocation.is_ended


def test_stun_50_the_other_server_is_reached_by_the_same_transport_under_its_name() -> None:
    server = redirect((Attribute.ALTERNATE_SERVER, OTHER_SERVER), (Attribute.ALTERNATE_DOMAIN, "turn2.example.org"))
    link = Link(server, stream=True)
    link.allocation.server = TransportAddress(SERVER.ip, SERVER.port, "tcp")
    link.exchange()
    there = TransportAddress(OTHER_SERVER.ip, OTHER_SERVER.port, "tcp")
    assert link.events[1:] == [AllocationRedirected(there, "turn2.example.org")]


@pytest.mark.parametrize("signed", [False, True])
def test_stun_50_dec_4_an_unproved_300_is_not_followed(signed: bool) -> None:
    server = TurnServer()

    def forged(request: Message) -> list[bytes] | None:
        if request.has_integrity == signed:
            return [server.unsigned_error(request, 300, (Attribute.ALTERNATE_SERVER, OTHER_SERVER))]
        return None

    server.hook = forged
    link = Link(server)
    link.exchange()
    link.advance(40)
    # To a signed request it is as if it had never come.
    expected = AllocationFailed(reason="integrity", code=None, retry_at=None)
    if not signed:
        expected = AllocationFailed(reason="redirect_unproven", code=300, retry_at=None)
    assert link.events[-1] == expected
    assert not [event for event in link.events if isinstance(event, AllocationRedirected)]


@pytest.mark.parametrize("there", [OTHER_SERVER, SERVER])
def test_turn_34_a_redirect_to_where_it_was_tried_already_is_a_loop(there: TransportAddress) -> None:
    link = Link(redirect((Attribute.ALTERNATE_SERVER, there)), tried=frozenset({OTHER_SERVER}))
    link.exchange()
    assert link.events[-1] == AllocationFailed(reason="redirect_loop", code=300, retry_at=None)


@pytest.mark.parametrize("attributes", [[], [(Attribute.ALTERNATE_SERVER, TransportAddress("2001:db8::16", 3478))]])
def test_stun_50_a_redirect_that_names_no_server_of_this_family(attributes: list[tuple[int, object]]) -> None:
    link = Link(redirect(*attributes))
    link.exchange()
    assert link.events[-1] == AllocationFailed(reason="redirect_malformed", code=300, retry_at=None)


# Racing


def test_turn_33_a_race_allocates_only_where_it_is_told_to() -> None:
    first, second = Link(hold=True), Link(hold=True)
    for link in (first, second):
        link.exchange()
        link.advance(2)
        assert link.events == [ServerChallenged(0.0)]
        assert link.server.allocated_until is None
    first.allocation.proceed(now=first.now)
    first.allocate()
    second.close()
    assert second.events[1:] == [AllocationReleased(confirmed=False)]
    assert methods(first) == ["ALLOCATE", "ALLOCATE"]
    assert methods(second) == ["ALLOCATE"]


def test_turn_33_proceeding_before_the_server_answered() -> None:
    link = Link(hold=True)
    link.allocation.proceed(now=link.now)
    link.allocate()


# Keeping the NAT's binding


def test_an_idle_allocation_keeps_the_binding_over_udp() -> None:
    link = Link().allocate()
    link.advance(100)
    kept = [(at - 1000, decode(data)) for at, data in link.sent[2:]]
    assert [at for at, _ in kept] == [25, 50, 75, 100]
    assert {(message.method, message.message_class) for _, message in kept} == {
        (Method.BINDING, MessageClass.INDICATION)
    }


def test_an_allocation_in_use_sends_nothing_to_keep_the_binding() -> None:
    link = Link().allocate()
    for _ in range(12):
        link.send(PEER, b"consent")
        link.advance(5)
    assert len(link.sent) == 2 + 1 + 12


def test_a_stream_needs_nothing_to_keep_its_binding() -> None:
    link = Link(stream=True).allocate()
    link.advance(500)
    assert len(link.sent) == 2


def test_entropy_is_the_only_chance() -> None:
    def first(seed: int) -> bytes | None:
        arguments: dict[str, Any] = {"stream": False, "credentials": CREDENTIALS, "family": 4, "now": 0.0}
        return Allocation(SERVER, entropy=Entropy.seeded(seed), **arguments).poll_transmit()

    assert first(1) == first(1) != first(2)
