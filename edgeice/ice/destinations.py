"""Where checks may be sent to: a peer names candidates, and it may name victims."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final, TypeAlias

from edgeice.addresses import TransportAddress

__all__ = ["Realm", "realm", "refused_destination", "usable_local"]

#: IP version, whether link-local, whether loopback.
Realm: TypeAlias = tuple[int, bool, bool]

#: Services that no ICE agent stands behind; a check must not be a knock on their door.
_DENIED_PORTS: Final = frozenset({0, 22, 25, 53})
#: Metadata services of clouds.
_DENIED_IPS: Final = frozenset({"169.254.169.254", "fd00:ec2::254"})
_V4_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


def refused_destination(address: TransportAddress, *, allow_loopback: bool = False) -> str | None:
    """Why nothing must be sent to `address`, as a slug; None if it may be tried.

    The broadcast address of a subnet cannot be told from its text; the kernel refuses it to sockets without
    SO_BROADCAST.
    """
    if address.port in _DENIED_PORTS:
        return "destination_port"
    return _refused_ip(address.ip, allow_loopback=allow_loopback)


@lru_cache(maxsize=512)
def _refused_ip(text: str, *, allow_loopback: bool) -> str | None:
    ip = ipaddress.ip_address(text)
    if ip.is_loopback:
        return None if allow_loopback else "destination_loopback"
    if text in _DENIED_IPS:
        return "destination_denied"
    if ip.is_multicast or text == "255.255.255.255":
        return "destination_multicast"
    if isinstance(ip, ipaddress.IPv4Address):
        reserved = ip.packed[0] == 0 or ip.packed[0] >= 240
    else:
        # RFC 8445 §5.1.1.1: no IPv4-compatible, no site-local, no IPv4-mapped addresses.
        reserved = ip.ipv4_mapped is not None or ip in _V4_COMPATIBLE or ip.is_site_local
    return "destination_reserved" if reserved else None


def usable_local(address: TransportAddress, *, allow_loopback: bool = False) -> bool:
    """Whether a host candidate may be made of an address of this host (RFC 8445 §5.1.1.1)."""
    return address.port != 0 and _refused_ip(address.ip, allow_loopback=allow_loopback) is None


@lru_cache(maxsize=512)
def realm(text: str) -> Realm:
    """What an IP address shares with all that it can reach.

    RFC 8445 §6.1.2.2 asks for one family, and for link-local addresses on both sides or none.  Loopback goes only with
    loopback as well: the kernel refuses anything else.
    """
    ip = ipaddress.ip_address(text)
    return ip.version, ip.is_link_local, ip.is_loopback
