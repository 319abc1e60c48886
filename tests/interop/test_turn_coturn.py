"""Allocations on a real coturn, over UDP, TCP and TLS, on real sockets."""

from __future__ import annotations

import contextlib
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import pytest
import trio

from edgeice.addresses import TransportAddress
from edgeice.errors import DecodeError
from edgeice.sansio import Entropy, Event
from edgeice.stun import Attribute, decode
from edgeice.turn import (
    Allocated,
    Allocation,
    AllocationFailed,
    AllocationLost,
    AllocationReleased,
    AllocationState,
    FamilyRefused,
    PeerRefused,
    TurnCredentials,
    rest_credentials,
)
from tests.support.coturn import COTURN, Coturn, coturn

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(COTURN is None, reason="coturn is not installed"),
]

Way = Literal["udp", "tcp", "tls"]
_OPENING = b"opening"
WAYS: list[Way] = ["udp", "tcp", "tls"]
E = TypeVar("E", bound=Event)


def credentials(server: Coturn, *, seconds: int = 60) -> TurnCredentials:
    return rest_credentials(server.secret, expires_at=int(time.time()) + seconds, user="dev-7")


class Client:
    """An allocation on a socket of its own."""

    def __init__(
        self,
        allocation: Allocation,
        send: Callable[[bytes], Awaitable[object]],
        receive: Callable[[], Awaitable[bytes | bytearray]],
    ) -> None:
        self.allocation = allocation
        self._send = send
        self._receive = receive
        self._sending = trio.Lock()
        self._changed = trio.Event()
        #: Seconds by which this end's clock is ahead of the server's.
        self.ahead = 0.0
        self.events: list[Event] = []
        self.data: list[tuple[TransportAddress, bytes]] = []
        #: Error codes that the server answered with, and messages by their first byte.
        self.codes: list[int] = []
        self.first_bytes: list[int] = []

    @property
    def now(self) -> float:
        return trio.current_time() + self.ahead

    async def pump(self) -> None:
        """Send what is to be sent, and take what there is."""
        async with self._sending:
            while (data := self.allocation.poll_transmit()) is not None:
                await self._send(data)
        while (event := self.allocation.poll_event()) is not None:
            self.events.append(event)
        while (datagram := self.allocation.poll_data()) is not None:
            if datagram[1] != _OPENING:
                self.data.append(datagram)
        self._changed.set()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Receive and keep the time until the allocation has ended."""
        await self.pump()
        while not self.allocation.is_ended:
            at = self.allocation.next_timeout()
            with trio.move_on_at(trio.current_time() + 1 if at is None else at - self.ahead):
                data = bytes(await self._receive())
                assert data, "the server closed the connection"
                self._note(data)
                self.allocation.receive(data, now=self.now)
            self.allocation.handle_timeout(now=self.now)
            await self.pump()

    def _note(self, data: bytes) -> None:
        self.first_bytes.append(data[0])
        with contextlib.suppress(DecodeError):
            error = decode(data).get(Attribute.ERROR_CODE)
            if error is not None:
                self.codes.append(error.code)

    async def skip(self, seconds: float) -> None:
        """Let this end believe that time has passed, once nothing is under way; the server does not."""
        await self.wait(lambda: self.allocation._requests.is_idle)
        self.ahead += seconds
        self.allocation.handle_timeout(now=self.now)
        await self.pump()

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Until something that comes from the server makes it true."""
        with trio.fail_after(10):
            while not condition():
                await self._changed.wait()

    async def event(self, kind: type[E]) -> E:
        """The first event of a kind."""
        await self.wait(lambda: any(isinstance(event, kind) for event in self.events))
        return next(event for event in self.events if isinstance(event, kind))

    async def send(self, peer: TransportAddress, data: bytes) -> None:
        self.allocation.send(peer, data, now=self.now)
        await self.pump()

    async def permit(self, peer: TransportAddress) -> None:
        """Have a permission for a peer; what is sent for it may get lost there, or come late."""
        await self.send(peer, _OPENING)
        await self.wait(lambda: self.allocation._relaying._permissions.is_live(peer.ip))

    async def close(self) -> AllocationReleased:
        self.allocation.close(now=self.now)
        await self.pump()
        return await self.event(AllocationReleased)


@contextlib.asynccontextmanager
async def connected(
    server: Coturn, way: Way, given: TurnCredentials | None = None, *, dual: bool = False
) -> AsyncIterator[Client]:
    """A client whose first request is on its way."""
    address = server.tls_address if way == "tls" else server.address
    allocation = Allocation(
        address,
        stream=way != "udp",
        credentials=given or credentials(server),
        family=4,
        dual=dual,
        entropy=Entropy(),
        now=trio.current_time(),
        software="edgeice",
    )
    async with contextlib.AsyncExitStack() as stack:
        if way == "udp":
            socket = stack.enter_context(trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM))
            await socket.connect((address.ip, address.port))
            client = Client(allocation, socket.send, lambda: socket.recv(65536))
        else:
            stream: trio.abc.Stream = await trio.open_tcp_stream(address.ip, address.port)
            if way == "tls":
                context = ssl.create_default_context(cafile=str(server.authority.cafile))
                stream = trio.SSLStream(stream, context, server_hostname="localhost")
            await stack.enter_async_context(stream)
            client = Client(allocation, stream.send_all, lambda: stream.receive_some(65536))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            yield client
            nursery.cancel_scope.cancel()


def sessions(log: str, pattern: str) -> Iterator[str]:
    """Sessions in coturn's log about which it says something."""
    return (match[1] for match in re.finditer(rf"session (\d+): {pattern}", log))


@pytest.mark.parametrize("way", WAYS)
async def test_turn_32_data_both_ways_between_two_allocations(tmp_path: Path, way: Way) -> None:
    async with coturn(tmp_path) as server:
        async with connected(server, way) as ours, connected(server, "udp") as theirs:
            here, there = await ours.event(Allocated), await theirs.event(Allocated)
            assert here.lifetime == 600
            assert here.rtt is not None
            assert 0 < here.rtt < 5
            assert here.mapped.ip == here.relayed.ip == "127.0.0.1"
            await ours.permit(there.relayed)
            await theirs.permit(here.relayed)
            await ours.send(there.relayed, b"to them")
            await theirs.wait(lambda: theirs.data == [(here.relayed, b"to them")])
            await theirs.send(here.relayed, b"")
            await theirs.send(here.relayed, b"abc")
            await ours.wait(lambda: len(ours.data) == 2)
            assert ours.data == [(there.relayed, b""), (there.relayed, b"abc")]
            # The same through a channel.
            assert ours.allocation.bind(there.relayed, now=ours.now)
            await ours.pump()
            await ours.wait(
                lambda: ours.allocation._relaying._channels.sending(there.relayed, now=ours.now) is not None
            )
            for size in (0, 1, 3, 4, 1200):
                await ours.send(there.relayed, bytes(size))
                await theirs.send(here.relayed, bytes(size))
            await theirs.wait(lambda: len(theirs.data) == 6)
            await ours.wait(lambda: len(ours.data) == 7)
            assert sorted(len(data) for _, data in theirs.data[1:]) == [0, 1, 3, 4, 1200]
            assert sorted(len(data) for _, data in ours.data[2:]) == [0, 1, 3, 4, 1200]
            assert 0x40 in ours.first_bytes
            assert ours.allocation.drops.snapshot() == {}
            assert (await ours.close()).confirmed
            assert (await theirs.close()).confirmed
        server.stop()
        log = server.log()
    assert len(set(sessions(log, "refreshed, .*lifetime=0"))) == 2
    assert len(set(sessions(log, "realm .* incoming packet CHANNEL_BIND processed, success"))) == 1


@pytest.mark.parametrize("way", WAYS)
async def test_turn_03_turn_20_turn_26_everything_is_renewed(tmp_path: Path, way: Way) -> None:
    async with coturn(tmp_path) as server:
        async with connected(server, way) as client:
            await client.event(Allocated)
            channel_peer, plain_peer = TransportAddress("127.0.0.1", 9), TransportAddress("127.0.0.2", 9)
            relaying = client.allocation._relaying
            for _ in range(12):
                await client.send(channel_peer, b"x")
                await client.send(plain_peer, b"x")
                client.allocation.bind(channel_peer, now=client.now)
                await client.wait(lambda: relaying._permissions.is_live(plain_peer.ip))
                await client.wait(lambda: relaying._channels.sending(channel_peer, now=client.now) is not None)
                await client.skip(55)
            await client.wait(lambda: not client.allocation._requests._requests)
            assert client.allocation.state is AllocationState.ALLOCATED
            assert client.codes == [401]
            assert (await client.close()).confirmed
        server.stop()
        log = server.log()
    assert len(list(sessions(log, "refreshed, .*lifetime=600"))) == 1
    # At the start and after 240 and 480 s; the channel's peer had a permission of its own before it.
    assert len(list(sessions(log, "realm .* CHANNEL_BIND processed, success"))) == 3
    assert len(list(sessions(log, "realm .* CREATE_PERMISSION processed, success"))) == 4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wrong", ["password", "user", "expired"])
async def test_turn_12_credentials_that_the_server_refuses(tmp_path: Path, way: Way, wrong: str) -> None:
    async with coturn(tmp_path) as server:
        good = credentials(server)
        given = {
            "password": TurnCredentials(good.username, "south"),
            "user": TurnCredentials("dev-7", good.password),
            "expired": credentials(server, seconds=-10),
        }[wrong]
        async with connected(server, way, given) as client:
            event = await client.event(AllocationFailed)
            assert event == AllocationFailed(reason="unauthorized", code=401, retry_at=None)
            assert client.codes == [401, 401]


async def test_turn_37_an_allocation_outlives_its_credentials(tmp_path: Path) -> None:
    async with coturn(tmp_path) as server:
        given = credentials(server, seconds=1)
        async with connected(server, "udp", given) as client:
            await client.event(Allocated)
            refused = False
            while not refused:
                # A local port may be one that the server still knows: that is an error of another code.
                async with connected(server, "udp", given) as later:
                    await later.wait(lambda: later.allocation.state is not AllocationState.ALLOCATING)
                    refused = later.codes == [401, 401]
            await client.skip(541)
            await client.wait(lambda: not client.allocation._requests._requests)
            assert client.codes == [401]
            assert (await client.close()).confirmed


async def test_stun_42_the_server_changes_its_nonce(tmp_path: Path) -> None:
    async with coturn(tmp_path, "--stale-nonce=1") as server, connected(server, "udp") as client:
        await client.event(Allocated)
        relaying = client.allocation._relaying
        asked = 0
        while 438 not in client.codes:
            asked += 1
            ip = f"127.1.{asked >> 8}.{asked & 255}"
            await client.send(TransportAddress(ip, 9), b"x")
            # Each permission ends long before the table is full.
            await client.skip(10)
            await client.wait(lambda ip=ip: relaying._permissions.is_live(ip))  # type: ignore[misc]
        assert client.allocation.state is AllocationState.ALLOCATED
        assert not [event for event in client.events if isinstance(event, PeerRefused)]
        assert (await client.close()).confirmed


async def test_turn_12_a_user_with_too_many_allocations(tmp_path: Path) -> None:
    async with coturn(tmp_path, "--user-quota=1") as server:
        given = credentials(server)
        async with connected(server, "udp", given) as first:
            await first.event(Allocated)
            async with connected(server, "udp", given) as second:
                event = await second.event(AllocationFailed)
                assert (event.reason, event.code) == ("quota", 486)
                assert event.retry_at is not None
                assert 55 < event.retry_at - second.now <= 60


async def test_turn_21_a_peer_that_the_server_does_not_relay_to(tmp_path: Path) -> None:
    async with coturn(tmp_path, "--denied-peer-ip=127.0.0.9") as server, connected(server, "udp") as client:
        await client.event(Allocated)
        await client.send(TransportAddress("127.0.0.9", 9), b"x")
        assert await client.event(PeerRefused) == PeerRefused("127.0.0.9", 403)
        assert client.allocation.state is AllocationState.ALLOCATED


async def test_turn_12_a_family_that_the_server_does_not_have(tmp_path: Path) -> None:
    async with coturn(tmp_path) as server:
        async with connected(server, "udp") as client:
            await client.event(Allocated)
        six = Allocation(
            server.address,
            stream=False,
            credentials=credentials(server),
            family=6,
            entropy=Entropy(),
            now=trio.current_time(),
        )
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as socket:
            await socket.connect((server.address.ip, server.address.port))
            client = Client(six, socket.send, lambda: socket.recv(65536))
            with trio.fail_after(10):
                await client.run()
        assert client.events[-1] == AllocationFailed(reason="family_unsupported", code=440, retry_at=None)


@pytest.mark.parametrize("six", [False, True])
async def test_turn_07_turn_08_both_families_by_one_allocation(tmp_path: Path, six: bool) -> None:
    options = ["--relay-ip=::1"] if six else []
    async with coturn(tmp_path, *options) as server, connected(server, "udp", dual=True) as client:
        event = await client.event(Allocated)
        assert event.relayed.ip == "127.0.0.1"
        if six:
            assert event.additional is not None
            assert event.additional.ip == "::1"
            await client.permit(TransportAddress("::1", 9))
            await client.permit(TransportAddress("127.0.0.1", 9))
            assert len(client.events) == 2
        else:
            assert event.additional is None
            assert await client.event(FamilyRefused) == FamilyRefused(6, 440, None)
        await client.skip(541)
        assert (await client.close()).confirmed


async def test_turn_05_the_server_was_started_again(tmp_path: Path) -> None:
    async with coturn(tmp_path) as server, connected(server, "udp") as client:
        await client.event(Allocated)
        server.stop()
        server.start()
        await server.wait_ready()
        await client.skip(541)
        assert await client.event(AllocationLost) == AllocationLost("mismatch", 437)
        assert client.codes == [401, 438, 437]


@pytest.mark.parametrize("way", WAYS)
async def test_stun_50_the_redirect_of_coturn_is_unproved_and_not_followed(tmp_path: Path, way: Way) -> None:
    other = TransportAddress("127.0.0.1", 3479)
    option = "--tls-alternate-server" if way == "tls" else "--alternate-server"
    async with coturn(tmp_path, f"{option}={other}") as server, connected(server, way) as client:
        await client.event(AllocationFailed)
        # It answers so before it knows who asks, and anybody could (RFC 8489 §14.8).
        assert client.events == [AllocationFailed(reason="redirect_unproven", code=300, retry_at=None)]
