"""Where forwards do not go, unless the trust file names the very address."""

from __future__ import annotations

import ipaddress
import math
import socket
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any, Final, TypeAlias

import trio

from edgeice.services.lookup import look_up

__all__ = ["Boundary", "is_off_limits"]

#: Cloud providers' metadata services give credentials to whoever asks from the machine itself.
_METADATA: Final = frozenset(
    {
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure
        "192.0.0.192",  # Oracle
        "fd00:42::42",  # Scaleway
        "fd00:c1::a9fe:a9fe",  # Oracle
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google
    }
)
#: Seconds that the broker's addresses are taken for known, and that looking them up may take: forwards wait for it.
_FRESH: Final = 5.0
_PATIENCE: Final = 2.0
#: Look-ups of the broker at once, one that was given up included: apart from the names that operators forward to.
_LOOKUPS: Final = 2
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_off_limits(ip: str) -> bool:
    """Whether no forward goes there: link-local, multicast, unspecified and broadcast addresses, and cloud metadata.

    Link-local IPv4 is where metadata services live (169.254.169.254), so the whole of it is left out.
    """
    address = _plain(ip)
    return (
        address.is_multicast
        or address.is_unspecified
        or address.is_link_local
        or str(address) == "255.255.255.255"
        or str(address) in _METADATA
    )


class Boundary:
    """Judges addresses, after names were resolved: those of `is_off_limits`, and the device's own broker.

    To the broker an operator has a way of its own, with its own rights; the device's side of its firewall is not one.

    Args:
        broker: The broker's host and port.
    """

    def __init__(self, broker: tuple[str, int]) -> None:
        self._host, self._port = broker
        self._limiter = trio.CapacityLimiter(_LOOKUPS)
        #: One look-up for all connections that wait for it.
        self._asking = trio.Lock()
        self._stale_at = -math.inf
        #: Empty while nobody knows.
        self._addresses: frozenset[_Address] = frozenset()

    async def bars(self, ip: str, port: int, granted: Collection[str]) -> bool:
        """Whether a forward may not connect there.

        Args:
            ip: The address that is about to be connected to.
            port: TCP port.
            granted: Capabilities of the operator's trust lines.  One that names this very address lifts the bar; `*`
                does not, nor does a name, which may lead anywhere tomorrow.
        """
        address = _plain(ip)
        if any(_names(capability, address, port) for capability in granted):
            return False
        return is_off_limits(ip) or await self._is_broker(address, port)

    async def _is_broker(self, address: _Address, port: int) -> bool:
        broker = await self._find_broker()
        if not broker:
            return port == self._port  # there is no telling where the broker is
        if any(map(_is_own, broker)):
            # A broker on this host has all its addresses; what else listens there is not the broker's.
            return port == self._port and _is_own(address)
        return address in broker

    async def _find_broker(self) -> frozenset[_Address]:
        """The broker's addresses; none where its name does not lead to any, or not soon."""
        async with self._asking:
            if trio.current_time() >= self._stale_at:
                found: Iterable[tuple[int, tuple[Any, ...]]] = ()
                with trio.move_on_after(_PATIENCE), suppress(OSError, UnicodeError):
                    found = await look_up(self._host, self._port, self._limiter)
                self._addresses = frozenset(_plain(str(sockaddr[0])) for _family, sockaddr in found)
                self._stale_at = trio.current_time() + _FRESH
            return self._addresses


def _plain(ip: str) -> _Address:
    """The address that is meant, without scope, and as IPv4 where it leads to one.

    That are mapped and compatible addresses (RFC 4291 §2.5.5), 6to4 (RFC 3056) and NAT64 (RFC 6052 §2.1).
    """
    address = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return address
    low = int(address) & 0xFFFFFFFF
    if address in _NAT64 or 0xFFFF < int(address) == low:
        return ipaddress.IPv4Address(low)
    return address.ipv4_mapped or address.sixtofour or address


def _names(capability: str, address: _Address, port: int) -> bool:
    """Whether `capability` allows forwards to this address, in so many words."""
    kind, _, target = capability.partition(":")
    host, _, allowed = target.rpartition(":")
    try:
        return kind == "forward" and allowed in ("*", str(port)) and _plain(host.strip("[]")) == address
    except ValueError:
        return False


def _is_own(address: _Address) -> bool:
    """Whether this host has the address: only then can a socket be bound to it."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((str(address), 0))
    except OSError:
        return False
    return True
