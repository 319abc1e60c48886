"""A TURN client: one allocation on one server, over one way to it (RFC 8656).

Sans-IO, with the driving contract of `edgeice.sansio` but for its outputs: everything goes to one server, so that
`poll_transmit` gives bytes only, datagrams over UDP and parts of the stream over TCP and TLS.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Literal

from edgeice.addresses import TransportAddress
from edgeice.errors import DecodeError
from edgeice.sansio import DropCounter, Entropy, Event
from edgeice.stun.attributes import Attribute
from edgeice.stun.longterm import discard_reason
from edgeice.stun.message import MessageClass, Method, decode
from edgeice.stun.transaction import (
    TransactionRejected,
    TransactionSucceeded,
)
from edgeice.turn.allocation import (
    TERMINAL,
    AllocationInput,
    AllocationState,
    allocate_attributes,
    next_state,
    refused_family,
)
from edgeice.turn.config import TurnConfig
from edgeice.turn.credentials import TurnCredentials
from edgeice.turn.events import (
    Allocated,
    AllocationFailed,
    AllocationLost,
    AllocationReleased,
    FamilyRefused,
    ServerChallenged,
)
from edgeice.turn.failures import failed, family_retry_at
from edgeice.turn.framing import Deframer
from edgeice.turn.grant import read_grant, read_redirect
from edgeice.turn.mobility import Mobility
from edgeice.turn.relaying import ChannelFor, Relaying
from edgeice.turn.requests import Answer, Requester
from edgeice.turn.upkeep import Upkeep, UpkeepRequest

__all__ = ["Allocation"]


class _Purpose(Enum):
    ALLOCATE = "allocate"
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
        mobile: Ask for a ticket by which the allocation can be moved (RFC 8016); a server that forbids that is asked
            again without.
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
        mobile: bool = False,
    ) -> None:
        self.server = server
        self._config = config = config or TurnConfig()
        self._family: Literal[4, 6] = family
        self._dual = dual
        self._software = software
        self._tried = tried
        self._mismatches = mismatches
        self._dont_fragment = config.dont_fragment
        self._state = AllocationState.ALLOCATING
        #: When closing waits no longer.
        self._release_at: float | None = None
        self._events: deque[Event] = deque()
        #: What was dropped, by reason.
        self.drops = DropCounter()
        self._requests = Requester(server.ip, stream=stream, credentials=credentials, entropy=entropy, hold=hold)
        self._relaying = Relaying(
            stream=stream, config=config, entropy=entropy, requests=self._requests, drops=self.drops
        )
        self._mobility = Mobility(wanted=mobile)
        self._upkeep = Upkeep(
            stream=stream,
            config=config,
            entropy=entropy,
            requests=self._requests,
            relaying=self._relaying,
            mobility=self._mobility,
            software=software,
        )
        self._deframer = Deframer() if stream else None
        #: A success response came that nobody can read.
        self._garbled = False
        self._ask_allocate(now)

    @property
    def state(self) -> AllocationState:
        """How far it is."""
        return self._state

    @property
    def is_ended(self) -> bool:
        """Whether nothing happens any more, so that the way to the server can be closed."""
        return self._state in TERMINAL

    @property
    def is_mobile(self) -> bool:
        """Whether the server gave a ticket: the allocation can be moved, and outlives its way to the server."""
        return self._mobility.has_ticket

    @property
    def mobility_forbidden(self) -> bool:
        """Whether the server is not to be asked for a ticket."""
        return self._mobility.forbidden

    # Commands

    def send(self, peer: TransportAddress, data: bytes, *, now: float) -> None:
        """Send to a peer; waits for its permission, of which the first datagram makes the request.

        What waits is bounded: the oldest is dropped and counted.
        """
        if self._state is not AllocationState.ALLOCATED:
            self.drops.count("not_allocated")
            return
        self._upkeep.note_sent(now)
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
        if self._state is AllocationState.ALLOCATED:
            self._upkeep.confirm(now=now)
            self._work(now)

    def move(self, *, now: float) -> bool:
        """Go on over another way to the server (RFC 8016): all that is sent from now on takes it.

        Permissions and channels stay.  Data goes right behind the ticket, over a stream once the server has answered.
        `AllocationMoved` follows, or `AllocationLost`.

        Returns:
            False if the server gave no ticket, or there is no allocation.
        """
        if self._state is not AllocationState.ALLOCATED or not self._mobility.has_ticket:
            return False
        if self._deframer is not None:
            self._deframer = Deframer()
        self._upkeep.move(now=now)
        self._work(now)
        return True

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
            self._release_at = now + self._config.release_time
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
        if (lost := self._upkeep.handle_timeout(now=now)) is not None:
            self._end(AllocationInput.GONE, lost)
        elif self._release_at is not None and self._release_at <= now:
            self._gone("closed", None, now)
        else:
            self._work(now)

    # Outputs

    def next_timeout(self) -> float | None:
        """The earliest deadline."""
        if self._state in TERMINAL:
            return None
        times = [self._requests.next_timeout(), self._upkeep.next_timeout(), self._release_at]
        if self._state is AllocationState.ALLOCATED:
            times.append(self._relaying.next_timeout())
        return min((at for at in times if at is not None), default=None)

    def poll_transmit(self) -> bytes | None:
        """Next bytes to the server."""
        request = self._requests.poll_transmit()
        # coturn loses what comes right behind a ticket on a stream: it has read that already when it moves the flow.
        if request is None and (self._deframer is None or not self._mobility.moving):
            return self._relaying.outgoing.pop()
        return request

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
            self._upkeep.hear_garbled()
        else:
            self._take_stun(message, now)

    def _take_stun(self, data: bytes, now: float) -> None:
        try:
            message = decode(data)
        except DecodeError as error:
            self.drops.count(error.reason)
            # RFC 8656 §7.3: the server has granted something that is not understood here.
            self._garbled = self._garbled or (data[:2] == b"\x01\x03" and self._requests.is_open(data[8:20]))
            self._upkeep.hear_garbled()
            return
        self._upkeep.hear(message, now=now)
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
        elif isinstance(purpose, UpkeepRequest) or self._upkeep.is_missed(answer):
            self._upkept(answer, now)
        elif isinstance(purpose, ChannelFor) and answer.code == 400:
            self._unusable(AllocationLost("channel_refused", 400), now)  # RFC 8656 §12.3
        else:
            self._relaying.answered(answer, now=now)

    def _upkept(self, answer: Answer, now: float) -> None:
        is_missed = answer.request.purpose is not UpkeepRequest.MOVE and self._upkeep.is_missed(answer)
        event = self._upkeep.missed(answer.code, now=now) if is_missed else self._upkeep.answered(answer, now=now)
        if isinstance(event, AllocationLost):
            self._end(AllocationInput.GONE, event)
        elif event is not None:
            self._events.append(event)

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
        # Last: a coturn that forbids it reads no further, and misses the transport.
        attributes += self._mobility.offer()
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
        elif code == 405 and self._mobility.forbid():
            self._ask_allocate(now)  # RFC 8016 §3.1.4
        elif code == 300 and answer.is_proved:
            # Another server is named, by this one and nobody else (RFC 8489 §10, §14.8).
            redirect = read_redirect(outcome.response, self.server, self._tried)
            if isinstance(redirect, str):
                self._fail(failed(300, redirect, mismatches=0, now=now), now)
            else:
                self._end(AllocationInput.REFUSED, redirect)
        else:
            self._fail(failed(code, answer.reason, mismatches=self._mismatches, now=now), now)

    def _granted(self, answer: Answer, outcome: TransactionSucceeded, now: float) -> None:
        response = outcome.response
        if self._state is AllocationState.ABANDONED:
            self._state = next_state(self._state, AllocationInput.GRANTED)
            self._release(now)
            return
        grant = read_grant(response, family=self._family, dual=self._dual)
        if grant is None:
            # RFC 8656 §7.3: given back, and not asked for again.
            self._unusable(AllocationFailed(reason="family_not_understood", code=None, retry_at=None), now)
            return
        self._state = next_state(self._state, AllocationInput.GRANTED)
        self._relaying.families = grant.families
        self._relaying.dont_fragment = self._dont_fragment
        lifetime = self._upkeep.granted(response, asked_at=answer.request.asked_at, now=now)
        self._events.append(
            Allocated(
                relayed=grant.relayed,
                additional=grant.additional,
                mapped=grant.mapped,
                lifetime=lifetime,
                rtt=outcome.rtt,
            )
        )
        refused = refused_family(response)
        if self._dual and refused is not None:
            retry_at = family_retry_at(refused.code, now=now)
            self._events.append(FamilyRefused(refused.family, refused.code, retry_at))

    # Ending

    def _release(self, now: float) -> None:
        """Send a Refresh with a lifetime of zero, and nothing else any more (RFC 8656 §8)."""
        self._upkeep.clear()
        self._release_at = now + self._config.release_time
        self._requests.clear()
        self._requests.answers_challenges = True  # the nonce may be stale
        self._relaying.outgoing.clear()
        self._requests.ask(_Purpose.RELEASE, Method.REFRESH, self._upkeep.attributes(0), now=now, urgent=True)

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
        self._upkeep.clear()
        self._release_at = None
        self._requests.clear()
        self._relaying.outgoing.clear()
        self._events.append(event)
