"""The operator's half, against the device's and against devices that misbehave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edgeice.services import ErrorCode, ServiceError
from edgeice.services.telemetry import TELEMETRY_PROTOCOL
from edgeice.services.telemetry.client import Gap, Row, Samples, TelemetryClient, open_telemetry
from edgeice.services.telemetry.device import WINDOW
from edgeice.services.telemetry.local import RING_ROWS
from tests.support.channels import channel_pair
from tests.support.device import Device
from tests.support.telemetry import EPOCH, NOW, make_telemetry, write_local


def device_of(nursery: trio.Nursery, folder: Path) -> Device:
    return Device(nursery, wants=("telemetry:*",), telemetry=make_telemetry(folder))


async def test_samples_come_until_the_scope_ends(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    device = device_of(nursery, tmp_path)
    channel = device.open(TELEMETRY_PROTOCOL, log=True)
    told = []
    async with open_telemetry(channel, ["system"], interval=1) as client:
        async for each in client:
            told.append(each)
            if len(told) == 10:
                break
    await device.idle()
    up = Row(NOW, "uptime_seconds", 12.5, {})
    assert told == [Samples("system", f"system:{EPOCH}:{number}", (up,) if number else ()) for number in range(10)]
    # The first at once, so that the device counts on it, then each fourth that was taken.
    assert channel.sent == [
        '{"subscribe":{"streams":["system"],"interval":1}}',
        *(f'{{"ack":"system:{EPOCH}:{number}"}}' for number in (0, 4, 8)),
    ]


async def test_whoever_takes_nothing_is_told_what_was_lost(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    device = device_of(nursery, tmp_path)
    channel = device.open(TELEMETRY_PROTOCOL)
    async with open_telemetry(channel, ["local"]) as client:
        first = await anext(client)
        assert isinstance(first, Samples)
        write_local(tmp_path, {"name": "n", "value": 0})
        await anext(client)  # which tells the device that the first was taken
        for number in range(1, 3001):
            write_local(tmp_path, {"name": "n", "value": number})
            await wait_all_tasks_blocked()
        assert channel.high_water <= WINDOW * 200
        lost, values = 0, [0]
        while values[-1] < 3000:
            told = await anext(client)
            if isinstance(told, Gap):
                lost += told.lost or 0
            else:
                values += [int(row.value) for row in told.rows]
    assert lost + len(values) == 3001
    assert lost == 3000 - WINDOW + 1 - RING_ROWS


async def test_a_subscription_is_resumed(nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path) -> None:
    device = device_of(nursery, tmp_path)
    async with open_telemetry(device.open(TELEMETRY_PROTOCOL), ["local"]) as stays:
        await anext(stays)
        async with open_telemetry(device.open(TELEMETRY_PROTOCOL), ["local"]) as client:
            first = await anext(client)
            assert isinstance(first, Samples)
        write_local(tmp_path, {"name": "n", "value": 1, "tags": {"k": "v"}})
        async with open_telemetry(device.open(TELEMETRY_PROTOCOL), ["local"], since=first.cursor) as client:
            assert await anext(client) == first
            assert await anext(client) == Samples("local", f"local:{EPOCH}:1", (Row(NOW, "n", 1, {"k": "v"}),))
        async with open_telemetry(device.open(TELEMETRY_PROTOCOL), ["local"], since="of another time") as client:
            assert await anext(client) == Gap("local", None)
            await client.unsubscribe(["*"])
            assert await anext(client) == Samples("local", f"local:{EPOCH}:1", ())
            await client.subscribe(["system"], interval=1)
            begun = await anext(client)
            assert isinstance(begun, Samples)
            assert begun.stream == "system"


async def test_the_devices_error_is_raised(nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path) -> None:
    device = device_of(nursery, tmp_path)
    async with open_telemetry(device.open(TELEMETRY_PROTOCOL), ["nope"]) as client:
        with pytest.raises(ServiceError, match="no such stream; there are local, system") as caught:
            await anext(client)
    assert caught.value.code is ErrorCode.NOT_FOUND


async def test_the_end_of_the_channel_is_an_error(autojump_clock: MockClock) -> None:
    near, far = channel_pair(TELEMETRY_PROTOCOL)
    async with open_telemetry(near) as client:
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await anext(client)


ROW = {"t": 1, "name": "n", "value": 1}


@pytest.mark.parametrize(
    "message",
    [
        b"x",
        "",
        "{}",
        '{"samples":5}',
        '{"samples":{"stream":"s","cursor":"c"}}',
        '{"samples":{"stream":"s","rows":[]}}',
        '{"samples":{"cursor":"c","rows":[]}}',
        '{"gap":{"stream":"s","lost":-1}}',
        '{"gap":{"stream":"s","lost":1.5}}',
        '{"gap":{"lost":1}}',
        *(
            json.dumps({"samples": {"stream": "s", "cursor": "c", "rows": [row]}})
            for row in (
                5,
                {},
                {**ROW, "t": "x"},
                {**ROW, "t": True},
                {**ROW, "t": 10**30},
                {**ROW, "value": None},
                {**ROW, "value": []},
                {**ROW, "value": 2**64},
                {**ROW, "name": 5},
                {**ROW, "tags": []},
                {**ROW, "tags": {"k": 5}},
            )
        ),
    ],
)
async def test_what_no_device_should_say(message: str | bytes) -> None:
    near, far = channel_pair(TELEMETRY_PROTOCOL)
    await far.send(message)
    with pytest.raises(ServiceError) as caught:
        await anext(TelemetryClient(near))
    assert caught.value.code is ErrorCode.MALFORMED


async def test_text_comes_as_it_was_told() -> None:
    near, far = channel_pair(TELEMETRY_PROTOCOL)
    row = {"t": 1, "name": "\x1b[2J", "value": "a\nb", "tags": {"\r": "\x07"}}
    await far.send(json.dumps({"samples": {"stream": "\x9b", "cursor": "c", "rows": [row]}}))
    told = Samples("\x9b", "c", (Row(1.0, "\x1b[2J", "a\nb", {"\r": "\x07"}),))
    assert await anext(TelemetryClient(near)) == told


async def test_streams_without_end_are_refused() -> None:
    near, far = channel_pair(TELEMETRY_PROTOCOL)
    client = TelemetryClient(near)
    for number in range(65):
        await far.send(json.dumps({"samples": {"stream": str(number), "cursor": "c", "rows": []}}))
    for _ in range(64):
        await anext(client)
    with pytest.raises(ServiceError, match="more than 64 streams"):
        await anext(client)
