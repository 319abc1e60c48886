"""Sessions over a relay alone, while addresses of their host and the relay itself come and go: on a real coturn."""

from __future__ import annotations

import contextlib
import itertools
import re
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import attrs
import pytest
import trio

from edgeice.errors import LocalProtocolError
from edgeice.ice import CandidatePolicy, IceConfig
from edgeice.peer import TurnServer
from edgeice.trace import Record
from edgeice.transport import IceTransport, Node, NodeConfig, open_node
from edgeice.turn import rest_credentials
from tests.support.coturn import COTURN, Coturn, coturn

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(COTURN is None, reason="coturn is not installed"),
]

Way = Literal["udp", "tcp", "tls"]
MOBILE = ("--mobility", "--no-software-attribute")
#: Seconds between two datagrams of the echo.
_TICK = 0.01


def config(server: Coturn, way: Way, loopback: str = "127.0.0.1") -> NodeConfig:
    """A node with one address, that tells its peers of relayed candidates only."""
    login = rest_credentials(server.secret, expires_at=int(time.time()) + 600, user="dev-7")
    uri = {
        "udp": f"turn:127.0.0.1:{server.address.port}",
        "tcp": f"turn:127.0.0.1:{server.address.port}?transport=tcp",
        "tls": f"turns:localhost:{server.tls_address.port}",
    }[way]
    return attrs.evolve(
        NodeConfig.loopback_only(),
        loopback=(loopback,),
        turn=(TurnServer(uri, login.username, login.password),),
        turn_ca=Path(server.authority.cafile),
        ice=IceConfig(allow_loopback=True, policy=CandidatePolicy.RELAY),
    )


@attrs.define
class Meeting:
    """Two nodes with a session between them; the second answers each datagram."""

    here: Node
    there: Node
    session: IceTransport
    #: What the first node's trace tells of relays.
    told: list[Record]
    #: When each answer came.
    heard: list[float] = attrs.field(factory=list)

    async def tick(self) -> None:
        """Ask a hundred times a second, until there is no way."""
        with contextlib.suppress(LocalProtocolError):
            while True:
                await self.session.send(b"tick")
                await trio.sleep(_TICK)

    async def hear(self) -> None:
        """Note the answers."""
        while True:
            await self.session.receive()
            self.heard.append(trio.current_time())

    def names(self) -> list[str]:
        """What was told, by name."""
        return [record.name for record in self.told]

    async def until_told(self, name: str, times: int = 1) -> None:
        """Wait for something of the trace."""
        with trio.fail_after(20):
            while self.names().count(name) < times:  # noqa: ASYNC110  # nothing tells of traces
                await trio.sleep(0.001)

    async def quiet(self, seconds: float) -> float:
        """The longest silence from now on."""
        start = len(self.heard) - 1
        await trio.sleep(seconds)
        times = [*self.heard[start:], trio.current_time()]
        return max(b - a for a, b in itertools.pairwise(times))


async def echo(session: IceTransport) -> None:
    """Send back what comes, until there is no way."""
    with contextlib.suppress(LocalProtocolError):
        while True:
            await session.send(await session.receive())


async def trickle(sender: IceTransport, receiver: IceTransport) -> None:
    """Tell a session of the other's candidates."""
    async for line in sender.candidates:
        receiver.add_candidate(line)


def ticket_of(node: Node) -> set[str]:
    """The tickets that a node has, as coturn writes them; a trace holds none."""
    assert node._endpoint._relays is not None
    kept = [link.allocation._mobility._ticket for link in node._endpoint._relays._links]
    return {ticket.decode() for ticket in kept if ticket is not None}


@contextlib.asynccontextmanager
async def meeting(server: Coturn, way: Way) -> AsyncIterator[Meeting]:
    """A session over relays alone that is in use."""
    told: list[Record] = []
    everything: list[str] = []

    def hear(record: Record) -> None:
        if record.name.startswith("Relay"):
            told.append(record)
        everything.append(repr(record))

    async with (
        open_node(config(server, way), tracer=hear) as here,
        open_node(config(server, way)) as there,
        trio.open_nursery() as nursery,
    ):
        a, b = here.ice_transport(controlling=True), there.ice_transport(controlling=False)
        a.set_remote(b.ufrag, b.pwd)
        b.set_remote(a.ufrag, a.pwd)
        nursery.start_soon(trickle, a, b)
        nursery.start_soon(trickle, b, a)
        with trio.fail_after(20):
            await a.wait_connected()
            await b.wait_connected()
        it = Meeting(here, there, a, told)
        nursery.start_soon(echo, b)
        nursery.start_soon(it.tick)
        nursery.start_soon(it.hear)
        await trio.sleep(0.5)
        tickets = ticket_of(here)
        yield it
        tickets |= ticket_of(here)
        nursery.cancel_scope.cancel()
    assert not [text for text in everything if any(ticket in text for ticket in tickets)]


@pytest.mark.parametrize(("way", "most"), [("udp", 0.3), ("tcp", 0.4), ("tls", 0.5)])
async def test_rfc8016_a_session_lives_through_another_address(tmp_path: Path, way: Way, most: float) -> None:
    async with coturn(tmp_path, *MOBILE) as server, meeting(server, way) as it:
        before = it.session.path
        gaps = []
        for number in range(5):
            ip = f"127.0.0.{number + 2}"
            it.here.reconfigure(attrs.evolve(config(server, way), loopback=(ip,), turn=it.here._config.turn))
            gaps.append(await it.quiet(0.5))
        print(f"gap over {way}: median {statistics.median(gaps) * 1000:.0f} ms, most {max(gaps) * 1000:.0f} ms")
        assert statistics.median(gaps) < most
        assert it.session.path == before
        assert it.names() == ["RelayGained", *["RelayMoved"] * 5]


@pytest.mark.parametrize("way", ["udp", "tcp"])
async def test_rfc8016_a_session_lives_on_as_a_guest_of_another_interface(tmp_path: Path, way: Way) -> None:
    async with coturn(tmp_path, *MOBILE) as server, meeting(server, way) as it:
        before = it.session.path
        it.here._driver.open_base("127.0.0.2", "lo", cost=900)
        await it.until_told("RelayGained", 2)
        it.here._driver.close_base(next(base.address for base in it.here.bases if base.address.ip == "127.0.0.1"))
        gap = await it.quiet(0.5)
        print(f"gap to another interface over {way}: {gap * 1000:.0f} ms")
        assert gap < 0.5
        # The same pair by another network, and so it is told.
        assert it.session.path == attrs.evolve(before, interface="lo", cause="base_gone")
        assert it.names() == ["RelayGained", "RelayGained", "RelayMoved"]
        relayed = {base.interface for base in it.here._endpoint._bases.values() if base.server}
        assert relayed == {"lo"}


@pytest.mark.parametrize("way", ["udp", "tcp", "tls"])
@pytest.mark.parametrize("options", [MOBILE, ()])
async def test_rfc8016_a_relay_that_was_killed_is_replaced_soon(
    tmp_path: Path, way: Way, options: tuple[str, ...]
) -> None:
    async with coturn(tmp_path, *options) as server, meeting(server, way) as it:
        start = trio.current_time()
        server.kill()
        server.start()
        await server.wait_ready()
        ready = trio.current_time() - start
        await it.until_told("RelayGained", 2)
        taken = trio.current_time() - start
        print(f"over {way} with {options}: ready after {ready:.2f} s, another allocation after {taken:.2f} s")
        assert taken < ready + 3
        assert it.names().count("RelayLost") == 1


@pytest.mark.parametrize("way", ["udp", "tcp", "tls"])
@pytest.mark.parametrize("moved", [False, True])
async def test_turn_04_cancellation_gives_mobile_allocations_back(tmp_path: Path, way: Way, moved: bool) -> None:
    # With a ticket an allocation outlives its connection, and a guest has no base of its own.
    async with coturn(tmp_path, *MOBILE) as server:
        async with meeting(server, way) as it:
            it.here._driver.open_base("127.0.0.2", "lo", cost=900)
            await it.until_told("RelayGained", 2)
            if moved:
                it.here._driver.close_base(
                    next(base.address for base in it.here.bases if base.address.ip == "127.0.0.1")
                )
                await it.until_told("RelayMoved")
            await trio.sleep(0.1)
        with trio.fail_after(5):
            while len(re.findall(r"lifetime=0\b", server.log())) < 3:  # noqa: ASYNC110  # another process writes it
                await trio.sleep(0.01)
