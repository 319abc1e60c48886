"""Signals to `edgeice exec` while a real command runs at a real device half; what seconds it is given are virtual."""

from __future__ import annotations

import json
import signal
from collections.abc import Awaitable, Callable
from typing import NoReturn

import pytest
import trio
import trio.testing

from edgeice.cli import exec as exec_module
from edgeice.cli.ending import ended_by_signals
from edgeice.services import EXEC_PROTOCOL, ExitStatus
from tests.support.channels import MemoryChannel, channel_pair, drain
from tests.support.device import Device


class Session:
    """A session with one channel."""

    name = "pi"
    max_channels = 64

    def __init__(self, channel: MemoryChannel) -> None:
        self._channel = channel

    async def open(self, _protocol: str) -> MemoryChannel:
        await trio.lowlevel.checkpoint()
        return self._channel

    async def wait_ended(self) -> NoReturn:
        raise NotImplementedError


class Running:
    """A command under way; what it prints is seen on standard output."""

    def __init__(self, session: Session, argv: tuple[str, ...]) -> None:
        self._session, self._argv = session, argv
        self.outcome: exec_module._Outcome | None = None
        self.code: int | None = None
        self.over = trio.Event()

    async def run(self) -> None:
        try:
            async with ended_by_signals():
                self.outcome = await exec_module._run(self._session, self._argv, collect=True)
        except SystemExit as error:
            self.code = int(str(error.code))
        else:
            self.code = self.outcome.as_code()
        self.over.set()


@pytest.fixture(autouse=True)
def no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read_input(_size: int) -> bytes:
        return await trio.sleep_forever()

    monkeypatch.setattr(exec_module, "read_input", read_input)


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Stands still until a test moves it: what a real process does takes no time of it."""
    return trio.testing.MockClock()


Start = Callable[[str], Awaitable[Running]]


@pytest.fixture
def device(nursery: trio.Nursery) -> Device:
    return Device(nursery)


@pytest.fixture
def start(nursery: trio.Nursery, device: Device) -> Start:
    """Start a shell script that says `up` when it has done what is before that; comes back then."""

    async def begin(script: str) -> Running:
        channel = device.open(EXEC_PROTOCOL)
        up = trio.Event()
        receive = channel.receive

        async def watched() -> bytes | str:
            message = await receive()
            if message == b"\1up\n":
                up.set()
            return message

        channel.receive = watched  # type: ignore[method-assign]
        running = Running(Session(channel), ("sh", "-c", script))
        nursery.start_soon(running.run)
        await up.wait()
        return running

    return begin


async def told(capfd: pytest.CaptureFixture[str]) -> str:
    """The next that is said on standard error."""
    while not (said := capfd.readouterr().err):
        await trio.lowlevel.checkpoint()
    return said


LOOP = "echo up; while :; do sleep 0.01; done"


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
async def test_a_signal_goes_to_the_command_and_its_end_is_the_status(
    clock: trio.testing.MockClock, start: Start, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    number = signal.Signals[f"SIG{name}"]
    running = await start(LOOP)
    signal.raise_signal(number)
    await running.over.wait()
    assert running.outcome is not None
    assert running.outcome.status == ExitStatus(signal=name)
    assert running.code == 128 + number
    assert (capfd.readouterr().err, trio.current_time()) == ("", 0)


async def test_a_command_may_end_in_its_own_way(
    clock: trio.testing.MockClock, start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    running = await start(f"trap 'echo summary; exit 7' INT; {LOOP}")
    signal.raise_signal(signal.SIGINT)
    await running.over.wait()
    assert running.outcome is not None
    assert (running.code, running.outcome.output["stdout"]) == (7, "up\nsummary\n")
    assert capfd.readouterr().err == ""


async def test_one_that_ignores_sigint_gets_sigterm_after_three_seconds(
    clock: trio.testing.MockClock, start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    running = await start(f"trap '' INT; {LOOP}")
    signal.raise_signal(signal.SIGINT)
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(2.9)
    await trio.testing.wait_all_tasks_blocked()
    assert capfd.readouterr().err == ""
    clock.jump(0.1)
    assert await told(capfd) == "edgeice: the command goes on 3 s after SIGINT: sending SIGTERM\n"
    await running.over.wait()
    assert running.code == 128 + signal.SIGTERM


@pytest.mark.parametrize("name", ["INT", "HUP", "TERM"])
async def test_one_that_ignores_all_is_killed_and_that_is_said(
    clock: trio.testing.MockClock, start: Start, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    running = await start(f"trap '' INT TERM HUP; {LOOP}")
    signal.raise_signal(signal.Signals[f"SIG{name}"])
    if name != "TERM":
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(3)
        assert await told(capfd) == f"edgeice: the command goes on 3 s after SIG{name}: sending SIGTERM\n"
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(3)
    assert await told(capfd) == "edgeice: the command goes on 3 s after SIGTERM: sending SIGKILL\n"
    await running.over.wait()
    assert running.outcome is not None
    assert running.outcome.status == ExitStatus(signal="KILL")
    assert running.code == 128 + signal.SIGKILL


async def test_a_second_signal_leaves_at_once_and_the_device_ends_the_command(
    clock: trio.testing.MockClock, start: Start, device: Device, capfd: pytest.CaptureFixture[str]
) -> None:
    running = await start(f"trap '' INT TERM HUP; {LOOP}")
    signal.raise_signal(signal.SIGINT)
    await trio.testing.wait_all_tasks_blocked()
    signal.raise_signal(signal.SIGINT)
    await running.over.wait()
    assert (running.code, trio.current_time()) == (130, 0)
    assert capfd.readouterr().err == "edgeice: left; pi gives the command 3 s to end, then kills it\n"
    assert device.server.channels == 1  # it is under way to its end, by the grace of this test's device
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(0.1)
    await device.idle()


async def test_a_device_that_reports_no_end_is_left(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]
) -> None:
    near, far = channel_pair(EXEC_PROTOCOL)
    running = Running(Session(near), ("x",))
    nursery.start_soon(running.run)
    assert json.loads(await far.receive()) == {"open": {"argv": ["x"]}}
    await trio.testing.wait_all_tasks_blocked()
    signal.raise_signal(signal.SIGINT)
    await running.over.wait()
    assert [json.loads(message) for message in await drain(far)] == [
        {"signal": "INT"},
        {"signal": "TERM"},
        {"signal": "KILL"},
    ]
    assert (running.code, trio.current_time()) == (130, 8)
    assert running.outcome is not None
    assert running.outcome.status is None
    assert capfd.readouterr().err.splitlines()[-1] == (
        "edgeice: pi has not reported the command's end 2 s after SIGKILL: leaving it there"
    )
