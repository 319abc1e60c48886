"""DTLS 1.2 between two peers that know each other by certificate fingerprint (RFC 6347, RFC 8122, RFC 8842).

Not supported: DTLS 1.3, DTLS 1.0, renegotiation, session resumption, a server's cookie exchange (its peers have
passed an ICE check, RFC 6347 §4.2.1), and DTLS-SRTP (a profile is agreed on for peers that insist, no media is keyed).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeice.late import names_of

if TYPE_CHECKING:
    from edgeice.dtls.certificate import Certificate
    from edgeice.dtls.connection import RECORD_OVERHEAD, DtlsConnection, Role
    from edgeice.dtls.events import DtlsClosed, DtlsFailed, DtlsState, HandshakeCompleted
else:
    __getattr__ = names_of(
        __name__,
        certificate="Certificate",
        connection="RECORD_OVERHEAD DtlsConnection Role",
        events="DtlsClosed DtlsFailed DtlsState HandshakeCompleted",
    )

__all__ = [
    "RECORD_OVERHEAD",
    "Certificate",
    "DtlsClosed",
    "DtlsConnection",
    "DtlsFailed",
    "DtlsState",
    "HandshakeCompleted",
    "Role",
]
