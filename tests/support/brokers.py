"""Real MQTT brokers on loopback for tests: mosquitto 2, and amqtt, which speaks only 3.1.1.

```python
async with mosquitto(tmp_path, tls=True, users={"fleet/d/a": "secret"}) as broker:
    ... broker.port, broker.tls_port, broker.authority.cafile ...

with mosquitto_sync(tmp_path) as broker:
    ...
```

Each broker lives in a directory of its own under the one given, and keeps what it knows there: a broker that was
killed and started again has its retained messages and sessions.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = [
    "MOSQUITTO",
    "Amqtt",
    "Authority",
    "GivenMosquitto",
    "Mosquitto",
    "amqtt",
    "amqtt_sync",
    "free_port",
    "given_mosquitto_sync",
    "mosquitto",
    "mosquitto_sync",
]

#: The broker's program, None where it is not installed.
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")

#: It would drop its rights, and could not read the test's directory any more.
_AS_ROOT = "user root\n"
_READY_TIMEOUT = 15.0
_POLL = 0.005


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@attrs.frozen
class Authority:
    """A certificate authority and a server certificate that it signed, as PEM files."""

    cafile: Path
    certfile: Path
    keyfile: Path

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        names: tuple[str, ...] = ("localhost",),
        addresses: tuple[str, ...] = ("127.0.0.1", "::1"),
        valid_from: dt.datetime | None = None,
        days: int = 30,
    ) -> Authority:
        """Make both; the server's certificate is valid for `names` and `addresses`, from `valid_from` on."""
        directory.mkdir(parents=True, exist_ok=True)
        now = valid_from or dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgeice test authority")])
        ca_identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )

        def builder(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
            return (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(ca_name)
                .public_key(public_key)
                .serial_number(x509.random_serial_number())
                .not_valid_before(now)
                .not_valid_after(now + dt.timedelta(days=days))
            )

        ca = (
            builder(ca_name, ca_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(ca_identifier, critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgeice test broker")])
        server = (
            builder(server_name, key.public_key())
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_identifier), critical=False
            )
            .sign(ca_key, hashes.SHA256())
        )
        authority = cls(directory / "ca.pem", directory / "server.pem", directory / "server.key")
        authority.cafile.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        authority.certfile.write_bytes(server.public_bytes(serialization.Encoding.PEM))
        authority.keyfile.touch(mode=0o600)
        pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        authority.keyfile.write_bytes(key.private_bytes(*pem))
        return authority


class _Broker:
    """A broker's process; its kinds say how to start it and on which ports it listens."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _ports(self) -> list[int]:
        return [self.port]

    def start(self) -> None:
        """Start the process; `is_ready` tells when it listens."""
        assert self._process is None
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def is_ready(self) -> bool:
        """Whether all listeners accept; raises RuntimeError with the log if the process has ended."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the broker ended with {self._process.returncode}:\n{self.log()}")
        for port in self._ports():
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                return False
        return True

    async def wait_ready(self) -> None:
        """Wait until all listeners accept."""
        with trio.fail_after(_READY_TIMEOUT):
            while not self.is_ready():  # noqa: ASYNC110  (nothing in this process knows when another one listens)
                await trio.sleep(_POLL)

    def wait_ready_sync(self) -> None:
        """The same without Trio."""
        deadline = time.monotonic() + _READY_TIMEOUT
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the broker does not listen:\n{self.log()}")
            time.sleep(_POLL)

    def stop(self) -> None:
        """End the process cleanly, or with SIGKILL if it takes over 5 s."""
        if self._process is not None:
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End the process with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop the process where it stands: it accepts connections and takes bytes, but answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        """What the broker has written so far."""
        return (self.directory / "log").read_text(errors="replace")


class Mosquitto(_Broker):
    """mosquitto with a generated configuration, all listeners on 127.0.0.1."""

    def __init__(
        self,
        directory: Path,
        *,
        tls: Authority | bool = False,
        websockets: bool = False,
        users: Mapping[str, str] | None = None,
        acl: str | None = None,
        extra: str = "",
    ) -> None:
        """Write the configuration.

        Args:
            directory: Where all its files are.
            tls: Also listen with TLS on `tls_port`, with this authority's certificate or a new one's.
            websockets: Also listen for WebSockets on `websocket_port`, without TLS.
            users: Passwords by user name; None lets everybody in.
            acl: Contents of the ACL file; None allows everything.
            extra: More lines of configuration, before the listeners.
        """
        super().__init__(directory)
        self.tls_port = free_port() if tls else None
        self.websocket_port = free_port() if websockets else None
        self.authority = tls if isinstance(tls, Authority) else Authority.create(directory / "tls") if tls else None
        lines = [
            "per_listener_settings false",
            f"allow_anonymous {'true' if users is None else 'false'}",
            "persistence true",
            f"persistence_location {directory}/",
            # Written at each change, so that a killed broker forgets nothing.
            "autosave_on_changes true",
            "autosave_interval 1",
            "log_dest stderr",
            "log_type all",
        ]
        if os.getuid() == 0:
            lines.append(_AS_ROOT.strip())
        if users is not None:
            lines.append(f"password_file {self._write_passwords(users)}")
        if acl is not None:
            (directory / "acl").write_text(acl)
            (directory / "acl").chmod(0o600)
            lines.append(f"acl_file {directory / 'acl'}")
        if extra:
            lines.append(extra)
        lines.append(f"listener {self.port} 127.0.0.1")
        if self.authority is not None:
            lines.append(f"listener {self.tls_port} 127.0.0.1")
            lines.append(f"certfile {self.authority.certfile}")
            lines.append(f"keyfile {self.authority.keyfile}")
        if websockets:
            lines += [f"listener {self.websocket_port} 127.0.0.1", "protocol websockets"]
        self._conf = directory / "mosquitto.conf"
        self._conf.write_text("\n".join(lines) + "\n")

    def _command(self) -> list[str]:
        assert MOSQUITTO is not None, "mosquitto is not installed"
        return [MOSQUITTO, "-c", str(self._conf)]

    def _ports(self) -> list[int]:
        return [port for port in (self.port, self.tls_port, self.websocket_port) if port is not None]

    def _write_passwords(self, users: Mapping[str, str]) -> Path:
        path = self.directory / "passwords"
        path.write_text("".join(f"{name}:{password}\n" for name, password in users.items()))
        path.chmod(0o600)
        subprocess.run(["mosquitto_passwd", "-U", str(path)], check=True, capture_output=True)
        return path


class GivenMosquitto(_Broker):
    """mosquitto with a configuration from elsewhere."""

    def __init__(self, directory: Path, conf: str, ports: Sequence[int]) -> None:
        """Write the configuration, with what lets it run here put in front.

        Args:
            directory: Where its files are.
            conf: The configuration.
            ports: Where it listens, on 127.0.0.1.
        """
        super().__init__(directory)
        self._listening = list(ports)
        self._conf = directory / "mosquitto.conf"
        self._conf.write_text(f"log_dest stderr\nlog_type all\n{_AS_ROOT if os.getuid() == 0 else ''}{conf}")

    def _command(self) -> list[str]:
        assert MOSQUITTO is not None, "mosquitto is not installed"
        return [MOSQUITTO, "-c", str(self._conf)]

    def _ports(self) -> list[int]:
        return self._listening


class Amqtt(_Broker):
    """amqtt: MQTT 3.1.1 only, in a Python process of its own."""

    def __init__(self, directory: Path, *, websockets: bool = False) -> None:
        """Write the configuration; with `websockets` it also listens for WebSockets on `websocket_port`."""
        super().__init__(directory)
        self.websocket_port = free_port() if websockets else None
        listeners = f"  default:\n    type: tcp\n    bind: 127.0.0.1:{self.port}\n"
        if websockets:
            listeners += f"  ws:\n    type: ws\n    bind: 127.0.0.1:{self.websocket_port}\n"
        plugins = "  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n"
        self._conf = directory / "amqtt.yaml"
        self._conf.write_text(f"listeners:\n{listeners}plugins:\n{plugins}")

    def _command(self) -> list[str]:
        return [sys.executable, "-W", "ignore", "-m", "amqtt.scripts.broker_script", "-c", str(self._conf)]

    def _ports(self) -> list[int]:
        return [port for port in (self.port, self.websocket_port) if port is not None]


def _directory(parent: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix="broker-", dir=parent))


@contextlib.asynccontextmanager
async def _running(broker: _Broker) -> AsyncIterator[None]:
    broker.start()
    try:
        await broker.wait_ready()
        yield
    finally:
        broker.stop()


@contextlib.contextmanager
def _running_sync(broker: _Broker) -> Iterator[None]:
    broker.start()
    try:
        broker.wait_ready_sync()
        yield
    finally:
        broker.stop()


@contextlib.asynccontextmanager
async def mosquitto(
    parent: Path,
    *,
    tls: Authority | bool = False,
    websockets: bool = False,
    users: Mapping[str, str] | None = None,
    acl: str | None = None,
    extra: str = "",
) -> AsyncIterator[Mosquitto]:
    """A running mosquitto; the arguments are those of `Mosquitto`."""
    broker = Mosquitto(_directory(parent), tls=tls, websockets=websockets, users=users, acl=acl, extra=extra)
    async with _running(broker):
        yield broker


@contextlib.contextmanager
def mosquitto_sync(
    parent: Path,
    *,
    tls: Authority | bool = False,
    websockets: bool = False,
    users: Mapping[str, str] | None = None,
    acl: str | None = None,
    extra: str = "",
) -> Iterator[Mosquitto]:
    """The same without Trio."""
    broker = Mosquitto(_directory(parent), tls=tls, websockets=websockets, users=users, acl=acl, extra=extra)
    with _running_sync(broker):
        yield broker


@contextlib.contextmanager
def given_mosquitto_sync(directory: Path, conf: str, ports: Sequence[int]) -> Iterator[GivenMosquitto]:
    """A running mosquitto with a configuration from elsewhere; the arguments are those of `GivenMosquitto`."""
    broker = GivenMosquitto(directory, conf, ports)
    with _running_sync(broker):
        yield broker


@contextlib.asynccontextmanager
async def amqtt(parent: Path, *, websockets: bool = False) -> AsyncIterator[Amqtt]:
    """A running amqtt."""
    broker = Amqtt(_directory(parent), websockets=websockets)
    async with _running(broker):
        yield broker


@contextlib.contextmanager
def amqtt_sync(parent: Path, *, websockets: bool = False) -> Iterator[Amqtt]:
    """The same without Trio."""
    broker = Amqtt(_directory(parent), websockets=websockets)
    with _running_sync(broker):
        yield broker
