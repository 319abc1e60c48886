"""Limits of time on sessions and channels; in the agent's own process they are set to fractions of a second here."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from edgeice.agent.log import Log
from edgeice.agent.service import Agent
from edgeice.operator.config import load_config
from edgeice.operator.session import Session, open_session
from edgeice.services import FORWARD_PROTOCOL, PING_PROTOCOL, ForwardTarget, PingClient, ServiceError, forward_stream
from edgeice.signaling import Party, PrivateKey, PublicKey
from tests.agent.kit import PATIENCE, AgentProcess, Device, Operator, edgeice
from tests.support.brokers import Mosquitto

pytestmark = pytest.mark.slow

_NAME = "limited"


@asynccontextmanager
async def limited(
    broker: Mosquitto, folder: Path, *want: str, **limits: float
) -> AsyncIterator[tuple[Session, io.StringIO]]:
    """A session with a device of these limits, and the device's log."""
    url = f"mqtt://127.0.0.1:{broker.port}"
    device, operator = Device(folder / "pi", url, _NAME), Operator(folder / "alice", url)
    device.trust(operator, ",".join(("shell", *want)))
    written = io.StringIO()
    agent = Agent.load(device.config, Log("info", stream=written, wall=lambda: 0.0))
    for name, seconds in limits.items():
        # The configuration takes whole seconds, which a test should not wait for.
        object.__setattr__(agent._config.limits, name, seconds)

    async def confirm(_device: Party, _key: PublicKey) -> bool:
        raise AssertionError("the key is pinned")

    config = load_config(operator.config)
    key = PrivateKey.load(config.key.read_bytes(), source="operator.key")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(agent.run)
            pinned = PublicKey(device.key.raw)
            async with open_session(
                config, key, _NAME, pinned=pinned, want=want, confirm=confirm, watch=lambda _step: None
            ) as session:
                yield session, written
            with trio.CancelScope(shield=True):
                await agent._presence.leave()
            nursery.cancel_scope.cancel()


async def ping_for_ever(client: PingClient) -> None:
    while True:
        await client.round_trip()


async def test_a_session_where_nothing_is_open_ends(broker: Mosquitto, tmp_path: Path) -> None:
    async with limited(broker, tmp_path, idle_time=0.3) as (session, log):
        begun = trio.current_time()
        channel = await session.open(PING_PROTOCOL)
        client = PingClient(channel)
        while trio.current_time() < begun + 0.7:
            await client.round_trip()  # an open channel is no idleness, however long
        await channel.aclose()
        await session.peer.wait_closed()
        assert str(session.ended_error()) == f"the session with {_NAME} ended: idle: nothing was open for 0.3 s"
    assert 'why="idle: nothing was open for 0.3 s"' in log.getvalue()


async def test_a_session_lasts_no_longer_than_it_may(broker: Mosquitto, tmp_path: Path) -> None:
    async with limited(broker, tmp_path, session_time=0.5) as (session, log):
        channel = await session.open(PING_PROTOCOL)
        with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
            await ping_for_ever(PingClient(channel))
        assert str(session.ended_error()) == f"the session with {_NAME} ended: limit: a session may last 0.5 s"
    assert 'why="limit: a session may last 0.5 s"' in log.getvalue()


class _Quiet:
    """A stream on which nothing ever comes; it notes how it ends."""

    was_reset = False

    async def receive_some(self, _max_bytes: int, /) -> bytes:
        await trio.Event().wait()
        return b""

    async def send_all(self, _data: bytes, /) -> None:
        raise AssertionError("something came")

    async def send_eof(self) -> None:
        raise AssertionError("an end came")

    def reset(self) -> None:
        self.was_reset = True


async def test_a_forward_on_which_nothing_passes_ends_and_its_session_goes_on(
    broker: Mosquitto, tmp_path: Path, nursery: trio.Nursery
) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, _hold, [listener])
    target = ForwardTarget("127.0.0.1", listener.socket.getsockname()[1])
    async with limited(broker, tmp_path, target.capability, channel_idle_time=0.3) as (session, _log):
        stream = _Quiet()
        with pytest.raises(ServiceError, match=r"timeout: nothing passed for 0\.3 s"):
            await forward_stream(await session.open(FORWARD_PROTOCOL), target, stream)
        assert stream.was_reset
        assert await PingClient(await session.open(PING_PROTOCOL)).round_trip() > 0


async def _hold(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):
        await stream.receive_some()


async def test_a_command_says_which_limit_ended_it(broker: Mosquitto, tmp_path: Path) -> None:
    url = f"mqtt://127.0.0.1:{broker.port}"
    extra = "[limits]\nchannel_idle_time = 1\nchannel_time = 2\n"
    device, operator = Device(tmp_path / "pi", url, _NAME, extra=extra), Operator(tmp_path / "alice", url)
    device.trust(operator)
    operator.pin(device)
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        quiet = await edgeice(operator, "exec", "--json", _NAME, "--", "sleep", "60")
        assert (quiet.code, quiet.json()["code"]) == (1, "timeout")
        assert quiet.json()["error"] == "timeout: nothing passed for 1 s"
        busy = await edgeice(operator, "exec", _NAME, "--", "sh", "-c", "while sleep 0.2; do echo; done")
        assert (busy.code, busy.stderr) == (1, "edgeice: limit: a channel may last 2 s\n")
        assert set(busy.stdout) == {ord("\n")}
