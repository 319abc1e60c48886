"""Own candidates on their way out: gathered into few messages, by generation (contract §5, `candidates`)."""

from __future__ import annotations

from collections import deque

import attrs

from edgeice.signaling.description import Description
from edgeice.signaling.messages import Candidates

__all__ = ["GATHER_TIME", "MOVE_GATHER_TIME", "LocalCandidates"]

#: Seconds for which candidates after the first ones gather (§5).
GATHER_TIME = 0.05
#: The same after the end of candidates, when a host has moved: what one change of its addresses brings comes at once,
#: and whoever waits for it has no path.
MOVE_GATHER_TIME = 0.005

#: Keeps a message far below 32 KiB.
_BATCH = 32
#: Candidates that may wait for their own description, and as many that are withdrawn.
_WAITING = 128


@attrs.define
class _Batch:
    """One generation's candidates."""

    ufrag: str
    waiting: deque[str] = attrs.field(factory=deque)
    #: Withdrawn, and to be said so.
    leaving: deque[str] = attrs.field(factory=deque)
    end: bool = False
    #: The generation's own description is out; before that nothing may go.
    described: bool = False
    #: Something was sent, so what comes now gathers.
    begun: bool = False
    #: The end was sent.
    ended: bool = False
    #: When what waits goes, None while nothing waits.
    flush_at: float | None = None

    def add(self, candidates: tuple[str, ...], removed: tuple[str, ...], *, end: bool, now: float) -> bool:
        """Take candidates; True when a message is due at once."""
        for line in removed:
            if line in self.waiting:
                self.waiting.remove(line)  # nobody heard of it
            elif len(self.leaving) < _WAITING:
                self.leaving.append(line)
        self.waiting.extend(candidates[: _WAITING - len(self.waiting)])
        self.end = self.end or end
        if not self.described:
            return False
        if not self.begun or end:
            return self.is_due
        if (self.waiting or self.leaving) and self.flush_at is None:
            self.flush_at = now + (MOVE_GATHER_TIME if self.ended else GATHER_TIME)
        return False

    @property
    def is_due(self) -> bool:
        return bool(self.waiting or self.leaving or self.end)

    def take(self) -> list[Candidates]:
        """Empty the batch into message bodies; what is withdrawn goes first, as some of it may have come back."""
        bodies: list[Candidates] = []
        while self.waiting or self.leaving or (self.end and not bodies):
            removed = _pop(self.leaving, _BATCH)
            found = _pop(self.waiting, _BATCH - len(removed))
            end = self.end and not (self.waiting or self.leaving)
            bodies.append(Candidates(self.ufrag, found, end, removed))
        self.begun = self.begun or bool(bodies)
        self.ended = self.ended or self.end
        self.end = False
        self.flush_at = None
        return bodies


class LocalCandidates:
    """Gathers a session's own candidates; its owner signs and sends the bodies that it returns, in their order."""

    def __init__(self) -> None:
        #: The generation in use and those on their way to it.
        self._batches: dict[int, _Batch] = {}

    def add(
        self,
        gen: int,
        ufrag: str,
        candidates: tuple[str, ...],
        *,
        removed: tuple[str, ...],
        end: bool,
        to_come: bool,
        now: float,
    ) -> list[Candidates]:
        """Take candidates; those of a generation or ufrag that is not in use are ignored.

        Args:
            gen: The ICE generation.
            ufrag: The own one of that generation.
            candidates: Lines that begin `candidate:`.
            removed: The same for candidates that are withdrawn.
            end: No more will come, but for what a move of the host brings.
            to_come: The generation's own description is not out: they wait for it.
            now: Monotonic seconds.
        """
        batch = self._batches.get(gen)
        if to_come and (batch is None or (batch.ufrag != ufrag and not batch.described)):
            batch = self._batches[gen] = _Batch(ufrag)
        if batch is None or batch.ufrag != ufrag or not batch.add(candidates, removed, end=end, now=now):
            return []
        return batch.take()

    def described(self, gen: int, description: Description) -> list[Candidates]:
        """The own description of `gen` is out: its candidates may follow."""
        batch = self._batches.get(gen)
        if batch is None or batch.ufrag not in description.ufrags:
            batch = self._batches[gen] = _Batch(next(iter(description.ufrags), ""))
        batch.described = True
        return batch.take() if batch.is_due else []

    def withdrawn(self, gen: int) -> None:
        """The own description of `gen` came to nothing."""
        self._batches.pop(gen, None)

    def settled(self, gen: int) -> None:
        """Offer and answer of `gen` are complete: candidates of lower generations are not sent any more."""
        for old in [each for each in self._batches if each < gen]:
            del self._batches[old]

    def clear(self) -> None:
        """The session ended."""
        self._batches.clear()

    def next_timeout(self) -> float | None:
        """When something that gathers goes."""
        return min((each.flush_at for each in self._batches.values() if each.flush_at is not None), default=None)

    def handle_timeout(self, *, now: float) -> list[tuple[int, Candidates]]:
        """What is due, with its generation."""
        due = [
            (gen, batch) for gen, batch in self._batches.items() if batch.flush_at is not None and batch.flush_at <= now
        ]
        return [(gen, body) for gen, batch in due for body in batch.take()]


def _pop(lines: deque[str], most: int) -> tuple[str, ...]:
    return tuple(lines.popleft() for _ in range(min(most, len(lines))))
