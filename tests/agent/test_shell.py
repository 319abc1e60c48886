"""`edgeice shell` end to end, on a terminal and without one."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from edgeice.cli.shell import EscapeFilter
from tests.agent.conftest import Fleet
from tests.agent.kit import AgentProcess, Operator, edgeice
from tests.agent.mounts import ONE_TERMINAL, MountedDevice
from tests.agent.terminal import on_terminal


@pytest.mark.slow
async def test_a_terminal_on_the_device(fleet: Fleet) -> None:
    async with on_terminal(fleet.operator, "shell", "pi", columns=91) as terminal:
        before = terminal.mode()
        await terminal.type("PS1=; stty size; tty; echo $TERM\n")
        await terminal.expect("24 91\r")
        await terminal.expect("/dev/pts/")
        await terminal.expect("xterm\r")
        assert terminal.mode() != before  # raw: the device's terminal echoes
        await terminal.type("exit 9\n")
        assert await terminal.end() == 9


@pytest.mark.slow
async def test_the_terminal_is_put_back(fleet: Fleet) -> None:
    async with on_terminal(fleet.operator, "shell", "pi") as terminal:
        before = terminal.mode()
        await terminal.type("exit\n")
        assert await terminal.end() == 0
        assert terminal.mode() == before


@pytest.mark.slow
async def test_resize_reaches_the_device(fleet: Fleet) -> None:
    async with on_terminal(fleet.operator, "shell", "pi") as terminal:
        changed = """until [ "$(stty size)" = '37 133' ]; do sleep 0.05; done"""
        await terminal.type(f"PS1=; stty size; {changed}; stty size; exit 0\n")
        await terminal.expect("24 80\r")
        terminal.resize(133, 37)
        await terminal.expect("37 133\r")
        assert await terminal.end() == 0


@pytest.mark.slow
async def test_interrupt_goes_to_the_foreground_there(fleet: Fleet) -> None:
    async with on_terminal(fleet.operator, "shell", "pi") as terminal:
        await terminal.type("PS1=; sleep 60; echo status=$?\n")
        await terminal.expect("status=")  # the echo of what was typed
        await terminal.type("\x03")
        await terminal.type("echo alive=$((1+1))\n")
        await terminal.expect("alive=2")
        await terminal.type("exit 3\n")
        assert await terminal.end() == 3


@pytest.mark.slow
async def test_a_shell_that_dies_of_a_signal(fleet: Fleet) -> None:
    async with on_terminal(fleet.operator, "shell", "pi") as terminal:
        await terminal.type("kill -KILL $$\n")
        assert await terminal.end() == 128 + signal.SIGKILL


@pytest.mark.slow
async def test_the_escape_disconnects(fleet: Fleet) -> None:
    async with on_terminal(fleet.operator, "shell", "pi") as terminal:
        before = terminal.mode()
        await terminal.type("PS1=; echo rea''dy\n")
        await terminal.expect("ready\r")
        await terminal.type("\r~?")
        await terminal.expect("~\\^Z  suspend")
        await terminal.type("\r~.")
        assert await terminal.end() == 255  # as ssh: no shell ended with 0
        assert b"disconnected from pi" in terminal.screen
        assert terminal.mode() == before


@pytest.mark.slow
async def test_the_escape_suspends(fleet: Fleet) -> None:
    async with on_terminal(fleet.operator, "shell", "--json", "pi", starter="tests.agent.job") as terminal:
        await terminal.type("PS1=; echo rea''dy\n")
        await terminal.expect("ready\r")
        await terminal.type("\r~\x1a")
        await terminal.expect("stopped, canonical: True")
        terminal.resize(91, 37)
        await terminal.type("\n")
        await terminal.type("stty size; exec sh -c 'printf half; exit 9'\n")
        await terminal.expect("37 91\r")
        assert await terminal.end() == 9
    assert terminal.screen.endswith(b'half\r\n{"exit": 9, "exit_signal": null, "disconnected": false}\r\n')


@pytest.mark.slow
async def test_first_contact_asks_the_person(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> None:
    operator = Operator(tmp_path_factory.mktemp("first") / "alice", fleet.url)
    async with on_terminal(operator, "exec", "pi", "--", "echo", "hello") as terminal:
        await terminal.expect("First contact with home/d/pi.")
        await terminal.expect(re.escape(fleet.device.key.fingerprint))
        await terminal.expect(r"\[y/N\]")
        await terminal.type("y\n")
        await terminal.expect("hello")
        assert await terminal.end() == 0
    assert fleet.device.key.openssh in (operator.folder / "known_devices").read_text()


@pytest.mark.slow
async def test_first_contact_that_the_person_declines(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> None:
    operator = Operator(tmp_path_factory.mktemp("first") / "alice", fleet.url)
    async with on_terminal(operator, "exec", "pi", "--", "echo", "hello") as terminal:
        await terminal.expect(r"\[y/N\]")
        await terminal.type("\n")
        assert await terminal.end() == 4
        assert b"the key of home/d/pi was not accepted" in terminal.screen
    assert not (operator.folder / "known_devices").exists()


@pytest.mark.slow
async def test_connecting_shows_its_steps_on_one_line(fleet: Fleet) -> None:
    async with on_terminal(fleet.operator, "exec", "pi", "--", "true") as terminal:
        assert await terminal.end() == 0
    lines = [part.decode() for part in terminal.screen.split(b"\r\x1b[K")]
    shown = [line.removesuffix(" …") for line in lines if line.strip()]
    wanted = ["connecting to", "looking for home/d/pi", "offering a session", "checking paths", "securing the path"]
    steps = iter(shown)
    assert all(any(line.startswith(want) for line in steps) for want in wanted), shown
    assert b"\n" not in terminal.screen


@pytest.mark.slow
@pytest.mark.root
async def test_a_device_that_has_no_terminal_left(fleet: Fleet, tmp_path: Path) -> None:
    """It has one; commands need none."""
    device = MountedDevice(tmp_path / "pi", fleet.url, "cramped", ONE_TERMINAL)
    operator = Operator(tmp_path / "alice", fleet.url)
    device.trust(operator)
    operator.pin(device)
    said = "limit: all of the device's terminals are in use (kernel.pty.max, or max= of its devpts)"
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        async with on_terminal(operator, "shell", "cramped") as holder:
            await holder.type("PS1=; echo rea''dy\n")
            await holder.expect("ready\r")
            for options in ((), ("--keep",)):
                done = await edgeice(operator, "shell", *options, "cramped")
                assert (done.code, done.stdout, done.stderr) == (1, b"", f"edgeice: {said}\n")
            async with on_terminal(operator, "shell", "--quiet", "cramped") as other:
                before = other.mode()
                assert await other.end() == 1
                assert other.mode() == before
                assert other.screen == f"edgeice: {said}\r\n".encode()
            done = await edgeice(operator, "shell", "--json", "cramped")
            assert (done.code, done.stderr) == (1, "")
            assert done.json() == {"error": said, "step": "service", "code": "limit"}
            done = await edgeice(operator, "exec", "cramped", "--", "sh", "-c", "exit 4")
            assert (done.code, done.stderr) == (4, "")
            await holder.type("exit 3\n")
            assert await holder.end() == 3
        again = await edgeice(operator, "shell", "cramped", stdin=b"exit 5\n")
        assert (again.code, again.stderr) == (5, "")


@pytest.mark.slow
async def test_without_a_terminal_the_input_is_the_script(fleet: Fleet) -> None:
    done = await edgeice(fleet.operator, "shell", "pi", stdin=b"echo $((40+2)); exit 6\n")
    assert done.code == 6
    assert b"42\r\n" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "status"),
    [(b"false\n", 1), (b"false", 1), (b"cat\nfalse\n", 0)],
    ids=["line", "no-newline", "a-command-reads-the-rest"],
)
async def test_the_end_of_input_ends_the_shell(fleet: Fleet, script: bytes, status: int) -> None:
    done = await edgeice(fleet.operator, "shell", "pi", stdin=script)
    assert done.code == status


@pytest.mark.parametrize(
    ("keys", "sent", "wish"),
    [
        (b"ls\r", b"ls\r", ""),
        (b"~.", b"", "disconnect"),
        (b"~?", b"", "help"),
        (b"\n~\x1a", b"\n", "suspend"),
        (b"ls\x1a", b"ls\x1a", ""),
        (b"~~", b"~", ""),
        (b"~x", b"~x", ""),
        (b"~", b"", ""),
        (b"a~.", b"a~.", ""),
        (b"\r~.", b"\r", "disconnect"),
        (b"\n~.more", b"\n", "disconnect"),
        (b"~~.", b"~.", ""),
        (b"~\r~.", b"~\r", "disconnect"),
        ("~ü".encode(), "~ü".encode(), ""),
    ],
)
def test_escapes_at_the_start_of_a_line(keys: bytes, sent: bytes, wish: str) -> None:
    assert EscapeFilter(on=True).feed(keys) == (sent, wish)
    one_by_one = EscapeFilter(on=True)
    results = []
    for index in range(len(keys)):
        results.append(one_by_one.feed(keys[index : index + 1]))
        if results[-1][1]:
            break
    assert (b"".join(data for data, _wish in results), results[-1][1]) == (sent, wish)


def test_help_does_not_swallow_what_follows() -> None:
    escapes = EscapeFilter(on=True)
    assert escapes.feed(b"~?ls\r") == (b"ls\r", "help")
    assert escapes.feed(b"~.") == (b"", "disconnect")


def test_escapes_are_off_without_a_terminal() -> None:
    assert EscapeFilter(on=False).feed(b"~.~?\n~.") == (b"~.~?\n~.", "")
