"""Data goes on by another pair, without signaling: between two sides that know mobility."""

from __future__ import annotations

from collections import Counter
from typing import Final, Protocol

from edgeice.ice.backups import BACKUP_LIMIT
from edgeice.ice.checklist import Checklist
from edgeice.ice.pair import CandidatePair, PairInput
from edgeice.ice.pairing import Pairing
from edgeice.ice.selection import Selection
from edgeice.ice.shared import Shared

__all__ = ["Moves"]

#: Seconds between two rounds of checks where nothing is valid, and which rounds check metered pairs too.
_RETRY_INTERVAL: Final = 30.0
_METERED_ROUNDS: Final = 4
#: How long the pair that was moved to may take to answer where another one has: seconds, and round trips more; and what
#: is taken for one where none was measured.
_PATIENCE: Final = 0.03
_PATIENCE_ROUND_TRIPS: Final = 1.5
_ROUND_TRIP: Final = 0.2
#: Pairs of one combination in a round.
_RETRY_PAIRS: Final = 2


class _SendCheck(Protocol):
    def __call__(self, pair: CandidatePair, /, *, now: float) -> None: ...


class Moves:
    """Moves a generation's data from pair to pair.

    Whoever loses its interface moves at once to the best pair that is valid besides, and says so there by a check with
    the NOMINATION attribute: the controlling side nominates the pair, with USE-CANDIDATE and the next number; the
    controlled side, without USE-CANDIDATE and by a count of its own, says "I send here now, follow".  The controlling
    side follows as soon as its own check on the pair has succeeded, which on a pair that was kept valid it has, and
    nominates it.  So both ends converge on what the controlling side nominates.  Numbers only grow: one that is old,
    or replayed, moves nothing.

    A pair that was valid may be so no more, as when the other end moves at the same time.  So the others are checked
    too, and if one of them answers and the one that was moved to does not in time, data moves on.

    Where no other pair is valid everything is checked again with the present credentials, and the first pair that
    works carries data at once.  Combinations of interfaces without a valid pair are tried again from time to time: a
    network may come back without anybody saying so.

    Args:
        shared: What the session's generations share.
        checklist: The generation's.
        selection: The generation's.
        pairing: The generation's.
        send_check: Sends a check on a pair now.
    """

    __slots__ = (
        "_checklist",
        "_is_overdue",
        "_moved_at",
        "_pairing",
        "_patience_at",
        "_retry_at",
        "_rounds",
        "_selection",
        "_send_check",
        "_shared",
    )

    def __init__(
        self, shared: Shared, checklist: Checklist, selection: Selection, pairing: Pairing, send_check: _SendCheck
    ) -> None:
        self._shared = shared
        self._checklist = checklist
        self._selection = selection
        self._pairing = pairing
        self._send_check = send_check
        #: When the next round of what does not work is due; None before nomination.
        self._retry_at: float | None = None
        self._rounds = 0
        #: When data moved last, and until when the peer's answer on the pair is waited for; None once that is over.
        self._moved_at = 0.0
        self._patience_at: float | None = None
        self._is_overdue = False

    def leave(self, pair: CandidatePair, *, cause: str, now: float) -> bool:
        """Take data off the selected pair, which does not work although it is still valid: as `Generation.leave`."""
        if pair is not self._selection.pair or not self._selection.mobile:
            return False
        others = (each for each in self._checklist.valid() if each is not pair and not each.suspect)
        backup = min(others, key=self._checklist.order, default=None)
        if backup is None:
            return False
        pair.suspect = True
        self.move(backup, cause, now=now)
        return True

    def carry_on(self, cause: str, *, now: float) -> None:
        """The selected pair is lost: data goes by another, or one is looked for."""
        self._selection.cause = cause
        if not self._selection.mobile or not self._selection.completed:
            return
        pair = self._checklist.best_valid()
        if pair is not None:
            self.move(pair, cause, now=now)
        else:
            self._look_again()

    def move(self, pair: CandidatePair, cause: str, *, now: float) -> None:
        """Data goes by another valid pair from now on, and the peer is told there: at once, ahead of all that waits."""
        self._shared.trace(now, "moved", path=pair.path, cause=cause)
        self._pairing.forget_learned()
        self._moved_at = now
        self._patience_at, self._is_overdue = None, False
        is_new = pair.answered_at >= now or cause == "peer_moved"
        if self._selection.move(pair, cause, now):
            self._checklist.untrigger(pair)
            self._send_check(pair, now=now)
        if not is_new:
            self._patience_at = (
                now + _PATIENCE + _PATIENCE_ROUND_TRIPS * (_ROUND_TRIP if pair.rtt is None else pair.rtt)
            )
            for backup in self._selection.backups:
                self._checklist.trigger(backup)

    def _move_on(self, now: float) -> None:
        """Leave the pair that was moved to for one that has answered since; or wait until one does."""
        pair = self._selection.pair
        if pair is None or pair.answered_at >= self._moved_at:
            self._is_overdue = False
            return
        others = [each for each in self._checklist.valid() if each.answered_at > self._moved_at]
        if others:
            self.move(min(others, key=self._checklist.order), self._selection.cause, now=now)

    def work(self, *, now: float) -> None:
        """Try again what does not work, if it is time."""
        if not self._selection.mobile or not self._selection.completed:
            return
        if self._patience_at is not None and self._patience_at <= now:
            self._patience_at, self._is_overdue = None, True
        if self._is_overdue:
            self._move_on(now)
        if self._retry_at is None:
            self._retry_at = now + _RETRY_INTERVAL
        elif self._retry_at <= now:
            self._retry_at = now + _RETRY_INTERVAL
            self._rounds += 1
            self._retry()

    @property
    def due_at(self) -> float | None:
        """When `work` must be called; what is not urgent is done in time whenever consent is asked for."""
        if not self._selection.mobile:
            return None
        return self._retry_at if self._selection.pair is None else self._patience_at

    def _retry(self) -> None:
        """Check the best few pairs of each combination of interfaces that has no valid one."""
        covered = {pair.combination for pair in self._checklist.valid()}
        if len(covered) > BACKUP_LIMIT:
            return
        known = set(self._checklist)
        self._pairing.form_all(but=covered)
        tried: Counter[tuple[int, int]] = Counter()
        for pair in sorted(self._checklist, key=self._checklist.order):
            if pair.is_dead or pair.combination in covered or (pair.is_metered and self._rounds % _METERED_ROUNDS):
                wanted = False
            else:
                wanted = tried[pair.combination] < _RETRY_PAIRS
                tried[pair.combination] += 1
            if not wanted and pair not in known:
                self._checklist.remove(pair)
            elif wanted and (not pair.is_open or pair not in known):
                pair.retried = True
                pair.apply(PairInput.TRIGGER)
                self._checklist.trigger(pair)

    def _look_again(self) -> None:
        """Check everything that may work, with the present credentials: what failed, and what was not needed."""
        self._pairing.form_all()
        pairs = [pair for pair in self._checklist if not pair.is_dead and not pair.is_valid]
        for pair in sorted(pairs, key=self._checklist.order):
            if pair.check is not None:
                pair.check.silence()
            pair.retried = False
            pair.apply(PairInput.TRIGGER)
            self._checklist.trigger(pair)
