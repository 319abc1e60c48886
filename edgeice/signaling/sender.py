"""The sending half of a session: numbers, signs and gathers messages.

One counter numbers the messages of both roads, and a message that goes both ways is the same bytes on both.
"""

from __future__ import annotations

from collections import deque

import attrs

from edgeice.signaling.clock import MAX_LIFETIME, issue_time
from edgeice.signaling.events import SessionId
from edgeice.signaling.keys import PrivateKey
from edgeice.signaling.messages import Candidates, SessionBody, SessionMessage, sign_message
from edgeice.signaling.names import Party

__all__ = ["CANDIDATES_EXPIRY", "GATHER_TIME", "OFFER_EXPIRY", "CandidateBatch", "MessageSigner"]

#: Seconds after which the broker may drop what it holds (§1): offers, answers and what ends a session; candidates.
OFFER_EXPIRY = 30
CANDIDATES_EXPIRY = 15
#: Seconds for which candidates after the first ones gather (§5).
GATHER_TIME = 0.05

#: Keeps a message far below 32 KiB.
_BATCH = 32
#: Candidates that may wait for their own description.
_WAITING = 128


class MessageSigner:
    """Signs a session's messages in their order."""

    def __init__(self, *, me: Party, key: PrivateKey, session: SessionId, floor: int) -> None:
        self._me = me
        self._key = key
        self._session = session
        self._floor = floor
        self._seq = 0

    def sign(
        self, body: SessionBody, gen: int, *, wall: int | None, nonce: str | None = None, re: str | None = None
    ) -> bytes:
        """Sign the next message."""
        message = SessionMessage(
            iss=self._me,
            aud=self._session.peer,
            iat=issue_time(wall, self._floor),
            lifetime=MAX_LIFETIME,
            sid=self._session.sid,
            gen=gen,
            seq=self._seq,
            body=body,
            nonce=nonce,
            re=re,
        )
        self._seq += 1
        return sign_message(message, self._key)


@attrs.define
class CandidateBatch:
    """One generation's candidates on their way out: the first go at once, later ones gather for at most 50 ms."""

    ufrag: str
    waiting: deque[str] = attrs.field(factory=deque)
    end: bool = False
    #: The generation's own description is out; before that nothing may go.
    described: bool = False
    #: Something was sent, so what comes now gathers.
    begun: bool = False
    #: When what waits goes, None while nothing waits.
    flush_at: float | None = None
    dropped: int = 0

    def add(self, candidates: tuple[str, ...], *, end: bool, now: float) -> bool:
        """Take candidates; True when a message is due at once."""
        room = _WAITING - len(self.waiting)
        self.dropped += max(0, len(candidates) - room)
        self.waiting.extend(candidates[:room])
        self.end = self.end or end
        if not self.described:
            return False
        if not self.begun or end:
            return bool(self.waiting) or self.end
        if self.waiting and self.flush_at is None:
            self.flush_at = now + GATHER_TIME
        return False

    def take(self) -> list[Candidates]:
        """Empty the batch into message bodies."""
        bodies: list[Candidates] = []
        while self.waiting or (self.end and not bodies):
            part = tuple(self.waiting.popleft() for _ in range(min(_BATCH, len(self.waiting))))
            bodies.append(Candidates(self.ufrag, part, end=self.end and not self.waiting))
        self.begun = self.begun or bool(bodies)
        self.end = False
        self.flush_at = None
        return bodies
