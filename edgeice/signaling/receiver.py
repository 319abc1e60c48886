"""The peer's candidates: matched to descriptions, held when early, closed by `end` (contract §5, "Loss")."""

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
#: Candidates of one generation that are passed on; ICE has its own, lower limits.
MAX_PER_GENERATION = 128


@attrs.frozen
class _Held:
    gen: int
    seq: int
    body: Candidates
    until: float


@attrs.define
class _Generation:
    ufrags: tuple[str, ...]
    delivered: int = 0
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
                self._held_size += _size(item.body)
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
        elif self._held_size + _size(body) > HELD_LIMIT:
            self._drops.count("held-full")
        else:
            self._held.append(_Held(gen, seq, body, now + HELD_TIME))
            self._held_size += _size(body)

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
            self._held_size -= _size(self._held.popleft().body)
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
        if generation.ended:
            if body.candidates:
                self._drops.count("after-end")
            return
        room = MAX_PER_GENERATION - generation.delivered
        taken = body.candidates[:room]
        if len(taken) < len(body.candidates):
            self._drops.count("candidate-flood", len(body.candidates) - len(taken))
        if taken:
            generation.delivered += len(taken)
            self._events.append(CandidatesReceived(self._session, gen, body.ufrag, taken))
        if body.end:
            self._end(generation, seq, body.ufrag, now)

    def _end(self, generation: _Generation, seq: int, ufrag: str, now: float) -> None:
        if generation.ended or generation.end_seq is not None:
            return
        generation.end_seq = seq
        generation.end_ufrag = ufrag
        generation.end_at = now + END_PATIENCE
        self.progressed(now=now)


def _size(body: Candidates) -> int:
    return max(1, len(body.candidates))
