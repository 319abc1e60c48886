"""The worked examples of what the wire contract leaves open, against the real device half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.channels import drain
from tests.support.device import Device

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "service-channels.json").read_text())


def _message(value: dict[str, Any]) -> bytes | str:
    if "text" in value:
        text = value["text"]
        assert isinstance(text, str)
        return text
    return bytes.fromhex(value["hex"]) * int(value.get("times", 1))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["title"].replace(" ", "-"))
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
