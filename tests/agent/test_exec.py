"""`edgeice exec` end to end."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from subprocess import PIPE

import pytest
import trio
import trio.testing

from edgeice.cli.stdio import write_output
from tests.agent.conftest import Fleet
from tests.agent.kit import PATIENCE, edgeice, environment
from tests.support.device import alive

pytestmark = pytest.mark.slow


async def test_output_and_errors_apart_and_the_exit_status(fleet: Fleet) -> None:
    script = "echo out; echo err >&2; exit 7"
    done = await edgeice(fleet.operator, "exec", "pi", "--", "sh", "-c", script)
    assert (done.stdout, done.stderr, done.code) == (b"out\n", "err\n", 7)


async def test_input_reaches_the_command_and_ends(fleet: Fleet) -> None:
    done = await edgeice(fleet.operator, "exec", "pi", "--", "cat", stdin=b"hello\n")
    assert (done.stdout, done.stderr, done.code) == (b"hello\n", "", 0)


async def test_one_mebibyte_each_way_unchanged(fleet: Fleet) -> None:
    data = random.Random(2).randbytes(1 << 20)
    done = await edgeice(fleet.operator, "exec", "pi", "--", "cat", stdin=data, patience=40)
    assert (done.code, done.stderr) == (0, "")
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


async def test_a_command_that_does_not_read_its_input(fleet: Fleet) -> None:
    done = await edgeice(fleet.operator, "exec", "pi", "--", "true", stdin=b"x" * (1 << 20))
    assert (done.stdout, done.stderr, done.code) == (b"", "", 0)


@pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("KILL", 9), ("SEGV", 11)])
async def test_death_by_a_signal_is_128_more(fleet: Fleet, name: str, number: int) -> None:
    done = await edgeice(fleet.operator, "exec", "pi", "--", "sh", "-c", f"kill -{name} $$")
    assert (done.code, done.stderr) == (128 + number, "")


async def test_json_holds_output_and_status(fleet: Fleet) -> None:
    done = await edgeice(fleet.operator, "exec", "--json", "pi", "--", "sh", "-c", "echo a; echo b >&2; exit 3")
    assert (done.code, done.stderr) == (3, "")
    assert done.json() == {"exit": 3, "exit_signal": None, "stdout": "a\n", "stderr": "b\n"}


async def test_json_names_the_signal(fleet: Fleet) -> None:
    done = await edgeice(fleet.operator, "exec", "--json", "pi", "--", "sh", "-c", "kill -TERM $$")
    assert done.code == 143
    assert done.json() == {"exit": None, "exit_signal": "TERM", "stdout": "", "stderr": ""}


async def test_options_after_the_dashes_belong_to_the_command(fleet: Fleet) -> None:
    done = await edgeice(fleet.operator, "exec", "pi", "--", "echo", "--json", "-q", "--timeout")
    assert (done.stdout, done.code) == (b"--json -q --timeout\n", 0)


async def test_a_command_that_is_not_there(fleet: Fleet) -> None:
    done = await edgeice(fleet.operator, "exec", "pi", "--", "no-such-command-anywhere")
    assert (done.code, done.stdout) == (127, b"")
    assert done.stderr == "edgeice: not-found: no such command\n"


async def test_a_command_that_cannot_be_run(fleet: Fleet) -> None:
    done = await edgeice(fleet.operator, "exec", "--json", "pi", "--", "/etc/passwd", stdin=b"x")
    assert (done.code, done.stderr) == (126, "")
    said = "refused: the command cannot be run: Permission denied"
    assert done.json() == {"error": said, "step": "service", "code": "refused"}


async def test_output_that_nobody_reads_any_more(fleet: Fleet) -> None:
    command = [sys.executable, "-m", "edgeice.cli.main", "exec", "pi", "--", "yes"]
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stdout=PIPE, stderr=PIPE, env=environment(fleet.operator.folder)
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with process.stdout, process.stderr:
            assert (await process.stdout.receive_some(2)) == b"y\n"
            await process.stdout.aclose()
            assert await process.wait() == 1
            assert await process.stderr.receive_some() == b""


async def test_interrupt_ends_the_command_on_the_device(fleet: Fleet) -> None:
    start = len(fleet.agent.log())
    command = [sys.executable, "-m", "edgeice.cli.main", "exec", "pi", "--", "sh", "-c", "echo begun; exec sleep 60"]
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stdout=PIPE, stderr=PIPE, env=environment(fleet.operator.folder)
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with process.stdout, process.stderr:
            assert (await process.stdout.receive_some()) == b"begun\n"
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
            assert await process.stderr.receive_some() == b""
    await fleet.agent.wait_log("^ended ", start=start, patience=5)
    assert (await fleet.agent.status())["sessions"] == []


async def test_a_command_that_ignores_signals_is_ended_all_the_same_and_the_operator_is_told(fleet: Fleet) -> None:
    """Once by waiting, once by a second signal; at the same time, because both take the seconds that it is given."""
    ended: list[tuple[int, bytes]] = []
    pids: list[str] = []

    async def end(*numbers: signal.Signals) -> None:
        script = "trap 'echo on' INT; trap '' TERM HUP; echo $$; while :; do sleep 0.1; done"
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "edgeice.cli.main", "exec", "pi", "--", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env=environment(fleet.operator.folder),
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with process.stdout, process.stderr:
            pids.append((await process.stdout.receive_some()).decode())
            process.send_signal(numbers[0])
            for number in numbers[1:]:
                assert await process.stdout.receive_some() == b"on\n"
                process.send_signal(number)
            said = b"".join([chunk async for chunk in process.stderr])
            ended.append((await process.wait(), said))

    start = len(fleet.agent.log())
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end, signal.SIGTERM)
            nursery.start_soon(end, signal.SIGINT, signal.SIGINT)
        for _ in range(2):
            found = await fleet.agent.wait_log("^ended ", start=start, patience=5)
            start = found.end()
    assert sorted(ended) == [
        (130, b"edgeice: left; pi gives the command 3 s to end, then kills it\n"),
        (137, b"edgeice: the command goes on 3 s after SIGTERM: sending SIGKILL\n"),
    ]
    assert not any(alive(pid) for pid in pids)


async def test_output_waits_without_holding_up_the_session(capfd: pytest.CaptureFixture[str]) -> None:
    ours, theirs = os.pipe()
    saved = os.dup(1)
    os.dup2(theirs, 1)
    try:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_output, b"x" * 200_000)
                await trio.testing.wait_all_tasks_blocked()
                reader = trio.lowlevel.FdStream(os.dup(ours))
                async with reader:
                    count = 0
                    while count < 200_000:
                        count += len(await reader.receive_some())
    finally:
        os.dup2(saved, 1)
        for descriptor in (saved, ours, theirs):
            os.close(descriptor)
    assert count == 200_000


async def test_a_session_ends_on_the_device_as_soon_as_the_command_does(fleet: Fleet) -> None:
    start = len(fleet.agent.log())
    done = await edgeice(fleet.operator, "exec", "pi", "--", "true")
    assert done.code == 0
    await fleet.agent.wait_log("^ended ", start=start, patience=5)
    assert (await fleet.agent.status())["sessions"] == []
