"""Requests to one TURN server: credentials, challenges, repetitions and turns (RFC 8489 §6, §9.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import Final

import attrs

from edgeice.sansio import Entropy
from edgeice.stun.attributes import Attribute
from edgeice.stun.longterm import Challenge, LongTerm
from edgeice.stun.message import AuthenticatedMessage, Message, MessageClass, Method, encode
from edgeice.stun.rto import RtoCache
from edgeice.stun.table import TransactionTable
from edgeice.stun.transaction import (
    SERVER_ERROR_RETRIES,
    Outcome,
    RetransmissionPolicy,
    Transaction,
    TransactionFailed,
    TransactionRejected,
    new_transaction_id,
)
from edgeice.turn.credentials import TurnCredentials

__all__ = ["Answer", "Request", "Requester"]

#: RFC 8489 §9.2.5 asks for a retry with each new nonce; a server that never keeps one would be asked for ever.
_MAX_STALE: Final = 2
#: RFC 8489 §9.2.5: one retry with credentials, and one more with each change of realm or credentials.
_MAX_CHALLENGES: Final = 3
#: RFC 8656 §7.4: 508 is about capacity and has its own, longer pause.
_INSUFFICIENT_CAPACITY: Final = 508


@attrs.define(eq=False)
class Request:
    """One request, whatever it takes to have it answered."""

    #: What it is for, as its owner calls it.
    purpose: Hashable
    method: Method
    #: Never shown: a ticket may be among them.
    attributes: Sequence[tuple[int, object]] = attrs.field(repr=False)
    #: What was sent last.
    data: bytes = attrs.field(default=b"", repr=False)
    #: When its present transaction began.
    asked_at: float = 0.0
    #: Whether that carries credentials.
    signed: bool = False
    realm: str | None = None
    challenges: int = 0
    stale: int = 0
    server_errors: int = 0
    #: When to send it again after a server error.
    due_at: float = 0.0


@attrs.frozen
class Answer:
    """How a request ended."""

    request: Request
    outcome: Outcome
    #: Why a challenge was not answered, a slug; None for all else.
    reason: str | None = None

    @property
    def code(self) -> int | None:
        """The server's error code if it gave one."""
        return self.outcome.error.code if isinstance(self.outcome, TransactionRejected) else None

    @property
    def is_proved(self) -> bool:
        """Whether the server signed it."""
        return not isinstance(self.outcome, TransactionFailed) and isinstance(
            self.outcome.response, AuthenticatedMessage
        )


class Requester:
    """Sends requests to one server and brings each to its end.

    Args:
        server_ip: The server's address, by which round trips are remembered.
        stream: Over TCP or TLS.
        credentials: What challenges are answered with.
        entropy: For transaction ids and the spread of pauses.
        hold: Whether the first challenge is answered only after `proceed`.
    """

    def __init__(
        self, server_ip: str, *, stream: bool, credentials: TurnCredentials, entropy: Entropy, hold: bool = False
    ) -> None:
        self._server_ip = server_ip
        self._stream = stream
        self._entropy = entropy
        self._long_term = LongTerm(credentials.username, credentials.password)
        self._password = credentials.password
        self._newer: TurnCredentials | None = None
        self._rto = RtoCache()
        self._table = TransactionTable()
        # These three are bounded by what their owner asks for: one request for each purpose.
        self._requests: dict[bytes, Request] = {}
        self._waiting: deque[Request] = deque()
        self._paused: list[Request] = []
        #: The one purpose that is asked for, None for all, and what waits for the others' turn.
        self._only: Hashable | None = None
        self._parked: list[Request] = []
        #: Requests that are sent once more at once.
        self._repeats: deque[bytes] = deque()
        self._answers: deque[Answer] = deque()
        self._hold = hold
        self._held: Request | None = None
        self._challenge: TransactionRejected | None = None
        #: Round trip to the server as it was measured last, seconds.
        self.rtt = 0.0
        #: Whether challenges are answered; otherwise they end their request.
        self.answers_challenges = True

    @property
    def username(self) -> str:
        """The user that requests are signed as."""
        return self._long_term.username

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return not (self._requests or self._waiting or self._paused or self._parked)

    def is_asking(self, purpose: Hashable) -> bool:
        """Whether a request for this is under way."""
        under_way = (*self._requests.values(), *self._waiting, *self._paused, *self._parked)
        return any(request.purpose == purpose for request in under_way)

    def set_credentials(self, credentials: TurnCredentials) -> None:
        """Use these when the present ones are refused; when nothing was signed with those yet, at once."""
        if self._long_term.key is None:
            self._long_term = LongTerm(credentials.username, credentials.password)
            self._password = credentials.password
        elif (credentials.username, credentials.password) != (self.username, self._password):
            self._newer = credentials

    def ask(
        self,
        purpose: Hashable,
        method: Method,
        attributes: Sequence[tuple[int, object]],
        *,
        now: float,
        urgent: bool = False,
    ) -> None:
        """Send a request, at once or when one of the ten that may be open is answered (RFC 8489 §6.2)."""
        self._put(Request(purpose, method, attributes), urgent=urgent)
        self._open(now)

    def proceed(self, *, now: float) -> None:
        """Answer the first challenge, now or when it comes."""
        self._hold = False
        if self._held is not None:
            request, self._held = self._held, None
            self._put(request, urgent=True)
            self._open(now)

    def only(self, purpose: Hashable, *, forget: Hashable) -> None:
        """Ask for this alone, anew, over another way to the server; what else is under way waits until `go_on`.

        Args:
            purpose: Of the one request, which is to be asked next.
            forget: Requests for this are not asked again.
        """
        under_way = [*self._requests.values(), *self._waiting, *self._paused, *self._parked]
        self.clear()
        self._only = purpose
        self._parked = [request for request in under_way if request.purpose not in (purpose, forget)]

    def go_on(self, *, now: float) -> None:
        """Ask for everything again."""
        self._only = None
        self._waiting.extend(self._parked)
        self._parked.clear()
        self._open(now)

    def repeat(self, purpose: Hashable) -> None:
        """Send requests for this once more at once."""
        self._repeats.extend(request.data for request in self._requests.values() if request.purpose == purpose)

    def find(self, transaction_id: bytes) -> Request | None:
        """The request whose answer a transaction awaits."""
        return self._requests.get(transaction_id)

    def take_challenge(self) -> TransactionRejected | None:
        """The server's first challenge, once."""
        challenge, self._challenge = self._challenge, None
        return challenge

    def is_open(self, transaction_id: bytes) -> bool:
        """Whether an answer to this transaction is awaited."""
        return transaction_id in self._requests

    def is_signed(self, transaction_id: bytes) -> bool:
        """Whether this transaction is open and its request carries credentials."""
        request = self._requests.get(transaction_id)
        return request is not None and request.signed

    def receive(self, message: Message, *, now: float) -> bool:
        """Take a response; False if it changed nothing."""
        if not self._table.receive(message, now=now):
            return False
        self._settle(now)
        return True

    def handle_timeout(self, *, now: float) -> None:
        """Repeat, give up, and end pauses."""
        self._table.handle_timeout(now=now)
        self._settle(now)
        due = [request for request in self._paused if request.due_at <= now]
        self._paused = [request for request in self._paused if request.due_at > now]
        for request in due:
            self._put(request, urgent=True)
        self._open(now)

    def next_timeout(self) -> float | None:
        """The earliest deadline."""
        times = [request.due_at for request in self._paused]
        if (at := self._table.next_timeout()) is not None:
            times.append(at)
        return min(times, default=None)

    def clear(self) -> None:
        """Forget all requests and answers."""
        self._table = TransactionTable()
        self._requests.clear()
        self._waiting.clear()
        self._paused.clear()
        self._parked.clear()
        self._repeats.clear()
        self._answers.clear()
        self._only = None

    def poll_transmit(self) -> bytes | None:
        """Next request to send."""
        return self._repeats.popleft() if self._repeats else self._table.poll_transmit()

    def poll_answer(self) -> Answer | None:
        """How the next request ended."""
        return self._answers.popleft() if self._answers else None

    # Inside

    def _put(self, request: Request, *, urgent: bool) -> None:
        if self._only not in (None, request.purpose):
            self._parked.append(request)
        elif urgent:
            self._waiting.appendleft(request)
        else:
            self._waiting.append(request)

    def _open(self, now: float) -> None:
        while self._waiting and not self._table.is_full:
            self._send(self._waiting.popleft(), now)

    def _send(self, request: Request, now: float) -> None:
        transaction_id = new_transaction_id(self._entropy)
        long_term = self._long_term
        request.asked_at = now
        request.signed = long_term.key is not None
        request.realm = long_term.realm
        data = encode(
            request.method,
            MessageClass.REQUEST,
            transaction_id,
            [*request.attributes, *long_term.attributes()],
            key=long_term.key,
            integrity=long_term.integrity,
            fingerprint=False,  # RFC 8656 asks for none, and nothing else comes from this server
        )
        policy = (
            RetransmissionPolicy.reliable()
            if self._stream
            else RetransmissionPolicy(rto=self._rto.rto(self._server_ip, now=now))
        )
        request.data = data
        self._requests[transaction_id] = request
        self._table.add(
            Transaction(
                data,
                now=now,
                policy=policy,
                key=long_term.key,
                integrity=long_term.integrity,
                long_term=True,
                reliable=self._stream,
            )
        )

    def transport_failed(self, *, now: float) -> None:
        """The way to the server is gone: all requests end."""
        self._table.transport_failed()
        self._settle(now)

    def _settle(self, now: float) -> None:
        while (outcome := self._table.poll_outcome()) is not None:
            request = self._requests.pop(outcome.transaction_id)
            rtt = None if isinstance(outcome, TransactionFailed) else outcome.rtt
            self._rto.record(self._server_ip, rtt, now=now)
            self.rtt = self.rtt if rtt is None else rtt
            self._judge(request, outcome, now)
        self._open(now)

    def _judge(self, request: Request, outcome: Outcome, now: float) -> None:
        reason = None
        if isinstance(outcome, TransactionRejected):
            code = outcome.error.code
            if code in {401, 438}:
                reason = self._challenged(request, outcome)
                if reason is None:
                    self._retry(request)
                    return
            elif outcome.may_retry and code != _INSUFFICIENT_CAPACITY and request.server_errors < SERVER_ERROR_RETRIES:
                # RFC 8489 §6.3.4: a pause that grows, for a server that has too much to do as it is.
                request.server_errors += 1
                pause = self._rto.rto(self._server_ip, now=now) * (1 << request.server_errors)
                request.due_at = now + pause * self._entropy.jitter.uniform(0.9, 1.1)
                self._paused.append(request)
                return
        self._answers.append(Answer(request, outcome, reason))

    def _retry(self, request: Request) -> None:
        if self._hold:
            self._held = request
        else:
            self._put(request, urgent=True)

    def _challenged(self, request: Request, outcome: TransactionRejected) -> str | None:
        """Take a challenge; why the request is not to be sent again, None if it is."""
        stale = outcome.error.code == 438
        if stale:
            request.stale += 1
            if request.stale > _MAX_STALE:
                return "stale_nonce"
        else:
            request.challenges += 1
            if request.challenges > _MAX_CHALLENGES:
                return "unauthorized"
        if not self.answers_challenges:
            return "abandoned"
        if not stale and request.signed:
            # RFC 8489 §9.2.5: the same user, realm and password are not tried again.
            realm = outcome.response.get(Attribute.REALM)
            if self._newer is not None:
                self._long_term = LongTerm(self._newer.username, self._newer.password)
                self._password = self._newer.password
                self._newer = None
            elif realm is None or realm == request.realm:
                return "unauthorized"
        if self._long_term.key is None:
            self._challenge = outcome
        challenge = self._long_term.challenged(outcome.response)
        return None if challenge is Challenge.ACCEPTED else challenge.value
