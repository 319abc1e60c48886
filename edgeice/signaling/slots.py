"""A device's session slots, and the ones that must still prove that a peer is there (contract §5, "Freshness")."""

from __future__ import annotations

import attrs

from edgeice.signaling.events import SessionId

__all__ = ["ICE_PATIENCE", "UNPROVEN_PER_KEY", "Busy", "Slots"]

#: Seconds for which ICE keeps trying to find a valid pair (RFC 8863 §4).
ICE_PATIENCE = 39.5
#: Seconds that DTLS has after that.
_AFTER_PATIENCE = 10.0
#: Seconds that DTLS has after the first valid pair.
_AFTER_PAIR = 20.0
#: Slots of one key whose DTLS handshake is not complete.
UNPROVEN_PER_KEY = 2
#: When a key that is refused for either reason may try again, seconds: most handshakes take less than one.
_UNPROVEN_RETRY = 1
_FULL_RETRY = 2


@attrs.frozen
class Busy:
    """Why there is no slot, and the seconds after which there may be one."""

    reason: str
    retry_after: int


@attrs.define
class _Slot:
    #: When the slot is freed unless the handshake completes; None once it did.
    free_at: float | None
    has_pair: bool = False


class Slots:
    """Who holds a slot; an unproven one is freed in time."""

    __slots__ = ("_slots", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._slots: dict[SessionId, _Slot] = {}

    def take(self, session: SessionId, *, now: float) -> None:
        """Give a slot to a session that begins: ICE starts with its answer."""
        self._slots[session] = _Slot(now + ICE_PATIENCE + _AFTER_PATIENCE)

    def first_pair(self, session: SessionId, *, now: float) -> None:
        """ICE has its first valid pair; later ones change nothing."""
        slot = self._slots.get(session)
        if slot is not None and slot.free_at is not None and not slot.has_pair:
            slot.has_pair = True
            slot.free_at = now + _AFTER_PAIR

    def proved(self, session: SessionId) -> None:
        """The DTLS handshake is complete."""
        slot = self._slots.get(session)
        if slot is not None:
            slot.free_at = None

    def release(self, session: SessionId) -> None:
        """The session ended."""
        self._slots.pop(session, None)

    def busy(self, kid: str) -> Busy | None:
        """Why a new session of this key finds no slot; None where it finds one."""
        if self.is_full:
            return Busy(f"no session is free, {self.limit} are in use", _FULL_RETRY)
        unproven = sum(slot.free_at is not None for session, slot in self._slots.items() if session.kid == kid)
        if unproven >= UNPROVEN_PER_KEY:
            return Busy(f"{unproven} sessions of your key are still being set up", _UNPROVEN_RETRY)
        return None

    @property
    def is_full(self) -> bool:
        """Whether there is none for anybody."""
        return len(self._slots) >= self.limit

    def pop_due(self, *, now: float) -> SessionId | None:
        """Free one slot whose time is over, and say whose it was."""
        for session, slot in self._slots.items():
            if slot.free_at is not None and slot.free_at <= now:
                del self._slots[session]
                return session
        return None

    def next_timeout(self) -> float | None:
        """When the next slot is freed."""
        return min((s.free_at for s in self._slots.values() if s.free_at is not None), default=None)

    def __len__(self) -> int:
        return len(self._slots)
