"""The open transactions with one server (RFC 8489 §6.2)."""

from __future__ import annotations

from collections import deque
from typing import Final

from edgeice.errors import LocalProtocolError
from edgeice.stun.message import Message
from edgeice.stun.transaction import Outcome, Transaction

__all__ = ["TransactionTable"]

#: RFC 8489 §6.2: a client limits itself to so many with one server.
MAXIMUM_OPEN: Final = 10


class TransactionTable:
    """Routes responses to at most ten transactions and collects how they end.

    The owner looks at `is_full` before it opens another one, and keeps what has to wait: it alone knows which of its
    requests matter most.
    """

    __slots__ = ("_open", "_outcomes")

    def __init__(self) -> None:
        self._open: dict[bytes, Transaction] = {}
        # Bounded: each transaction ends once, and none is added while the ended ones are not taken away.
        self._outcomes: deque[Outcome] = deque()

    @property
    def is_full(self) -> bool:
        """Whether `add` would raise."""
        return len(self._open) + len(self._outcomes) >= MAXIMUM_OPEN

    def add(self, transaction: Transaction) -> None:
        """Take over a transaction; `poll_transmit` then gives out its request.

        Raises:
            LocalProtocolError: Ten are open or not yet taken out by `poll_outcome`, or the id is in use.
        """
        if self.is_full:
            raise LocalProtocolError(f"{MAXIMUM_OPEN} transactions are open with this server")
        if transaction.transaction_id in self._open:
            raise LocalProtocolError("a transaction id is used once")
        self._open[transaction.transaction_id] = transaction

    def receive(self, message: Message, *, now: float) -> bool:
        """Take a response; False if it changed nothing (see `Transaction.receive`)."""
        transaction = self._open.get(message.transaction_id)
        if transaction is None or not transaction.receive(message, now=now):
            return False
        self._collect(transaction)
        return True

    def handle_timeout(self, *, now: float) -> None:
        """Repeat and give up what is due."""
        for transaction in list(self._open.values()):
            transaction.handle_timeout(now=now)
            self._collect(transaction)

    def next_timeout(self) -> float | None:
        """The earliest deadline of all."""
        deadlines = (transaction.next_timeout() for transaction in self._open.values())
        return min((at for at in deadlines if at is not None), default=None)

    def transport_failed(self) -> None:
        """The connection is gone, or the server unreachable: all open transactions fail (RFC 8489 §6.2.2)."""
        for transaction in list(self._open.values()):
            transaction.transport_failed()
            self._collect(transaction)

    def poll_transmit(self) -> bytes | None:
        """Next request to send to the server."""
        for transaction in self._open.values():
            if (request := transaction.poll_transmit()) is not None:
                return request
        return None

    def poll_outcome(self) -> Outcome | None:
        """How the next transaction ended, in the order of their ends."""
        return self._outcomes.popleft() if self._outcomes else None

    def __len__(self) -> int:
        return len(self._open)

    def _collect(self, transaction: Transaction) -> None:
        if transaction.outcome is not None:
            del self._open[transaction.transaction_id]
            self._outcomes.append(transaction.outcome)
