"""Challenges, forged answers and servers that never have enough (RFC 8489 §9.2.5; hostile cases)."""

from itertools import count

import pytest

from edgeice.stun import (
    Attribute,
    ErrorCode,
    Message,
    MessageClass,
    Method,
    PasswordAlgorithmEntry,
    authenticate,
    decode,
    encode,
)
from edgeice.turn import AllocationFailed, AllocationLost, AllocationState
from tests.support.turn_server import CREDENTIALS, MD5, PEER, SHA256, Link, TurnServer

ALGORITHMS = b"obMatJos2gAAA"


def failure(link: Link) -> tuple[str, int | None]:
    event = link.events[-1]
    assert isinstance(event, AllocationFailed)
    assert link.allocation.is_ended
    return event.reason, event.code


# Bounded retries


def test_stun_41_a_server_that_always_says_401_gets_two_requests() -> None:
    server = TurnServer()
    server.hook = lambda request: [server.challenge(request, 401)]
    link = Link(server)
    link.exchange()
    link.advance(600)
    assert failure(link) == ("unauthorized", 401)
    assert len(link.sent) == 2


def test_stun_41_a_server_that_always_names_another_realm_is_left() -> None:
    server = TurnServer()
    realms = count()

    def another(request: Message) -> list[bytes]:
        server.realm = f"realm-{next(realms)}"
        return [server.challenge(request, 401)]

    server.hook = another
    link = Link(server)
    link.exchange()
    link.advance(600)
    assert failure(link) == ("unauthorized", 401)
    assert len(link.sent) == 4


def test_stun_41_another_realm_is_tried_once() -> None:
    server = TurnServer()
    link = Link(server)
    realms = iter(["old.example.org", "example.org"])

    def moved(request: Message) -> list[bytes] | None:
        realm = next(realms, None)
        if realm is None:
            return None
        server.realm = realm
        return [server.challenge(request, 401)]

    server.hook = moved
    link.allocate()
    told = [request.get(Attribute.REALM) for request in server.requests]
    assert told == [None, "old.example.org", "example.org"]


def test_stun_42_a_server_whose_nonces_never_last_is_left() -> None:
    server = TurnServer()
    nonces = count()

    def rotate(request: Message) -> list[bytes]:
        server.nonce = b"nonce-%d" % next(nonces)
        return [server.challenge(request, 438 if request.has_integrity else 401)]

    server.hook = rotate
    link = Link(server)
    link.exchange()
    link.advance(600)
    assert failure(link) == ("stale_nonce", 438)
    # The first, the one with credentials, and two more.
    assert len(link.sent) == 4


@pytest.mark.parametrize("method", [Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND])
def test_stun_42_every_method_takes_a_new_nonce(method: Method) -> None:
    link = Link().allocate()
    link.server.nonce = b"nonce-2"
    if method == Method.REFRESH:
        link.advance(541)
    elif method == Method.CREATE_PERMISSION:
        link.send(PEER, b"data")
    else:
        link.bind(PEER)
    asked = [request.get(Attribute.NONCE) for request in link.server.requests if request.method == method]
    assert asked == [b"nonce-1", b"nonce-2"]
    assert link.allocation.state is AllocationState.ALLOCATED


def test_stun_42_nonces_that_never_last_end_an_allocation_only_with_its_time() -> None:
    link = Link().allocate()
    nonces = count()

    def rotate(request: Message) -> list[bytes]:
        link.server.nonce = b"n%d" % next(nonces)
        return [link.server.challenge(request, 438)]

    link.server.hook = rotate
    link.advance(700)
    assert link.events[2:] == [AllocationLost("expired")]
    # Three requests in a row, then a pause of 5 s, for the last minute.
    assert link.server.counted()["REFRESH"] == 3 * 12


# Algorithms


@pytest.mark.parametrize("algorithms", [(MD5, SHA256), (SHA256,)])
def test_stun_45_dec_5_sha_256_for_every_request_and_answer(algorithms: tuple[PasswordAlgorithmEntry, ...]) -> None:
    server = TurnServer()
    server.nonce = ALGORITHMS + b"1"
    server.algorithms = algorithms
    link = Link(server).allocate()
    link.send(PEER, b"data")
    link.close()
    for request in server.requests[1:]:
        assert authenticate(request, server.key_of(request), integrity="sha256")
        assert request.get(Attribute.PASSWORD_ALGORITHMS) == algorithms
        assert request.get(Attribute.PASSWORD_ALGORITHM) == SHA256
        assert bytes.fromhex("00080014") not in request.data
    assert server.deleted == 1


def test_stun_27_the_other_form_of_integrity_in_an_answer_is_discarded() -> None:
    server = TurnServer()
    server.nonce = ALGORITHMS + b"1"
    server.algorithms = (SHA256,)

    def other(request: Message) -> list[bytes] | None:
        if not request.has_integrity:
            return None
        return [
            encode(
                request.method,
                MessageClass.ERROR,
                request.transaction_id,
                [(Attribute.ERROR_CODE, ErrorCode(486))],
                key=server.key_of(request),
                integrity="sha1",
            )
        ]

    server.hook = other
    link = Link(server)
    link.exchange()
    link.advance(40)
    assert failure(link) == ("integrity", None)


@pytest.mark.parametrize(
    ("algorithms", "reason"), [((PasswordAlgorithmEntry(7),), "no_password_algorithm"), ((), "no_password_algorithm")]
)
def test_stun_45_no_known_algorithm_ends_it(algorithms: tuple[PasswordAlgorithmEntry, ...], reason: str) -> None:
    server = TurnServer()
    server.nonce = ALGORITHMS + b"1"
    server.algorithms = algorithms
    link = Link(server)
    link.exchange()
    assert failure(link) == (reason, 401)
    assert len(link.sent) == 1


def test_stun_44_host_08_a_challenge_whose_algorithms_were_stripped_ends_it() -> None:
    server = TurnServer()
    server.nonce = ALGORITHMS + b"1"
    link = Link(server)
    link.exchange()
    link.advance(60)
    assert failure(link) == ("bid_down", 401)
    assert len(link.sent) == 1


def test_stun_44_an_answer_whose_algorithms_were_stripped_never_came() -> None:
    server = TurnServer()

    def stripped(request: Message) -> list[bytes] | None:
        if not request.has_integrity:
            return None
        server.hook = lambda _request: None
        return [server.error(request, 486, (Attribute.NONCE, ALGORITHMS + b"1"))]

    server.hook = stripped
    link = Link(server)
    link.exchange()
    assert link.allocation.drops.snapshot() == {"bid_down": 1}
    link.advance(0.5)
    assert link.allocation.state is AllocationState.ALLOCATED


def test_stun_46_the_name_is_hidden_where_the_server_can_take_it() -> None:
    server = TurnServer()
    server.nonce = b"obMatJos2QAAA1"
    server.hook = lambda request: [server.challenge(request, 401)] if not request.has_integrity else []
    link = Link(server)
    link.exchange()
    assert CREDENTIALS.username.encode() not in link.sent[1][1]
    assert decode(link.sent[1][1]).get(Attribute.USERHASH) is not None


# Forged answers


@pytest.mark.parametrize("stream", [False, True])
def test_stun_48_an_unsigned_400_never_came(stream: bool) -> None:
    link = Link(stream=stream).allocate()
    link.server.hook = lambda request: [link.server.unsigned_error(request, 400)]
    link.send(PEER, b"data")
    assert link.allocation.drops.snapshot() == {"unsigned_400": 1}
    link.server.hook = lambda _request: None
    link.advance(0.5)
    assert link.server.relayed_data == ([] if stream else [(PEER, b"data")])
    assert link.allocation.state is AllocationState.ALLOCATED


@pytest.mark.parametrize("code", [300, 403, 437, 441, 486, 500, 508])
def test_host_08_stun_26_forged_errors_are_as_if_they_had_never_come(code: int) -> None:
    link = Link().allocate()

    def forged(request: Message) -> list[bytes]:
        return [
            link.server.unsigned_error(request, code),
            link.server.signed(request, MessageClass.ERROR, [(Attribute.ERROR_CODE, ErrorCode(code))], key=b"wrong"),
        ]

    link.server.hook = forged
    link.advance(541)
    assert link.allocation.drops["stun_unexpected"] == 4
    link.server.hook = lambda _request: None
    link.advance(60)
    assert link.allocation.state is AllocationState.ALLOCATED
    assert link.events[2:] == []


def test_stun_26_over_a_stream_an_answer_that_does_not_verify_ends_the_request_and_no_more() -> None:
    link = Link(stream=True).allocate()
    link.server.hook = lambda request: [link.server.unsigned_error(request, 403)]
    link.advance(596)
    # One in 5 s.
    assert link.server.counted()["REFRESH"] == 12
    assert link.allocation.state is AllocationState.ALLOCATED
    link.advance(5)
    assert link.events[2:] == [AllocationLost("expired")]


def test_stun_08_an_answer_with_something_that_must_be_understood() -> None:
    server = TurnServer()

    def strange(request: Message) -> list[bytes] | None:
        return [server.success(request, [(0x7A01, b"")])] if request.has_integrity else None

    server.hook = strange
    link = Link(server)
    link.exchange()
    assert failure(link) == ("unknown_attributes", None)


def test_stun_12_an_error_without_its_code() -> None:
    server = TurnServer()
    server.hook = lambda request: [encode(request.method, MessageClass.ERROR, request.transaction_id, [])]
    link = Link(server)
    link.exchange()
    assert failure(link) == ("no_error_code", None)


@pytest.mark.parametrize("left_out", [Attribute.REALM, Attribute.NONCE])
def test_challenges_that_cannot_be_answered_end_it(left_out: Attribute) -> None:
    server = TurnServer()
    values = {Attribute.REALM: "example.org", Attribute.NONCE: b"nonce"}
    attributes = [(kind, value) for kind, value in values.items() if kind != left_out]
    server.hook = lambda request: [server.unsigned_error(request, 401, *attributes)]
    link = Link(server)
    link.exchange()
    assert failure(link) == ("challenge_malformed", 401)


def test_an_answer_to_nothing_that_was_asked() -> None:
    link = Link().allocate()
    answer = encode(Method.REFRESH, MessageClass.SUCCESS, bytes(12), [(Attribute.LIFETIME, 0)])
    link.allocation.receive(answer, now=link.now)
    assert link.allocation.drops.snapshot() == {"stun_unexpected": 1}
    assert link.allocation.state is AllocationState.ALLOCATED


def test_the_password_is_in_no_message_and_in_no_text() -> None:
    link = Link(software="edgeice").allocate()
    link.send(PEER, b"data")
    link.close()
    assert not [data for _, data in link.sent if CREDENTIALS.password.encode() in data]
    texts = [repr(link.allocation), repr(link.allocation._requests), repr(link.allocation._requests._long_term)]
    assert not [text for text in [*texts, *map(repr, link.events)] if CREDENTIALS.password in text]
