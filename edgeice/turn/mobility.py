"""What a TURN client keeps so that its allocation survives another address of its own: the ticket (RFC 8016).

The server gives a ticket with the allocation and another one with each move.  Who shows the newest, signed as the user
whose allocation it is, has the allocation moved to where he shows it from.
"""

from __future__ import annotations

from typing import Final

from edgeice.stun.attributes import Attribute
from edgeice.stun.message import AuthenticatedMessage, Message

__all__ = ["Mobility"]

#: Bytes of a ticket that is kept: its request has to fit a datagram that no network cuts up (RFC 8489 §6.1).
_TICKET_LIMIT: Final = 768
#: Seconds after a move in which an allocation that is not where it was moved to is not looked for once more.
_SETTLED: Final = 5.0


class Mobility:
    """The ticket of one allocation, and whether a move is under way.

    The ticket is a secret like a password, and never shown.

    Args:
        wanted: Whether the server is asked for a ticket at all.
    """

    __slots__ = ("_ended_at", "_repeated", "_ticket", "forbidden", "moving", "refused")

    def __init__(self, *, wanted: bool) -> None:
        self._ticket: bytes | None = None
        self._ended_at: float | None = None
        self._repeated = False
        #: The server must not be asked for a ticket.
        self.forbidden = not wanted
        #: The newest ticket is shown to the server, which did not answer so far.
        self.moving = False
        #: Somebody refused this move without proof of being the server.
        self.refused = False

    def offer(self) -> list[tuple[int, object]]:
        """What an Allocate request carries to have a ticket: one of no length (RFC 8016 §3.1.1)."""
        return [] if self.forbidden else [(Attribute.MOBILITY_TICKET, b"")]

    def forbid(self) -> bool:
        """The server forbids it (405); whether the request makes sense again without (RFC 8016 §3.1.4)."""
        before, self.forbidden = self.forbidden, True
        return not before

    @property
    def has_ticket(self) -> bool:
        """Whether the allocation can be moved."""
        return self._ticket is not None

    def may_look(self, now: float) -> bool:
        """Whether an allocation that is not here may be where the server saw this client before."""
        return self._ticket is not None and (self._ended_at is None or self._ended_at + _SETTLED <= now)

    def show(self) -> list[tuple[int, object]]:
        """What a request carries that moves the allocation; nothing while none is moved (RFC 8016 §3.2.1)."""
        return [(Attribute.MOBILITY_TICKET, self._ticket)] if self.moving else []

    def learn(self, response: Message | AuthenticatedMessage) -> None:
        """Keep the ticket of a success response in place of the one before (RFC 8016 §3.1.3, §3.2.3)."""
        ticket = response.get(Attribute.MOBILITY_TICKET)
        if ticket is not None and isinstance(response, AuthenticatedMessage) and not self.forbidden:
            self._ticket = ticket if 0 < len(ticket) <= _TICKET_LIMIT else None

    def begin(self) -> None:
        """A move begins, or begins once more from elsewhere before the server answered."""
        self.moving = True
        self.refused = self._repeated = False

    def repeat(self) -> bool:
        """Whether to ask at once again, as something came that nobody can read; once for each move."""
        before, self._repeated = self._repeated, True
        return self.moving and not before

    def moved(self, response: Message | AuthenticatedMessage, *, now: float) -> None:
        """The server moved the allocation; the ticket that was shown is spent, whether or not another came."""
        self._ticket = None
        self.learn(response)
        self.end(now=now)

    def end(self, *, now: float) -> None:
        """The move is over."""
        self.moving = False
        self._ended_at = now
