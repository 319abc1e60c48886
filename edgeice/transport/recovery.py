"""Brings a session's path back once it is lost, before it is where that shows, or gives the session up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import trio

from edgeice.sansio import Event
from edgeice.signaling import AnswerReceived, OfferExpired, OfferRejected
from edgeice.transport.signaled import SignaledConnection

__all__ = ["PATIENCE", "PathRecovery"]

#: Seconds without a path after which a session is given up: a long tunnel, not a device that was switched off.
PATIENCE: Final = 120.0
#: Seconds that a restart gets to find a path before another one takes its place.
_ATTEMPT: Final = 10.0
#: Seconds between two restarts at least, however soon the first one came to nothing.
_SPACING: Final = 1.0


class PathRecovery:
    """Offers ICE restarts while a session has no path (RFC 8445 §2.4), one after the other.

    It begins while the path is only fading: on a link that loses much, consent can end by chance (RFC 7675 §5.1), and
    a restart in time brings the next path before that.

    Both ends do so, and the first that gets through serves both.  An offer that nobody answered is replaced as soon as
    it expires, so that one of them is fresh whenever the broker comes back; on a session's own channel nothing passes
    without a path.

    Args:
        signaled: The session; its peer connection is attached.
        on_restart: Told at each restart of a path that is lost.
        patience: Seconds without a path after which `run` returns.
    """

    def __init__(
        self, signaled: SignaledConnection, on_restart: Callable[[], None], *, patience: float = PATIENCE
    ) -> None:
        self._signaled = signaled
        self._on_restart = on_restart
        self._patience = patience
        self._changed = trio.Event()
        #: The latest restart came to nothing.
        self._void = False

    def path_changed(self) -> None:
        """The session's path is another one, or none."""
        self._changed.set()

    def take(self, event: Event) -> None:
        """Hear an event of the session's signaling, after the peer connection did."""
        match event:
            case OfferExpired() | OfferRejected():
                self._void = True
                self._changed.set()
            case AnswerReceived():
                self._changed.set()
            case _:
                pass

    async def run(self) -> None:
        """Keep the path; returns once there was none for `patience` seconds."""
        while True:
            while not self._missing:
                if self._fading:
                    await self._restart(lambda: self._fading)
                else:
                    await self._change(math.inf)
            with trio.move_on_after(self._patience) as scope:
                await self._recover()
            if scope.cancelled_caught:
                return

    # Inside

    @property
    def _missing(self) -> bool:
        return self._signaled.peer.path.path is None

    @property
    def _fading(self) -> bool:
        path = self._signaled.peer.path
        return path.path is not None and path.fading

    async def _recover(self) -> None:
        while self._missing:
            self._on_restart()
            await self._restart(lambda: self._missing)

    async def _restart(self, is_needed: Callable[[], bool]) -> None:
        """Offer one restart, and wait until it is needed no more or has come to nothing."""
        earliest = trio.current_time() + _SPACING
        self._void = False
        self._signaled.restart()
        tried = False
        while is_needed() and not self._void and not tried:
            answered = not self._signaled.peer.awaits_answer
            changed = await self._change(_ATTEMPT)
            tried = answered and not changed
        if is_needed():
            await trio.sleep_until(earliest)

    async def _change(self, seconds: float) -> bool:
        """Wait for a change, at most so long; whether there was one."""
        with trio.move_on_after(seconds) as scope:
            await self._changed.wait()
        self._changed = trio.Event()
        return not scope.cancelled_caught
