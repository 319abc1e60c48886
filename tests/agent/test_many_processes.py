"""What shells and commands cost a real agent once they are over, and what one that stalls costs the others."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
import trio
import trio.testing

from edgeice.operator.session import Session
from edgeice.services import (
    EXEC_PROTOCOL,
    FORWARD_PROTOCOL,
    PING_PROTOCOL,
    SHELL_PROTOCOL,
    ExecClient,
    ForwardTarget,
    PingClient,
    TcpStream,
    forward_stream,
    open_exec,
    open_shell,
)
from tests.agent.conftest import Fleet
from tests.agent.kit import AgentProcess, Device, Operator
from tests.agent.sessions import session_with
from tests.support.device import alive

pytestmark = pytest.mark.slow

_STUBBORN = "trap '' TERM HUP INT; sh -c 'trap \"\" TERM HUP; echo $$; exec sleep 99' & echo $$; wait; sleep 99"


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def children(pid: int) -> int:
    """Of a process, zombies included."""
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found += stat.read_text().rpartition(")")[2].split()[1] == str(pid)
    return found


async def test_two_hundred_commands_that_are_cut_off_leave_nothing(fleet: Fleet, tmp_path: Path) -> None:
    device, operator = Device(tmp_path / "pi", fleet.url, "many"), Operator(tmp_path / "alice", fleet.url)
    device.trust(operator)
    operator.pin(device)
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        assert agent._process is not None
        pid = agent._process.pid
        async with session_with(device, operator, "exec") as session:

            async def cut_off(number: int) -> None:
                """Begin a command, in turn one that prints for ever and one that does not read, and leave it."""
                script = "yes" if number % 2 else "echo; exec sleep 99"
                async with open_exec(await session.open(EXEC_PROTOCOL), ["sh", "-c", script]) as process:
                    assert await process.read()
                    if number % 2 == 0:
                        await process.write(bytes(32 * 1024))

            async def batch(size: int) -> None:
                async with trio.open_nursery() as nursery:
                    for number in range(size):
                        nursery.start_soon(cut_off, number)
                await quiet(pid)  # the session may run 16 at a time, those under way to their end included

            await batch(2)
            before = descriptors(pid)
            for _ in range(25):
                await batch(8)
            assert descriptors(pid) == before
        assert (await agent.status())["failures"] == {}


async def quiet(pid: int) -> None:
    """Wait until an agent has no child any more."""
    with trio.fail_after(10):
        while children(pid):  # noqa: ASYNC110  # another's children
            await trio.sleep(0.02)


async def test_a_stubborn_command_ends_after_the_grace_and_its_session_waits_no_longer(
    fleet: Fleet, tmp_path: Path
) -> None:
    device, operator = Device(tmp_path / "pi", fleet.url, "stubborn"), Operator(tmp_path / "alice", fleet.url)
    device.trust(operator)
    operator.pin(device)
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        for stop in (False, True):
            start = len(agent.log())
            async with (
                session_with(device, operator, "exec") as session,
                open_exec(await session.open(EXEC_PROTOCOL), ["sh", "-c", _STUBBORN]) as process,
            ):
                pids = (await output(process, 2)).split()
                if stop:
                    agent.terminate()
            assert all(alive(pid.decode()) for pid in pids)  # the operator did not wait for them
            if stop:
                assert await agent.wait_exit() == 0
            else:
                await agent.wait_log("^ended ", start=start)
            assert not any(alive(pid.decode()) for pid in pids)


async def output(process: ExecClient, lines: int) -> bytes:
    """So many lines of a command's output."""
    data = b""
    while data.count(b"\n") < lines:
        item = await process.read()
        assert item is not None
        data += item[1]
    return data


async def test_a_stalled_terminal_stalls_nothing_else_and_loses_nothing(fleet: Fleet, tmp_path: Path) -> None:
    operator = Operator(tmp_path / "alice", fleet.url, "carol")
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        want = f"forward:127.0.0.1:{port}"
        fleet.device.trust(operator, f"shell,exec,{want}")
        operator.pin(fleet.device)
        fleet.agent.hang_up()
        await fleet.agent.wait_log("^reloaded", start=0)

        async def echo(stream: trio.SocketStream) -> None:
            async for data in stream:
                await stream.send_all(data)

        nursery.start_soon(trio.serve_listeners, echo, [listener])
        with trio.fail_after(20):
            async with (
                session_with(fleet.device, operator, "shell", "exec", want) as session,
                open_shell(await session.open(SHELL_PROTOCOL), "vt100", 80, 24) as stalled,
                open_exec(await session.open(EXEC_PROTOCOL), ["sh", "-c", "echo; exec sleep 99"]) as deaf,
            ):
                # A terminal that nobody reads, and a command that does not read.
                await stalled.write(b"PS1=; stty -echo; echo beg''in; exec sh -c 'seq 1 200000; exit 7'\n")
                nursery.start_soon(write_for_ever, deaf)
                await output(deaf, 1)
                while stalled._link.receiving.available or deaf._link.sending.available:  # noqa: ASYNC110  # no event
                    await trio.sleep(0.005)
                # Everything else in the session runs on.
                client = PingClient(await session.open(PING_PROTOCOL))
                for _ in range(20):
                    await client.round_trip()
                async with open_exec(await session.open(EXEC_PROTOCOL), ["seq", "1", "100000"]) as other:
                    assert await everything(other) == b"".join(b"%d\n" % n for n in range(1, 100001))
                assert await through_forward(session, port, bytes(range(256)) * 4096)
                assert stalled._inbox.size == 256 * 1024
                # Read at last, it is all there, in order.
                text = b""
                while data := await stalled.read():
                    assert stalled._inbox.size <= 256 * 1024
                    text += data
                assert (await stalled.wait()).as_code() == 7
                numbers = re.split(rb"begin\r\n", text, maxsplit=1)[1].split()
                assert numbers == [b"%d" % number for number in range(1, 200001)]
                await deaf.signal("TERM")
                assert (await deaf.wait()).signal == "TERM"
        nursery.cancel_scope.cancel()


async def write_for_ever(process: ExecClient) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await process.write(bytes(16 * 1024))


async def everything(process: ExecClient) -> bytes:
    data = b""
    while (item := await process.read()) is not None:
        data += item[1]
    return data


async def through_forward(session: Session, port: int, data: bytes) -> bool:
    """Whether what goes through a forward to an echo comes back as it was."""
    near, far = trio.socket.socketpair()
    back = b""
    async with trio.SocketStream(near) as stream, trio.SocketStream(far) as carried, trio.open_nursery() as nursery:
        channel = await session.open(FORWARD_PROTOCOL)
        nursery.start_soon(forward_stream, channel, ForwardTarget("127.0.0.1", port), TcpStream(carried))

        async def send() -> None:
            await stream.send_all(data)
            await stream.send_eof()

        nursery.start_soon(send)
        async for chunk in stream:
            back += chunk
            if len(back) >= len(data):
                break
    return back == data
