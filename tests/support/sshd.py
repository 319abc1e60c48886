"""An OpenSSH server on loopback with keys of its own, and the client's options and commands that reach it by a device.

```python
with sshd_sync(tmp_path, operator_environment) as server:
    subprocess.run(["scp", *server.options, "file", f"pi17.edgeice:{tmp_path}/there"], env=server.environment)
```
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from tests.support.brokers import free_port

__all__ = ["SSHD", "Sshd", "sshd_sync"]

#: The server's program, None where it is not installed.
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
_READY_LINES = 10


@attrs.frozen
class Sshd:
    """A running sshd, and how its clients reach it."""

    #: Options of ssh and scp that make `HOST.edgeice` this server, by the device HOST, and `direct` this server itself.
    options: list[str]
    #: The clients' environment: `edgeice` is in PATH and belongs to the operator.
    environment: Mapping[str, str]


@contextmanager
def sshd_sync(
    folder: Path,
    operator: Mapping[str, str],
    port: int | None = None,
    *,
    place: Callable[..., list[str]] = lambda *command: list(command),
) -> Iterator[Sshd]:
    """A running sshd on 127.0.0.1.

    Args:
        folder: Where its files are.
        operator: The environment of the operator's commands.
        port: Where it listens; a free one by default.
        place: Gives the command line that runs a command on the server's host; here, if it is not given.
    """
    assert SSHD is not None, "sshd is not installed"
    with suppress(PermissionError):
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it where it separates privileges
    port = port or free_port()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
    )
    environment = {**operator, "PATH": f"{_with_edgeice(folder)}:{operator['PATH']}"}
    client = _client_config(folder, port, environment)
    with subprocess.Popen(
        place(SSHD, "-D", "-e", "-f", str(config)), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            said = [process.stderr.readline()]
            while "listening on" not in said[-1]:
                assert said[-1], f"sshd ended:\n{''.join(said)}"
                assert len(said) < _READY_LINES, f"sshd does not listen:\n{''.join(said)}"
                said.append(process.stderr.readline())
            yield Sshd(["-F", str(client)], environment)
        finally:
            process.kill()


def _with_edgeice(folder: Path) -> Path:
    """A folder with the command as an installation has it; the package under test is not always installed."""
    programs = folder / "bin"
    programs.mkdir()
    own = programs / "edgeice"
    own.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m edgeice.cli.main "$@"\n')
    own.chmod(0o755)
    return programs


def _client_config(folder: Path, port: int, environment: Mapping[str, str]) -> Path:
    user = getpass.getuser()
    block = subprocess.run(
        ["edgeice", "ssh-config", "--user", user], stdout=subprocess.PIPE, text=True, check=True, env=environment
    ).stdout
    client = folder / "ssh_config"
    client.write_text(
        f"Host direct\n    HostName 127.0.0.1\n    User {user}\n{block}"
        f"Host *\n    Port {port}\n    IdentityFile {folder}/user\n    BatchMode yes\n"
        f"    UserKnownHostsFile {folder}/known\n    StrictHostKeyChecking accept-new\n    LogLevel ERROR\n"
    )
    return client
