"""Client transactions: when a request is sent again, and what counts as its answer (RFC 8489 §6.2, §6.3, §9).

`TransactionTimers` is the schedule alone, for who keeps his own table of requests, as ICE does for its checks.
`Transaction` adds the request and judges responses; `edgeice.stun.table` holds several of those.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

import attrs

from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.sansio import Entropy, Event
from edgeice.stun.attributes import Attribute
from edgeice.stun.integrity import AuthenticationError, Integrity
from edgeice.stun.message import (
    TRANSACTION_ID_SIZE,
    AuthenticatedMessage,
    Message,
    MessageClass,
    authenticate,
    decode,
)
from edgeice.stun.values import ErrorCode

__all__ = [
    "SERVER_ERROR_RETRIES",
    "Due",
    "FailureReason",
    "Outcome",
    "RetransmissionPolicy",
    "Transaction",
    "TransactionFailed",
    "TransactionRejected",
    "TransactionSucceeded",
    "TransactionTimers",
    "new_transaction_id",
]

#: How often a request may be repeated, as a new transaction, after errors 500 to 599 (RFC 8489 §6.3.4).
SERVER_ERROR_RETRIES: Final = 4


def new_transaction_id(entropy: Entropy) -> bytes:
    """A fresh, unguessable transaction id (RFC 8489 §5)."""
    return entropy.token_bytes(TRANSACTION_ID_SIZE)


@attrs.frozen(kw_only=True)
class RetransmissionPolicy:
    """The numbers of RFC 8489 §6.2.1; with the defaults, sends at 0 to 31.5 s and failure at 39.5 s."""

    #: First interval in seconds; each following one is twice as long.
    rto: float = attrs.field(default=0.5, validator=attrs.validators.gt(0))
    #: How often the request is sent at most.
    rc: int = attrs.field(default=7, validator=attrs.validators.ge(1))
    #: How many times `rto` to wait after the last of these.
    rm: float = attrs.field(default=16, validator=attrs.validators.gt(0))

    @classmethod
    def reliable(cls, ti: float = 39.5) -> RetransmissionPolicy:
        """For TCP and TLS: sent once, given up after `ti` seconds (RFC 8489 §6.2.2)."""
        return cls(rto=ti, rc=1, rm=1)

    @property
    def duration(self) -> float:
        """Seconds from the first sending to failure."""
        return self.rto * ((1 << self.rc - 1) - 1 + self.rm)


class Due(Enum):
    """What the clock asks of a transaction."""

    RETRANSMIT = "retransmit"
    TIMED_OUT = "timed_out"


class TransactionTimers:
    """The schedule of one request, which is sent for the first time at `now`.

    Intervals count from when a request was really sent: a host that slept sends one request on waking, not the burst
    that it missed.
    """

    __slots__ = ("_next_at", "_policy", "_silent", "sent")

    def __init__(self, *, now: float, policy: RetransmissionPolicy) -> None:
        self._policy = policy
        self._silent = False
        #: How often the request was sent.
        self.sent = 1
        self._next_at: float | None = now + self._interval()

    def _interval(self) -> float:
        policy = self._policy
        return policy.rto * (policy.rm if self.sent >= policy.rc else 1 << self.sent - 1)

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout`, None after the end."""
        return self._next_at

    def handle_timeout(self, *, now: float) -> Due | None:
        """What is to be done at `now`, None before the deadline; after TIMED_OUT there is nothing more."""
        if self._next_at is None or now < self._next_at:
            return None
        if self._silent or self.sent >= self._policy.rc:
            self._next_at = None
            return Due.TIMED_OUT
        self.sent += 1
        self._next_at = now + self._interval()
        return Due.RETRANSMIT

    def stop_retransmitting(self) -> None:
        """Send no more, but wait for an answer as long as otherwise (RFC 8445 §7.3.1.4)."""
        if self._next_at is None or self._silent:
            return
        self._silent = True
        policy = self._policy
        if self.sent < policy.rc:
            remaining = (1 << policy.rc - 1) - (1 << self.sent)
            self._next_at += policy.rto * (remaining + policy.rm)

    def cancel(self) -> None:
        """End: an answer came, or none is wanted any more."""
        self._next_at = None


class FailureReason(Enum):
    """Why a transaction ended without an answer that can be used."""

    TIMEOUT = "timeout"
    #: Responses came, but none that the holder of the key sent (RFC 8489 §9.1.4).
    INTEGRITY = "integrity"
    #: The response holds attributes that must be understood and are not (RFC 8489 §6.3.3, §6.3.4).
    UNKNOWN_ATTRIBUTES = "unknown_attributes"
    #: An error response without ERROR-CODE (RFC 8489 §6.3.4).
    NO_ERROR_CODE = "no_error_code"
    #: A hard ICMP error, or the connection ended (RFC 8489 §6.2.1, §6.2.2).
    TRANSPORT = "transport"


@attrs.frozen
class TransactionSucceeded(Event):
    """A success response came; an AuthenticatedMessage if the request had a key."""

    transaction_id: bytes
    response: Message | AuthenticatedMessage
    #: Round trip in seconds; None after a retransmission, since nobody knows which request was answered (Karn).
    rtt: float | None


@attrs.frozen
class TransactionRejected(Event):
    """An error response came; an AuthenticatedMessage if it was verified."""

    transaction_id: bytes
    error: ErrorCode
    response: Message | AuthenticatedMessage
    rtt: float | None

    @property
    def may_retry(self) -> bool:
        """Whether the same request makes sense again, up to SERVER_ERROR_RETRIES times (RFC 8489 §6.3.4)."""
        return 500 <= self.error.code <= 599


@attrs.frozen
class TransactionFailed(Event):
    """The transaction ended without a usable answer."""

    transaction_id: bytes
    reason: FailureReason


Outcome: TypeAlias = TransactionSucceeded | TransactionRejected | TransactionFailed

# RFC 8489 §9.2.5: a challenge comes from a server that has no key yet, or whose nonce is over.
_CHALLENGES: Final = frozenset({401, 438})


class Transaction:
    """One request until it is answered or given up.

    Args:
        request: The encoded request; `poll_transmit` gives it out at once, and the same bytes each time.
        now: The present time.
        policy: When to repeat and when to give up.
        key: What the request's integrity was made with; responses must then be verified.
        integrity: The form that the request has, and the only one taken in a response (RFC 8489 §9.1.4).
        long_term: Long-term credentials: 401 and 438 are challenges and need no integrity (RFC 8489 §9.2.5).
        reliable: Sent over TCP or TLS: a response that does not verify ends the transaction (RFC 8489 §9.1.4).
    """

    __slots__ = (
        "_forged",
        "_integrity",
        "_key",
        "_long_term",
        "_method",
        "_reliable",
        "_started_at",
        "_timers",
        "_unsent",
        "outcome",
        "request",
        "transaction_id",
    )

    def __init__(
        self,
        request: bytes,
        *,
        now: float,
        policy: RetransmissionPolicy,
        key: bytes | None = None,
        integrity: Integrity = "sha1",
        long_term: bool = False,
        reliable: bool = False,
    ) -> None:
        try:
            message = decode(request)
        except DecodeError as error:
            raise LocalProtocolError(f"not a request: {error}") from error
        if message.message_class is not MessageClass.REQUEST:
            raise LocalProtocolError("only a request opens a transaction")
        self.request: Final = request
        self.transaction_id: Final = message.transaction_id
        #: How it ended, None before.
        self.outcome: Outcome | None = None
        self._method = message.method
        self._key = key
        self._integrity: Integrity = integrity
        self._long_term = long_term
        self._reliable = reliable
        self._started_at = now
        self._timers = TransactionTimers(now=now, policy=policy)
        self._unsent = True
        self._forged = False

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout`, None after the end."""
        return self._timers.next_timeout()

    def handle_timeout(self, *, now: float) -> None:
        """Repeat or give up, if it is time."""
        due = self._timers.handle_timeout(now=now)
        if due is Due.RETRANSMIT:
            self._unsent = True
        elif due is Due.TIMED_OUT:
            self._fail(FailureReason.INTEGRITY if self._forged else FailureReason.TIMEOUT)

    def poll_transmit(self) -> bytes | None:
        """The request, when it is to be sent."""
        if not self._unsent:
            return None
        self._unsent = False
        return self.request

    def transport_failed(self) -> None:
        """A hard ICMP error arrived or the connection is gone (RFC 8489 §6.2.1, §6.2.2)."""
        self._fail(FailureReason.TRANSPORT)

    def receive(self, message: Message, *, now: float) -> bool:
        """Take a message that may be the answer.

        Returns:
            False if it changes nothing: it answers something else, comes late, or does not verify over UDP, where
            retransmissions go on as if it had never come.
        """
        if (
            self.outcome is not None
            or message.transaction_id != self.transaction_id
            or message.method != self._method
            or message.message_class not in {MessageClass.SUCCESS, MessageClass.ERROR}
        ):
            return False
        try:
            response = self._verified(message)
        except AuthenticationError:
            self._forged = True
            if self._reliable:
                self._fail(FailureReason.INTEGRITY)
            return self._reliable
        if response.unknown_required:
            self._fail(FailureReason.UNKNOWN_ATTRIBUTES)
            return True
        rtt = now - self._started_at if self._timers.sent == 1 else None
        if response.message_class is MessageClass.SUCCESS:
            self._end(TransactionSucceeded(self.transaction_id, response, rtt))
            return True
        error = response.get(Attribute.ERROR_CODE)
        if error is None:
            self._fail(FailureReason.NO_ERROR_CODE)
        else:
            self._end(TransactionRejected(self.transaction_id, error, response, rtt))
        return True

    def _verified(self, message: Message) -> Message | AuthenticatedMessage:
        if self._key is None:
            return message
        if self._long_term and not message.has_integrity and message.message_class is MessageClass.ERROR:
            error = message.get(Attribute.ERROR_CODE)
            if error is not None and error.code in _CHALLENGES:
                return message
        return authenticate(message, self._key, integrity=self._integrity)

    def _fail(self, reason: FailureReason) -> None:
        if self.outcome is None:
            self._end(TransactionFailed(self.transaction_id, reason))

    def _end(self, outcome: Outcome) -> None:
        self._timers.cancel()
        self._unsent = False
        self.outcome = outcome
