"""The self-signed certificate that identifies this end of a DTLS connection, and OpenSSL's context around it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto

__all__ = ["Certificate"]

# A device without a real-time clock boots in 1970.  Peers check the fingerprint, not these (RFC 8122 §3.4), but none
# should find the certificate out of date; both fit UTCTime (RFC 5280 §4.1.2.5).
_NOT_BEFORE = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_AFTER = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)

_DTLS_1_2 = 0xFEFD
# RFC 8827 §6.5: the first is mandatory; the others let peers choose that lack AES instructions or want 256 bits.
_CIPHERS = b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384"
_OPTIONS = (
    SSL.OP_NO_QUERY_MTU  # a memory BIO cannot tell
    | SSL.OP_NO_RENEGOTIATION  # RFC 8827 §6.5
    | SSL.OP_NO_COMPRESSION  # RFC 8261 §5
    | SSL.OP_NO_TICKET  # no resumption: each connection proves its certificate
    | SSL.OP_CIPHER_SERVER_PREFERENCE
)


@attrs.frozen(eq=False)
class Certificate:
    """A P-256 key and its self-signed certificate (RFC 8827 §6.5), in memory only.

    One may serve any number of connections; they share its OpenSSL context.
    """

    #: The certificate in DER form.
    der: bytes
    #: SHA-256 over `der` as uppercase hex pairs separated by colons, the form of `a=fingerprint` (RFC 8122 §5).
    fingerprint: str
    _context: SSL.Context = attrs.field(repr=False)

    @classmethod
    def generate(cls) -> Certificate:
        """Make a new key and certificate with a random serial number and dates that hold for any clock."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "WebRTC")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_NOT_BEFORE)
            .not_valid_after(_NOT_AFTER)
            .sign(key, hashes.SHA256())
        )
        return cls(
            certificate.public_bytes(serialization.Encoding.DER),
            certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
            _make_context(key, certificate),
        )

    def open_connection(self, is_acceptable: Callable[[crypto.X509], bool]) -> SSL.Connection:
        """An OpenSSL connection over memory BIOs that asks `is_acceptable` about the peer's own certificate."""
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(is_acceptable)
        return connection


def _make_context(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_min_proto_version(_DTLS_1_2)
    context.set_max_proto_version(_DTLS_1_2)
    context.set_cipher_list(_CIPHERS)
    context.set_options(_OPTIONS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # RFC 5764 §4.1.1.  No media is keyed here, but aiortc gives up data channels too where no profile is agreed on.
    context.set_tlsext_use_srtp(b"SRTP_AES128_CM_SHA1_80")
    # RFC 8122 §6.2: both sides present a certificate.
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
    try:
        context.use_privatekey(key)
        context.use_certificate(certificate)
    except TypeError:  # pyOpenSSL before 24.3 takes its own types only, and later ones warn of them
        context.use_privatekey(crypto.PKey.from_cryptography_key(key))
        context.use_certificate(crypto.X509.from_cryptography(certificate))
    return context


def _verify(connection: SSL.Connection, certificate: crypto.X509, _error: int, depth: int, _ok: int) -> bool:
    """Decide by fingerprint alone: chains, names and dates mean nothing between self-signed ends."""
    is_acceptable: Callable[[crypto.X509], bool] = connection.get_app_data()
    return depth != 0 or is_acceptable(certificate)
