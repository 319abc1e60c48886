"""A fleet on loopback: devices and operators with files of their own, as real processes."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import attrs
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from edgeice.signaling import PublicKey

__all__ = [
    "FLEET",
    "PATIENCE",
    "ROOT",
    "WARNED_OF_ROOT",
    "AgentProcess",
    "Device",
    "Finished",
    "Key",
    "Operator",
    "edgeice",
    "edgeice_agent",
    "next_line",
]

FLEET = "home"
ROOT = "edgeice/1"

#: How long a process may take for what takes a fraction of it, seconds.
PATIENCE = 20.0
_POLL = 0.01

#: What `edgeice-agent check` says to root, who has named no other user for shells and commands.
WARNED_OF_ROOT = ["shells and commands run as root; services.user names another user"] if os.geteuid() == 0 else []


def environment(home: Path | None = None) -> dict[str, str]:
    """The environment of every process here."""
    values = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1", "TERM": "xterm"}
    values.pop("EDGEICE_HOME", None)
    if home is not None:
        values["EDGEICE_HOME"] = values["XDG_RUNTIME_DIR"] = str(home)
    return values


class Key:
    """An Ed25519 key that the test knows wholly."""

    def __init__(self, name: str) -> None:
        self.seed = name.encode().ljust(32, b".")[:32]
        self._private = Ed25519PrivateKey.from_private_bytes(self.seed)
        self.raw = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.x = base64.urlsafe_b64encode(self.raw).rstrip(b"=").decode()
        self.d = base64.urlsafe_b64encode(self.seed).rstrip(b"=").decode()
        self.openssh = self._private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        self.fingerprint = PublicKey(self.raw).fingerprint

    def write(self, path: Path) -> None:
        """Write the private key as OpenSSH keeps it."""
        path.touch(mode=0o600)
        path.write_bytes(self._private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def _broker_lines(url: str, password: str | None, ca: Path | None, folder: Path) -> str:
    lines = f'[broker]\nurl = "{url}"\nwill_delay = 0\n'
    if password is not None:
        secret = folder / "broker.password"
        secret.touch(mode=0o600)
        secret.write_text(f"{password}\n")
        lines += 'password_file = "broker.password"\n'
    if ca is not None:
        lines += f'ca = "{ca}"\n'
    return lines


_ICE = '[ice]\nloopback = ["127.0.0.1"]\ninterfaces = false\n'


def _append(path: Path, line: str) -> None:
    """Add to a file that only its owner may write, whatever the umask of who runs the tests."""
    with path.open("a") as file:
        file.write(line)
    path.chmod(0o644)


class Device:
    """A device's folder."""

    def __init__(
        self,
        folder: Path,
        url: str,
        name: str = "pi",
        *,
        key: Key | None = None,
        password: str | None = None,
        ca: Path | None = None,
        extra: str = "",
    ) -> None:
        folder.mkdir(parents=True)
        self.folder, self.name = folder, name
        self.config = folder / "agent.toml"
        self.key = key or Key(f"device {name}")
        self.key.write(folder / "device.key")
        broker = _broker_lines(url, password, ca, folder)
        self.config.write_text(
            f'fleet = "{FLEET}"\ndevice = "{name}"\n{broker}{_ICE}[labels]\nsite = "roof"\n'
            f'[log]\nlevel = "debug"\n{extra}'
        )

    def trust(self, operator: Operator, can: str = "shell,exec") -> None:
        """Let an operator in, as `trust add` does."""
        _append(
            self.folder / "authorized_operators", f'operator="{operator.name}",can="{can}" {operator.key.openssh}\n'
        )

    def command(self, *arguments: str) -> list[str]:
        """A command line of `edgeice-agent` with this configuration."""
        return [sys.executable, "-m", "edgeice.cli.agent_main", *arguments, "--config", str(self.config)]

    def topic(self, kind: str) -> str:
        """One of its topics."""
        return f"{ROOT}/{FLEET}/d/{self.name}/{kind}"


class Operator:
    """An operator's folder."""

    def __init__(
        self,
        folder: Path,
        url: str,
        name: str = "alice",
        *,
        key: Key | None = None,
        password: str | None = None,
        ca: Path | None = None,
    ) -> None:
        folder.mkdir(parents=True)
        self.folder, self.name = folder, name
        self.config = folder / "operator.toml"
        self.key = key or Key(f"operator {name}")
        self.key.write(folder / "operator.key")
        broker = _broker_lines(url, password, ca, folder).replace("will_delay = 0\n", "")
        self.config.write_text(f'fleet = "{FLEET}"\noperator = "{name}"\n{broker}{_ICE}')

    def pin(self, device: Device, key: Key | None = None) -> None:
        """Know a device's key, as after the first contact."""
        _append(self.folder / "known_devices", f"{FLEET}/d/{device.name} {(key or device.key).openssh}\n")


@attrs.frozen
class Finished:
    """What a command left."""

    code: int
    stdout: bytes
    stderr: str

    def json(self) -> Any:
        """Its last line of output."""
        return json.loads(self.stdout.splitlines()[-1])

    def lines(self) -> list[Any]:
        """All lines of its output, each JSON."""
        return [json.loads(line) for line in self.stdout.splitlines()]


async def edgeice(operator: Operator, *arguments: str, stdin: bytes = b"", patience: float = PATIENCE) -> Finished:
    """Run `edgeice` to its end, without a terminal."""
    command = [sys.executable, "-m", "edgeice.cli.main", *arguments]
    with trio.fail_after(patience):
        done = await trio.run_process(
            command,
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment(operator.folder),
        )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return Finished(done.returncode, done.stdout, done.stderr.decode())


async def next_line(process: trio.Process) -> dict[str, object]:
    """The next line that a command prints with `--json`."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        byte = await process.stdout.receive_some(1)
        assert byte, "the command ended"
        line += byte
    facts = json.loads(line)
    assert isinstance(facts, dict)
    return facts


async def edgeice_agent(device: Device, *arguments: str, stdin: bytes = b"") -> Finished:
    """Run a command of `edgeice-agent` to its end."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            device.command(*arguments),
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment(),
        )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return Finished(done.returncode, done.stdout, done.stderr.decode())


class AgentProcess:
    """`edgeice-agent run` for a device; a context manager that ends it and looks for tracebacks in its log."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._log = device.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.device.command("run"), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()
            )
        return self

    def __exit__(self, *_details: object) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        assert "Traceback" not in self.log(), self.log()

    @property
    def code(self) -> int | None:
        """Its exit status, None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def descriptors(self) -> list[str]:
        """What each of its open files is."""
        folder = Path(f"/proc/{self.pid}/fd")
        return sorted(str(entry.readlink()) for entry in folder.iterdir())

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send(signal.SIGTERM)

    def hang_up(self) -> None:
        """Send SIGHUP, which makes it read its files again."""
        self.send(signal.SIGHUP)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def _find(self, pattern: str, start: int) -> re.Match[str] | None:
        found = re.compile(pattern, re.MULTILINE).search(self.log(), start)
        assert found or self.code is None, f"the agent ended with {self.code}:\n{self.log()}"
        return found

    async def wait_log(self, pattern: str, *, start: int = 0, patience: float = PATIENCE) -> re.Match[str]:
        """Wait for a line of its log, from a place in it on."""
        with trio.move_on_after(patience):
            while True:
                if found := self._find(pattern, start):
                    return found
                await trio.sleep(_POLL)
        raise AssertionError(f"no {pattern!r} in the agent's log:\n{self.log()}")

    def wait_log_sync(self, pattern: str, *, start: int = 0, patience: float = PATIENCE) -> re.Match[str]:
        """The same without Trio."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if found := self._find(pattern, start):
                return found
            time.sleep(_POLL)
        raise AssertionError(f"no {pattern!r} in the agent's log:\n{self.log()}")

    async def wait_exit(self, patience: float = 10.0) -> int:
        """Wait for its end."""
        with trio.fail_after(patience):
            while True:
                if (code := self.code) is not None:
                    return code
                await trio.sleep(_POLL)

    async def status(self) -> dict[str, Any]:
        """What `edgeice-agent status --json` says."""
        done = await edgeice_agent(self.device, "status", "--json")
        assert done.code == 0, done
        answer = done.json()
        assert isinstance(answer, dict)
        return answer
