"""The network on Trio: the driver of sans-IO machines, sockets, flows, names, and what rtnetlink says of interfaces.

Not supported: other systems than Linux; UDP segmentation offload; HTTP and SOCKS proxies.
"""

from edgeice.net.changes import delta
from edgeice.net.driver import Driver
from edgeice.net.interfaces import (
    DEFAULT_EXCLUDED,
    Assessed,
    DefaultRoute,
    Held,
    Interface,
    InterfaceAddress,
    InterfacePolicy,
    Snapshot,
    UsableAddress,
    assess,
    usable_addresses,
)
from edgeice.net.links import Link, LinkClass, LinkPolicy
from edgeice.net.monitor import InterfaceMonitor
from edgeice.net.router import Router, Session

__all__ = [
    "DEFAULT_EXCLUDED",
    "Assessed",
    "DefaultRoute",
    "Driver",
    "Held",
    "Interface",
    "InterfaceAddress",
    "InterfaceMonitor",
    "InterfacePolicy",
    "Link",
    "LinkClass",
    "LinkPolicy",
    "Router",
    "Session",
    "Snapshot",
    "UsableAddress",
    "assess",
    "delta",
    "usable_addresses",
]
