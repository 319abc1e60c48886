"""`edgeice telemetry` against a real agent, with processes that write to its socket."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.agent.conftest import Fleet
from tests.agent.kit import PATIENCE, AgentProcess, Device, Operator, edgeice, edgeice_agent, environment
from tests.agent.terminal import on_terminal
from tests.support.brokers import Mosquitto

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A device that tells alice everything, and bob what the system does."""
    folder = tmp_path_factory.mktemp("telemetry")
    url = f"mqtt://127.0.0.1:{broker.port}"
    device = Device(
        folder / "meter", url, "meter", extra='[telemetry]\nsocket = "rows.sock"\nmounts = ["/", "/none"]\n'
    )
    operator = Operator(folder / "alice", url)
    device.trust(operator, "telemetry:*")
    operator.pin(device)
    with AgentProcess(device) as agent:
        agent.wait_log_sync("^announced ")
        yield Fleet(broker, device, agent, operator, folder)


def write(fleet: Fleet, data: bytes) -> None:
    """Do as any process of the device may."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer:
        writer.sendto(data, str(fleet.device.folder / "rows.sock"))


class Following:
    """`edgeice telemetry meter --json …` that runs."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        assert process.stdout is not None
        self._stream = process.stdout
        self._rest = b""

    async def next(self) -> dict[str, Any]:
        """The next object."""
        while b"\n" not in self._rest:
            data = await self._stream.receive_some()
            assert data, self._rest
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        found = json.loads(line)
        assert isinstance(found, dict)
        return found


@asynccontextmanager
async def following(fleet: Fleet, *arguments: str) -> AsyncIterator[Following]:
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "edgeice.cli.main", "telemetry", "meter", "--json", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(fleet.operator.folder),
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with process.stdout, process.stderr:
            try:
                yield Following(process)
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()


async def until(path: Path, *, there: bool) -> None:
    """Wait for a file to come or go."""
    with trio.fail_after(PATIENCE):
        while await trio.Path(path).exists() != there:
            pass  # each look takes a thread, so this does not spin


async def test_one_sample_of_the_system(measured: Fleet) -> None:
    done = await edgeice(measured.operator, "telemetry", "meter", "system", "--once", "--json")
    assert (done.code, done.stderr) == (0, "")
    rows = done.lines()
    assert {row["stream"] for row in rows} == {"system"}
    assert len({row["t"] for row in rows}) == 1
    names = {row["name"] for row in rows}
    assert {"cpu.busy_percent", "load.1m", "memory.total_bytes", "uptime_seconds", "disk.used_percent"} <= names
    (disk,) = [row for row in rows if row["name"] == "disk.used_percent"]
    assert disk["tags"] == {"mount": "/"}  # and not what is not there


async def test_samples_for_people_at_an_interval(measured: Fleet) -> None:
    done = await edgeice(measured.operator, "telemetry", "meter", "system", "-c", "3", "-i", "0.1")
    assert (done.code, done.stderr) == (0, "")
    loads = re.findall(r"^\d\d:\d\d:\d\d  load\.1m  [\d.]+$", done.stdout.decode(), re.MULTILINE)
    assert len(loads) == 3


async def test_lines_of_local_processes_good_and_bad(measured: Fleet) -> None:
    path = measured.device.folder / "rows.sock"
    assert not await trio.Path(path).exists()
    before = (await measured.agent.status())["drops"].get("telemetry.control-json", 0)
    async with following(measured, "local") as follow:
        await until(path, there=True)
        write(measured, b'{"name":"door.open","value":true,"tags":{"door":"shed"}}\n')
        first = await follow.next()
        assert first.pop("t") > 1.7e9
        assert first == {"stream": "local", "name": "door.open", "value": True, "tags": {"door": "shed"}}
        write(measured, b'{"name":"log","value":"line1\\nline2\\tTab"}')
        assert (await follow.next())["value"] == "line1\nline2\tTab"
        write(measured, b"garbage\n\n")
        with pytest.raises(OSError, match="Message too long"):
            write(measured, b"x" * (1 << 20))
        write(measured, b"x" * 100_000)
        write(measured, b'{"name":"rain_mm","value":0.5,"t":5}')
        assert await follow.next() == {"stream": "local", "t": 5.0, "name": "rain_mm", "value": 0.5}
        drops = (await measured.agent.status())["drops"]
        assert drops["telemetry.control-json"] == before + 1
        assert drops["telemetry.datagram-size"] == 1
        follow.process.send_signal(signal.SIGINT)
        assert await follow.process.wait() == 0
    await until(path, there=False)


async def test_a_reader_that_stops_is_told_what_it_missed(measured: Fleet) -> None:
    total = 20_000
    async with following(measured, "local") as follow:
        path = measured.device.folder / "rows.sock"
        await until(path, there=True)
        write(measured, b'{"name":"begin","value":0}')
        assert (await follow.next())["name"] == "begin"

        def flood() -> None:
            pad = "x" * 200
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer:
                writer.connect(str(path))
                for number in range(0, total, 20):
                    lines = (f'{{"name":"n","value":{number + each},"tags":{{"pad":"{pad}"}}}}' for each in range(20))
                    writer.send("\n".join(lines).encode())

        await trio.to_thread.run_sync(flood)  # nobody reads meanwhile
        last, lost, rows = -1, 0, 0
        while last < total - 1:
            told = await follow.next()
            if "lost" in told:
                lost += told["lost"]
            else:
                rows += 1
                assert told["value"] == rows + lost - 1
                last = told["value"]
        assert rows + lost == total
        assert lost > 0
        # What waited on the way: pipes, 16 messages, and the ring.
        assert rows < total / 2
        start = len(measured.agent.log())
        follow.process.send_signal(signal.SIGTERM)
        assert await follow.process.wait() == 128 + signal.SIGTERM
    await measured.agent.wait_log("^bye operator=alice code=done", start=start)


async def test_a_table_on_a_terminal(measured: Fleet) -> None:
    async with on_terminal(measured.operator, "telemetry", "meter", "-i", "0.1", columns=100) as terminal:
        await terminal.expect(
            r"meter  host [\d.:]+ -> host [\d.:]+\x1b\[K\r\r?\nNAME +VALUE +MIN +MAX +AGE +TREND\x1b\[K"
        )
        await terminal.expect(r"cpu\.busy_percent +[\d.]+ % ")
        await terminal.expect(r"\x1b\[\d+Ameter ")  # drawn anew in its place
        write(measured, b'{"name":"door.open","value":true,"tags":{"door":"shed"}}\n')
        await terminal.expect(r"door\.open shed +yes ")
        await terminal.type("\x03")
        assert await terminal.end() == 0


async def test_streams_that_are_not_there_or_not_granted(measured: Fleet) -> None:
    done = await edgeice(measured.operator, "telemetry", "meter", "nope", "--json")
    assert done.code == 1
    assert done.json()["error"] == "not-found: no such stream; there are local, system"
    bob = Operator(measured.folder / "bob", measured.url, "bob")
    measured.device.trust(bob, "telemetry:system")
    bob.pin(measured.device)
    start = len(measured.agent.log())
    measured.agent.hang_up()
    await measured.agent.wait_log("^reloaded", start=start)
    assert (await edgeice(bob, "telemetry", "meter", "system", "--once")).code == 0
    for arguments in (("local",), ()):
        done = await edgeice(bob, "telemetry", "meter", *arguments, "--json")
        assert done.code == 4
        assert f"telemetry:{arguments[0] if arguments else '*'}" in done.json()["error"]


async def test_a_stream_that_tells_nothing(measured: Fleet) -> None:
    done = await edgeice(measured.operator, "telemetry", "meter", "local", "--once", "--timeout", "1", "--json")
    assert done.code == 1
    assert done.json() == {
        "error": "timeout: nothing came from local within 1 s",
        "step": "service",
        "code": "timeout",
    }


async def test_a_device_without_telemetry(broker: Mosquitto, tmp_path: Path) -> None:
    url = f"mqtt://127.0.0.1:{broker.port}"
    device = Device(tmp_path / "plain", url, "plain", extra="[services]\ntelemetry = false\n")
    operator = Operator(tmp_path / "alice", url)
    device.trust(operator, "telemetry:*")
    operator.pin(device)
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        done = await edgeice(operator, "telemetry", "plain", "--json")
    assert (done.code, done.json()["error"]) == (1, "unsupported: no such service")


async def test_check_warns_where_the_socket_cannot_be(broker: Mosquitto, tmp_path: Path) -> None:
    device = Device(tmp_path / "odd", f"mqtt://127.0.0.1:{broker.port}", "odd", extra='[telemetry]\nsocket = "no/x"\n')
    done = await edgeice_agent(device, "check", "--json")
    assert done.code == 0
    (warning,) = [text for text in done.json()["warnings"] if "telemetry" in text]
    assert warning == (
        f"the stream local of telemetry will not be there: {device.folder}/no/x: cannot listen there:"
        f" {device.folder}/no is no folder"
    )


async def test_it_goes_on_when_the_devices_address_changes(measured: Fleet) -> None:
    async with following(measured, "local") as follow:
        path = measured.device.folder / "rows.sock"
        await until(path, there=True)
        write(measured, b'{"name":"n","value":0}')
        assert (await follow.next())["value"] == 0
        config = trio.Path(measured.device.config)
        await config.write_text((await config.read_text()).replace('["127.0.0.1"]', '["127.0.0.2"]'))
        start = len(measured.agent.log())
        measured.agent.hang_up()
        await measured.agent.wait_log("^restart operator=alice", start=start)
        for number in range(1, 20):
            write(measured, b'{"name":"n","value":%d}' % number)
            assert (await follow.next())["value"] == number
        await measured.agent.wait_log("^path .*host 127.0.0.2:", start=start)
