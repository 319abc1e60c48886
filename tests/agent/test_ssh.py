"""ssh, scp and rsync to a real sshd through `edgeice proxy`, as `edgeice ssh-config` sets it up."""

from __future__ import annotations

import getpass
import hashlib
import os
import random
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE

import attrs
import pytest
import trio

from tests.agent.conftest import Fleet
from tests.agent.kit import AgentProcess, Device, environment
from tests.support.brokers import free_port

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SSHD is None or shutil.which("rsync") is None, reason="sshd or rsync is not installed"),
]

#: Bytes that are copied; by hand it was 100 MiB.
SIZE = 8 << 20


@attrs.frozen
class Ssh:
    """How to reach an sshd by a device."""

    options: list[str]
    environment: dict[str, str]

    async def run(self, *command: str, stdin: bytes = b"") -> bytes:
        """Run a command that has to succeed, and give its output."""
        with trio.fail_after(60):
            done = await trio.run_process(
                command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False, env=self.environment
            )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


@pytest.fixture(scope="module")
def port() -> int:
    """Where sshd listens."""
    with suppress(PermissionError):
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it where it separates privileges
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
async def ssh(fleet: Fleet, gate: Device, port: int, tmp_path: Path, nursery: trio.Nursery) -> Ssh:
    """An sshd of our own, with keys of its own, and what its clients need."""
    for name in ("host", "user"):
        await trio.run_process(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)])
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
    )
    assert SSHD is not None
    sshd = await trio.lowlevel.open_process([SSHD, "-D", "-e", "-f", str(config)], stdin=DEVNULL, stderr=PIPE)
    assert sshd.stderr is not None
    said = b""
    with trio.fail_after(10):
        while b"listening on" not in said:
            data = await sshd.stderr.receive_some()
            assert data, said
            said += data
    nursery.start_soon(_keep, sshd)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    # What an installation puts there; the package under test is not always installed.
    own = bin_folder / "edgeice"
    own.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m edgeice.cli.main "$@"\n')
    own.chmod(0o755)
    values = environment(fleet.operator.folder)
    values["PATH"] = f"{bin_folder}:{values['PATH']}"
    block = await trio.run_process(
        [str(own), "ssh-config", "--user", getpass.getuser()], capture_stdout=True, env=values
    )
    client = tmp_path / "ssh_config"
    client.write_bytes(
        block.stdout
        + f"    Port {port}\n    IdentityFile {tmp_path}/user\n    BatchMode yes\n"
        f"    UserKnownHostsFile {tmp_path}/known\n    StrictHostKeyChecking accept-new\n    LogLevel ERROR\n".encode()
    )
    return Ssh(["-F", str(client)], values)


async def _keep(sshd: trio.Process) -> None:
    assert sshd.stderr is not None
    try:
        async with sshd.stderr:
            async for _line in sshd.stderr:
                pass
    finally:
        sshd.kill()
        with trio.CancelScope(shield=True):
            await sshd.wait()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_ssh_scp_and_rsync(ssh: Ssh, tmp_path: Path) -> None:
    target = "sshgate.edgeice"
    assert await ssh.run("ssh", *ssh.options, target, "cat; echo done", stdin=b"input\n") == b"input\ndone\n"
    source = tmp_path / "source"
    source.write_bytes(random.Random(5).randbytes(SIZE))
    await ssh.run("scp", *ssh.options, str(source), f"{target}:{tmp_path}/there")
    await ssh.run("scp", *ssh.options, f"{target}:{tmp_path}/there", str(tmp_path / "back"))
    assert digest(tmp_path / "there") == digest(tmp_path / "back") == digest(source)
    await ssh.run("rsync", "-e", shlex.join(["ssh", *ssh.options]), str(source), f"{target}:{tmp_path}/synced")
    assert digest(tmp_path / "synced") == digest(source)
