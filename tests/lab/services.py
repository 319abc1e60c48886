"""Servers of the laboratory: coturn, which is STUN and TURN, and a broker, each on a host of the internet."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.lab.lab import Host, LabError
from tests.support.brokers import MOSQUITTO, Authority
from tests.support.coturn import COTURN

__all__ = ["NATDISCOVERY", "SERVER_NAME", "Broker", "Coturn", "Server", "coturn", "mosquitto"]

#: coturn's discoverer of NATs, None where it is not installed.
NATDISCOVERY = shutil.which("turnutils_natdiscovery")
#: What their certificates prove, besides their addresses.
SERVER_NAME = "server.example"

_SECRET = "laboratory"
_READY = 10.0
_STUN, _TLS, _HTTPS = 3478, 5349, 443
_MQTT, _MQTTS, _WEBSOCKETS = 1883, 8883, 9001


class Server:
    """A server's process on a host.

    Args:
        host: Where it runs.
        command: Its command line.
        ports: Where it listens once it is up.
        log: Its log, for the message of a failure.
    """

    def __init__(self, host: Host, command: list[str], ports: tuple[int, ...], log: Path) -> None:
        self._host, self._command, self._ports, self._log = host, command, ports, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns when it listens."""
        nothing = subprocess.DEVNULL
        command = self._host.command(*self._command)
        self._process = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)
        try:
            self._wait(self._process)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End it at once, so that it says goodbye to nobody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """End it at once and start it again, without anything that it knew; returns when it listens."""
        self.kill()
        self.start()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY
        while not all(_listens(self._host, port) for port in self._ports):
            if process.poll() is not None or time.monotonic() > deadline:
                said = self._log.read_text(errors="replace") if self._log.exists() else ""
                raise LabError(f"{self._command[0]} does not listen: {said[-2000:]}")
            time.sleep(0.01)


@attrs.frozen
class Coturn:
    """A running coturn: UDP and TCP on port 3478, TLS on 5349, TCP and TLS on 443."""

    address: str
    address6: str
    authority: Authority
    server: Server

    @property
    def stun(self) -> str:
        """Its URI as a STUN server."""
        return f"stun:{self.address}:{_STUN}"

    def ice_servers(self, *kinds: str, user: str = "pi", seconds: int = 3600) -> list[dict[str, str]]:
        """Servers as browsers take them, with credentials that expire; those of TLS have the name `SERVER_NAME`.

        Args:
            kinds: `stun`, `udp`, `tcp`, `tls` or `tls443`.
            user: Whom the credentials are for.
            seconds: How long they last.
        """
        name = f"{int(time.time()) + seconds}:{user}"
        digest = hmac.new(_SECRET.encode(), name.encode(), hashlib.sha1).digest()
        login = {"username": name, "credential": base64.b64encode(digest).decode()}
        urls = {
            "udp": f"turn:{self.address}:{_STUN}?transport=udp",
            "tcp": f"turn:{self.address}:{_STUN}?transport=tcp",
            "tls": f"turns:{SERVER_NAME}:{_TLS}?transport=tcp",
            "tls443": f"turns:{SERVER_NAME}:{_HTTPS}?transport=tcp",
        }
        return [{"urls": self.stun} if kind == "stun" else {"urls": urls[kind], **login} for kind in kinds]


@attrs.frozen
class Broker:
    """A running mosquitto that lets everybody in: MQTT on port 1883, with TLS on 8883, by WebSockets on 9001."""

    address: str
    authority: Authority
    server: Server

    @property
    def url(self) -> str:
        """Its address without TLS."""
        return f"mqtt://{self.address}:{_MQTT}"

    @property
    def websocket_url(self) -> str:
        """Its address for browsers."""
        return f"ws://{self.address}:{_WEBSOCKETS}"

    @property
    def tls_url(self) -> str:
        """Its address with TLS."""
        return f"mqtts://{self.address}:{_MQTTS}"


def _authority(host: Host, folder: Path) -> Authority:
    return Authority.create(folder / "tls", names=(SERVER_NAME,), addresses=host.addresses)


@contextlib.contextmanager
def coturn(host: Host, folder: Path, *, mobility: bool = False) -> Iterator[Coturn]:
    """Run coturn on a public host; with two addresses it answers what a discoverer of NATs asks (RFC 5780).

    With mobility, allocations may move to another address of their client's (RFC 8016).
    """
    uplink = host.uplinks["eth0"]
    assert COTURN is not None, "coturn is not installed"
    assert uplink.address6 is not None
    authority = _authority(host, folder)
    lines = [f"listening-ip={address}" for address in (*host.addresses, uplink.address6)]
    lines += [f"relay-ip={address}" for address in (host.addresses[0], uplink.address6)]
    lines += [f"aux-server={host.addresses[0]}:{_HTTPS}"]
    lines += [f"listening-port={_STUN}", f"alt-listening-port={_STUN + 1}", f"tls-listening-port={_TLS}"]
    lines += ["realm=laboratory", "use-auth-secret", f"static-auth-secret={_SECRET}", "fingerprint"]
    lines += [f"cert={authority.certfile}", f"pkey={authority.keyfile}"]
    lines += [f"userdb={folder}/turndb", f"pidfile={folder}/pid", f"log-file={folder}/log", "simple-log"]
    lines += ["no-cli", "no-software-attribute", *(["mobility"] if mobility else [])]
    configuration = folder / "turnserver.conf"
    configuration.write_text("\n".join(lines) + "\n")
    with _running(host, [COTURN, "-c", str(configuration)], (_STUN, _TLS, _HTTPS), folder / "log") as server:
        yield Coturn(host.addresses[0], uplink.address6, authority, server)


@contextlib.contextmanager
def mosquitto(host: Host, folder: Path) -> Iterator[Broker]:
    """Run mosquitto on a public host."""
    assert MOSQUITTO is not None, "mosquitto is not installed"
    authority = _authority(host, folder)
    lines = ["allow_anonymous true", "persistence false", "user root", "set_tcp_nodelay true"]
    lines += [f"log_dest file {folder}/log", f"listener {_MQTT}", f"listener {_MQTTS}"]
    lines += [f"certfile {authority.certfile}", f"keyfile {authority.keyfile}"]
    lines += [f"listener {_WEBSOCKETS}", "protocol websockets"]
    configuration = folder / "mosquitto.conf"
    configuration.write_text("\n".join(lines) + "\n")
    with _running(host, [MOSQUITTO, "-c", str(configuration)], (_MQTT, _MQTTS, _WEBSOCKETS), folder / "log") as server:
        yield Broker(host.addresses[0], authority, server)


@contextlib.contextmanager
def _running(host: Host, command: list[str], ports: tuple[int, ...], log: Path) -> Iterator[Server]:
    server = Server(host, command, ports, log)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _listens(host: Host, port: int) -> bool:
    with host.inside():
        probe = socket.socket()
    with probe:
        probe.settimeout(1)
        return probe.connect_ex((host.addresses[0], port)) == 0
