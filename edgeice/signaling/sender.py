"""The sending half of a session: numbers and signs messages.

One counter numbers the messages of both roads, and a message that goes both ways is the same bytes on both.
"""

from __future__ import annotations

from edgeice.signaling.clock import MAX_LIFETIME, issue_time
from edgeice.signaling.events import SessionId
from edgeice.signaling.keys import PrivateKey
from edgeice.signaling.messages import SessionBody, SessionMessage, sign_message
from edgeice.signaling.names import Party

__all__ = ["CANDIDATES_EXPIRY", "OFFER_EXPIRY", "MessageSigner"]

#: Seconds after which the broker may drop what it holds (§1): offers, answers and what ends a session; candidates.
OFFER_EXPIRY = 30
CANDIDATES_EXPIRY = 15


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
