"""What keeps an allocation that stands: refreshing it, the NAT's binding, and moving it with this host (RFC 8656 §8).

A move is a Refresh with the server's ticket from another 5-tuple (RFC 8016).  How it ends is judged by what the server
proves: what nobody signed only shortens the time that a proved answer has.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from edgeice.sansio import Entropy, Event, TimerTable
from edgeice.stun.attributes import Attribute
from edgeice.stun.longterm import CHALLENGE_CODES
from edgeice.stun.message import AuthenticatedMessage, Message, MessageClass, Method, encode
from edgeice.stun.transaction import (
    FailureReason,
    TransactionFailed,
    TransactionRejected,
    TransactionSucceeded,
    new_transaction_id,
)
from edgeice.turn.config import TurnConfig
from edgeice.turn.events import AllocationLost, AllocationMoved
from edgeice.turn.failures import reason_of
from edgeice.turn.mobility import Mobility
from edgeice.turn.relaying import PermissionFor, Relaying
from edgeice.turn.requests import Answer, Requester

__all__ = ["Upkeep", "UpkeepRequest"]

#: RFC 8656 §7.2: what servers give if nothing else is said.
_DEFAULT_LIFETIME: Final = 600
#: After a Refresh without a usable answer, while there is time; and the least between two: servers give 600 s and more
#: (RFC 8656 §7.2), and what is to be refreshed more often than this is lost instead.
_REFRESH_PAUSE: Final = 5.0
#: How long a proved answer to a move may take at least where somebody refused it without proof: seconds, twice what
#: that took, or three round trips.
_PROOF_TIME: Final = 0.1


class UpkeepRequest(Enum):
    """Purposes of the requests that are asked here."""

    REFRESH = "refresh"
    MOVE = "move"


class _Timer(Enum):
    REFRESH = "refresh"
    EXPIRY = "expiry"
    KEEPALIVE = "keepalive"
    MOVE = "move"


_REFRESH, _MOVE = UpkeepRequest.REFRESH, UpkeepRequest.MOVE


class Upkeep:
    """Keeps one allocation from the moment when it is granted; all of its inputs say so if it is lost.

    Args:
        stream: Over TCP or TLS.
        config: Timings.
        entropy: For transaction ids.
        requests: Where requests are asked.
        relaying: The permissions, and the way out for what is no request.
        mobility: The ticket.
        software: What this is, for the server's log; None says nothing.
    """

    def __init__(
        self,
        *,
        stream: bool,
        config: TurnConfig,
        entropy: Entropy,
        requests: Requester,
        relaying: Relaying,
        mobility: Mobility,
        software: str | None,
    ) -> None:
        self._stream = stream
        self._config = config
        self._entropy = entropy
        self._requests = requests
        self._relaying = relaying
        self._mobility = mobility
        self._software = software
        self._timers: TimerTable[_Timer] = TimerTable()
        self._sent_at = 0.0

    def granted(self, response: Message | AuthenticatedMessage, *, asked_at: float, now: float) -> float:
        """The allocation stands; gives the seconds that it lasts."""
        self._mobility.learn(response)
        self._sent(now)
        return self._set_lifetime(response.get(Attribute.LIFETIME), asked_at)

    def note_sent(self, now: float) -> None:
        """Something goes to the server, which keeps the NAT's binding."""
        self._sent_at = now

    def clear(self) -> None:
        """There is nothing to keep any more."""
        self._timers.clear()

    def next_timeout(self) -> float | None:
        """The earliest deadline."""
        return self._timers.next()

    def handle_timeout(self, *, now: float) -> AllocationLost | None:
        """Act on every deadline that `now` has reached."""
        while (timer := self._timers.pop_due(now)) is not None:
            if timer is _Timer.EXPIRY:
                return AllocationLost("expired")
            if timer is _Timer.MOVE:
                return AllocationLost("move_refused" if self._mobility.refused else "move_timeout")
            if timer is _Timer.REFRESH:
                self._ask(_REFRESH, now)
            elif self._sent_at + self._config.keepalive <= now:
                self._greet(now)
            else:
                self._timers.set(_Timer.KEEPALIVE, self._sent_at + self._config.keepalive)
        return None

    def attributes(self, lifetime: int | None) -> list[tuple[int, object]]:
        """What a Refresh carries; the ticket as long as the server has not confirmed a move (RFC 8016 §3.2.1)."""
        attributes = self._mobility.show()
        if self._software is not None:
            attributes.append((Attribute.SOFTWARE, self._software))
        if lifetime is not None:
            attributes.append((Attribute.LIFETIME, lifetime))
        return attributes

    def confirm(self, *, now: float) -> None:
        """Ask whether the allocation stands."""
        # By a permission where there is one: coturn does not sign what it says of an allocation that it has not.
        if not self._mobility.moving and not self._relaying.renew(now=now) and not self._requests.is_asking(_REFRESH):
            self._ask(_REFRESH, now)

    def move(self, *, now: float) -> None:
        """Show the ticket from where this host is now, before all else (RFC 8016 §3.2.1)."""
        self._mobility.begin()
        self._timers.cancel(_Timer.REFRESH)
        self._timers.set(_Timer.MOVE, now + self._config.move_time)
        # Whatever is under way went another way, and is of no use before the allocation is here.
        self._requests.only(_MOVE, forget=_REFRESH)
        self._ask(_MOVE, now)

    def answered(self, answer: Answer, *, now: float) -> Event | None:
        """Take the end of a request of these purposes."""
        if answer.request.purpose is _MOVE:
            return self._move_answered(answer, now)
        outcome = answer.outcome
        if isinstance(outcome, TransactionSucceeded):
            self._mobility.learn(outcome.response)
            self._set_lifetime(outcome.response.get(Attribute.LIFETIME), answer.request.asked_at)
        elif isinstance(outcome, TransactionFailed) or outcome.may_retry or outcome.error.code == 438:
            # While there is time: EXPIRY ends it otherwise.
            self._timers.set(_Timer.REFRESH, now + _REFRESH_PAUSE)
            if isinstance(outcome, TransactionFailed) and outcome.reason is FailureReason.INTEGRITY:
                self._doubt(now)
        else:
            return AllocationLost(answer.reason or reason_of(outcome.error.code), outcome.error.code)
        return None

    def is_missed(self, answer: Answer) -> bool:
        """Whether a server that signed an answer has no allocation for this 5-tuple (RFC 8656 §5)."""
        purpose = answer.request.purpose
        # coturn says 400 where a permission that it gave is to be renewed.
        return answer.code == 437 or (
            answer.code == 400 and isinstance(purpose, PermissionFor) and self._relaying.is_permitted(purpose.ip)
        )

    def missed(self, code: int | None, *, now: float) -> AllocationLost | None:
        """No allocation is here: where the NAT gave this host another address, the ticket finds it."""
        if not self._mobility.may_look(now):
            return AllocationLost(reason_of(437), code)
        self.move(now=now)
        return None

    def hear(self, message: Message, *, now: float) -> None:
        """Hear an answer before it is verified, for refusals that nobody signed.

        coturn refuses so whatever it does not know.  Nothing ends by that: it is asked what must be proved, and a move
        waits no longer than a proved answer may take.
        """
        request = self._requests.find(message.transaction_id)
        if request is None or message.message_class is not MessageClass.ERROR or message.has_integrity:
            return
        error = message.get(Attribute.ERROR_CODE)
        if not request.signed or error is None or error.code in CHALLENGE_CODES:
            return
        if request.purpose is _REFRESH:
            self._doubt(now)
        elif request.purpose is _MOVE and not self._mobility.refused:
            self._mobility.refused = True
            # Who is nearer than the server may be first; but the server's own answer must not come too late.
            at = request.asked_at + max(2 * (now - request.asked_at), 3 * self._requests.rtt, _PROOF_TIME)
            self._timers.set(_Timer.MOVE, min(at, self._timers.at(_Timer.MOVE) or at))

    def hear_garbled(self) -> None:
        """Something came from the server's address that nobody can read."""
        # coturn 4.6 garbles its answer to a move, unless it says no SOFTWARE; to the same request it has a whole one.
        if self._mobility.repeat():
            self._requests.repeat(_MOVE)

    # Inside

    def _ask(self, purpose: UpkeepRequest, now: float) -> None:
        self._requests.ask(purpose, Method.REFRESH, self.attributes(self._config.lifetime), now=now, urgent=True)

    def _set_lifetime(self, lifetime: int | None, asked_at: float) -> float:
        """Arm the timers of an allocation that was granted or refreshed (RFC 8656 §7.3, §8.3)."""
        seconds = float(_DEFAULT_LIFETIME if lifetime is None else lifetime)
        # The server's clock started when the request came: not before it was sent.
        self._timers.set(_Timer.EXPIRY, asked_at + seconds)
        pause = max(seconds - self._config.refresh_margin, seconds / 2, _REFRESH_PAUSE)
        self._timers.set(_Timer.REFRESH, asked_at + pause)
        return seconds

    def _sent(self, now: float) -> None:
        self._sent_at = now
        if not self._stream:
            self._timers.set(_Timer.KEEPALIVE, now + self._config.keepalive)

    def _greet(self, now: float) -> None:
        """Send what nobody answers (RFC 8445 §11, RFC 8489 §6.2)."""
        transaction_id = new_transaction_id(self._entropy)
        self._relaying.outgoing.push(
            encode(Method.BINDING, MessageClass.INDICATION, transaction_id, [], fingerprint=False)
        )
        self._sent(now)

    def _move_answered(self, answer: Answer, now: float) -> Event | None:
        outcome = answer.outcome
        if isinstance(outcome, TransactionSucceeded):
            self._timers.cancel(_Timer.MOVE)
            self._mobility.moved(outcome.response, now=now)
            self._set_lifetime(outcome.response.get(Attribute.LIFETIME), answer.request.asked_at)
            self._requests.go_on(now=now)
            # RFC 8016 §3.2.2: the server may send to the old address until something comes from the new one.
            self._greet(now)
            return AllocationMoved(outcome.rtt)
        if isinstance(outcome, TransactionRejected) and outcome.error.code == 400:
            # No ticket is taken where the allocation is already: a good answer was lost, or nothing had to be moved.
            self._timers.cancel(_Timer.MOVE)
            self._mobility.end(now=now)
            self._requests.go_on(now=now)
            self._timers.set(_Timer.REFRESH, now + _REFRESH_PAUSE)
            self.confirm(now=now)
            return None
        return AllocationLost("move_refused", answer.code)

    def _doubt(self, now: float) -> None:
        """The allocation may be gone, or the NAT's binding, but who says so did not prove it."""
        if not self._relaying.renew(now=now) and self._mobility.may_look(now):
            self.move(now=now)
