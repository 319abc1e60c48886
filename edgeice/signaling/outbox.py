"""What waits to be acknowledged by the broker, across connections.

Nothing that was taken is lost silently: each message ends as acknowledged, or with an error that its publisher
gets.  A message that was under way when a connection broke is sent again on the next one, before all others.
It then has a new packet identifier and no DUP flag, which MQTT 5 §4.4 wants kept; but the receiver of a QoS 1
message holds no state that either could refer to, so that both forms come to the same possible duplicate.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator

import attrs

from edgeice.errors import EdgeIceError
from edgeice.signaling.broker import MqttExpiredError, MqttQueueFullError, MqttUnavailableError

__all__ = ["Outbox", "Outgoing"]


@attrs.define(eq=False)
class Outgoing:
    """One message on its way to the broker."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    #: When it is of no use any more (machine time), None if never.
    expires_at: float | None
    #: Ends with an error when the connection breaks, instead of waiting for the next one.
    fail_on_loss: bool
    #: Called once, when `done` becomes True.
    on_done: Callable[[], None]
    done: bool = attrs.field(default=False, init=False)
    #: What went wrong, None once acknowledged.
    error: EdgeIceError | None = attrs.field(default=None, init=False)

    def remaining(self, now: float) -> int | None:
        """Message Expiry Interval to send (MQTT 5 §3.3.2.3.3): whole seconds, at least one, None for no expiry."""
        return None if self.expires_at is None else max(1, math.ceil(self.expires_at - now))

    def finish(self, error: EdgeIceError | None = None) -> None:
        """Tell the publisher; only the first call counts."""
        if not self.done:
            self.done = True
            self.error = error
            self.on_done()


class Outbox:
    """Bounded queue of outgoing messages with a send window.

    At the limit a new message is refused (MqttQueueFullError); none that was taken is dropped for it.
    """

    def __init__(self, limit: int = 64) -> None:
        #: Most messages that may be unacknowledged, waiting or under way.
        self.limit = limit
        self._waiting: deque[Outgoing] = deque()
        self._in_flight: dict[int, Outgoing] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    @property
    def in_flight(self) -> int:
        """How many were sent on this connection and are not acknowledged."""
        return len(self._in_flight)

    def push(self, item: Outgoing) -> None:
        """Take a message; raises MqttQueueFullError at the limit."""
        if len(self) >= self.limit:
            raise MqttQueueFullError(f"{self.limit} messages already wait for the broker")
        self._waiting.append(item)

    def pop_sendable(self, window: int, now: float) -> Outgoing | None:
        """The next message to send, None when there is none or `window` messages are under way.

        Whoever takes it must call `sent`, or `unsent` if it could not be sent.  Expired messages end on the way.
        """
        while self._waiting and len(self._in_flight) < window:
            item = self._waiting.popleft()
            if item.done:
                continue
            if item.expires_at is None or item.expires_at > now:
                return item
            item.finish(MqttExpiredError("the message expired before it could be sent"))
        return None

    def sent(self, item: Outgoing, packet_id: int) -> None:
        """Note that a message is under way as `packet_id` of this connection."""
        self._in_flight[packet_id] = item

    def unsent(self, item: Outgoing) -> None:
        """Put a message back to the front."""
        self._waiting.appendleft(item)

    def acknowledged(self, packet_id: int, error: EdgeIceError | None = None) -> None:
        """Take the broker's answer to a message; unknown identifiers are ignored."""
        item = self._in_flight.pop(packet_id, None)
        if item is not None:
            item.finish(error)

    def withdraw(self, item: Outgoing, error: EdgeIceError) -> None:
        """Give a message up: it is not sent (again).  One that is under way may still reach the broker.

        An identifier under way stays taken until the broker answers, so that the window holds.
        """
        item.finish(error)
        if item in self._waiting:
            self._waiting.remove(item)

    def connection_lost(self) -> None:
        """Put all that was under way back to the front, in its order; fail what is not to wait."""
        kept = [item for item in self._in_flight.values() if not item.done]
        self._in_flight.clear()
        self._waiting.extendleft(reversed(kept))
        error = MqttUnavailableError("the connection was lost before the broker acknowledged the message")
        for item in [item for item in self._waiting if item.fail_on_loss]:
            self.withdraw(item, error)

    def fail_all(self, error: EdgeIceError) -> None:
        """End all messages with `error`."""
        for item in self._drain():
            item.finish(error)

    def _drain(self) -> Iterator[Outgoing]:
        items = [*self._in_flight.values(), *self._waiting]
        self._in_flight.clear()
        self._waiting.clear()
        yield from items
