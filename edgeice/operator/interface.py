"""What a command needs of a session, whether it is its own or shared; loads none of what makes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NoReturn, Protocol, runtime_checkable

import attrs

from edgeice.services.channel import Channel

__all__ = ["USUAL_CHANNELS", "DeviceSession", "JudgedSession", "OwnSession", "SessionChannel", "Step", "Watcher"]

#: Channels of one session that devices take which do not say.
USUAL_CHANNELS: Final = 64


@attrs.frozen
class Step:
    """How far connecting is: "broker", "device", "offer", "checks", "securing", "connected", "path", "notice"."""

    name: str
    text: str


#: Hears each step while connecting, and path changes afterwards.
Watcher = Callable[[Step], None]


class SessionChannel(Channel, Protocol):
    """A channel that this side opened."""

    async def wait_closed(self) -> None:
        """Wait, once this side closed it, until it is none of the channels that the device takes any more."""


class DeviceSession(Protocol):
    """A session with a device that is up."""

    @property
    def name(self) -> str:
        """The device's name."""

    @property
    def max_channels(self) -> int:
        """How many channels of services the device takes at once."""

    async def open(self, protocol: str, /) -> SessionChannel:
        """Open a service's channel; raises UnreachableError if the session is over."""

    async def wait_ended(self) -> NoReturn:
        """Wait for the session's end; raises UnreachableError that says why."""


@runtime_checkable
class JudgedSession(Protocol):
    """One that knows what was tried on the way to the device: not so where another process has the session."""

    def verdict(self) -> Mapping[str, object]:
        """What was tried and what became of it so far: see `edgeice.peer.verdict`."""


class OwnSession(DeviceSession, Protocol):
    """One that this process has itself."""

    @property
    def heard_at(self) -> float:
        """When the device was heard last, by Trio's clock."""
