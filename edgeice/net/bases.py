"""UDP sockets for bases: bound to one address of this host and pinned to its interface.

On Linux the source address does not choose the way out: with two default routes, datagrams from wlan0's address
leave by eth0.  Only pinning the socket to its interface makes a candidate test the network that it names.  A bound
socket cannot be pinned elsewhere (EPERM), so every base gets a fresh one.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable
from typing import Literal, TypeAlias

from edgeice.addresses import Base, TransportAddress
from edgeice.errors import LocalProtocolError

__all__ = ["Pin", "open_udp", "pin_socket"]

#: How a socket is held to its interface: by device, by the unicast-interface hint, or not at all.
Pin: TypeAlias = Literal["device", "unicast_if", "none"]

#: Asked of the kernel for both directions; it grants what net.core.rmem_max and wmem_max allow.
BUFFER_SIZE = 4 << 20

# Not in the socket module; <linux/in.h> and <linux/in6.h>.
_IP_UNICAST_IF = 50
_IPV6_UNICAST_IF = 76


def pin_socket(sock: socket.socket, interface: str) -> Pin:
    """Hold a fresh socket to `interface`; says how well that went and raises OSError where no such interface is.

    SO_BINDTODEVICE needs no privilege since Linux 5.7.  Where the kernel refuses it, the unicast-interface hint
    still chooses the way out, though it does not filter what comes in.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
    except PermissionError:
        pass
    else:
        return "device"
    index = struct.pack("!I", socket.if_nametoindex(interface))
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_UNICAST_IF, index)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_UNICAST_IF, index)
    except OSError:
        return "none"
    return "unicast_if"


def open_udp(
    ip: str, interface: str = "", port: int | Iterable[int] = 0, cost: int = 0
) -> tuple[socket.socket, Base, Pin]:
    """Open a non-blocking UDP socket on one address of this host.

    Args:
        ip: The address to bind, never a wildcard.
        interface: Interface to pin the socket to; empty for loopback.
        port: 0 for the kernel's choice, a number, or several of which the first free one is taken.
        cost: What using the interface costs.

    Returns:
        The socket, the base that it stands for, and how it is pinned ("none" too when no interface was given).

    Raises:
        LocalProtocolError: The address is no host's own address, or link-local without an interface.
        OSError: The address or interface is gone, or no port is free.
    """
    address = ipaddress.ip_address(ip)
    if address.is_unspecified or address.is_multicast:
        raise LocalProtocolError(f"a base needs an address of its own, not {ip}")
    scoped = address.version == 6 and address.is_link_local
    if scoped and not interface:
        raise LocalProtocolError(f"link-local address {ip} needs its interface")
    sock = socket.socket(
        socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    )
    try:
        if address.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_SIZE)
        pin = pin_socket(sock, interface) if interface else "none"
        scope_id = socket.if_nametoindex(interface) if scoped else 0
        _bind(sock, str(address), scope_id, [port] if isinstance(port, int) else port)
        own = TransportAddress(str(address), sock.getsockname()[1], scope=interface if scoped else "")
    except BaseException:
        sock.close()
        raise
    return sock, Base(own, interface, cost=cost), pin


def _bind(sock: socket.socket, ip: str, scope_id: int, ports: Iterable[int]) -> None:
    refused = OSError(errno.EADDRINUSE, "no port to bind")
    for port in ports:
        try:
            sock.bind((ip, port, 0, scope_id) if sock.family == socket.AF_INET6 else (ip, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            refused = error
        else:
            return
    raise refused
