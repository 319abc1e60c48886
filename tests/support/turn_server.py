"""A TURN server without sockets for one client, and the two of them on a clock that only tests move."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from itertools import count
from typing import Literal

from edgeice.addresses import TransportAddress
from edgeice.sansio import Entropy, Event
from edgeice.stun import (
    Attribute,
    AuthenticationError,
    ErrorCode,
    Message,
    MessageClass,
    Method,
    PasswordAlgorithm,
    PasswordAlgorithmEntry,
    authenticate,
    decode,
    encode,
    long_term_key,
)
from edgeice.turn import Allocation, TurnCredentials
from edgeice.turn.framing import Deframer, decode_channel_data, encode_channel_data

SERVER = TransportAddress("192.0.2.15", 3478)
MAPPED = TransportAddress("203.0.113.7", 40000)
RELAYED = TransportAddress("192.0.2.15", 50000)
RELAYED_6 = TransportAddress("2001:db8::15", 50000)
REALM = "example.org"
CREDENTIALS = TurnCredentials("dev-7", "north")
PEER = TransportAddress("198.51.100.3", 7000)
OTHER = TransportAddress("198.51.100.4", 7001)

SHA256 = PasswordAlgorithmEntry(PasswordAlgorithm.SHA256)
MD5 = PasswordAlgorithmEntry(PasswordAlgorithm.MD5)


class TurnServer:
    """Answers one client; what it is to do otherwise than well, tests say."""

    def __init__(self) -> None:
        self.users = {CREDENTIALS.username: CREDENTIALS.password}
        self.realm = REALM
        self.nonce = b"nonce-1"
        #: None for a server of before RFC 8489.
        self.algorithms: tuple[PasswordAlgorithmEntry, ...] | None = None
        self.lifetime = 600
        self.relayed = [RELAYED]
        #: Error codes to answer with, signed, by method; each once.
        self.errors: dict[int, deque[int]] = {}
        #: Attributes to add to these.
        self.error_attributes: list[tuple[int, object]] = []
        #: Says what to send instead of an answer, None for the usual one.
        self.hook: Callable[[Message], list[bytes] | None] = lambda _message: None
        #: Requests that arrived, repetitions included.
        self.requests: list[Message] = []
        self.allocated_until: float | None = None
        #: Allocations that were deleted.
        self.deleted = 0
        self.permissions: dict[str, float] = {}
        self.channels: dict[int, tuple[TransportAddress, float]] = {}
        #: What peers got.
        self.relayed_data: list[tuple[TransportAddress, bytes]] = []
        #: Relay nothing, and so object to nothing, where the client believes what the server never said.
        self.is_deaf = False
        #: What it makes of RFC 8016: gives tickets, ignores the attribute, or forbids it.
        self.mobility: Literal["given", "ignored", "forbidden"] = "ignored"
        #: Tickets so far; the last one is good.
        self.tickets: list[bytes] = []
        #: Whether the client sends from where the allocation is; a ticket changes that.
        self.is_here = True

    def counted(self) -> Counter[str]:
        """Requests by method."""
        return Counter(Method(message.method).name for message in self.requests)

    def receive(self, data: bytes, now: float) -> list[bytes]:
        """Take a datagram or message of the client; what goes back."""
        if self.is_deaf and (data[0] >= 0x40 or decode(data).message_class is MessageClass.INDICATION):
            return []
        if data[0] >= 0x40:
            number, payload = decode_channel_data(data)
            peer, until = self.channels[number]
            assert now < until, "the channel is over"
            self.relay(peer, payload, now)
            return []
        message = decode(data)
        if message.message_class is MessageClass.INDICATION:
            if message.method == Method.SEND:
                assert not message.has_integrity
                peer_address, sent = message.get(Attribute.XOR_PEER_ADDRESS), message.get(Attribute.DATA)
                assert peer_address is not None
                assert sent is not None
                self.relay(peer_address, sent, now)
            return []
        self.requests.append(message)
        hooked = self.hook(message)
        return self._answer(message, now) if hooked is None else hooked

    def relay(self, peer: TransportAddress, data: bytes, now: float) -> None:
        assert self.allocated_until is not None
        assert now < self.allocated_until, "the allocation is over"
        assert now < self.permissions.get(peer.ip, 0.0), f"no permission for {peer.ip}"
        self.relayed_data.append((peer, data))

    # What a peer sent to the relayed address.

    def indication(self, peer: TransportAddress, data: bytes | None, *more: tuple[int, object]) -> bytes:
        """A Data indication."""
        attributes: list[tuple[int, object]] = [(Attribute.XOR_PEER_ADDRESS, peer), *more]
        if data is not None:
            attributes.append((Attribute.DATA, data))
        return encode(Method.DATA, MessageClass.INDICATION, bytes(12), attributes, fingerprint=False)

    # Answers

    def key_of(self, message: Message) -> bytes:
        """The key of a request's user."""
        name = message.get(Attribute.USERNAME)
        algorithm = PasswordAlgorithm.MD5
        chosen = message.get(Attribute.PASSWORD_ALGORITHM)
        if chosen is not None:
            algorithm = PasswordAlgorithm(chosen.algorithm)
        return long_term_key(name or "?", self.realm, self.users.get(name or "?", "?"), algorithm)

    def signed(
        self, request: Message, message_class: MessageClass, attributes: list[tuple[int, object]], **options: bytes
    ) -> bytes:
        """A response that the client believes."""
        return encode(
            request.method,
            message_class,
            request.transaction_id,
            attributes,
            key=options.get("key", self.key_of(request)),
            integrity="sha256" if Attribute.PASSWORD_ALGORITHM in request else "sha1",
            fingerprint=False,
        )

    def success(self, request: Message, attributes: list[tuple[int, object]]) -> bytes:
        """A signed success response."""
        return self.signed(request, MessageClass.SUCCESS, attributes)

    def error(self, request: Message, code: int, *attributes: tuple[int, object]) -> bytes:
        """A signed error response."""
        return self.signed(request, MessageClass.ERROR, [(Attribute.ERROR_CODE, ErrorCode(code)), *attributes])

    def unsigned_error(self, request: Message, code: int, *attributes: tuple[int, object]) -> bytes:
        """An error response that anybody could have sent."""
        return encode(
            request.method,
            MessageClass.ERROR,
            request.transaction_id,
            [(Attribute.ERROR_CODE, ErrorCode(code)), *attributes],
            fingerprint=False,
        )

    def challenge(self, request: Message, code: int) -> bytes:
        """401 or 438."""
        attributes: list[tuple[int, object]] = [(Attribute.REALM, self.realm), (Attribute.NONCE, self.nonce)]
        if self.algorithms is not None:
            attributes.append((Attribute.PASSWORD_ALGORITHMS, self.algorithms))
        return self.unsigned_error(request, code, *attributes)

    def _answer(self, request: Message, now: float) -> list[bytes]:  # noqa: PLR0911  # a rule of the RFC each
        if not request.has_integrity:
            return [self.challenge(request, 401)]
        if request.get(Attribute.NONCE) != self.nonce:
            return [self.challenge(request, 438)]
        try:
            authenticate(request, self.key_of(request))
        except AuthenticationError:
            return [self.challenge(request, 401)]
        if errors := self.errors.get(request.method):
            return [self.error(request, errors.popleft(), *self.error_attributes)]
        if request.method == Method.ALLOCATE:
            return [self._allocate(request, now)]
        if not self.is_here:
            return [self._move(request, now)]
        if self.allocated_until is None or self.allocated_until <= now:
            return [self.error(request, 437)]
        if request.method == Method.REFRESH:
            return [self._refresh(request, now)]
        peer = request.get(Attribute.XOR_PEER_ADDRESS)
        assert peer is not None
        if request.method == Method.CHANNEL_BIND:
            number = request.get(Attribute.CHANNEL_NUMBER)
            assert number is not None
            self._check_binding(number, peer, now)
            self.channels[number] = (peer, now + 600)
        self.permissions[peer.ip] = now + 300
        return [self.success(request, [])]

    def _check_binding(self, number: int, peer: TransportAddress, now: float) -> None:
        for bound, (other, until) in self.channels.items():
            if now < until + 300:
                assert (bound == number) == (other == peer), "number or peer is bound otherwise"

    def _allocate(self, request: Message, now: float) -> bytes:
        ticket = request.get(Attribute.MOBILITY_TICKET)
        if ticket is not None and self.mobility == "forbidden":
            return self.error(request, 405)
        if ticket:
            return self.error(request, 400)  # RFC 8016 §3.1.2
        self.is_here = True
        self.allocated_until = now + self.lifetime
        attributes: list[tuple[int, object]] = [(Attribute.XOR_RELAYED_ADDRESS, each) for each in self.relayed]
        attributes += [(Attribute.XOR_MAPPED_ADDRESS, MAPPED), (Attribute.LIFETIME, self.lifetime)]
        if ticket is not None and self.mobility == "given":
            attributes.append((Attribute.MOBILITY_TICKET, self._new_ticket()))
        return self.success(request, attributes)

    def _new_ticket(self) -> bytes:
        self.tickets.append(b"ticket %d" % len(self.tickets))
        return self.tickets[-1]

    def _move(self, request: Message, now: float) -> bytes:
        """Move the allocation to where the client is, if it has the newest ticket (RFC 8016 §3.2.2)."""
        if self.allocated_until is None or self.allocated_until <= now or not self.tickets:
            return self.error(request, 437)
        if request.method != Method.REFRESH or request.get(Attribute.MOBILITY_TICKET) != self.tickets[-1]:
            return self.error(request, 437)
        self.is_here = True
        if request.get(Attribute.LIFETIME) == 0:
            self.allocated_until = None
            self.deleted += 1
            return self.success(request, [(Attribute.LIFETIME, 0)])
        self.allocated_until = now + self.lifetime
        return self.success(
            request, [(Attribute.LIFETIME, self.lifetime), (Attribute.MOBILITY_TICKET, self._new_ticket())]
        )

    def _refresh(self, request: Message, now: float) -> bytes:
        if Attribute.MOBILITY_TICKET in request:
            return self.error(request, 400)  # RFC 8016 §3.2.2: the allocation is here
        if request.get(Attribute.LIFETIME) == 0:
            self.allocated_until = None
            self.deleted += 1
            return self.success(request, [(Attribute.LIFETIME, 0)])
        self.allocated_until = now + self.lifetime
        return self.success(request, [(Attribute.LIFETIME, self.lifetime)])


class Link:
    """An allocation and its server, without delay; nothing moves but in `advance`.

    Args:
        server: The server.
        stream: Over a stream, whose parts arrive as `chunk` bytes at a time.
        options: The other arguments of `Allocation`.
    """

    def __init__(self, server: TurnServer | None = None, *, stream: bool = False, **options: object) -> None:
        self.server = server or TurnServer()
        self.now = 1000.0
        self.lost: Callable[[int, bytes], bool] = lambda _index, _data: False
        #: Everything that the client sent, with the time.
        self.sent: list[tuple[float, bytes]] = []
        self.events: list[Event] = []
        self.received: list[tuple[TransportAddress, bytes]] = []
        self._deframer = Deframer() if stream else None
        arguments: dict[str, object] = {
            "stream": stream,
            "credentials": CREDENTIALS,
            "family": 4,
            "entropy": Entropy.seeded(7),
            "now": self.now,
        }
        self.allocation = Allocation(SERVER, **(arguments | options))  # type: ignore[arg-type]

    def exchange(self) -> None:
        """Let both talk until neither has anything to say; raises if they never end."""
        for index in count():
            assert index < 20_000, "they talk for ever"
            data = self.allocation.poll_transmit()
            if data is None:
                break
            self.sent.append((self.now, data))
            if self.lost(len(self.sent) - 1, data):
                continue
            for message in [data] if self._deframer is None else self._deframer.feed(data):
                for answer in self.server.receive(message, self.now):
                    self.allocation.receive(answer, now=self.now)
        self.collect()

    def collect(self) -> None:
        """Take what the allocation has for its owner."""
        while (event := self.allocation.poll_event()) is not None:
            self.events.append(event)
        while (datagram := self.allocation.poll_data()) is not None:
            self.received.append(datagram)

    def advance(self, seconds: float) -> None:
        """Let time pass, with everything that happens meanwhile."""
        end = self.now + seconds
        for _ in range(100_000):
            at = self.allocation.next_timeout()
            if at is None or at > end:
                break
            self.now = max(self.now, at)
            self.allocation.handle_timeout(now=self.now)
            self.exchange()
        else:
            raise AssertionError("the clock stands still")
        self.now = end

    def allocate(self) -> Link:
        """Bring the allocation to stand."""
        self.exchange()
        assert self.allocation.state.value == "allocated", self.events
        return self

    def send(self, peer: TransportAddress, data: bytes) -> None:
        """Send to a peer, and let both talk."""
        self.allocation.send(peer, data, now=self.now)
        self.exchange()

    def bind(self, peer: TransportAddress) -> bool:
        """Bind a channel, and let both talk."""
        bound = self.allocation.bind(peer, now=self.now)
        self.exchange()
        return bound

    def close(self) -> None:
        """Close, and let both talk."""
        self.allocation.close(now=self.now)
        self.exchange()

    def from_peer(self, peer: TransportAddress, data: bytes, *, channel: int | None = None) -> None:
        """A datagram that arrives at the relayed address."""
        if channel is None:
            message = self.server.indication(peer, data)
        else:
            message = encode_channel_data(channel, data, padded=self._deframer is not None)
        self.allocation.receive(message, now=self.now)
        self.collect()
