from __future__ import annotations

from edgeice.signaling.broker import (
    FailureKind,
    Message,
    MqttConnected,
    MqttConnectFailed,
    MqttDisconnected,
    MqttEvent,
)
from edgeice.signaling.inbox import Inbox


def drain(inbox: Inbox) -> list[MqttEvent]:
    events = []
    while (delivery := inbox.pop()) is not None:
        events.append(delivery.event)
    return events


def message(number: int) -> Message:
    return Message(str(number), b"", retained=False)


def test_qos_0_beyond_its_half_is_dropped_and_counted() -> None:
    inbox = Inbox(limit=8)
    for number in range(7):
        inbox.push_message(message(number), 1, None)
    assert inbox.drops.snapshot() == {"qos0": 3}
    assert drain(inbox) == [message(number) for number in range(4)]
    inbox.push_message(message(9), 1, None)
    assert len(inbox) == 1


def test_qos_0_takes_no_room_from_qos_1() -> None:
    inbox = Inbox(limit=8)
    for number in range(20):
        inbox.push_message(message(number), 1, None)
    for number in range(100, 108):
        inbox.push_message(message(number), 1, number)
    assert inbox.drops.snapshot() == {"qos0": 16}
    inbox.push_message(message(108), 1, 108)
    assert inbox.drops.snapshot() == {"qos0": 16, "qos1": 1}
    assert len(drain(inbox)) == 12


def test_order_is_kept() -> None:
    inbox = Inbox()
    inbox.push_state(MqttConnected(session_present=False, version="5"))
    inbox.push_message(message(1), 1, 1)
    inbox.push_message(message(2), 1, None)
    inbox.push_state(MqttDisconnected("gone", 1.0))
    assert drain(inbox) == [
        MqttConnected(session_present=False, version="5"),
        message(1),
        message(2),
        MqttDisconnected("gone", 1.0),
    ]


def test_a_failed_attempt_replaces_the_one_before() -> None:
    inbox = Inbox()
    failures = [MqttConnectFailed(FailureKind.TIMED_OUT, str(number), 1.0) for number in range(1000)]
    inbox.push_state(MqttDisconnected("gone", 1.0))
    for failure in failures:
        inbox.push_state(failure)
    assert drain(inbox) == [MqttDisconnected("gone", 1.0), failures[-1]]


def test_the_newest_of_the_state_is_kept_and_no_message_is_lost_for_it() -> None:
    inbox = Inbox(limit=4)
    inbox.push_message(message(1), 1, 1)
    for number in range(10):
        inbox.push_state(MqttDisconnected(str(number), 1.0))
    assert drain(inbox) == [message(1), *(MqttDisconnected(str(number), 1.0) for number in range(6, 10))]


def test_what_the_broker_sends_again_is_not_kept_twice() -> None:
    inbox = Inbox(limit=8)
    inbox.push_message(message(1), 1, 1)
    inbox.push_message(message(2), 1, None)
    inbox.push_state(MqttConnected(session_present=True, version="5"))
    assert drain(inbox) == [message(2), MqttConnected(session_present=True, version="5")]
    # The account is right afterwards: its whole limit is free.
    for number in range(9):
        inbox.push_message(message(number), 2, number)
    assert len(inbox) == 8


def test_a_new_session_brings_nothing_back_so_all_is_kept() -> None:
    inbox = Inbox(limit=8)
    for number in range(inbox.receive_maximum):
        inbox.push_message(message(number), 1, number)
    inbox.push_state(MqttConnected(session_present=False, version="5"))
    for number in range(inbox.receive_maximum):
        inbox.push_message(message(number), 2, number)
    assert inbox.drops.total == 0
    assert len(drain(inbox)) == 9
