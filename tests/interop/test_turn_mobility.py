"""Allocations that move between addresses on a real coturn (RFC 8016), over UDP, TCP and TLS."""

from __future__ import annotations

import contextlib
import re
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest
import trio

from edgeice.addresses import TransportAddress
from edgeice.sansio import Entropy, Event
from edgeice.turn import (
    Allocated,
    Allocation,
    AllocationLost,
    AllocationMoved,
    AllocationReleased,
    AllocationState,
    ServerChallenged,
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
WAYS: list[Way] = ["udp", "tcp", "tls"]
#: Without the second, coturn 4.6 garbles its answer to a move.
MOBILE = ("--mobility", "--no-software-attribute")
#: Less than what a server that is silent has.
AT_ONCE = 3.0


class Roamer:
    """A client that goes from one address of this host to another; its clock may be ahead of the server's."""

    def __init__(self, server: Coturn, way: Way, nursery: trio.Nursery, given: TurnCredentials | None = None) -> None:
        self.server = server
        self._way = way
        self._nursery = nursery
        login = given or rest_credentials(server.secret, expires_at=int(time.time()) + 60, user="dev-7")
        self.allocation = Allocation(
            server.tls_address if way == "tls" else server.address,
            stream=way != "udp",
            credentials=login,
            family=4,
            entropy=Entropy(),
            now=trio.current_time(),
            mobile=True,
        )
        self.events: list[Event] = []
        self.data: list[bytes] = []
        #: Answers that are lost on their way.
        self.losing = 0
        self._stream: trio.abc.Stream | None = None
        self._socket: trio.socket.SocketType | None = None
        self._reader = trio.CancelScope()
        self._changed = trio.Event()
        self._sending = trio.Lock()
        nursery.start_soon(self._keep_time)

    async def go(self, ip: str, *, tell: bool = True) -> None:
        """Have this address and a port of it from now on; the one before is gone."""
        await self.leave()
        address = self.allocation.server
        if self._way == "udp":
            self._socket = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
            await self._socket.bind((ip, 0))
            await self._socket.connect((address.ip, address.port))
        else:
            stream: trio.abc.Stream = await trio.open_tcp_stream(address.ip, address.port, local_address=ip)
            if self._way == "tls":
                context = ssl.create_default_context(cafile=str(self.server.authority.cafile))
                stream = trio.SSLStream(stream, context, server_hostname="localhost")
            self._stream = stream
        self._reader = trio.CancelScope()
        self._nursery.start_soon(self._read, self._reader)
        if tell and self.allocation.state is AllocationState.ALLOCATED:
            assert self.allocation.move(now=trio.current_time())
        await self.pump()

    async def leave(self) -> None:
        """Have no address."""
        self._reader.cancel()
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)
        if self._socket is not None:
            self._socket.close()

    async def _read(self, scope: trio.CancelScope) -> None:
        with scope, contextlib.suppress(trio.BrokenResourceError):
            while True:
                if self._stream is not None:
                    data = bytes(await self._stream.receive_some(65536))
                else:
                    assert self._socket is not None
                    data = await self._socket.recv(65536)
                if not data:
                    return
                if self.losing:
                    self.losing -= 1
                    continue
                self.allocation.receive(data, now=trio.current_time())
                await self.pump()

    async def _keep_time(self) -> None:
        while not self.allocation.is_ended:
            await trio.sleep(0.01)
            self.allocation.handle_timeout(now=trio.current_time())
            await self.pump()

    async def pump(self) -> None:
        """Send what is to be sent, and take what there is."""
        async with self._sending:
            while (data := self.allocation.poll_transmit()) is not None:
                with contextlib.suppress(OSError, trio.ClosedResourceError):
                    if self._stream is not None:
                        await self._stream.send_all(data)
                    elif self._socket is not None:
                        await self._socket.send(data)
        while (event := self.allocation.poll_event()) is not None:
            self.events.append(event)
        while (datagram := self.allocation.poll_data()) is not None:
            self.data.append(datagram[1])
        self._changed.set()
        self._changed = trio.Event()

    async def heard(self, kind: type[Event], times: int = 1) -> float:
        """Seconds until an event of a kind was heard so often."""
        start = trio.current_time()
        with trio.fail_after(10):
            while sum(isinstance(event, kind) for event in self.events) < times:
                await self._changed.wait()
        return trio.current_time() - start

    def at_once(self) -> bool:
        """Whether no request that moved the allocation had to be repeated for want of an answer."""
        return all(event.rtt is not None for event in self.events if isinstance(event, AllocationMoved))

    async def send_until(self, peer: Peer, data: bytes) -> None:
        """Send to a peer until it gets that; the server may lose what comes in the middle of a move."""
        with trio.fail_after(5):
            while True:
                self.allocation.send(peer.address, data, now=trio.current_time())
                await self.pump()
                with trio.move_on_after(0.2):
                    received, source = await peer.socket.recvfrom(2048)
                    assert (received, source) == (data, (self.relayed.ip, self.relayed.port))
                    break
        await trio.sleep(0.05)
        with trio.move_on_after(0):
            while True:
                await peer.socket.recvfrom(2048)

    async def got(self, data: bytes) -> None:
        """Wait until a peer's datagram is there."""
        with trio.fail_after(5):
            while data not in self.data:
                await self._changed.wait()

    async def send(self, peer: Peer, data: bytes) -> None:
        """Send to a peer, who must get it from the relayed address, and this alone."""
        self.allocation.send(peer.address, data, now=trio.current_time())
        await self.pump()
        with trio.fail_after(5):
            received, source = await peer.socket.recvfrom(2048)
        assert (received, source) == (data, (self.relayed.ip, self.relayed.port))

    @property
    def relayed(self) -> TransportAddress:
        """The relayed address."""
        return next(event.relayed for event in self.events if isinstance(event, Allocated))


class Peer:
    """Who is talked to."""

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self.socket = socket
        self.address = TransportAddress("127.0.0.1", socket.getsockname()[1])

    async def send(self, to: Roamer, data: bytes) -> None:
        """Send to the relayed address; the client must hear it."""
        await self.socket.sendto(data, (to.relayed.ip, to.relayed.port))
        await to.got(data)


@contextlib.asynccontextmanager
async def allocated(
    server: Coturn, way: Way = "udp", given: TurnCredentials | None = None
) -> AsyncIterator[tuple[Roamer, Peer]]:
    """A client with an allocation, at 127.0.0.1, and its peer."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as socket:
        await socket.bind(("127.0.0.1", 0))
        async with trio.open_nursery() as nursery:
            client = Roamer(server, way, nursery, given)
            await client.go("127.0.0.1")
            await client.heard(Allocated)
            yield client, Peer(socket)
            await client.leave()
            nursery.cancel_scope.cancel()


def logged(server: Coturn, pattern: str) -> int:
    """How often coturn wrote so."""
    return len(re.findall(pattern, server.log()))


@pytest.mark.parametrize("way", WAYS)
async def test_rfc8016_a_channel_goes_on_from_three_addresses(tmp_path: Path, way: Way) -> None:
    async with coturn(tmp_path, *MOBILE) as server:
        async with allocated(server, way) as (client, peer):
            assert client.allocation.is_mobile
            await client.send(peer, b"by indication")
            assert client.allocation.bind(peer.address, now=trio.current_time())
            await client.pump()
            channels = client.allocation._relaying._channels
            with trio.fail_after(5):
                while channels.sending(peer.address, now=trio.current_time()) is None:
                    await client._changed.wait()
            for number in range(1, 4):
                await client.send(peer, b"out %d" % number)
                await peer.send(client, b"in %d" % number)
                await client.go(f"127.0.0.{number + 1}")
                # Data goes right behind the ticket, over a stream once that is answered.
                await client.send_until(peer, b"behind %d" % number)
                await client.heard(AllocationMoved, number)
            await client.send(peer, b"last")
            await peer.send(client, b"last")
            assert [type(event) for event in client.events] == [ServerChallenged, Allocated, *[AllocationMoved] * 3]
            assert client.at_once()
            client.allocation.close(now=trio.current_time())
            await client.pump()
            await client.heard(AllocationReleased)
            assert client.events[-1] == AllocationReleased(confirmed=True)
        server.stop()
        # Each was asked for once, in all these addresses.
        for method in ("ALLOCATE", "CHANNEL_BIND", "CREATE_PERMISSION"):
            assert logged(server, f"incoming packet {method} processed, success") == 1
        assert logged(server, r"lifetime=0\b") >= 1


@pytest.mark.parametrize("way", WAYS)
async def test_rfc8016_who_only_listens_hears_on(tmp_path: Path, way: Way) -> None:
    async with coturn(tmp_path, *MOBILE) as server, allocated(server, way) as (client, peer):
        await client.send(peer, b"hello")
        for number in range(1, 4):
            await client.go(f"127.0.0.{number + 1}")
            await client.heard(AllocationMoved, number)
            await peer.send(client, b"in %d" % number)


async def test_rfc8016_a_coturn_that_garbles_its_answer_is_understood_at_once(tmp_path: Path) -> None:
    async with coturn(tmp_path, "--mobility") as server, allocated(server) as (client, peer):
        await client.send(peer, b"hello")
        for number in range(1, 4):
            await client.go(f"127.0.0.{number + 1}")
            await client.heard(AllocationMoved, number)
            await client.send(peer, b"out %d" % number)
            await peer.send(client, b"in %d" % number)
        assert client.at_once()


@pytest.mark.parametrize("options", [MOBILE, ("--mobility",)])
async def test_rfc8016_an_answer_that_is_lost_is_asked_for_again(tmp_path: Path, options: tuple[str, ...]) -> None:
    async with coturn(tmp_path, *options) as server, allocated(server) as (client, peer):
        await client.send(peer, b"hello")
        client.losing = 1
        await client.go("127.0.0.2")
        await client.heard(AllocationMoved)
        assert not client.at_once()
        await client.send(peer, b"out")
        await client.go("127.0.0.3")
        await client.heard(AllocationMoved, 2)
        await peer.send(client, b"in")


async def test_rfc8016_another_binding_of_the_nat_is_moved_to(tmp_path: Path) -> None:
    async with coturn(tmp_path, *MOBILE) as server, allocated(server) as (client, peer):
        await client.send(peer, b"hello")
        await client.go("127.0.0.1", tell=False)
        client.allocation.confirm(now=trio.current_time())
        await client.pump()
        await client.heard(AllocationMoved)
        assert client.at_once()
        await client.send(peer, b"out")
        await peer.send(client, b"in")


async def test_rfc8016_what_stands_is_confirmed_without_a_ticket(tmp_path: Path) -> None:
    async with coturn(tmp_path, *MOBILE) as server, allocated(server) as (client, peer):
        await client.send(peer, b"hello")
        for _ in range(3):
            client.allocation.confirm(now=trio.current_time())
            await client.pump()
            with trio.fail_after(5):
                while not client.allocation._requests.is_idle:
                    await client._changed.wait()
        await client.send(peer, b"out")
        assert not [event for event in client.events if isinstance(event, AllocationMoved)]


async def test_rfc8016_an_allocation_moves_after_its_credentials_expired(tmp_path: Path) -> None:
    async with coturn(tmp_path, *MOBILE) as server:
        given = rest_credentials(server.secret, expires_at=int(time.time()) + 2, user="dev-7")
        async with allocated(server, given=given) as (client, peer):
            await client.send(peer, b"hello")
            await trio.sleep(3)  # the server's clock
            await client.go("127.0.0.2")
            await client.heard(AllocationMoved)
            await client.send(peer, b"out")


@pytest.mark.parametrize("way", WAYS)
async def test_rfc8016_a_coturn_that_was_started_again_takes_no_ticket(tmp_path: Path, way: Way) -> None:
    async with coturn(tmp_path, *MOBILE) as server, allocated(server, way) as (client, peer):
        await client.send(peer, b"hello")
        server.stop()
        server.start()
        await server.wait_ready()
        await client.go("127.0.0.2")
        assert await client.heard(AllocationLost) < AT_ONCE
        (lost,) = [event for event in client.events if isinstance(event, AllocationLost)]
        assert (lost.reason, lost.code) == ("move_refused", None)  # it signs nothing of what it does not know


@pytest.mark.parametrize("options", [MOBILE, ()])
async def test_rfc8016_a_coturn_that_was_killed_is_found_out_when_it_is_asked(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    async with coturn(tmp_path, *options) as server, allocated(server) as (client, peer):
        await client.send(peer, b"hello")
        server.kill()
        server.start()
        await server.wait_ready()
        client.allocation.confirm(now=trio.current_time())
        await client.pump()
        assert await client.heard(AllocationLost) < AT_ONCE


async def test_rfc8016_a_coturn_without_mobility_forbids_it_once(tmp_path: Path) -> None:
    async with coturn(tmp_path) as server:
        async with allocated(server) as (client, peer):
            await client.send(peer, b"hello")
            assert client.allocation.mobility_forbidden
            assert not client.allocation.move(now=trio.current_time())
        server.stop()
        assert logged(server, "ALLOCATE processed, error 405") == 1
