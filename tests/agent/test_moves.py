"""A device loses the address that a session uses and has another: what each command, the log and the trace say."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest
import trio

from tests.agent.conftest import Fleet
from tests.agent.kit import PATIENCE, AgentProcess, Device, Operator, edgeice, environment, next_line
from tests.agent.terminal import on_terminal

pytestmark = pytest.mark.slow

ONE, TWO = "127.0.0.1", "127.0.0.2"
PAIR = r"host 127\.0\.0\.1:\d+ -> host 127\.0\.0\.[12]:\d+"
#: Seconds until backups are valid after a session is up, with time to spare.
SETTLED = 1.5
SAID = rf"path: direct -> direct, [\d.]+ ms; pause of at most [\d.]+ ms, the device moved; {PAIR}"


class Moving:
    """A device with two addresses, and what takes one away."""

    def __init__(self, agent: AgentProcess, operator: Operator) -> None:
        self.agent, self.operator = agent, operator
        self._config = agent.device.config

    async def have(self, *addresses: str) -> None:
        """Give it these addresses."""
        text = self._config.read_text()
        self._config.write_text(re.sub(r"loopback = .*", f"loopback = {json.dumps(addresses)}", text))
        self.agent.hang_up()

    async def move(self) -> None:
        """Take away the one that the newest session uses."""
        (session,) = (await self.agent.status())["sessions"]
        used = session["path"].split()[1].partition(":")[0]
        await self.have(TWO if used == ONE else ONE)

    @asynccontextmanager
    async def command(self, *arguments: str, errors: int = STDOUT) -> AsyncIterator[trio.Process]:
        """A command of `edgeice` that runs while the device moves."""
        async with trio.open_nursery() as nursery:
            start = partial(
                trio.run_process,
                [sys.executable, "-m", "edgeice.cli.main", *arguments],
                stdout=PIPE,
                stderr=errors,
                check=False,
                env=environment(self.operator.folder),
            )
            yield await nursery.start(start)
            nursery.cancel_scope.cancel()


async def read_until(process: trio.Process, pattern: str) -> str:
    assert process.stdout is not None
    said = ""
    with trio.move_on_after(PATIENCE):
        while not re.search(pattern, said):
            data = await process.stdout.receive_some()
            assert data, f"it ended without {pattern!r}: {said}"
            said += data.decode()
        return said
    raise AssertionError(f"no {pattern!r} in {said}")


@pytest.fixture
def moving(fleet: Fleet, tmp_path: Path) -> Iterator[Moving]:
    device, operator = Device(tmp_path / "pi", fleet.url, "mover"), Operator(tmp_path / "alice", fleet.url)
    device.trust(operator, "shell,exec,forward:localhost:*")
    operator.pin(device)
    text = device.config.read_text()
    device.config.write_text(text.replace(f'["{ONE}"]', f'["{ONE}", "{TWO}"]'))
    with AgentProcess(device) as agent:
        agent.wait_log_sync("^announced ")
        yield Moving(agent, operator)


async def test_ping_says_each_move_and_the_log_has_cause_and_pause(moving: Moving) -> None:
    async with moving.command("ping", "-i", "0.05", "mover") as ping:
        await read_until(ping, "seq=5")
        await trio.sleep(SETTLED)
        await moving.move()
        assert re.search(SAID, await read_until(ping, "seq=[0-9]+ .*(?s:.*)path: direct.*\n"))
    logged = await moving.agent.wait_log(r"^path .*cause=base_gone .*$")
    assert re.search(
        r'path="host 127\.0\.0\.[12]:\d+ -> host 127\.0\.0\.1:\d+" was=direct way=direct'
        r" cause=base_gone pause_ms=[\d.]+ rtt_ms=[\d.]+",
        logged[0],
    ), logged[0]


async def test_ping_says_it_to_programs(moving: Moving, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    async with moving.command("ping", "-i", "0.05", "--json", "--trace", str(trace), "mover") as ping:
        for _ in range(5):
            await next_line(ping)
        await trio.sleep(SETTLED)
        await moving.move()
        with trio.fail_after(PATIENCE):
            while "move" not in (line := await next_line(ping)):
                pass
    move = line["move"]
    assert isinstance(move, dict)
    assert (move["from"], move["to"], move["cause"]) == ("direct", "direct", "peer_moved")
    assert re.fullmatch(PAIR, move["path"])
    assert 0 < move["pause_ms"] < 2000
    assert move["rtt_ms"] > 0
    story = [json.loads(each) for each in trace.read_text().splitlines()]
    # The machines' own record, and what was said of it.
    told = [each for each in story if "pause_ms" in each and each["cause"] == "peer_moved"]
    assert [(each["layer"], each["pause_ms"]) for each in told] == [
        ("peer", move["pause_ms"]),
        ("session", move["pause_ms"]),
    ]


async def test_a_kept_session_says_it_and_so_do_those_who_share_it(moving: Moving) -> None:
    async with moving.command("session", "mover") as session:
        await read_until(session, "is open for")
        async with moving.command("ping", "-i", "0.05", "mover") as ping:
            await read_until(ping, "seq=5")
            await trio.sleep(SETTLED)
            await moving.move()
            assert re.search(SAID, await read_until(ping, "path: direct.*\n"))
            assert re.search(f"edgeice: {SAID}", await read_until(session, "path: direct.*\n"))


async def test_a_forward_says_it(moving: Moving) -> None:
    async with moving.command("forward", "--json", "mover", "0:localhost:80", errors=2) as forward:
        assert (await next_line(forward))["event"] == "listening"
        await trio.sleep(SETTLED)
        await moving.move()
        while (line := await next_line(forward))["event"] != "move":
            pass
        assert line["cause"] == "peer_moved"


@pytest.mark.parametrize("option", ["--show-path", "--no-share"])
async def test_a_shell_shows_it_only_where_that_is_wished_for(moving: Moving, option: str) -> None:
    async with on_terminal(moving.operator, "shell", option, "mover") as terminal:
        await terminal.type("PS1=; echo rea''dy\n")
        await terminal.expect("ready\r")
        await trio.sleep(SETTLED)
        await moving.move()
        await moving.agent.wait_log(r"^path .*cause=base_gone ")
        shown = r"\x1b\[2m\[direct -> direct, [\d.]+ ms\]\x1b\[m\r\n|\x1b\]2;\[direct -> direct, [\d.]+ ms\]\x1b\\"
        if option == "--show-path":
            await terminal.expect(shown)
        await terminal.type("echo go''ne on; exit 5\n")
        if option != "--show-path":
            await terminal.expect("gone on\r")
            assert b"direct" not in terminal.screen
        assert await terminal.end() == 5


async def test_patience_has_its_bounds(moving: Moving) -> None:
    done = await edgeice(moving.operator, "ping", "--patience", "0.5", "mover")
    assert done.code == 2
    assert "0.5 is not in the range 1<=x<=86400" in done.stderr
