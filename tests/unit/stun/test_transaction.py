"""Retransmission, and what counts as an answer (RFC 8489 §6.2, §6.3.3, §6.3.4, §9.1.4, §9.2.5)."""

from collections.abc import Sequence
from typing import Any

import pytest

from edgeice.addresses import TransportAddress
from edgeice.errors import LocalProtocolError
from edgeice.sansio import Entropy
from edgeice.stun import (
    SERVER_ERROR_RETRIES,
    Attribute,
    AuthenticatedMessage,
    Due,
    ErrorCode,
    FailureReason,
    Message,
    MessageClass,
    Method,
    RetransmissionPolicy,
    RtoCache,
    Transaction,
    TransactionFailed,
    TransactionRejected,
    TransactionSucceeded,
    TransactionTable,
    TransactionTimers,
    decode,
    encode,
    new_transaction_id,
)
from tests.support.stun_wire import KEY, TID

MAPPED = TransportAddress("192.0.2.1", 32853)
POLICY = RetransmissionPolicy()
REQUEST = encode(Method.BINDING, MessageClass.REQUEST, TID, [(Attribute.USERNAME, "a:b")], key=KEY)


def response(
    message_class: MessageClass = MessageClass.SUCCESS,
    attributes: Sequence[tuple[int, object]] = ((Attribute.XOR_MAPPED_ADDRESS, MAPPED),),
    *,
    method: Method = Method.BINDING,
    transaction_id: bytes = TID,
    **options: Any,
) -> Message:
    return decode(encode(method, message_class, transaction_id, attributes, **{"key": KEY, **options}))


def error(code: int, **options: Any) -> Message:
    return response(MessageClass.ERROR, [(Attribute.ERROR_CODE, ErrorCode(code))], **options)


def transaction(**options: Any) -> Transaction:
    return Transaction(REQUEST, **{"now": 100.0, "policy": POLICY, "key": KEY, **options})


def run(timers: TransactionTimers) -> list[tuple[float, Due]]:
    """Everything that happens when the deadlines are met."""
    happened = []
    while (at := timers.next_timeout()) is not None:
        assert timers.handle_timeout(now=at - 0.001) is None
        due = timers.handle_timeout(now=at)
        assert due is not None
        happened.append((at, due))
    assert timers.handle_timeout(now=1e9) is None
    return happened


def test_stun_03_transaction_ids_are_fresh_and_from_the_entropy() -> None:
    entropy = Entropy.seeded(7)
    ids = {new_transaction_id(entropy) for _ in range(100_000)}
    assert len(ids) == 100_000
    assert {len(transaction_id) for transaction_id in ids} == {12}
    assert new_transaction_id(Entropy(token_bytes=lambda size: b"\x5a" * size)) == b"\x5a" * 12


def test_stun_03_retransmissions_are_the_same_bytes() -> None:
    t = transaction()
    sent = [t.poll_transmit()]
    while (at := t.next_timeout()) is not None:
        t.handle_timeout(now=at)
        if (again := t.poll_transmit()) is not None:
            sent.append(again)
            assert t.poll_transmit() is None
    assert sent == [REQUEST] * 7


def test_stun_30_the_default_schedule() -> None:
    happened = run(TransactionTimers(now=0.0, policy=POLICY))
    assert [at for at, due in happened if due is Due.RETRANSMIT] == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert happened[-1] == (39.5, Due.TIMED_OUT)
    assert len(happened) == 7
    assert POLICY.duration == 39.5


@pytest.mark.parametrize(
    ("policy", "times"),
    [
        (RetransmissionPolicy(rto=1.0, rc=3, rm=4), [1.0, 3.0, 7.0]),
        (RetransmissionPolicy(rto=0.25, rc=1), [4.0]),
        (RetransmissionPolicy(rto=0.5, rc=2, rm=1), [0.5, 1.0]),
    ],
)
def test_stun_30_rto_rc_and_rm_are_configurable(policy: RetransmissionPolicy, times: list[float]) -> None:
    assert [at for at, _ in run(TransactionTimers(now=0.0, policy=policy))] == times
    assert policy.duration == times[-1]


@pytest.mark.parametrize("numbers", [{"rto": 0}, {"rto": -1}, {"rc": 0}, {"rm": 0}])
def test_stun_30_numbers_without_sense_are_refused(numbers: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        RetransmissionPolicy(**numbers)  # type: ignore[arg-type]  # rc comes as a float type here


def test_stun_30_a_host_that_slept_sends_once() -> None:
    timers = TransactionTimers(now=0.0, policy=POLICY)
    assert timers.handle_timeout(now=20.0) is Due.RETRANSMIT
    assert timers.handle_timeout(now=20.0) is None
    assert timers.next_timeout() == 21.0
    assert timers.sent == 2


@pytest.mark.parametrize("already_sent", range(1, 8))
def test_silence_keeps_the_end_where_it_was(already_sent: int) -> None:
    timers = TransactionTimers(now=0.0, policy=POLICY)
    while timers.sent < already_sent:
        timers.handle_timeout(now=timers.next_timeout() or 0.0)
    timers.stop_retransmitting()
    timers.stop_retransmitting()
    assert run(timers) == [(39.5, Due.TIMED_OUT)]
    timers.stop_retransmitting()
    assert timers.next_timeout() is None


def test_cancel_ends_the_schedule() -> None:
    timers = TransactionTimers(now=0.0, policy=POLICY)
    timers.cancel()
    assert run(timers) == []


def test_stun_30_timeout() -> None:
    t = transaction()
    while (at := t.next_timeout()) is not None:
        assert t.outcome is None
        t.handle_timeout(now=at)
    assert at is None
    assert t.outcome == TransactionFailed(TID, FailureReason.TIMEOUT)
    assert not t.receive(response(), now=200.0)


def test_a_success_is_authenticated_and_timed() -> None:
    t = transaction()
    assert t.poll_transmit() == REQUEST
    assert t.receive(response(), now=100.25)
    assert isinstance(t.outcome, TransactionSucceeded)
    assert isinstance(t.outcome.response, AuthenticatedMessage)
    assert t.outcome.response.get(Attribute.XOR_MAPPED_ADDRESS) == MAPPED
    assert t.outcome.rtt == 0.25
    assert t.next_timeout() is None
    assert t.poll_transmit() is None
    t.transport_failed()
    assert isinstance(t.outcome, TransactionSucceeded)


@pytest.mark.parametrize("ending", [response(), error(400)])
def test_stun_31_a_retransmitted_request_gives_no_round_trip(ending: Message) -> None:
    t = transaction()
    t.handle_timeout(now=100.5)
    assert t.receive(ending, now=100.6)
    assert isinstance(t.outcome, TransactionSucceeded | TransactionRejected)
    assert t.outcome.rtt is None


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(response(transaction_id=bytes(12)), id="other transaction"),
        pytest.param(response(method=Method.ALLOCATE), id="other method"),
        pytest.param(response(MessageClass.REQUEST), id="request"),
        pytest.param(response(MessageClass.INDICATION), id="indication"),
    ],
)
def test_stun_06_what_answers_something_else_changes_nothing(other: Message) -> None:
    t = transaction()
    assert not t.receive(other, now=100.1)
    assert t.outcome is None
    assert t.receive(response(), now=100.1)


UNKNOWN = [(0x7A01, b""), (Attribute.XOR_MAPPED_ADDRESS, MAPPED), (Attribute.ERROR_CODE, ErrorCode(400))]


@pytest.mark.parametrize("message_class", [MessageClass.SUCCESS, MessageClass.ERROR])
def test_stun_08_unknown_required_attributes_in_a_response_fail(message_class: MessageClass) -> None:
    t = transaction()
    assert t.receive(response(message_class, UNKNOWN), now=100.1)
    assert t.outcome == TransactionFailed(TID, FailureReason.UNKNOWN_ATTRIBUTES)


def test_stun_06_authentication_comes_before_unknown_attributes() -> None:
    t = transaction()
    assert not t.receive(response(MessageClass.SUCCESS, UNKNOWN, key=b"forged"), now=100.1)
    assert t.outcome is None


def test_stun_12_an_error_without_code_fails() -> None:
    t = transaction()
    assert t.receive(response(MessageClass.ERROR, []), now=100.1)
    assert t.outcome == TransactionFailed(TID, FailureReason.NO_ERROR_CODE)


FORGED = [
    pytest.param(response(key=b"forged"), id="wrong"),
    pytest.param(response(key=None), id="absent"),
    pytest.param(error(401, key=None), id="401"),
    pytest.param(error(487, key=None), id="487"),
    pytest.param(response(integrity="sha256"), id="other form"),
]


@pytest.mark.parametrize("forged", FORGED)
def test_stun_26_forged_then_true_success(forged: Message) -> None:
    t = transaction()
    assert not t.receive(forged, now=100.1)
    t.handle_timeout(now=100.5)
    assert t.poll_transmit() == REQUEST
    assert t.receive(response(), now=100.6)
    assert isinstance(t.outcome, TransactionSucceeded)


@pytest.mark.parametrize("forged", FORGED)
def test_stun_26_only_forged_responses_end_as_integrity(forged: Message) -> None:
    t = transaction()
    assert not t.receive(forged, now=100.1)
    while (at := t.next_timeout()) is not None:
        t.handle_timeout(now=at)
    assert t.outcome == TransactionFailed(TID, FailureReason.INTEGRITY)


@pytest.mark.parametrize("forged", FORGED)
def test_stun_26_over_a_connection_a_forged_response_ends_at_once(forged: Message) -> None:
    t = transaction(policy=RetransmissionPolicy.reliable(), reliable=True)
    assert t.receive(forged, now=100.1)
    assert t.outcome == TransactionFailed(TID, FailureReason.INTEGRITY)
    assert t.next_timeout() is None


def test_stun_27_the_form_of_the_request_is_the_form_of_the_response() -> None:
    request = encode(Method.BINDING, MessageClass.REQUEST, TID, [], key=KEY, integrity="sha256")
    t = Transaction(request, now=0.0, policy=POLICY, key=KEY, integrity="sha256")
    assert not t.receive(response(), now=0.1)
    assert t.receive(response(integrity="sha256"), now=0.2)
    assert isinstance(t.outcome, TransactionSucceeded)


def test_without_a_key_nothing_is_verified() -> None:
    t = transaction(key=None)
    assert t.receive(response(key=None), now=100.1)
    assert isinstance(t.outcome, TransactionSucceeded)
    assert isinstance(t.outcome.response, Message)


@pytest.mark.parametrize("code", [401, 438])
def test_stun_41_challenges_need_no_integrity_with_long_term_credentials(code: int) -> None:
    t = transaction(long_term=True)
    assert t.receive(error(code, key=None), now=100.1)
    assert isinstance(t.outcome, TransactionRejected)
    assert isinstance(t.outcome.response, Message)
    assert t.outcome.error.code == code


@pytest.mark.parametrize(
    "unsigned",
    [
        error(400, key=None),
        error(300, key=None),
        response(key=None),
        response(MessageClass.ERROR, [], key=None),
        response(MessageClass.SUCCESS, [(Attribute.ERROR_CODE, ErrorCode(401))], key=None),
    ],
)
def test_stun_48_other_unsigned_responses_are_discarded_with_long_term_credentials(unsigned: Message) -> None:
    t = transaction(long_term=True)
    assert not t.receive(unsigned, now=100.1)
    assert t.outcome is None


def test_a_challenge_with_wrong_integrity_is_discarded() -> None:
    t = transaction(long_term=True)
    assert not t.receive(error(401, key=b"forged"), now=100.1)
    assert t.outcome is None


def test_stun_32_a_hard_icmp_error_fails_the_transaction() -> None:
    t = transaction()
    t.transport_failed()
    assert t.outcome == TransactionFailed(TID, FailureReason.TRANSPORT)
    assert t.poll_transmit() is None


def test_stun_33_over_a_connection_nothing_is_sent_again() -> None:
    t = transaction(policy=RetransmissionPolicy.reliable(), reliable=True)
    assert t.poll_transmit() == REQUEST
    assert t.next_timeout() == 139.5
    t.handle_timeout(now=139.499)
    assert t.next_timeout() == 139.5
    t.handle_timeout(now=139.5)
    assert t.poll_transmit() is None
    assert t.outcome == TransactionFailed(TID, FailureReason.TIMEOUT)
    assert RetransmissionPolicy.reliable(5.0).duration == 5.0


@pytest.mark.parametrize(
    ("code", "may_retry"),
    [(300, False), (399, False), (400, False), (487, False), (500, True), (599, True), (600, False)],
)
def test_stun_36_only_server_errors_may_be_retried(code: int, *, may_retry: bool) -> None:
    t = transaction()
    assert t.receive(error(code), now=100.1)
    assert isinstance(t.outcome, TransactionRejected)
    assert t.outcome.error == (code, "")
    assert t.outcome.may_retry == may_retry
    assert SERVER_ERROR_RETRIES == 4


@pytest.mark.parametrize("data", [b"", b"garbage", encode(Method.BINDING, MessageClass.INDICATION, TID, [])])
def test_only_a_request_opens_a_transaction(data: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        Transaction(data, now=0.0, policy=POLICY)


def opened(n: int, now: float = 0.0) -> Transaction:
    request = encode(Method.BINDING, MessageClass.REQUEST, bytes([n] * 12), [])
    return Transaction(request, now=now, policy=POLICY)


def answer(n: int) -> Message:
    return response(transaction_id=bytes([n] * 12), key=None)


def test_stun_34_at_most_ten_transactions_with_a_server() -> None:
    table = TransactionTable()
    for n in range(10):
        assert not table.is_full
        table.add(opened(n))
    with pytest.raises(LocalProtocolError):
        table.add(opened(10))
    assert table.receive(answer(3), now=0.1)
    with pytest.raises(LocalProtocolError):
        table.add(opened(10))
    outcome = table.poll_outcome()
    assert isinstance(outcome, TransactionSucceeded)
    assert outcome.transaction_id == bytes([3] * 12)
    assert not table.is_full
    table.add(opened(10))
    assert len(table) == 10


def test_a_transaction_id_is_used_once() -> None:
    table = TransactionTable()
    table.add(opened(1))
    with pytest.raises(LocalProtocolError):
        table.add(opened(1))


def test_a_table_routes_responses_and_repeats_requests() -> None:
    table = TransactionTable()
    assert table.next_timeout() is None
    table.add(opened(1))
    table.add(opened(2, now=0.2))
    assert [table.poll_transmit(), table.poll_transmit(), table.poll_transmit()] == [
        opened(1).request,
        opened(2).request,
        None,
    ]
    assert table.next_timeout() == 0.5
    table.handle_timeout(now=0.5)
    assert [table.poll_transmit(), table.poll_transmit()] == [opened(1).request, None]
    assert table.next_timeout() == 0.7
    assert not table.receive(answer(3), now=0.6)
    assert table.receive(answer(1), now=0.6)
    assert not table.receive(answer(1), now=0.6)
    while (at := table.next_timeout()) is not None:
        table.handle_timeout(now=at)
    outcomes = [table.poll_outcome(), table.poll_outcome(), table.poll_outcome()]
    assert isinstance(outcomes[0], TransactionSucceeded)
    assert outcomes[1:] == [TransactionFailed(bytes([2] * 12), FailureReason.TIMEOUT), None]


def test_stun_33_a_reset_fails_all_open_transactions() -> None:
    table = TransactionTable()
    for n in range(3):
        table.add(opened(n))
    table.transport_failed()
    failures = [TransactionFailed(bytes([n] * 12), FailureReason.TRANSPORT) for n in range(3)]
    assert [table.poll_outcome() for _ in range(4)] == [*failures, None]
    assert table.poll_transmit() is None
    assert len(table) == 0


def test_stun_31_estimates() -> None:
    cache = RtoCache()
    assert cache.rto("192.0.2.1", now=0.0) == 0.5
    cache.record("192.0.2.1", 0.2, now=0.0)
    assert cache.rto("192.0.2.1", now=0.0) == 0.6  # 0.2 + 4 × 0.1
    cache.record("192.0.2.1", 0.4, now=1.0)
    assert cache.rto("192.0.2.1", now=1.0) == 0.725  # 0.225 + 4 × (0.75 × 0.1 + 0.25 × 0.2)
    assert cache.rto("192.0.2.2", now=1.0) == 0.5


def test_stun_31_estimates_stand_on_milliseconds_between_the_limits() -> None:
    cache = RtoCache()
    cache.record("a", 0.20001, now=0.0)
    assert cache.rto("a", now=0.0) == 0.601
    cache.record("b", 0.001, now=0.0)
    assert cache.rto("b", now=0.0) == 0.5
    cache.record("c", 1000.0, now=0.0)
    assert cache.rto("c", now=0.0) == 60.0


def test_stun_31_a_steady_server_is_waited_for_a_clock_tick_longer() -> None:
    cache = RtoCache()
    for _ in range(100):
        cache.record("a", 1.0, now=0.0)
    assert cache.rto("a", now=0.0) == 1.001


def test_stun_31_estimates_grow_stale_after_ten_minutes_without_transactions() -> None:
    cache = RtoCache()
    cache.record("a", 1.0, now=0.0)
    assert cache.rto("a", now=599.9) == 3.0
    assert cache.rto("a", now=600.0) == 0.5
    cache.record("b", 1.0, now=0.0)
    cache.record("b", None, now=599.0)
    assert cache.rto("b", now=1198.0) == 3.0
    cache.record("b", None, now=1199.0)
    assert cache.rto("b", now=1199.0) == 0.5
    cache.record("c", None, now=0.0)
    assert cache.rto("c", now=0.0) == 0.5


def test_stun_31_the_cache_is_bounded() -> None:
    cache = RtoCache()
    for n in range(64):
        cache.record(str(n), 1.0, now=float(n))
    cache.record("0", 1.0, now=64.0)
    cache.record("64", 1.0, now=65.0)
    assert cache.rto("0", now=65.0) > 0.5
    assert cache.rto("1", now=65.0) == 0.5
    assert cache.rto("2", now=65.0) == 3.0
