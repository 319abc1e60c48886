"""SCTP for WebRTC data channels, below it DTLS (RFC 8831, RFC 8261).

`DataChannels` is what a session uses; see `association` for what is not supported.
"""

from edgeice.sctp.channels import DataChannels as DataChannels
from edgeice.sctp.config import SctpConfig as SctpConfig
from edgeice.sctp.congestion import CongestionControl as CongestionControl
from edgeice.sctp.congestion import Rfc9260 as Rfc9260
from edgeice.sctp.events import AssociationClosed as AssociationClosed
from edgeice.sctp.events import AssociationEstablished as AssociationEstablished
from edgeice.sctp.events import BufferedAmountLow as BufferedAmountLow
from edgeice.sctp.events import ChannelClosed as ChannelClosed
from edgeice.sctp.events import ChannelOpened as ChannelOpened
from edgeice.sctp.events import MessageReceived as MessageReceived

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
