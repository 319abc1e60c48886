"""A real shell and a real forward through minutes without a network; the session's time jumps, and theirs does not."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from edgeice.services import FORWARD_PROTOCOL, SHELL_PROTOCOL, ForwardTarget, TcpStream, forward_stream, open_shell
from edgeice.services.shell_client import ShellClient
from tests.support.device import Device
from tests.support.roaming import Host, session_between

#: Seconds without a network, and those that pass at once.
WITHOUT, STEP = 180, 0.5


def wlan(host: Host) -> None:
    host.up("192.0.2.1", "wlan0", 10)


def eth(host: Host) -> None:
    host.up("203.0.113.1", "eth0")


async def expect(shell: ShellClient, text: bytes) -> None:
    """Read until the shell has said it."""
    said = b""
    while text not in said:
        part = await shell.read()
        assert part, said
        said += part


async def pass_time(clock: trio.testing.MockClock, seconds: float) -> None:
    for _ in range(round(seconds / STEP)):
        clock.jump(STEP)
        await trio.testing.wait_all_tasks_blocked()


@pytest.mark.slow
async def test_they_live_and_nothing_is_lost(
    mock_clock: trio.testing.MockClock, home: object, nursery: trio.Nursery
) -> None:
    mock_clock.rate = 1.0
    services = Device(nursery, wants=("forward:*:*",))
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    target = ForwardTarget("127.0.0.1", listener.socket.getsockname()[1])

    async with session_between(wlan, eth, settle=0.5) as (operator, device, _internet):

        async def serve() -> None:
            async for channel in device.peer.incoming:
                nursery.start_soon(services.server.serve, channel)

        nursery.start_soon(serve)
        here, carried = (trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in socket.socketpair())
        forward = await operator.peer.open_channel(FORWARD_PROTOCOL)
        nursery.start_soon(forward_stream, forward, target, TcpStream(carried))
        there = await listener.accept()
        async with open_shell(await operator.peer.open_channel(SHELL_PROTOCOL), "vt100", 80, 24) as shell:
            await shell.write(b"N=6; echo rea''dy\n")
            await expect(shell, b"ready")
            device.host.down("wlan0")
            # What is typed and sent meanwhile waits.
            await shell.write(b"echo $((N * 7))0\n")
            await here.send_all(b"asked without a network")
            await there.send_all(b"answered without one")
            await pass_time(mock_clock, WITHOUT)
            assert device.offers == []
            device.host.up("198.51.100.1", "wwan0", 900)
            await expect(shell, b"420")
            assert await there.receive_some() == b"asked without a network"
            assert await here.receive_some() == b"answered without one"
            await shell.write(b"exit 5\n")
            assert (await shell.wait()).as_code() == 5
        await here.aclose()
        assert await there.receive_some() == b""
        await there.aclose()
        await listener.aclose()
    nursery.cancel_scope.cancel()
