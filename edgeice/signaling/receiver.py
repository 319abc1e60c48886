"""The peer's candidates: matched to descriptions, held when early, closed by `end` (contract §5, "Loss").

What comes after `end`, added or withdrawn, is passed on like the rest: whether both peers allow it (`edgeice-mobility`)
is for ICE to know, and a message that lost its way may just come late.
"""

from __future__ import annotations

from collections import deque

import attrs

from edgeice.sansio import DropCounter, Event
from edgeice.signaling.description import Description
from edgeice.signaling.events import CandidatesReceived, EndOfCandidatesReceived, SessionId
from edgeice.signaling.messages import Candidates
from edgeice.signaling.window import SequenceWindow

__all__ = ["END_PATIENCE", "HELD_LIMIT", "HELD_TIME", "MAX_PER_GENERATION", "RemoteCandidates"]

#: Early candidates kept per session, and for how many seconds.
HELD_LIMIT = 32
HELD_TIME = 5.0
#: Seconds that `end` waits for lower `seq` at most.
END_PATIENCE = 5.0
#: Candidates of one generation that stand at once; ICE has its own, lower limits.
MAX_PER_GENERATION = 128


@attrs.frozen
class _Held:
    gen: int
    seq: int
    body: Candidates
    until: float


class _Ledger:
    """Which candidates of a generation stand, by the highest `seq` that spoke of each.

    Two roads may swap a withdrawal and the candidate's return: the later word counts, whenever it comes.
    """

    __slots__ = ("_gone", "_standing")

    def __init__(self) -> None:
        self._standing: dict[str, int] = {}
        #: Withdrawn ones, the latest last; the oldest are forgotten beyond as many as may stand.
        self._gone: dict[str, int] = {}

    @property
    def is_full(self) -> bool:
        return len(self._standing) >= MAX_PER_GENERATION

    def is_news(self, line: str, seq: int) -> bool:
        """Whether a candidate did not stand, and was not withdrawn later."""
        if line in self._standing:
            self._standing[line] = max(seq, self._standing[line])
            return False
        # A message withdraws before it adds, so that with the same `seq` the candidate came back.
        return self._gone.get(line, -1) <= seq

    def add(self, line: str, seq: int) -> None:
        self._gone.pop(line, None)
        self._standing[line] = seq

    def remove(self, line: str, seq: int) -> bool:
        """Whether a withdrawal is news; it may be of one that stood in the description, which is not known here."""
        if self._standing.get(line, -1) > seq or line in self._gone:
            return False
        self._standing.pop(line, None)
        if len(self._gone) >= MAX_PER_GENERATION:
            del self._gone[next(iter(self._gone))]
        self._gone[line] = seq
        return True


@attrs.define
class _Generation:
    ufrags: tuple[str, ...]
    ledger: _Ledger = attrs.field(factory=_Ledger)
    ended: bool = False
    #: `end` came with this `seq` for this ufrag, and lower ones may still come until then.
    end_seq: int | None = None
    end_ufrag: str = ""
    end_at: float = 0.0


class RemoteCandidates:
    """Sorts a peer's candidates by generation and ufrag."""

    def __init__(self, session: SessionId, window: SequenceWindow, events: deque[Event], drops: DropCounter) -> None:
        self._session = session
        self._window = window
        self._events = events
        self._drops = drops
        #: Generations whose description is known: the one in use and at most one pending.
        self._live: dict[int, _Generation] = {}
        self._held: deque[_Held] = deque()
        self._held_size = 0

    def described(self, gen: int, seq: int, description: Description, *, now: float) -> None:
        """A description is known; what was held for it is delivered."""
        self._live[gen] = generation = _Generation(description.ufrags)
        held, self._held = self._held, deque()
        self._held_size = 0
        for item in held:
            if item.gen == gen:
                self._deliver(generation, item.gen, item.seq, item.body, now)
            elif item.gen > gen:
                self._held.append(item)
                self._held_size += item.body.size
            else:
                self._drops.count("old-generation")
        if description.end_of_candidates:
            self._end(generation, seq, next(iter(description.ufrags), ""), now)

    def settled(self, gen: int) -> None:
        """Offer and answer of `gen` are complete: lower generations take no more candidates."""
        for old in [g for g in self._live if g < gen]:
            del self._live[old]

    def withdrawn(self, gen: int) -> None:
        """The description of `gen` came to nothing."""
        self._live.pop(gen, None)

    def receive(self, gen: int, seq: int, body: Candidates, *, now: float) -> None:
        """Take the candidates of one message."""
        generation = self._live.get(gen)
        if generation is not None:
            self._deliver(generation, gen, seq, body, now)
        elif gen < max(self._live, default=0):
            self._drops.count("old-generation")
        elif self._held_size + body.size > HELD_LIMIT:
            self._drops.count("held-full")
        else:
            self._held.append(_Held(gen, seq, body, now + HELD_TIME))
            self._held_size += body.size

    def progressed(self, *, now: float) -> None:
        """Another `seq` came, or time passed: let each `end` take effect that has nothing to wait for."""
        for gen, generation in self._live.items():
            seq = generation.end_seq
            if seq is not None and (self._window.all_below(seq) or now >= generation.end_at):
                generation.end_seq = None
                generation.ended = True
                self._events.append(EndOfCandidatesReceived(self._session, gen, generation.end_ufrag))

    def next_timeout(self) -> float | None:
        """The earliest end of a patience."""
        ends = [g.end_at for g in self._live.values() if g.end_seq is not None]
        if self._held:
            ends.append(self._held[0].until)
        return min(ends, default=None)

    def handle_timeout(self, *, now: float) -> None:
        """Forget what was held too long, and let late ends take effect."""
        while self._held and self._held[0].until <= now:
            self._held_size -= self._held.popleft().body.size
            self._drops.count("held-expired")
        self.progressed(now=now)

    def clear(self) -> None:
        """The session ended."""
        self._live.clear()
        self._held.clear()
        self._held_size = 0

    def _deliver(self, generation: _Generation, gen: int, seq: int, body: Candidates, now: float) -> None:
        if body.ufrag not in generation.ufrags:
            self._drops.count("unknown-ufrag")
            return
        ledger = generation.ledger
        removed = tuple(line for line in body.removed if ledger.remove(line, seq))
        added = []
        for line in body.candidates:
            if not ledger.is_news(line, seq):
                continue
            if ledger.is_full:
                self._drops.count("candidate-flood")
                continue
            ledger.add(line, seq)
            added.append(line)
        if added or removed:
            self._events.append(CandidatesReceived(self._session, gen, body.ufrag, tuple(added), removed))
        if body.end:
            self._end(generation, seq, body.ufrag, now)

    def _end(self, generation: _Generation, seq: int, ufrag: str, now: float) -> None:
        if generation.ended or generation.end_seq is not None:
            return
        generation.end_seq = seq
        generation.end_ufrag = ufrag
        generation.end_at = now + END_PATIENCE
        self.progressed(now=now)
