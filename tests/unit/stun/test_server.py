"""Answers to requests (RFC 8489 §6.3.1, §9.1.3)."""

from collections.abc import Sequence
from typing import Any

import pytest

from edgeice.addresses import TransportAddress
from edgeice.errors import LocalProtocolError
from edgeice.stun import (
    Attribute,
    AuthenticatedMessage,
    AuthenticationError,
    Message,
    MessageClass,
    Method,
    RefusalBudget,
    authenticate,
    authenticate_request,
    decode,
    encode,
    error_response,
    success_response,
    unknown_attributes_response,
)
from tests.support.stun_wire import KEY, TID

SOURCE = TransportAddress("2001:db8::1", 40000)
CHECK: Sequence[tuple[int, object]] = (
    (Attribute.USERNAME, "evtj:h6vY"),
    (Attribute.PRIORITY, 1),
    (Attribute.ICE_CONTROLLING, 2),
)


def request(attributes: Sequence[tuple[int, object]] = CHECK, **options: Any) -> Message:
    return decode(encode(Method.BINDING, MessageClass.REQUEST, TID, attributes, **{"key": KEY, **options}))


def keys(username: str) -> bytes | None:
    return {"evtj:h6vY": KEY}.get(username)


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        (request(key=None), 400, "integrity_missing"),
        (request([(Attribute.PRIORITY, 1)]), 400, "integrity_missing"),
        (request([(Attribute.USERNAME, "nobody")]), 401, "unknown_user"),
        (request([(Attribute.USERNAME, "nobody")], key=None), 400, "integrity_missing"),
        (request(key=b"wrong"), 401, "integrity_mismatch"),
    ],
)
def test_stun_24_whom_a_server_refuses(message: Message, code: int, reason: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        authenticate_request(message, keys)
    assert (caught.value.code, caught.value.reason) == (code, reason)
    answer = error_response(message, code)
    assert answer is not None
    refusal = decode(answer)
    assert refusal.message_class is MessageClass.ERROR
    assert refusal.transaction_id == TID
    assert (refusal.get(Attribute.ERROR_CODE) or (0,))[0] == code
    assert not refusal.has_integrity
    assert refusal.get(Attribute.USERNAME) is None
    assert len(answer) <= len(message.data)


def test_stun_24_whom_a_server_believes() -> None:
    assert authenticate_request(request(), keys).get(Attribute.PRIORITY) == 1


@pytest.mark.parametrize("integrity", ["sha1", "sha256"])
def test_stun_25_a_success_has_the_form_of_the_request(integrity: str) -> None:
    believed = authenticate(request(integrity=integrity), KEY)
    answer = decode(success_response(believed, SOURCE, key=KEY))
    assert answer.message_class is MessageClass.SUCCESS
    assert answer.method == Method.BINDING
    assert answer.transaction_id == TID
    assert answer.has_fingerprint
    assert answer.get(Attribute.USERNAME) is None
    assert answer.get(Attribute.XOR_MAPPED_ADDRESS) == SOURCE
    other = "sha256" if integrity == "sha1" else "sha1"
    assert authenticate(answer, KEY).integrity == integrity
    with pytest.raises(AuthenticationError):
        authenticate(answer, KEY, integrity=other)  # type: ignore[arg-type]  # one of the two


def test_stun_37_the_same_request_gives_the_same_answer() -> None:
    first, second = (authenticate(decode(request().data), KEY) for _ in range(2))
    assert success_response(first, SOURCE, key=KEY) == success_response(second, SOURCE, key=KEY)


def test_an_answer_has_a_fingerprint_if_the_request_has() -> None:
    bare = decode(encode(Method.BINDING, MessageClass.REQUEST, TID, [], fingerprint=False))
    answer = decode(success_response(bare, SOURCE))
    assert not answer.has_fingerprint
    assert not answer.has_integrity


def test_a_role_conflict_is_signed() -> None:
    answer = error_response(authenticate(request(), KEY), 487, key=KEY)
    assert answer is not None
    assert authenticate(decode(answer), KEY).get(Attribute.ERROR_CODE) == (487, "Role Conflict")


def test_stun_07_unknown_attributes_are_named() -> None:
    believed = authenticate(request([*CHECK, (0x7A01, b""), (0x7A02, b"")]), KEY)
    answer = unknown_attributes_response(believed, key=KEY)
    assert answer is not None
    seen = authenticate(decode(answer), KEY)
    assert seen.get(Attribute.ERROR_CODE) == (420, "Unknown Attribute")
    assert seen.get(Attribute.UNKNOWN_ATTRIBUTES) == (0x7A01, 0x7A02)
    assert len(answer) <= len(believed.data)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 50, 370])
@pytest.mark.parametrize("signed", [True, False])
def test_host_03_a_list_of_unknown_attributes_never_outgrows_the_request(count: int, *, signed: bool) -> None:
    unknown = tuple(range(0x7000, 0x7000 + count))
    message = request([*((kind, b"") for kind in unknown), *CHECK], key=KEY if signed else None)
    asked: Message | AuthenticatedMessage = authenticate(message, KEY) if signed else message
    answer = unknown_attributes_response(asked, key=KEY if signed else None)
    assert answer is not None
    assert len(answer) <= len(message.data)
    assert decode(answer).get(Attribute.UNKNOWN_ATTRIBUTES) == unknown


def test_host_03_a_list_that_does_not_fit_is_cut() -> None:
    # Two empty unknown attributes in a bare request: 28 bytes cannot be answered with less than 36.
    bare = decode(encode(Method.BINDING, MessageClass.REQUEST, TID, [(0x7A01, b""), (0x7A02, b"")], fingerprint=False))
    assert unknown_attributes_response(bare) is None
    four = [(0x7A01 + n, b"") for n in range(4)]
    small = decode(encode(Method.BINDING, MessageClass.REQUEST, TID, four, fingerprint=False))
    answer = unknown_attributes_response(small)
    assert answer is not None
    assert len(answer) == len(small.data) == 36
    assert decode(answer).get(Attribute.UNKNOWN_ATTRIBUTES) == (0x7A01, 0x7A02)


def test_a_bare_request_gets_no_error_larger_than_itself() -> None:
    bare = decode(encode(Method.BINDING, MessageClass.REQUEST, TID, [], fingerprint=False))
    assert error_response(bare, 400) is None


def test_an_error_may_carry_more() -> None:
    # A request whose integrity was believed is answered even where that takes more bytes.
    believed = authenticate(decode(encode(Method.BINDING, MessageClass.REQUEST, TID, [], key=KEY)), KEY)
    answer = error_response(believed, 300, attributes=[(Attribute.ALTERNATE_SERVER, SOURCE)], key=KEY)
    assert answer is not None
    assert len(answer) > len(believed.data)
    assert decode(answer).get(Attribute.ALTERNATE_SERVER) == SOURCE


@pytest.mark.parametrize("message_class", [MessageClass.INDICATION, MessageClass.SUCCESS, MessageClass.ERROR])
def test_only_requests_are_answered(message_class: MessageClass) -> None:
    message = decode(encode(Method.BINDING, message_class, TID, CHECK, key=KEY))
    with pytest.raises(LocalProtocolError):
        error_response(message, 400)


def test_stun_24_nothing_is_signed_for_whom_nobody_proved() -> None:
    with pytest.raises(LocalProtocolError):
        success_response(request(), SOURCE, key=KEY)


def takes(budget: RefusalBudget, ip: str, count: int, now: float) -> int:
    return sum(budget.take(TransportAddress(ip, 1000 + number), now) for number in range(count))


def test_host_05_refusals_are_bounded_for_a_prefix_and_overall() -> None:
    budget = RefusalBudget(overall=10, per_prefix=4)
    assert takes(budget, "192.0.2.1", 50, 0.0) == 4
    assert takes(budget, "192.0.2.200", 50, 0.0) == 0  # the same /24
    assert takes(budget, "192.0.3.1", 50, 0.0) == 4
    assert takes(budget, "2001:db8::1", 50, 0.0) == 2  # what is left of 10
    assert takes(budget, "198.51.100.1", 50, 0.0) == 0
    # Both come back by the second, and no more than that is ever saved.
    assert takes(budget, "192.0.2.1", 50, 0.5) == 2
    assert [takes(budget, f"192.0.{net}.1", 50, 1000.0) for net in range(5)] == [4, 4, 2, 0, 0]


@pytest.mark.parametrize(("other", "same"), [("2001:db8:0:ff::9", True), ("2001:db8:0:100::9", False)])
def test_host_05_a_prefix_of_ipv6_has_56_bits(other: str, *, same: bool) -> None:
    budget = RefusalBudget(overall=100, per_prefix=1)
    assert takes(budget, "2001:db8::1", 1, 0.0) == 1
    assert takes(budget, other, 1, 0.0) == (not same)


def test_host_05_ten_thousand_sources_fill_no_table() -> None:
    budget = RefusalBudget(overall=10, per_prefix=4)
    answered = sum(budget.take(TransportAddress(f"10.{n >> 8}.{n & 255}.1", 9), n * 1e-4) for n in range(10_000))
    assert answered == 19  # a burst of 10, and one second's worth but for what was not whole at its end
    assert len(budget._prefixes) == 256
