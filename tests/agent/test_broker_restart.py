"""The broker dies and comes back under a running session: nothing is lost, and the next session opens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.agent.kit import PATIENCE, AgentProcess, Device, Operator, edgeice, environment
from tests.support.brokers import Mosquitto, mosquitto

pytestmark = pytest.mark.slow


class Piped:
    """A running `edgeice` whose input and output are pipes."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._seen = b""

    async def send(self, data: bytes) -> None:
        """Write to its input."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(data)

    async def read_until(self, end: bytes) -> bytes:
        """Its output up to and with `end`."""
        assert self.process.stdout is not None
        with trio.fail_after(PATIENCE):
            while end not in self._seen:
                data = await self.process.stdout.receive_some()
                assert data, f"it ended before {end!r}: {self._seen!r}"
                self._seen += data
        found, self._seen = self._seen.split(end, 1)
        return found + end

    async def end_input(self) -> None:
        """Close its input."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()


@asynccontextmanager
async def piped(operator: Operator, *arguments: str) -> AsyncIterator[Piped]:
    """Run `edgeice`; ended with the scope."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "edgeice.cli.main", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(operator.folder),
    )
    try:
        yield Piped(process)
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def restart(broker: Mosquitto, agent: AgentProcess, meanwhile: Piped) -> None:
    """Kill the broker, use the session while there is none, start it again."""
    start = len(agent.log())
    broker.kill()
    await agent.wait_log("^broker-lost ", start=start)
    await meanwhile.send(b"echo with''out\n")
    await meanwhile.read_until(b"without\r\n")
    start = len(agent.log())
    broker.start()
    await broker.wait_ready()
    await agent.wait_log("^announced ", start=start)


async def test_a_shell_survives_the_broker(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker:
        url = f"mqtt://127.0.0.1:{broker.port}"
        device, operator = Device(tmp_path / "pi", url), Operator(tmp_path / "alice", url)
        device.trust(operator)
        operator.pin(device)
        with AgentProcess(device) as agent:
            await agent.wait_log("^announced ")
            async with piped(operator, "shell", "pi") as shell:
                await shell.send(b"PS1=; marker=kept; echo rea''dy\n")
                await shell.read_until(b"ready\r\n")
                for _ in range(2):
                    await restart(broker, agent, shell)
                await shell.send(b"echo $marker; exit 4\n")
                await shell.read_until(b"kept\r\n")
                assert await shell.process.wait() == 4
            done = await edgeice(operator, "exec", "pi", "--", "echo", "next")
            assert (done.code, done.stdout, done.stderr) == (0, b"next\n", "")


async def test_a_stream_over_the_restart_loses_no_byte(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker:
        url = f"mqtt://127.0.0.1:{broker.port}"
        device, operator = Device(tmp_path / "pi", url), Operator(tmp_path / "alice", url)
        device.trust(operator)
        operator.pin(device)
        with AgentProcess(device) as agent:
            await agent.wait_log("^announced ")
            async with piped(operator, "exec", "pi", "--", "cat") as echo:
                sent = [f"line {number}\n".encode() for number in range(300)]
                async with trio.open_nursery() as nursery:

                    async def write() -> None:
                        for number, line in enumerate(sent):
                            await echo.send(line)
                            if number == 100:
                                broker.kill()
                                await agent.wait_log("^broker-lost ")
                            if number == 200:
                                start = len(agent.log())
                                broker.start()
                                await broker.wait_ready()
                                await agent.wait_log("^announced ", start=start)
                        await echo.end_input()

                    nursery.start_soon(write)
                    assert await echo.read_until(sent[-1]) == b"".join(sent)
                assert await echo.process.wait() == 0


async def test_a_session_ends_cleanly_without_a_broker(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker:
        url = f"mqtt://127.0.0.1:{broker.port}"
        device, operator = Device(tmp_path / "pi", url), Operator(tmp_path / "alice", url)
        device.trust(operator)
        operator.pin(device)
        with AgentProcess(device) as agent:
            await agent.wait_log("^announced ")
            async with piped(operator, "exec", "pi", "--", "cat") as echo:
                await echo.send(b"a\n")
                await echo.read_until(b"a\n")
                broker.kill()
                await agent.wait_log("^broker-lost ")
                await echo.end_input()
                with trio.fail_after(10):
                    assert await echo.process.wait() == 0
            await agent.wait_log("^ended ", patience=10)
            assert (await agent.status())["sessions"] == []
