"""`edgeice forward` and `edgeice proxy` end to end, to TCP servers on loopback."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import sys
from collections.abc import Iterator
from subprocess import PIPE

import pytest
import trio

from tests.agent.conftest import Fleet
from tests.agent.forwards import failed, forward, rush
from tests.agent.kit import PATIENCE, AgentProcess, Device, edgeice, environment, next_line

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gate_agent(fleet: Fleet) -> Iterator[AgentProcess]:
    """A device that lets alice connect wherever it can."""
    device = Device(fleet.folder / "gate", fleet.url, "gate")
    device.trust(fleet.operator, can="forward:*:*")
    fleet.operator.pin(device)
    with AgentProcess(device) as agent:
        agent.wait_log_sync("^announced ")
        yield agent


@pytest.fixture
def gate(gate_agent: AgentProcess) -> Device:
    return gate_agent.device


@pytest.fixture
async def echo(nursery: trio.Nursery) -> int:
    """The port of a server that returns what it gets, to the end."""

    async def serve(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)
        await stream.send_eof()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    return int(listeners[0].socket.getsockname()[1])


async def test_many_connections_over_one_session(fleet: Fleet, gate: Device, echo: int) -> None:
    async with forward(fleet.operator, gate.name, f"127.0.0.1:0:localhost:{echo}", f"127.0.0.1:0:127.0.0.1:{echo}") as (
        _,
        ports,
    ):

        async def exchange(number: int) -> None:
            data = random.Random(number).randbytes(100_000)
            stream = await trio.open_tcp_stream("127.0.0.1", ports[number % 2])
            got = bytearray()
            async with stream, trio.open_nursery() as sending:

                async def send() -> None:
                    await stream.send_all(data)
                    await stream.send_eof()

                sending.start_soon(send)
                async for chunk in stream:
                    got += chunk
            assert bytes(got) == data

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(exchange, number)


async def test_ipv6_from_end_to_end(fleet: Fleet, gate: Device, nursery: trio.Nursery) -> None:
    """Listening here, connecting there, and what both are called."""
    peers: list[str] = []

    async def serve(stream: trio.SocketStream) -> None:
        peers.append(stream.socket.getpeername()[0])
        async for data in stream:
            await stream.send_all(data)
        await stream.send_eof()

    listeners = await trio.open_tcp_listeners(0, host="::1")
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    there = listeners[0].socket.getsockname()[1]
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", 0))
        closed = taken.getsockname()[1]
        async with forward(fleet.operator, gate.name, f"[::1]:0:[::1]:{there}", f"[::1]:0:[::1]:{closed}") as (
            process,
            ports,
        ):
            async with await trio.open_tcp_stream("::1", ports[0]) as stream:
                await stream.send_all(b"hello")
                await stream.send_eof()
                assert await stream.receive_some() == b"hello"
                assert await stream.receive_some() == b""
            async with await trio.open_tcp_stream("::1", ports[1]) as stream:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
            facts = await next_line(process)
    assert peers == ["::1"]
    assert (facts["target"], facts["error"]) == (f"[::1]:{closed}", f"refused: [::1]:{closed}: Connection refused")
    done = await edgeice(fleet.operator, "proxy", "gate", f"[::1]:{there}", stdin=b"hello")
    assert (done.code, done.stdout, done.stderr) == (0, b"hello", "")


async def test_a_thousand_connects_in_a_rush_are_all_served(fleet: Fleet, gate_agent: AgentProcess, echo: int) -> None:
    """More at once than are carried: the rest waits, which is said once; the device is left as it was."""
    before = len(gate_agent.descriptors())
    start = len(gate_agent.log())
    async with forward(fleet.operator, gate.name, f"127.0.0.1:0:127.0.0.1:{echo}") as (process, (port,)):
        served = 0

        async def exchange(limiter: trio.CapacityLimiter) -> None:
            nonlocal served
            async with limiter, await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"hello")
                await stream.send_eof()
                assert await stream.receive_some() == b"hello"
                assert await stream.receive_some() == b""
                served += 1

        async with trio.open_nursery() as nursery:
            limiter = trio.CapacityLimiter(100)
            for _ in range(1000):
                nursery.start_soon(exchange, limiter)
        assert served == 1000
        assert await next_line(process) == {"event": "full", "connections": 48}
    await gate_agent.wait_log("^ended ", start=start)
    assert len(gate_agent.descriptors()) == before


async def test_a_thousand_connects_that_are_refused(fleet: Fleet, gate_agent: AgentProcess) -> None:
    """Each is reset, and there are as many lines about them as seconds; the device is left as it was."""
    before = gate_agent.descriptors()
    start = len(gate_agent.log())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = taken.getsockname()[1]
        async with forward(fleet.operator, gate.name, f"127.0.0.1:0:127.0.0.1:{closed}") as (process, (port,)):
            begun = trio.current_time()
            assert await rush(port, 1000, 100) == 1000
            found = await failed(process, 1000)
            assert sum(int(str(facts["connections"])) for facts in found) == 1000
            assert found[0]["connections"] == 1
            assert len(found) <= 2 + trio.current_time() - begun
            assert {facts["error"] for facts in found} == {f"refused: 127.0.0.1:{closed}: Connection refused"}
    await gate_agent.wait_log("^ended ", start=start)
    assert gate_agent.descriptors() == before
    assert (await gate_agent.status())["sessions"] == []


async def test_what_fails_is_said_and_resets_the_connection(fleet: Fleet, gate: Device) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = taken.getsockname()[1]
        async with forward(fleet.operator, gate.name, f"127.0.0.1:0:127.0.0.1:{closed}") as (process, (port,)):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
            facts = await next_line(process)
    assert facts["event"] == "failed"
    assert facts["code"] == "refused"
    assert facts["error"] == f"refused: 127.0.0.1:{closed}: Connection refused"


async def test_a_port_that_is_taken_is_said_before_anything_else(fleet: Fleet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = await edgeice(fleet.operator, "forward", "gate", f"127.0.0.1:{port}:localhost:80")
    assert done.code == 2
    assert done.stderr == f"edgeice: cannot listen on 127.0.0.1:{port}: Address already in use\n"


async def test_a_forward_that_the_device_does_not_allow(fleet: Fleet) -> None:
    done = await edgeice(fleet.operator, "proxy", "pi", "22")
    assert done.code == 4
    assert done.stderr == "edgeice: pi refused: unauthorized: not allowed: forward:localhost:22\n"


async def test_a_forward_to_the_devices_own_broker(fleet: Fleet, gate: Device) -> None:
    port = fleet.url.rpartition(":")[2]
    done = await edgeice(fleet.operator, "proxy", "gate", f"127.0.0.1:{port}")
    assert done.code == 4
    assert done.stderr == f"edgeice: unauthorized: forwards do not go to 127.0.0.1:{port}\n"


async def test_a_name_that_the_device_cannot_resolve(fleet: Fleet, gate: Device) -> None:
    done = await edgeice(fleet.operator, "proxy", "gate", "nobody.invalid:22")
    assert done.code == 1
    assert done.stderr.startswith("edgeice: not-found: nobody.invalid: ")
    assert done.stderr.count("\n") == 1


async def test_proxy_carries_standard_input_and_output(fleet: Fleet, gate: Device, echo: int) -> None:
    data = random.Random(4).randbytes(1 << 20)
    done = await edgeice(fleet.operator, "proxy", "gate", f"127.0.0.1:{echo}", stdin=data)
    assert (done.code, done.stderr) == (0, "")
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


async def test_proxy_ends_when_all_is_written_over_there(fleet: Fleet, gate: Device, nursery: trio.Nursery) -> None:
    """The server says all that it has to say first, and reads on.

    What was lost here was lost by a race; the unit tests of `forward_stream` see it each time.
    """
    data = random.Random(5).randbytes(3 << 20)
    got = bytearray()
    ended = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_eof()
        async for chunk in stream:
            got.extend(chunk)
        ended.set()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    port = listeners[0].socket.getsockname()[1]
    done = await edgeice(fleet.operator, "proxy", "gate", f"127.0.0.1:{port}", stdin=data)
    assert (done.code, done.stderr) == (0, "")
    with trio.fail_after(5):
        await ended.wait()
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


async def test_ports_where_nobody_connects_take_no_turn(fleet: Fleet, gate: Device, echo: int) -> None:
    async with forward(fleet.operator, gate.name, *[f"127.0.0.1:0:127.0.0.1:{echo}"] * 50) as (_, ports):
        for port in (ports[0], ports[0], ports[-1], ports[-1]):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"hello")
                await stream.send_eof()
                assert await stream.receive_some() == b"hello"
                assert await stream.receive_some() == b""


async def test_proxy_says_why_it_cannot_connect(fleet: Fleet, gate: Device) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = await edgeice(fleet.operator, "proxy", "gate", f"127.0.0.1:{port}")
    assert done.code == 1
    assert done.stderr == f"edgeice: refused: 127.0.0.1:{port}: Connection refused\n"


async def test_proxy_says_that_the_connection_broke(fleet: Fleet, gate: Device, nursery: trio.Nursery) -> None:
    async def reset(stream: trio.SocketStream) -> None:
        await stream.send_all(b"half")
        await stream.receive_some()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, reset, listeners)
    port = listeners[0].socket.getsockname()[1]
    command = [sys.executable, "-m", "edgeice.cli.main", "proxy", "gate", f"127.0.0.1:{port}"]
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(
            command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment(fleet.operator.folder)
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        async with process.stdin, process.stdout, process.stderr:
            assert await process.stdout.receive_some() == b"half"
            await process.stdin.send_all(b"x")
            assert await process.wait() == 1
            assert await process.stdout.receive_some() == b""
            said = await process.stderr.receive_some()
    assert said == b"edgeice: the connection was reset at the other side\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8080", "expected [BIND:]PORT:HOST:PORT"),
        ("x:localhost:80", "a port is a number from 0 to 65535, not 'x'"),
        ("1:localhost:0", "a port is a number from 1 to 65535, not '0'"),
        ("1::80", "the host is missing"),
        ("[::1:1:localhost:80", "expected [BIND:]PORT:HOST:PORT"),
    ],
)
async def test_how_a_forward_is_written(fleet: Fleet, text: str, said: str) -> None:
    done = await edgeice(fleet.operator, "forward", "gate", text)
    assert done.code == 2
    assert said in done.stderr
