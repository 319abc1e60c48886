"""A base's UDP socket: read in batches, written in runs, never raising on a send.

A system call costs far more than what it moves (3 us for a datagram of 1200 bytes on a small x86-64, 0.3 us in a run
of sixteen).  So datagrams of one size for one path leave in one call, which the kernel cuts up (UDP_SEGMENT, Linux
4.18), and those that come together are joined by the kernel and cut up here (UDP_GRO, Linux 5.0).  Where the kernel or
the network interface cannot do that, each goes by itself.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.net.traffic import Traffic
from edgeice.sansio import BoundedQueue, DropCounter

__all__ = ["PathTable", "Sockaddr", "UdpSocket"]

#: What the socket module calls an address: (ip, port) or (ip, port, flow information, scope id).
Sockaddr: TypeAlias = tuple[Any, ...]

#: Bytes of a datagram.  No protocol here sends more than one Ethernet frame; what is as long as this is dropped.
DATAGRAM_LIMIT = 4096
#: Paths remembered per socket; a flood of forged sources pushes out the least recently seen.
PATH_LIMIT = 1024
#: Datagrams kept while the socket is full; the oldest goes first, since newer acknowledgements replace older.
SEND_QUEUE_LIMIT = 256

# Not in the socket module; <linux/udp.h>.
_UDP_SEGMENT = 103
_UDP_GRO = 104
#: Datagrams in a run (UDP_MAX_SEGMENTS), and their bytes: one IP packet's, less the headers.
_RUN_LIMIT = 64
_RUN_BYTES = 65_000
#: Room for what the kernel joined, and for the control message that tells the size of its parts.
_READ_SIZE = 65_535
_ANCILLARY_SIZE = socket.CMSG_SPACE(4)
#: The run is not possible as such; its datagrams may be, one by one.
_NOT_AS_RUN = frozenset({errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.EOPNOTSUPP})


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

    def clear(self) -> None:
        """Forget all paths; they come back as equal but new objects."""
        self._paths.clear()
        self._sockaddrs.clear()

    def __len__(self) -> int:
        return len(self._paths)


class UdpSocket:
    """One base's socket.

    Nothing the network does raises here: a failure to send comes back as an error number, a failure to receive is
    counted.  `send` holds a datagram back until another does not fit its run, or until `push`.  When the kernel's
    buffer is full, datagrams wait in a bounded queue and `on_congested` is called once; its receiver calls `flush`
    when the socket is writable, as long as `congested`, and resets `flushing` then.

    Counts in `counters`: `oversized` and `receive_<ERRNO>` on reading, `send_queue` and `send_<ERRNO>` on sending.

    Args:
        sock: Bound and non-blocking.
        base: What it stands for.
        counters: Where to count.
        on_congested: Told that the queue has to be emptied.
        on_error: Told the path and error number of what could not be sent.
        traffic: Where to count bytes; None for nowhere.
    """

    __slots__ = (
        "_counters", "_last_path", "_last_sockaddr", "_on_congested", "_on_error", "_paths", "_queue", "_run",
        "_run_length", "_run_path", "_segment_limit", "_traffic", "base", "closed", "flushing", "sock",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        base: Base,
        counters: DropCounter,
        on_congested: Callable[[UdpSocket], None],
        on_error: Callable[[Path, int], None],
        *,
        traffic: Traffic | None = None,
    ) -> None:
        self.sock = sock
        self.base = base
        self.closed = False
        #: True from the call of `on_congested` until its receiver has emptied the queue and resets this.
        self.flushing = False
        self._counters = counters
        self._on_congested = on_congested
        self._on_error = on_error
        self._traffic = traffic or Traffic()
        self._paths = PathTable(base)
        self._queue: BoundedQueue[tuple[Path, bytes]] = BoundedQueue(SEND_QUEUE_LIMIT, "drop_oldest")
        # Nearly all traffic of a session is on one path: two comparisons instead of two look-ups.
        self._last_sockaddr: Sockaddr | None = None
        self._last_path: Path | None = None
        #: Datagrams that will leave together: all for one path, as long as the first, only the last may be shorter.
        self._run: list[bytes] = []
        self._run_path: Path | None = None
        self._run_length = 0
        #: Datagrams longer than this are not sent in runs.
        self._segment_limit = _offload(sock)

    @property
    def congested(self) -> bool:
        """True while datagrams wait for the socket to become writable."""
        return len(self._queue) > 0

    def forget_paths(self) -> None:
        """Let go of what was remembered of remotes.

        A few hundred bytes that stay of each session would hold back a pool of 16 KiB each, in which the rest of that
        session was.
        """
        self._paths.clear()
        self._last_sockaddr = self._last_path = None

    def receive(self, limit: int, deliver: Callable[[bytes, Path], None]) -> int:
        """Read datagrams that are there now, hand each to `deliver`, and return how many came.

        Stops at `limit`, or up to one run above it.
        """
        recvmsg = self.sock.recvmsg
        count = 0
        while count < limit and not self.closed:  # by what a delivered datagram set off
            try:
                data, ancillary, _flags, sockaddr = recvmsg(_READ_SIZE, _ANCILLARY_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                # A pending error of the socket (ENETDOWN, ECONNREFUSED) is handed out by a read, and is gone then.
                self._counters.count(f"receive_{errno.errorcode.get(error.errno or 0, 'UNKNOWN')}")
                break
            if sockaddr != self._last_sockaddr:
                self._last_path = self._paths.path(sockaddr)
                self._last_sockaddr = sockaddr
            assert self._last_path is not None
            size = len(data)
            self._traffic.received += size
            step = struct.unpack("i", ancillary[0][2])[0] if ancillary else size
            if step >= DATAGRAM_LIMIT:
                self._counters.count("oversized", -(-size // step))
                count += 1
            elif step >= size:
                deliver(data, self._last_path)
                count += 1
            else:
                count += self._deliver_run(data, step, self._last_path, deliver)
        return count

    @staticmethod
    def _deliver_run(data: bytes, step: int, path: Path, deliver: Callable[[bytes, Path], None]) -> int:
        starts = range(0, len(data), step)
        for start in starts:
            deliver(data[start : start + step], path)
        return len(starts)

    def send(self, path: Path, data: bytes) -> None:
        """Take one datagram to send: `push` does it at the latest."""
        run = self._run
        size = len(data)
        if run and not (
            path is self._run_path
            and 0 < size <= self._run_length == len(run[-1])
            and len(run) < _RUN_LIMIT
            and self._run_length * (len(run) + 1) <= _RUN_BYTES
        ):
            self.push()
        if not self._run:
            self._run_path = path
            self._run_length = size
        self._run.append(data)

    def push(self) -> None:
        """Send what is held back, or queue it behind what waits."""
        run, path = self._run, self._run_path
        if not run or path is None:
            return
        self._run = []
        if self._queue:
            for data in run:
                self._enqueue(path, data)
        elif not (len(run) > 1 and self._run_length <= self._segment_limit and self._send_run(path, run)):
            for position, data in enumerate(run):
                if self._queue:  # full: the rest keeps its order behind the one that bounced
                    self._enqueue(path, data)
                elif code := self._send_now(path, data):
                    self._counters.count(_refusal(code), len(run) - position - 1)  # none of them fares better
                    self._on_error(path, code)
                    break

    def flush(self) -> None:
        """Send what is queued until the socket is full again."""
        pending, self._queue = self._queue, BoundedQueue(SEND_QUEUE_LIMIT, "drop_oldest")
        while (item := pending.pop()) is not None:
            if self._queue:  # full again: the rest keeps its order behind the one that bounced
                self._queue.push(item)
            elif code := self._send_now(*item):
                self._on_error(item[0], code)

    def close(self) -> None:
        """Send what is held back and close the socket; what was still queued is counted as dropped."""
        if self.closed:
            return
        self.push()
        self.closed = True
        if self._queue:
            self._counters.count("send_queue", len(self._queue))
            self._queue.clear()
        self.sock.close()

    def _sockaddr(self, path: Path) -> Sockaddr:
        if path is self._last_path and self._last_sockaddr is not None:
            return self._last_sockaddr
        return self._paths.sockaddr(path)

    def _send_run(self, path: Path, run: list[bytes]) -> bool:
        """Send several datagrams at once; False if each has to go by itself."""
        segment = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("H", self._run_length))]
        try:
            self.sock.sendmsg(run, segment, 0, self._sockaddr(path))
        except OSError as error:
            if error.errno in _NOT_AS_RUN:
                # Longer than a frame of the interface takes (EINVAL), or it cannot compute checksums (EIO).
                self._segment_limit = 0 if error.errno == errno.EIO else self._run_length - 1
            return False
        self._traffic.sent += self._run_length * (len(run) - 1) + len(run[-1])
        return True

    def _send_now(self, path: Path, data: bytes) -> int:
        try:
            self.sock.sendto(data, self._sockaddr(path))
        except BlockingIOError:
            self._enqueue(path, data)
        except OSError as error:
            code = error.errno or errno.EIO
            self._counters.count(_refusal(code))
            return code
        else:
            self._traffic.sent += len(data)
        return 0

    def _enqueue(self, path: Path, data: bytes) -> None:
        if not self._queue.push((path, data)):
            self._counters.count("send_queue")
        if not self.flushing:
            self.flushing = True
            self._on_congested(self)


def _refusal(code: int) -> str:
    return f"send_{errno.errorcode.get(code, 'UNKNOWN')}"


def _offload(sock: socket.socket) -> int:
    """Have the kernel join what comes in; returns the longest datagram that it may be asked to cut runs into."""
    with contextlib.suppress(OSError):  # before Linux 5.0: one datagram for each read
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
    try:
        # Older kernels would not refuse a run but send it as one datagram.
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
    except OSError:
        return 0
    return DATAGRAM_LIMIT
