"""Which request of a session is sent next, and when (RFC 8445 §6.1.4.2, §14.2)."""

from __future__ import annotations

from typing import Protocol

from edgeice.ice.generation import Generation
from edgeice.ice.pacer import Turn
from edgeice.ice.slots import Slots

__all__ = ["Requests"]


class _Request(Protocol):
    def __call__(self, *, now: float) -> None: ...


class Requests:
    """Lets the generations of a session send, one new transaction per Ta and per slot of the host.

    Attributes:
        due_at: When the next request may go, None while there is none.
    """

    __slots__ = ("_slots", "_turn", "due_at")

    def __init__(self, slots: Slots, turn: Turn) -> None:
        self._slots = slots
        self._turn = turn
        self.due_at: float | None = None

    def send(self, now: float) -> None:
        """Send what may go now."""
        while True:
            send = self._next()
            if send is None:
                self.release(now)
                return
            generation, request = send
            self._turn.ta = generation.pacing
            if not self._turn.take(now):
                self.due_at = self._turn.opens_at
                return
            request(now=now)

    def release(self, now: float) -> None:
        """There is nothing to send: others may go first."""
        self.due_at = None
        self._turn.release(now)

    def _next(self) -> tuple[Generation, _Request] | None:
        """Whose turn it is.  Consent goes first: it is rare, and no number of checks may starve it."""
        generations = self._slots.active()
        for generation in generations:
            if generation.has_consent_to_ask:
                return generation, generation.ask_consent
        for generation in reversed(generations):
            if generation.has_checks_to_send:
                return generation, generation.send_check
        return None
