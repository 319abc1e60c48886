"""Forwards: TCP connections over channels, to real sockets on loopback."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from edgeice.services import (
    FORWARD_PROTOCOL,
    ErrorCode,
    ForwardTarget,
    ServiceError,
    StreamBrokenError,
    TcpStream,
    forward_stream,
)
from edgeice.services.boundary import Boundary, is_off_limits
from edgeice.services.credit import CreditedChannel
from edgeice.services.relay import relay
from tests.support.channels import MemoryChannel, channel_pair, drain
from tests.support.device import Device

KIB = 1024
RST = struct.pack("ii", 1, 0)


@pytest.fixture
def anywhere(home: object, nursery: trio.Nursery) -> Device:
    """A device whose session may connect everywhere."""
    return Device(nursery, wants=("forward:*:*",))


class Server:
    """A TCP server on loopback that takes one connection; `ended` says how its reading ended."""

    def __init__(self, port: int) -> None:
        self.target = ForwardTarget("127.0.0.1", port)
        self.accepted = trio.Event()
        self.stream: trio.SocketStream

    async def accept(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.accepted.set()
        await trio.sleep_forever()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server = Server(listeners[0].socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, server.accept, listeners)
        yield server
        nursery.cancel_scope.cancel()


class Local:
    """The operator's end: a connection of an application here, carried to a target."""

    def __init__(self, channel: MemoryChannel, target: ForwardTarget) -> None:
        self._channel, self._target = channel, target
        ours, theirs = socket.socketpair()
        self.app = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._carried = TcpStream(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))
        self.failure: Exception | None = None
        self.over = trio.Event()

    async def run(self) -> None:
        try:
            await forward_stream(self._channel, self._target, self._carried)
            await self._carried.aclose()
        except (StreamBrokenError, ServiceError, trio.BrokenResourceError, trio.EndOfChannel) as error:
            self.failure = error
        finally:
            self._carried.reset()
            self.over.set()


@asynccontextmanager
async def forwarding(device: Device, target: ForwardTarget) -> AsyncIterator[Local]:
    local = Local(device.open(FORWARD_PROTOCOL), target)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, local.app:
            nursery.start_soon(local.run)
            yield local
            await local.app.aclose()
            nursery.cancel_scope.cancel()
        await device.idle()


async def read_all(stream: trio.SocketStream) -> bytes:
    data = bytearray()
    while chunk := await stream.receive_some(64 * KIB):
        data += chunk
    return bytes(data)


async def test_both_directions_end_by_themselves(anywhere: Device) -> None:
    async with serving() as server, forwarding(anywhere, server.target) as local:
        await server.accepted.wait()
        await local.app.send_all(b"question")
        await local.app.send_eof()
        assert await read_all(server.stream) == b"question"
        await server.stream.send_all(b"answer")
        assert await local.app.receive_some() == b"answer"
        await server.stream.send_all(b", later")
        await server.stream.send_eof()
        assert await read_all(local.app) == b", later"
        await local.over.wait()
        assert local.failure is None


async def test_megabytes_each_way_at_once_arrive_unchanged(anywhere: Device) -> None:
    there, back = random.Random(1).randbytes(3 << 20), random.Random(2).randbytes(3 << 20)
    got: dict[str, bytes] = {}
    async with serving() as server, forwarding(anywhere, server.target) as local:
        await server.accepted.wait()
        async with trio.open_nursery() as nursery:

            async def write(stream: trio.SocketStream, data: bytes) -> None:
                await stream.send_all(data)
                await stream.send_eof()

            async def read(name: str, stream: trio.SocketStream) -> None:
                got[name] = await read_all(stream)

            nursery.start_soon(write, local.app, there)
            nursery.start_soon(write, server.stream, back)
            nursery.start_soon(read, "there", server.stream)
            nursery.start_soon(read, "back", local.app)
        assert (got["there"] == there, got["back"] == back) == (True, True)
        await local.over.wait()
        assert local.failure is None


async def test_a_reader_that_stops_stops_the_writer_and_nothing_grows(anywhere: Device) -> None:
    async with serving() as server, forwarding(anywhere, server.target) as local:
        await server.accepted.wait()
        with trio.move_on_after(0.2) as scope:
            await local.app.send_all(bytes(64 << 20))
        assert scope.cancelled_caught
        local.app.socket.shutdown(socket.SHUT_WR)
        with trio.fail_after(5):
            received = len(await read_all(server.stream))
        assert 256 * KIB < received < 32 << 20


async def test_a_reset_over_there_is_a_failure_here(anywhere: Device) -> None:
    async with serving() as server, forwarding(anywhere, server.target) as local:
        await server.accepted.wait()
        await server.stream.send_all(b"half")
        assert await local.app.receive_some() == b"half"
        server.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        server.stream.socket.close()
        await local.over.wait()
        assert isinstance(local.failure, StreamBrokenError)


async def test_a_reset_is_told_although_the_channel_is_closed_before_it_is_read() -> None:
    """What this side sends meanwhile finds no channel any more; that is not the reason."""
    channel, device = channel_pair(FORWARD_PROTOCOL)
    for message in (b"a", b"b", b"c", '{"reset":true}'):
        await device.send(message)
    await device.aclose()
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in socket.socketpair())
    async with ours, theirs:
        await ours.send_all(b"more")
        with pytest.raises(StreamBrokenError, match="reset at the other side"):
            await relay(CreditedChannel(channel), TcpStream(theirs))


async def test_who_lingers_waits_until_the_device_has_written_everything(nursery: trio.Nursery) -> None:
    channel, device = channel_pair(FORWARD_PROTOCOL)
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in socket.socketpair())
    over = trio.Event()

    async def carry() -> None:
        await forward_stream(channel, ForwardTarget("127.0.0.1", 1), TcpStream(theirs), linger=10)
        over.set()

    async with ours, theirs:
        nursery.start_soon(carry)
        assert json.loads(await device.receive()) == {"connect": {"host": "127.0.0.1", "port": 1}}
        await ours.send_eof()
        for message in ('{"connected":{"address":"127.0.0.1:1"}}', '{"eof":true}'):
            await device.send(message)
        assert json.loads(await device.receive()) == {"eof": True}
        await trio.testing.wait_all_tasks_blocked()
        assert not over.is_set()
        await device.aclose()
        with trio.fail_after(5):
            await over.wait()


async def test_who_lingers_is_told_where_the_device_does_not_finish(autojump_clock: trio.testing.MockClock) -> None:
    channel, device = channel_pair(FORWARD_PROTOCOL)
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in socket.socketpair())
    async with ours, theirs:
        await ours.send_eof()
        for message in ('{"connected":{"address":"127.0.0.1:1"}}', '{"eof":true}'):
            await device.send(message)
        begun = trio.current_time()
        with pytest.raises(ServiceError, match="had not written everything after 10 s") as caught:
            await forward_stream(channel, ForwardTarget("127.0.0.1", 1), TcpStream(theirs), linger=10)
        assert caught.value.code == ErrorCode.TIMEOUT
        assert trio.current_time() - begun == 10


async def test_an_end_of_the_session_resets_the_connection_over_there(anywhere: Device) -> None:
    async with serving() as server, forwarding(anywhere, server.target):
        await server.accepted.wait()
        anywhere.cancel()
        with pytest.raises(trio.BrokenResourceError):
            await read_all(server.stream)


@pytest.mark.parametrize(
    ("host", "code", "words"),
    [
        ("169.254.169.254", ErrorCode.UNAUTHORIZED, "forwards do not go to 169.254.169.254"),
        ("::ffff:169.254.169.254", ErrorCode.UNAUTHORIZED, "forwards do not go to"),
        ("224.0.0.1", ErrorCode.UNAUTHORIZED, "forwards do not go to 224.0.0.1"),
        ("0.0.0.0", ErrorCode.UNAUTHORIZED, "forwards do not go to 0.0.0.0"),
        ("no such name", ErrorCode.MALFORMED, "host is no name"),
        ("nobody.invalid", ErrorCode.NOT_FOUND, "nobody.invalid: "),
    ],
)
async def test_where_no_forward_goes(anywhere: Device, host: str, code: ErrorCode, words: str) -> None:
    async with forwarding(anywhere, ForwardTarget(host, 80)) as local:
        await local.over.wait()
        assert isinstance(local.failure, ServiceError)
        assert local.failure.code == code
        assert words in local.failure.reason


@pytest.mark.parametrize("host", ["127.0.0.1", "::ffff:127.0.0.1"])
async def test_the_broker_is_off_limits(anywhere: Device, host: str) -> None:
    # tests/support/device.py says where it is.
    async with forwarding(anywhere, ForwardTarget(host, 1)) as local:
        await local.over.wait()
        assert isinstance(local.failure, ServiceError)
        assert local.failure.code == ErrorCode.UNAUTHORIZED


async def test_a_trust_line_that_names_the_address_lifts_the_bar(home: object, nursery: trio.Nursery) -> None:
    device = Device(nursery, wants=("forward:*:*",), granted=("forward:*:*", "forward:127.0.0.1:1"))
    async with forwarding(device, ForwardTarget("localhost", 1)) as local:
        await local.over.wait()
        assert isinstance(local.failure, ServiceError)
        assert local.failure.code == ErrorCode.REFUSED  # it was tried: nobody listens there


@pytest.mark.parametrize(
    ("ip", "port", "granted", "barred"),
    [
        ("169.254.169.254", 80, ("forward:*:*",), True),
        ("169.254.169.254", 80, ("forward:*:80", "forward:metadata:80", "forward:169.254.169.254:81"), True),
        ("169.254.169.254", 80, ("shell", "forward:169.254.169.254:80"), False),
        ("169.254.169.254", 80, ("forward:169.254.169.254:*",), False),
        ("::ffff:169.254.169.254", 80, ("forward:169.254.169.254:80",), False),
        ("fd00:ec2::254", 80, ("forward:[fd00:ec2::254]:80",), False),
        ("fd00:ec2::254", 80, ("forward:[FD00:EC2:0::254]:80",), False),
        ("127.0.0.1", 8883, ("forward:*:*", "forward:localhost:8883"), True),
        ("127.0.0.1", 8883, ("forward:127.0.0.1:8883",), False),
        ("127.0.0.1", 22, (), False),
        ("127.9.9.9", 8883, (), True),  # another address of the host that the broker is on
        ("192.0.2.1", 8883, (), False),
    ],
)
async def test_what_a_device_bars(ip: str, port: int, granted: tuple[str, ...], barred: bool) -> None:
    assert await Boundary(("127.0.0.1", 8883)).bars(ip, port, granted) is barred


async def test_a_broker_elsewhere_is_barred_on_every_port() -> None:
    """It may listen on others: without TLS, for WebSockets."""
    boundary = Boundary(("192.0.2.7", 8883))
    assert await boundary.bars("192.0.2.7", 1883, ("forward:*:*",))
    assert not await boundary.bars("192.0.2.7", 1883, ("forward:192.0.2.7:1883",))
    assert not await boundary.bars("192.0.2.8", 8883, ())


@pytest.mark.parametrize(("port", "barred"), [(8883, True), (80, False)])
async def test_while_the_broker_cannot_be_resolved_its_port_is_barred(port: int, barred: bool) -> None:
    assert await Boundary(("broker.invalid", 8883)).bars("192.0.2.1", port, ()) is barred


async def test_nobody_listens(anywhere: Device) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with forwarding(anywhere, ForwardTarget("127.0.0.1", port)) as local:
            await local.over.wait()
            assert isinstance(local.failure, ServiceError)
            assert local.failure.code == ErrorCode.REFUSED
            assert local.failure.reason == f"127.0.0.1:{port}: Connection refused"


async def test_a_session_reaches_only_what_it_wanted(home: object, nursery: trio.Nursery) -> None:
    async with serving() as server:
        port = server.target.port
        narrow = Device(nursery, wants=(f"forward:127.0.0.1:{port + 1 if port < 65535 else 1}", "forward:other:*"))
        async with forwarding(narrow, server.target) as local:
            await local.over.wait()
            assert isinstance(local.failure, ServiceError)
            assert local.failure.code == ErrorCode.UNAUTHORIZED
            assert f"forward:127.0.0.1:{port}" in local.failure.reason
        assert not server.accepted.is_set()


@pytest.mark.parametrize(
    "message",
    [
        b"bytes",
        "{}",
        '{"connect":[]}',
        '{"connect":{"host":"","port":22}}',
        '{"connect":{"host":"a","port":0}}',
        '{"connect":{"host":"a","port":65536}}',
        '{"connect":{"host":"a","port":"22"}}',
        '{"connect":{"host":"a\\u0000b","port":22}}',
        '{"connect":{"host":"' + "a" * 254 + '","port":22}}',
    ],
)
async def test_malformed_requests(anywhere: Device, message: bytes | str) -> None:
    channel = anywhere.open(FORWARD_PROTOCOL)
    await channel.send(message)
    (answer,) = await drain(channel)
    assert json.loads(answer)["error"]["code"] == "malformed"


@pytest.mark.parametrize("message", ['{"eof":false}', '{"later":1}', '{"reset":1}'])
async def test_malformed_messages_reset_the_connection(anywhere: Device, message: str) -> None:
    async with serving() as server:
        with trio.fail_after(5):
            channel = anywhere.open(FORWARD_PROTOCOL)
            await channel.send(json.dumps({"connect": {"host": "127.0.0.1", "port": server.target.port}}))
            await server.accepted.wait()
            await channel.send(message)
            with pytest.raises(trio.BrokenResourceError):
                await read_all(server.stream)
            *_, answer = await drain(channel)
            assert json.loads(answer)["error"]["code"] == "malformed"
            await anywhere.idle()


async def test_bytes_after_eof_are_malformed(anywhere: Device) -> None:
    async with serving() as server:
        with trio.fail_after(5):
            channel = anywhere.open(FORWARD_PROTOCOL)
            await channel.send(json.dumps({"connect": {"host": "127.0.0.1", "port": server.target.port}}))
            for message in ('{"eof":true}', b"more"):
                with suppress(trio.BrokenResourceError):
                    await channel.send(message)
            *_, answer = await drain(channel)
            assert json.loads(answer)["error"] == {"code": "malformed", "reason": "bytes after eof"}
            await anywhere.idle()


@pytest.mark.parametrize(
    ("ip", "off"),
    [
        ("127.0.0.1", False),
        ("192.168.1.20", False),
        ("fd00::1", False),
        ("2001:db8::1", False),
        ("169.254.169.254", True),
        ("fe80::1%eth0", True),
        ("fd00:ec2::254", True),
        ("100.100.100.200", True),
        ("ff02::1", True),
        ("::", True),
        ("255.255.255.255", True),
        ("::ffff:224.0.0.1", True),
        ("168.63.129.16", True),
        ("fd20:ce::254", True),
        ("64:ff9b::a9fe:a9fe", True),
        ("2002:a9fe:a9fe::1", True),
        ("::169.254.169.254", True),
        ("64:ff9b::7f00:1", False),
        ("::1", False),
    ],
)
def test_off_limits(ip: str, off: bool) -> None:
    assert is_off_limits(ip) is off


@pytest.mark.parametrize(
    ("host", "capability"), [("localhost", "forward:localhost:22"), ("fd00::1", "forward:[fd00::1]:22")]
)
def test_the_capability_of_a_target(host: str, capability: str) -> None:
    assert ForwardTarget(host, 22).capability == capability
