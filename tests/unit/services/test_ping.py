from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from edgeice.services import PING_PROTOCOL, ErrorCode, PingClient, ServiceError
from tests.support.channels import MemoryChannel, channel_pair
from tests.support.device import Device


async def test_device_returns_text_and_bytes_unchanged(device: Device) -> None:
    channel = device.open(PING_PROTOCOL)
    for message in ("", "{not json", b"", b"\0\xff", '{"credit":-1}', "é" * 16_384, bytes(16_384)):
        await channel.send(message)
        assert await channel.receive() == message
    await channel.aclose()
    await device.idle()
    assert device.drops.snapshot() == {}


async def test_too_large_a_message_ends_the_channel(device: Device) -> None:
    channel = device.open(PING_PROTOCOL)
    with pytest.raises(ServiceError) as caught:
        await PingClient(channel).round_trip(16_385)
    assert caught.value.code is ErrorCode.LIMIT
    assert device.drops.snapshot() == {"channel-limit": 1}


async def _slow_echo(channel: MemoryChannel, delays: list[float]) -> None:
    for delay in delays:
        message = await channel.receive()
        await trio.sleep(delay)
        await channel.send(message)


async def test_round_trips_are_measured_and_a_late_echo_is_dropped(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    near, far = channel_pair(PING_PROTOCOL)
    nursery.start_soon(_slow_echo, far, [0.25, 2.0, 0.5])
    client = PingClient(near)
    assert await client.round_trip() == pytest.approx(0.25)
    with trio.move_on_after(1) as scope:
        await client.round_trip()
    assert scope.cancelled_caught
    assert await client.round_trip() == pytest.approx(1.5)  # the echo stood in line behind the late one


@pytest.mark.parametrize("echo", [b"something else", "text", '{"error":5}'])
async def test_a_wrong_echo_is_no_round_trip(echo: bytes | str) -> None:
    near, far = channel_pair(PING_PROTOCOL)
    await far.send(echo)
    with pytest.raises(ServiceError) as caught:
        await PingClient(near).round_trip()
    assert caught.value.code is ErrorCode.MALFORMED
