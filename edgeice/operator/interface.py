"""What a command needs of a session, whether it is its own or shared; loads none of what makes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NoReturn, Protocol, runtime_checkable

import attrs

from edgeice.services.channel import Channel

__all__ = [
    "USUAL_CHANNELS",
    "DeviceSession",
    "JudgedSession",
    "Move",
    "OwnSession",
    "SessionChannel",
    "Step",
    "Watcher",
]

#: Channels of one session that devices take which do not say.
USUAL_CHANNELS: Final = 64


@attrs.frozen
class Move:
    """Data went another way, and the device was heard there."""

    #: The ways from and to, as seen from this side: `wlan0 direct`, `eth0 relay to wifi`.
    was: str
    way: str
    #: The pair that carries data now: `host 192.0.2.1:4000 -> srflx 198.51.100.2:5000`.
    path: str
    #: What set it off: `base_gone`, `silent`, `peer_moved`, `better`, `nominated`, `restart`, `consent`.
    cause: str
    #: Milliseconds without the device, and the round trip of the new pair where it is known.
    pause_ms: float
    rtt_ms: float | None = None

    @property
    def text(self) -> str:
        """In a few words: `wlan0 direct -> wwan0 relay, 180 ms`."""
        return f"{self.was} -> {self.way}" + ("" if self.rtt_ms is None else f", {milliseconds(self.rtt_ms)}")

    @property
    def line(self) -> str:
        """In a line: the same with pause and reason."""
        # The peer may have had nothing to say for a while before it moved.
        bound = "of at most " if self.cause == "peer_moved" else ""
        pause = f"pause {bound}{milliseconds(self.pause_ms)}" if self.pause_ms else "no pause"
        return f"{self.text}; {pause}, {_CAUSES.get(self.cause, self.cause)}; {self.path}"

    def as_dict(self) -> dict[str, object]:
        """For programs."""
        return {"from": self.was, "to": self.way, **attrs.asdict(self, filter=attrs.filters.exclude("was", "way"))}


#: Causes in a person's words.
_CAUSES: Final = {
    "base_gone": "the interface was lost",
    "silent": "nothing came any more",
    "peer_moved": "the device moved",
    "better": "a better way",
    "nominated": "a better pair",
    "restart": "ICE restarted",
    "consent": "no answer",
}


def milliseconds(value: float) -> str:
    """A short time in a person's words: `0.4 ms`, `8.2 ms`, `180 ms`."""
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


@attrs.frozen
class Step:
    """How far connecting is: "broker", "device", "offer", "checks", "securing", "connected"; and what is of interest.

    That is "path" for the pair that carries data, "move" for a move that ended, and "notice" for a person.
    """

    name: str
    text: str
    #: Of "move".
    move: Move | None = None


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
