"""A session with data channels in virtual time: OpenSSL keeps its own clock, so a plain stub stands in DTLS's place.

The stub has the shape of DTLS and none of its secrecy: a handshake of two flights that is repeated until answered,
records with sequence numbers, a window of 64 of them against repetition, the length that a record adds.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from typing import Final, Literal, cast

import attrs

from edgeice.dtls import Certificate, DtlsClosed, DtlsConnection, HandshakeCompleted
from edgeice.dtls.events import DtlsInput, DtlsState, next_state
from edgeice.ice import Role
from edgeice.peer import Connection, Endpoint
from edgeice.sansio import DropCounter, Event

__all__ = ["PlainConnection", "PlainDtls", "connect_plain"]

_OVERHEAD: Final = 37
_HELLO: Final = b"\x16"
_CLOSE: Final = b"\x15"
_DATA: Final = b"\x17"
_WINDOW: Final = 64
#: A flight is repeated so often, seconds: bad luck with it is not what is simulated.
_REPEATS: Final = 1.0
_EARLY_LIMIT: Final = 4


@attrs.frozen
class _PlainCertificate:
    """What identifies an end."""

    fingerprint: str


class PlainDtls:
    """One end, with the interface of `DtlsConnection`."""

    def __init__(self, fingerprint: str, role: Literal["client", "server"], mtu: int) -> None:
        self.role = role
        self.state = DtlsState.NEW
        self.max_payload = mtu - _OVERHEAD
        self.authenticated = 0
        self.drops = DropCounter()
        self._fingerprint = fingerprint
        self._expected: frozenset[str] | None = None
        self._presented = ""
        self._early: deque[bytes] = deque(maxlen=_EARLY_LIMIT)
        self._out: deque[bytes] = deque()
        self._data: deque[bytes] = deque()
        self._events: deque[Event] = deque()
        self._repeat_at: float | None = None
        self._sent = 0
        #: The highest number so far, and which of those before it came.
        self._highest, self._seen = -1, 0

    def set_remote_fingerprints(self, fingerprints: Iterable[tuple[str, str]], *, now: float) -> None:  # noqa: ARG002
        """Say what the peer must present."""
        self._expected = frozenset(value for _, value in fingerprints)
        self._verify()

    def start(self, *, now: float) -> None:
        """Begin."""
        self.state = next_state(self.state, DtlsInput.START)
        if self.role == "client":
            self._say_hello(now)
        while self._early:
            self.receive_datagram(self._early.popleft(), now=now)

    def send(self, data: bytes, *, now: float) -> bool:  # noqa: ARG002  # as of the real one
        """Send a record."""
        if self.state is not DtlsState.ESTABLISHED:
            self.drops.count("sent-after-end")
            return False
        self._out.append(_DATA + self._sent.to_bytes(8, "big") + bytes(_OVERHEAD - 9) + data)
        self._sent += 1
        return True

    def close(self, *, now: float) -> None:  # noqa: ARG002
        """End."""
        if self.state in (DtlsState.VERIFYING, DtlsState.ESTABLISHED):
            self._out.append(_CLOSE)
        self.state = next_state(self.state, DtlsInput.CLOSE)
        self._repeat_at = None

    def receive_datagram(self, data: bytes, *, now: float) -> None:
        """Take a record."""
        if self.state is DtlsState.NEW:
            self._early.append(data)
        elif data[:1] == _HELLO:
            self._take_hello(data, now)
        elif self.state is not DtlsState.ESTABLISHED:
            self.drops.count("early" if self.state is DtlsState.HANDSHAKING else "received-after-end")
        elif data[:1] == _DATA and len(data) > _OVERHEAD:
            if self._is_new(int.from_bytes(data[1:9], "big")):
                self.authenticated += 1
                self._data.append(data[_OVERHEAD:])
            else:
                self.drops.count("record-invalid")
        elif data == _CLOSE:
            self._out.append(_CLOSE)
            self.state = next_state(self.state, DtlsInput.CLOSE)
            self._events.append(DtlsClosed())

    def handle_timeout(self, *, now: float) -> None:
        """Repeat the flight that nobody answered."""
        if self._repeat_at is not None and now >= self._repeat_at:
            self._say_hello(now)

    def next_timeout(self) -> float | None:
        """When a flight is repeated."""
        return self._repeat_at

    def poll_transmit(self) -> bytes | None:
        """The next datagram."""
        return self._out.popleft() if self._out else None

    def poll_data(self) -> bytes | None:
        """The next record's content."""
        return self._data.popleft() if self._data else None

    def poll_event(self) -> Event | None:
        """The next thing to know."""
        return self._events.popleft() if self._events else None

    def _say_hello(self, now: float) -> None:
        self._out.append(_HELLO + self.role[:1].encode() + self._fingerprint.encode())
        if self.role == "client":
            self._repeat_at = now + _REPEATS

    def _take_hello(self, data: bytes, now: float) -> None:
        if data[1:2] not in b"cs" or data[1:2].decode() == self.role[:1]:
            self.drops.count("record-type")  # a probe of the simulation, or what came back
            return
        if self.state is DtlsState.HANDSHAKING:
            self._presented, self._repeat_at = data[2:].decode(), None
            self.state = next_state(self.state, DtlsInput.FINISHED)
            self._verify()
        if self.role == "server":
            self._say_hello(now)

    def _verify(self) -> None:
        if self.state is DtlsState.VERIFYING and self._expected is not None:
            if self._presented not in self._expected:
                raise AssertionError("the peer's certificate is another one")
            self.state = next_state(self.state, DtlsInput.VERIFIED)
            self._events.append(HandshakeCompleted("plain", self._presented))

    def _is_new(self, number: int) -> bool:
        if number > self._highest:
            self._seen = (self._seen << number - self._highest | 1) & (1 << _WINDOW) - 1
            self._highest = number
            return True
        bit = 1 << self._highest - number
        if bit >= 1 << _WINDOW or self._seen & bit:
            return False
        self._seen |= bit
        return True


class PlainConnection(Connection):
    """A session with data channels over the stub."""

    def _begin_dtls(self, role: Literal["client", "server"], now: float) -> None:
        if self._dtls is None:
            stub = PlainDtls(self._certificate.fingerprint, role, self._config.mtu)
            self._dtls = cast("DtlsConnection", stub)
            if role == "server":
                stub.start(now=now)
        super()._begin_dtls(role, now)


def connect_plain(endpoint: Endpoint, role: Role, name: str, *, now: float) -> PlainConnection:
    """What `Endpoint.connect` does, with the stub; `name` stands for the certificate."""
    certificate = cast("Certificate", _PlainCertificate(hashlib.sha256(name.encode()).digest().hex(":").upper()))
    session_id, link = endpoint._make_link(role, now)
    connection = PlainConnection(session_id, link, certificate, endpoint._config.connection, endpoint._entropy, now=now)
    endpoint._lend(session_id, connection, now)
    return connection
