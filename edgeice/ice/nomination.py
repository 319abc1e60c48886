"""When the controlling side nominates, and what (RFC 8445 §8.1.1)."""

from __future__ import annotations

from edgeice.ice.checklist import Checklist
from edgeice.ice.config import IceConfig
from edgeice.ice.pair import CandidatePair

__all__ = ["Nomination"]


class Nomination:
    """Regular nomination: one pair, chosen once, by repeating its check with USE-CANDIDATE.

    The choice is made at once when no better pair can come of what is known: all pairs of higher priority have
    failed, and either both sides said that their candidates have ended or the pair joins two host addresses.
    Otherwise it is made a little after the first pair became valid; longer after, while only a relay works, because
    moving off it later takes a restart.  Data needs not wait for this: it flows on any valid pair (RFC 8445 §12.1).
    """

    __slots__ = ("_config", "_first_valid_at", "deadline", "pair")

    def __init__(self, config: IceConfig) -> None:
        self._config = config
        self._first_valid_at: float | None = None
        #: When `choose` will decide at the latest; None while there is nothing to wait for.
        self.deadline: float | None = None
        #: The pair that is being nominated.
        self.pair: CandidatePair | None = None

    def choose(self, checklist: Checklist, *, ended: bool, now: float) -> None:
        """Queue the nominating check, unless it is too early.  `ended`: neither side will add candidates."""
        pair = self._choose(checklist, ended=ended, now=now)
        if pair is not None:
            self.deadline = None
            self.pair = pair
            pair.nominate_next = True
            checklist.trigger(pair, first=True)

    def give_up(self, pair: CandidatePair | None) -> None:
        """Nominate another one later, if it is this pair that is being nominated."""
        if pair is not None and pair is self.pair:
            pair.nominate_next = False
            self.pair = None

    def conclude(self) -> None:
        """A pair is nominated: no other will be (RFC 8445 §8.1.1)."""
        self.give_up(self.pair)
        self.deadline = None

    def _choose(self, checklist: Checklist, *, ended: bool, now: float) -> CandidatePair | None:
        best = checklist.best_valid()
        if best is None:
            self.deadline = None
            return None
        if self._first_valid_at is None:
            self._first_valid_at = now
        wait = self._config.relay_nomination_wait if best.is_relayed else self._config.nomination_wait
        self.deadline = self._first_valid_at + wait
        better_possible = any(pair.is_open and pair.priority > best.priority for pair in checklist)
        if now >= self.deadline or (not better_possible and (ended or best.is_host_only)):
            return best
        return None
