"""A real TURN server: coturn on 127.0.0.1, over UDP, TCP and TLS, with a shared secret for credentials."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import trio

from edgeice.addresses import TransportAddress
from edgeice.stun import MessageClass, Method, encode
from tests.support.brokers import Authority, free_port

__all__ = ["COTURN", "Coturn", "coturn"]

#: The server's program, None where it is not installed.
COTURN = shutil.which("turnserver")

_READY_TIMEOUT = 15.0
_POLL = 0.005


class Coturn:
    """coturn's process; its log says what it did."""

    #: What credentials are derived from.
    secret = "north"
    realm = "example.org"

    def __init__(self, directory: Path, *options: str, names: tuple[str, ...] = ("localhost",)) -> None:
        """Say how it is to be started.

        Args:
            directory: Where all its files are.
            options: More of its options.
            names: What its certificate proves.
        """
        self.directory = directory
        self.authority = Authority.create(directory / "tls", names=names)
        self.address = TransportAddress("127.0.0.1", free_port())
        self.tls_address = TransportAddress("127.0.0.1", free_port(), "tcp")
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; `wait_ready` tells when it listens."""
        assert COTURN is not None, "coturn is not installed"
        settings = {
            "listening-ip": "127.0.0.1",
            "relay-ip": "127.0.0.1",
            "listening-port": self.address.port,
            "tls-listening-port": self.tls_address.port,
            "relay-threads": 1,
            "realm": self.realm,
            "static-auth-secret": self.secret,
            "cert": self.authority.certfile,
            "pkey": self.authority.keyfile,
            "userdb": self.directory / "users",
            "pidfile": self.directory / "pid",
            "log-file": self.directory / "log",
        }
        flags = ["use-auth-secret", "no-cli", "no-dtls", "no-rfc5780", "simple-log", "verbose", "no-stdout-log"]
        # Both ends of what is relayed are here.
        flags.append("allow-loopback-peers")
        command = [COTURN, "-n", *(f"--{name}={value}" for name, value in settings.items())]
        command += [f"--{flag}" for flag in flags]
        with (self.directory / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [*command, *self._options], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    async def wait_ready(self) -> None:
        """Wait until it answers over UDP and accepts connections."""
        with trio.fail_after(_READY_TIMEOUT):
            while not self._is_ready():  # noqa: ASYNC110  (nothing in this process knows when another one listens)
                await trio.sleep(_POLL)

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"coturn ended with {self._process.returncode}:\n{self.log()}")
        request = encode(Method.BINDING, MessageClass.REQUEST, bytes(12), [])
        try:
            for address in (self.address, self.tls_address):
                socket.create_connection((address.ip, address.port), timeout=1).close()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((self.address.ip, self.address.port))
                probe.settimeout(0.5)
                probe.send(request)
                return bool(probe.recv(2048))
        except OSError:
            return False

    def stop(self) -> None:
        """End the process, which writes the rest of its log."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End the process as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        """What it has written so far; all of it after `stop`."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""


@contextlib.asynccontextmanager
async def coturn(parent: Path, *options: str, names: tuple[str, ...] = ("localhost",)) -> AsyncIterator[Coturn]:
    """A running coturn; the options are more of its own, the names its certificate's."""
    server = Coturn(Path(tempfile.mkdtemp(prefix="coturn-", dir=parent)), *options, names=names)
    server.start()
    try:
        await server.wait_ready()
        yield server
    finally:
        server.stop()
