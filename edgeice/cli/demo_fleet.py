"""The demo's fleet: a broker and a device as processes of their own, on files that go away with them."""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio

from edgeice.files import replace_file
from edgeice.operator.config import OperatorConfig, load_config
from edgeice.sansio import Entropy
from edgeice.signaling import KnownDevices, Party, PrivateKey, PublicKey
from edgeice.signaling.trust import OperatorLine

__all__ = ["ADDRESSES", "DEVICE", "Child", "DemoError", "Fleet", "start_broker", "start_device"]

DEVICE: Final = "demo-pi"
#: Those that the device has; the operator has the first.
ADDRESSES: Final = ("127.0.0.1", "127.0.0.2")

_FLEET: Final = "demo"
_OPERATOR: Final = "you"
#: Lines of a process's output that a failure shows.
_TAIL: Final = 15
#: Longest line that is looked at; longer ones come in pieces.
_LINE_LIMIT: Final = 65536
_POLL: Final = 0.02
#: Somebody else may take the port between its choice and the broker's start.
_BROKER_ATTEMPTS: Final = 3
#: How long a process may take to end by itself before it is killed, seconds.
_END_TIME: Final = 3.0


class DemoError(Exception):
    """A step of the demo failed."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step


@attrs.define(eq=False)
class Child:
    """A running process whose output is read."""

    process: trio.Process
    tail: deque[str] = attrs.field(factory=lambda: deque(maxlen=_TAIL))

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def hang_up(self) -> None:
        """Have it read its configuration again."""
        self.process.send_signal(signal.SIGHUP)


@attrs.frozen
class Fleet:
    """The files of one device and of one operator that it trusts."""

    folder: Path
    device_key: PublicKey

    @classmethod
    def create(cls, folder: Path, broker_port: int) -> Fleet:
        """Make keys and configurations as `edgeice-agent init`, `edgeice keys init` and `trust add` do."""
        entropy = Entropy()
        device_key, operator_key = PrivateKey.generate(entropy), PrivateKey.generate(entropy)
        fleet = cls(folder, device_key.public)
        for part in (fleet.agent_config.parent, fleet.home):
            part.mkdir()
        broker = f'[broker]\nurl = "mqtt://127.0.0.1:{broker_port}"\n'
        replace_file(fleet.agent_config.parent / "device.key", device_key.openssh_bytes())
        line = OperatorLine(_OPERATOR, operator_key.public, ("shell", "exec"))
        replace_file(fleet.agent_config.parent / "authorized_operators", f"{line.format()}\n".encode(), 0o644)
        fleet.write_agent_config(broker, *ADDRESSES)
        replace_file(fleet.home / "operator.key", operator_key.openssh_bytes())
        known = KnownDevices("", source="known_devices")
        known.pin(Party.device(_FLEET, DEVICE), device_key.public)
        replace_file(fleet.home / "known_devices", known.text().encode(), 0o644)
        text = f'fleet = "{_FLEET}"\noperator = "{_OPERATOR}"\n{broker}{_ice(ADDRESSES[0])}'
        replace_file(fleet.home / "operator.toml", text.encode(), 0o644)
        return fleet

    @property
    def agent_config(self) -> Path:
        """The device's configuration."""
        return self.folder / "device" / "agent.toml"

    @property
    def home(self) -> Path:
        """The operator's folder, as EDGEICE_HOME takes it."""
        return self.folder / "operator"

    def operator_config(self) -> OperatorConfig:
        """The operator's configuration, read as every command reads it."""
        return load_config(self.home / "operator.toml")

    def write_agent_config(self, broker: str, *addresses: str) -> None:
        """Write the device's configuration, with loopback addresses that are all it has."""
        text = (
            f'fleet = "{_FLEET}"\ndevice = "{DEVICE}"\n{broker}{_ice(*addresses)}[log]\nlevel = "debug"\njson = true\n'
        )
        replace_file(self.agent_config, text.encode(), 0o644)

    def take_address(self, address: str) -> None:
        """Take one of its addresses from the device, which notices at SIGHUP."""
        text = self.agent_config.read_text(encoding="utf-8")
        broker = text[text.index("[broker]") : text.index("[ice]")]
        self.write_agent_config(broker, *(each for each in ADDRESSES if each != address))


def _ice(*addresses: str) -> str:
    return f"[ice]\nloopback = {json.dumps(addresses)}\ninterfaces = false\n"


async def start_broker(nursery: trio.Nursery, folder: Path) -> tuple[Child, int]:
    """Start amqtt on a free port of loopback, and wait until it listens; returns it and the port.

    Raises:
        DemoError: It is not installed, or does not start.
    """
    if importlib.util.find_spec("amqtt") is None:
        raise DemoError("broker", "the demo's broker is not installed; run: pip install 'edgeice[demo]'")
    broker = None
    for _ in range(_BROKER_ATTEMPTS):
        port = _free_port()
        config = folder / "broker.yaml"
        listeners = f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{port}\n"
        plugins = "plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n"
        replace_file(config, f"{listeners}{plugins}".encode(), 0o644)
        arguments = ["-W", "ignore", "-m", "amqtt.scripts.broker_script", "-c", str(config)]
        broker = await _start(nursery, arguments, lambda _line: None)
        while not broker.over:
            if await _listens(port):
                return broker, port
            await trio.sleep(_POLL)
    last = broker.tail[-1] if broker is not None and broker.tail else "it said nothing"
    raise DemoError("broker", f"the broker does not start: {last}")


async def start_device(nursery: trio.Nursery, fleet: Fleet, hear: Callable[[Mapping[str, object]], None]) -> Child:
    """Start the agent; `hear` gets each event of its log."""

    def read(line: str) -> None:
        try:
            record = json.loads(line)
        except ValueError:
            return  # not a line of the log; the tail keeps it
        if isinstance(record, dict):
            hear(record)

    arguments = ["-m", "edgeice.cli.agent_main", "run", "--config", str(fleet.agent_config)]
    return await _start(nursery, arguments, read)


async def _start(nursery: trio.Nursery, arguments: list[str], read: Callable[[str], None]) -> Child:
    """Run Python in a process that ends with the nursery."""
    process: trio.Process = await nursery.start(
        partial(
            trio.run_process,
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            # Ctrl-C at the terminal is for the demo, which ends its processes in order.
            start_new_session=True,
            deliver_cancel=_end,
        )
    )
    child = Child(process)
    nursery.start_soon(_read_lines, child, read)
    return child


async def _end(process: trio.Process) -> None:
    process.terminate()
    with trio.CancelScope(shield=True, deadline=trio.current_time() + _END_TIME):
        await process.wait()
        return
    process.kill()


async def _read_lines(child: Child, read: Callable[[str], None]) -> None:
    assert child.process.stderr is not None
    rest = b""
    async for data in child.process.stderr:
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > _LINE_LIMIT:
            lines.append(rest)
            rest = b""
        for line in lines:
            text = line.decode("utf-8", "replace")
            child.tail.append(text)
            read(text)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def _listens(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True
