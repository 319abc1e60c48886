from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.errors import DecodeError
from edgeice.signaling import (
    EpochKeeper,
    EpochVerdict,
    Party,
    State,
    Status,
    StatusKeeper,
    own_retained_epoch,
    seen_state,
    sign_info,
)
from tests.unit.signaling.kit import ALICE_KEY, DEVICE, DEVICE_KEY, WALL, make_info


@pytest.mark.parametrize("state", ["ready", "draining", "sleeping", "lost", "off"])
def test_status_is_plain_json(state: str) -> None:
    status = Status(State(state), 7)
    assert status.encode() == f'{{"s":"{state}","epoch":7}}'.encode()
    assert Status.decode(status.encode()) == status


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"ready",
        b"[]",
        b'{"s":"ready"}',
        b'{"s":"unknown","epoch":1}',
        b'{"s":"dead","epoch":1}',
        b'{"s":"ready","epoch":"1"}',
        b'{"s":"ready","epoch":-1}',
        b'{"s":"ready","epoch":1,"epoch":2}',
        b'{"s":"ready","epoch":1,"x":"' + b"x" * 1024 + b'"}',
    ],
)
def test_host_24_what_is_no_status(payload: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        Status.decode(payload)
    assert caught.value.reason == "status"


@given(st.binary(max_size=60))
def test_any_bytes_are_a_status_or_a_decode_error(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        Status.decode(payload)


@pytest.mark.parametrize(
    ("status", "epoch", "state"),
    [
        (None, 5, State.UNKNOWN),
        (Status(State.LOST, 4), 5, State.UNKNOWN),
        (Status(State.LOST, 5), 5, State.LOST),
        (Status(State.READY, 6), 5, State.READY),
        (Status(State.OFF, 5), None, State.OFF),
    ],
)
def test_what_an_operator_believes(status: Status | None, epoch: int | None, state: State) -> None:
    assert seen_state(status, epoch) is state


def test_only_the_own_signed_document_raises_the_epoch() -> None:
    own = sign_info(DEVICE, make_info(epoch=9), DEVICE_KEY, iat=WALL)
    assert own_retained_epoch(own, DEVICE, DEVICE_KEY.public) == 9
    assert own_retained_epoch(b"", DEVICE, DEVICE_KEY.public) is None
    assert own_retained_epoch(own, Party.device("lab", "other"), DEVICE_KEY.public) is None
    forged = sign_info(DEVICE, make_info(epoch=99, key=ALICE_KEY.public), ALICE_KEY, iat=WALL)
    assert own_retained_epoch(forged, DEVICE, DEVICE_KEY.public) is None


def test_the_epoch_grows_by_one_at_each_connect() -> None:
    keeper = EpochKeeper(4)
    for expected in (5, 6, 7):
        assert keeper.next() == expected
        keeper.connected()
        assert keeper.judge_retained(expected - 1) == EpochVerdict(expected)


def test_attempts_without_a_connack_reuse_the_epoch() -> None:
    keeper = EpochKeeper(4)
    assert [keeper.next() for _ in range(3)] == [5, 5, 5]
    keeper.connected()
    assert keeper.next() == 6


def test_nothing_retained_is_not_higher() -> None:
    keeper = EpochKeeper(0)
    assert keeper.next() == 1
    keeper.connected()
    assert keeper.judge_retained(None) == EpochVerdict(1)


@pytest.mark.parametrize("retained", [5, 8])
def test_a_retained_epoch_that_is_not_lower_is_adopted_with_one_reconnect(retained: int) -> None:
    keeper = EpochKeeper(4)
    assert keeper.next() == 5
    keeper.connected()
    assert keeper.judge_retained(retained) == EpochVerdict(retained + 1, persist=True, reconnect=True)
    assert [keeper.next(), keeper.next()] == [retained + 1] * 2
    keeper.connected()
    assert keeper.judge_retained(retained) == EpochVerdict(retained + 1)
    # The next surprise is a new one.
    keeper.next()
    keeper.connected()
    assert keeper.judge_retained(50).reconnect


def test_again_not_lower_goes_on_without_another_reconnect() -> None:
    keeper = EpochKeeper(4)
    keeper.next()
    keeper.connected()
    keeper.judge_retained(8)
    keeper.next()
    keeper.connected()
    assert keeper.judge_retained(9) == EpochVerdict(10, persist=True)
    assert keeper.next() == 11


def test_a_late_will_is_repaired_at_most_once_in_five_seconds() -> None:
    keeper = StatusKeeper()
    ready, will = Status(State.READY, 5), Status(State.LOST, 4).encode()
    assert keeper.publish(ready, now=0.0) == ready.encode()
    keeper.receive(ready.encode(), now=0.1)
    assert keeper.next_timeout() is None
    keeper.receive(will, now=1.0)
    assert keeper.next_timeout() == 5.0
    assert keeper.handle_timeout(now=4.9) is None
    assert keeper.handle_timeout(now=5.0) == ready.encode()
    assert keeper.next_timeout() is None
    keeper.receive(will, now=20.0)
    assert keeper.handle_timeout(now=20.0) == ready.encode()


def test_an_own_document_that_arrives_cancels_the_repair() -> None:
    keeper = StatusKeeper()
    ready = Status(State.READY, 5)
    keeper.publish(ready, now=0.0)
    keeper.receive(b"garbage", now=1.0)
    keeper.receive(ready.encode(), now=2.0)
    assert keeper.next_timeout() is None
    keeper.receive(b"garbage", now=3.0)
    keeper.disconnected()
    assert (keeper.next_timeout(), keeper.handle_timeout(now=9.0)) == (None, None)
