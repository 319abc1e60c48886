"""What a command needs of a session, whether it is its own or shared; loads none of what makes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol

import attrs

from edgeice.services.channel import Channel

__all__ = ["DeviceSession", "OwnChannel", "OwnSession", "Step", "Watcher"]


@attrs.frozen
class Step:
    """How far connecting is: "broker", "device", "offer", "checks", "securing", "connected", "path", "notice"."""

    name: str
    text: str


#: Hears each step while connecting, and path changes afterwards.
Watcher = Callable[[Step], None]


class DeviceSession(Protocol):
    """A session with a device that is up."""

    @property
    def name(self) -> str:
        """The device's name."""

    async def open(self, protocol: str, /) -> Channel:
        """Open a service's channel; raises UnreachableError if the session is over."""

    async def wait_ended(self) -> NoReturn:
        """Wait for the session's end; raises UnreachableError that says why."""


class OwnChannel(Channel, Protocol):
    """A channel of a session that this process opened."""

    async def wait_closed(self) -> None:
        """Wait until both sides closed it, and the device knows."""


class OwnSession(DeviceSession, Protocol):
    """A session that this process opened."""

    @property
    def max_channels(self) -> int:
        """How many channels of services the device takes at once."""

    async def open(self, protocol: str, /) -> OwnChannel:
        """Open a service's channel; raises UnreachableError if the session is over."""
