"""ssh, scp and rsync to a real sshd through `edgeice proxy`, as `edgeice ssh-config` sets it up."""

from __future__ import annotations

import hashlib
import random
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.agent.conftest import Fleet
from tests.agent.kit import AgentProcess, Device, edgeice, environment
from tests.support.brokers import free_port
from tests.support.sshd import SSHD, Sshd, sshd_sync

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SSHD is None or shutil.which("rsync") is None, reason="sshd or rsync is not installed"),
]

#: As `edgeice ssh-config` names the device pi17.
TARGET = "pi17.edgeice"


@pytest.fixture(scope="module")
def port() -> int:
    """Where sshd listens."""
    return free_port()


@pytest.fixture(scope="module")
def agent(fleet: Fleet, port: int) -> Iterator[AgentProcess]:
    """A device that lets alice to this sshd, and all that sessions ask for besides: what it refuses takes a second."""
    device = Device(fleet.folder / "pi17", fleet.url, "pi17")
    device.trust(fleet.operator, can=f"shell,exec,telemetry:*,forward:localhost:22,forward:localhost:{port}")
    fleet.operator.pin(device)
    with AgentProcess(device) as agent:
        agent.wait_log_sync("^announced ")
        yield agent


@pytest.fixture
def sshd(fleet: Fleet, agent: AgentProcess, port: int, tmp_path: Path) -> Iterator[Sshd]:
    with sshd_sync(tmp_path, environment(fleet.operator.folder), port) as running:
        yield running


async def run(sshd: Sshd, *command: str, stdin: bytes = b"") -> bytes:
    """Run a command that has to succeed, and give its output."""
    with trio.fail_after(60):
        done = await trio.run_process(
            command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False, env=sshd.environment
        )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_source(folder: Path, mib: int) -> Path:
    """A file of so many MiB, none like another."""
    source = folder / "source"
    dice = random.Random(5)
    with source.open("wb") as file:
        for _ in range(mib):
            file.write(dice.randbytes(1 << 20))
    return source


async def test_a_command_by_plain_ssh(sshd: Sshd) -> None:
    script = "cat; echo done; echo err >&2; exit 7"
    with trio.fail_after(60):
        done = await trio.run_process(
            ["ssh", *sshd.options, TARGET, script],
            stdin=b"input\n",
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=sshd.environment,
        )
    assert (done.returncode, done.stdout, done.stderr) == (7, b"input\ndone\n", b"err\n")


@pytest.mark.parametrize("mib", [8, pytest.param(100, marks=pytest.mark.long)])
async def test_scp_and_rsync_both_ways_with_equal_hashes(sshd: Sshd, tmp_path: Path, mib: int) -> None:
    """Each way to the device and from it; rsync compares with nothing that is there already."""
    source = make_source(tmp_path, mib)
    sent = digest(source)
    by_ssh = ("-e", shlex.join(["ssh", *sshd.options]))
    await run(sshd, "scp", *sshd.options, str(source), f"{TARGET}:{tmp_path}/scp-there")
    await run(sshd, "scp", *sshd.options, f"{TARGET}:{tmp_path}/scp-there", f"{tmp_path}/scp-back")
    await run(sshd, "rsync", *by_ssh, str(source), f"{TARGET}:{tmp_path}/rsync-there")
    await run(sshd, "rsync", *by_ssh, f"{TARGET}:{tmp_path}/rsync-there", f"{tmp_path}/rsync-back")
    arrived = {name: digest(tmp_path / name) for name in ("scp-there", "scp-back", "rsync-there", "rsync-back")}
    assert arrived == dict.fromkeys(arrived, sent)
    assert source.stat().st_size == mib << 20


async def test_ssh_scp_and_rsync_share_a_session(
    fleet: Fleet, agent: AgentProcess, sshd: Sshd, port: int, tmp_path: Path
) -> None:
    """The agent sees the one session that stays open, and no other, and nothing of them is left in it."""
    source = make_source(tmp_path, 2)
    want = f"forward:localhost:{port}"
    start = len(agent.log())
    opened = await edgeice(fleet.operator, "session", "--background", "--quiet", "--want", want, "pi17")
    assert (opened.code, opened.stderr) == (0, "")
    try:
        before = agent.descriptors()
        assert await run(sshd, "ssh", *sshd.options, TARGET, "echo here") == b"here\n"
        await run(sshd, "scp", *sshd.options, str(source), f"{TARGET}:{tmp_path}/there")
        await run(
            sshd, "rsync", "-e", shlex.join(["ssh", *sshd.options]), f"{TARGET}:{tmp_path}/there", f"{tmp_path}/back"
        )
        assert digest(tmp_path / "there") == digest(tmp_path / "back") == digest(source)
        log = agent.log()[start:]
        assert len(re.findall("^opened ", log, re.MULTILINE)) == 1
        (session,) = (await agent.status())["sessions"]
        assert want in session["want"]
        assert agent.descriptors() == before
    finally:
        stopped = await edgeice(fleet.operator, "session", "--stop", "pi17")
    assert stopped.code == 0
