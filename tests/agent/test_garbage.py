"""Garbage at every socket and channel of a running agent: dropped, counted by reason in its status, and no harm done.

Garbage on topics is in test_bad_input.py.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from edgeice.operator.config import load_config
from edgeice.operator.session import Session, open_session
from edgeice.services import EXEC_PROTOCOL, PING_PROTOCOL, SHELL_PROTOCOL, PingClient
from edgeice.services.control import decode_control, parse_error
from edgeice.signaling import Party, PrivateKey, PublicKey
from tests.agent.kit import PATIENCE, AgentProcess, Device, Operator
from tests.support.brokers import Mosquitto
from tests.support.stun_wire import raw_message, seal, sign, tlv

pytestmark = pytest.mark.slow

USERNAME = tlv(0x0006, b"nobody:somebody")


@pytest.fixture(scope="module")
def agent(broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """An agent that only these tests harm."""
    device = Device(tmp_path_factory.mktemp("garbage") / "pi", f"mqtt://127.0.0.1:{broker.port}", "garbage")
    device.trust(Operator(device.folder / "alice", f"mqtt://127.0.0.1:{broker.port}"))
    with AgentProcess(device) as running:
        running.wait_log_sync("^announced ")
        yield running


@pytest.fixture
async def before(agent: AgentProcess) -> dict[str, int]:
    """What the agent had dropped when the test began."""
    return await drops(agent)


async def drops(agent: AgentProcess) -> dict[str, int]:
    """What its status says that it dropped, in sessions that run and outside."""
    status = await agent.status()
    counts: dict[str, int] = dict(status["drops"])
    for session in status["sessions"]:
        for reason, count in session["drops"].items():
            counts[reason] = counts.get(reason, 0) + count
    return counts


async def comes_to(agent: AgentProcess, before: dict[str, int], expected: dict[str, int]) -> None:
    """Wait until exactly this was dropped since."""
    since: dict[str, int] = {}
    with trio.move_on_after(PATIENCE):
        while not since or since != expected:  # each question takes a process, so this does not spin
            since = {
                reason: count - before.get(reason, 0)
                for reason, count in (await drops(agent)).items()
                if count != before.get(reason, 0)
            }
    assert since == expected


@asynccontextmanager
async def opened(agent: AgentProcess, *want: str) -> AsyncIterator[Session]:
    """A session with the agent."""

    async def confirm(_device: Party, _key: PublicKey) -> bool:
        raise AssertionError("the key is pinned")

    config = load_config(agent.device.folder / "alice" / "operator.toml")
    key = PrivateKey.load(config.key.read_bytes(), source="operator.key")
    with trio.fail_after(PATIENCE):
        async with open_session(
            config,
            key,
            agent.device.name,
            pinned=PublicKey(agent.device.key.raw),
            want=want,
            confirm=confirm,
            watch=lambda _step: None,
        ) as session:
            yield session


async def works(session: Session) -> None:
    await PingClient(await session.open(PING_PROTOCOL)).round_trip()


async def address(agent: AgentProcess) -> tuple[str, int]:
    """The agent's UDP socket."""
    ((base),) = (await agent.status())["bases"]
    host, _, port = base["address"].rpartition(":")
    return host, int(port)


REQUEST = raw_message(USERNAME)
#: Datagrams, and how each is counted.
UDP = [
    (b"", "unknown-kind"),
    (b"\0", "unknown-kind"),
    (bytes(range(256)), "unknown-kind"),
    (b"GET / HTTP/1.1\r\n\r\n", "unknown-kind"),
    (b"\x80\x60" + bytes(30), "unknown-kind"),  # RTP
    (b"\x40\x00\x00\x04data", "unknown-kind"),  # ChannelData
    (raw_message(b"", cookie=0x2112A443), "unknown-kind"),
    (raw_message(b"", length=4), "unknown-kind"),
    (b"\x16\xfe\xfd" + bytes(30), "unroutable"),  # DTLS
    (raw_message(b""), "unroutable"),
    (raw_message(b"", code=0x0011), "unroutable"),
    (raw_message(b"", code=0x0101), "unroutable"),
    (raw_message(tlv(0x0009, b"\0\0\4\1"), code=0x0111), "unroutable"),
    (raw_message(tlv(0x0006, b"x" * 514)), "unroutable"),
    (REQUEST, "unroutable"),
    (sign(REQUEST), "unroutable"),
    (seal(sign(REQUEST)), "unroutable"),
    (raw_message(tlv(0x0006, b"x" * 4, claimed=400)), "stun_length"),
    (raw_message(tlv(0x0006, b"\xff\xfe:")), "stun_attribute"),
    (raw_message(USERNAME + tlv(0x0024, b"12")), "stun_attribute"),
    (seal(REQUEST)[:-1] + b"\0", "stun_fingerprint"),
]


async def test_on_the_udp_socket(agent: AgentProcess, before: dict[str, int]) -> None:
    to = await address(agent)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))
        for datagram, _reason in UDP:
            stranger.sendto(datagram, to)
        stranger.sendto(bytes(65507), to)
        counts = Counter(f"endpoint.{reason}" for _datagram, reason in UDP)
        await comes_to(agent, before, {**counts, "net.oversized": 1})
        stranger.setblocking(False)
        # Strangers get no answer but to what is a whole check: that nobody here is meant (RFC 8489 §9.1.3).
        check = seal(sign(REQUEST))
        answer = stranger.recv(2048)
        assert (answer[:2], len(answer) <= len(check)) == (b"\x01\x11", True)
        with pytest.raises(BlockingIOError):
            stranger.recv(2048)
    async with opened(agent) as session:
        await works(session)


#: What comes from where a session's path leads, which anybody can forge.
ON_PATH = [
    (b"", "peer.not-dtls"),
    (b"\0", "peer.not-dtls"),
    (b"\x80\x60" + bytes(30), "peer.not-dtls"),
    (b"\x16", "dtls.record-truncated"),
    (b"\x16\xfe\xfd" + bytes(8) + b"\x7f\xff" + bytes(30), "dtls.record-length"),
    (b"\x17\xfe\xfd\0\1\0\0\0\0\0\7\0\x20" + bytes(32), "dtls.record-invalid"),
    (raw_message(b""), "ice.fingerprint_missing"),
    (REQUEST, "endpoint.unroutable"),
    (seal(sign(REQUEST)), "endpoint.unroutable"),
]


async def test_on_the_udp_socket_from_the_sessions_own_path(agent: AgentProcess, before: dict[str, int]) -> None:
    async with opened(agent) as session:
        await works(session)
        (own,) = session._node._driver._sockets.values()
        path = session.peer.path.path
        assert path is not None
        for datagram, _reason in ON_PATH:
            own.send(path, datagram)
        await comes_to(agent, before, Counter(reason for _datagram, reason in ON_PATH))
        await works(session)


async def test_on_the_status_socket(agent: AgentProcess, before: dict[str, int]) -> None:
    for garbage in (b"\n", b"\xff\xfe", b'{"command": "stop"}\n', bytes(1 << 20)):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(agent.device.folder / "agent.sock"))
            with suppress(ConnectionError):  # it closes once it has taken note, whatever is left of this
                client.sendall(garbage)
                while client.recv(1 << 16):
                    pass
    await comes_to(agent, before, {"status.unasked": 4})


#: Services, what comes first on their channels, and the error that ends them.
CHANNELS: list[tuple[str, str | bytes | None, str]] = [
    # Refused for what they are, before anything is sent.
    (SHELL_PROTOCOL, None, "unauthorized"),  # the session did not want it
    ("", None, "unsupported"),
    ("edgeice.files.1", None, "unsupported"),
    ("x" * 300, None, "unsupported"),
    (EXEC_PROTOCOL, "", "malformed"),
    (EXEC_PROTOCOL, b"", "malformed"),
    (EXEC_PROTOCOL, b"\xff\xfe", "malformed"),
    (EXEC_PROTOCOL, bytes(16384), "malformed"),
    (EXEC_PROTOCOL, "{}", "malformed"),
    (EXEC_PROTOCOL, "[]", "malformed"),
    (EXEC_PROTOCOL, "[" * 16000, "malformed"),
    (EXEC_PROTOCOL, '{"open":{"argv":[]}}', "malformed"),
    (EXEC_PROTOCOL, '{"open":{"argv":["true"],"argv":["false"]}}', "malformed"),
    (EXEC_PROTOCOL, '{"open":{"argv":["a\\u0000b"]}}', "malformed"),
]


async def test_on_service_channels(agent: AgentProcess, before: dict[str, int]) -> None:
    async with opened(agent, "exec") as session:
        for protocol, message, code in CHANNELS:
            channel = await session.open(protocol)
            if message is not None:
                await channel.send(message)
            (answer,) = [each async for each in channel]
            assert isinstance(answer, str)
            assert parse_error(decode_control(answer)["error"]).code == code
        await comes_to(agent, before, Counter(f"channel-{code}" for _protocol, _message, code in CHANNELS))
        await works(session)


async def test_on_the_signal_channel(agent: AgentProcess, before: dict[str, int]) -> None:
    async with opened(agent) as session:
        await works(session)
        assert session._signaled is not None
        while (channel := session._signaled._channel) is None:  # noqa: ASYNC110  # the library sets no event for tests
            await trio.sleep(0.002)
        for garbage in (b"", b"\xff\xfe", "", "{}", "a.b.c", "[" * 16384):
            await channel.send(garbage)
        await comes_to(agent, before, {"signal.binary": 2, "signaling.jws-form": 4})
        await works(session)
