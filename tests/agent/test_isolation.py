"""A defect that one session meets ends that session; the agent and its other sessions go on."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import attrs
import pytest
import trio

from edgeice.agent import service
from edgeice.agent.log import Log
from edgeice.agent.service import Agent
from edgeice.operator.config import load_config
from edgeice.operator.session import Session, open_session
from edgeice.services import PING_PROTOCOL, Channel, PeerError, PingClient, Service, ServiceContext, standard_services
from edgeice.services.control import decode_control, parse_error
from edgeice.signaling import Party, PrivateKey, PublicKey, SessionId
from tests.agent.kit import FLEET, PATIENCE, Device, Operator
from tests.support.brokers import Mosquitto

pytestmark = pytest.mark.slow

#: Not the name of the device that other tests run at the same broker: two agents of one name take turns there.
_NAME = "isolated"


class PlantedError(Exception):
    """What no code of ours would raise on purpose."""


def fail(*_arguments: object, **_more: object) -> NoReturn:
    raise PlantedError("planted")


async def crash(channel: Channel, _context: ServiceContext) -> None:
    """A service that fails in a task of its own, for a message that asks for it."""
    await channel.receive()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        fail()


@attrs.frozen
class Running:
    """An agent in this process, and sessions with it."""

    agent: Agent
    written: io.StringIO
    device: Device
    operator: Operator

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A session whose end is no error."""

        async def confirm(_device: Party, _key: PublicKey) -> bool:
            raise AssertionError("the key is pinned")

        config = load_config(self.operator.config)
        key = PrivateKey.load(config.key.read_bytes(), source="operator.key")
        pinned = PublicKey(self.device.key.raw)
        async with open_session(
            config, key, _NAME, pinned=pinned, want=(), confirm=confirm, watch=lambda _step: None
        ) as session:
            yield session

    def parts(self) -> dict[SessionId, Any]:
        """What the agent holds of each session, by its id; the youngest last."""
        return self.agent._sessions._sessions

    async def gone(self, session: Session) -> str:
        """Wait until a session is over; why, as its operator is told."""
        with trio.fail_after(PATIENCE):
            await session.peer.wait_closed()
        return str(session.ended_error())

    def log_lines(self, event: str) -> list[str]:
        """The lines of an event."""
        return [line for line in self.written.getvalue().splitlines() if line.split(" ", 1)[0] == event]


@pytest.fixture
async def running(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> AsyncIterator[Running]:
    """An agent with one more service, `crash`."""
    monkeypatch.setattr(
        service, "standard_services", lambda *given: (*standard_services(*given), Service("crash", None, crash))
    )
    monkeypatch.setattr(Agent, "_offered", staticmethod(lambda _config: {PING_PROTOCOL, "crash"}))
    url = f"mqtt://127.0.0.1:{broker.port}"
    device, operator = Device(tmp_path / "pi", url, _NAME), Operator(tmp_path / "alice", url)
    device.trust(operator)
    written = io.StringIO()
    agent = Agent.load(device.config, Log("debug", stream=written, wall=lambda: 0.0))
    await nursery.start(agent.run)
    yield Running(agent, written, device, operator)
    with trio.CancelScope(shield=True):
        await agent._presence.leave()


async def works(session: Session) -> None:
    """A round trip over a channel of its own."""
    with trio.fail_after(PATIENCE):
        await PingClient(await session.open(PING_PROTOCOL)).round_trip()


def in_signaling(running: Running, spoiled: SessionId) -> None:
    """The machine of the session's signaling fails at the next message."""
    session = running.agent._signaling.session(spoiled)
    session._receive = fail  # type: ignore[method-assign,union-attr]


def in_carrying(running: Running, spoiled: SessionId) -> None:
    """What carries signaling events to the peer connection fails at the next one."""
    running.parts()[spoiled].signaled.take = fail


def in_sending(running: Running, spoiled: SessionId) -> None:
    """What carries signals out fails at the next one of this session."""
    carry = running.parts()[spoiled].signaled.send_on_channel

    def once(jws: bytes) -> None:
        running.parts()[spoiled].signaled.send_on_channel = carry
        fail(jws)

    running.parts()[spoiled].signaled.send_on_channel = once


def in_watching(running: Running, spoiled: SessionId) -> None:
    """What hears the peer connection's news fails at the next."""
    running.parts()[spoiled].signaled.watch = fail


def in_the_connection(running: Running, spoiled: SessionId) -> None:
    """The peer connection's machine fails at the next datagram."""
    running.parts()[spoiled].signaled.peer._connection.receive_datagram = fail


@pytest.mark.parametrize("plant", [in_signaling, in_carrying, in_sending, in_watching, in_the_connection])
async def test_a_defect_ends_its_session_alone(running: Running, plant: Callable[[Running, SessionId], None]) -> None:
    async with running.session() as healthy, running.session() as spoiled:
        await works(healthy)
        await works(spoiled)
        kept, sid = running.parts()
        assert spoiled._signaled is not None
        await wait_for_signal_channel(running, sid)
        plant(running, sid)
        spoiled._signaled.restart()
        assert await running.gone(spoiled) == f"the session with {_NAME} ended: error: the agent failed; see its log"
        await works(healthy)
        assert healthy._signaled is not None
        healthy._signaled.restart()
        await works(healthy)
        assert list(running.parts()) == [kept]
        assert running.agent.status()["failures"] == {"session": 1}
    (line,) = running.log_lines("session-failed")
    assert f"sid={sid.sid} " in line
    assert 'error="PlantedError: planted"' in line
    assert re.search(r'traceback="Traceback .*in fail\\n', line)


async def wait_for_signal_channel(running: Running, sid: SessionId) -> None:
    """Wait until the second road is open on the device, so that a signal can come by it."""
    with trio.fail_after(PATIENCE):
        while not running.parts()[sid].signaled.session.channel_open:  # noqa: ASYNC110  # the agent sets no event for tests
            await trio.sleep(0.002)


async def test_a_defect_in_a_service_ends_its_channel_alone(running: Running) -> None:
    async with running.session() as session:
        ping = PingClient(await session.open(PING_PROTOCOL))
        await ping.round_trip()
        channel = await session.open("crash")
        await channel.send("now")
        answer = await channel.receive()
        assert isinstance(answer, str)
        error = parse_error(decode_control(answer)["error"])
        assert isinstance(error, PeerError)
        assert (error.code, error.reason) == ("internal", "the service failed")
        await ping.round_trip()
        (sid,) = running.parts()
        assert running.agent.status()["failures"] == {"channel": 1}
    (line,) = running.log_lines("channel-failed")
    assert f"sid={sid.sid} protocol=crash " in line
    assert 'error="PlantedError: planted"' in line


async def test_a_defect_before_a_session_ends_nothing(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running.session() as healthy:
        with monkeypatch.context() as patch:
            patch.setattr(running.agent._signaling, "receive", fail)
            running.agent._receive(Party.operator(FLEET, "alice"), b"anything")
        await works(healthy)
        assert running.agent.status()["failures"] == {"signaling": 1}
    (line,) = running.log_lines("signaling-failed")
    assert f"sender={FLEET}/o/alice " in line
