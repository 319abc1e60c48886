"""The worked examples of what the wire contract leaves open, against the real device half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from edgeice.services.telemetry import TELEMETRY_PROTOCOL
from tests.support.channels import drain
from tests.support.device import Device
from tests.support.telemetry import make_telemetry, write_local

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "service-channels.json").read_text())
TELEMETRY = [vector for vector in VECTORS if vector["protocol"] == TELEMETRY_PROTOCOL]


def _title(vector: dict[str, Any]) -> str:
    return str(vector["title"]).replace(" ", "-")


def _message(value: dict[str, Any]) -> bytes | str:
    if "text" in value:
        text = value["text"]
        assert isinstance(text, str)
        return text
    return bytes.fromhex(value["hex"]) * int(value.get("times", 1))


@pytest.mark.parametrize("vector", [each for each in VECTORS if each not in TELEMETRY], ids=_title)
async def test_vector(device: Device, vector: dict[str, Any]) -> None:
    channel = device.open(vector["protocol"])
    for value in vector["send"]:
        await channel.send(_message(value))
    received = [_message(value) for value in vector["receive"]]
    if vector.get("terminal"):  # what a shell shows besides is its own affair
        messages = [message for message in await drain(channel) if isinstance(message, str)]
        assert messages == received
    elif vector["protocol"] == "edgeice.ping.1":  # ends when the operator closes
        assert [await channel.receive() for _ in received] == received
    else:
        assert await drain(channel) == received
    await channel.aclose()
    await device.idle()


@pytest.mark.parametrize("vector", TELEMETRY, ids=_title)
async def test_telemetry_vector(nursery: trio.Nursery, tmp_path: Path, vector: dict[str, Any]) -> None:
    """`wants` are the session's; `datagrams` are written to the device's socket once the first message came."""
    device = Device(nursery, wants=tuple(vector["wants"]), telemetry=make_telemetry(tmp_path))
    channel = device.open(TELEMETRY_PROTOCOL)
    for value in vector["send"]:
        await channel.send(_message(value))
    first, *others = map(_message, vector["receive"])
    assert await channel.receive() == first
    for text in vector.get("datagrams", ()):
        write_local(tmp_path, text)
    assert [await channel.receive() for _ in others] == others
    await channel.aclose()
    await device.idle()
