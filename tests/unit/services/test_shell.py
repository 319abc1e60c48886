from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import trio
import trio.testing

from edgeice.services import SHELL_PROTOCOL, ErrorCode, ExitStatus, ServiceError, ShellClient, open_shell
from tests.support.channels import channel_pair, drain
from tests.support.device import Device, alive


class Screen:
    """Reads a shell's output up to patterns, keeping what follows a match for the next one."""

    def __init__(self, shell: ShellClient) -> None:
        self._shell = shell
        self._out = ""

    async def until(self, pattern: str) -> str:
        """Read until the output matches; returns the first group."""
        while (match := re.search(pattern, self._out)) is None:
            data = await self._shell.read()
            assert data, self._out
            self._out += data.decode()
        self._out = self._out[match.end() :]
        return match[1] if match.re.groups else match[0]


async def read_all(shell: ShellClient) -> bytes:
    """All output up to the shell's end."""
    output = b""
    while data := await shell.read():
        output += data
    return output


async def test_a_login_shell_on_a_terminal_of_the_asked_size(device: Device, home: Path) -> None:
    (home / ".profile").write_text("LOGIN=yes\n")
    with trio.fail_after(5):
        async with open_shell(device.open(SHELL_PROTOCOL), "xterm-256color", 132, 43) as shell:
            assert shell.user == "tester"
            await shell.write(b'echo "<$0|$LOGIN|$TERM|$PWD|$(stty size)|$(tty)>"\n')
            said = await Screen(shell).until(r"\r\n(?:.*)<(.*)>\r\n")
            name, login, term, where, size, tty = said.split("|")
            assert (name, login, term, where, size) == ("-sh", "yes", "xterm-256color", str(home), "43 132")
            assert tty.startswith("/dev/pts/")
            await shell.write(b"exit 7\n")
            while await shell.read():
                pass
            assert await shell.wait() == ExitStatus(code=7)


async def test_the_terminal_controls_the_session_and_knows_utf8(device: Device) -> None:
    with trio.fail_after(5):
        async with open_shell(device.open(SHELL_PROTOCOL), "vt100", 80, 24) as shell:
            screen = Screen(shell)
            await shell.write(b"stty -a </dev/tty; ps -o tty= -p $$\n")
            assert await screen.until(r"[^-]\biutf8\b")
            assert await screen.until(r"\r\n(pts/\d+)")


async def test_resize_is_seen_and_signaled(device: Device) -> None:
    with trio.fail_after(5):
        async with open_shell(device.open(SHELL_PROTOCOL), "vt100", 80, 24) as shell:
            screen = Screen(shell)
            await shell.write(b"sh -c 'trap \"stty size\" WINCH; echo u''p; while :; do sleep 0.01; done'\n")
            await screen.until(r"\bup\r\n")
            await shell.resize(101, 51)
            await screen.until(r"\b51 101\r\n")


@pytest.mark.parametrize("how", ["signal", "keystroke"])
async def test_interrupting_what_is_in_the_foreground_leaves_the_shell(device: Device, how: str) -> None:
    with trio.fail_after(5):
        async with open_shell(device.open(SHELL_PROTOCOL), "vt100", 80, 24) as shell:
            screen = Screen(shell)
            await shell.write(b"sh -c 'echo u''p; exec sleep 60'; echo \"st=$?\"\n")
            await screen.until(r"\bup\r\n")
            if how == "signal":
                await shell.signal("INT")
            else:
                await shell.write(b"\3")
            # An interrupted list ends, and the next prompt's command sees the status.
            await shell.write(b'echo "st=$?"\n')
            await screen.until(r"st=130\r\n")
            await shell.write(b"exit 3\n")
            assert await shell.wait() == ExitStatus(code=3)


async def test_a_killed_shell_exits_with_128_plus_n(device: Device) -> None:
    with trio.fail_after(5):
        async with open_shell(device.open(SHELL_PROTOCOL), "vt100", 80, 24) as shell:
            await shell.write(b"kill -KILL $$\n")
            assert await shell.wait() == ExitStatus(code=137)


async def test_a_terminal_that_is_not_read_stops_its_process_and_not_its_neighbor(device: Device) -> None:
    with trio.fail_after(10):
        stalled = device.open(SHELL_PROTOCOL, log=True)
        async with (
            open_shell(stalled, "vt100", 80, 24) as flood,
            open_shell(device.open(SHELL_PROTOCOL), "vt100", 80, 24) as other,
        ):
            await flood.write(b"yes\n")
            while flood._link.receiving.available > 0:  # noqa: ASYNC110  # the amount has no event
                await trio.sleep(0.001)
            assert flood._inbox.size == 256 * 1024
            await other.write(b"echo u''p\n")
            await Screen(other).until(r"\bup\r\n")
            await flood.write(b"\3")  # is taken although nothing is read
            await flood.write(b"exit 5\n")
            while await flood.read():
                assert flood._inbox.size <= 256 * 1024
            assert await flood.wait() == ExitStatus(code=5)


async def test_background_jobs_end_with_the_session(device: Device, home: Path) -> None:
    with trio.fail_after(5):
        async with open_shell(device.open(SHELL_PROTOCOL), "vt100", 80, 24) as shell:
            await shell.write(b'set -m; nohup sleep 60 & echo "pid=$!"\n')
            pid = await Screen(shell).until(r"pid=(\d+)\r\n")
            await shell.write(b"exit\n")
            assert await shell.wait() == ExitStatus(code=0)
        await device.idle()
    assert not alive(pid)


async def test_losing_the_channel_hangs_up(device: Device) -> None:
    channel = device.open(SHELL_PROTOCOL)
    with trio.fail_after(5):
        async with open_shell(channel, "vt100", 80, 24) as shell:
            channel.break_session()
            with pytest.raises(trio.BrokenResourceError):
                await shell.wait()
        await device.idle()
    assert device.drops.snapshot() == {}


OPEN = '{"open":{"term":"vt100","cols":80,"rows":24}}'


@pytest.mark.parametrize(
    "messages",
    [
        ['{"open":{"term":"vt100","cols":80}}'],
        ['{"open":{"term":"../../x","cols":80,"rows":24}}'],
        ['{"open":{"term":"vt100","cols":65536,"rows":24}}'],
        ['{"open":{"term":"vt100","cols":80.0,"rows":24}}'],
        ['{"open":{"term":"vt100","cols":-1,"rows":24}}'],
        [OPEN, '{"resize":[80]}'],
        [OPEN, '{"resize":[80,24,1]}'],
        [OPEN, '{"resize":{"cols":80}}'],
        [OPEN, '{"signal":["INT"]}'],
        [OPEN, '{"eof":true}'],
        [OPEN, '{"resize":[80,24],"signal":"INT"}'],
    ],
)
async def test_malformed_control(device: Device, messages: list[str]) -> None:
    channel = device.open(SHELL_PROTOCOL)
    for message in messages:
        await channel.send(message)
    last = (await drain(channel))[-1]
    assert isinstance(last, str)
    assert json.loads(last)["error"]["code"] == "malformed"
    await device.idle()


async def test_unknown_members_are_ignored(device: Device) -> None:
    channel = device.open(SHELL_PROTOCOL)
    await channel.send('{"open":{"term":"vt100","cols":0,"rows":0,"later":1},"later":2}')
    assert await channel.receive() == '{"opened":{"user":"tester"}}'


async def test_a_channel_that_is_not_opened_for_anything_times_out(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    started_at = trio.current_time()
    channel = Device(nursery).open(SHELL_PROTOCOL)
    message = await channel.receive()
    assert isinstance(message, str)
    assert json.loads(message)["error"]["code"] == "timeout"
    assert trio.current_time() - started_at == pytest.approx(10)


async def test_a_refusal_is_raised_by_entering(nursery: trio.Nursery) -> None:
    near, far = channel_pair(SHELL_PROTOCOL)
    await far.send('{"error":{"code":"unauthorized","reason":"no shell for you"}}')
    await far.aclose()
    with pytest.raises(ServiceError, match="no shell for you") as caught:
        async with open_shell(near, "vt100", 80, 24):
            pytest.fail("entered")
    assert caught.value.code is ErrorCode.UNAUTHORIZED


@pytest.mark.slow
async def test_two_hundred_shells_that_are_cut_off_leave_nothing(device: Device) -> None:
    """The check for leaks of every test here is what this is for."""
    with trio.fail_after(30):
        for number in range(200):
            channel = device.open(SHELL_PROTOCOL)
            await channel.send(OPEN)
            while isinstance(await channel.receive(), str):
                pass
            await channel.send(b"sleep 99 & yes\n")
            if number % 2:
                channel.break_session()
            else:
                await channel.aclose()
            await device.idle()
