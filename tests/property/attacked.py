"""Two Endpoints in virtual time whose honest session an attacker accompanies with damaged datagrams.

The attacker reads all that passes and sends what it likes from any address, but knows no key: the session has to come
about all the same, carry all data and nothing else, and answer nothing with more than was asked.
"""

from __future__ import annotations

import heapq
import itertools
import math
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache

from edgeice import stun
from edgeice.addresses import Base, Path, TransportAddress
from edgeice.dtls import Certificate
from edgeice.dtls.record import sift_records, split_records
from edgeice.errors import DecodeError
from edgeice.ice import RemoteParameters, Role
from edgeice.peer import (
    Connection,
    ConnectionState,
    DatagramReceived,
    Endpoint,
    EndpointConfig,
    IceConnection,
)
from edgeice.peer.link import HELD_LIMIT
from edgeice.peer.routes import REQUEST_LIMIT
from edgeice.sansio import Action, DropCounter, Entropy, Event, Transmit, drain
from edgeice.sctp import MessageReceived
from tests.property.faults import Fault, damaged, faults_of
from tests.property.wire import repaired_stun

__all__ = ["Conversation", "End"]

#: Datagrams that the link keeps from one end before the attacker forgets the oldest.
_MEMORY = 32
#: Datagrams that may be replaced by their damaged copies: fewer than what retransmission is sure to repair.
_REPLACED = 4
_MESSAGES = 12


@cache
def _certificates() -> tuple[Certificate, Certificate]:
    return Certificate.generate(), Certificate.generate()


class End:
    """An Endpoint with its one session."""

    def __init__(self, world: Conversation, number: int) -> None:
        self.world = world
        self.base = Base(TransportAddress(f"192.0.2.{number + 1}", 4000), "eth0")
        config = EndpointConfig(stun=(f"stun:{_SERVER.ip}",) if world.asks else ())
        self.endpoint = Endpoint(config, entropy=Entropy.seeded(number))
        self.endpoint.base_added(self.base, now=world.now)
        role = Role.CONTROLLED if number and not world.conflict else Role.CONTROLLING
        self.session: Connection | IceConnection
        if world.raw:
            self.session = self.endpoint.connect_raw(role, now=world.now)
        else:
            self.session = self.endpoint.connect(_certificates()[number], role, now=world.now)
        self.events: list[Event] = []
        self.received: list[bytes | str] = []
        #: What was sent since the attacker asked.
        self.answers: list[Transmit] = []

    def drain(self) -> None:
        """Send and hear what there is."""
        drain(self.endpoint, self._act, self._hear)
        while (session := self.endpoint.poll_touched()) is not None:
            drain(session, self._act, self._hear)
        drain(self.session, self._act, self._hear)

    def _act(self, action: Action) -> None:
        assert isinstance(action, Transmit)
        self.answers.append(action)
        self.world.carry(self, action)

    def _hear(self, event: Event) -> None:
        if isinstance(event, DatagramReceived):
            self.received.append(event.data)
        elif isinstance(event, MessageReceived):
            self.received.append(event.data)
            assert isinstance(self.session, Connection)
            self.session.channels.consumed(event.charge, now=self.world.now)
        else:
            self.events.append(event)

    def receive(self, data: bytes, source: TransportAddress) -> None:
        """Take a datagram, whoever sent it."""
        path = Path(self.base.address, source)
        session = self.endpoint.receive_datagram(data, path, now=self.world.now)
        if session is not None:
            session.receive_datagram(data, path, now=self.world.now)
            session.batch_received(now=self.world.now)
        self.drain()

    @property
    def drops(self) -> int:
        """All that was dropped and counted."""
        if isinstance(self.session, Connection):
            own = sum(self.session.drop_counts().values())
        else:
            own = self.session._link.drops.total + self.session._link.ice.drops.total
        return own + self.endpoint.drops.total

    @property
    def reasons(self) -> set[str]:
        """Why."""
        counters = [self.endpoint.drops, self.session._link.drops, self.session._link.ice.drops]
        names = {reason for counter in counters for reason in counter.snapshot()}
        return names | set(self.session.drop_counts() if isinstance(self.session, Connection) else ())

    def tick(self) -> None:
        """Do all that is due, so that what is sent next is an answer."""
        for machine in (self.endpoint, self.session):
            machine.handle_timeout(now=self.world.now)
        self.drain()


class Conversation:
    """Two ends, the link between them, and the attacker on it.

    Args:
        script: What the attacker does (`faults`).
        raw: Plain datagrams over ICE, otherwise data channels.
        handshake: The attacker forges records of the DTLS handshake too, which has no proof against that.
        conflict: Both ends believe that they control.
        insider: What is forged may be signed with the right key, as by a peer that is broken or means ill.
        asks: The ends ask a STUN server, whose answers nobody signs.
    """

    def __init__(
        self,
        script: bytes,
        *,
        raw: bool,
        handshake: bool = False,
        conflict: bool = False,
        insider: bool = False,
        asks: bool = False,
    ) -> None:
        self.now = 100.0
        self.asks = asks
        self._insider = insider
        self.raw = raw
        self.conflict = conflict
        self._handshake = handshake
        self._faults: dict[int, list[Fault]] = {}
        for number, fault in faults_of(script):
            self._faults.setdefault(number, []).append(fault)
        self._count = 0
        self._replaced = 0
        #: Datagrams that the attacker got delivered: plain ones cannot be told from the peer's.
        self._planted = 0
        self._honest: dict[bytes, None] = {}
        self._flying: list[tuple[float, int, Transmit, bool]] = []
        self._order = itertools.count()
        self.ends = a, b = End(self, 0), End(self, 1)
        #: From where data is taken for the peer's: its address, and where one of its checks was repeated from.
        self._vouched = {(a, b.base.address), (b, a.base.address)}

    # The link

    def carry(self, sender: End, sent: Transmit) -> None:
        """Let a datagram travel, and what the attacker makes of it."""
        if sent.path.remote == _SERVER:
            answer = stun.success_response(stun.decode(sent.data), sent.path.local)
            sent = Transmit(Path(_SERVER, sent.path.local), answer)
        if self._at(sent.path.remote) is None:
            return  # to whom the attacker said that it is
        self._honest[sent.data] = None
        faults = self._faults.pop(self._count, [])
        self._count += 1
        is_replaced = False
        for fault in faults:
            data = damaged(sent.data, fault, list(self._honest)[-_MEMORY:])
            if self._insider and fault.origin & 0x20 and stun.is_stun(sent.data):
                self._make_up(sender, sent, fault)
                continue
            if fault.origin & 0x40 and stun.is_stun(data):
                data = repaired_stun(data, self._key_for(sender, data))
            elif fault.origin & 0x08 and stun.is_stun(sent.data) and len(data) >= 20:
                data = data[:2] + (len(data) - 20 & 0xFFFC).to_bytes(2, "big") + data[4 : len(data) & ~3]
            if self._may_send(data):
                source = (sent.path.local, *_SOURCES)[fault.origin % 4]
                self._fly(Transmit(Path(source, sent.path.remote), data), 0.0005 * (fault.origin >> 4 & 3), forged=True)
                is_replaced |= bool(fault.origin & 0x80) and stun.is_stun(sent.data)
        if is_replaced and self._replaced < _REPLACED:
            self._replaced += 1
        else:
            self._fly(sent, 0.001, forged=False)

    def _key_for(self, sender: End, data: bytes) -> bytes:
        """What a message of an end's is signed with: the receiver's password, or its own for an answer."""
        if not self._insider:
            return b"no key that anybody has"
        is_answer = bool(data[0] & 1)
        signer = sender if is_answer else self.ends[sender is self.ends[0]]
        return signer.session._link.ice.local_credentials.key

    def _make_up(self, sender: End, sent: Transmit, fault: Fault) -> None:
        """Send a signed message of any class: answers to the one that asks, in its transaction."""
        receiver = self.ends[sender is self.ends[0]]
        names = (each.session._link.ice.local_credentials.ufrag for each in (receiver, sender))
        attributes: list[tuple[stun.Attribute, object]] = [(stun.Attribute.USERNAME, ":".join(names))]
        attributes += [each for bit, each in enumerate(_ATTRIBUTES) if fault.place >> bit & 1]
        attributes.append((stun.Attribute.ERROR_CODE, stun.ErrorCode(_CODES[fault.value % len(_CODES)], "")))
        message_class = stun.MessageClass(fault.kind % 4)
        transaction_id = sent.data[8:20] if fault.value & 0x300 else fault.value.to_bytes(12, "big")
        key = receiver.session._link.ice.local_credentials.key  # of requests to it, and of its own answers
        data = stun.encode(stun.Method.BINDING, message_class, transaction_id, attributes, key=key)
        is_answer = message_class in (stun.MessageClass.SUCCESS, stun.MessageClass.ERROR)
        path = Path(sent.path.remote, sent.path.local) if is_answer else sent.path
        self._fly(Transmit(path, data), 0.0005 * (fault.origin >> 2 & 3), forged=True)

    def _may_send(self, data: bytes) -> bool:
        if self.raw or self._handshake or stun.is_stun(data):
            return True
        return all(end.session.state is ConnectionState.CONNECTED for end in self.ends)

    def _fly(self, sent: Transmit, delay: float, *, forged: bool) -> None:
        heapq.heappush(self._flying, (self.now + delay, next(self._order), sent, forged))

    def _at(self, address: TransportAddress) -> End | None:
        return next((end for end in self.ends if end.base.address == address), None)

    def _land(self, sent: Transmit, *, forged: bool) -> None:
        end = self._at(sent.path.remote)
        assert end is not None
        if forged:
            self._attack(end, sent)
        else:
            end.receive(sent.data, sent.path.local)

    def _attack(self, end: End, sent: Transmit) -> None:
        """Give an end a forged datagram, and look at what comes of it."""
        end.tick()
        end.answers.clear()
        drops, received, believed = end.drops, len(end.received), end.session._link.ice.authenticated
        end.receive(sent.data, sent.path.local)
        is_stun = stun.is_stun(sent.data)
        planted = end.received[received:]
        is_proved = self._is_proved(sent.data) if is_stun else self._is_honest(sent.data)
        if is_proved and is_stun:
            self._vouched.add((end, sent.path.local))  # a replayed check is the peer's, wherever it comes from
        assert is_proved or end.session._link.ice.authenticated == believed, "nobody signed that"
        if planted and not is_proved:
            assert self.raw, "data that nobody sent"
            assert planted == [sent.data]
            assert self._insider or (end, sent.path.local) in self._vouched, "data of a stranger"
        self._planted += len(planted)
        answers = [answer for answer in end.answers if is_stun and answer.data[8:20] == sent.data[8:20]]
        for answer in answers:
            assert answer.path.remote == sent.path.local
            assert len(answer.data) <= len(sent.data), "the answer is larger than the request"
        if self._handshake or self._insider:
            return  # OpenSSL may take it, drop it and answer it without a word; the peer may do what it likes
        if sent.path.local == _SERVER:
            return  # nobody signs what servers answer
        if not is_proved:
            assert len(end.answers) <= 1, "several datagrams for one that nobody proved"
            assert end.answers == answers, "a stranger made this end send something"
        is_keepalive = is_stun and sent.data[:2] == _INDICATION
        assert is_proved or planted or answers or is_keepalive or end.drops > drops, "dropped without being counted"

    def _is_honest(self, data: bytes) -> bool:
        """Whether a datagram is one of the session's, or holds a whole record of it."""
        if data in self._honest or self.raw:
            return data in self._honest
        records = split_records(sift_records(data, DropCounter()))
        return any(record in datagram for record in records for datagram in self._honest)

    def _is_proved(self, data: bytes) -> bool:
        """Whether a STUN message is signed, as it still is where only what stands behind the integrity is changed."""
        try:
            message = stun.decode(data)
        except DecodeError:
            return False
        generations = [generation for each in self.ends for generation in each.session._link.ice._slots.all()]
        for key in {generation.local.key for generation in generations}:
            with suppress(stun.AuthenticationError):
                stun.authenticate(message, key)
                return True
        return False

    # Time

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let so much virtual time pass, or less."""
        end_at = self.now + seconds
        for _ in range(20_000):
            for end in self.ends:
                end.drain()
            if until():
                return
            machines = [machine for end in self.ends for machine in (end.endpoint, end.session)]
            at = min((at for machine in machines if (at := machine.next_timeout()) is not None), default=math.inf)
            if self._flying:
                at = min(at, self._flying[0][0])
            if at > end_at:
                self.now = end_at
                return
            self.now = max(self.now, at)
            if self._flying and self._flying[0][0] <= self.now:
                _at, _order, sent, forged = heapq.heappop(self._flying)
                self._land(sent, forged=forged)
            else:
                for machine in machines:
                    machine.handle_timeout(now=self.now)
        raise AssertionError("time does not pass")

    # What the two want

    def meet(self) -> None:
        """Exchange descriptions and candidates, which the attacker does not see."""
        a, b = (end.session for end in self.ends)
        if isinstance(a, Connection) and isinstance(b, Connection):
            a.accept_answer(b.accept_offer(a.create_offer(now=self.now), now=self.now), now=self.now)
            return
        assert isinstance(a, IceConnection)
        assert isinstance(b, IceConnection)
        for one, other in ((a, b), (b, a)):
            other.set_remote(RemoteParameters(credentials=one.credentials), now=self.now)
        for one, other in ((a, b), (b, a)):
            for line in one.local_candidates(now=self.now)[0]:
                other.add_remote_candidate(line, one.credentials.ufrag, now=self.now)
            other.end_of_candidates(one.credentials.ufrag, now=self.now)

    def restart(self) -> None:
        """Begin a new generation beside the one that carries the session."""
        a, b = (end.session for end in self.ends)
        if isinstance(a, Connection) and isinstance(b, Connection):
            a.accept_answer(b.accept_offer(a.restart(now=self.now), now=self.now), now=self.now)
            return
        assert isinstance(a, IceConnection)
        assert isinstance(b, IceConnection)
        a.restart(now=self.now)
        b.restart(now=self.now)
        self.meet()

    @property
    def connected(self) -> bool:
        """Whether both can send."""
        return all(end.session.state is ConnectionState.CONNECTED for end in self.ends)

    def send(self, end: End, data: bytes) -> None:
        """Send one message."""
        if isinstance(end.session, Connection):
            end.session.channels.send(_CHANNEL, data, now=self.now)
            end.session.flush(now=self.now)
        else:
            end.session.send(data)
        end.drain()

    def talk(self) -> None:
        """Send messages both ways; all of them arrive, in their order and once, and nothing else does."""
        said: list[list[bytes | str]] = [[], []]
        self._planted = 0
        for end in self.ends:
            end.received.clear()
        for number in range(_MESSAGES):
            for side, end in enumerate(self.ends):
                data = bytes((0x80 + side, number)) * (1 + 40 * (number % 5))  # no protocol's first byte
                said[side].append(data)
                self.send(end, data)
            self.run(0.02)
        self.run(5.0)
        for side, end in enumerate(self.ends):
            arrived = iter(end.received)
            assert all(data in arrived for data in said[1 - side]), "lost, or out of order"
        expected = 2 * _MESSAGES + (self._planted if self.raw else 0)
        assert sum(len(end.received) for end in self.ends) == expected

    def check_bounds(self) -> None:
        """No table is larger than it says, and drops are counted by reasons of this code."""
        for end in self.ends:
            routes, link = end.endpoint._routes, end.session._link
            assert len(routes._asked) + len(routes._asked_before) <= REQUEST_LIMIT
            assert len(routes) <= 64 + 3
            assert len(link._held) <= HELD_LIMIT
            for generation in link.ice._slots.all():
                assert len(generation.heard) <= 128
                assert len(list(generation.checklist)) <= link.ice.config.max_pairs
            assert all(_REASON.fullmatch(reason) for reason in end.reasons)


#: The first of the DTLS server, which an offerer of actpass is.
_CHANNEL = 1
_SERVER = TransportAddress("198.51.100.200", 3478)
_CODES = (300, 400, 401, 403, 420, 438, 487, 500, 699)
_ATTRIBUTES: tuple[tuple[stun.Attribute, object], ...] = (
    (stun.Attribute.PRIORITY, 0x7FFFFFFF),
    (stun.Attribute.ICE_CONTROLLING, 0),
    (stun.Attribute.ICE_CONTROLLING, (1 << 64) - 1),
    (stun.Attribute.ICE_CONTROLLED, 0),
    (stun.Attribute.ICE_CONTROLLED, (1 << 64) - 1),
    (stun.Attribute.USE_CANDIDATE, True),
    (stun.Attribute.NOMINATION, 7),
    (stun.Attribute.XOR_MAPPED_ADDRESS, TransportAddress("198.51.100.77", 7)),
    (stun.Attribute.XOR_MAPPED_ADDRESS, TransportAddress("2001:db8::1", 7)),
    (stun.Attribute.XOR_RELAYED_ADDRESS, TransportAddress("198.51.100.77", 7)),
    (stun.Attribute.UNKNOWN_ATTRIBUTES, (0x7A01,)),
    (stun.Attribute.ALTERNATE_SERVER, TransportAddress("198.51.100.78", 7)),
)
_INDICATION = b"\x00\x11"
_REASON = re.compile(r"[a-z0-9._-]{3,40}")
#: Where else an attacker can send from: another port of the peer's host, of which it may hold one, and elsewhere.
_SOURCES = (
    TransportAddress("192.0.2.1", 4001),
    TransportAddress("192.0.2.2", 53),
    TransportAddress("198.51.100.9", 4000),
)
