"""Endpoint and Connection: what the sessions of a host share, and one session of ICE, DTLS and SCTP (RFC 8831, 8835).

Pure, as the rooms below: `edgeice.transport` is its Trio side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeice.late import names_of

if TYPE_CHECKING:
    from edgeice.peer.config import ConnectionConfig, TurnServer
    from edgeice.peer.connection import Connection
    from edgeice.peer.demux import Kind, classify
    from edgeice.peer.endpoint import Endpoint, EndpointConfig
    from edgeice.peer.events import (
        CandidateGathered,
        CandidatesEnded,
        CandidateWithdrawn,
        ConnectionEnded,
        ConnectionState,
        DatagramReceived,
        PathChanged,
        PathMoved,
        RestartEnded,
        StateChanged,
    )
    from edgeice.peer.moves import way_of
    from edgeice.peer.raw import IceConnection
    from edgeice.peer.relay_events import RelayFailed, RelayGained, RelayLost, RelayMoved
    from edgeice.peer.routes import Routes
else:
    __getattr__ = names_of(
        __name__,
        config="ConnectionConfig TurnServer",
        connection="Connection",
        demux="Kind classify",
        endpoint="Endpoint EndpointConfig",
        events="CandidateGathered CandidateWithdrawn CandidatesEnded ConnectionEnded ConnectionState DatagramReceived"
        " PathChanged PathMoved RestartEnded StateChanged",
        moves="way_of",
        raw="IceConnection",
        relay_events="RelayFailed RelayGained RelayLost RelayMoved",
        routes="Routes",
    )

__all__ = [
    "CandidateGathered",
    "CandidateWithdrawn",
    "CandidatesEnded",
    "Connection",
    "ConnectionConfig",
    "ConnectionEnded",
    "ConnectionState",
    "DatagramReceived",
    "Endpoint",
    "EndpointConfig",
    "IceConnection",
    "Kind",
    "PathChanged",
    "PathMoved",
    "RelayFailed",
    "RelayGained",
    "RelayLost",
    "RelayMoved",
    "RestartEnded",
    "Routes",
    "StateChanged",
    "TurnServer",
    "classify",
    "way_of",
]
