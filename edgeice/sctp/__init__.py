"""SCTP for WebRTC data channels, below it DTLS (RFC 8831, RFC 8261).

`DataChannels` is what a session uses; see `association` for what is not supported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeice.late import names_of

if TYPE_CHECKING:
    from edgeice.sctp.channels import DataChannels
    from edgeice.sctp.config import SctpConfig
    from edgeice.sctp.congestion import CongestionControl, Rfc9260
    from edgeice.sctp.events import (
        AssociationClosed,
        AssociationEstablished,
        BufferedAmountLow,
        ChannelClosed,
        ChannelOpened,
        MessageReceived,
    )
else:
    __getattr__ = names_of(
        __name__,
        channels="DataChannels",
        config="SctpConfig",
        congestion="CongestionControl Rfc9260",
        events="AssociationClosed AssociationEstablished BufferedAmountLow ChannelClosed ChannelOpened MessageReceived",
    )

__all__ = [
    "AssociationClosed",
    "AssociationEstablished",
    "BufferedAmountLow",
    "ChannelClosed",
    "ChannelOpened",
    "CongestionControl",
    "DataChannels",
    "MessageReceived",
    "Rfc9260",
    "SctpConfig",
]
