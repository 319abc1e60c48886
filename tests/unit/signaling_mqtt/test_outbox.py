from __future__ import annotations

import pytest

from edgeice.errors import EdgeIceError
from edgeice.signaling.broker import MqttExpiredError, MqttQueueFullError, MqttUnavailableError
from edgeice.signaling.outbox import Outbox, Outgoing


def make(name: str, *, expires_at: float | None = None, fail_on_loss: bool = False) -> Outgoing:
    return Outgoing(name, b"", 1, False, expires_at, fail_on_loss, lambda: None)


def send(outbox: Outbox, window: int = 16, now: float = 0.0, first_id: int = 1) -> list[str]:
    names: list[str] = []
    while (item := outbox.pop_sendable(window, now)) is not None:
        outbox.sent(item, first_id + len(names))
        names.append(item.topic)
    return names


def test_a_full_outbox_refuses_and_drops_nothing() -> None:
    outbox = Outbox(limit=3)
    items = [make(name) for name in "abc"]
    for item in items:
        outbox.push(item)
    with pytest.raises(MqttQueueFullError):
        outbox.push(make("d"))
    assert send(outbox) == ["a", "b", "c"]
    # Under way still counts.
    with pytest.raises(MqttQueueFullError):
        outbox.push(make("d"))
    outbox.acknowledged(2)
    outbox.push(make("d"))
    assert [item.done for item in items] == [False, True, False]


def test_the_window_holds() -> None:
    outbox = Outbox()
    for name in "abcd":
        outbox.push(make(name))
    assert send(outbox, window=2) == ["a", "b"]
    assert send(outbox, window=2) == []
    outbox.acknowledged(1)
    assert send(outbox, window=2, first_id=3) == ["c"]
    assert outbox.in_flight == 2


def test_after_a_loss_all_goes_again_in_order() -> None:
    outbox = Outbox()
    for name in "abcd":
        outbox.push(make(name))
    assert send(outbox, window=3) == ["a", "b", "c"]
    outbox.acknowledged(2)
    outbox.connection_lost()
    outbox.connection_lost()
    assert send(outbox) == ["a", "c", "d"]


def test_what_is_not_to_wait_fails_with_the_connection() -> None:
    outbox = Outbox()
    flying, waiting, patient = make("a", fail_on_loss=True), make("b", fail_on_loss=True), make("c")
    for item in (flying, waiting, patient):
        outbox.push(item)
    assert send(outbox, window=1) == ["a"]
    outbox.connection_lost()
    assert isinstance(flying.error, MqttUnavailableError)
    assert isinstance(waiting.error, MqttUnavailableError)
    assert send(outbox) == ["c"]


def test_the_expired_is_not_sent() -> None:
    outbox = Outbox()
    expired, fresh = make("a", expires_at=10.0), make("b", expires_at=10.5)
    outbox.push(expired)
    outbox.push(fresh)
    assert send(outbox, now=10.0) == ["b"]
    assert isinstance(expired.error, MqttExpiredError)
    assert fresh.remaining(10.0) == 1
    assert fresh.remaining(7.4) == 4
    assert make("c").remaining(0.0) is None


def test_withdrawn_under_way_keeps_its_identifier_until_the_answer() -> None:
    outbox = Outbox()
    item, other = make("a"), make("b")
    outbox.push(item)
    outbox.push(other)
    assert send(outbox, window=1) == ["a"]
    outbox.withdraw(item, MqttExpiredError("late"))
    assert send(outbox, window=1) == []
    outbox.acknowledged(1)
    assert send(outbox, window=1) == ["b"]
    assert isinstance(item.error, MqttExpiredError)


def test_withdrawn_is_not_sent_again() -> None:
    outbox = Outbox()
    item = make("a")
    outbox.push(item)
    assert send(outbox) == ["a"]
    outbox.withdraw(item, MqttExpiredError("late"))
    outbox.connection_lost()
    assert len(outbox) == 0


def test_a_publisher_hears_once() -> None:
    calls: list[EdgeIceError | None] = []
    item = Outgoing("a", b"", 1, False, None, False, lambda: calls.append(item.error))
    outbox = Outbox()
    outbox.push(item)
    send(outbox)
    outbox.acknowledged(1)
    outbox.acknowledged(1)
    outbox.fail_all(MqttUnavailableError("end"))
    assert calls == [None]


def test_unsent_goes_first() -> None:
    outbox = Outbox()
    for name in "ab":
        outbox.push(make(name))
    item = outbox.pop_sendable(16, 0.0)
    assert item is not None
    outbox.unsent(item)
    assert send(outbox) == ["a", "b"]


def test_fail_all_ends_all() -> None:
    outbox = Outbox()
    items = [make(name) for name in "abc"]
    for item in items:
        outbox.push(item)
    send(outbox, window=1)
    outbox.fail_all(MqttUnavailableError("end"))
    assert all(isinstance(item.error, MqttUnavailableError) for item in items)
    assert len(outbox) == 0
