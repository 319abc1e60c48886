"""States of an association and what moves it from one to another (RFC 9260 §4)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum, auto
from types import MappingProxyType

__all__ = ["CONNECTED", "DRAINING", "RECEIVING", "SENDING", "SETTING_UP", "TRANSITIONS", "Input", "State"]


class State(IntEnum):
    """Association states; ENDED is CLOSED for good: an association is not used twice.

    Integers, because they are looked up for every packet.
    """

    CLOSED = auto()
    COOKIE_WAIT = auto()
    COOKIE_ECHOED = auto()
    ESTABLISHED = auto()
    SHUTDOWN_PENDING = auto()
    SHUTDOWN_SENT = auto()
    SHUTDOWN_RECEIVED = auto()
    SHUTDOWN_ACK_SENT = auto()
    ENDED = auto()


class Input(Enum):
    """What can move an association."""

    ASSOCIATE = "associate"
    INIT_ACK = "INIT ACK"
    COOKIE_ECHO = "valid COOKIE ECHO"
    COOKIE_ACK = "COOKIE ACK"
    STALE_COOKIE = "ERROR Stale Cookie"
    CLOSE = "shutdown asked"
    DRAINED = "nothing left to send or to be acknowledged"
    SHUTDOWN = "SHUTDOWN"
    SHUTDOWN_ACK = "SHUTDOWN ACK"
    SHUTDOWN_COMPLETE = "SHUTDOWN COMPLETE"
    END = "ABORT sent or received, or peer lost"


#: Where each input leads; an input that has no entry for a state is ignored there.
TRANSITIONS: Mapping[tuple[State, Input], State] = MappingProxyType(
    {
        (State.CLOSED, Input.ASSOCIATE): State.COOKIE_WAIT,
        (State.CLOSED, Input.COOKIE_ECHO): State.ESTABLISHED,
        (State.COOKIE_WAIT, Input.INIT_ACK): State.COOKIE_ECHOED,
        (State.COOKIE_WAIT, Input.COOKIE_ECHO): State.ESTABLISHED,
        (State.COOKIE_ECHOED, Input.COOKIE_ECHO): State.ESTABLISHED,
        (State.COOKIE_ECHOED, Input.COOKIE_ACK): State.ESTABLISHED,
        (State.COOKIE_ECHOED, Input.STALE_COOKIE): State.COOKIE_WAIT,
        (State.ESTABLISHED, Input.CLOSE): State.SHUTDOWN_PENDING,
        (State.ESTABLISHED, Input.SHUTDOWN): State.SHUTDOWN_RECEIVED,
        (State.SHUTDOWN_PENDING, Input.DRAINED): State.SHUTDOWN_SENT,
        (State.SHUTDOWN_PENDING, Input.SHUTDOWN): State.SHUTDOWN_RECEIVED,
        (State.SHUTDOWN_RECEIVED, Input.DRAINED): State.SHUTDOWN_ACK_SENT,
        (State.SHUTDOWN_SENT, Input.SHUTDOWN): State.SHUTDOWN_ACK_SENT,
        (State.SHUTDOWN_SENT, Input.SHUTDOWN_ACK): State.ENDED,
        (State.SHUTDOWN_ACK_SENT, Input.SHUTDOWN_ACK): State.ENDED,
        (State.SHUTDOWN_ACK_SENT, Input.SHUTDOWN_COMPLETE): State.ENDED,
        **{(state, Input.END): State.ENDED for state in State if state is not State.ENDED},
    }
)

#: States in which queued data may be sent.
SENDING = frozenset({State.ESTABLISHED, State.SHUTDOWN_PENDING, State.SHUTDOWN_RECEIVED})
#: States in which DATA is taken.
RECEIVING = frozenset({State.ESTABLISHED, State.SHUTDOWN_PENDING, State.SHUTDOWN_SENT})
#: States that wait for everything to be acknowledged.
DRAINING = frozenset({State.SHUTDOWN_PENDING, State.SHUTDOWN_RECEIVED})
SETTING_UP = frozenset({State.CLOSED, State.COOKIE_WAIT, State.COOKIE_ECHOED})
CONNECTED = frozenset(State) - SETTING_UP - {State.ENDED}
