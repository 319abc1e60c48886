"""What data channels tell their owner."""

from __future__ import annotations

import attrs

from edgeice.sansio import Event

__all__ = [
    "AssociationClosed",
    "AssociationEstablished",
    "BufferedAmountLow",
    "ChannelClosed",
    "ChannelOpened",
    "MessageReceived",
]


@attrs.frozen
class AssociationEstablished(Event):
    """Data can flow."""


@attrs.frozen
class AssociationClosed(Event):
    """The association ended; a ChannelClosed for each channel came before (RFC 8831 §6.2)."""

    reason: str
    #: Something failed; False after a shutdown, or where an end's application closed the association.
    broken: bool


@attrs.frozen
class ChannelOpened(Event):
    """A channel is open at both ends: the peer opened it, or acknowledged ours."""

    channel_id: int
    label: str
    protocol: str
    ordered: bool
    #: The peer opened it.
    incoming: bool


@attrs.frozen
class MessageReceived(Event):
    """A whole message; text arrives as str."""

    channel_id: int
    data: bytes | str
    #: Bytes that it takes of the receive window, bookkeeping included, until `DataChannels.consumed` is told so.
    charge: int


@attrs.frozen
class ChannelClosed(Event):
    """A channel is closed; nothing more comes from it or can be sent on it."""

    channel_id: int
    reason: str
    #: Something failed: the association, or the peer's use of the channel.
    broken: bool = False


@attrs.frozen
class BufferedAmountLow(Event):
    """The channel's unsent bytes fell to its mark or below."""

    channel_id: int
