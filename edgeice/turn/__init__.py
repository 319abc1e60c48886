"""TURN: allocations on relays, over UDP, TCP and TLS (RFC 8656), that move with this host (RFC 8016).

Sans-IO.  An `Allocation` is one relayed address on one server; several servers, and which of them is used, are its
owner's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeice.late import names_of

if TYPE_CHECKING:
    from edgeice.turn.allocation import AllocationState
    from edgeice.turn.client import Allocation
    from edgeice.turn.config import TurnConfig
    from edgeice.turn.credentials import TurnCredentials, rest_credentials
    from edgeice.turn.events import (
        Allocated,
        AllocationFailed,
        AllocationLost,
        AllocationMoved,
        AllocationRedirected,
        AllocationReleased,
        FamilyRefused,
        PeerRefused,
        PeerUnreachable,
        ServerChallenged,
    )
else:
    __getattr__ = names_of(
        __name__,
        allocation="AllocationState",
        client="Allocation",
        config="TurnConfig",
        credentials="TurnCredentials rest_credentials",
        events="Allocated AllocationFailed AllocationLost AllocationMoved AllocationRedirected AllocationReleased"
        " FamilyRefused PeerRefused PeerUnreachable ServerChallenged",
    )

__all__ = [
    "Allocated",
    "Allocation",
    "AllocationFailed",
    "AllocationLost",
    "AllocationMoved",
    "AllocationRedirected",
    "AllocationReleased",
    "AllocationState",
    "FamilyRefused",
    "PeerRefused",
    "PeerUnreachable",
    "ServerChallenged",
    "TurnConfig",
    "TurnCredentials",
    "rest_credentials",
]
