"""Names that forwards lead to, as the device's own system resolves them: its hosts file, its name server."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.agent.conftest import Fleet
from tests.agent.forwards import failed, forward, rush
from tests.agent.kit import AgentProcess, Finished, edgeice
from tests.agent.mounts import MountedDevice, in_place_of
from tests.support.brokers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.root]

#: Where the device's name server is; several runs of these tests at once have different ones.
SERVER = f"127.53.{os.getpid() >> 8 & 0xFF}.{os.getpid() & 0xFF or 1}"
NAME_ERROR = 0x8183

HOSTS = "127.0.0.1 localhost\n127.0.0.2 two.example\n127.0.0.3 two.example\n::1 both.example\n127.0.0.2 both.example\n"


@pytest.fixture(scope="module")
def agent(fleet: Fleet) -> Iterator[AgentProcess]:
    """A device with a hosts file and a name server of its own, where alice may connect wherever it can."""
    folder = fleet.folder / "etc"
    folder.mkdir()
    files = {
        "hosts": HOSTS,
        "resolv.conf": f"nameserver {SERVER}\noptions timeout:30 attempts:1\n",
        "nsswitch.conf": "hosts: files dns\n",
    }
    mounts = []
    for name, text in files.items():
        (folder / name).write_text(text)
        mounts.append(in_place_of(f"/etc/{name}", folder / name))
    url = fleet.url.replace("127.0.0.1", "localhost")
    device = MountedDevice(fleet.folder / "named", url, "named", *mounts)
    device.trust(fleet.operator, can="exec,forward:*:*")
    fleet.operator.pin(device)
    with AgentProcess(device) as agent:
        agent.wait_log_sync("^announced ")
        yield agent


class NameServer:
    """Answers that there is no such name, once it is let."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._sock = sock
        self._held: list[tuple[bytes, tuple[str, int]]] | None = []
        self.heard = trio.lowlevel.ParkingLot()

    async def serve(self) -> None:
        while True:
            query, peer = await self._sock.recvfrom(512)
            self.heard.unpark_all()
            if self._held is None:
                await self._answer(query, peer)
            else:
                self._held.append((query, peer))

    async def _answer(self, query: bytes, peer: tuple[str, int]) -> None:
        # RFC 1035 §4.1.1: the header, then the question as it came.
        question = query[12 : query.index(b"\0", 12) + 5]
        await self._sock.sendto(query[:2] + struct.pack("!5H", NAME_ERROR, 1, 0, 0, 0) + question, peer)

    @property
    def look_ups(self) -> int:
        """Look-ups that wait for an answer: each has a socket of its own, and asks for both kinds of addresses."""
        return len({peer for _query, peer in self._held or ()})

    async def release(self) -> None:
        """Answer what waits, and from now on at once."""
        held, self._held = self._held or [], None
        for query, peer in held:
            await self._answer(query, peer)


@asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.bind((SERVER, 53))
        async with trio.open_nursery() as nursery:
            server = NameServer(sock)
            nursery.start_soon(server.serve)
            yield server
            nursery.cancel_scope.cancel()


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


async def test_a_rush_at_a_name_that_does_not_resolve(fleet: Fleet, agent: AgentProcess) -> None:
    """Eight look-ups at a time wait for a slow name server, and nothing else waits with them."""
    before = agent.descriptors()
    start, free = len(agent.log()), free_port()
    async with (
        name_server() as server,
        forward(fleet.operator, "named", "127.0.0.1:0:rush.example:80") as (
            process,
            (port,),
        ),
    ):
        resets: list[int] = []

        async def connect() -> None:
            resets.append(await rush(port, 1000, 100))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            while server.look_ups < 8:
                await server.heard.park()
            # Both are over long before the ten seconds that a name has.  Whether an address is the broker's does not
            # wait either, and for that the broker's name is looked up.
            done: dict[str, Finished] = {}

            async def other(*arguments: str) -> None:
                done[arguments[0]] = await edgeice(fleet.operator, *arguments)

            async with trio.open_nursery() as others:
                others.start_soon(other, "exec", "named", "--", "echo", "here")
                others.start_soon(other, "proxy", "named", f"127.0.0.3:{free}")
            assert (done["exec"].code, done["exec"].stdout, done["exec"].stderr) == (0, b"here\n", "")
            refused = f"edgeice: refused: 127.0.0.3:{free}: Connection refused\n"
            assert (done["proxy"].code, done["proxy"].stderr) == (1, refused)
            assert server.look_ups == 8
            assert threads(agent.pid) < 8 + 16 + 4  # look-ups, processes, and what the agent has anyway
            await server.release()
            found = await failed(process, 1000)
        assert resets == [1000]
    assert len(found) < 20  # as many as seconds
    assert {facts["code"] for facts in found} == {"not-found"}
    assert {facts["error"] for facts in found} == {"not-found: rush.example: Name or service not known"}
    await agent.wait_log("(?:^ended (?s:.*)){3}", start=start)
    assert agent.descriptors() == before


async def test_a_name_with_several_addresses(fleet: Fleet, agent: AgentProcess, nursery: trio.Nursery) -> None:
    """Refused by all: each is named; by the first: the second serves, be it of the other family."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(stream.socket.getsockname()[0].encode())
        await stream.send_eof()

    with socket.socket() as taken:
        taken.bind(("127.0.0.3", 0))
        port = taken.getsockname()[1]
        done = await edgeice(fleet.operator, "proxy", "named", f"two.example:{port}")
        refused = f"refused: 127.0.0.2:{port}, 127.0.0.3:{port}: Connection refused"
        assert (done.code, done.stderr) == (1, f"edgeice: {refused}\n")
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.2")
    port = listeners[0].socket.getsockname()[1]
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    for name in ("two.example", "both.example"):
        done = await edgeice(fleet.operator, "proxy", "named", f"{name}:{port}")
        assert (done.code, done.stdout, done.stderr) == (0, b"127.0.0.2", "")
