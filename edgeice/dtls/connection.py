"""One DTLS 1.2 connection over OpenSSL's memory BIOs (RFC 6347, RFC 8842).

OpenSSL does the cryptography, the handshake and its reassembly, and the replay window.  This module gives it
datagrams, cuts its output into datagrams, and stands between it and the data: not one byte leaves `poll_data` before
the peer's certificate matches a fingerprint of the session description (RFC 8122 §6.2).  A handshake can outrun the
answer that carries those; what arrives meanwhile is decrypted and held, up to a limit, in the state VERIFYING.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Literal

from OpenSSL import SSL, crypto

from edgeice.dtls.certificate import Certificate
from edgeice.dtls.events import DtlsClosed, DtlsFailed, DtlsInput, DtlsState, HandshakeCompleted, next_state
from edgeice.dtls.fingerprint import ExpectedFingerprints, select_fingerprints
from edgeice.dtls.record import (
    HEADER_LENGTH,
    SHORTEST_CHACHA,
    SHORTEST_GCM,
    ContentType,
    is_single_record,
    pack_datagrams,
    sift_records,
    split_records,
)
from edgeice.dtls.retransmit import RetransmissionTimer
from edgeice.errors import LocalProtocolError
from edgeice.sansio import BoundedQueue, DropCounter, Event

__all__ = ["RECORD_OVERHEAD", "DtlsConnection", "Role"]

Role = Literal["client", "server"]

#: What a record adds to its plaintext at most: header, explicit nonce and tag of AES-GCM.
RECORD_OVERHEAD = HEADER_LENGTH + 8 + 16

_MAX_PLAINTEXT = 2**14  # RFC 5246 §6.2.1
_READ_SIZE = 2**14 + 2048
_FLIGHT_SIZE = 2**16
#: Datagrams kept before `start`: the peer's first flight may come before this side has a valid pair.
_EARLY_LIMIT = 4
#: Records held while VERIFYING, and records that wait for `poll_data`; the newest beyond that are dropped.
_HELD_LIMIT = 64
_DATA_LIMIT = 1024
#: Bytes that wait for `poll_transmit`; further records are dropped.
_TRANSMIT_LIMIT = 2**20

_BAD_CERTIFICATE = 42  # RFC 5246 §7.2.2
#: Reasons for which the peer is told bad_certificate (RFC 8122 §6.2).
_CERTIFICATE_REASONS = frozenset({"fingerprint-mismatch", "fingerprint-unusable", "no-certificate"})


class DtlsConnection:
    """The DTLS end of one session.

    `role` follows `a=setup`: active is the client (RFC 8842 §5).  `mtu` bounds the datagrams of the handshake, in
    bytes of UDP payload; application records are as long as the caller makes them, see `max_payload`.

    After each input or command empty `poll_transmit`, `poll_data` and `poll_event`, then read `next_timeout`.  The
    clock behind `next_timeout` is OpenSSL's: `now` must run at the speed of real time while a handshake is under way.
    """

    __slots__ = (
        "_data",
        "_early",
        "_established",
        "_events",
        "_expected",
        "_fingerprints_known",
        "_mtu",
        "_outgoing",
        "_refusal",
        "_role",
        "_shortest",
        "_ssl",
        "_state",
        "_timer",
        "_unread",
        "authenticated",
        "drops",
    )

    def __init__(self, certificate: Certificate, role: Role, mtu: int = 1200) -> None:
        if not 256 <= mtu <= _MAX_PLAINTEXT:
            raise LocalProtocolError(f"mtu out of range: {mtu}")
        self._role = role
        self._mtu = mtu
        self._ssl = certificate.open_connection(self._is_acceptable)
        self._ssl.set_ciphertext_mtu(mtu)
        if role == "client":
            self._ssl.set_connect_state()
        else:
            self._ssl.set_accept_state()
        self._timer = RetransmissionTimer(self._ssl)
        self._state = DtlsState.NEW
        #: Says the same as `_state`, for the paths that each packet takes.
        self._established = False
        self._fingerprints_known = False
        self._expected: ExpectedFingerprints | None = None
        #: Least body of a protected record.  During the handshake, which has none so short, the greatest such value.
        self._shortest = SHORTEST_GCM
        #: Why the peer's certificate was refused inside OpenSSL's handshake.
        self._refusal = ""
        self._early: BoundedQueue[bytes] = BoundedQueue(_EARLY_LIMIT, "drop_oldest")
        self._data: deque[bytes] = deque()
        self._events: deque[Event] = deque()
        self._outgoing: deque[bytes] = deque()
        #: At least the number of bytes that stand in OpenSSL's outgoing BIO.
        self._unread = 0
        #: Records that were decrypted, and so are the peer's.
        self.authenticated = 0
        #: Records and datagrams that were dropped, by reason.
        self.drops = DropCounter()

    @property
    def role(self) -> Role:
        """`client` or `server`."""
        return self._role

    @property
    def state(self) -> DtlsState:
        """Where the connection stands."""
        return self._state

    @property
    def max_payload(self) -> int:
        """How many bytes `send` may take for the record to fit a datagram of `mtu` bytes."""
        return self._mtu - RECORD_OVERHEAD

    # Commands

    def set_remote_fingerprints(self, fingerprints: Iterable[tuple[str, str]], *, now: float) -> None:
        """Say which certificates the peer may have: (algorithm, value) pairs of its session description.

        May be called in any state before ESTABLISHED, also before `start`.  Held data is released, or the connection
        fails.  An empty or unusable set fits no certificate.
        """
        if self._state in (DtlsState.CLOSED, DtlsState.FAILED):
            return
        if self._established:
            raise LocalProtocolError("the peer's certificate is settled")
        self._expected = select_fingerprints(fingerprints)
        self._fingerprints_known = True
        if self._state is DtlsState.VERIFYING:
            self._verify()
            self._settle(now)

    def start(self, *, now: float) -> None:
        """Begin the handshake: a client sends its ClientHello, a server takes what came early."""
        self._step(DtlsInput.START)
        self._advance(now)
        while (datagram := self._early.pop()) is not None:
            self.receive_datagram(datagram, now=now)

    def send(self, data: bytes, *, now: float) -> bool:  # noqa: ARG002  (every command of a machine takes it)
        """Protect one message of 1 to 16384 bytes as one record and one datagram.

        False if it was dropped: the connection has ended, or 1 MiB waits for `poll_transmit`.  Raises
        LocalProtocolError before HandshakeCompleted and for other sizes.
        """
        if not self._established:
            if self._state in (DtlsState.CLOSED, DtlsState.FAILED):
                self.drops.count("sent-after-end")
                return False
            raise LocalProtocolError(f"DTLS cannot send while {self._state.name}")
        size = len(data)
        if not 0 < size <= _MAX_PLAINTEXT:
            raise LocalProtocolError(f"a DTLS record cannot hold {size} bytes")
        if self._unread > _TRANSMIT_LIMIT:
            self.drops.count("transmit-full")
            return False
        self._ssl.send(data)
        self._unread += size + RECORD_OVERHEAD
        return True

    def close(self, *, now: float) -> None:
        """End the connection; close_notify is sent once keys exist.  Does nothing when it has ended."""
        if self._state in (DtlsState.VERIFYING, DtlsState.ESTABLISHED):
            self._shut_down()
        self._early.clear()
        self._step(DtlsInput.CLOSE)
        self._settle(now)

    # Inputs

    def receive_datagram(self, data: bytes, *, now: float) -> None:
        """Take one datagram of this connection: one or several records."""
        if not self._established:
            if self._state is DtlsState.NEW:
                if not self._early.push(data):
                    self.drops.count("early-full")
                return
            if self._state in (DtlsState.CLOSED, DtlsState.FAILED):
                self.drops.count("received-after-end")
                return
        elif is_single_record(data, ContentType.APPLICATION_DATA) and len(data) >= HEADER_LENGTH + self._shortest:
            self._receive_record(data, now)
            return
        records = sift_records(data, self.drops, self._shortest)
        if not records:
            return
        before = self._established, self.authenticated, len(self._outgoing)
        self._ssl.bio_write(records)
        self._advance(now)
        if before == (True, self.authenticated, len(self._outgoing)) and self._established:
            self.drops.count("record-invalid")  # as below: OpenSSL does not say so

    def handle_timeout(self, *, now: float) -> None:
        """Repeat the flight that the peer has not answered, if its time has come."""
        try:
            if not self._timer.expire(now):
                return
        except SSL.Error as error:
            self._fail(*_explain(error, "timeout"))
        self._advance(now)

    # Outputs

    def next_timeout(self) -> float | None:
        """When OpenSSL wants to repeat a flight, None once the handshake needs nothing more."""
        return self._timer.at

    def poll_transmit(self) -> bytes | None:
        """The next datagram to send, None when there is none."""
        if not self._outgoing and self._unread:
            self._collect()
        return self._outgoing.popleft() if self._outgoing else None

    def poll_data(self) -> bytes | None:
        """The next decrypted record from the verified peer, None when there is none."""
        if self._data and self._state is not DtlsState.VERIFYING:
            return self._data.popleft()
        return None

    def poll_event(self) -> Event | None:
        """The next thing that the owner should know, None when there is none."""
        return self._events.popleft() if self._events else None

    # Inside

    def _step(self, occurred: DtlsInput) -> None:
        self._state = next_state(self._state, occurred)
        self._established = self._state is DtlsState.ESTABLISHED

    def _receive_record(self, record: bytes, now: float) -> None:
        """What `_advance` does, for the one record of application data that nearly every datagram is."""
        if len(self._data) >= _DATA_LIMIT:
            self.drops.count("data-full")
            return
        self._ssl.bio_write(record)
        try:
            self._data.append(self._ssl.recv(len(record)))
            self.authenticated += 1
        except SSL.WantReadError:
            self.drops.count("record-invalid")  # forged, replayed or empty (RFC 6347 §4.1.2.6, §4.1.2.7)
        except SSL.Error as error:
            self._read_failed(error)
            self._settle(now)

    def _advance(self, now: float) -> None:
        """Let OpenSSL do all that it can with what it has."""
        if self._state is DtlsState.HANDSHAKING:
            try:
                self._ssl.do_handshake()
            except SSL.WantReadError:
                pass
            except SSL.Error as error:
                self._handshake_failed(error)
            else:
                self._step(DtlsInput.FINISHED)
                if "CHACHA20" in (self._ssl.get_cipher_name() or ""):
                    self._shortest = SHORTEST_CHACHA
                if self._fingerprints_known:
                    self._verify()
        if self._state in (DtlsState.VERIFYING, DtlsState.ESTABLISHED):
            self._read()
        self._settle(now)

    def _settle(self, now: float) -> None:
        """Fetch OpenSSL's output and timer."""
        self._unread += _FLIGHT_SIZE
        self._collect()
        if self._state in (DtlsState.CLOSED, DtlsState.FAILED):
            self._timer.cancel()
            self._ssl.set_app_data(None)  # unties the knot of references, so that OpenSSL's 80 KiB go with this object
        else:
            self._timer.rearm(now)

    def _read(self) -> None:
        limit = _DATA_LIMIT if self._established else _HELD_LIMIT
        while True:
            try:
                data = self._ssl.recv(_READ_SIZE)
            except SSL.WantReadError:
                return
            except SSL.Error as error:
                self._read_failed(error)
                return
            self.authenticated += 1
            if len(self._data) < limit:
                self._data.append(data)
            else:
                self.drops.count("data-full")

    def _read_failed(self, error: SSL.Error) -> None:
        if isinstance(error, SSL.ZeroReturnError):
            self._shut_down()  # RFC 5246 §7.2.1: close_notify is answered
            if not self._established:
                self._data.clear()
            self._step(DtlsInput.CLOSE)
            self._events.append(DtlsClosed())
        else:
            self._fail(*_explain(error, "record"))

    def _handshake_failed(self, error: SSL.Error) -> None:
        reason, detail = _explain(error, "handshake")
        self._fail(self._refusal or reason, detail)

    def _is_acceptable(self, certificate: crypto.X509) -> bool:
        """Whether the handshake may go on with this certificate: OpenSSL asks as soon as it has it."""
        if self._fingerprints_known:
            self._refusal = self._objection(certificate)
        return not self._refusal

    def _objection(self, certificate: crypto.X509) -> str:
        """Why a certificate is not the peer's; empty when it is."""
        if self._expected is None:
            return "fingerprint-unusable"
        digest = certificate.digest(self._expected.digest_name)
        return "" if self._expected.matches(digest) else "fingerprint-mismatch"

    def _verify(self) -> None:
        """The gate: only here does a connection become ESTABLISHED."""
        certificate = self._ssl.get_peer_certificate()
        reason = "no-certificate" if certificate is None else self._objection(certificate)
        if certificate is None or reason:
            self._shut_down()  # the handshake is over, and pyOpenSSL can send no other alert than close_notify
            self._fail(reason)
            return
        self._step(DtlsInput.VERIFIED)
        cipher = self._ssl.get_cipher_name() or ""
        self._events.append(HandshakeCompleted(cipher, certificate.digest("sha256").decode()))

    def _fail(self, reason: str, detail: str = "") -> None:
        if not self._established:
            self._data.clear()
        self._unread += _FLIGHT_SIZE
        self._collect(bad_certificate=reason in _CERTIFICATE_REASONS)
        self._step(DtlsInput.FAIL)
        self._events.append(DtlsFailed(reason, detail))

    def _shut_down(self) -> None:
        try:
            self._ssl.shutdown()
        except SSL.Error:  # OpenSSL has already given the connection up; there is nobody to tell
            self.drops.count("close-notify")

    def _collect(self, *, bad_certificate: bool = False) -> None:
        """Move what OpenSSL wrote into datagrams."""
        chunks: list[bytes] = []
        while self._unread > 0:
            try:
                chunk = self._ssl.bio_read(self._unread)
            except SSL.WantReadError:
                break
            chunks.append(chunk)
            self._unread -= max(len(chunk), RECORD_OVERHEAD)
        self._unread = 0
        stream = b"".join(chunks)
        if bad_certificate:
            stream = b"".join(map(_name_bad_certificate, split_records(stream)))
        self._outgoing.extend(pack_datagrams(stream, self._mtu))


def _name_bad_certificate(record: bytes) -> bytes:
    """Put bad_certificate into a plaintext fatal alert: OpenSSL has no way to choose it from a callback."""
    if record[0] == ContentType.ALERT and record[3:5] == b"\0\0" and record[13:14] == b"\x02" and len(record) == 15:
        return record[:-1] + bytes([_BAD_CERTIFICATE])
    return record


def _explain(error: SSL.Error, otherwise: str) -> tuple[str, str]:
    """A reason slug and OpenSSL's words for an error."""
    if isinstance(error, SSL.ZeroReturnError):
        return "alert", "close_notify"
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    detail = "; ".join(str(entry[-1]) for entry in entries)
    if "did not return a certificate" in detail:
        return "no-certificate", detail
    if " alert " in detail:
        return "alert", detail
    return otherwise, detail
