"""The driver over real sockets."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path as FilePath

import attrs
import pytest
import trio

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.errors import LocalProtocolError
from edgeice.net import Driver
from edgeice.net.driver import PARTING_TIMEOUT
from edgeice.net.udp import SEND_QUEUE_LIMIT
from edgeice.sansio import CloseFlow, Delivery, Event, OpenFlow, Resolve, SendStream, Transmit
from edgeice.trace import Record
from tests.support.namespace import fresh_network_namespace, ip
from tests.support.toy_machines import Noted, Toy, ToyRouter

SO_RCVBUFFORCE = 33  # not in the socket module
PAYLOAD = b"x" * 1200


def nothing(_event: Event) -> None:
    """Hears no event."""


@pytest.fixture
def namespace() -> Iterator[None]:
    with fresh_network_namespace():
        yield


@asynccontextmanager
async def driving(router: ToyRouter, *sessions: Toy) -> AsyncIterator[Driver]:
    async with trio.open_nursery() as nursery:
        driver = Driver(router, on_router_event=nothing)
        await nursery.start(driver.run)
        for session in sessions:
            driver.attach(session, nothing)
        with trio.fail_after(5):
            yield driver
        nursery.cancel_scope.cancel()


def stranger(ip: str = "127.0.0.1") -> socket.socket:
    """A socket outside of the driver."""
    sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind((ip, 0))
    return sock


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # the toys know no Trio
        await trio.sleep(0.001)


async def receive(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    await trio.lowlevel.wait_readable(sock)
    data, sender = sock.recvfrom(2048)
    return data, (sender[0], sender[1])


@pytest.mark.parametrize("ip", ["127.0.0.1", "127.0.0.2", "::1"])
async def test_echo_through_a_session(ip: str) -> None:
    session = Toy(echo=True)
    router = ToyRouter(session)
    async with driving(router, session) as driver:
        base = driver.open_base(ip)
        assert base == Base(TransportAddress(ip, base.address.port))
        assert router.inputs == [("base_added", base)]
        with stranger(ip) as peer:
            for number in range(3):
                peer.sendto(b"%d" % number, (ip, base.address.port))
                assert await receive(peer) == (b"%d" % number, (ip, base.address.port))
            remote = TransportAddress(ip, peer.getsockname()[1])
        assert [data for data, _ in session.received] == [b"0", b"1", b"2"]
        [path] = {id(path): path for _, path in session.received}.values()
        assert path == Path(base.address, remote)
        assert driver.counters.snapshot() == {}


async def test_router_that_takes_a_datagram_itself_is_drained() -> None:
    async with driving(ToyRouter(echo=True)) as driver:
        base = driver.open_base("127.0.0.1")
        with stranger() as peer:
            peer.sendto(b"hello", (base.address.ip, base.address.port))
            assert (await receive(peer))[0] == b"hello"


async def test_datagram_for_a_detached_session_is_counted() -> None:
    session = Toy()
    async with driving(ToyRouter(session)) as driver:
        base = driver.open_base("127.0.0.1")
        with stranger() as peer:
            peer.sendto(b"late", (base.address.ip, base.address.port))
        await until(lambda: driver.counters["unattached"] == 1)
    assert session.received == []


async def test_a_session_that_ends_leaves_no_paths_behind() -> None:
    """Each would hold back the memory that the rest of its session was in."""
    gone, other = Toy(), Toy()
    async with driving(ToyRouter(gone), gone, other) as driver:
        base = driver.open_base("127.0.0.1")
        with stranger() as peer:
            for count in (1, 2):
                peer.sendto(b"data", (base.address.ip, base.address.port))
                await until(lambda count=count: len(gone.received) == count)  # type: ignore[misc]  # mypy: lambda
                (udp,) = driver._sockets.values()
                assert len(udp._paths) == 1
                driver.detach(other)
                assert len(udp._paths) == 0
    assert gone.received[0] == gone.received[1]


async def test_path_that_a_machine_made_is_the_one_that_answers_come_on() -> None:
    session = Toy()
    async with driving(ToyRouter(session), session) as driver:
        base = driver.open_base("127.0.0.1")
        with stranger() as peer:
            path = Path(base.address, TransportAddress("127.0.0.1", peer.getsockname()[1]))
            session.actions.append(Transmit(path, b"check"))
            driver.touch(session)
            data, sender = await receive(peer)
            peer.sendto(data, sender)
            await until(lambda: len(session.received) >= 1)
        assert session.received[0][1] is path


async def test_many_datagrams_are_read_in_batches_and_other_tasks_run_between() -> None:
    """64 datagrams a turn: two hundred of them leave room for others in between."""
    session = Toy()
    async with driving(ToyRouter(session), session) as driver:
        base = driver.open_base("127.0.0.1")
        with stranger() as peer:
            for number in range(200):
                peer.sendto(b"%d" % number, (base.address.ip, base.address.port))
        seen: set[int] = set()
        while len(session.received) < 200:
            await trio.lowlevel.checkpoint()
            seen.add(len(session.received))
    assert [data for data, _ in session.received] == [b"%d" % number for number in range(200)]
    assert list(Counter(session.times).values()) == [
        65,
        65,
        65,
        9,
    ]  # the clock is read once per batch, whose end is told
    assert seen & {64, 128, 192}


async def test_base_closed_over_a_batch_reads_no_other() -> None:
    class Leaver(Toy):
        def receive_datagram(self, data: bytes, path: Path, *, now: float) -> None:
            super().receive_datagram(data, path, now=now)
            self.events.append(Noted("enough"))

    session = Leaver()
    router = ToyRouter(session)
    async with driving(router) as driver:
        base = driver.open_base("127.0.0.1")
        driver.attach(session, lambda _event: driver.close_base(base.address))
        with stranger() as peer:
            for _ in range(100):
                peer.sendto(b"", (base.address.ip, base.address.port))
        await until(lambda: len(session.received) >= 1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(session.received) == 64
        assert router.inputs[1:] == [("base_removed", base.address)]
        assert driver.bases == []


async def test_oversized_datagram_is_dropped_and_counted() -> None:
    session = Toy()
    async with driving(ToyRouter(session), session) as driver:
        base = driver.open_base("127.0.0.1")
        with stranger() as peer:
            for size in (4095, 4096, 9000):
                peer.sendto(bytes(size), (base.address.ip, base.address.port))
            peer.sendto(b"last", (base.address.ip, base.address.port))
        await until(lambda: len(session.received) >= 2)
    assert [len(data) for data, _ in session.received] == [4095, 4]
    assert driver.counters.snapshot() == {"oversized": 2}


async def test_closing_a_base_tells_the_router_and_frees_the_port() -> None:
    router = ToyRouter()
    async with driving(router) as driver:
        base = driver.open_base("127.0.0.1")
        driver.close_base(base.address)
        driver.close_base(base.address)
        assert router.inputs == [("base_added", base), ("base_removed", base.address)]
        again = driver.open_base("127.0.0.1", port=base.address.port)
        assert driver.bases == [again]
        router.actions.append(Transmit(Path(TransportAddress("127.0.0.1", 1), base.address), b""))
        driver.touch(router)
        assert driver.counters.snapshot() == {"no_base": 1}


REFUSED = [
    (PAYLOAD, "127.0.0.1", 0, errno.EINVAL),
    (bytes(70_000), "127.0.0.1", 9, errno.EMSGSIZE),
    (PAYLOAD, "::1", 9, errno.EAFNOSUPPORT),
    (PAYLOAD, "198.51.100.1", 9, errno.EINVAL),  # a loopback source cannot leave the host
]


@pytest.mark.parametrize(("data", "ip", "port", "code"), REFUSED)
async def test_refused_send_becomes_a_hint(data: bytes, ip: str, port: int, code: int) -> None:
    session = Toy()
    router = ToyRouter(session)
    async with driving(router, session) as driver:
        base = driver.open_base("127.0.0.1")
        path = Path(base.address, TransportAddress(ip, port))
        session.actions += [Transmit(path, data)] * 3
        driver.touch(session)
        assert router.inputs[1:] == [("socket_error", path, code)]
        assert driver.counters.snapshot() == {f"send_{errno.errorcode[code]}": 3}


async def test_router_that_answers_an_error_with_the_same_datagram_is_let_go() -> None:
    router = ToyRouter()
    async with driving(router) as driver:
        base = driver.open_base("127.0.0.1")
        router.stubborn = Transmit(Path(base.address, TransportAddress("127.0.0.1", 0)), b"")
        router.actions.append(router.stubborn)
        driver.touch(router)
        assert len(router.inputs) == 2
        assert driver.counters.snapshot() == {"send_EINVAL": 2}


async def test_canceling_closes_everything() -> None:
    before = open_files()
    records: list[Record] = []
    session = Toy()
    async with trio.open_nursery() as outer:
        driver = Driver(ToyRouter(session), on_router_event=nothing, tracer=records.append)
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            driver.attach(session, nothing)
            bases = [driver.open_base(ip) for ip in ("127.0.0.1", "127.0.0.1", "127.0.0.2", "::1")]
            assert open_files() == before + 4
            session.actions.append(Transmit(Path(bases[0].address, bases[1].address), b"in flight"))
            driver.touch(session)
            nursery.cancel_scope.cancel()
        assert open_files() == before
        assert driver.bases == []
        outer.cancel_scope.cancel()
    assert [record.name for record in records] == ["base_opened"] * 4 + ["base_closed"] * 4
    # A late command is no error: its datagram has no socket any more.
    session.actions += [Transmit(Path(bases[0].address, bases[1].address), b""), Resolve("localhost")]
    driver.touch(session)
    assert driver.counters.snapshot() == {"no_base": 1, "not_running": 1}


async def test_failing_machine_closes_everything() -> None:
    class Broken(Toy):
        def receive_datagram(self, data: bytes, path: Path, *, now: float) -> None:
            raise ZeroDivisionError(data, path, now)

    before = open_files()
    session = Broken()
    with pytest.RaisesGroup(pytest.RaisesGroup(ZeroDivisionError)):
        async with trio.open_nursery() as nursery:
            driver = Driver(ToyRouter(session), on_router_event=nothing)
            await nursery.start(driver.run)
            driver.attach(session, nothing)
            base = driver.open_base("127.0.0.1")
            with stranger() as peer:
                peer.sendto(b"", (base.address.ip, base.address.port))
    assert open_files() == before


@pytest.mark.parametrize("where", ["receive_datagram", "handle_timeout", "poll_action", "poll_event", "next_timeout"])
async def test_a_session_that_fails_is_let_go_and_the_others_go_on(where: str) -> None:
    def fail(*_arguments: object, **_more: object) -> None:
        raise ZeroDivisionError

    broken, sound = Toy(), Toy(echo=True)
    router = ToyRouter(broken)
    failures: list[Exception] = []
    async with driving(router, sound) as driver:
        driver.attach(broken, nothing, failures.append)
        base = driver.open_base("127.0.0.1")
        broken.deadlines.append(trio.current_time())
        setattr(broken, where, fail)
        driver.touch(broken)
        with stranger() as peer:
            if where == "receive_datagram":
                peer.sendto(b"bad", (base.address.ip, base.address.port))
            await until(lambda: bool(failures))
            router.session = sound
            peer.sendto(b"good", (base.address.ip, base.address.port))
            assert (await receive(peer))[0] == b"good"
    assert [type(error) for error in failures] == [ZeroDivisionError]
    assert driver.counters["session_failed"] == 1
    assert driver.counters["timer_stalled"] == 0


async def test_misuse_is_refused() -> None:
    session = Toy()
    driver = Driver(ToyRouter(), on_router_event=nothing)
    with pytest.raises(LocalProtocolError, match="does not run"):
        driver.open_base("127.0.0.1")
    async with driving(ToyRouter(), session) as driver:
        with pytest.raises(LocalProtocolError, match="attached already"):
            driver.attach(session, nothing)
        with pytest.raises(LocalProtocolError, match="runs already"):
            await driver.run()
        driver.touch(Toy())  # of a session that was detached meanwhile


async def test_flow_and_name_answers_reach_the_router() -> None:
    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    router = ToyRouter()
    async with driving(router) as driver, trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        router.actions += [
            OpenFlow(1, TransportAddress("127.0.0.1", port, "tcp")),
            OpenFlow(2, TransportAddress("127.0.0.1", 0, "tcp")),
            SendStream(1, b"hello"),
            Resolve("192.0.2.1"),
        ]
        driver.touch(router)
        await until(lambda: len(router.inputs) >= 4)
        router.actions.append(CloseFlow(1))
        driver.touch(router)
        nursery.cancel_scope.cancel()
    assert sorted(str(each[0]) for each in router.inputs) == [
        "close",
        "flow_failed",
        "flow_opened",
        "receive_stream",
        "resolved",
    ]
    assert ("receive_stream", 1, b"hello") in router.inputs
    assert ("resolved", "192.0.2.1", ["192.0.2.1"]) in router.inputs


@pytest.mark.root
async def test_full_socket_queues_drops_the_oldest_and_flushes_in_order(namespace: None) -> None:
    """An address that is being looked up on the link holds datagrams back until the socket's buffer is full."""
    for command in ("link add d0 type veth peer name p0", "addr add 192.0.2.1/24 dev d0", "link set d0 up"):
        ip(*command.split())
    ip("link", "set", "p0", "up")
    session = Toy()
    router = ToyRouter(session)
    async with driving(router, session) as driver:
        base = driver.open_base("192.0.2.1", "d0")
        udp = driver._sockets[base.address]
        udp._segment_limit = 0  # a veth's other end sees runs uncut
        udp.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        path = Path(base.address, TransportAddress("192.0.2.9", 4000))
        total = SEND_QUEUE_LIMIT + 50
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(0x0800)) as wire:
            wire.bind(("p0", 0x0800))
            wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
            session.actions += [Transmit(path, b"%04d" % number + PAYLOAD) for number in range(total)]
            driver.touch(session)
            dropped = driver.counters["send_queue"]
            assert 0 < dropped < 50  # some went into the kernel's buffer
            assert driver._sockets[base.address].congested
            ip("neigh", "replace", "192.0.2.9", "lladdr", "02:00:00:00:00:09", "dev", "d0")
            numbers: list[int] = []
            while len(numbers) < total - dropped:
                await trio.lowlevel.wait_readable(wire)
                numbers.append(int(wire.recv(2048)[28:32]))
        accepted = 50 - dropped
        assert numbers == [*range(accepted), *range(50, total)]
        assert not udp.congested
        assert [each[0] for each in router.inputs] == ["base_added"]
        # The next one finds an open way, and another fit of congestion another flush.
        assert udp.flushing is False


def open_files() -> int:
    return sum(1 for _ in FilePath("/proc/self/fd").iterdir())


async def test_a_datagram_from_a_relayed_address_goes_to_the_router() -> None:
    relayed = TransportAddress("203.0.113.1", 49152)
    path, other = Path(relayed, TransportAddress("192.0.2.1", 5000)), Path(attrs.evolve(relayed, port=1), relayed)
    session = Toy()
    router = ToyRouter(session)
    router.relayed = relayed
    async with driving(router, session) as driver:
        session.actions += [Transmit(path, b"one"), Transmit(other, b"lost"), Transmit(path, b"two")]
        driver.touch(session)
        assert router.sent == [(path, b"one"), (path, b"two")]
        assert driver.counters.snapshot() == {"no_base": 1}


async def test_what_came_wrapped_reaches_its_session_as_one_batch() -> None:
    path = Path(TransportAddress("203.0.113.1", 49152), TransportAddress("192.0.2.1", 5000))
    session, gone = Toy(echo=True), Toy()
    router = ToyRouter(session)
    router.relayed = path.local
    async with driving(router, session) as driver:
        router.deliveries += [Delivery(session, path, b"one"), Delivery(gone, path, b""), Delivery(session, path, b"2")]
        driver.touch(router)
        assert session.received == [(b"one", path), (b"2", path)]
        assert len(session.times) == 3  # two datagrams, one end of a batch
        assert [data for _, data in router.sent] == [b"one", b"2"]
        assert driver.counters.snapshot() == {"unattached": 1}


async def test_the_router_says_goodbye_while_its_sockets_are_open() -> None:
    class Polite(ToyRouter):
        def close(self, *, now: float) -> None:  # noqa: ARG002  # the contract's
            self.actions.append(farewell)

    router = Polite()
    with stranger() as server:
        async with driving(router) as driver:
            base = driver.open_base("127.0.0.1")
            remote = TransportAddress("127.0.0.1", server.getsockname()[1])
            farewell = Transmit(Path(base.address, remote), b"bye")
        assert await receive(server) == (b"bye", ("127.0.0.1", base.address.port))


@pytest.mark.parametrize("way", ["tcp", "udp"])
async def test_the_router_says_goodbye_while_its_flows_are_open(way: str) -> None:
    class Polite(ToyRouter):
        def close(self, *, now: float) -> None:
            super().close(now=now)
            self.actions.append(SendStream(1, b"bye"))

    heard: list[bytes] = []

    async def listen(stream: trio.SocketStream) -> None:
        heard.append(bytes(await stream.receive_some()))

    router = Polite()
    with stranger() as server:
        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(partial(trio.serve_tcp, listen, 0, host="127.0.0.1"))
            port = listener.socket.getsockname()[1] if way == "tcp" else server.getsockname()[1]
            async with driving(router) as driver:
                remote = TransportAddress("127.0.0.1", port)
                router.actions += [OpenFlow(1, remote, datagrams=way == "udp"), OpenFlow(2, remote)]
                driver.touch(router)
                await until(lambda: "flow_opened" in [each[0] for each in router.inputs])
            assert len(driver._flows) == 0
            if way == "udp":
                assert (await receive(server))[0] == b"bye"
            else:
                with trio.fail_after(5):
                    await until(lambda: b"bye" in heard)
            nursery.cancel_scope.cancel()


async def test_a_server_that_takes_nothing_does_not_hold_up_the_end() -> None:
    class Polite(ToyRouter):
        def close(self, *, now: float) -> None:
            super().close(now=now)
            self.actions.append(SendStream(1, bytes(200_000)))

    async def ignore(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    router = Polite()
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, ignore, 0, host="127.0.0.1"))
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        async with driving(router) as driver:
            router.actions.append(OpenFlow(1, TransportAddress("127.0.0.1", listener.socket.getsockname()[1])))
            driver.touch(router)
            await until(lambda: "flow_opened" in [each[0] for each in router.inputs])
            router.actions += [SendStream(1, bytes(200_000))]
            driver.touch(router)
            ended_at = trio.current_time()
        assert trio.current_time() - ended_at < PARTING_TIMEOUT + 0.5
        nursery.cancel_scope.cancel()
