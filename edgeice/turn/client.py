"""A TURN client: one allocation on one server, over one way to it (RFC 8656).

Sans-IO, with the driving contract of `edgeice.sansio` but for its outputs: everything goes to one server, so that
`poll_transmit` gives bytes only, datagrams over UDP and parts of the stream over TCP and TLS.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Literal

import attrs

from edgeice.addresses import TransportAddress
from edgeice.errors import DecodeError
from edgeice.sansio import DropCounter, Entropy, Event, TimerTable
from edgeice.stun.attributes import Attribute
from edgeice.stun.longterm import discard_reason
from edgeice.stun.message import MessageClass, Method, decode, encode
from edgeice.stun.transaction import (
    TransactionFailed,
    TransactionRejected,
    TransactionSucceeded,
    new_transaction_id,
)
from edgeice.turn.allocation import (
    TERMINAL,
    AllocationInput,
    AllocationState,
    allocate_attributes,
    next_state,
    refused_family,
    relayed_addresses,
)
from edgeice.turn.config import TurnConfig
from edgeice.turn.credentials import TurnCredentials
from edgeice.turn.events import (
    Allocated,
    AllocationFailed,
    AllocationLost,
    AllocationRedirected,
    AllocationReleased,
    FamilyRefused,
    ServerChallenged,
)
from edgeice.turn.failures import failed, family_retry_at, reason_of
from edgeice.turn.framing import Deframer
from edgeice.turn.relaying import ChannelFor, Relaying
from edgeice.turn.requests import Answer, Requester

__all__ = ["Allocation"]

#: RFC 8656 §7.2: what servers give if nothing else is said.
_DEFAULT_LIFETIME = 600
#: After a Refresh without a usable answer, while there is time; and the least between two: servers give 600 s and more
#: (RFC 8656 §7.2), and what is to be refreshed more often than this is lost instead.
_REFRESH_PAUSE = 5.0


class _Purpose(Enum):
    ALLOCATE = "allocate"
    REFRESH = "refresh"
    RELEASE = "release"


class _Timer(Enum):
    REFRESH = "refresh"
    EXPIRY = "expiry"
    KEEPALIVE = "keepalive"
    RELEASE = "release"


class Allocation:
    """One allocation, from its first request on.

    Args:
        server: The server's address as datagrams or the flow reach it.
        stream: Over TCP or TLS.
        credentials: What the server's challenge is answered with.
        family: Of the relayed address, and so of all peers.
        dual: Ask for a relayed address of the other family beside one of IPv4 (RFC 8656 §7.1).
        entropy: For transaction ids.
        now: The present time; the first request is there to be sent.
        software: What this is, for the server's log; None says nothing.
        config: Timings and limits.
        hold: Wait for `proceed` when the server has answered for the first time: servers and families can be raced
            without allocating on all of them (RFC 8656 §3.9).
        tried: Servers that were asked in the last five minutes: no redirect goes there (RFC 8489 §10).
        mismatches: How many attempts before this one ended with 437, one after the other (RFC 8656 §7.4).
    """

    def __init__(
        self,
        server: TransportAddress,
        *,
        stream: bool,
        credentials: TurnCredentials,
        family: Literal[4, 6],
        dual: bool = False,
        entropy: Entropy,
        now: float,
        software: str | None = None,
        config: TurnConfig | None = None,
        hold: bool = False,
        tried: frozenset[TransportAddress] = frozenset(),
        mismatches: int = 0,
    ) -> None:
        self.server = server
        self._config = config = config or TurnConfig()
        self._stream = stream
        self._family: Literal[4, 6] = family
        self._dual = dual
        self._entropy = entropy
        self._software = software
        self._tried = tried
        self._mismatches = mismatches
        self._dont_fragment = config.dont_fragment
        self._state = AllocationState.ALLOCATING
        self._timers: TimerTable[_Timer] = TimerTable()
        self._events: deque[Event] = deque()
        #: What was dropped, by reason.
        self.drops = DropCounter()
        self._requests = Requester(server.ip, stream=stream, credentials=credentials, entropy=entropy, hold=hold)
        self._relaying = Relaying(
            stream=stream, config=config, entropy=entropy, requests=self._requests, drops=self.drops
        )
        self._deframer = Deframer() if stream else None
        #: A success response came that nobody can read.
        self._garbled = False
        self._sent_at = now
        self._ask_allocate(now)

    @property
    def state(self) -> AllocationState:
        """How far it is."""
        return self._state

    @property
    def is_ended(self) -> bool:
        """Whether nothing happens any more, so that the way to the server can be closed."""
        return self._state in TERMINAL

    # Commands

    def send(self, peer: TransportAddress, data: bytes, *, now: float) -> None:
        """Send to a peer; waits for its permission, of which the first datagram makes the request.

        What waits is bounded: the oldest is dropped and counted.
        """
        if self._state is not AllocationState.ALLOCATED:
            self.drops.count("not_allocated")
            return
        self._sent_at = now
        if self._relaying.send(peer, data, now=now):
            self._work(now)

    def bind(self, peer: TransportAddress, *, now: float) -> bool:
        """Bind a channel, once a pair with this peer is selected (RFC 8445 §12.1).

        Returns:
            False if there can be none: no number is free, or the server refused it.  Data goes on without.
        """
        if self._state is not AllocationState.ALLOCATED or not self._relaying.bind(peer, now=now):
            return False
        self._work(now)
        return True

    def confirm(self, *, now: float) -> None:
        """Ask at once whether the allocation still stands, as who hears nothing through it may want to know.

        Where it does not, AllocationLost follows long before the next refresh would have told.
        """
        if self._state is AllocationState.ALLOCATED and not self._requests.is_asking(_Purpose.REFRESH):
            self._ask_refresh(_Purpose.REFRESH, self._config.lifetime, now)
            self._work(now)

    def set_credentials(self, credentials: TurnCredentials) -> None:
        """Hand over newer credentials, used if the server refuses the present ones.

        An allocation that stands belongs to its user: newer ones of another user are for the next (RFC 8656 §5).
        """
        if self._state is AllocationState.ALLOCATING or credentials.username == self._requests.username:
            self._requests.set_credentials(credentials)

    def proceed(self, *, now: float) -> None:
        """Allocate, where that was to wait for the server's first answer."""
        self._requests.proceed(now=now)

    def close(self, *, now: float) -> None:
        """Give the allocation back (RFC 8656 §8); `AllocationReleased` follows, soon even if the server is silent."""
        if self._state is AllocationState.ALLOCATING:
            # What is granted yet is given back; but nothing more is asked for.
            self._requests.answers_challenges = False
            self._timers.set(_Timer.RELEASE, now + self._config.release_time)
        before, self._state = self._state, next_state(self._state, AllocationInput.CLOSED)
        if before is AllocationState.ALLOCATED:
            self._release(now)
        elif self._state is AllocationState.ABANDONED and self._requests.is_idle:
            self._gone("closed", None, now)
        self._work(now)

    # Inputs

    def receive(self, data: bytes, *, now: float) -> None:
        """Take a datagram from the server, or bytes of the flow in order."""
        if self._deframer is None:
            self._take(data, now)
            return
        for message in self._deframer.feed(data):
            self._take(message, now)
        if self._deframer.broken and self._state not in TERMINAL:
            self.drops.count("turn_framing")
            self._gone("framing", None, now)

    def closed(self, reason: str = "transport", *, now: float) -> None:
        """The flow broke, or the server cannot be reached at all; `reason` is a slug for verdicts."""
        self._gone(reason, None, now)

    def handle_timeout(self, *, now: float) -> None:
        """Act on every deadline that `now` has reached."""
        if self._state in TERMINAL:
            return
        self._requests.handle_timeout(now=now)
        while (timer := self._timers.pop_due(now)) is not None:
            self._timer_fired(timer, now)
        self._work(now)

    # Outputs

    def next_timeout(self) -> float | None:
        """The earliest deadline."""
        if self._state in TERMINAL:
            return None
        times = [self._requests.next_timeout(), self._timers.next()]
        if self._state is AllocationState.ALLOCATED:
            times.append(self._relaying.next_timeout())
        return min((at for at in times if at is not None), default=None)

    def poll_transmit(self) -> bytes | None:
        """Next bytes to the server."""
        return self._requests.poll_transmit() or self._relaying.outgoing.pop()

    def poll_data(self) -> tuple[TransportAddress, bytes] | None:
        """Next datagram from a peer."""
        return self._relaying.incoming.pop()

    def poll_event(self) -> Event | None:
        """What the owner should know."""
        events = self._events or self._relaying.events
        return events.popleft() if events else None

    # Messages

    def _take(self, message: bytes, now: float) -> None:
        first = message[0] if message else 0xFF
        if self._state in TERMINAL:
            self.drops.count("ended")
        elif 0x40 <= first <= 0x4F:
            if self._state is AllocationState.ALLOCATED:
                self._relaying.receive_channel_data(message)
            else:
                self.drops.count("not_allocated")
        elif first > 3:
            self.drops.count("turn_first_byte")  # RFC 8656 §12, RFC 7983 §7
        else:
            self._take_stun(message, now)

    def _take_stun(self, data: bytes, now: float) -> None:
        try:
            message = decode(data)
        except DecodeError as error:
            self.drops.count(error.reason)
            # RFC 8656 §7.3: the server has granted something that is not understood here.
            self._garbled = self._garbled or (data[:2] == b"\x01\x03" and self._requests.is_open(data[8:20]))
            return
        if message.message_class is MessageClass.INDICATION and message.method == Method.DATA:
            if self._state is AllocationState.ALLOCATED:
                self._relaying.receive_indication(message)
            else:
                self.drops.count("not_allocated")
        elif (reason := discard_reason(message, signed=self._requests.is_signed(message.transaction_id))) is not None:
            self.drops.count(reason)
        elif self._requests.receive(message, now=now):
            self._work(now)
        else:
            self.drops.count("stun_unexpected")

    def _work(self, now: float) -> None:
        """Take what requests came to, and ask for what is due."""
        if (challenge := self._requests.take_challenge()) is not None:
            self._events.append(ServerChallenged(challenge.rtt))
        while (answer := self._requests.poll_answer()) is not None:
            self._answered(answer, now)
        if self._state is AllocationState.ALLOCATED:
            self._relaying.work(now=now)

    def _answered(self, answer: Answer, now: float) -> None:
        purpose = answer.request.purpose
        if purpose is _Purpose.ALLOCATE:
            self._allocate_answered(answer, now)
        elif purpose is _Purpose.RELEASE:
            # RFC 8656 §8.3: 437 says that it is gone, which is what was wanted.
            confirmed = isinstance(answer.outcome, TransactionSucceeded) or answer.code == 437
            self._gone("closed", answer.code, now, confirmed=confirmed)
        elif answer.code == 437:
            self._gone(reason_of(437), 437, now)  # RFC 8656 §5
        elif purpose is _Purpose.REFRESH:
            self._refresh_answered(answer, now)
        elif isinstance(purpose, ChannelFor) and answer.code == 400:
            self._unusable(AllocationLost("channel_refused", 400), now)  # RFC 8656 §12.3
        else:
            self._relaying.answered(answer, now=now)

    # Allocating

    def _ask_allocate(self, now: float) -> None:
        attributes = allocate_attributes(
            # RFC 8656 §7.1: IPv4 is what is given anyway, and older servers do not know the attribute.
            family=6 if self._family == 6 and not self._dual else None,
            additional_family=6 if self._dual else None,
            lifetime=self._config.lifetime,
            dont_fragment=self._dont_fragment,
            software=self._software,
        )
        self._requests.ask(_Purpose.ALLOCATE, Method.ALLOCATE, attributes, now=now)

    def _allocate_answered(self, answer: Answer, now: float) -> None:
        outcome = answer.outcome
        if isinstance(outcome, TransactionSucceeded):
            self._granted(answer, outcome, now)
            return
        if self._state is AllocationState.ABANDONED:
            self._gone("closed", answer.code, now)
        elif isinstance(outcome, TransactionRejected):
            self._refused(answer, outcome, now)
        else:
            self._fail(failed(None, outcome.reason.value, mismatches=0, now=now), now)

    def _refused(self, answer: Answer, outcome: TransactionRejected, now: float) -> None:
        code = outcome.error.code
        unknown = outcome.response.get(Attribute.UNKNOWN_ATTRIBUTES) or ()
        if code == 420 and self._dont_fragment and Attribute.DONT_FRAGMENT in unknown:
            self._dont_fragment = False  # RFC 8656 §7.4
            self._ask_allocate(now)
        elif code == 300 and answer.is_proved:
            self._redirected(outcome, now)
        else:
            self._fail(failed(code, answer.reason, mismatches=self._mismatches, now=now), now)

    def _redirected(self, outcome: TransactionRejected, now: float) -> None:
        """Another server is named, by this one and nobody else (RFC 8489 §10, §14.8)."""
        alternate = outcome.response.get(Attribute.ALTERNATE_SERVER)
        if alternate is not None:
            # RFC 8489 §10: over the same transport.
            alternate = attrs.evolve(alternate, protocol=self.server.protocol)
        if alternate is None or alternate.family != self.server.family:
            reason = "redirect_malformed"
        elif alternate in self._tried or alternate == self.server:
            reason = "redirect_loop"
        else:
            domain = outcome.response.get(Attribute.ALTERNATE_DOMAIN)
            self._end(AllocationInput.REFUSED, AllocationRedirected(alternate, domain))
            return
        self._fail(failed(300, reason, mismatches=0, now=now), now)

    def _granted(self, answer: Answer, outcome: TransactionSucceeded, now: float) -> None:
        response = outcome.response
        relayed = relayed_addresses(response)
        mapped = response.get(Attribute.XOR_MAPPED_ADDRESS)
        main = relayed.get(self._family) or (next(iter(relayed.values()), None) if self._dual else None)
        if self._state is AllocationState.ABANDONED:
            self._state = next_state(self._state, AllocationInput.GRANTED)
            self._release(now)
            return
        if main is None or mapped is None:
            # RFC 8656 §7.3: given back, and not asked for again.
            self._unusable(AllocationFailed(reason="family_not_understood", code=None, retry_at=None), now)
            return
        self._state = next_state(self._state, AllocationInput.GRANTED)
        additional = next((each for family, each in relayed.items() if self._dual and family != main.family), None)
        self._relaying.families = frozenset(each.family for each in (main, additional) if each is not None)
        self._relaying.dont_fragment = self._dont_fragment
        lifetime = self._set_lifetime(response.get(Attribute.LIFETIME), answer.request.asked_at)
        if not self._stream:
            self._timers.set(_Timer.KEEPALIVE, now + self._config.keepalive)
        self._events.append(
            Allocated(relayed=main, additional=additional, mapped=mapped, lifetime=lifetime, rtt=outcome.rtt)
        )
        refused = refused_family(response)
        if self._dual and refused is not None:
            retry_at = family_retry_at(refused.code, now=now)
            self._events.append(FamilyRefused(refused.family, refused.code, retry_at))

    def _set_lifetime(self, lifetime: int | None, asked_at: float) -> float:
        """Arm the timers of an allocation that was granted or refreshed (RFC 8656 §7.3, §8.3)."""
        seconds = float(_DEFAULT_LIFETIME if lifetime is None else lifetime)
        # The server's clock started when the request came: not before it was sent.
        self._timers.set(_Timer.EXPIRY, asked_at + seconds)
        pause = max(seconds - self._config.refresh_margin, seconds / 2, _REFRESH_PAUSE)
        self._timers.set(_Timer.REFRESH, asked_at + pause)
        return seconds

    # Keeping and ending

    def _timer_fired(self, timer: _Timer, now: float) -> None:
        if timer is _Timer.REFRESH:
            self._ask_refresh(_Purpose.REFRESH, self._config.lifetime, now)
        elif timer is _Timer.EXPIRY:
            self._gone("expired", None, now)
        elif timer is _Timer.RELEASE:
            self._gone("closed", None, now)
        else:
            self._keep_alive(now)

    def _keep_alive(self, now: float) -> None:
        idle_at = self._sent_at + self._config.keepalive
        if idle_at <= now:
            # RFC 8445 §11, RFC 8489 §6.2: an indication, which nobody answers.
            transaction_id = new_transaction_id(self._entropy)
            self._relaying.outgoing.push(
                encode(Method.BINDING, MessageClass.INDICATION, transaction_id, [], fingerprint=False)
            )
            self._sent_at = now
            idle_at = now + self._config.keepalive
        self._timers.set(_Timer.KEEPALIVE, idle_at)

    def _ask_refresh(self, purpose: _Purpose, lifetime: int | None, now: float) -> None:
        attributes: list[tuple[int, object]] = []
        if self._software is not None:
            attributes.append((Attribute.SOFTWARE, self._software))
        if lifetime is not None:
            attributes.append((Attribute.LIFETIME, lifetime))
        self._requests.ask(purpose, Method.REFRESH, attributes, now=now, urgent=True)

    def _refresh_answered(self, answer: Answer, now: float) -> None:
        outcome = answer.outcome
        if isinstance(outcome, TransactionSucceeded):
            self._set_lifetime(outcome.response.get(Attribute.LIFETIME), answer.request.asked_at)
        elif isinstance(outcome, TransactionFailed) or outcome.may_retry or outcome.error.code == 438:
            # While there is time: EXPIRY ends it otherwise.
            self._timers.set(_Timer.REFRESH, now + _REFRESH_PAUSE)
        else:
            self._gone(answer.reason or reason_of(outcome.error.code), outcome.error.code, now)

    def _release(self, now: float) -> None:
        """Send a Refresh with a lifetime of zero, and nothing else any more (RFC 8656 §8)."""
        self._timers.clear()
        self._timers.set(_Timer.RELEASE, now + self._config.release_time)
        self._requests.clear()
        self._requests.answers_challenges = True  # the nonce may be stale
        self._relaying.outgoing.clear()
        self._ask_refresh(_Purpose.RELEASE, 0, now)

    def _unusable(self, event: Event, now: float) -> None:
        """Tell of the end, and give back what is there."""
        self._state = next_state(self._state, AllocationInput.UNUSABLE)
        self._events.append(event)
        self._release(now)

    def _fail(self, event: AllocationFailed, now: float) -> None:
        if self._garbled:
            self._unusable(AllocationFailed(reason="family_not_understood", code=None, retry_at=None), now)
        else:
            self._end(AllocationInput.REFUSED, event)

    def _gone(self, reason: str, code: int | None, now: float, *, confirmed: bool = False) -> None:
        """There is nothing at the server, or it is out of reach."""
        if self._state is AllocationState.ALLOCATING:
            self._end(AllocationInput.GONE, failed(code, reason, mismatches=0, now=now))
        elif self._state is AllocationState.ALLOCATED:
            self._end(AllocationInput.GONE, AllocationLost(reason, code))
        elif self._state not in TERMINAL:
            self._end(AllocationInput.GONE, AllocationReleased(confirmed))

    def _end(self, happened: AllocationInput, event: Event) -> None:
        self._state = next_state(self._state, happened)
        self._timers.clear()
        self._requests.clear()
        self._relaying.outgoing.clear()
        self._events.append(event)
