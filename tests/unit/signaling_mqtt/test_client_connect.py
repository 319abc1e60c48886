"""How the client connects: what CONNECT says, versions, failures, the Will's epoch, giving up."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from edgeice.errors import ConfigError, LocalProtocolError
from edgeice.sansio import Entropy
from edgeice.signaling.broker import (
    BrokerConfig,
    FailureKind,
    MqttConnected,
    MqttConnectFailed,
    MqttDisconnected,
    MqttUnavailableError,
    TlsConfig,
    Will,
)
from edgeice.signaling.mqtt import MqttClient
from edgeice.signaling.versions import VersionMemory
from tests.support.mqtt_clients import running
from tests.support.scripted_broker import CONNECT, DISCONNECT, PUBLISH, ScriptedBroker, connack, packet


async def test_connect_of_version_5_says_what_the_session_needs() -> None:
    async with ScriptedBroker() as broker:
        config = attrs.evolve(broker.config(), username="f/d/a", password="secret")
        async with running(config, will=lambda: Will("t/status", b"lost")):
            connect = await (await broker.accept()).welcome()
    assert connect.body == (
        b"\0\4MQTT\5"
        # User name, password, Will with QoS 1 and retain; no Clean Start.
        b"\xec"
        b"\0\x3c"
        # Session Expiry 60 s (Will delay + 30), Receive Maximum 32, Maximum Packet Size 65536.
        b"\x0d\x11\0\0\0\x3c\x21\0\x20\x27\0\1\0\0"
        b"\0\x0dedgeice:f:d:a"
        # Will Delay 30 s.
        b"\x05\x18\0\0\0\x1e\0\x08t/status\0\4lost"
        b"\0\5f/d/a\0\6secret"
    )


@pytest.mark.parametrize("refusal", [connack(0x84), connack(1, level=4)], ids=["as-5", "as-3.1.1"])
async def test_a_refused_version_5_is_followed_by_3_1_1_at_once(refusal: bytes) -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await broker.accept()
        assert (await session.expect(CONNECT)).level == 5
        await session.send(refusal)
        connect = await (await broker.accept()).welcome()
        failed = await party.next(MqttConnectFailed)
        assert (failed.kind, failed.retry_in) == (FailureKind.UNSUPPORTED_VERSION, 0.0)
        assert connect.level == 4
        # Clean Session 0, as the session is to survive a move.
        assert connect.flags == 0
        assert await party.next(MqttConnected) == MqttConnected(session_present=False, version="3.1.1")


async def test_without_a_session_to_keep_3_1_1_connects_cleanly() -> None:
    async with ScriptedBroker() as broker, running(broker.config(persistent=False)):
        session = await broker.accept()
        assert (await session.expect(CONNECT)).flags == 0
        await session.send(connack(0x84))
        assert (await (await broker.accept()).welcome()).flags == 2


async def test_two_closes_before_connack_change_the_version_and_two_more_change_it_back() -> None:
    levels = []
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        for attempt in range(5):
            session = await broker.accept()
            levels.append((await session.expect(CONNECT)).level)
            session.close()
            failed = await party.next(MqttConnectFailed)
            assert failed.kind is FailureKind.CLOSED
            assert (failed.retry_in == 0.0) == (attempt == 1)
            if failed.retry_in:
                party.client.reconnect_now()
    assert levels == [5, 5, 4, 4, 5]


async def test_another_failure_in_between_interrupts_the_count_of_closes() -> None:
    levels = []
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        for reply in (b"", connack(0x88), b"", connack(0x88)):
            session = await broker.accept()
            levels.append((await session.expect(CONNECT)).level)
            await session.send(reply)
            session.close()
            await party.next(MqttConnectFailed)
            party.client.reconnect_now()
    assert levels == [5, 5, 5, 5]


@pytest.mark.slow
@pytest.mark.parametrize("answer", [0, 5], ids=["accepts", "refuses"])
async def test_a_broker_silent_on_5_that_answers_3_1_1_is_spoken_to_in_that(answer: int) -> None:
    async with ScriptedBroker() as broker, running(broker.config(), will=lambda: Will("s", b"w")) as party:
        silent = await broker.accept()
        assert (await silent.expect(CONNECT)).level == 5
        probing = await broker.accept()
        probe = await probing.expect(CONNECT)
        # Clean Session and no Will: it takes nothing over, and leaves nothing.
        assert (probe.level, probe.flags) == (4, 2)
        assert probe.body.endswith(b"\0\x13edgeice:f:d:a:probe")
        await probing.send(connack(answer, level=4))
        answering = await broker.accept()
        connect = await answering.welcome()
        assert connect.level == 4
        assert b"edgeice:f:d:a\0" in connect.body
        assert (await party.next(MqttConnectFailed)).kind is FailureKind.UNANSWERED
        await party.next(MqttConnected)
        if answer == 0:
            await probing.expect(DISCONNECT)
        assert await probing.receive() is None
        assert await silent.receive() is None
        # The next connection costs no silence.
        party.client.reconnect_now()
        assert (await (await broker.accept()).welcome()).level == 4


@pytest.mark.slow
async def test_a_slow_broker_is_spoken_to_in_5() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        slow = await broker.accept()
        await slow.expect(CONNECT)
        probing = await broker.accept()
        await probing.expect(CONNECT)
        await slow.send(connack())
        assert await party.next(MqttConnected) == MqttConnected(session_present=False, version="5")
        # The probe is given up, and the connection works.
        assert await probing.receive() is None
        await party.client.publish("a", b"", qos=0)
        await slow.expect(PUBLISH)
        assert not any(isinstance(event, MqttConnectFailed) for event in party.seen)


@pytest.mark.slow
async def test_5_is_preferred_where_both_are_answered() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        slow = await broker.accept()
        await slow.expect(CONNECT)
        probing = await broker.accept()
        await probing.expect(CONNECT)
        await probing.send(connack(level=4))
        await slow.send(connack())
        assert (await party.next(MqttConnected)).version == "5"


@pytest.mark.slow
async def test_a_probe_that_fails_leaves_5_its_time() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        slow = await broker.accept()
        await slow.expect(CONNECT)
        probing = await broker.accept()
        await probing.expect(CONNECT)
        probing.close()
        await trio.testing.wait_all_tasks_blocked(0.1)
        await slow.send(connack())
        assert (await party.next(MqttConnected)).version == "5"


@pytest.mark.slow
async def test_a_finding_about_a_broker_is_shared_and_given_up() -> None:
    versions = VersionMemory()
    async with ScriptedBroker() as broker:
        versions.met_silence(broker.config(), now=trio.current_time())
        async with running(attrs.evolve(broker.config(), connect_timeout=0.2), versions=versions) as party:
            silent = await broker.accept()
            assert (await silent.expect(CONNECT)).level == 4
            assert (await party.next(MqttConnectFailed)).kind is FailureKind.UNANSWERED
            party.client.reconnect_now()
            assert (await (await broker.accept()).welcome()).level == 5
        assert versions.version(broker.config(), now=trio.current_time()) == "5"


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (connack(0x86), FailureKind.BAD_CREDENTIALS),
        (connack(0x87), FailureKind.NOT_AUTHORIZED),
        (connack(0x88), FailureKind.REFUSED_BY_BROKER),
        # Garbage and forbidden packets.
        (b"\x20\x05\0\0\x7f\xff\xff", FailureKind.CLOSED),
        (b"\xf7\xff\xff\xff\xff\xff", FailureKind.CLOSED),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20, FailureKind.CLOSED),
    ],
)
async def test_failures_have_kinds(reply: bytes, kind: FailureKind) -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await broker.accept()
        await session.expect(CONNECT)
        await session.send(reply)
        failed = await party.next(MqttConnectFailed)
        assert failed.kind is kind
        assert 0.5 <= failed.retry_in <= 1
        # The client has closed.
        assert await session.receive() is None


@pytest.mark.parametrize(("properties", "said"), [(b"\x24\0", "no QoS 1"), (b"\x25\0", "no retained messages")])
async def test_a_broker_that_lacks_what_signaling_needs(properties: bytes, said: str) -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await broker.accept()
        await session.welcome(properties=properties)
        failed = await party.next(MqttConnectFailed)
        assert failed.kind is FailureKind.REFUSED_BY_BROKER
        assert said in failed.message
        # It has our Will by now, which is not to fire.
        await session.expect(DISCONNECT)


async def test_nobody_listens() -> None:
    async with ScriptedBroker() as broker:
        config = broker.config()
    async with running(config) as party:
        failed = await party.next(MqttConnectFailed)
    assert failed.kind is FailureKind.CONNECTION_REFUSED


async def test_the_host_has_no_valid_name() -> None:
    async with ScriptedBroker() as broker, running(attrs.evolve(broker.config(), host="a..b")) as party:
        assert (await party.next(MqttConnectFailed)).kind is FailureKind.NAME_NOT_RESOLVED


async def test_the_name_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_more: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with ScriptedBroker() as broker:
        monkeypatch.setattr("socket.getaddrinfo", fail)
        async with running(attrs.evolve(broker.config(), host="typo.example")) as party:
            failed = await party.next(MqttConnectFailed)
    assert failed.kind is FailureKind.NAME_NOT_RESOLVED
    assert "'typo.example' cannot be resolved: Name or service not known" in failed.message


async def test_a_name_with_a_dead_address_still_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def look_up(host: str, *arguments: Any, **more: Any) -> list[Any]:
        hosts = ("::1", "127.0.0.1") if host == "two.example" else (host,)
        return [real(each, *arguments, **more)[0] for each in hosts]

    # The broker listens on 127.0.0.1 only.
    async with ScriptedBroker() as broker:
        monkeypatch.setattr("socket.getaddrinfo", look_up)
        async with running(attrs.evolve(broker.config(), host="two.example")) as party:
            await (await broker.accept()).welcome()
            await party.next(MqttConnected)


class Epochs:
    """A caller's Will: a new epoch at each call."""

    def __init__(self) -> None:
        self.epoch = 0

    def __call__(self) -> Will:
        self.epoch += 1
        return Will("s", b"%d" % self.epoch)


async def test_attempts_without_a_connack_reuse_the_will() -> None:
    epochs, seen = Epochs(), []
    async with ScriptedBroker() as broker, running(broker.config(), will=epochs) as party:
        for accept in (False, False, True, False, True):
            session = await broker.accept()
            connect = await session.expect(CONNECT)
            seen.append(connect.body[-1:])
            if accept:
                await session.send(connack(level=connect.level))
                await party.next(MqttConnected)
                session.close()
                await party.next(MqttDisconnected)
            else:
                await session.send(connack(0x88, level=connect.level))
                await party.next(MqttConnectFailed)
            party.client.reconnect_now()
    assert seen == [b"1", b"1", b"1", b"2", b"2"]


async def test_an_invalid_will_ends_the_client() -> None:
    async with ScriptedBroker() as broker:
        client = MqttClient(broker.config(), will=lambda: Will("a/#", b""), entropy=Entropy.seeded(1))
        with pytest.RaisesGroup(LocalProtocolError):
            await client.run()
        with pytest.raises(MqttUnavailableError):
            await client.publish("a", b"")
        client.events.close()


async def test_a_client_runs_once() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        with pytest.raises(LocalProtocolError):
            await party.client.run()


async def test_disconnect_says_so_and_ends_the_session() -> None:
    async with ScriptedBroker() as broker, running(broker.config(), will=lambda: Will("s", b"w")) as party:
        session = await broker.accept()
        await session.welcome()
        await party.next(MqttConnected)
        await party.client.disconnect()
        goodbye = await session.expect(DISCONNECT)
        # Normal disconnection, Session Expiry 0.
        assert goodbye.body == b"\0\x05\x11\0\0\0\0"
        assert await session.receive() is None
        with pytest.raises(trio.EndOfChannel):
            await party.client.events.receive()
        with pytest.raises(MqttUnavailableError):
            await party.client.publish("a", b"")


async def test_cancellation_says_nothing_so_that_the_will_does() -> None:
    async with ScriptedBroker() as broker, running(broker.config()) as party:
        session = await broker.accept()
        await session.welcome()
        await party.next(MqttConnected)
        party.crash()
        assert await session.receive() is None


async def test_disconnect_without_a_connection() -> None:
    async with ScriptedBroker() as broker:
        async with running(broker.config()) as party:
            session = await broker.accept()
            await session.expect(CONNECT)
            await party.client.disconnect()
            assert await session.receive() is None
        never_run = MqttClient(broker.config(), will=lambda: None, entropy=Entropy.seeded(1))
        await never_run.disconnect()
        never_run.reconnect_now()
        with pytest.raises(LocalProtocolError):
            await never_run.run()
        never_run.events.close()


async def test_reconnect_now_leaves_a_wait_a_connection_and_an_attempt() -> None:
    async with ScriptedBroker() as broker, running(broker.config(), patience=0.9) as party:
        session = await broker.accept()
        await session.expect(CONNECT)
        await session.send(connack(0x88))
        await party.next(MqttConnectFailed)
        party.client.reconnect_now()
        session = await broker.accept()
        await session.welcome()
        await party.next(MqttConnected)
        party.client.reconnect_now()
        assert await session.receive() is None
        assert (await party.next(MqttDisconnected)).retry_in == 0.0
        session = await broker.accept()
        await session.expect(CONNECT)
        party.client.reconnect_now()
        assert await session.receive() is None
        await (await broker.accept()).welcome()
        await party.next(MqttConnected)


async def thread_count_becomes(count: int) -> None:
    # Trio keeps idle worker threads for a while; those that work are in these calls.
    while sum(thread.name.startswith("Trio") and _is_dialing(thread) for thread in threading.enumerate()) != count:  # noqa: ASYNC110  (threads set no Trio events)
        await trio.sleep(0.002)


def _is_dialing(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_filename.endswith("dial.py"):
            return True
        frame = frame.f_back
    return False


async def test_giving_up_in_the_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, release = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def look_up(_host: str, *arguments: Any, **more: Any) -> list[Any]:
        asked.set()
        release.wait()
        return list(real("127.0.0.1", *arguments, **more))

    async with ScriptedBroker() as broker:
        monkeypatch.setattr("socket.getaddrinfo", look_up)
        async with running(attrs.evolve(broker.config(), host="slow.example"), patience=2) as party:
            await trio.to_thread.run_sync(asked.wait)
            party.crash()
            with pytest.raises(trio.EndOfChannel):
                await party.client.events.receive()
            # The client is gone; the thread comes back later, and connects nowhere.
            release.set()
            await thread_count_becomes(0)
            with trio.move_on_after(0.02) as waited:
                await broker.accept()
            assert waited.cancelled_caught


async def test_an_attempt_given_up_while_connecting_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        # What finds no room in the queue gets no answer.
        with contextlib.ExitStack() as queue:
            for _ in range(2):
                waiting = queue.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(address)
            before = _open_files()
            config = BrokerConfig(host=address[0], port=address[1], client_id="edgeice:f:d:a")
            async with running(config) as party:
                await trio.testing.wait_all_tasks_blocked(0.02)
                assert _open_files() == before + 1
                party.crash()
                with pytest.raises(trio.EndOfChannel):
                    await party.client.events.receive()
                assert _open_files() == before


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_giving_up_in_the_tls_handshake() -> None:
    async with (
        ScriptedBroker() as broker,
        running(attrs.evolve(broker.config(), tls=TlsConfig()), patience=2) as party,
    ):
        session = await broker.accept()
        hello = await session.stream.receive_some()
        assert hello[0] == 0x16
        party.crash()
        with pytest.raises(trio.EndOfChannel):
            await party.client.events.receive()
        # Nobody waits for the timeout: the socket is closed and the thread back at once.
        assert await session.stream.receive_some() == b""
        await thread_count_becomes(0)


async def test_a_look_up_that_hangs_is_bounded_by_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    async with ScriptedBroker() as broker:
        monkeypatch.setattr("socket.getaddrinfo", lambda *_arguments, **_more: release.wait() and [])
        async with running(attrs.evolve(broker.config(), host="slow.example", connect_timeout=0.1)) as party:
            failed = await party.next(MqttConnectFailed)
            assert failed.kind is FailureKind.TIMED_OUT
            assert "was not found by name within 0.1 s" in failed.message
            release.set()
            await thread_count_becomes(0)


async def test_a_port_that_speaks_no_tls() -> None:
    async with ScriptedBroker() as broker, running(attrs.evolve(broker.config(), tls=TlsConfig())) as party:
        session = await broker.accept()
        await session.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        failed = await party.next(MqttConnectFailed)
        assert failed.kind is FailureKind.TLS
        assert "does not seem to speak TLS" in failed.message


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path / "missing.pem", "cannot be read: No such file"),
        (lambda path: _text(path / "text.pem", "no certificate"), "PEM form"),
    ],
)
def test_authorities_that_cannot_be_loaded(tmp_path: Path, make: Callable[[Path], Path], said: str) -> None:
    config = BrokerConfig(host="h", port=1, client_id="a", tls=TlsConfig(cafile=make(tmp_path)))
    with pytest.raises(ConfigError, match=said):
        MqttClient(config, will=lambda: None, entropy=Entropy.seeded(1))


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_packets_of_the_script() -> None:
    assert packet(0x30, bytes(200))[:3] == b"\x30\xc8\x01"
