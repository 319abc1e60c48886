"""Messages that overtook the first offer of their session, kept for a moment (contract §5, "Loss")."""

from __future__ import annotations

import attrs

from edgeice.signaling.events import SessionId
from edgeice.signaling.jws import VerifiedJws
from edgeice.signaling.receiver import HELD_LIMIT, HELD_TIME

__all__ = ["EarlyMessages"]

#: Sessions whose offer is missing: in all, and of one key.
_SESSIONS = 16
_SESSIONS_PER_KEY = 4


@attrs.define
class _Box:
    until: float
    room: int = HELD_LIMIT
    messages: dict[int, VerifiedJws] = attrs.field(factory=dict)


class EarlyMessages:
    """Holds what known keys signed: 32 candidates per session for 5 s, for few sessions at a time."""

    __slots__ = ("_boxes",)

    def __init__(self) -> None:
        self._boxes: dict[SessionId, _Box] = {}

    def hold(self, session: SessionId, seq: int, message: VerifiedJws, *, size: int, now: float) -> bool:
        """Keep a message of `size` candidates; False where there is no room or it is here already."""
        box = self._boxes.get(session)
        if box is None:
            of_key = sum(known.kid == session.kid for known in self._boxes)
            if len(self._boxes) >= _SESSIONS or of_key >= _SESSIONS_PER_KEY:
                return False
            box = self._boxes[session] = _Box(now + HELD_TIME)
        size = max(1, size)
        if seq in box.messages or size > box.room:
            return False
        box.room -= size
        box.messages[seq] = message
        return True

    def take(self, session: SessionId) -> list[VerifiedJws]:
        """What was kept for a session, by `seq`."""
        box = self._boxes.pop(session, None)
        return [box.messages[seq] for seq in sorted(box.messages)] if box else []

    def expire(self, *, now: float) -> int:
        """Forget what was kept too long; returns how many messages that were."""
        due = [session for session, box in self._boxes.items() if box.until <= now]
        return sum(len(self._boxes.pop(session).messages) for session in due)

    def next_timeout(self) -> float | None:
        """When the oldest is forgotten."""
        return min((box.until for box in self._boxes.values()), default=None)
