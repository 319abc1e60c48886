"""ssh, scp and rsync to a real sshd through `edgeice proxy`, as `edgeice ssh-config` sets it up."""

from __future__ import annotations

import hashlib
import random
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.agent.conftest import Fleet
from tests.agent.kit import AgentProcess, Device, environment
from tests.support.brokers import free_port
from tests.support.sshd import SSHD, Sshd, sshd_sync

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SSHD is None or shutil.which("rsync") is None, reason="sshd or rsync is not installed"),
]

#: Bytes that are copied; by hand it was 100 MiB.
SIZE = 8 << 20


@pytest.fixture(scope="module")
def port() -> int:
    """Where sshd listens."""
    return free_port()


@pytest.fixture(scope="module")
def gate(fleet: Fleet, port: int) -> Iterator[Device]:
    """A device that lets alice to this sshd and nowhere else."""
    device = Device(fleet.folder / "sshgate", fleet.url, "sshgate")
    device.trust(fleet.operator, can=f"forward:localhost:{port}")
    fleet.operator.pin(device)
    with AgentProcess(device) as agent:
        agent.wait_log_sync("^announced ")
        yield device


@pytest.fixture
def sshd(fleet: Fleet, gate: Device, port: int, tmp_path: Path) -> Iterator[Sshd]:
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
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_ssh_scp_and_rsync(sshd: Sshd, tmp_path: Path) -> None:
    target = "sshgate.edgeice"
    assert await run(sshd, "ssh", *sshd.options, target, "cat; echo done", stdin=b"input\n") == b"input\ndone\n"
    source = tmp_path / "source"
    source.write_bytes(random.Random(5).randbytes(SIZE))
    await run(sshd, "scp", *sshd.options, str(source), f"{target}:{tmp_path}/there")
    await run(sshd, "scp", *sshd.options, f"{target}:{tmp_path}/there", str(tmp_path / "back"))
    assert digest(tmp_path / "there") == digest(tmp_path / "back") == digest(source)
    await run(sshd, "rsync", "-e", shlex.join(["ssh", *sshd.options]), str(source), f"{target}:{tmp_path}/synced")
    assert digest(tmp_path / "synced") == digest(source)
