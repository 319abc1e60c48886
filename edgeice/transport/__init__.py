"""Trio's side of sessions: nodes, peer connections, data channels, and what joins them to signaling.

This room sits between the pure rooms below and the services above; it may import Trio, `net`, `peer` and `signaling`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeice.late import names_of

if TYPE_CHECKING:
    from edgeice.transport.broker import broker_config, is_plain_and_remote, ways_to_broker
    from edgeice.transport.channel import ChannelPort, DataChannel
    from edgeice.transport.ice import IceTransport
    from edgeice.transport.node import NetworkChange, Node, NodeConfig, open_node
    from edgeice.transport.peer import ConnectionFailedError, PeerConnection, Progress
    from edgeice.transport.pump import SignalMachine, SignalPump, WallClock
    from edgeice.transport.recovery import (
        PATIENCE,
        Network,
        NetworkMissing,
        NetworkReturned,
        PathRecovery,
        RestartOffered,
        Trouble,
    )
    from edgeice.transport.relays import RelaySource
    from edgeice.transport.signaled import SIGNAL_PROTOCOL, SignaledConnection
else:
    __getattr__ = names_of(
        __name__,
        broker="broker_config is_plain_and_remote ways_to_broker",
        channel="ChannelPort DataChannel",
        ice="IceTransport",
        node="NetworkChange Node NodeConfig open_node",
        peer="ConnectionFailedError PeerConnection Progress",
        pump="SignalMachine SignalPump WallClock",
        recovery="PATIENCE Network NetworkMissing NetworkReturned PathRecovery RestartOffered Trouble",
        relays="RelaySource",
        signaled="SIGNAL_PROTOCOL SignaledConnection",
    )

__all__ = [
    "PATIENCE",
    "SIGNAL_PROTOCOL",
    "ChannelPort",
    "ConnectionFailedError",
    "DataChannel",
    "IceTransport",
    "Network",
    "NetworkChange",
    "NetworkMissing",
    "NetworkReturned",
    "Node",
    "NodeConfig",
    "PathRecovery",
    "PeerConnection",
    "Progress",
    "RelaySource",
    "RestartOffered",
    "SignalMachine",
    "SignalPump",
    "SignaledConnection",
    "Trouble",
    "WallClock",
    "broker_config",
    "is_plain_and_remote",
    "open_node",
    "ways_to_broker",
]
