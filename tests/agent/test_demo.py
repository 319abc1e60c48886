"""`edgeice demo`, as a newcomer runs it, and what is left behind when it fails or is interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from edgeice.cli.demo_echo import EchoStream
from tests.agent.kit import environment

PATIENCE = 40.0
DEMO = [sys.executable, "-m", "edgeice.cli.main", "demo"]


def processes(folder: Path) -> Iterator[tuple[int, str]]:
    """The running processes with this folder in their command line."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, NotADirectoryError):
            continue
        if entry.name.isdigit() and str(folder) in words:
            yield int(entry.name), words


async def find_process(folder: Path, word: str) -> int:
    """Wait for a process with this word in its command line; returns its id."""
    while True:
        for pid, words in processes(folder):
            if word in words:
                return pid
        await trio.sleep(0.01)


def assert_clean(folder: Path) -> None:
    assert list(folder.iterdir()) == []
    assert list(processes(folder)) == []


@attrs.define
class Running:
    """A demo and what it has said."""

    process: trio.Process
    said: str = ""

    async def wait_said(self, text: str) -> None:
        """Read until this was said."""
        assert self.process.stdout is not None
        while text not in self.said:
            data = await self.process.stdout.receive_some()
            assert data, f"the demo ended without {text!r}:\n{self.said}"
            self.said += data.decode()

    async def rest(self) -> int:
        """Read to the end; returns the exit status."""
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            self.said += data.decode()
        return await self.process.wait()

    def json(self) -> Any:
        """The last line."""
        return json.loads(self.said.splitlines()[-1])


@asynccontextmanager
async def demo(folder: Path, *arguments: str) -> AsyncIterator[Running]:
    """Start the demo with its files in `folder`."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            start = partial(
                trio.run_process,
                [*DEMO, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                env={**environment(), "TMPDIR": str(folder)},
            )
            process: trio.Process = await nursery.start(start)
            yield Running(process)


@pytest.mark.slow
async def test_once_as_json_ends_by_itself_and_loses_nothing(tmp_path: Path) -> None:
    async with demo(tmp_path, "--once", "--json") as running:
        assert await running.rest() == 0, running.said
    assert running.said.count("\n") == 1
    facts = running.json()
    assert facts.keys() == {
        *("ok", "connect_ms", "pair", "new_pair", "restart_gap_ms", "cause", "messages_sent", "messages_lost"),
    }
    assert facts["ok"] is True
    assert facts["connect_ms"] > 0
    pairs = [
        re.fullmatch(r"host 127\.0\.0\.1:\d+ -> host 127\.0\.0\.([12]):\d+", facts[name])
        for name in ("pair", "new_pair")
    ]
    assert sorted(pair[1] if pair else "" for pair in pairs) == ["1", "2"]
    # The device lost an address, and the session's other end followed it; on a busy machine by a restart.
    assert facts["cause"] in ("peer_moved", "restart")
    # Sent every 10 ms, so less is no measurement.
    assert facts["restart_gap_ms"] > 5
    assert facts["messages_sent"] >= 120
    assert facts["messages_lost"] == 0
    assert_clean(tmp_path)


#: Two processes speak, so each has an order of its own.
DEVICE_SAYS = [
    r"device +candidate: host 127\.0\.0\.1:\d+",
    r"device +candidate: host 127\.0\.0\.2:\d+",
    r"device +check sent: 127\.0\.0\.[12]:",
    r"device +check succeeded: 127\.0\.0\.[12]:",
    r"device +socket 127\.0\.0\.[12]:\d+ closed",
    r"device +goes on by host 127\.0\.0\.[12]:\d+ -> host 127\.0\.0\.1:\d+: heard you again after",
]
OPERATOR_SAYS = [
    r"broker +amqtt listens on 127\.0\.0\.1:\d+",
    r"operator +selected pair: host 127\.0\.0\.1:\d+ -> host 127\.0\.0\.[12]:\d+",
    r"operator +connected in [\d.]+ ms",
    r"command +\$ uname -a",
    r"command +Linux ",
    r"echo +\d+ numbered messages came back",
    r"switch +the device's address 127\.0\.0\.[12], which the session uses, goes away",
    r"operator +selected pair: host 127\.0\.0\.1:\d+ -> host 127\.0\.0\.[12]:\d+",
    r"operator +moved: direct -> direct, [\d.]+ ms; pause of at most [\d.]+ ms, the device moved;",
    r"switch +silence of [\d.]+ ms",
    r"What to try next:",
    r"echo +\d+ messages sent, 0 lost",
]


def assert_in_order(lines: list[str], patterns: list[str]) -> None:
    rest = iter(lines)
    for pattern in patterns:
        assert any(re.match(pattern, line) for line in rest), f"{pattern!r} is missing or out of order in {lines}"


@pytest.mark.slow
async def test_for_people_until_ctrl_c_with_a_second_terminal(tmp_path: Path) -> None:
    async with demo(tmp_path) as running:
        await running.wait_said("with a broker and a device of your own")
        # The broker, the device, and this process, which is the operator and has the folder in its environment only.
        assert len(list(processes(tmp_path))) == 2
        home = re.search(r"EDGEICE_HOME=(\S+) (.+) exec demo-pi", running.said)
        assert home is not None
        second = await trio.run_process(
            [*home[2].split(), "exec", "demo-pi", "--", "echo", "hello"],
            capture_stdout=True,
            env=environment(Path(home[1])),
        )
        assert second.stdout == b"hello\n"
        running.process.send_signal(signal.SIGINT)
        assert await running.rest() == 0, running.said
    device, here = (
        [line for line in running.said.splitlines() if line.startswith("device ") is device] for device in (True, False)
    )
    assert_in_order(device, DEVICE_SAYS)
    assert_in_order(here, OPERATOR_SAYS)
    assert_clean(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_interrupted_while_it_starts_it_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    async with demo(tmp_path) as running:
        await running.wait_said("candidate: host")
        running.process.send_signal(number)
        assert await running.rest() == 130, running.said
    assert "Traceback" not in running.said
    assert_clean(tmp_path)


@pytest.mark.slow
async def test_a_device_that_dies_is_the_step_that_failed(tmp_path: Path) -> None:
    async with demo(tmp_path, "--once") as running:
        await running.wait_said("candidate: host")
        os.kill(await find_process(tmp_path, "agent_main"), signal.SIGKILL)
        assert await running.rest() == 1
    assert "edgeice: the demo failed at the step device: the agent ended with -9" in running.said
    assert '  device: {"time": ' in running.said
    assert "Traceback" not in running.said
    assert_clean(tmp_path)


@pytest.mark.slow
async def test_a_broker_that_dies_is_told_as_json(tmp_path: Path) -> None:
    async with demo(tmp_path, "--once", "--json") as running:
        broker = await find_process(tmp_path, "amqtt")
        # Once the device is there the broker has been found to listen.
        await find_process(tmp_path, "agent_main")
        os.kill(broker, signal.SIGKILL)
        assert await running.rest() == 1
    facts = running.json()
    assert (facts["ok"], facts["step"]) == (False, "broker")
    assert facts["error"].startswith("the broker ended with -9")
    assert isinstance(facts["agent_log"], list)
    assert_clean(tmp_path)


@pytest.mark.slow
async def test_without_amqtt_it_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['amqtt'] = None; from edgeice.cli.main import main; main()"
    done = await trio.run_process(
        [sys.executable, "-c", code, "demo", "--once"],
        check=False,
        capture_stderr=True,
        env={**environment(), "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "edgeice: the demo failed at the step broker: the demo's broker is not installed;"
        " run: pip install 'edgeice[demo]'\n"
    )
    assert_clean(tmp_path)


class Echoing:
    """A channel that returns what it is sent after `delay`, except the messages in `lost`."""

    label = protocol = "echo"

    def __init__(self, delay: float, lost: frozenset[int] = frozenset(), silence: tuple[float, float] = (0, 0)) -> None:
        self._delay, self._lost, self._silence = delay, lost, silence
        self._send, self._receive = trio.open_memory_channel[tuple[float, bytes]](10_000)
        self._count = 0

    async def send(self, data: bytes | str) -> None:
        assert isinstance(data, bytes)
        now = trio.current_time()
        begin, end = self._silence
        if self._count not in self._lost:
            self._send.send_nowait((end if begin <= now < end else now + self._delay, data))
        self._count += 1

    async def receive(self) -> bytes | str:
        at, data = await self._receive.receive()
        await trio.sleep_until(at)
        return data

    async def aclose(self) -> None:
        self._send.close()

    def abort(self) -> None:
        self._send.close()


async def run_echo(channel: Echoing, seconds: float) -> EchoStream:
    echo = EchoStream(channel)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo.receive)
        nursery.start_soon(echo.send)
        await trio.sleep(seconds)
        echo.stop_sending()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    return echo


async def test_the_echo_counts_each_message(autojump_clock: trio.testing.MockClock) -> None:
    echo = await run_echo(Echoing(0.003), 0.995)
    assert (echo.sent, echo.returned, echo.lost) == (100, 100, 0)
    assert echo.round_trip == pytest.approx(0.003)
    assert echo.longest_silence == pytest.approx(0.01)


async def test_the_echo_counts_what_is_lost(autojump_clock: trio.testing.MockClock) -> None:
    echo = await run_echo(Echoing(0.003, lost=frozenset({0, 17, 18, 99})), 0.995)
    assert (echo.sent, echo.returned, echo.lost) == (100, 96, 4)
    assert echo.longest_silence == pytest.approx(0.03)


async def test_the_echo_measures_a_silence_without_loss(autojump_clock: trio.testing.MockClock) -> None:
    begun = trio.current_time()
    echo = await run_echo(Echoing(0.001, silence=(begun + 0.205, begun + 0.555)), 0.995)
    assert (echo.sent, echo.lost) == (100, 0)
    assert echo.longest_silence == pytest.approx(0.555 - 0.201)


class NeverReady:
    """A channel that has no room."""

    async def send(self, data: bytes | str) -> None:  # noqa: ARG002  # the channel's signature
        await trio.sleep_forever()


async def test_a_message_whose_sending_was_canceled_is_not_counted_as_lost(autojump_clock: object) -> None:
    echo = EchoStream(NeverReady())  # type: ignore[arg-type]  # nothing is received in this test
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo.send)
        await trio.sleep(1)
        echo.stop_sending()
    assert (echo.sent, echo.lost) == (0, 0)
