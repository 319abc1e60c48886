"""UDP sockets behind bases: opened and pinned to their interface, read in batches, never raising on a send.

On Linux the source address does not choose the way out: with two default routes, datagrams from wlan0's address
leave by eth0.  Only pinning the socket to its interface makes a candidate test the network that it names.  A bound
socket cannot be pinned elsewhere (EPERM), so every base gets a fresh one.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.errors import LocalProtocolError
from edgeice.sansio import BoundedQueue, DropCounter

__all__ = ["PathTable", "Pin", "Sockaddr", "UdpSocket", "open_udp", "pin_socket"]

#: What the socket module calls an address: (ip, port) or (ip, port, flow information, scope id).
Sockaddr: TypeAlias = tuple[Any, ...]
#: How a socket is held to its interface: by device, by the unicast-interface hint, or not at all.
Pin: TypeAlias = Literal["device", "unicast_if", "none"]

#: Asked of the kernel for both directions; it grants what net.core.rmem_max and wmem_max allow.
BUFFER_SIZE = 4 << 20
#: Bytes read per datagram.  No protocol here sends more than one Ethernet frame; what fills this is dropped.
DATAGRAM_LIMIT = 4096
#: Paths remembered per socket; a flood of forged sources pushes out the least recently seen.
PATH_LIMIT = 1024
#: Datagrams kept while the socket is full; the oldest goes first, since newer acknowledgements replace older.
SEND_QUEUE_LIMIT = 256

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


def open_udp(ip: str, interface: str = "", port: int | range = 0) -> tuple[socket.socket, Base, Pin]:
    """Open a non-blocking UDP socket on one address of this host.

    Args:
        ip: The address to bind, never a wildcard.
        interface: Interface to pin the socket to; empty for loopback.
        port: 0 for the kernel's choice, a number, or a range of which the first free one is taken.

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
    return sock, Base(own, interface), pin


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


class PathTable:
    """The one Path object per 5-tuple of a socket, and the socket address that belongs to it.

    Holds `limit` paths; at the limit the least recently used one is forgotten, and comes back as an equal but new
    object when it is seen again.
    """

    __slots__ = ("_base", "_limit", "_paths", "_scope_id", "_sockaddrs")

    def __init__(self, base: Base, limit: int = PATH_LIMIT) -> None:
        self._base = base
        self._limit = limit
        #: Scope id for link-local remotes.  They are on the base's own interface, for the socket is pinned to it.
        self._scope_id = socket.if_nametoindex(base.interface) if base.address.family == 6 and base.interface else 0
        self._paths: OrderedDict[Sockaddr, Path] = OrderedDict()
        self._sockaddrs: dict[Path, Sockaddr] = {}

    def path(self, sockaddr: Sockaddr) -> Path:
        """The path that a datagram from `sockaddr` came on."""
        path = self._paths.get(sockaddr)
        if path is not None:
            self._paths.move_to_end(sockaddr)
            return path
        remote = TransportAddress.parse(sockaddr[0], sockaddr[1])
        if remote.family == 6 and remote.is_link_local:
            remote = TransportAddress(remote.ip, remote.port, scope=self._base.interface)
        return self._remember(sockaddr, Path(self._base.address, remote))

    def sockaddr(self, path: Path) -> Sockaddr:
        """Where to send for `path`; raises OSError (EAFNOSUPPORT) for a remote of the other family."""
        sockaddr = self._sockaddrs.get(path)
        if sockaddr is not None:
            self._paths.move_to_end(sockaddr)
            return sockaddr
        remote = path.remote
        if remote.family != self._base.address.family:
            raise OSError(errno.EAFNOSUPPORT, "remote address of the other family")
        if remote.family == 4:
            sockaddr = (remote.ip, remote.port)
        else:
            sockaddr = (remote.ip, remote.port, 0, self._scope_id if remote.is_link_local else 0)
        self._remember(sockaddr, path)
        return sockaddr

    def _remember(self, sockaddr: Sockaddr, path: Path) -> Path:
        if len(self._paths) >= self._limit:
            _, forgotten = self._paths.popitem(last=False)
            self._sockaddrs.pop(forgotten, None)
        # Two spellings of a remote can meet in one socket address; the object that came first stays the path.
        path = self._paths.setdefault(sockaddr, path)
        self._sockaddrs[path] = sockaddr
        return path

    def __len__(self) -> int:
        return len(self._paths)


class UdpSocket:
    """A base's socket: batched reads, sends that queue when the kernel's buffer is full and report errors as numbers.

    `on_congested` is called when the queue begins to fill; its receiver calls `flush` when the socket is writable, as
    long as `congested`, and resets `flushing` then.

    Counts in `counters`: `oversized` and `receive_<ERRNO>` on reading, `send_queue` and `send_<ERRNO>` on sending.
    """

    __slots__ = (
        "_counters", "_last_path", "_last_sockaddr", "_on_congested", "_paths", "_queue", "base", "closed", "flushing",
        "sock",
    )  # fmt: skip

    def __init__(
        self, sock: socket.socket, base: Base, counters: DropCounter, on_congested: Callable[[UdpSocket], None]
    ) -> None:
        self.sock = sock
        self.base = base
        self.closed = False
        #: True from the call of `on_congested` until its receiver has emptied the queue and resets this.
        self.flushing = False
        self._counters = counters
        self._on_congested = on_congested
        self._paths = PathTable(base)
        self._queue: BoundedQueue[tuple[Path, bytes]] = BoundedQueue(SEND_QUEUE_LIMIT, "drop_oldest")
        # Nearly all traffic of a session is on one path: two comparisons instead of two look-ups.
        self._last_sockaddr: Sockaddr | None = None
        self._last_path: Path | None = None

    @property
    def congested(self) -> bool:
        """True while datagrams wait for the socket to become writable."""
        return len(self._queue) > 0

    def receive(self, limit: int, deliver: Callable[[bytes, Path], None]) -> int:
        """Read up to `limit` datagrams that are there now, hand each to `deliver`, and return how many were read."""
        recvfrom = self.sock.recvfrom
        for count in range(limit):
            if self.closed:  # by what a delivered datagram set off
                return count
            try:
                data, sockaddr = recvfrom(DATAGRAM_LIMIT)
            except BlockingIOError:
                return count
            except OSError as error:
                # A pending error of the socket (ENETDOWN, ECONNREFUSED) is handed out by a read, and is gone then.
                self._counters.count(f"receive_{errno.errorcode.get(error.errno or 0, 'UNKNOWN')}")
                return count
            if len(data) >= DATAGRAM_LIMIT:
                self._counters.count("oversized")
                continue
            if sockaddr != self._last_sockaddr:
                self._last_path = self._paths.path(sockaddr)
                self._last_sockaddr = sockaddr
            assert self._last_path is not None
            deliver(data, self._last_path)
        return limit

    def send(self, path: Path, data: bytes) -> int:
        """Send or queue one datagram; returns 0, or the error number after counting it."""
        if self._queue:
            self._enqueue(path, data)
            return 0
        return self._send_now(path, data)

    def flush(self, on_error: Callable[[Path, int], None]) -> None:
        """Send what is queued until the socket is full again."""
        pending, self._queue = self._queue, BoundedQueue(SEND_QUEUE_LIMIT, "drop_oldest")
        while (item := pending.pop()) is not None:
            if self._queue:  # full again: the rest keeps its order behind the one that bounced
                self._queue.push(item)
            elif code := self._send_now(*item):
                on_error(item[0], code)

    def close(self) -> None:
        """Close the socket; what was still queued is counted as dropped."""
        if self.closed:
            return
        self.closed = True
        if self._queue:
            self._counters.count("send_queue", len(self._queue))
            self._queue.clear()
        self.sock.close()

    def _send_now(self, path: Path, data: bytes) -> int:
        try:
            if path is self._last_path:
                self.sock.sendto(data, self._last_sockaddr)  # type: ignore[arg-type]  # set together with the path
            else:
                self.sock.sendto(data, self._paths.sockaddr(path))
        except BlockingIOError:
            self._enqueue(path, data)
        except OSError as error:
            code = error.errno or errno.EIO
            self._counters.count(f"send_{errno.errorcode.get(code, 'UNKNOWN')}")
            return code
        return 0

    def _enqueue(self, path: Path, data: bytes) -> None:
        if not self._queue.push((path, data)):
            self._counters.count("send_queue")
        if not self.flushing:
            self.flushing = True
            self._on_congested(self)
