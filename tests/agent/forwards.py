"""`edgeice forward` as a process, and what a rush of clients meets there."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from subprocess import PIPE

import trio

from tests.agent.kit import PATIENCE, Operator, environment, next_line

__all__ = ["failed", "forward", "rush"]


@asynccontextmanager
async def forward(operator: Operator, device: str, *arguments: str) -> AsyncIterator[tuple[trio.Process, list[int]]]:
    """A running `edgeice forward`, and the ports that it listens on."""
    command = [sys.executable, "-m", "edgeice.cli.main", "forward", "--json", device, *arguments]
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stdout=PIPE, stderr=PIPE, env=environment(operator.folder)
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with process.stdout, process.stderr:
            try:
                yield process, [int(str((await next_line(process))["port"])) for _ in arguments]
                process.terminate()
                assert await process.wait() == 128 + signal.SIGTERM
                assert await process.stderr.receive_some() == b""
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()


async def failed(process: trio.Process, count: int) -> list[dict[str, object]]:
    """What a forward says of connections that failed, until that were so many."""
    found: list[dict[str, object]] = []
    while sum(int(str(facts["connections"])) for facts in found) < count:
        if (facts := await next_line(process))["event"] == "failed":
            found.append(facts)
    return found


async def rush(port: int, count: int, at_once: int) -> int:
    """Connect so often; counts the connections that were reset, be it before they were seen to stand."""
    reset = 0

    async def connect(limiter: trio.CapacityLimiter) -> None:
        nonlocal reset
        with trio.socket.socket() as sock:
            async with limiter:
                try:
                    await sock.connect(("127.0.0.1", port))
                    await sock.recv(1)
                except ConnectionResetError:
                    reset += 1

    async with trio.open_nursery() as nursery:
        limiter = trio.CapacityLimiter(at_once)
        for _ in range(count):
            nursery.start_soon(connect, limiter)
    return reset
