"""Shells that go on without their session: `edgeice shell --keep`, `--attach` and `--list`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

from edgeice.cli.shell import EscapeFilter
from tests.agent.conftest import Fleet
from tests.agent.kit import AgentProcess, Device, Operator, edgeice
from tests.agent.terminal import on_terminal
from tests.support.device import alive

pytestmark = pytest.mark.slow


async def test_a_shell_is_left_and_come_back_to(fleet: Fleet) -> None:
    start = len(fleet.agent.log())
    async with on_terminal(fleet.operator, "shell", "--keep", "pi") as terminal:
        await terminal.type("PS1=; answer=42; echo rea''dy\n")
        await terminal.expect("ready\r")
        await terminal.type("\r~?")
        await terminal.expect("~d   leave the shell running")
        await terminal.type("\r~d")
        assert await terminal.end() == 0
    come_back = "edgeice: shell 1 on pi is left running; come back with: edgeice shell --attach=1 pi\r\n"
    assert come_back in terminal.screen.decode()
    listed = await edgeice(fleet.operator, "shell", "--list", "pi")
    assert (listed.code, listed.stderr) == (0, "")
    header, line = listed.stdout.decode().splitlines()
    assert header.split() == ["NAME", "RUNNING", "BEGUN", "LEFT"]
    assert re.fullmatch(r"1  +\S+  +\d+ s ago  +\d+ s ago", line)
    (entry,) = (await edgeice(fleet.operator, "shell", "--list", "--json", "pi")).json()
    assert entry["name"] == "1"
    assert entry["left"] is not None
    status = await fleet.agent.status()
    assert [(each["operator"], each["shell"], each["attached"]) for each in status["kept_shells"]] == [
        ("alice", "1", False)
    ]
    async with on_terminal(fleet.operator, "shell", "--attach", "pi", columns=99) as terminal:
        await terminal.expect("ready\r")  # what was shown before
        await terminal.type('echo "<$answer $(stty size)>"; exit 9\n')
        await terminal.expect("<42 24 99>")
        assert await terminal.end() == 9
    gone = await edgeice(fleet.operator, "shell", "--attach", "pi")
    assert (gone.code, gone.stderr.splitlines()) == (
        1,
        ["edgeice: not-found: no shell of yours is kept here; `edgeice shell --keep` begins one"],
    )
    empty = await edgeice(fleet.operator, "shell", "--list", "pi")
    assert empty.stdout == b"no shell of yours is kept on pi; `edgeice shell --keep pi` begins one\n"
    log = fleet.agent.log()[start:]
    events = re.findall("^(shell-[a-z]+) operator=alice shell=1(?: why=(.*))?$", log, re.MULTILINE)
    assert [event for event, _why in events] == [
        "shell-kept", "shell-attached", "shell-detached", "shell-attached", "shell-ended",
    ]  # fmt: skip
    assert events[-1][1] == '"exit 9"'


async def test_it_outlives_its_operators_process_and_ends_with_trust_and_with_the_agent(
    fleet: Fleet, tmp_path: Path
) -> None:
    device, operator = Device(tmp_path / "pi", fleet.url, "keeper"), Operator(tmp_path / "alice", fleet.url)
    bob = Operator(tmp_path / "bob", fleet.url, "bob")
    for each in (operator, bob):
        device.trust(each)
        each.pin(device)
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        async with on_terminal(operator, "shell", "--keep", "keeper") as terminal:
            await terminal.type('PS1=; echo "pid=$$."\n')
            pid = (await terminal.expect(r"pid=(\d+)\."))[1].decode()
            terminal.process.kill()  # no goodbye
            with trio.fail_after(5):
                await terminal.process.wait()
        his = tmp_path / "his"
        script = f"trap '' HUP TERM; echo $$ > {his}.new; mv {his}.new {his}\n"
        begun = await edgeice(bob, "shell", "--keep", "--json", "keeper", stdin=script.encode())
        assert begun.code == 0  # the end of its input leaves it
        assert begun.json() == {"exit": None, "exit_signal": None, "disconnected": False, "kept": "1"}
        # Taken over, although the device does not know yet that the session is dead.
        async with on_terminal(operator, "shell", "--attach=1", "keeper") as terminal:
            await terminal.type('echo "again=$$."\n')
            assert (await terminal.expect(r"again=(\d+)\."))[1].decode() == pid
            start = len(agent.log())
            trusted = device.folder / "authorized_operators"
            trusted.write_text("".join(line for line in trusted.read_text().splitlines(True) if '"bob"' in line))
            agent.hang_up()
            assert await terminal.end() in (1, 3)
        ended = await agent.wait_log(r"^shell-ended operator=alice shell=1 why=(.*)$", start=start)
        assert ended[1] == '"its operator may not use it any more"'
        with trio.fail_after(10):
            while alive(pid):  # noqa: ASYNC110  # another's child
                await trio.sleep(0.02)
        kept = (await agent.status())["kept_shells"]
        assert [each["operator"] for each in kept] == ["bob"]
        with trio.fail_after(10):
            while not his.exists():  # noqa: ASYNC110  # a process's file has no event
                await trio.sleep(0.02)
        agent.terminate()
        assert await agent.wait_exit() == 0
        assert not alive(his.read_text())  # however stubborn
        assert 'shell-ended operator=bob shell=1 why="the agent stops"' in agent.log()


async def test_what_excludes_each_other(fleet: Fleet) -> None:
    done = await edgeice(fleet.operator, "shell", "--keep", "--attach", "pi")
    assert done.code == 2
    assert "--keep, --attach and --list exclude each other" in done.stderr


@pytest.mark.parametrize(
    ("keys", "sent", "wish"),
    [(b"~d", b"", "detach"), (b"ls\r~d", b"ls\r", "detach"), (b"a~d", b"a~d", ""), (b"~~d", b"~d", "")],
)
def test_the_escape_of_a_kept_shell(keys: bytes, sent: bytes, wish: str) -> None:
    assert EscapeFilter(on=True, kept=True).feed(keys) == (sent, wish)
    assert EscapeFilter(on=True).feed(b"~d") == (b"~d", "")
    assert EscapeFilter(on=False, kept=True).feed(keys) == (keys, "")
