"""What a DTLS connection tells its owner, and the states it goes through."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

import attrs

from edgeice.errors import LocalProtocolError
from edgeice.sansio import Event

__all__ = [
    "TRANSITIONS",
    "DtlsClosed",
    "DtlsFailed",
    "DtlsInput",
    "DtlsState",
    "HandshakeCompleted",
    "next_state",
]


@attrs.frozen
class HandshakeCompleted(Event):
    """The handshake is done and the peer's certificate matches its fingerprint: data may flow both ways."""

    #: OpenSSL's name of the cipher suite.
    cipher: str
    #: SHA-256 over the peer's certificate, in the form of `a=fingerprint`.
    peer_fingerprint: str


@attrs.frozen
class DtlsClosed(Event):
    """The peer closed the connection with close_notify, which has been answered."""


@attrs.frozen
class DtlsFailed(Event):
    """The connection is over.

    `reason` is one of `fingerprint-mismatch`, `fingerprint-unusable` (none offered with a hash function that counts),
    `no-certificate`, `alert` (the peer sent a fatal one, or closed before the handshake was done), `timeout` (no
    answer to twelve attempts), `handshake` (no common parameters, or a broken handshake) and `record` (a broken
    record that the peer's own key protects).
    """

    reason: str
    #: OpenSSL's words for it, for logs.
    detail: str = ""


class DtlsState(Enum):
    """Where a connection stands."""

    NEW = auto()
    HANDSHAKING = auto()
    #: The handshake is done, the peer's fingerprints are not known yet: data is held.
    VERIFYING = auto()
    ESTABLISHED = auto()
    CLOSED = auto()
    FAILED = auto()


class DtlsInput(Enum):
    """What moves a connection from one state to another."""

    START = auto()
    #: OpenSSL has completed the handshake.
    FINISHED = auto()
    #: The peer's certificate matches.
    VERIFIED = auto()
    #: Either side closes.
    CLOSE = auto()
    FAIL = auto()


#: Every step there is; any other is this side's mistake.
TRANSITIONS: Final[dict[tuple[DtlsState, DtlsInput], DtlsState]] = {
    (DtlsState.NEW, DtlsInput.START): DtlsState.HANDSHAKING,
    (DtlsState.NEW, DtlsInput.CLOSE): DtlsState.CLOSED,
    (DtlsState.HANDSHAKING, DtlsInput.FINISHED): DtlsState.VERIFYING,
    (DtlsState.HANDSHAKING, DtlsInput.CLOSE): DtlsState.CLOSED,
    (DtlsState.HANDSHAKING, DtlsInput.FAIL): DtlsState.FAILED,
    (DtlsState.VERIFYING, DtlsInput.VERIFIED): DtlsState.ESTABLISHED,
    (DtlsState.VERIFYING, DtlsInput.CLOSE): DtlsState.CLOSED,
    (DtlsState.VERIFYING, DtlsInput.FAIL): DtlsState.FAILED,
    (DtlsState.ESTABLISHED, DtlsInput.CLOSE): DtlsState.CLOSED,
    (DtlsState.ESTABLISHED, DtlsInput.FAIL): DtlsState.FAILED,
    (DtlsState.CLOSED, DtlsInput.CLOSE): DtlsState.CLOSED,
    (DtlsState.FAILED, DtlsInput.CLOSE): DtlsState.FAILED,
}


def next_state(state: DtlsState, occurred: DtlsInput) -> DtlsState:
    """The state that follows; raises LocalProtocolError where the table has none."""
    try:
        return TRANSITIONS[state, occurred]
    except KeyError:
        raise LocalProtocolError(f"DTLS cannot {occurred.name} while {state.name}") from None
