"""The network on Trio: the driver of sans-IO machines, sockets, flows, names, and what rtnetlink says of interfaces.

Not supported: other systems than Linux; UDP segmentation offload; HTTP and SOCKS proxies.
"""

from edgeice.net.driver import Driver
from edgeice.net.interfaces import (
    DEFAULT_EXCLUDED,
    Assessed,
    Interface,
    InterfaceAddress,
    InterfacePolicy,
    Snapshot,
    assess,
    delta,
    usable_addresses,
)
from edgeice.net.monitor import InterfaceMonitor
from edgeice.net.router import Router, Session

__all__ = [
    "DEFAULT_EXCLUDED",
    "Assessed",
    "Driver",
    "Interface",
    "InterfaceAddress",
    "InterfaceMonitor",
    "InterfacePolicy",
    "Router",
    "Session",
    "Snapshot",
    "assess",
    "delta",
    "usable_addresses",
]
