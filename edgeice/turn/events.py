"""What an allocation tells its owner."""

from __future__ import annotations

from typing import Literal

import attrs

from edgeice.addresses import TransportAddress
from edgeice.sansio import Event
from edgeice.stun.values import Icmp

__all__ = [
    "Allocated",
    "AllocationFailed",
    "AllocationLost",
    "AllocationMoved",
    "AllocationRedirected",
    "AllocationReleased",
    "FamilyRefused",
    "PeerRefused",
    "PeerUnreachable",
    "ServerChallenged",
]


@attrs.frozen(kw_only=True)
class Allocated(Event):
    """The server relays (RFC 8656 §7.3)."""

    #: The relayed address, of the family that was asked for.
    relayed: TransportAddress
    #: The one of the other family, if that was asked for too and granted.
    additional: TransportAddress | None
    #: How the server sees this end: a server-reflexive candidate (RFC 8445 §5.1.1.2).
    mapped: TransportAddress
    #: Seconds until it ends unless it is refreshed.
    lifetime: float
    #: Round trip to the server in seconds, None if a retransmission makes it unknown.
    rtt: float | None


@attrs.frozen(kw_only=True)
class AllocationFailed(Event):
    """There is no allocation, and this object brings none any more."""

    #: A slug for verdicts: `unauthorized`, `quota`, `timeout`, …
    reason: str
    #: The server's error code, None if it was no answer of the server that ended it.
    code: int | None
    #: When another attempt may be made, in the time that `now` has; None if it makes no sense with this server and
    #: these credentials.
    retry_at: float | None
    #: The next attempt has to come from another local port (RFC 8656 §7.4).
    new_port: bool = False


@attrs.frozen
class AllocationLost(Event):
    """The allocation is gone: its candidate is dead (RFC 8656 §8.3)."""

    #: A slug for verdicts: `mismatch`, `expired`, `transport`, …
    reason: str
    #: The server's error code if it gave one.
    code: int | None = None


@attrs.frozen
class AllocationMoved(Event):
    """The server knows this client's new address; relayed address, permissions and channels stay (RFC 8016)."""

    #: Round trip of the request that moved it in seconds, None if a retransmission makes it unknown.
    rtt: float | None


@attrs.frozen
class AllocationReleased(Event):
    """What `close` began is over."""

    #: Whether the server said that the allocation is gone.
    confirmed: bool


@attrs.frozen
class AllocationRedirected(Event):
    """The server proved who it is and names another one to ask; this object brings no allocation (RFC 8489 §10)."""

    server: TransportAddress
    #: The name in the other server's certificate, None to go on with the present one.
    domain: str | None


@attrs.frozen
class ServerChallenged(Event):
    """The server answered, and wants to know who asks; given once, before anything is allocated."""

    rtt: float | None


@attrs.frozen
class FamilyRefused(Event):
    """Of the two families asked for, one was not granted (RFC 8656 §7.3)."""

    family: Literal[4, 6]
    code: int
    #: When it may be asked for again, None for never.
    retry_at: float | None


@attrs.frozen
class PeerRefused(Event):
    """The server does not relay to a peer; what waited for it is dropped."""

    ip: str
    #: The server's error code, None if it did not answer.
    code: int | None


@attrs.frozen
class PeerUnreachable(Event):
    """The relay got an ICMP error for what it sent to a peer (RFC 8656 §11.6): a hint, unproven as ICMP is."""

    peer: TransportAddress
    icmp: Icmp
