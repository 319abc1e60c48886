"""What a simulated network is made of, as plain values: the network is built from them, the oracle reasons on them.

Segments (a LAN, a carrier's network) are names and form a tree by their routers; the root is `INTERNET`.  IPv4 is
translated by every router (RFC 4787), IPv6 is routed through its firewall, if it has one.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import attrs

__all__ = [
    "INTERNET",
    "Dependence",
    "FirewallRules",
    "HostPlan",
    "InterfacePlan",
    "LinkPlan",
    "NatRules",
    "RouterPlan",
    "ServerPlan",
    "Topology",
]

INTERNET: Final = "internet"


class Dependence(Enum):
    """What of the remote end a mapping or a filter depends on (RFC 4787 §4.1, §5)."""

    INDEPENDENT = "endpoint-independent"
    ADDRESS = "address-dependent"
    ADDRESS_AND_PORT = "address-and-port-dependent"


@attrs.frozen(kw_only=True)
class NatRules:
    """How a router translates IPv4 (RFC 4787); times in seconds."""

    mapping: Dependence = Dependence.INDEPENDENT
    filtering: Dependence = Dependence.ADDRESS_AND_PORT
    #: The outer port is the inner one where that is free; otherwise any.
    preserves_port: bool = True
    #: A binding lives this long without traffic.
    lifetime: float = 120.0
    #: Whether traffic from outside refreshes a binding too (RFC 4787 §4.3, REQ-6).
    refreshed_by_inbound: bool = False
    #: Whether two inside hosts reach each other by their outer addresses (RFC 4787 §6).
    hairpin: bool = False


@attrs.frozen(kw_only=True)
class FirewallRules:
    """How a router passes IPv6: outwards always, inwards by this filter (RFC 6092)."""

    filtering: Dependence = Dependence.ADDRESS_AND_PORT
    lifetime: float = 120.0


@attrs.frozen(kw_only=True)
class RouterPlan:
    """Joins the segment `inner` to `outer`, where it has the address `ip`."""

    name: str
    outer: str
    inner: str
    ip: str
    nat: NatRules
    #: None: no IPv6 passes, though the hosts behind it may have addresses.
    firewall: FirewallRules | None = None
    #: False: no datagram passes.
    passes_udp: bool = True


@attrs.frozen(kw_only=True)
class LinkPlan:
    """An interface's link, the same both ways; times in seconds."""

    delay: float = 0.010
    #: Up to so much is added to the delay, so that datagrams overtake each other.
    jitter: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    #: Share of datagrams that wait 0.1 to 0.3 s longer.
    reordering: float = 0.0
    #: Bytes per second, None without limit.
    rate: float | None = None


@attrs.frozen(kw_only=True)
class InterfacePlan:
    """An interface of a host with its addresses.

    `ports`: one socket stands on each of them, for every address.
    """

    name: str
    segment: str
    ips: tuple[str, ...]
    ports: tuple[int, ...] = (4000,)
    link: LinkPlan = attrs.field(factory=LinkPlan)
    #: Whether a socket is open on it from the beginning.
    up: bool = True
    #: What it costs to use, as of bases.
    cost: int = 0


@attrs.frozen(kw_only=True)
class HostPlan:
    """A host."""

    name: str
    interfaces: tuple[InterfacePlan, ...]


@attrs.frozen(kw_only=True)
class ServerPlan:
    """A server on the internet; it speaks STUN, and TURN where `relays`."""

    ip: str
    port: int = 3478
    relays: bool = False
    #: Whether it takes streams too, which pass where no datagram does.
    takes_streams: bool = False
    #: False: what is sent to it vanishes.
    answers: bool = True


@attrs.frozen(kw_only=True)
class Topology:
    """A whole network."""

    hosts: tuple[HostPlan, ...]
    routers: tuple[RouterPlan, ...] = ()
    servers: tuple[ServerPlan, ...] = ()
    #: Seconds through the core of the internet.
    core_delay: float = 0.005

    def router_of(self, segment: str) -> RouterPlan | None:
        """The router that leads out of a segment."""
        return next((router for router in self.routers if router.inner == segment), None)

    def host(self, name: str) -> HostPlan:
        """The host of this name."""
        return next(host for host in self.hosts if host.name == name)
