"""Whole agents: channels of services, the agent's local sockets, and the connection to a broker, in Trio."""

from __future__ import annotations

import json
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

import trio
import trio.testing

from edgeice.agent.status import ask_status, open_status_socket, serve_status
from edgeice.operator.shared_client import join_shared
from edgeice.operator.shared_master import SharedMaster, listen_shared
from edgeice.sansio import DropCounter, Entropy
from edgeice.services import (
    EXEC_PROTOCOL,
    FORWARD_PROTOCOL,
    PING_PROTOCOL,
    SHELL_PROTOCOL,
    ChannelServer,
    ExitStatus,
    PingClient,
    Process,
    ServiceRegistry,
    Terminal,
    serve_ping,
    standard_services,
)
from edgeice.services.kept import KeepLimits, KeptShells, Owner
from edgeice.services.telemetry import TELEMETRY_PROTOCOL, Telemetry
from edgeice.services.telemetry.local import MAX_DATAGRAM, RING_BYTES, RING_ROWS, LocalStream
from edgeice.signaling import Party
from edgeice.signaling.broker import Message, MqttConnected, MqttDisconnected
from tests.property.target import TAKEN, Target
from tests.support.channels import MemoryChannel, channel_pair
from tests.support.mqtt_clients import running
from tests.support.scripted_broker import ScriptedBroker, packet, puback, publish, suback

__all__ = ["SOCKETS"]

_VECTORS = Path(__file__).parents[1] / "vectors" / "service-channels.json"
_PROTOCOLS = (EXEC_PROTOCOL, SHELL_PROTOCOL, TELEMETRY_PROTOCOL, PING_PROTOCOL, FORWARD_PROTOCOL)
_SEPARATOR = b"\n---\n"
_REASON = re.compile(r"[a-z0-9-]{3,40}")
_TOKENS = (_SEPARATOR, b"{", b"}", b'"', b":", b"[", b"]", b'"open"', b'"eof":true', b"\0", b"\\u0000", b"\n")
_MESSAGES = 64


def _run(main: Callable[[], Awaitable[None]]) -> None:
    """Run in virtual time, where whatever waits for a time limit gets there at once."""
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# --- services


class _Echo:
    """A process that writes what it reads."""

    user = "tester"

    def __init__(self, streams: tuple[int, ...]) -> None:
        self.streams = streams
        self._held = bytearray()
        self._closed = False
        self._changed = trio.lowlevel.ParkingLot()

    async def read(self, stream: int, limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while stream == 1 and not self._held and not self._closed:
            await self._changed.park()
        data = bytes(self._held[:limit]) if stream == 1 else b""
        del self._held[: len(data)]
        return data

    async def write(self, data: bytes) -> int:
        await trio.lowlevel.checkpoint()
        self._held += data
        self._changed.unpark_all()
        return len(data)

    def close_input(self) -> None:
        self._closed = True
        self._changed.unpark_all()

    def resize(self, cols: int, rows: int) -> None:
        assert 0 <= cols <= 0xFFFF
        assert 0 <= rows <= 0xFFFF

    def signal(self, name: str) -> None:
        if name == "KILL":
            self.close_input()

    def foreground(self) -> str:
        return ""

    async def wait(self) -> ExitStatus:
        while not self._closed:
            await self._changed.park()
        return ExitStatus(code=0)


class _Spawner:
    """Starts nothing, but looks at what would be started as the kernel does."""

    @asynccontextmanager
    async def spawn(
        self, argv: Sequence[str] | None, env: Mapping[str, str], terminal: Terminal | None
    ) -> AsyncIterator[Process]:
        await trio.lowlevel.checkpoint()
        words = [*(argv or ()), *env, *env.values(), terminal.term if terminal else ""]
        assert not any("\0" in word for word in words)
        assert b"".join(word.encode() for word in words) is not None
        assert not any("=" in name or not name for name in env)
        yield _Echo((1,) if terminal else (1, 2))


def _defect(error: Exception) -> NoReturn:
    raise error


async def _serve_service(script: bytes) -> None:
    protocol = _PROTOCOLS[script[0] % len(_PROTOCOLS) if script else 0]
    drops = DropCounter()
    failures: list[Exception] = []
    with tempfile.TemporaryDirectory(prefix="edgeice-property-") as name:
        telemetry = Telemetry(Path(name) / "t.sock", (), root=Path(name), wall=lambda: 1.0, entropy=Entropy.seeded(7))
        async with trio.open_nursery() as nursery:
            limits = KeepLimits(total=2, per_operator=2, time=60)
            kept = KeptShells(nursery, _Spawner(), limits, tell=lambda *_: None, fail=_defect)
            server = ChannelServer(
                ServiceRegistry(standard_services(("127.0.0.1", 1), telemetry)),
                {"shell", "exec", "telemetry:*"},
                _Spawner(),
                idle_time=300,
                channel_time=3600,
                kept=partial(kept.of, Owner(Party.operator("lab", "alice"), "kid")),
                drops=drops,
                on_failure=lambda _channel, error: failures.append(error),
            )
            operator, device = channel_pair(protocol)
            nursery.start_soon(server.serve, device)
            await _say(operator, script[1:])
            await _ping(server, nursery)
            operator.abort()
            await server.wait_idle()
            assert device.high_water <= 1 << 22
            nursery.cancel_scope.cancel()
    if failures:
        raise failures[0]
    assert all(_REASON.fullmatch(reason) for reason in drops.snapshot())


async def _say(channel: MemoryChannel, script: bytes) -> None:
    """Send a script's messages, text where they are UTF-8 and begin with a brace, and hear what comes for a while."""
    for part in script.split(_SEPARATOR)[:_MESSAGES]:
        message: bytes | str = part
        if part[:1] in (b"{", b"["):
            message = part.decode("utf-8", "replace")
        with trio.move_on_after(1), suppress(trio.BrokenResourceError, trio.EndOfChannel):
            await channel.send(message)
            while True:
                await channel.receive()


async def _ping(server: ChannelServer, nursery: trio.Nursery) -> None:
    operator, device = channel_pair(PING_PROTOCOL)
    nursery.start_soon(server.serve, device)
    with trio.fail_after(5):
        await PingClient(operator).round_trip()
    operator.abort()


@cache
def _service_seeds() -> Sequence[bytes]:
    vectors: list[dict[str, Any]] = json.loads(_VECTORS.read_text())
    seeds = []
    for vector in vectors:
        if vector["protocol"] not in _PROTOCOLS:
            continue
        said = [value["text"].encode() if "text" in value else bytes.fromhex(value["hex"]) for value in vector["send"]]
        seeds.append(bytes((_PROTOCOLS.index(vector["protocol"]),)) + _SEPARATOR.join(said))
    keep = b'{"open":{"term":"xterm","cols":80,"rows":24,"keep":true}}'
    attach = b'{"open":{"term":"xterm","cols":80,"rows":24,"attach":true}}'
    resize = b'{"resize":[100,40]}'
    seeds += [b"\1" + _SEPARATOR.join((keep, b"ls\n", resize)), b"\1" + attach, b"\1" + b'{"open":{"list":true}}']
    seeds.append(b"\4" + b'{"connect":{"host":"localhost","port":22}}')
    return tuple(seeds)


def _service(script: bytes) -> str:
    _run(partial(_serve_service, script))
    return TAKEN


# --- the socket of telemetry


async def _take_lines(script: bytes) -> None:
    drops = DropCounter()
    honest = b'{"name":"alive","value":1}'
    with tempfile.TemporaryDirectory(prefix="edgeice-property-") as name:
        stream = LocalStream(Path(name) / "t.sock", lambda: 1.0, Entropy.seeded(7), drops)
        ring = stream.open()
        lines = 0
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer:
            for datagram in (*script.split(_SEPARATOR)[:_MESSAGES], honest):
                writer.sendto(datagram, str(Path(name) / "t.sock"))
                large = len(datagram) > MAX_DATAGRAM
                lines += 1 if large else sum(bool(line.strip()) for line in datagram.splitlines())
                assert stream._socket is not None
                stream._work(stream._socket)
                while stream._lines:
                    stream._work(stream._socket)
        assert ring.newest + drops.total == lines, "a line was dropped without being counted"
        assert len(ring._rows) <= RING_ROWS
        assert ring._bytes <= RING_BYTES
        assert json.loads(ring._rows[-1][0])["name"] == "alive"
        for row, size in ring._rows:
            assert len(row.encode()) == size
        stream.close()
        assert not Path(name, "t.sock").exists()  # noqa: ASYNC240  # of a folder of its own, in memory
    assert all(_REASON.fullmatch(reason) for reason in drops.snapshot())


def _telemetry_socket(script: bytes) -> str:
    trio.run(_take_lines, script)
    return TAKEN


# --- the socket that tells the agent's status


def _status() -> dict[str, object]:
    return {"device": "pi17"}


async def _serve_status(script: bytes) -> None:
    drops = DropCounter()
    with tempfile.TemporaryDirectory(prefix="edgeice-property-") as name:
        path = Path(name) / "agent.sock"
        with open_status_socket(path) as listener:
            await _ask_status(script, path, listener, drops)
    assert set(drops.snapshot()) <= {"unasked"}


async def _ask_status(script: bytes, path: Path, listener: socket.socket, drops: DropCounter) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_status, listener, _status, drops)
        for part in script.split(_SEPARATOR)[:8]:
            stream = await trio.open_unix_socket(str(path))
            with suppress(trio.BrokenResourceError):
                await stream.send_all(part)
                await stream.send_eof()
                async for _ in stream:
                    pass
            await stream.aclose()
        assert await ask_status(path) == _status()
        nursery.cancel_scope.cancel()


def _status_socket(script: bytes) -> str:
    _run(partial(_serve_status, script))
    return TAKEN


# --- the socket of a shared session


class _Session:
    """A session whose device echoes."""

    name = "pi"
    max_channels = 4

    def __init__(self, nursery: trio.Nursery) -> None:
        self.heard_at = trio.current_time()
        self._nursery = nursery

    async def open(self, protocol: str) -> MemoryChannel:
        await trio.lowlevel.checkpoint()
        ours, device = channel_pair(protocol)
        self._nursery.start_soon(self._serve, device)
        return ours

    async def _serve(self, device: MemoryChannel) -> None:
        with suppress(trio.EndOfChannel, trio.BrokenResourceError, Exception):
            await serve_ping(device)

    async def wait_ended(self) -> NoReturn:
        await trio.sleep_forever()
        raise AssertionError


async def _serve_shared(script: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="edgeice-property-") as name:
        path = Path(name) / "pi.sock"
        master = SharedMaster("pi", path)
        async with trio.open_nursery() as nursery, master.serve(listen_shared(path)):
            nursery.start_soon(master.hold, _Session(nursery), ("exec",))
            await trio.testing.wait_all_tasks_blocked()
            for part in script.split(_SEPARATOR)[:8]:
                if master._over.is_set():
                    break  # it was told to stop
                with suppress(trio.BrokenResourceError):
                    stream = await trio.open_unix_socket(str(path))
                    await stream.send_all(part)
                    await stream.send_eof()
                with trio.move_on_after(20), suppress(trio.BrokenResourceError):
                    async for _ in stream:
                        pass
                await stream.aclose()
            if not master._over.is_set():
                joined = await join_shared(path, "pi", ("exec",))
                async with joined.kept(None):
                    channel = await joined.open(PING_PROTOCOL)
                    await PingClient(channel).round_trip()
                    await channel.aclose()
            status = master.status()
            assert all(_REASON.fullmatch(reason) for reason in master.drops.snapshot())
            assert isinstance(status["channels"], int)
            nursery.cancel_scope.cancel()


def _frame(kind: int, payload: bytes) -> bytes:
    return bytes((kind,)) + len(payload).to_bytes(3, "big") + payload


def _shared_seeds() -> Sequence[bytes]:
    opening = _frame(1, b'{"open":{"protocol":"edgeice.exec.1"}}')
    return (
        _frame(1, b'{"status":{}}'),
        _frame(1, b'{"join":{"want":["exec"]}}'),
        opening + _frame(2, b'{"open":{"argv":["true"]}}') + _frame(3, b"\0bytes") + _frame(1, b'{"close":{}}'),
        _SEPARATOR.join((opening, opening + _frame(3, bytes(100)), _frame(1, b'{"stop":{}}'))),
    )


def _shared_socket(script: bytes) -> str:
    _run(partial(_serve_shared, script))
    return TAKEN


# --- the connection to a broker


async def _serve_broker(script: bytes) -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await broker.accept()
        await session.welcome()
        await party.next(MqttConnected)
        with suppress(trio.BrokenResourceError):
            await session.send(script)
        session.close()
        await party.next(MqttDisconnected)
        for event in party.seen:
            if isinstance(event, Message):
                event.topic.encode()
                assert len(event.payload) <= len(script)


def _broker_seeds() -> Sequence[bytes]:
    return (
        publish("edgeice/1/lab/d/pi17/rx/alice", b"payload", qos=1, packet_id=7),
        publish("t", b"", qos=0) + suback(1, b"\1") + puback(1, 0x10),
        packet(0xE0, bytes([0x8E, 3, 0x1F, 0, 0])),
        packet(0x62, b"\0\1") + b"\xd0\0" + packet(0xF0, b"\x18\0"),
    )


def _broker(script: bytes) -> str:
    trio.run(_serve_broker, script)
    return TAKEN


SOCKETS = (
    Target(name="service-channel", seeds=_service_seeds, check=_service, tokens=_TOKENS, examples=40),
    Target(
        name="telemetry-socket",
        seeds=lambda: (
            _SEPARATOR.join((b'{"name":"a","value":1}', b'{"name":"b","value":true}\n{"name":"c","value":"x"}')),
            b'{"name":"door","value":1.5,"tags":{"door":"shed"},"t":1700000000}',
            b"x" * (MAX_DATAGRAM + 1),
        ),
        check=_telemetry_socket,
        tokens=_TOKENS,
        examples=60,
    ),
    Target(
        name="status-socket",
        seeds=lambda: (b"", b"status\n", _SEPARATOR.join((b"x", b"", b'{"status":{}}'))),
        check=_status_socket,
        tokens=_TOKENS,
        examples=20,
    ),
    Target(name="shared-socket", seeds=_shared_seeds, check=_shared_socket, tokens=_TOKENS, examples=30),
    Target(name="broker", seeds=_broker_seeds, check=_broker, examples=20),
)
