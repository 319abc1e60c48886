"""Drives one signaling machine: drains what it wants done and told, and wakes it at its next deadline."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import trio

from edgeice.sansio import Event
from edgeice.signaling import SignalAction

__all__ = ["SignalMachine", "SignalPump", "WallClock"]

#: Unix seconds, or None while the clock is not known to be synchronized.
WallClock = Callable[[], int | None]


class SignalMachine(Protocol):
    """What `DeviceSignaling` and `Connector` have in common."""

    def handle_timeout(self, *, now: float, wall: int | None) -> None:
        """Do what is due."""

    def next_timeout(self) -> float | None:
        """The earliest deadline."""

    def poll_action(self) -> SignalAction | None:
        """The next thing to send or publish."""

    def poll_event(self) -> Event | None:
        """The next thing to know."""


class SignalPump:
    """Runs a signaling machine on Trio.

    Call `touch` after each input or command; handlers may do so themselves.

    Args:
        machine: The machine.
        on_action: Carries actions out; must not block.
        on_event: Hears events; must not block.
        wall: The wall clock.
    """

    def __init__(
        self,
        machine: SignalMachine,
        on_action: Callable[[SignalAction], None],
        on_event: Callable[[Event], None],
        wall: WallClock,
    ) -> None:
        self._machine = machine
        self._on_action = on_action
        self._on_event = on_event
        self._wall = wall
        self._busy = False
        self._scope = trio.CancelScope()

    def touch(self) -> None:
        """Drain the machine and look at its deadline again."""
        if self._busy:
            return  # the call that is under way goes on until nothing is left
        self._busy = True
        try:
            while True:
                while (action := self._machine.poll_action()) is not None:
                    self._on_action(action)
                event = self._machine.poll_event()
                if event is None:
                    break
                self._on_event(event)
        finally:
            self._busy = False
        self._scope.deadline = self._deadline()

    async def run(self) -> None:
        """Wake the machine at its deadlines, for ever."""
        while True:
            with trio.CancelScope(deadline=self._deadline()) as self._scope:
                await trio.sleep_forever()
            self._machine.handle_timeout(now=trio.current_time(), wall=self._wall())
            self.touch()

    def _deadline(self) -> float:
        at = self._machine.next_timeout()
        return math.inf if at is None else at
