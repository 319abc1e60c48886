"""What can be set about sessions."""

from __future__ import annotations

import attrs

from edgeice.sctp import SctpConfig

__all__ = ["ConnectionConfig"]


@attrs.frozen(kw_only=True)
class ConnectionConfig:
    """What can be set about a session's data channels."""

    #: Size of the largest datagram sent, bytes (RFC 8831 §5: no path MTU discovery below SCTP).
    mtu: int = 1200
    sctp: SctpConfig = attrs.field(factory=SctpConfig)
