"""Signals that end an operator's command: the device hears of it, the terminal is put back, the status is 128 + N."""

from __future__ import annotations

import re
import signal
import sys
import termios
from subprocess import PIPE

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from tests.agent.conftest import Fleet
from tests.agent.kit import PATIENCE, Operator, environment
from tests.agent.terminal import on_terminal

pytestmark = pytest.mark.slow

ENDING = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]

COMMANDS = {
    "exec": (["exec", "pi", "--", "sh", "-c", "echo begun; exec sleep 60"], b"begun\n"),
    "shell": (["shell", "pi"], b"begun\r\n"),
    "ping": (["ping", "-i", "0.02", "pi"], b"seq=2 "),
}


async def said_goodbye(fleet: Fleet, start: int) -> None:
    """Wait for the end of the session that began after `start` of the agent's log: `bye` must have come first."""
    ended = await fleet.agent.wait_log("^ended ", start=start, patience=5)
    text = fleet.agent.log()[start : ended.end()]
    assert re.search("^bye operator=alice code=done", text, re.MULTILINE), text


@pytest.mark.parametrize(
    ("name", "number"),
    # SIGINT ends ping with its summary.
    [(name, number) for name in COMMANDS for number in ENDING if (name, number) != ("ping", signal.SIGINT)],
)
async def test_a_signal_ends_the_session_with_bye(fleet: Fleet, name: str, number: signal.Signals) -> None:
    arguments, begun = COMMANDS[name]
    start = len(fleet.agent.log())
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "edgeice.cli.main", *arguments],
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=environment(fleet.operator.folder),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        async with process.stdin, process.stdout, process.stderr:
            if name == "shell":
                await process.stdin.send_all(b"echo beg''un\n")
            output = b""
            while begun not in output:
                data = await process.stdout.receive_some()
                assert data, output
                output += data
            process.send_signal(number)
            assert await process.wait() == 128 + number
            assert await process.stderr.receive_some() == b""
    await said_goodbye(fleet, start)


@pytest.mark.parametrize("number", ENDING)
async def test_a_signal_puts_the_terminal_back(fleet: Fleet, number: signal.Signals) -> None:
    start = len(fleet.agent.log())
    async with on_terminal(fleet.operator, "shell", "pi") as terminal:
        before = terminal.mode()
        await terminal.type("PS1=; echo rea''dy\n")
        await terminal.expect("ready\r")
        assert terminal.mode() != before
        terminal.process.send_signal(number)
        assert await terminal.end() == 128 + number
        assert terminal.mode() == before
    await said_goodbye(fleet, start)


async def test_a_terminal_that_is_full_holds_nothing_up(fleet: Fleet) -> None:
    start = len(fleet.agent.log())
    async with on_terminal(fleet.operator, "shell", "pi") as terminal:
        await terminal.type("PS1=; echo rea''dy\n")
        await terminal.expect("ready\r")
        await terminal.type("yes\n")
        await terminal.expect("y\r\ny\r\n")
        # Nobody reads the terminal from here on.
        await fleet.agent.wait_log("^opened ", start=start)
        terminal.process.send_signal(signal.SIGTERM)
        with trio.fail_after(PATIENCE):
            assert await terminal.process.wait() == 128 + signal.SIGTERM
    await said_goodbye(fleet, start)


async def test_a_terminal_that_is_closed_ends_the_session(fleet: Fleet) -> None:
    start = len(fleet.agent.log())
    async with on_terminal(fleet.operator, "shell", "pi") as terminal:
        await terminal.type("PS1=; echo rea''dy\n")
        await terminal.expect("ready\r")
        await terminal.hang_up()
        with trio.fail_after(PATIENCE):
            await terminal.process.wait()
    await said_goodbye(fleet, start)


async def test_nohup_keeps_a_command_from_hanging_up(fleet: Fleet) -> None:
    command = [sys.executable, "-m", "edgeice.cli.main", "exec", "pi", "--", "sh", "-c", "echo begun; read x; echo $x"]
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(
            ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command],
            stdin=PIPE,
            stdout=PIPE,
            env=environment(fleet.operator.folder),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with process.stdin, process.stdout:
            assert await process.stdout.receive_some() == b"begun\n"
            process.send_signal(signal.SIGHUP)
            await process.stdin.send_all(b"still here\n")
            assert await process.stdout.receive_some() == b"still here\n"
            assert await process.wait() == 0


@pytest.mark.parametrize("number", ENDING)
async def test_a_signal_ends_the_question_at_first_contact(
    fleet: Fleet, tmp_path_factory: pytest.TempPathFactory, number: signal.Signals
) -> None:
    operator = Operator(tmp_path_factory.mktemp("first") / "alice", fleet.url)
    async with on_terminal(operator, "exec", "pi", "--", "true") as terminal:
        await terminal.expect(r"\[y/N\]")
        terminal.process.send_signal(number)
        with trio.fail_after(5):
            assert await terminal.end() == 128 + number
    assert not (operator.folder / "known_devices").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_at_the_passphrase_puts_the_echo_back(
    fleet: Fleet, tmp_path_factory: pytest.TempPathFactory, number: signal.Signals
) -> None:
    operator = Operator(tmp_path_factory.mktemp("locked") / "alice", fleet.url)
    private = Ed25519PrivateKey.from_private_bytes(operator.key.seed)
    (operator.folder / "operator.key").write_bytes(
        private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(b"secret"))
    )
    async with on_terminal(operator, "exec", "pi", "--", "true") as terminal:
        before = terminal.mode()
        await terminal.expect("Passphrase for .*: ")
        assert not echoes(terminal.mode())
        terminal.process.send_signal(number)
        with trio.fail_after(5):
            assert await terminal.end() == 128 + number
        assert terminal.mode() == before


def echoes(mode: list[object]) -> bool:
    flags = mode[3]
    assert isinstance(flags, int)
    return bool(flags & termios.ECHO)
