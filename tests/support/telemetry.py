"""Telemetry of a device whose kernel, clock and dice the test knows."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeice.sansio import Entropy
from edgeice.services.telemetry import Telemetry
from tests.support.channels import MemoryChannel

__all__ = ["EPOCH", "NOW", "Heard", "make_telemetry", "plant", "write_local"]

NOW = 1_700_000_000.0
#: Of the first subscription.
EPOCH = Entropy.seeded(7).token_bytes(4).hex()


def plant(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write a tree of files."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def make_telemetry(folder: Path, files: Mapping[str, str | bytes] | None = None, *, local: bool = True) -> Telemetry:
    """Telemetry with a socket in `folder`; its kernel tells nothing but how long it is up, if not told otherwise."""
    root = plant(folder / "root", files or {"proc/uptime": "12.5 20.0\n"})
    return Telemetry(
        folder / "telemetry.sock" if local else None,
        (),
        root=root,
        wall=lambda: NOW,
        entropy=Entropy.seeded(7),
    )


def write_local(folder: Path, *lines: object) -> None:
    """Send one datagram with the lines, text as it is and anything else as JSON."""
    data = b"\n".join(
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer:
        writer.setblocking(False)
        writer.sendto(data, str(folder / "telemetry.sock"))


class Heard:
    """The operator's end of a channel, without the client: nothing is acknowledged by itself."""

    def __init__(self, channel: MemoryChannel) -> None:
        self.channel = channel

    async def say(self, **message: Any) -> None:
        """Send a control message."""
        await self.channel.send(json.dumps(message))

    async def next(self) -> dict[str, Any]:
        """The next control message."""
        message = json.loads(await self.channel.receive())
        assert isinstance(message, dict)
        return message

    async def samples(self) -> dict[str, Any]:
        """The next message, which must be samples."""
        message = await self.next()
        assert set(message) == {"samples"}, message
        samples = message["samples"]
        assert isinstance(samples, dict)
        return samples
