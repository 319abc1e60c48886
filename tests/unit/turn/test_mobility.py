"""An allocation that moves with its client (RFC 8016 §3), each rule and each way to lose it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeice.stun import (
    Attribute,
    AuthenticatedMessage,
    Message,
    MessageClass,
    Method,
    authenticate,
    decode,
    encode,
    long_term_key,
)
from edgeice.turn import (
    AllocationFailed,
    AllocationLost,
    AllocationMoved,
    AllocationReleased,
    AllocationState,
)
from edgeice.turn.mobility import Mobility
from tests.support.turn_server import CREDENTIALS, OTHER, PEER, Link, TurnServer

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "turn" / "mobility.json").read_text())


def mobile(server: TurnServer | None = None, **options: object) -> Link:
    """An allocation with a ticket."""
    server = server or TurnServer()
    server.mobility = "given"
    return Link(server, **({"mobile": True} | options)).allocate()  # type: ignore[arg-type]  # of Link


def tickets(link: Link) -> list[bytes]:
    """Tickets that the client showed, one for each request."""
    shown = (request.get(Attribute.MOBILITY_TICKET) for request in link.server.requests if request.method == 4)
    return [ticket for ticket in shown if ticket is not None]


def walk(link: Link) -> None:
    """The client has another address now, and says so."""
    link.server.is_here = False
    assert link.allocation.move(now=link.now)
    link.exchange()


def silent(link: Link, method: Method = Method.REFRESH) -> list[Message]:
    """Let the server keep requests of a method to itself: these."""
    held: list[Message] = []

    def hold(request: Message) -> list[bytes] | None:
        if request.method != method:
            return None
        held.append(request)
        return []

    link.server.hook = hold
    return held


def talking(link: Link) -> Link:
    """With a permission for one peer and a channel to another."""
    link.send(PEER, b"one")
    assert link.bind(OTHER)
    link.send(OTHER, b"two")
    return link


# The ticket


def test_rfc8016_3_1_1_an_allocate_asks_for_a_ticket_with_one_of_no_length() -> None:
    link = mobile()
    allocates = [request for request in link.server.requests if request.method == Method.ALLOCATE]
    assert [request.get(Attribute.MOBILITY_TICKET) for request in allocates] == [b"", b""]
    # After the transport: coturn reads no further where it forbids this.
    for request in allocates:
        assert 0 < request.data.index(bytes.fromhex("0019000411000000")) < request.data.index(bytes.fromhex("80300000"))
    assert link.allocation.is_mobile


def test_rfc8016_3_1_1_who_does_not_want_to_move_asks_for_none() -> None:
    server = TurnServer()
    server.mobility = "given"
    link = Link(server).allocate()
    assert not any(Attribute.MOBILITY_TICKET in request for request in server.requests)
    assert not link.allocation.is_mobile
    assert not link.allocation.move(now=link.now)


def test_rfc8016_3_1_4_a_405_is_followed_by_a_request_without() -> None:
    server = TurnServer()
    server.mobility = "forbidden"
    link = Link(server, mobile=True).allocate()
    assert [Attribute.MOBILITY_TICKET in request for request in server.requests] == [True, True, False]
    assert link.allocation.mobility_forbidden
    assert not link.allocation.move(now=link.now)


def test_rfc8016_3_1_4_a_second_405_is_final() -> None:
    server = TurnServer()
    server.errors[Method.ALLOCATE] = deque([405, 405])
    link = Link(server, mobile=True)
    link.exchange()
    assert link.events[-1] == AllocationFailed(reason="refused", code=405, retry_at=None)


def test_rfc8016_3_1_3_without_a_ticket_everything_is_as_before() -> None:
    link = Link(mobile=True).allocate()
    assert not link.allocation.mobility_forbidden
    assert not link.allocation.is_mobile
    assert not link.allocation.move(now=link.now)
    link.advance(541)
    assert tickets(link) == []
    assert link.allocation.state is AllocationState.ALLOCATED


@pytest.mark.parametrize("size", [0, 769])
def test_rfc8016_3_1_3_a_ticket_that_fits_no_request_is_none(size: int) -> None:
    server = TurnServer()
    server._new_ticket = lambda: bytes(size)  # type: ignore[method-assign]  # another size
    assert not mobile(server).allocation.is_mobile


def test_rfc8016_3_1_3_a_ticket_that_nobody_signed_is_none() -> None:
    mobility = Mobility(wanted=True)
    answer = encode(Method.ALLOCATE, MessageClass.SUCCESS, bytes(12), [(Attribute.MOBILITY_TICKET, b"x")])
    mobility.learn(decode(answer))
    assert not mobility.has_ticket


def test_rfc8016_3_2_1_without_another_address_no_ticket_is_shown() -> None:
    link = mobile()
    link.advance(1200)
    assert link.server.counted()["REFRESH"] == 2
    link.close()
    assert tickets(link) == []
    assert link.server.deleted == 1


# The move


@pytest.mark.parametrize("stream", [False, True])
def test_rfc8016_3_2_1_a_move_is_one_request_and_keeps_everything(stream: bool) -> None:
    link = talking(mobile(stream=stream))
    before = len(link.server.requests)
    walk(link)
    assert tickets(link) == [b"ticket 0"]
    assert link.events[2:] == [AllocationMoved(0.0)]
    (number,) = link.server.channels
    link.server.relayed_data.clear()
    link.send(PEER, b"three")
    link.send(OTHER, b"four")
    link.from_peer(PEER, b"five")
    link.from_peer(OTHER, b"six", channel=number)
    assert link.server.relayed_data == [(PEER, b"three"), (OTHER, b"four")]
    assert link.received == [(PEER, b"five"), (OTHER, b"six")]
    # One Refresh, and no permission or channel asked for again.
    assert [request.method for request in link.server.requests[before:]] == [Method.REFRESH]


def test_rfc8016_3_2_1_data_does_not_wait_for_the_answer() -> None:
    link = talking(mobile())
    silent(link)
    walk(link)
    link.server.is_here = True  # it has the request, and its answer is under way
    link.server.relayed_data.clear()
    link.send(PEER, b"at once")
    link.send(OTHER, b"too")
    assert link.server.relayed_data == [(PEER, b"at once"), (OTHER, b"too")]
    assert link.events[2:] == []


def test_rfc8016_3_2_1_over_a_stream_data_waits_for_the_answer() -> None:
    link = talking(mobile(stream=True))
    held = silent(link)
    walk(link)
    link.server.relayed_data.clear()
    link.send(PEER, b"waits")
    assert link.server.relayed_data == []
    link.server.hook = lambda _request: None
    for answer in link.server.receive(held[0].data, link.now):
        link.allocation.receive(answer, now=link.now)
    link.exchange()
    assert link.server.relayed_data == [(PEER, b"waits")]


def test_rfc8016_3_2_1_a_stale_nonce_costs_one_round_trip_more() -> None:
    link = mobile()
    link.server.nonce = b"nonce-2"
    before = len(link.server.requests)
    walk(link)
    assert link.server.counted()["REFRESH"] == len(link.server.requests) - before == 2
    assert link.events[2:] == [AllocationMoved(0.0)]


def test_rfc8016_3_2_2_something_is_sent_from_the_new_address_at_once() -> None:
    # The server goes on sending to the old one until then, and who only listens would hear nothing more.
    link = mobile()
    before = len(link.sent)
    walk(link)
    kinds = [decode(data) for _, data in link.sent[before:]]
    assert [(kind.method, kind.message_class) for kind in kinds] == [
        (Method.REFRESH, MessageClass.REQUEST),
        (Method.BINDING, MessageClass.INDICATION),
    ]


def test_rfc8016_3_2_3_each_ticket_is_shown_once_and_the_newest_only() -> None:
    link = mobile()
    for _ in range(4):
        walk(link)
    assert tickets(link) == [b"ticket 0", b"ticket 1", b"ticket 2", b"ticket 3"]
    assert link.events[2:] == [AllocationMoved(0.0)] * 4


def test_rfc8016_3_2_3_a_ticket_in_the_answer_to_a_plain_refresh_replaces_the_one_before() -> None:
    link = mobile()

    def renew(request: Message) -> list[bytes] | None:
        if request.method != Method.REFRESH:
            return None
        link.server.hook = lambda _request: None
        ticket = (Attribute.MOBILITY_TICKET, link.server._new_ticket())
        return [link.server.success(request, [(Attribute.LIFETIME, 600), ticket])]

    link.server.hook = renew
    link.advance(541)
    walk(link)
    assert tickets(link) == [b"ticket 1"]


def test_rfc8016_3_2_3_without_a_new_ticket_the_old_one_is_spent() -> None:
    link = mobile()
    link.server.is_here = False
    link.server.hook = lambda request: [link.server.success(request, [(Attribute.LIFETIME, 600)])]
    assert link.allocation.move(now=link.now)
    link.exchange()
    assert link.events[2:] == [AllocationMoved(0.0)]
    assert not link.allocation.is_mobile
    assert not link.allocation.move(now=link.now)


def test_rfc8016_3_2_3_the_lifetime_counts_from_the_request_that_moved_it() -> None:
    link = mobile()
    link.advance(500)
    walk(link)
    link.advance(539)
    assert link.server.counted()["REFRESH"] == 1
    link.advance(2)
    assert link.server.counted()["REFRESH"] == 2
    assert tickets(link) == [b"ticket 0"]


# Refusals


@pytest.mark.parametrize("code", [403, 404, 405, 437, 441])
def test_rfc8016_3_2_4_a_move_that_the_server_refuses_loses_the_allocation(code: int) -> None:
    link = mobile()
    link.server.errors[Method.REFRESH] = deque([code])
    walk(link)
    assert link.events[2:] == [AllocationLost("move_refused", code)]
    assert link.allocation.next_timeout() is None


@pytest.mark.parametrize(("errors", "event"), [(1, AllocationMoved(0.0)), (9, AllocationLost("move_timeout"))])
def test_rfc8016_3_2_4_a_server_in_trouble_is_asked_again(errors: int, event: object) -> None:
    link = mobile()
    link.server.errors[Method.REFRESH] = deque([500] * errors)
    walk(link)
    link.advance(8)
    assert link.events[2:] == [event]


def test_rfc8016_3_2_4_a_server_that_is_silent_has_eight_seconds() -> None:
    link = mobile()
    silent(link)
    walk(link)
    link.advance(7.9)
    assert link.events[2:] == []
    link.advance(0.2)
    assert link.events[2:] == [AllocationLost("move_timeout")]


def test_rfc8016_3_2_2_a_400_says_that_it_is_here_already() -> None:
    # The answer to a move was lost, and the server knows no repetitions.
    link = talking(mobile())
    held = silent(link)
    walk(link)
    link.server.receive(held[0].data, link.now)
    link.server._move(held[0], link.now)
    link.server.hook = lambda _request: None
    link.advance(1)
    assert link.events[2:] == []
    assert link.server.counted()["CREATE_PERMISSION"] == 2  # it is asked whether that is true
    link.send(PEER, b"goes on")
    link.advance(600)
    assert link.allocation.state is AllocationState.ALLOCATED


def test_rfc8016_3_2_2_a_400_that_is_not_true_ends_it() -> None:
    link = talking(mobile())
    link.server.errors[Method.REFRESH] = deque([400])
    walk(link)
    assert link.events[2:] == [AllocationLost("mismatch", 437)]
    assert tickets(link) == [b"ticket 0"]


# Who is not the server


def unsigned(link: Link, code: int) -> Callable[[Message], list[bytes] | None]:
    return lambda request: (
        [link.server.unsigned_error(request, code)] if Attribute.MOBILITY_TICKET in request and code else None
    )


@pytest.mark.parametrize("code", [400, 404, 405, 437, 441, 486, 500])
def test_rfc8016_5_a_forged_refusal_changes_nothing(code: int) -> None:
    link = mobile()
    held = silent(link)
    walk(link)
    link.advance(0.03)
    link.allocation.receive(link.server.unsigned_error(held[0], code), now=link.now)
    link.advance(0.02)
    for answer in link.server.receive(held[0].data, link.now):
        raise AssertionError(answer)
    link.server.hook = lambda _request: None
    for answer in link.server.receive(held[0].data, link.now):
        link.allocation.receive(answer, now=link.now)
    link.exchange()
    (moved,) = link.events[2:]
    assert isinstance(moved, AllocationMoved)
    assert moved.rtt == pytest.approx(0.05)
    link.advance(500)
    assert link.allocation.state is AllocationState.ALLOCATED


@pytest.mark.parametrize("code", [404, 437, 441])
def test_rfc8016_3_2_4_a_refusal_that_nobody_signs_counts_if_nothing_better_comes(code: int) -> None:
    link = mobile()
    held = silent(link)
    walk(link)
    link.advance(0.2)
    link.allocation.receive(link.server.unsigned_error(held[0], code), now=link.now)
    link.advance(0.19)
    assert link.events[2:] == []
    link.advance(0.02)
    assert link.events[2:] == [AllocationLost("move_refused")]


def test_rfc8016_5_who_is_nearer_than_the_server_does_not_forestall_it() -> None:
    server = TurnServer()
    server.mobility = "given"
    link = Link(server, mobile=True)
    held = silent(link, Method.ALLOCATE)
    link.exchange()
    for _ in range(2):
        link.advance(0.3)
        server.hook = lambda _request: None
        answers = server.receive(held[-1].data, link.now)
        held = silent(link, Method.ALLOCATE)
        for answer in answers:
            link.allocation.receive(answer, now=link.now)
        link.exchange()
    held = silent(link)
    walk(link)
    link.allocation.receive(server.unsigned_error(held[0], 437), now=link.now)
    link.advance(0.89)
    assert not [event for event in link.events if isinstance(event, AllocationLost)]
    link.advance(0.02)
    assert link.events[-1] == AllocationLost("move_refused")


def test_rfc8016_5_a_forged_success_changes_nothing() -> None:
    link = mobile()
    held = silent(link)
    walk(link)
    attributes: list[tuple[int, object]] = [(Attribute.LIFETIME, 1), (Attribute.MOBILITY_TICKET, b"theirs")]
    for key in (b"guessed", None):
        forged = encode(Method.REFRESH, MessageClass.SUCCESS, held[0].transaction_id, attributes, key=key)
        link.allocation.receive(forged, now=link.now)
    link.collect()
    assert link.events[2:] == []
    link.server.hook = lambda _request: None
    link.advance(1)
    walk(link)
    assert tickets(link)[-1] == b"ticket 1"


def test_rfc8016_5_the_ticket_is_never_shown() -> None:
    server = TurnServer()
    server._new_ticket = lambda: server.tickets.append(b"cleartext") or b"cleartext"  # type: ignore[func-returns-value,method-assign]
    link = mobile(server)
    silent(link)
    walk(link)
    allocation = link.allocation
    seen = [repr(link.events), repr(vars(allocation)), repr(allocation._requests._requests), repr(allocation._upkeep)]
    assert not [text for text in seen if "cleartext" in text]


# What happens at the same time


def test_rfc8016_a_refresh_that_went_the_old_way_is_given_up() -> None:
    link = mobile()
    held = silent(link)
    link.advance(541)
    assert len(held) == 2  # the Refresh and its repetition
    link.server.hook = lambda _request: None
    walk(link)
    assert link.events[2:] == [AllocationMoved(0.0)]
    # Its answer comes the old way, late.
    link.allocation.receive(link.server.success(held[0], [(Attribute.LIFETIME, 1)]), now=link.now)
    link.collect()
    link.advance(100)
    assert link.allocation.state is AllocationState.ALLOCATED
    assert tickets(link) == [b"ticket 0"]


def test_rfc8016_requests_that_went_the_old_way_are_asked_again_after_the_move() -> None:
    link = mobile()
    silent(link, Method.CREATE_PERMISSION)
    link.send(PEER, b"waits")
    held = silent(link)
    walk(link)
    assert [request.method for request in link.server.requests[-2:]] == [Method.CREATE_PERMISSION, Method.REFRESH]
    link.send(OTHER, b"waits too")
    link.advance(0.4)
    link.server.hook = lambda _request: None
    for answer in link.server.receive(held[0].data, link.now):
        link.allocation.receive(answer, now=link.now)
    link.exchange()
    assert link.server.relayed_data == [(PEER, b"waits"), (OTHER, b"waits too")]


def test_rfc8016_another_move_before_the_answer_shows_the_same_ticket() -> None:
    link = mobile()
    held = silent(link)
    walk(link)
    link.server.hook = lambda _request: None
    walk(link)
    assert tickets(link) == [b"ticket 0", b"ticket 0"]
    assert link.events[2:] == [AllocationMoved(0.0)]
    # The first one's answer comes where nobody asked any more.
    link.allocation.receive(link.server.success(held[0], [(Attribute.LIFETIME, 1)]), now=link.now)
    walk(link)
    assert tickets(link)[2:] == [b"ticket 1"]


def test_rfc8016_the_allocation_ends_in_the_middle_of_a_move() -> None:
    link = mobile()
    silent(link)
    link.advance(595)
    walk(link)
    link.advance(5)
    assert link.events[2:] == [AllocationLost("expired")]


def test_rfc8016_closing_in_the_middle_of_a_move_gives_it_back() -> None:
    link = mobile()
    held = silent(link)
    walk(link)
    link.server.hook = lambda _request: None
    assert len(held) == 1
    link.close()
    assert link.server.requests[-1].get(Attribute.MOBILITY_TICKET) == b"ticket 0"
    assert link.server.requests[-1].get(Attribute.LIFETIME) == 0
    assert link.server.deleted == 1
    assert link.events[2:] == [AllocationReleased(confirmed=True)]


def test_rfc8016_closing_after_a_move_shows_no_ticket() -> None:
    link = mobile()
    walk(link)
    link.close()
    assert tickets(link) == [b"ticket 0"]
    assert link.server.deleted == 1


# The NAT's binding, and the server that forgot


@pytest.mark.parametrize("code", [400, 437])
def test_rfc8016_another_binding_of_the_nat_is_found_out_and_moved_to(code: int) -> None:
    link = talking(mobile())
    link.server.is_here = False
    link.server.errors[Method.CREATE_PERMISSION] = deque([code])
    link.allocation.confirm(now=link.now)
    link.exchange()
    assert tickets(link) == [b"ticket 0"]
    assert link.events[2:] == [AllocationMoved(0.0)]
    link.send(PEER, b"on")
    assert link.server.relayed_data[-1] == (PEER, b"on")


def test_rfc8016_what_stands_is_confirmed_by_one_request() -> None:
    link = talking(mobile())
    link.advance(100)
    before = len(link.server.requests)
    link.allocation.confirm(now=link.now)
    link.allocation.confirm(now=link.now)
    link.exchange()
    assert [request.method for request in link.server.requests[before:]] == [Method.CREATE_PERMISSION]
    assert tickets(link) == []


@pytest.mark.parametrize("permitted", [False, True])
def test_rfc8016_a_server_that_was_started_again_knows_no_ticket(permitted: bool) -> None:
    link = mobile()
    if permitted:
        talking(link)
    link.server.allocated_until = None
    link.server.nonce = b"nonce-2"
    link.allocation.confirm(now=link.now)
    link.exchange()
    assert link.events[-1] == AllocationLost("move_refused", 437)
    # The question, its repetition with the new nonce, and the ticket.
    assert len(tickets(link)) == 1
    assert len(link.server.requests) == 2 + (3 if not permitted else 2 + 3)


def test_rfc8016_without_a_ticket_a_server_that_was_started_again_ends_it_at_once() -> None:
    link = talking(Link().allocate())
    link.server.allocated_until = None
    link.allocation.confirm(now=link.now)
    link.exchange()
    assert link.events[-1] == AllocationLost("mismatch", 437)


def test_rfc8016_what_was_moved_and_is_not_there_is_not_moved_again() -> None:
    link = talking(mobile())
    walk(link)
    link.server.is_here = False
    link.allocation.confirm(now=link.now)
    link.exchange()
    assert link.events[3:] == [AllocationLost("mismatch", 437)]
    assert tickets(link) == [b"ticket 0"]


@pytest.mark.parametrize("stream", [False, True])
def test_rfc8016_a_refresh_that_nobody_signs_the_refusal_of_is_put_to_the_proof(stream: bool) -> None:
    # As coturn does with --mobility.
    link = talking(mobile(stream=stream))
    link.server.is_here = False

    def refuse(request: Message) -> list[bytes] | None:
        if request.method != Method.REFRESH or Attribute.MOBILITY_TICKET in request:
            return None
        return [link.server.unsigned_error(request, 437)]

    link.server.hook = refuse
    for _ in range(55):
        link.send(PEER, b"in use")
        link.advance(10)
    assert AllocationMoved(0.0) in link.events
    assert link.allocation.state is AllocationState.ALLOCATED
    assert tickets(link) == [b"ticket 0"]


def test_rfc8016_a_forged_refusal_of_a_refresh_moves_nothing() -> None:
    link = talking(mobile())
    held = silent(link)
    for _ in range(55):
        link.send(PEER, b"in use")
        link.advance(10)
    link.server.hook = lambda _request: None
    link.allocation.receive(link.server.unsigned_error(held[0], 437), now=link.now)
    link.advance(1)
    assert tickets(link) == []
    assert link.events[2:] == []


# What coturn says


def test_rfc8016_the_answers_of_coturn() -> None:
    key = long_term_key(VECTORS["username"], VECTORS["realm"], VECTORS["password"])
    for exchange in VECTORS["exchanges"]:
        request, response = (decode(bytes.fromhex(exchange[each])) for each in ("request", "response"))
        assert isinstance(authenticate(request, key), AuthenticatedMessage)
        if "ticket" in exchange:
            assert authenticate(response, key).get(Attribute.MOBILITY_TICKET) == exchange["ticket"].encode()
        else:
            error = response.get(Attribute.ERROR_CODE)
            assert error is not None
            assert (error.code, response.has_integrity) == (exchange["code"], False)
    allocate, move, spent = VECTORS["exchanges"]
    assert decode(bytes.fromhex(allocate["request"])).get(Attribute.MOBILITY_TICKET) == b""
    for exchange in (move, spent):
        shown = decode(bytes.fromhex(exchange["request"])).get(Attribute.MOBILITY_TICKET)
        assert shown == allocate["ticket"].encode()


def test_rfc8016_an_answer_that_coturn_garbles_is_asked_for_again_at_once_and_once() -> None:
    link = mobile()
    garbled = bytes.fromhex(VECTORS["garbled"]["answer"])
    asked = 0

    def garble(request: Message) -> list[bytes] | None:
        nonlocal asked
        if Attribute.MOBILITY_TICKET not in request:
            return None
        asked += 1
        return [garbled] if asked == 1 else None

    link.server.hook = garble
    walk(link)
    assert tickets(link) == [b"ticket 0", b"ticket 0"]
    assert link.events[2:] == [AllocationMoved(0.0)]
    for _ in range(10):
        link.allocation.receive(garbled, now=link.now)
    link.exchange()
    assert len(tickets(link)) == 2


def test_rfc8016_what_nobody_can_read_asks_for_one_repetition_at_most() -> None:
    link = mobile()
    silent(link)
    walk(link)
    for _ in range(10):
        link.allocation.receive(b"\x50garbage", now=link.now)
        link.allocation.receive(b"\x01\x04", now=link.now)
        link.exchange()
    assert len(tickets(link)) == 2


def test_rfc8016_over_a_stream_a_garbled_answer_ends_it() -> None:
    link = mobile(stream=True)
    silent(link)
    walk(link)
    link.allocation.receive(bytes.fromhex(VECTORS["garbled"]["answer"]), now=link.now)
    link.exchange()
    assert link.events[2:] == [AllocationLost("framing")]


def test_rfc8016_a_message_that_the_old_flow_cut_short_does_not_spoil_the_new_one() -> None:
    link = mobile(stream=True)
    link.allocation.receive(b"\x40\x00\x00\x10part", now=link.now)
    walk(link)
    assert link.events[2:] == [AllocationMoved(0.0)]


def test_rfc8016_the_credentials_stay_those_of_the_allocation() -> None:
    link = mobile()
    link.server.users["dev-8"] = "west"
    walk(link)
    assert link.server.requests[-1].get(Attribute.USERNAME) == CREDENTIALS.username
