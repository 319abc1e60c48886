"""Events from the broker on their way to a consumer that may be slow.

Reading from the broker never waits for the consumer, or a slow one would cost the connection its keepalive.  So
there is a bound, and what happens at it:

- A QoS 0 message that comes while `limit // 2` others wait is dropped and counted as `qos0`.
- A QoS 1 message is acknowledged only when the consumer has taken it.  Version 5 brokers are told to have at most
  `receive_maximum` of them under way, so that the others wait at the broker.  Where a 3.1.1 broker sends so many
  that `limit` wait, the next is dropped unacknowledged and counted as `qos1`: the broker keeps it and sends it
  again on the next connection.
- Of events about the connection the newest `limit` are kept (what a consumer missed is past), and a failed attempt
  replaces the failed attempt before it.
"""

from __future__ import annotations

from collections import deque

import attrs

from edgeice.sansio import DropCounter
from edgeice.signaling.broker import Message, MqttConnected, MqttConnectFailed, MqttEvent

__all__ = ["Delivery", "Inbox"]


@attrs.frozen
class Delivery:
    """An event and what to acknowledge once the consumer has it."""

    event: MqttEvent
    #: Packet identifier to acknowledge, None for what needs no acknowledgement.
    packet_id: int | None = None
    #: Which connection it came on; identifiers of others mean nothing.
    connection: object = None


class Inbox:
    """Bounded queue of events, in order."""

    def __init__(self, limit: int = 64) -> None:
        self.limit = limit
        #: Messages that the bounds cost, by reason.
        self.drops = DropCounter()
        self._queue: deque[Delivery] = deque()
        self._qos0 = self._qos1 = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def receive_maximum(self) -> int:
        """How many QoS 1 messages a version 5 broker may have under way (MQTT 5 §3.1.2.11.3)."""
        # Half, so that what an earlier connection left here and what a new session brings fit together.
        return self.limit // 2

    def push_message(self, message: Message, connection: object, packet_id: int | None) -> None:
        """Queue a message; without `packet_id` it came with QoS 0."""
        if packet_id is None:
            if self._qos0 >= self.limit // 2:
                self.drops.count("qos0")
                return
            self._qos0 += 1
        else:
            if self._qos1 >= self.limit:
                self.drops.count("qos1")
                return
            self._qos1 += 1
        self._queue.append(Delivery(message, packet_id, connection))

    def push_state(self, event: MqttEvent) -> None:
        """Queue an event about the connection.

        Where the broker kept the session it sends all again that was not acknowledged, so that these go from here.
        """
        if isinstance(event, MqttConnected) and event.session_present:
            self._queue = deque(delivery for delivery in self._queue if delivery.packet_id is None)
            self._qos1 = 0
        if (
            isinstance(event, MqttConnectFailed)
            and self._queue
            and isinstance(self._queue[-1].event, MqttConnectFailed)
        ):
            self._queue.pop()
        if len(self._queue) - self._qos0 - self._qos1 >= self.limit:
            self._queue.remove(next(item for item in self._queue if not isinstance(item.event, Message)))
        self._queue.append(Delivery(event))

    def pop(self) -> Delivery | None:
        """Take the oldest event, None when empty."""
        if not self._queue:
            return None
        delivery = self._queue.popleft()
        if delivery.packet_id is not None:
            self._qos1 -= 1
        elif isinstance(delivery.event, Message):
            self._qos0 -= 1
        return delivery
