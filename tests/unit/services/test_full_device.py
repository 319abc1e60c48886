"""A device that has no room for another process, or no terminals: in processes of their own, by the kernel's limits."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become a user that limits hold for"),
]

_BEGIN = """
import math, os, resource, subprocess, trio
from edgeice.services import EXEC_PROTOCOL, SHELL_PROTOCOL, ServiceError, open_exec, open_shell
from edgeice.services import process
from tests.support.device import Device, alive

async def outcome(opened):
    try:
        async with opened as process:
            while await process.read():
                pass
            return (await process.wait()).as_code()
    except ServiceError as error:
        return f"{error.code}: {error.reason}"

def shell(device):
    return open_shell(device.open(SHELL_PROTOCOL), "vt100", 80, 24)

def command(device, *argv):
    return open_exec(device.open(EXEC_PROTOCOL), argv)
"""

# Threads count as processes, and none runs yet: neither does one for what starts and ends processes.
_NO_PROCESS = """
async def main():
    os.setresuid(54321, 54321, 54321)
    stubborn = subprocess.Popen(
        ["sh", "-c", "trap '' TERM HUP; sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, start_new_session=True
    )
    child = stubborn.stdout.readline().decode()
    stubborn.stdout.close()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
    try:
        await trio.to_thread.run_sync(int)
    except RuntimeError as error:
        print(error)
    process._KILL_PATIENCE = math.inf  # it ends because they have, not because it waited for them long enough
    await process.end_session(stubborn.pid, 0.2)
    print(alive(str(stubborn.pid)), alive(child))
    stubborn.wait()
    async with trio.open_nursery() as nursery:
        device = Device(nursery)
        print(await outcome(command(device, "true")))
        print(await outcome(shell(device)))
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
        print(await outcome(command(device, "sh", "-c", "exit 3")))
        await device.idle()
        print(device.drops.snapshot())

trio.run(main)
"""

_NO_TERMINAL = """
async def main():
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            device = Device(nursery)
            async with shell(device) as first:
                print(await outcome(shell(device)))
                print(await outcome(command(device, "sh", "-c", "exit 3")))
                await first.write(b"exit 4\\n")
                while await first.read():
                    pass
                print((await first.wait()).as_code())
            await device.idle()
            async with shell(device) as again:
                await again.write(b"exit 5\\n")
                while await again.read():
                    pass
                print((await again.wait()).as_code())
            await device.idle()
            print(device.drops.snapshot())

trio.run(main)
"""


def run(script: str, *, prefix: tuple[str, ...] = ()) -> list[str]:
    """The lines that a script writes in a process of its own."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", _BEGIN + script],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


def test_a_process_too_many_is_limit_and_processes_still_end() -> None:
    assert run(_NO_PROCESS) == [
        "can't start new thread",
        "False False",
        "limit: the device has no room: Resource temporarily unavailable",
        "limit: the device has no room: Resource temporarily unavailable",
        "3",
        "{'channel-limit': 2}",
    ]


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")
def test_a_terminal_too_many_is_limit_and_the_others_go_on() -> None:
    """In a namespace of its own that has one terminal."""
    mount = "mount -t devpts -o newinstance,max=1,ptmxmode=0666 devpts /dev/pts"
    setup = f'{mount} && mount --bind /dev/pts/ptmx /dev/ptmx && exec "$@"'
    probe = subprocess.run(["unshare", "-m", "sh", "-c", setup, "sh", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no terminals of its own here: {probe.stderr.decode()}")
    assert run(_NO_TERMINAL, prefix=("unshare", "-m", "sh", "-c", setup, "sh")) == [
        "limit: all of the device's terminals are in use (kernel.pty.max, or max= of its devpts)",
        "3",
        "4",
        "5",
        "{'channel-limit': 1}",
    ]


_NO_DEVPTS = """
async def main():
    async with trio.open_nursery() as nursery:
        device = Device(nursery)
        print(await outcome(shell(device)))
        print(await outcome(command(device, "sh", "-c", "exit 3")))
        await device.idle()

trio.run(main)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")
def test_a_device_without_terminals_says_what_may_be_missing() -> None:
    setup = 'mount -t tmpfs none /dev/pts && mount --bind /dev/null /dev/ptmx && exec "$@"'
    probe = subprocess.run(["unshare", "-m", "sh", "-c", setup, "sh", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no /dev of its own here: {probe.stderr.decode()}")
    first, second = run(_NO_DEVPTS, prefix=("unshare", "-m", "sh", "-c", setup, "sh"))
    assert re.fullmatch(r"internal: no terminal can be had: .+ \(is devpts mounted\?\)", first)
    assert second == "3"
