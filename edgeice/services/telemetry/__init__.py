"""`edgeice.telemetry.1`: measurements of the device, live and honest about gaps.

What a device holds for it while nobody has opened such a channel is this module; the rest is imported at the first.
Operators use `edgeice.services.telemetry.client`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeice.sansio import DropCounter, Entropy
from edgeice.services.channel import Channel

if TYPE_CHECKING:
    from edgeice.services.registry import ServiceContext
    from edgeice.services.telemetry.device import Hub

__all__ = ["TELEMETRY_PROTOCOL", "Telemetry"]

TELEMETRY_PROTOCOL: Final = "edgeice.telemetry.1"


class Telemetry:
    """A device's telemetry, over all its sessions.

    Args:
        socket: Where processes of the device write lines for the stream `local`; None if there is no such stream.
        mounts: Mount points of which the stream `system` tells how full they are.
        root: Folder with the kernel's `proc` and `sys`.
        wall: Unix seconds.
        entropy: For cursors.
    """

    def __init__(
        self,
        socket: Path | None = None,
        mounts: tuple[Path, ...] = (Path("/"),),
        *,
        root: Path = Path("/"),
        wall: Callable[[], float] = time.time,
        entropy: Entropy | None = None,
    ) -> None:
        self._socket = socket
        self._mounts = mounts
        self._root = root
        self._wall = wall
        self._entropy = entropy or Entropy()
        self._hub: Hub | None = None
        #: What was dropped, by reason: lines of local processes above all.
        self.drops = DropCounter()

    async def serve(self, channel: Channel, context: ServiceContext) -> None:
        """Serve one channel; see `edgeice.services.telemetry.device`."""
        if self._hub is None:
            from edgeice.services.telemetry.device import Hub  # noqa: PLC0415  # not in memory while nobody uses it

            self._hub = Hub(
                socket=self._socket,
                mounts=self._mounts,
                root=self._root,
                wall=self._wall,
                entropy=self._entropy,
                drops=self.drops,
            )
        await self._hub.serve(channel, context.wants, context.idle_time)
