"""Takes a session's data off a path that died without a word, or says that it fades."""

from __future__ import annotations

from typing import Final

from edgeice.addresses import Path
from edgeice.ice.generation import Generation
from edgeice.ice.pair import CandidatePair
from edgeice.ice.shared import Shared
from edgeice.ice.slots import Slots

__all__ = ["Watch"]

#: Answers come 6 s apart at most, however long they take.  Consent that is older than this is asked for each second
#: while data goes: at 30 % loss each way one in sixty would end for want of one lucky request in six (RFC 7675 §5.1),
#: and the path with it, though it carries data.
_OLD: Final = 8.0
_SPACING: Final = 1.0


class Watch:
    """Brings what `Liveness` judges about the selected pair to the generation that carries the session.

    Between two sides that know mobility data moves to another valid pair.  Where none answers, and opposite other
    peers, the pair is marked as suspect: it is told as fading, and goes on carrying what there is.

    Its consent is asked for more often while data goes and the answers fail to come, although the path lives.
    """

    __slots__ = ("_asked_at", "_liveness", "_outstanding", "_pair", "_shared", "_slots")

    def __init__(self, shared: Shared, slots: Slots) -> None:
        self._shared = shared
        self._slots = slots
        self._liveness = shared.liveness
        #: The pair that is watched.
        self._pair: CandidatePair | None = None
        self._outstanding = False
        #: When its consent was asked for out of turn.
        self._asked_at = 0.0

    def note_outstanding(self, outstanding: bool, *, now: float) -> None:
        """Data waits to be acknowledged from now on, or none does."""
        self._outstanding = outstanding
        self._liveness.note_outstanding(outstanding, now=now)

    def note_heard(self, path: Path, *, now: float) -> bool:
        """The peer's data came on a path; True if that ends a suspicion."""
        pair = self._pair
        if pair is None or path != pair.path:
            return False
        self._liveness.hear(now=now)
        was_suspect, pair.suspect = pair.suspect, False
        return was_suspect

    def next_timeout(self) -> float | None:
        """When `work` has something to do."""
        renewal_at, due_at = self._renewal_at, self._liveness.next_timeout()
        if renewal_at is None or due_at is None:
            return due_at if renewal_at is None else renewal_at
        return min(renewal_at, due_at)

    @property
    def _renewal_at(self) -> float | None:
        """When the consent of the pair is to be asked for out of turn."""
        consent = None if self._pair is None else self._pair.consent
        if consent is None or not self._outstanding:
            return None
        return max(consent.renewed_at + _OLD, self._asked_at + _SPACING)

    def work(self, *, now: float) -> None:
        """Watch the pair that carries data now, and do what is due."""
        current = self._slots.current
        pair = self._follow(current.selected, now)
        if pair is None:
            return
        if (renewal_at := self._renewal_at) is not None and renewal_at <= now:
            self._asked_at = now
            current.ask_soon(pair)
        due_at = self._liveness.next_timeout()
        if due_at is not None and due_at <= now:
            self._judge(current, pair, now)

    def _judge(self, current: Generation, pair: CandidatePair, now: float) -> None:
        others = {each.consent.pulse: each for each in current.backups if each.consent is not None}
        judgment = self._liveness.judge(tuple(others), now=now)
        for pulse in judgment.ask:
            current.ask_soon(others.get(pulse, pair))
        if judgment.silent and current.leave(pair, cause="silent", now=now):
            self._follow(current.selected, now)
        elif self._liveness.suspect and not pair.suspect:
            pair.suspect = True
            self._shared.trace(now, "suspect", path=pair.path)

    def _follow(self, pair: CandidatePair | None, now: float) -> CandidatePair | None:
        consent = None if pair is None else pair.consent
        self._pair = None if consent is None else pair
        self._liveness.follow(None if consent is None else consent.pulse, now=now)
        return self._pair
