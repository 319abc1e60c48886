"""Transport addresses and the paths between them."""

from __future__ import annotations

import ipaddress
from typing import Literal

import attrs

from edgeice.errors import DecodeError

__all__ = ["Base", "Path", "Protocol", "TransportAddress"]

Protocol = Literal["udp", "tcp"]


@attrs.frozen(cache_hash=True)
class TransportAddress:
    """An IP address, port and transport protocol (RFC 8445 §4).

    `ip` is in canonical text form; build addresses that come from outside with `parse`, which makes it so.
    """

    ip: str
    port: int
    protocol: Protocol = "udp"
    #: Name of the interface that an IPv6 link-local address belongs to, otherwise empty.
    scope: str = ""

    @classmethod
    def parse(cls, ip: str, port: int, protocol: Protocol = "udp", scope: str = "") -> TransportAddress:
        """Make an address from text in any valid spelling; raises DecodeError for anything else."""
        try:
            canonical = str(ipaddress.ip_address(ip))
        except ValueError:
            raise DecodeError("address", f"not an IP address: {ip[:64]!r}") from None
        if not 0 <= port <= 0xFFFF:
            raise DecodeError("address", f"port out of range: {port}")
        return cls(canonical, port, protocol, scope)

    @property
    def family(self) -> Literal[4, 6]:
        """4 or 6."""
        return 6 if ":" in self.ip else 4

    @property
    def is_link_local(self) -> bool:
        """True for 169.254.0.0/16 and fe80::/10."""
        return ipaddress.ip_address(self.ip).is_link_local

    def __str__(self) -> str:
        scope = f"%{self.scope}" if self.scope else ""
        return f"[{self.ip}{scope}]:{self.port}" if self.family == 6 else f"{self.ip}:{self.port}"


@attrs.frozen(cache_hash=True)
class Path:
    """A 5-tuple seen from here: the base that sends and receives, and the other end.

    The driver hands out one Path object per 5-tuple, so that look-ups by path succeed by identity.
    """

    #: The base: a socket's own address, or a relayed address that an allocation holds.
    local: TransportAddress
    remote: TransportAddress

    def __str__(self) -> str:
        return f"{self.local}->{self.remote}"


@attrs.frozen
class Base:
    """A transport address that this host can send from, as the driver announces it (RFC 8445 §4).

    One UDP socket stands behind each base and is pinned to `interface`, or an allocation on a relay.
    """

    address: TransportAddress
    #: Name of the network interface, empty for loopback in tests and where there is none.
    interface: str = ""
    #: The TURN server that relays for it; None where the address is the host's own.
    server: TransportAddress | None = None
    #: How that server sees this host, the related address of the relayed candidate (RFC 8839 §5.1).
    mapped: TransportAddress | None = None
    #: What it costs to use the interface, 0 (wired) to 999; from 500 on each byte is paid for.
    cost: int = 0
