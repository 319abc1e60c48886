"""The limits of time on channels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
import trio.testing

from edgeice.services import (
    EXEC_PROTOCOL,
    SHELL_PROTOCOL,
    Channel,
    ChannelServer,
    ErrorCode,
    LocalSpawner,
    Service,
    ServiceContext,
    ServiceError,
    ServiceRegistry,
    open_exec,
    open_shell,
    standard_services,
)
from tests.support.channels import MemoryChannel, channel_pair
from tests.support.device import Device, alive
from tests.unit.services.test_shell import read_all


async def answer(channel: Channel, _context: ServiceContext) -> None:
    """Answer each message with so many as it says, a minute apart."""
    while True:
        for _ in range(int(await channel.receive())):
            await trio.sleep(60)
            await channel.send("x")


SERVICES = (Service("limited", None, answer, ends_idle=True), Service("free", None, answer))


class Session:
    def __init__(self, nursery: trio.Nursery, idle_time: float, channel_time: float = 0) -> None:
        self.server = ChannelServer(
            ServiceRegistry(SERVICES), (), LocalSpawner(), idle_time=idle_time, channel_time=channel_time
        )
        self.nursery = nursery

    def open(self, protocol: str) -> MemoryChannel:
        operator, device = channel_pair(protocol, limit=1)
        self.nursery.start_soon(self.server.serve, device)
        return operator


async def said_at_the_end(channel: MemoryChannel) -> tuple[float, dict[str, str]]:
    """When a channel was ended, and with which error."""
    message = await channel.receive()
    at = trio.current_time()
    with pytest.raises(trio.EndOfChannel):
        await channel.receive()
    error = json.loads(message)["error"]
    assert isinstance(error, dict)
    return at, error


async def test_a_channel_ends_so_long_after_the_last_message_either_way(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    channel = Session(nursery, 100).open("limited")
    begun = trio.current_time()
    await channel.send("3")
    for _ in range(3):
        assert await channel.receive() == "x"
    await trio.sleep(99)
    await channel.send("0")
    at, error = await said_at_the_end(channel)
    assert at - begun == pytest.approx(3 * 60 + 99 + 100)
    assert error == {"code": "timeout", "reason": "nothing passed for 100 s"}


async def test_a_peer_that_takes_nothing_lets_nothing_pass(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    session = Session(nursery, 100)
    channel = session.open("limited")
    await channel.send("5")
    begun = trio.current_time()
    await session.server.wait_busy()
    await session.server.wait_idle()
    # The first answer lies there and the second waits; so does the error, and the channel is cut off.
    assert trio.current_time() - begun == pytest.approx(60 + 100 + 5)


@pytest.mark.parametrize(("protocol", "idle_time"), [("free", 100), ("limited", 0)])
async def test_others_have_no_limit(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, protocol: str, idle_time: float
) -> None:
    channel = Session(nursery, idle_time).open(protocol)
    await trio.sleep(86_000)
    await channel.send("1")
    assert await channel.receive() == "x"


def test_shells_commands_and_forwards_are_those_that_end_where_nothing_passes() -> None:
    services = standard_services(("127.0.0.1", 1))
    assert [service.protocol for service in services if service.ends_idle] == [
        "edgeice.shell.1",
        "edgeice.exec.1",
        "edgeice.forward.1",
    ]


@pytest.mark.parametrize("protocol", ["limited", "free"])
async def test_a_channel_lasts_no_longer_than_it_may_whatever_passes(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, protocol: str
) -> None:
    channel = Session(nursery, 100, channel_time=630).open(protocol)
    begun = trio.current_time()
    await channel.send("1000")
    for _ in range(10):
        assert await channel.receive() == "x"
    at, error = await said_at_the_end(channel)
    assert at - begun == pytest.approx(630)
    assert error == {"code": "limit", "reason": "a channel may last 630 s"}


async def test_a_channel_that_ends_in_time_is_not_told_of_the_limit(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    session = Session(nursery, 0, channel_time=630)
    channel = session.open("free")
    await channel.send("x")  # no number
    _at, error = await said_at_the_end(channel)
    assert error["code"] == "internal"
    await session.server.wait_idle()


async def test_a_real_command_ends_by_either_limit(home: Path, nursery: trio.Nursery) -> None:
    for device, code, reason in (
        (Device(nursery, idle_time=0.2), ErrorCode.TIMEOUT, r"nothing passed for 0\.2 s"),
        (Device(nursery, channel_time=0.2), ErrorCode.LIMIT, r"a channel may last 0\.2 s"),
    ):
        with trio.fail_after(10):
            async with open_exec(device.open(EXEC_PROTOCOL), ["sleep", "1000"]) as running:
                with pytest.raises(ServiceError, match=reason) as caught:
                    await running.read()
            assert caught.value.code is code
            await device.idle()  # and nothing of the command is left, which the fixture looks for


async def test_a_real_shell_ends_and_a_kept_one_is_only_left(home: Path, nursery: trio.Nursery) -> None:
    device = Device(nursery, idle_time=0.3)
    with trio.fail_after(10):
        for keep in (False, True):
            begun = trio.current_time()
            async with open_shell(device.open(SHELL_PROTOCOL), "vt100", 80, 24, keep=keep) as shell:
                await shell.write(b"echo pid=$$. >pid\n")
                with pytest.raises(ServiceError, match=r"nothing passed for 0\.3 s") as caught:
                    await read_all(shell)
            assert caught.value.code is ErrorCode.TIMEOUT
            assert trio.current_time() - begun >= 0.3
            await device.idle()
            pid = (home / "pid").read_text()[4:].rstrip(".\n")
            assert alive(pid) is keep
