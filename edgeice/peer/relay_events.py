"""What an Endpoint tells of its relays; in memory only where there are some."""

from __future__ import annotations

import attrs

from edgeice.addresses import TransportAddress
from edgeice.sansio import Event

__all__ = ["RelayFailed", "RelayGained", "RelayLost", "RelayMoved"]


@attrs.frozen
class RelayGained(Event):
    """A TURN server allocated an address, which is a base now."""

    uri: str
    base: TransportAddress
    relayed: TransportAddress
    #: Round trip to the server, seconds.
    rtt: float | None


@attrs.frozen
class RelayFailed(Event):
    """A TURN server allocated nothing; others may."""

    uri: str
    #: Where it was asked from, and its address; None where its name is not known.
    base: TransportAddress | None
    server: TransportAddress | None
    reason: str
    #: The error that the server answered with, None if it did not.
    code: int | None


@attrs.frozen
class RelayLost(Event):
    """An allocation is gone, and its candidates with it; another is asked for."""

    uri: str
    base: TransportAddress
    reason: str


@attrs.frozen
class RelayMoved(Event):
    """Another base carries an allocation on (RFC 8016); relayed address, permissions and channels are as before."""

    uri: str
    #: The base that carries it now.
    base: TransportAddress
    relayed: TransportAddress
    #: Round trip of the move, seconds.
    rtt: float | None
