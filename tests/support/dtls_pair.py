"""Two DTLS connections face to face, and a bare OpenSSL end for what edgeice itself never sends."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL, crypto

from edgeice.dtls import Certificate, DtlsConnection
from edgeice.sansio import Event

__all__ = ["CLIENT", "SERVER", "DtlsPair", "bare_context", "bare_pump", "events", "fingerprint_of"]

CLIENT, SERVER = Certificate.generate(), Certificate.generate()


def fingerprint_of(certificate: Certificate) -> list[tuple[str, str]]:
    """What a session description says of a certificate."""
    return [("sha-256", certificate.fingerprint)]


def events(connection: DtlsConnection) -> list[Event]:
    """All events that wait."""
    found = []
    while (event := connection.poll_event()) is not None:
        found.append(event)
    return found


class DtlsPair:
    """A client and a server; `log` holds (sender's role, datagram) of all that was sent, lost datagrams too."""

    def __init__(self, *, mtu: int = 1200, told: bool = True) -> None:
        self.client = DtlsConnection(CLIENT, "client", mtu)
        self.server = DtlsConnection(SERVER, "server", mtu)
        self.log: list[tuple[str, bytes]] = []
        if told:
            self.client.set_remote_fingerprints(fingerprint_of(SERVER), now=0)
            self.server.set_remote_fingerprints(fingerprint_of(CLIENT), now=0)

    def other(self, end: DtlsConnection) -> DtlsConnection:
        """The peer of an end."""
        return self.server if end is self.client else self.client

    def start(self, now: float = 0) -> None:
        """Begin the handshake on both sides."""
        self.server.start(now=now)
        self.client.start(now=now)

    def pump(self, now: float = 0, *, lose: Callable[[int], bool] = lambda _index: False) -> None:
        """Carry datagrams over until none is left; `lose` is asked with each one's index in `log`."""
        moved = True
        while moved:
            moved = False
            for end in (self.client, self.server):
                while (datagram := end.poll_transmit()) is not None:
                    moved = True
                    self.log.append((end.role, datagram))
                    if not lose(len(self.log) - 1):
                        self.other(end).receive_datagram(datagram, now=now)

    def connect(self) -> DtlsPair:
        """Complete the handshake and forget its events."""
        self.start()
        self.pump()
        assert events(self.client)
        assert events(self.server)
        return self


def bare_context(*, certificate: bool = True) -> SSL.Context:
    """A context as other implementations might have it: any version, any cipher, no look at the peer's certificate."""
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_options(SSL.OP_NO_QUERY_MTU)
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    if certificate:
        pem, key = _bare_identity()
        try:
            context.use_privatekey(key)
            context.use_certificate(pem.to_cryptography())
        except TypeError:  # pyOpenSSL 23.0
            context.use_privatekey(crypto.PKey.from_cryptography_key(key))
            context.use_certificate(pem)
    return context


def _bare_identity() -> tuple[crypto.X509, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    day = datetime(2030, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(day).not_valid_after(day + timedelta(days=1))
    return crypto.X509.from_cryptography(builder.sign(key, hashes.SHA256())), key


def bare_pump(bare: SSL.Connection, end: DtlsConnection) -> SSL.Error | None:
    """Handshake between a bare end and one of edgeice's; the bare end's error, if it had one."""
    error = None
    for _ in range(20):
        try:
            bare.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error as failure:
            error = error or failure
        moved = False
        while True:
            try:
                end.receive_datagram(bare.bio_read(65536), now=0)
            except SSL.WantReadError:
                break
            moved = True
        while (datagram := end.poll_transmit()) is not None:
            moved = True
            bare.bio_write(datagram)
        if not moved:
            return error
    raise AssertionError("the handshake does not end")
