"""Where checks may be sent to: a peer names candidates, and it may name victims."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, TypeAlias

from edgeice.addresses import TransportAddress

__all__ = ["Destinations", "Network", "Realm", "realm", "refused_destination", "usable_local"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

#: IP version, whether link-local, whether loopback.
Realm: TypeAlias = tuple[int, bool, bool]

#: Services that no ICE agent stands behind; a check must not be a knock on their door.
_DENIED_PORTS: Final = frozenset({0, 22, 25, 53})
#: Metadata and credential services of clouds.
_DENIED_IPS: Final = frozenset(
    {
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
    }
)
#: Own servers that are remembered: their addresses change while a host runs for years.
_PROTECTED_LIMIT: Final = 256
_V4_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
#: Where NAT64 puts IPv4 addresses (RFC 6052 §2.1).
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class Destinations:
    """Where the sessions of a host may send to, one object for all of them.

    Never to what `refused_destination` names; not to networks that the configuration leaves out, and to no others than
    those that it names, if it names any; nor to the servers that serve this host itself, by address and port: a relay
    and its relayed addresses share an IP address.

    Args:
        allow_loopback: For demonstrations and tests on one host.
        allowed: The only networks that may be sent to; all if there are none.
        denied: Networks that are not sent to.
    """

    __slots__ = ("_allow_loopback", "_allowed", "_denied", "_protected")

    def __init__(
        self, *, allow_loopback: bool = False, allowed: Iterable[Network] = (), denied: Iterable[Network] = ()
    ) -> None:
        self._allow_loopback = allow_loopback
        self._allowed = tuple(allowed)
        self._denied = tuple(denied)
        self._protected: dict[tuple[str, int], None] = {}

    def protect(self, server: TransportAddress) -> None:
        """Never send checks to a server of this host; of very many, the one named longest ago is forgotten."""
        self._protected.pop((server.ip, server.port), None)
        self._protected[server.ip, server.port] = None
        if len(self._protected) > _PROTECTED_LIMIT:
            del self._protected[next(iter(self._protected))]

    def refuses(self, address: TransportAddress) -> str | None:
        """Why nothing must be sent to `address`, as a slug; None if it may be tried."""
        refused = refused_destination(address, allow_loopback=self._allow_loopback)
        if refused is not None:
            return refused
        if (address.ip, address.port) in self._protected:
            return "destination_protected"
        if self._allowed or self._denied:
            ip = ipaddress.ip_address(address.ip)
            if any(ip in network for network in self._denied):
                return "destination_denied"
            if self._allowed and not any(ip in network for network in self._allowed):
                return "destination_denied"
        return None


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
        inner = ipaddress.IPv4Address(ip.packed[12:]) if ip in _NAT64 else ip.sixtofour
        if not reserved and inner is not None:
            return _refused_ip(str(inner), allow_loopback=False)  # a translator would carry it there
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
