"""`edgeice session` end to end: commands of one operator that share a session."""

from __future__ import annotations

import ast
import fcntl
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import PIPE

import pytest
import trio

from tests.agent.conftest import Fleet
from tests.agent.kit import PATIENCE, AgentProcess, Device, Finished, Operator, edgeice, environment, next_line
from tests.agent.terminal import on_terminal
from tests.support.device import alive

pytestmark = pytest.mark.slow

# Runs `edgeice` and writes at the end what was imported.
_TRACED = """
import atexit, sys
@atexit.register
def dump():
    with open({to!r}, "w") as file:
        file.write(repr(sorted(sys.modules)))
from edgeice.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def agent(fleet: Fleet) -> Iterator[AgentProcess]:
    """A device that allows all that sessions ask for: what it refuses takes a second each."""
    device = Device(fleet.folder / "open", fleet.url, "open")
    device.trust(fleet.operator, can="shell,exec,forward:localhost:*,telemetry:*")
    with AgentProcess(device) as agent:
        agent.wait_log_sync("^announced ")
        yield agent


@pytest.fixture
def alice(fleet: Fleet, agent: AgentProcess, tmp_path: Path) -> Operator:
    """The fleet's operator from a folder of its own, where nothing is shared yet."""
    alice = Operator(tmp_path / "alice", fleet.url)
    alice.pin(fleet.device)
    alice.pin(agent.device)
    return alice


@asynccontextmanager
async def session(operator: Operator, *arguments: str, device: str = "open") -> AsyncIterator[trio.Process]:
    """A running `edgeice session` that is open; its output is read up to there."""
    command = [sys.executable, "-m", "edgeice.cli.main", "session", "--json", device, *arguments]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.DEVNULL, stdout=PIPE, stderr=PIPE, env=environment(operator.folder)
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with process.stdout, process.stderr:
        try:
            with trio.fail_after(PATIENCE):
                while (said := await next_line(process))["event"] != "open":
                    assert said["event"] in ("path", "left-out")
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def modes(path: str) -> tuple[int, int]:
    """Of a file and its folder."""
    file = Path(path)
    return file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def in_time(process: trio.Process) -> int:
    """Its exit status, soon."""
    with trio.fail_after(PATIENCE):
        return await process.wait()


async def test_commands_share_the_session_that_runs_in_the_background(agent: AgentProcess, alice: Operator) -> None:
    none = await edgeice(alice, "session", "--check", "open")
    assert (none.code, none.stdout) == (3, b"")
    assert "no session with open is kept open" in none.stderr

    opened = await edgeice(alice, "session", "--background", "--quiet", "open")
    assert (opened.code, opened.stdout, opened.stderr) == (0, b"", "")
    try:
        status = (await edgeice(alice, "session", "--check", "--json", "open")).json()
        assert (status["open"], status["clients"], status["want"]) == (
            True,
            0,
            ["shell", "exec", "forward:localhost:22", "telemetry:*"],
        )
        assert status["path"].startswith("host 127.0.0.1:")
        assert modes(status["socket"]) == (0o600, 0o700)
        assert os.getsid(status["pid"]) == status["pid"]
        start = len(agent.log())
        held = descriptors(status["pid"])

        done = await edgeice(
            alice, "exec", "--verbose", "open", "--", "sh", "-c", "cat; echo err >&2; exit 7", stdin=b"x"
        )
        shared = f"edgeice: using the session that process {status['pid']} keeps open\n"
        assert (done.code, done.stdout, done.stderr) == (7, b"x", f"{shared}err\n")
        pinged = await edgeice(alice, "ping", "--json", "-c", "2", "-i", "0.01", "open")
        assert [line.get("path") for line in pinged.lines()] == [status["path"], status["path"], None]
        assert pinged.stderr == ""
        shell = await edgeice(alice, "shell", "open", stdin=b"exit 5\n")
        assert shell.code == 5
        # All of that was one session's, and nothing of it is left.
        after = (await edgeice(alice, "session", "--check", "--json", "open")).json()
        assert after == status
        assert descriptors(status["pid"]) == held
        assert "opened" not in [line.split()[0] for line in agent.log()[start:].splitlines() if line]

        own = await edgeice(alice, "exec", "--no-share", "open", "--", "true")
        assert own.code == 0
        assert agent.log()[start:].count("\nopened ") == 1

        again = await edgeice(alice, "session", "--background", "open")
        assert (again.code, again.stdout) == (5, b"")
        assert "a session with open is kept open already" in again.stderr
    finally:
        stopped = await edgeice(alice, "session", "--stop", "open")
    assert (stopped.code, stopped.stderr) == (0, "edgeice: the session with open is ended\n")
    assert not [*alice.folder.glob("edgeice/*.sock")]
    assert (await edgeice(alice, "session", "--stop", "open")).code == 3
    assert (await edgeice(alice, "exec", "open", "--", "true")).code == 0


async def test_what_runs_in_the_background_holds_nothing_of_where_it_was_started(alice: Operator) -> None:
    reading, writing = os.pipe()
    started = alice.folder / "started"
    started.mkdir()
    command = [sys.executable, "-m", "edgeice.cli.main", "session", "--background", "--config", "../operator.toml"]
    # A lower and a higher one than its own, of which the highest is far beyond what is open otherwise.
    high = fcntl.fcntl(writing, fcntl.F_DUPFD, 900)
    await trio.run_process(
        [*command, "--quiet", "open"],
        stdin=b"",
        env=environment(alice.folder),
        cwd=started,
        pass_fds=(writing, high),
    )
    os.close(writing)
    os.close(high)
    try:
        assert os.read(reading, 1) == b""  # nobody has the other end any more
        status = (await edgeice(alice, "session", "--check", "--json", "open")).json()
        process = Path(f"/proc/{status['pid']}")
        assert os.readlink(process / "cwd") == "/"  # noqa: PTH115  # the text itself
        assert [os.readlink(process / "fd" / str(number)) for number in range(3)] == ["/dev/null"] * 3  # noqa: PTH115
        _parent, _group, leader, terminal = (process / "stat").read_text().rpartition(")")[2].split()[1:5]
        assert (int(leader), terminal) == (status["pid"], "0")
        assert (await edgeice(alice, "exec", "open", "--", "true")).code == 0
    finally:
        os.close(reading)
        assert (await edgeice(alice, "session", "--stop", "open")).code == 0


async def test_what_shares_a_session_loads_nothing_that_opens_one(alice: Operator, tmp_path: Path) -> None:
    to = tmp_path / "modules"
    async with session(alice):
        done = await trio.run_process(
            [sys.executable, "-c", _TRACED.format(to=str(to)), "exec", "open", "--", "echo", "hello"],
            env=environment(alice.folder),
            stdin=b"",
            capture_stdout=True,
        )
    assert done.stdout == b"hello\n"
    loaded = set(ast.literal_eval(to.read_text()))
    assert not {"OpenSSL", "cryptography", "jwt", "paho", "asyncio"} & loaded
    rooms = {name.split(".")[1] for name in loaded if name.startswith("edgeice.")}
    assert rooms <= {
        "addresses",
        "cli",
        "errors",
        "files",
        "late",
        "local_socket",
        "operator",
        "services",
        "settings",
        "sansio",
        "text",
        "trace",
    }


async def test_what_the_session_did_not_ask_for_gets_a_session_of_its_own(agent: AgentProcess, alice: Operator) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    data = random.Random(11).randbytes(1 << 20)

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, echo, listeners)
        async with session(alice, "--want", f"forward:localhost:{port}") as process:
            start = len(agent.log())
            done = await edgeice(alice, "proxy", "open", str(port), stdin=data)
            assert (done.code, done.stdout == data, done.stderr) == (0, True, "")
            assert agent.log()[start:].count("\nopened ") == 0
            other = await edgeice(alice, "proxy", "--verbose", "open", f"{port % 65535 + 1}", stdin=b"")
            assert "it did not ask for forward:localhost:" in other.stderr
            assert agent.log()[start:].count("\nopened ") == 1
            refused = await edgeice(alice, "proxy", "open", "192.0.2.1:1")
            assert (refused.code, refused.stderr.count("not allowed: forward:192.0.2.1:1")) == (4, 1)
            process.terminate()
            assert await in_time(process) == 128 + signal.SIGTERM
        nursery.cancel_scope.cancel()


async def test_what_the_device_does_not_allow_is_left_out_unless_it_has_to_be_had(alice: Operator) -> None:
    async with session(alice, "--idle", "0.05", device="pi") as process:  # whose trust names shell and exec
        assert await in_time(process) == 0
        assert process.stderr is not None
        assert await process.stderr.receive_some() == b""
    must = await edgeice(alice, "session", "--want", "admin", "--background", "open")
    assert (must.code, must.stderr.splitlines()[-1]) == (4, "edgeice: open refused: unauthorized: not allowed: admin")


async def test_a_command_whose_session_dies_says_so(alice: Operator) -> None:
    async with session(alice) as process, trio.open_nursery() as nursery:
        begun = trio.Event()

        async def run() -> None:
            command = [
                sys.executable,
                "-m",
                "edgeice.cli.main",
                "exec",
                "open",
                "--",
                "sh",
                "-c",
                "echo begun; sleep 60",
            ]
            client = await trio.lowlevel.open_process(
                command, stdin=subprocess.DEVNULL, stdout=PIPE, stderr=PIPE, env=environment(alice.folder)
            )
            assert client.stdout is not None
            assert client.stderr is not None
            async with client.stdout, client.stderr:
                assert await client.stdout.receive_some() == b"begun\n"
                begun.set()
                assert await in_time(client) == 3
                said = (await client.stderr.receive_some()).decode()
                lost = f"is lost: process {process.pid}, which kept it open, is gone"
                assert said == f"edgeice: the shared session with open {lost}\n"

        nursery.start_soon(run)
        await begun.wait()
        process.kill()
    # What it left is seen for what it is, by commands and by the next one.
    assert (await edgeice(alice, "exec", "open", "--", "true")).code == 0
    async with session(alice) as process:
        process.send_signal(signal.SIGINT)
        assert await in_time(process) == 128 + signal.SIGINT
    assert not [*alice.folder.glob("edgeice/*.sock")]


async def test_a_device_that_leaves_ends_it(fleet: Fleet, alice: Operator) -> None:
    device = Device(alice.folder / "leaving", fleet.url, "leaving")
    device.trust(alice, can="shell,exec,forward:localhost:*,telemetry:*")
    alice.pin(device)
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        async with session(alice, device="leaving") as process:
            agent.terminate()
            assert await in_time(process) == 3
            assert process.stdout is not None
            assert b"the session with leaving ended: shutdown" in await process.stdout.receive_some()
    gone = await edgeice(alice, "session", "--background", "--timeout", "0.3", "leaving")
    assert gone.code == 3
    assert "leaving did not answer" in gone.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--check", "--stop"), ("--check", "--background"), ("--stop", "--idle", "5"), ("--stop", "--want", "exec")],
)
async def test_options_that_exclude_each_other(alice: Operator, arguments: tuple[str, ...]) -> None:
    done = await edgeice(alice, "session", "open", *arguments)
    assert (done.code, done.stdout) == (2, b"")
    assert "exclude each other" in done.stderr


async def test_a_person_is_asked_before_it_goes_to_the_background(
    fleet: Fleet, agent: AgentProcess, tmp_path: Path
) -> None:
    newcomer = Operator(tmp_path / "alice", fleet.url)
    async with on_terminal(newcomer, "session", "--background", "open") as terminal:
        await terminal.expect(re.escape(agent.device.key.fingerprint))
        await terminal.expect(r"\[y/N\]")
        await terminal.type("\x03")  # ^C
        assert await terminal.end() == 128 + signal.SIGINT
    assert not [*newcomer.folder.glob("edgeice/*.sock")]
    async with on_terminal(newcomer, "session", "--background", "open") as terminal:
        await terminal.expect(r"\[y/N\]")
        await terminal.type("y\n")
        assert await terminal.end() == 0
        assert b"session with open is open for shell, exec, forward:localhost:22, telemetry:* (" in terminal.screen
    # Its terminal is gone now, with the hang-up that comes of that.
    stopped = await edgeice(newcomer, "session", "--stop", "open")
    assert stopped.code == 0


async def test_a_configuration_may_say_that_nothing_is_shared(agent: AgentProcess, alice: Operator) -> None:
    async with session(alice):
        start = len(agent.log())
        assert (await edgeice(alice, "exec", "open", "--", "true")).code == 0
        assert agent.log()[start:].count("\nopened ") == 0
        text = alice.config.read_text()
        alice.config.write_text(f"share = false\n{text}")
        assert (await edgeice(alice, "exec", "open", "--", "true")).code == 0
        assert agent.log()[start:].count("\nopened ") == 1


@pytest.fixture(scope="module")
def narrow(fleet: Fleet) -> Iterator[Device]:
    """A device that takes eight channels of a session."""
    device = Device(fleet.folder / "narrow", fleet.url, "narrow", extra="[limits]\nchannels = 8\n")
    device.trust(fleet.operator, can="shell,exec,forward:localhost:*,telemetry:*")
    with AgentProcess(device) as agent:
        agent.wait_log_sync("^announced ")
        yield device


@asynccontextmanager
async def forward(operator: Operator, device: str, port: int) -> AsyncIterator[tuple[trio.Process, int]]:
    """A running `edgeice forward`, and the port where it listens."""
    command = [sys.executable, "-m", "edgeice.cli.main", "forward", "--json", device, f"127.0.0.1:0:localhost:{port}"]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.DEVNULL, stdout=PIPE, stderr=PIPE, env=environment(operator.folder)
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with process.stdout, process.stderr:
        try:
            yield process, int(str((await next_line(process))["port"]))
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def echo(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):  # a forward that is ended while its last visitor leaves
        async for data in stream:
            await stream.send_all(data)


async def test_two_forwards_that_want_more_than_the_device_takes_lose_nothing(alice: Operator, narrow: Device) -> None:
    alice.pin(narrow)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    answers, answered = trio.open_memory_channel[int](24)
    leaving = trio.Event()

    async def visit(port: int, number: int) -> None:
        """Be answered, and stay until all may leave."""
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(number.to_bytes(2))
            assert await stream.receive_some() == number.to_bytes(2)
            answers.send_nowait(number)
            await leaving.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, echo, listeners)
        with trio.fail_after(PATIENCE):
            async with (
                session(alice, "--want", f"forward:localhost:{port}", device="narrow"),
                forward(alice, "narrow", port) as (_first, first_port),
                forward(alice, "narrow", port) as (second, second_port),
            ):
                async with trio.open_nursery() as visiting:
                    for number in range(12):
                        visiting.start_soon(visit, first_port, number)
                    early = {await answered.receive() for _ in range(6)}  # what a forward takes of eight
                    for number in range(12, 24):
                        visiting.start_soon(visit, second_port, number)
                    early.add(await answered.receive())
                    assert second.stderr is not None
                    said = await second.stderr.receive_some()
                    assert said == (
                        b"edgeice: no channel of the shared session's 8 is free for this; waiting until one ends\n"
                    )
                    status = (await edgeice(alice, "session", "--check", "--json", "narrow")).json()
                    assert (status["channels"], status["max_channels"]) == (7, 8)
                    assert 1 <= status["waiting"] <= 5
                    shown = await edgeice(alice, "session", "--check", "narrow")
                    assert re.search(rb"^channels: 7 of 8, [1-5] waiting$", shown.stdout, re.MULTILINE)
                    # One is kept for those who have none.
                    assert (await edgeice(alice, "exec", "narrow", "--", "true")).code == 0
                    leaving.set()
                assert early | {await answered.receive() for _ in range(17)} == set(range(24))
        nursery.cancel_scope.cancel()


async def test_a_forward_asks_for_no_more_than_its_device_takes(alice: Operator, narrow: Device) -> None:
    """Also in a session of its own, and also while clients come as soon as others leave."""
    alice.pin(narrow)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async def visit(port: int, number: int) -> None:
        for _ in range(5):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(number.to_bytes(2))
                assert await stream.receive_some() == number.to_bytes(2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, echo, listeners)
        with trio.fail_after(PATIENCE):
            async with forward(alice, "narrow", port) as (process, listening), trio.open_nursery() as visiting:
                for number in range(24):
                    visiting.start_soon(visit, listening, number)
                assert await next_line(process) == {"event": "full", "connections": 6}
        nursery.cancel_scope.cancel()


async def test_what_a_killed_client_ran_ends_although_it_took_nothing(alice: Operator, narrow: Device) -> None:
    alice.pin(narrow)
    async with session(alice, device="narrow"):
        command = [sys.executable, "-m", "edgeice.cli.main", "exec", "narrow", "--", "sh", "-c", "echo $$; sleep 1000"]
        with Path("/dev/zero").open("rb") as zeros:  # noqa: ASYNC230  # a device
            client = await trio.lowlevel.open_process(command, stdin=zeros, stdout=PIPE, env=environment(alice.folder))
        assert client.stdout is not None
        async with client.stdout:
            pid = (await client.stdout.receive_some()).decode()
            assert alive(pid)
            pidfd = os.pidfd_open(int(pid))
            client.kill()
            await client.wait()
        try:
            with trio.fail_after(PATIENCE):
                await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)


async def test_a_device_that_was_killed_is_unreachable_in_time_also_for_those_who_share(
    fleet: Fleet, alice: Operator
) -> None:
    device = Device(alice.folder / "killed", fleet.url, "killed")
    device.trust(alice, can="shell,exec,forward:localhost:*")
    alice.pin(device)
    with AgentProcess(device) as agent:
        agent.wait_log_sync("^announced ")
        async with session(alice, device="killed") as process:
            assert (await edgeice(alice, "exec", "killed", "--", "true")).code == 0
            agent.send(signal.SIGKILL)
            await agent.wait_exit()
            # It is too soon to know of it; each command finds out for itself.
            commands = [
                ["exec", "killed", "--timeout", "1", "--", "true"],
                ["ping", "killed", "--timeout", "1"],
                ["proxy", "killed", "22", "--timeout", "1"],
                ["shell", "killed", "--list", "--timeout", "1"],
            ]
            said = "edgeice: killed did not answer in the shared session (waited 1 s)"
            outcomes = await _together(alice, commands)
            assert [outcome.code for outcome in outcomes] == [3] * 4
            assert [outcome.stderr.count(said) for outcome in outcomes] == [1] * 4
            with trio.fail_after(PATIENCE):
                while (await edgeice(alice, "session", "--check", "--json", "killed")).json()["silent"] is None:
                    pass  # each question takes a process, so this does not spin
            outcomes = await _together(alice, commands)
            assert [outcome.code for outcome in outcomes] == [3] * 4
            for outcome in outcomes:
                assert re.search(r"killed has not answered for \d+ s in the session that is shared; ", outcome.stderr)
                assert "edgeice: killed did not answer: it may be away" in outcome.stderr
            checked = await edgeice(alice, "session", "--check", "killed")
            assert re.search(r"^state: +open, but no answer for \d+ s$", checked.stdout.decode(), re.MULTILINE)
            process.terminate()
            await in_time(process)


async def _together(operator: Operator, commands: list[list[str]]) -> list[Finished]:
    outcomes: dict[int, Finished] = {}

    async def run(index: int, command: list[str]) -> None:
        outcomes[index] = await edgeice(operator, *command)

    async with trio.open_nursery() as nursery:
        for index, command in enumerate(commands):
            nursery.start_soon(run, index, command)
    return [outcomes[index] for index in range(len(commands))]
