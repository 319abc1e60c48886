"""Sockets of bases: addresses, ports, pinning, paths, the send queue."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.errors import LocalProtocolError
from edgeice.net.bases import open_udp, pin_socket
from edgeice.net.traffic import Traffic
from edgeice.net.udp import DATAGRAM_LIMIT, SEND_QUEUE_LIMIT, PathTable, UdpSocket
from edgeice.sansio import DropCounter
from tests.support.namespace import fresh_network_namespace, ip

BASE = Base(TransportAddress("127.0.0.1", 5000))
BASE6 = Base(TransportAddress("2001:db8::1", 5000), "lo")


@pytest.fixture
def namespace() -> Iterator[None]:
    with fresh_network_namespace():
        yield


@pytest.mark.parametrize("ip", ["127.0.0.1", "127.0.0.2", "::1"])
def test_open_binds_the_very_address(ip: str) -> None:
    sock, base, pin = open_udp(ip)
    with sock:
        assert base == Base(TransportAddress(ip, sock.getsockname()[1]))
        assert sock.getsockname()[0] == ip
        assert pin == "none"
        assert not sock.getblocking()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > 65536


def test_open_spells_the_address_canonically() -> None:
    sock, base, _ = open_udp("0:0:0:0:0:0:0:1")
    sock.close()
    assert base.address.ip == "::1"


def test_ipv6_socket_takes_no_ipv4() -> None:
    sock, base, _ = open_udp("::1")
    with sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        other.bind(("127.0.0.1", base.address.port))  # the port is free in the other family


def test_port_range_takes_the_first_free_one() -> None:
    first, base, _ = open_udp("127.0.0.1")
    port = base.address.port
    ports = range(port, port + 3)
    with first:
        second, base, _ = open_udp("127.0.0.1", port=ports)
        with second:
            assert base.address.port in ports[1:]
        with pytest.raises(OSError, match="in use") as full:
            open_udp("127.0.0.1", port=range(port, port + 1))
        assert full.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match="in use"):
            open_udp("127.0.0.1", port=port)


def test_address_of_another_host_is_no_base() -> None:
    with pytest.raises(OSError, match="assign") as refused:
        open_udp("192.0.2.1")
    assert refused.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("ip", ["0.0.0.0", "::", "224.0.0.251", "ff02::fb", "fe80::1"])
def test_addresses_that_cannot_be_a_base_are_refused(ip: str) -> None:
    with pytest.raises(LocalProtocolError):
        open_udp(ip)


def test_interface_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(OSError, match="No such device"):
        open_udp("127.0.0.1", "nonesuch0")


def no_error(path: Path, code: int) -> None:
    raise AssertionError(f"{path}: {errno.errorcode[code]}")


class RefusingSocket(socket.socket):
    """Refuses socket options as an older kernel does to a process without CAP_NET_RAW."""

    refused: tuple[int, ...] = ()

    def setsockopt(self, level: int, option: int, *value: Any) -> None:
        if option in self.refused:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        super().setsockopt(level, option, *value)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize(
    ("refused", "pin"),
    [((), "device"), ((socket.SO_BINDTODEVICE,), "unicast_if"), ((socket.SO_BINDTODEVICE, 50, 76), "none")],
)
def test_pinning_falls_back_where_the_kernel_refuses(family: int, refused: tuple[int, ...], pin: str) -> None:
    with RefusingSocket(family, socket.SOCK_DGRAM) as sock:
        sock.refused = refused
        assert pin_socket(sock, "lo") == pin
        index = socket.if_nametoindex("lo")
        device = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0")
        level, option = (socket.IPPROTO_IPV6, 76) if family == socket.AF_INET6 else (socket.IPPROTO_IP, 50)
        hint = socket.ntohl(sock.getsockopt(level, option))
    assert (device, hint) == {"device": (b"lo", 0), "unicast_if": (b"", index), "none": (b"", 0)}[pin]


@pytest.mark.root
@pytest.mark.parametrize(("interface", "ways"), [("d1", {"p1"}), ("", {"p0"})])
def test_pinned_socket_sends_by_its_interface(namespace: None, interface: str, ways: set[str]) -> None:
    """Two uplinks with a default route each: without the pin, d1's address leaves by d0, whose metric is lower."""
    for n in (0, 1):
        for command in (
            f"link add d{n} type veth peer name p{n}",
            f"addr add 10.{n}.0.1/24 dev d{n}",
            f"link set d{n} up",
            f"link set p{n} up",
            f"neigh add 10.{n}.0.2 lladdr 02:00:00:00:00:0{n} dev d{n}",
            f"route add default via 10.{n}.0.2 dev d{n} metric {100 + n}",
        ):
            ip(*command.split())
    wires = {name: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) for name in ("p0", "p1")}
    for name, wire in wires.items():
        wire.bind((name, 0x0800))
        wire.setblocking(False)
    sock, base, pin = open_udp("10.1.0.1", interface)
    assert pin == ("device" if interface else "none")
    udp = UdpSocket(sock, base, DropCounter(), lambda _udp: None, no_error)
    for _ in range(5):
        udp.send(Path(base.address, TransportAddress("203.0.113.9", 3478)), b"x")
    udp.close()
    seen: dict[str, int] = {}
    for name, wire in wires.items():
        with wire:
            for _ in range(6):
                try:
                    wire.recv(64)
                except BlockingIOError:
                    break
                seen[name] = seen.get(name, 0) + 1
    assert seen == dict.fromkeys(ways, 5)


@pytest.mark.root
def test_link_local_paths_carry_the_scope(namespace: None) -> None:
    for command in ("link add d0 type veth peer name p0", "link set d0 up", "link set p0 up"):
        ip(*command.split())
    ip("addr", "add", "fe80::d0/64", "dev", "d0", "nodad")
    ip("addr", "add", "fe80::e0/64", "dev", "p0", "nodad")
    counters = DropCounter()
    sides = []
    for own, name in (("fe80::d0", "d0"), ("fe80::e0", "p0")):
        sock, base, _ = open_udp(own, name)
        assert base == Base(TransportAddress(own, sock.getsockname()[1], scope=name), name)
        sides.append(UdpSocket(sock, base, counters, lambda _udp: None, no_error))
    one, two = sides
    there = TransportAddress("fe80::e0", two.base.address.port, scope="d0")
    one.send(Path(one.base.address, there), b"hello")
    one.push()
    two.sock.settimeout(5)
    got: list[tuple[bytes, Path]] = []
    assert two.receive(1, lambda data, path: got.append((data, path))) == 1
    back = TransportAddress("fe80::d0", one.base.address.port, scope="p0")
    assert got == [(b"hello", Path(two.base.address, back))]
    two.send(got[0][1], b"back")
    two.push()
    one.sock.settimeout(5)
    assert one.receive(1, lambda data, path: got.append((data, path))) == 1
    assert got[1] == (b"back", Path(one.base.address, there))
    for side in sides:
        side.close()
    assert counters.total == 0


def test_one_path_object_per_remote() -> None:
    table = PathTable(BASE)
    path = table.path(("192.0.2.1", 4000))
    assert path == Path(BASE.address, TransportAddress("192.0.2.1", 4000))
    assert table.path(("192.0.2.1", 4000)) is path
    assert table.path(("192.0.2.1", 4001)) is not path
    assert table.sockaddr(Path(BASE.address, TransportAddress("192.0.2.1", 4000))) == ("192.0.2.1", 4000)
    assert len(table) == 2


@pytest.mark.parametrize(
    ("remote", "sockaddr"),
    [
        (TransportAddress("2001:db8::2", 9), ("2001:db8::2", 9, 0, 0)),
        (TransportAddress("fe80::2", 9, scope="lo"), ("fe80::2", 9, 0, socket.if_nametoindex("lo"))),
    ],
)
def test_ipv6_socket_addresses_both_ways(remote: TransportAddress, sockaddr: tuple[Any, ...]) -> None:
    path = Path(BASE6.address, remote)
    assert PathTable(BASE6).sockaddr(path) == sockaddr
    assert PathTable(BASE6).path(sockaddr) == path


def test_remote_of_the_other_family_has_no_socket_address() -> None:
    with pytest.raises(OSError, match="other family"):
        PathTable(BASE).sockaddr(Path(BASE.address, TransportAddress("2001:db8::2", 9)))


def test_path_table_forgets_the_least_recently_used() -> None:
    table = PathTable(BASE, limit=3)
    kept = table.path(("192.0.2.1", 1))
    for port in range(2, 1000):  # a flood of sources
        table.path(("192.0.2.66", port))
        assert table.path(("192.0.2.1", 1)) is kept
    assert len(table) == 3
    assert len(table._sockaddrs) == 3
    assert table.sockaddr(Path(BASE.address, TransportAddress("192.0.2.66", 2))) == ("192.0.2.66", 2)
    assert len(table) == 3


class FullSocket(socket.socket):
    """A socket that takes `room` more datagrams before it blocks, and refuses those to port 1.

    Runs are taken or refused as a whole, as the kernel does, and noted in `runs`.
    """

    room = 0
    #: Refuses runs with this error.
    refusal = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.runs: list[int] = []

    def sendmsg(self, buffers: list[bytes], *rest: Any) -> int:  # type: ignore[override]  # only this form is used
        if self.refusal:
            raise OSError(self.refusal, "no runs")
        if self.room < len(buffers):
            raise BlockingIOError(errno.EAGAIN, "full")
        self.room -= len(buffers)
        self.runs.append(len(buffers))
        return super().sendmsg(buffers, *rest)

    def sendto(self, data: bytes, *rest: Any) -> int:  # type: ignore[override]  # only this form is used
        if self.room == 0:
            raise BlockingIOError(errno.EAGAIN, "full")
        if rest[-1][1] == 1:
            raise OSError(errno.ENETUNREACH, "no way")
        self.room -= 1
        return super().sendto(data, *rest)


class Fixture:
    def __init__(self) -> None:
        self.counters = DropCounter()
        self.congestions = 0
        self.sock = FullSocket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        own = TransportAddress("127.0.0.1", self.sock.getsockname()[1])
        self.traffic = Traffic()
        self.udp = UdpSocket(
            self.sock,
            Base(own),
            self.counters,
            self.congested,
            lambda path, code: self.errors.append((path, code)),
            traffic=self.traffic,
        )
        self.path = Path(own, own)
        self.errors: list[tuple[Path, int]] = []

    def congested(self, udp: UdpSocket) -> None:
        assert udp is self.udp
        self.congestions += 1

    def send(self, *datagrams: bytes) -> None:
        for data in datagrams:
            self.udp.send(self.path, data)
        self.udp.push()

    def arrived(self) -> list[bytes]:
        found: list[bytes] = []
        self.udp.receive(1000, lambda data, _path: found.append(data))
        return found


@pytest.fixture
def full() -> Iterator[Fixture]:
    fixture = Fixture()
    with fixture.sock:
        yield fixture


def test_bytes_are_counted_when_the_kernel_takes_them_and_gives_them(full: Fixture) -> None:
    full.sock.room = 1
    full.send(b"one", b"three")
    assert (full.traffic.sent, full.traffic.received) == (3, 0)
    full.arrived()
    assert (full.traffic.sent, full.traffic.received) == (3, 3)
    full.sock.room = 9
    full.udp.flush()
    full.arrived()
    assert (full.traffic.sent, full.traffic.received) == (8, 8)


@pytest.mark.parametrize("as_run", [True, False])
def test_bytes_of_runs_are_counted(full: Fixture, *, as_run: bool) -> None:
    full.sock.room = 99
    if not as_run:
        full.udp._segment_limit = 0
    full.send(*[bytes(1000)] * 5, b"end")
    assert [len(data) for data in full.arrived()] == [1000] * 5 + [3]
    assert (full.traffic.sent, full.traffic.received) == (5003, 5003)


def test_what_cannot_be_sent_is_not_counted(full: Fixture) -> None:
    full.sock.room = 9
    full.send(bytes(70_000))
    assert [code for _, code in full.errors] == [errno.EMSGSIZE]
    assert full.traffic.sent == 0


def test_full_socket_queues_in_order(full: Fixture) -> None:
    full.sock.room = 1
    full.send(*(b"%d" % number for number in range(4)))
    assert (full.arrived(), full.udp.congested, full.congestions) == ([b"0"], True, 1)
    full.sock.room = 2
    full.send(b"4")  # does not overtake
    full.udp.flush()
    assert (full.arrived(), full.udp.congested) == ([b"1", b"2"], True)
    full.sock.room = 9
    full.udp.flush()
    assert (full.arrived(), full.udp.congested, full.congestions) == ([b"3", b"4"], False, 1)
    assert full.counters.total == 0


def test_send_queue_drops_the_oldest_and_counts(full: Fixture) -> None:
    full.send(*(b"%d" % number for number in range(SEND_QUEUE_LIMIT + 3)))
    assert full.counters.snapshot() == {"send_queue": 3}
    full.sock.room = 1000
    full.udp.flush()
    assert full.arrived() == [b"%d" % number for number in range(3, SEND_QUEUE_LIMIT + 3)]


def test_datagrams_of_one_size_leave_as_a_run_and_come_as_they_were(full: Fixture) -> None:
    full.sock.room = 1000
    sent = [bytes([number]) * 1200 for number in range(100)] + [b"tail"]
    full.send(*sent)
    assert full.sock.runs == [54, 47]  # 65,000 bytes, and a shorter one ends it
    assert full.arrived() == sent
    mixed = [b"a" * 100, b"b" * 100, b"c" * 99, b"d" * 99, b"e" * 100, b""]
    full.send(*mixed)
    assert full.sock.runs[2:] == [3]  # longer and empty ones begin anew
    full.send(*[b"x"] * 130)
    assert full.sock.runs[3:] == [64, 64, 2]
    assert full.arrived() == [*mixed, *[b"x"] * 130]
    other = Path(full.path.local, TransportAddress("127.0.0.1", 9))
    for path in (full.path, other, full.path):
        full.udp.send(path, b"y")
    full.udp.push()
    assert full.arrived() == [b"y", b"y"]
    assert full.sock.runs[6:] == []
    assert full.counters.total == 0


@pytest.mark.parametrize(
    ("refusal", "again"), [(errno.EINVAL, [7]), (errno.EMSGSIZE, [7]), (errno.EIO, []), (errno.ENOBUFS, [6, 7])]
)
def test_where_no_run_is_possible_each_goes_by_itself(full: Fixture, refusal: int, again: list[int]) -> None:
    """A frame may be too long for the interface, which shorter ones are not; or it takes no runs at all."""
    full.sock.room = 1000
    full.sock.refusal = refusal
    full.send(*[b"x" * 1400] * 5)
    assert full.arrived() == [b"x" * 1400] * 5
    full.sock.refusal = 0
    full.send(*[b"x" * 1400] * 6)
    full.send(*[b"x" * 1399] * 7)
    assert full.arrived() == [b"x" * 1400] * 6 + [b"x" * 1399] * 7
    assert full.sock.runs == again
    assert full.counters.total == 0


def test_refused_run_is_told_once_and_counted_whole(full: Fixture) -> None:
    full.sock.room = 1000
    full.sock.refusal = errno.ENETUNREACH
    bad = Path(full.path.local, TransportAddress("127.0.0.1", 1))
    for _ in range(5):
        full.udp.send(bad, b"x")
    full.udp.push()
    assert full.errors == [(bad, errno.ENETUNREACH)]
    assert full.counters.snapshot() == {"send_ENETUNREACH": 5}


def test_closing_sends_what_is_held_back(full: Fixture) -> None:
    full.sock.room = 9
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        full.udp.send(Path(full.path.local, TransportAddress(*peer.getsockname())), b"goodbye")
        full.udp.close()
        assert peer.recv(100) == b"goodbye"


def test_error_while_flushing_is_told_and_the_rest_goes_on(full: Fixture) -> None:
    bad = Path(full.path.local, TransportAddress("127.0.0.1", 1))
    for path in (full.path, bad, full.path):
        full.udp.send(path, b"x")
    full.udp.push()
    full.sock.room = 9
    full.udp.flush()
    assert full.errors == [(bad, errno.ENETUNREACH)]
    assert len(full.arrived()) == 2
    assert full.counters.snapshot() == {"send_ENETUNREACH": 1}


def test_closing_counts_what_was_queued(full: Fixture) -> None:
    full.send(b"x")
    full.udp.close()
    full.udp.close()
    assert full.counters.snapshot() == {"send_queue": 1}
    assert not full.udp.congested
    assert full.udp.receive(10, lambda _data, _path: None) == 0


def test_receive_stops_at_its_limit(full: Fixture) -> None:
    full.sock.room = 9
    full.udp._segment_limit = 0  # what is joined is read as a whole
    full.send(*(b"%d" % number for number in range(5)))
    got: list[bytes] = []
    assert full.udp.receive(3, lambda data, _path: got.append(data)) == 3
    assert full.udp.receive(3, lambda data, _path: got.append(data)) == 2
    assert got == [b"0", b"1", b"2", b"3", b"4"]


def test_empty_and_largest_datagrams_pass(full: Fixture) -> None:
    full.sock.room = 9
    for size in (0, DATAGRAM_LIMIT - 1, DATAGRAM_LIMIT):
        full.send(bytes(size))
    assert [len(data) for data in full.arrived()] == [0, DATAGRAM_LIMIT - 1]
    assert full.counters.snapshot() == {"oversized": 1}


def test_pending_socket_error_is_counted_and_gone(full: Fixture) -> None:
    """ECONNREFUSED on a read: an ICMP message about an earlier datagram."""
    closed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    closed.bind(("127.0.0.1", 0))
    address = closed.getsockname()
    closed.close()
    full.sock.connect(address)  # only a connected socket is told at once
    full.sock.send(b"x")
    assert full.arrived() == []
    assert full.counters.snapshot() == {"receive_ECONNREFUSED": 1}
    assert full.arrived() == []
    assert full.counters.total == 1
