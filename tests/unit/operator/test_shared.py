"""A shared session: its socket, its frames, and what clients can and cannot do to each other."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from edgeice.cli.groups import first_of
from edgeice.errors import ConfigError, DecodeError, LocalProtocolError
from edgeice.operator import shared_master
from edgeice.operator.config import OperatorConfig
from edgeice.operator.errors import OperatorError, UnreachableError
from edgeice.operator.interface import Move, Step
from edgeice.operator.shared_client import NotSharedError, SharedChannel, SharedSession, ask_shared, join_shared
from edgeice.operator.shared_frames import MAX_PAYLOAD, FrameDecoder, FrameSocket, Kind
from edgeice.operator.shared_master import SharedMaster, listen_shared
from edgeice.operator.shared_path import make_folder, shared_socket
from edgeice.services import PING_PROTOCOL, PeerError, PingClient, ServiceError, serve_ping
from edgeice.services.credit import INITIAL_CREDIT, CreditedChannel
from edgeice.settings import BrokerSection
from tests.support.channels import MemoryChannel, channel_pair, drain

PROTOCOL = "edgeice.test.1"
WANT = ("exec", "forward:localhost:*")


class FakeSession:
    """A session whose device is the test: it takes the other end of each channel that is opened."""

    name = "pi"

    def __init__(self) -> None:
        self.max_channels = 64
        self.heard_at = trio.current_time()
        #: What a device that takes nothing lets into a channel, bytes.
        self.limit = 1 << 30
        self._opened_send, self.opened = trio.open_memory_channel[MemoryChannel](1000)
        self.lost = trio.Event()
        self.refuse: Exception | None = None

    async def open(self, protocol: str) -> MemoryChannel:
        await trio.lowlevel.checkpoint()
        if self.refuse is not None:
            raise self.refuse
        ours, device = channel_pair(protocol, limit=self.limit)
        self._opened_send.send_nowait(device)
        return ours

    async def wait_ended(self) -> NoReturn:
        await self.lost.wait()
        raise UnreachableError("session", "the session with pi ended: idle: nobody spoke")


class Shared:
    """A master that serves a session, in this process."""

    def __init__(self, path: Path, idle: float | None = None, max_channels: int = 64) -> None:
        self.path = path
        self.session = FakeSession()
        self.session.max_channels = max_channels
        self.master = SharedMaster("pi", path, idle=idle)
        self.error: BaseException | None = None
        self.over = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            async with self.master.serve(listen_shared(self.path)), trio.open_nursery() as nursery:
                nursery.start_soon(self.master.hold, self.session, WANT)
                await trio.testing.wait_all_tasks_blocked()
                task_status.started()
        except BaseExceptionGroup as group:
            self.error = first_of(group, OperatorError)
            if self.error is None:
                raise
        self.over.set()

    @asynccontextmanager
    async def client(self, *want: str) -> AsyncIterator[SharedSession]:
        joined = await join_shared(self.path, "pi", want)
        async with joined.kept(None):
            yield joined

    @asynccontextmanager
    async def channel(self, protocol: str = PROTOCOL) -> AsyncIterator[tuple[SharedChannel, MemoryChannel]]:
        """The client's end and the device's."""
        async with self.client() as client:
            yield await client.open(protocol), await self.session.opened.receive()

    def raw(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.path))
        connection.setblocking(False)
        return connection


@pytest.fixture
async def shared(tmp_path: Path, nursery: trio.Nursery) -> Shared:
    shared = Shared(tmp_path / "pi.sock")
    await nursery.start(shared.run)
    return shared


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names alone


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">I", kind << 24 | len(payload)) + payload


# Where the socket stands


def operator_config(**changes: str) -> OperatorConfig:
    fields = {"fleet": "home", "operator": "alice", "key": "/k/operator.key", "url": "mqtt://localhost"} | changes
    broker = BrokerSection(url=fields.pop("url"))
    return OperatorConfig(**(fields | {"key": Path(fields["key"])}), broker=broker)  # type: ignore[arg-type]


def test_the_socket_is_in_the_runtime_folder_or_else_in_the_state_folder(tmp_path: Path) -> None:
    path = shared_socket(operator_config(), "pi17", {"XDG_RUNTIME_DIR": str(tmp_path)})
    assert path.parent == tmp_path / "edgeice"
    assert path.name.startswith("pi17-")
    assert path.suffix == ".sock"
    for gone in ({}, {"XDG_RUNTIME_DIR": str(tmp_path / "gone")}, {"XDG_RUNTIME_DIR": "relative"}):
        state = {"XDG_STATE_HOME": str(tmp_path / "state")}
        assert shared_socket(operator_config(), "pi17", gone | state) == tmp_path / "state" / "edgeice" / path.name
    assert shared_socket(operator_config(), "pi17", {}).parent == Path.home() / ".local/state/edgeice"


def test_what_makes_it_another_session_makes_it_another_socket() -> None:
    changes: list[dict[str, str]] = [
        {},
        {"fleet": "away"},
        {"operator": "bob"},
        {"key": "/k/other.key"},
        {"url": "mqtt://127.0.0.1"},
    ]
    paths = {shared_socket(operator_config(**each), "pi", {}) for each in changes}
    assert len(paths | {shared_socket(operator_config(), "pi2", {})}) == len(changes) + 1


def test_a_device_name_that_is_none_stays_in_the_folder(tmp_path: Path) -> None:
    path = shared_socket(operator_config(), "../../etc/passwd", {"XDG_RUNTIME_DIR": str(tmp_path)})
    assert path.parent == tmp_path / "edgeice"
    assert path.name.startswith(".._.._etc_passwd-")


def test_the_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "edgeice" / "pi.sock"
    make_folder(path)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.parent.chmod(0o750)
    with pytest.raises(ConfigError, match="others may enter it; run: chmod 700 "):
        make_folder(path)
    path.parent.rmdir()
    path.parent.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="should be a folder of yours"):
        make_folder(path)
    path.parent.unlink()
    path.parent.touch()
    with pytest.raises(ConfigError, match="cannot be made: File exists"):
        make_folder(path)


# Frames


@given(st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=300))), st.lists(st.integers(1, 400)))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(
    frames: list[tuple[Kind, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(frame(kind, payload) for kind, payload in frames)
    decoder, found = FrameDecoder(), []
    for size in [*cuts, len(stream)]:
        decoder.feed(stream[:size])
        stream = stream[size:]
        while (each := decoder.next_frame()) is not None:
            found.append(each)
    assert found == frames


@given(st.binary(max_size=64))
def test_garbage_is_decoded_or_refused(data: bytes) -> None:
    decoder = FrameDecoder()
    decoder.feed(data)
    try:
        while decoder.next_frame() is not None:
            pass
    except DecodeError:
        return
    # What waits for more is the beginning of a frame that may be.
    assert len(data) < 4 or data[0] in (1, 2, 3)


def test_a_frame_that_is_too_large_is_refused_before_it_came() -> None:
    decoder = FrameDecoder()
    decoder.feed(struct.pack(">I", Kind.BINARY << 24 | MAX_PAYLOAD + 1))
    with pytest.raises(DecodeError):
        decoder.next_frame()


async def test_a_send_that_was_canceled_tears_no_frame() -> None:
    ours, theirs = (FrameSocket(each) for each in socket.socketpair())
    large = random.Random(3).randbytes(MAX_PAYLOAD)
    sent = 0

    async def fill() -> None:
        nonlocal sent
        while True:
            await ours.send(Kind.BINARY, large)
            sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()  # in the midst of a frame
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send, Kind.TEXT, b"next")
        for _ in range(sent + 1):
            assert await theirs.receive() == (Kind.BINARY, large)
        assert await theirs.receive() == (Kind.TEXT, b"next")
    ours.close()
    assert await theirs.receive() is None
    theirs.close()


# Channels


async def test_messages_pass_both_ways_unchanged_and_in_order(shared: Shared) -> None:
    rng = random.Random(5)
    messages: list[bytes | str] = ["", b"", "Grüße \U0001f600", b"\x00\x01", rng.randbytes(16384), "x" * 16384]
    async with shared.channel() as (here, there):
        assert (here.protocol, there.protocol) == (PROTOCOL, PROTOCOL)
        for message in messages:
            await here.send(message)
            await there.send(message)
        assert [await there.receive() for _ in messages] == messages
        assert [await here.receive() for _ in messages] == messages
        await there.send(bytes(MAX_PAYLOAD))
        assert await here.receive() == bytes(MAX_PAYLOAD)
        status, frames = await ask_shared(shared.path, "status")
        frames.close()
        assert (status["clients"], status["channels"], status["want"]) == (1, 1, [*WANT])


@pytest.mark.parametrize("leave", ["aclose", "abort", "scope"])
async def test_what_the_client_sent_before_it_closed_arrives(shared: Shared, leave: str) -> None:
    async with shared.channel() as (here, there):
        for number in range(100):
            await here.send(str(number))
        if leave == "aclose":
            await here.aclose()
        elif leave == "abort":
            here.abort()
        if leave != "scope":
            with pytest.raises(trio.ClosedResourceError):
                await here.receive()
            with pytest.raises(trio.ClosedResourceError):
                await here.send("late")
            await here.aclose()
    assert [await there.receive() for _ in range(100)] == [str(number) for number in range(100)]
    with pytest.raises(trio.EndOfChannel):
        await there.receive()


async def test_what_the_device_sent_before_it_closed_arrives(shared: Shared) -> None:
    async with shared.channel() as (here, there):
        for number in range(100):
            await there.send(str(number))
        await there.aclose()
        assert [await here.receive() for _ in range(100)] == [str(number) for number in range(100)]
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await here.receive()
        with pytest.raises(trio.BrokenResourceError):
            await here.send("late")


async def test_closing_wakes_who_receives(shared: Shared) -> None:
    async with shared.channel() as (here, _there), trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await here.receive()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        here.abort()


async def test_a_channel_that_broke_is_broken_for_the_client(shared: Shared) -> None:
    async with shared.channel() as (here, there):
        there.break_session()
        with pytest.raises(trio.BrokenResourceError):
            await here.receive()


async def test_a_service_runs_over_it_as_over_its_own_channel(shared: Shared, nursery: trio.Nursery) -> None:
    async with shared.channel(PING_PROTOCOL) as (here, there):
        nursery.start_soon(serve_ping_quietly, there)
        client = PingClient(here)
        for _ in range(3):
            assert await client.round_trip() > 0


async def serve_ping_quietly(channel: MemoryChannel) -> None:
    with suppress(trio.EndOfChannel, trio.BrokenResourceError):
        await serve_ping(channel)


async def test_credit_is_between_the_client_and_the_device(shared: Shared, nursery: trio.Nursery) -> None:
    """A client that stalls stops the device, once its credit is spent; nothing is lost."""
    data = random.Random(7).randbytes(4 * INITIAL_CREDIT)
    async with shared.channel() as (here, there):
        sender, receiver = CreditedChannel(there), CreditedChannel(here)
        sent = trio.Event()

        async def send() -> None:
            await sender.send_data(data)
            sent.set()

        async def take_grants() -> None:
            with pytest.raises(trio.EndOfChannel):
                await sender.receive()

        nursery.start_soon(send)
        nursery.start_soon(take_grants)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not sent.is_set()
        assert sender.sending.available == 0
        received = bytearray()
        while len(received) < len(data):
            message = await receiver.receive()
            assert isinstance(message, bytes)
            received += message
            await receiver.consumed(len(message))
        assert received == data
        assert sent.is_set()


async def test_a_client_that_stalls_stops_nobody_else_and_costs_no_memory(
    shared: Shared, nursery: trio.Nursery
) -> None:
    async with shared.channel() as (stalled, flooding), shared.channel(PING_PROTOCOL) as (here, there):
        nursery.start_soon(serve_ping_quietly, there)
        pinging = PingClient(here)
        sent = 0
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012  # in spite of what any service's credit allows
            while True:
                await flooding.send(bytes(16384))
                await pinging.round_trip()
                sent += 1
        assert sent < 200
        assert shared.master.drops.snapshot() == {"stalled": 1}
        count = 0
        with pytest.raises(trio.BrokenResourceError, match="too much came that was not read"):  # noqa: PT012
            while True:
                assert await stalled.receive() == bytes(16384)
                count += 1
        assert 1 <= count < sent  # what its socket held: the rest was dropped


async def test_a_device_that_stalls_holds_its_client_up(shared: Shared) -> None:
    async with shared.client() as client:
        ours, there = channel_pair(PROTOCOL, limit=65536)
        shared.session.open = lambda _protocol: returned(ours)  # type: ignore[method-assign,assignment]
        here = await client.open(PROTOCOL)
        sent = 0
        with trio.move_on_after(0.2):
            while True:
                await here.send(bytes(16384))
                sent += 1
        assert sent < 100
        assert there.high_water <= 65536
        for _ in range(sent):
            assert await there.receive() == bytes(16384)


async def returned(channel: MemoryChannel) -> MemoryChannel:
    await trio.lowlevel.checkpoint()
    return channel


# Who may, and what is refused


@pytest.mark.parametrize("want", [(), ("exec",), ("forward:localhost:22", "exec")])
async def test_what_the_session_asked_for_may_be_used(shared: Shared, want: tuple[str, ...]) -> None:
    async with shared.client(*want) as client:
        assert (client.name, client.pid) == ("pi", os.getpid())


@pytest.mark.parametrize("want", ["shell", "forward:other:22", "garbage"])
async def test_other_wants_need_another_session(shared: Shared, want: str) -> None:
    with pytest.raises(NotSharedError, match=f"it did not ask for {want}"):
        await join_shared(shared.path, "pi", ("exec", want))


@pytest.mark.parametrize("protocol", ["", "edgeice.signal.1", "x" * 65, "a\nb"])
async def test_protocols_that_are_not_for_clients(shared: Shared, protocol: str) -> None:
    async with shared.client() as client:
        with pytest.raises(ServiceError, match="opens no channel of that protocol") as caught:
            await client.open(protocol)
        assert not isinstance(caught.value, PeerError)
        shared.session.refuse = LocalProtocolError("no stream is free")
        with pytest.raises(ServiceError, match="limit: no stream is free"):
            await client.open(PROTOCOL)


async def test_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "pi.sock"
    with pytest.raises(NotSharedError, match="there is no "):
        await join_shared(path, "pi", ())
    listen_shared(path).close()
    with pytest.raises(NotSharedError, match=r"the process behind .* is gone"):
        await join_shared(path, "pi", ())


async def test_a_process_that_hangs_is_given_up(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    path = tmp_path / "pi.sock"
    before = descriptors()

    async def join(reason: str) -> None:
        with pytest.raises(NotSharedError, match=reason):
            await join_shared(path, "pi", ())

    with listen_shared(path) as listener:
        listener.listen(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(join, "does not answer")
            nursery.start_soon(join, "does not answer")
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.start_soon(join, "takes no connection")
            for _ in range(210):
                await trio.testing.wait_all_tasks_blocked()
                mock_clock.jump(0.01)
    assert descriptors() == before


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 400 Bad Request\r\n", frame(1, b"{}"), frame(1, b'{"joined":1}'), frame(2, b"x"), frame(1, b"[")],
)
async def test_something_else_listens_there(tmp_path: Path, nursery: trio.Nursery, answer: bytes) -> None:
    path = tmp_path / "pi.sock"
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listen_shared(path)))

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(answer)
        await stream.send_eof()
        await stream.receive_some()
        await stream.aclose()

    nursery.start_soon(trio.serve_listeners, serve, [listener])
    with pytest.raises(NotSharedError):
        await join_shared(path, "pi", ())
    nursery.cancel_scope.cancel()


async def test_another_user_is_not_served(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: 4242)
        with pytest.raises(NotSharedError, match="another user serves it"):
            await join_shared(shared.path, "pi", ())
        with shared.raw() as connection:
            connection.send(frame(1, b'{"status":{}}'))
            await closed(connection)
    assert shared.master.drops.snapshot() == {"other-user": 2}


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "zeros": bytes(100_000),
    "huge": struct.pack(">I", 0x02FFFFFF) + bytes(1 << 20),
    "no-json": frame(1, b"{"),
    "deep": frame(1, b'{"join":' + b"[" * 8000),
    "no-object": frame(1, b"[]"),
    "no-command": frame(1, b'{"fetch":{}}'),
    "two-commands": frame(1, b'{"status":{},"stop":{}}'),
    "binary-first": frame(3, b"\0"),
    "no-utf-8": frame(1, b"\xff"),
    "bad-want": frame(1, b'{"join":{"want":[1]}}'),
    "bad-protocol": frame(1, b'{"open":{"protocol":null}}'),
    "after-open": frame(1, b'{"open":{"protocol":"edgeice.test.1"}}') + frame(1, b'{"stop":{}}'),
    "text-in-channel": frame(1, b'{"open":{"protocol":"edgeice.test.1"}}') + frame(2, b"\xff"),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_ends_its_connection_and_nothing_else(shared: Shared, data: bytes) -> None:
    async with shared.channel() as (here, there):
        with shared.raw() as connection:
            await write_all(connection, data)
            await closed(connection)
        assert shared.master.drops["garbage"] == 1
        await there.send("still here")
        assert await here.receive() == "still here"


async def closed(connection: socket.socket) -> None:
    """Wait until the other end closes, whatever it says before."""
    with suppress(ConnectionResetError):
        while True:
            await trio.lowlevel.wait_readable(connection)
            if not connection.recv(65536):
                return


async def test_a_message_that_the_session_does_not_take_ends_its_channel_only(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shared.channel() as (here, there), shared.channel() as (other, far):

        async def refuse(_data: bytes | str) -> None:
            await trio.lowlevel.checkpoint()
            raise LocalProtocolError("a message of 262144 bytes, the peer takes 65536")

        monkeypatch.setattr(there.peer, "send", refuse)
        await here.send(bytes(MAX_PAYLOAD))
        with pytest.raises(trio.BrokenResourceError):
            await here.receive()
        with pytest.raises(trio.EndOfChannel):
            await there.receive()
        assert shared.master.drops.snapshot() == {"garbage": 1}
        await other.send("still here")
        assert await far.receive() == "still here"


async def write_all(connection: socket.socket, data: bytes) -> None:
    while data:
        await trio.lowlevel.wait_writable(connection)
        try:
            data = data[connection.send(data) :]
        except BrokenPipeError:
            return


async def test_who_says_nothing_is_let_go(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        shared = Shared(tmp_path / "pi.sock")
        await nursery.start(shared.run)
        with shared.raw() as connection:
            await trio.testing.wait_all_tasks_blocked(0.05)
            mock_clock.jump(5.1)
            await trio.lowlevel.wait_readable(connection)
            assert connection.recv(1) == b""
        assert shared.master.drops.snapshot() == {"silent": 1}
        shared.master.end("done")


async def test_connections_beyond_the_bound_are_refused(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_master, "_AT_ONCE", 3)
    async with shared.client() as client:
        channels = [await client.open(PROTOCOL) for _ in range(2)]
        with pytest.raises(ServiceError, match="limit: it has 3 connections already"):
            await client.open(PROTOCOL)
        await channels[0].aclose()
        await trio.testing.wait_all_tasks_blocked(0.05)
        await client.open(PROTOCOL)


async def test_200_clients_that_came_and_went_leave_nothing(shared: Shared) -> None:
    async with shared.channel() as (here, there):
        before, tasks = descriptors(), trio.lowlevel.current_statistics().tasks_living
        for number in range(200):
            async with shared.channel() as (client, device):
                await client.send("hello")
                assert await device.receive() == "hello"
                if number % 3 == 0:
                    await device.aclose()
                if number % 3 == 1:
                    await client.aclose()
        while shared.master.status()["channels"] != 1 or shared.master.status()["clients"] != 1:
            await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (descriptors(), trio.lowlevel.current_statistics().tasks_living) == (before, tasks)
        await there.send("still here")
        assert await here.receive() == "still here"


# Ends


async def test_notices_and_path_changes_are_told_to_those_who_joined(shared: Shared) -> None:
    shared.master.watch(Step("path", "host a -> host b"))
    steps: list[Step] = []
    changed = trio.Event()

    def watch(step: Step) -> None:
        steps.append(step)
        if len(steps) == 3:
            changed.set()

    client = await join_shared(shared.path, "pi", ())
    async with client.kept(watch):
        assert steps == [Step("path", "host a -> host b")]
        shared.master.watch(Step("checks", "nothing of theirs"))
        shared.master.watch(Step("notice", "pi: no answer\n for 5 s"))
        shared.master.watch(Step("path", "no path; restarting ICE"))
        await changed.wait()
    assert steps[1:] == [Step("notice", "pi: no answer? for 5 s"), Step("path", "no path; restarting ICE")]


async def test_a_move_is_told_with_what_was_measured(shared: Shared) -> None:
    moves = [
        Move("wlan0 direct", "wwan0 relay", "host a -> relay b", "base_gone", 212.5, 180.0),
        Move("wwan0 relay", "wlan0 direct", "host a -> host b", "better", 0.0),
    ]
    heard, steps = trio.open_memory_channel[Step](9)
    session = await join_shared(shared.path, "pi", ())
    async with session.kept(heard.send_nowait):
        await trio.testing.wait_all_tasks_blocked()
        for move in moves:
            shared.master.watch(Step("move", move.text, move))
            assert (await steps.receive()) == Step("move", move.text, move)
    assert [move.line for move in moves] == [
        "wlan0 direct -> wwan0 relay, 180 ms; pause 212 ms, the interface was lost; host a -> relay b",
        "wwan0 relay -> wlan0 direct; no pause, a better way; host a -> host b",
    ]


async def test_the_end_of_the_session_is_told(shared: Shared) -> None:
    async with shared.channel() as (here, _there):
        shared.session.lost.set()
        with pytest.raises(trio.BrokenResourceError, match="the session with pi ended: idle: nobody spoke"):
            await here.receive()
    async with trio.open_nursery():
        with trio.fail_after(5):
            await shared.over.wait()
    assert str(shared.error) == "the session with pi ended: idle: nobody spoke"
    assert not shared.path.exists()


async def test_who_waits_for_the_end_is_told_why(shared: Shared) -> None:
    async with shared.client() as client:
        shared.master.end("it was told to stop")
        with pytest.raises(UnreachableError, match=r"^the shared session with pi ended: it was told to stop$"):
            await client.wait_ended()
        assert (await client.why_ended()).exit_code == 3
        with pytest.raises(UnreachableError, match="it was told to stop"):
            await client.open(PROTOCOL)


async def test_stop_ends_it_and_the_socket_is_gone_before(shared: Shared) -> None:
    answer, frames = await ask_shared(shared.path, "stop")
    assert answer == {"pid": os.getpid()}
    assert await frames.receive() is None
    assert not shared.path.exists()
    frames.close()
    with trio.fail_after(5):
        await shared.over.wait()
    assert shared.error is None


async def test_idle_ends_it_only_while_nobody_uses_it(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        shared = Shared(tmp_path / "pi.sock", idle=60)
        await nursery.start(shared.run)
        mock_clock.jump(59)
        shared.session.heard_at = trio.current_time()
        async with shared.client():
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(1000)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not shared.over.is_set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(59)
        _status, frames = await ask_shared(shared.path, "status")  # which does not count
        frames.close()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not shared.over.is_set()
        mock_clock.jump(1.1)
        await shared.over.wait()
    assert not shared.path.exists()


async def test_before_the_session_is_open_clients_are_told_so(tmp_path: Path) -> None:
    path = tmp_path / "pi.sock"
    async with SharedMaster("pi", path).serve(listen_shared(path)):
        with pytest.raises(NotSharedError, match="it is not open yet"):
            await join_shared(path, "pi", ())
        status, frames = await ask_shared(path, "status")
        frames.close()
        assert json.dumps(status)
        assert (status["open"], status["pid"]) == (False, os.getpid())
    assert not path.exists()


# Clients that go while something stalls


OPEN = frame(1, b'{"open":{"protocol":"edgeice.test.1"}}')


@pytest.mark.parametrize("last", [b"", frame(3, bytes(16384))[:5000]], ids=["whole", "torn"])
async def test_a_client_that_dies_while_the_device_takes_nothing_is_noticed_at_once(
    shared: Shared, last: bytes
) -> None:
    shared.session.limit = 65536
    with shared.raw() as dying:
        await write_all(dying, OPEN)
        there = await shared.session.opened.receive()
        for _ in range(20):
            await write_all(dying, frame(3, bytes(16384)))
        await write_all(dying, last)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert there.high_water == 65536
    await there.wait_peer_closed()
    # What had left before is all that comes.
    assert [len(message) for message in await drain(there)] == [16384] * 4
    assert shared.master.drops.snapshot() == {}


async def test_a_client_that_closes_while_the_device_takes_nothing_still_says_all(shared: Shared) -> None:
    shared.session.limit = 65536
    async with shared.channel() as (here, there):
        for number in range(20):
            await here.send(bytes([number]) * 16384)
        await there.send("an answer that nobody will read")
        await here.aclose()
        await there.send("and another one")
        assert await drain(there) == [bytes([number]) * 16384 for number in range(20)]


async def test_a_client_that_dies_while_it_reads_nothing_is_noticed_at_once(shared: Shared) -> None:
    with shared.raw() as dying:
        await write_all(dying, OPEN)
        there = await shared.session.opened.receive()
        for _ in range(INITIAL_CREDIT // 16384):
            await there.send(bytes(16384))
        await trio.testing.wait_all_tasks_blocked(0.02)
    await there.wait_peer_closed()
    assert shared.master.drops.snapshot() == {}


# More channels than the device takes


async def test_channels_beyond_what_the_device_takes_wait_and_are_told_so_once(tmp_path: Path) -> None:
    steps: list[Step] = []
    opened: list[SharedChannel] = []
    async with trio.open_nursery() as nursery:
        shared = Shared(tmp_path / "pi.sock", max_channels=2)
        await nursery.start(shared.run)
        client = await join_shared(shared.path, "pi", ())

        async def open_one() -> None:
            opened.append(await client.open(PROTOCOL))

        async with client.kept(steps.append), trio.open_nursery() as opening:
            for _ in range(2):
                await open_one()
            devices = [await shared.session.opened.receive() for _ in range(2)]
            for _ in range(2):
                opening.start_soon(open_one)
            while shared.master.status()["waiting"] != 2:
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(opened) == 2
            assert (shared.master.status()["channels"], shared.master.status()["max_channels"]) == (2, 2)
            # A place is free once the device knows that the channel is closed, and not before.
            devices[0].acknowledges = False
            await opened[0].aclose()
            assert await drain(devices[0]) == []
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert shared.master.status()["waiting"] == 2
            devices[0].acknowledge()
            devices.append(await shared.session.opened.receive())
            await devices[1].aclose()
            await opened[1].aclose()
            devices.append(await shared.session.opened.receive())
        assert steps == [
            Step("notice", "no channel of the shared session's 2 is free for this; waiting until one ends")
        ]
        assert (len(opened), len(devices)) == (4, 4)
        shared.master.end("done")


@pytest.fixture
async def narrow(tmp_path: Path, nursery: trio.Nursery) -> Shared:
    """One whose device takes a single channel."""
    shared = Shared(tmp_path / "pi.sock", max_channels=1)
    await nursery.start(shared.run)
    return shared


async def test_who_gives_up_waiting_leaves_no_place_behind(narrow: Shared) -> None:
    shared = narrow
    async with shared.channel() as (here, _there), shared.client() as other:
        with trio.move_on_after(0.05):
            await other.open(PROTOCOL)
        with shared.raw() as impatient:
            await write_all(impatient, OPEN + frame(2, b"without being asked"))
            await closed(impatient)
        while shared.master.status()["waiting"]:
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert shared.master.drops.snapshot() == {"unasked": 1}
        await here.aclose()
        await other.open(PROTOCOL)


async def test_who_waits_for_a_channel_is_told_of_the_sessions_end(narrow: Shared) -> None:
    shared = narrow
    async with shared.channel(), shared.client() as other, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(UnreachableError, match="the session with pi ended: idle: nobody spoke"):
                await other.open(PROTOCOL)

        nursery.start_soon(wait)
        while not shared.master.status()["waiting"]:
            await trio.testing.wait_all_tasks_blocked(0.01)
        shared.session.lost.set()
