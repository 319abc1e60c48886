"""What is known of one data channel, and what its opening may ask for (RFC 8832 §5.1)."""

from __future__ import annotations

import attrs

from edgeice.errors import LocalProtocolError
from edgeice.sctp.dcep import OpenMessage
from edgeice.sctp.events import ChannelOpened

__all__ = ["Channel", "check_terms", "opened"]

_MAX_TEXT = 0xFFFF
_MAX_LIMIT = 0xFFFFFFFF


@attrs.define
class Channel:
    """One data channel."""

    id: int
    terms: OpenMessage
    #: The peer knows the channel: data may now be unordered (RFC 8832 §6).
    acknowledged: bool
    #: Agreed on outside: without OPEN and ACK.
    negotiated: bool = False
    closing: bool = False
    low_pending: bool = False


def check_terms(terms: OpenMessage) -> None:
    """Raise LocalProtocolError for what an OPEN cannot say."""
    if terms.max_retransmits is not None and terms.max_lifetime is not None:
        raise LocalProtocolError("retransmissions and lifetime cannot both be limited")
    for limit in (terms.max_retransmits, terms.max_lifetime):
        if limit is not None and not 0 <= limit <= _MAX_LIMIT:
            raise LocalProtocolError(f"limit out of range: {limit}")
    if max(len(terms.label.encode()), len(terms.protocol.encode())) > _MAX_TEXT:
        raise LocalProtocolError("label or protocol too long")


def opened(channel: Channel, *, incoming: bool) -> ChannelOpened:
    """The event that a channel is open."""
    terms = channel.terms
    return ChannelOpened(channel.id, terms.label, terms.protocol, terms.ordered, incoming)
