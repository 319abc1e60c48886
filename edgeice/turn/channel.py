"""Channels: four bytes instead of the header of an indication, for one peer transport address each (RFC 8656 §12)."""

from __future__ import annotations

from enum import Enum
from typing import Final

import attrs

from edgeice.addresses import TransportAddress
from edgeice.turn.config import TurnConfig
from edgeice.turn.framing import CHANNELS

__all__ = ["TRANSITIONS", "Channel", "ChannelInput", "ChannelState", "Channels"]

#: RFC 8656 §12.
LIFETIME: Final = 600.0
#: RFC 8656 §12: so long after a binding ended neither its number nor its peer may be bound otherwise.
QUARANTINE: Final = 300.0
#: So long before its end it is looked at once more whether a channel is used again.
_LAST_CALL: Final = 60.0


class ChannelState(Enum):
    """How far a channel is."""

    #: A ChannelBind is to be sent or under way.  Data is taken, since its answer may come late (RFC 8656 §12).
    BINDING = "binding"
    BOUND = "bound"
    #: Bound, and a request to renew it is under way.
    RENEWING = "renewing"
    #: Not bound, but perhaps so at the server, or not long ago: only the same two may be bound to each other.
    ENDED = "ended"
    #: The server does not bind it.
    REFUSED = "refused"


class ChannelInput(Enum):
    """What can happen to a channel."""

    ASKED = "asked"
    GRANTED = "granted"
    REFUSED = "refused"
    #: No usable answer.
    UNANSWERED = "unanswered"
    #: It was not renewed in time.
    EXPIRED = "expired"


_S = ChannelState
_I = ChannelInput

#: What is not in here changes nothing.
TRANSITIONS: Final[dict[tuple[ChannelState, ChannelInput], ChannelState]] = {
    (_S.BINDING, _I.ASKED): _S.BINDING,
    (_S.BINDING, _I.GRANTED): _S.BOUND,
    (_S.BINDING, _I.REFUSED): _S.REFUSED,
    (_S.BINDING, _I.UNANSWERED): _S.ENDED,
    (_S.BOUND, _I.ASKED): _S.RENEWING,
    (_S.BOUND, _I.EXPIRED): _S.ENDED,
    (_S.RENEWING, _I.GRANTED): _S.BOUND,
    (_S.RENEWING, _I.REFUSED): _S.REFUSED,
    # It stands until its time is over, and is asked for again.
    (_S.RENEWING, _I.UNANSWERED): _S.BOUND,
    (_S.RENEWING, _I.EXPIRED): _S.ENDED,
    (_S.ENDED, _I.ASKED): _S.BINDING,
    # The answer to what was asked before the end.
    (_S.ENDED, _I.GRANTED): _S.BOUND,
    (_S.ENDED, _I.REFUSED): _S.REFUSED,
}
_SENDING: Final = frozenset({_S.BOUND, _S.RENEWING})
_RECEIVING: Final = frozenset({_S.BINDING, _S.BOUND, _S.RENEWING})


@attrs.define(eq=False)
class Channel:
    """One number and its peer."""

    number: int
    peer: TransportAddress
    state: ChannelState = ChannelState.BINDING
    #: Until when it is surely bound, None before the server has confirmed it.
    ends_at: float | None = None
    #: When number and peer may be bound otherwise: the server may have heard what it never answered.
    free_at: float = 0.0
    #: When to ask for it (again), None while that is not wanted.
    ask_at: float | None = None
    #: Something went through it since it was last granted: only then it is renewed.
    used: bool = True


class Channels:
    """All channels of an allocation; numbers and peers are one to one (RFC 8656 §12).

    Those that nobody uses any more are not renewed, end after ten minutes, and are forgotten five minutes later.
    """

    __slots__ = ("_by_number", "_by_peer", "_config", "_next")

    def __init__(self, config: TurnConfig) -> None:
        self._config = config
        self._by_peer: dict[TransportAddress, Channel] = {}
        self._by_number: dict[int, Channel] = {}
        self._next = CHANNELS.start

    def __len__(self) -> int:
        return len(self._by_peer)

    def bind(self, peer: TransportAddress, *, now: float) -> bool:
        """Want a channel to a peer; False if all numbers are taken, or the server refused it."""
        channel = self._by_peer.get(peer)
        if channel is None:
            if len(self._by_number) == len(CHANNELS):
                return False
            number = self._take_number()
            channel = Channel(number, peer, ask_at=now, free_at=now + LIFETIME + QUARANTINE)
            self._by_peer[peer] = self._by_number[number] = channel
        elif channel.state is ChannelState.ENDED:
            channel.ask_at = now
            channel.used = True
        return channel.state is not ChannelState.REFUSED

    def _take_number(self) -> int:
        """The free number that was not used for longest."""
        while True:
            number = self._next
            self._next = number + 1 if number + 1 in CHANNELS else CHANNELS.start
            if number not in self._by_number:
                return number

    def sending(self, peer: TransportAddress, *, now: float) -> Channel | None:
        """The channel that data to a peer goes through, None if the server has not confirmed one."""
        channel = self._by_peer.get(peer)
        if channel is None:
            return None
        channel.used = True
        if channel.state in _SENDING:
            return channel
        if channel.state is ChannelState.ENDED and channel.ask_at is None:
            channel.ask_at = now  # nobody used it for a while, or the server was out of reach
        return None

    def is_due(self, peer: TransportAddress, *, now: float) -> bool:
        """Whether a channel to a peer is to be asked for."""
        channel = self._by_peer.get(peer)
        return channel is not None and channel.ask_at is not None and channel.ask_at <= now

    def receiving(self, number: int) -> Channel | None:
        """The channel that a number stands for, None if it stands for nothing."""
        channel = self._by_number.get(number)
        if channel is None or channel.state not in _RECEIVING:
            return None
        channel.used = True
        return channel

    def happened(self, peer: TransportAddress, what: ChannelInput, *, asked_at: float, now: float) -> None:
        """Note what became of a request that was sent first at `asked_at`."""
        channel = self._by_peer.get(peer)
        if channel is None or (state := TRANSITIONS.get((channel.state, what))) is None:
            return
        channel.state = state
        if what is ChannelInput.GRANTED:
            # The server's clock started when the request came: not before it was sent.
            channel.ends_at = asked_at + LIFETIME
            channel.ask_at = asked_at + self._config.permission_refresh
            channel.used = False
        elif what is ChannelInput.UNANSWERED and state is ChannelState.BOUND:
            channel.ask_at = now

    def take_due(self, now: float) -> list[Channel]:
        """Channels to ask for, each marked as asked; ends and forgets what is over."""
        due: list[Channel] = []
        for channel in list(self._by_peer.values()):
            if channel.free_at <= now:
                del self._by_peer[channel.peer], self._by_number[channel.number]
                continue
            if channel.ends_at is not None and channel.ends_at <= now:
                channel.state = TRANSITIONS.get((channel.state, ChannelInput.EXPIRED), channel.state)
                channel.ends_at = channel.ask_at = None
            if channel.ask_at is None or channel.ask_at > now:
                continue
            if channel.used or channel.ends_at is None:
                channel.state = TRANSITIONS[channel.state, ChannelInput.ASKED]
                channel.ask_at = None
                channel.free_at = now + LIFETIME + QUARANTINE
                due.append(channel)
            elif (last_at := channel.ends_at - _LAST_CALL) > now:
                channel.ask_at = last_at
            else:
                channel.ask_at = None
        return due

    def next_timeout(self) -> float | None:
        """When something is to be asked for, to end or to be forgotten."""
        times: list[float] = []
        for channel in self._by_peer.values():
            times.append(channel.free_at)
            times += [at for at in (channel.ends_at, channel.ask_at) if at is not None]
        return min(times, default=None)
