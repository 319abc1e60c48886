"""When the controlling side nominates, and what (RFC 8445 §8.1.1)."""

from __future__ import annotations

from edgeice.ice.checklist import Checklist
from edgeice.ice.config import IceConfig
from edgeice.ice.pair import CandidatePair

__all__ = ["Nomination", "improves", "outranks"]


def improves(pair: CandidatePair, selected: CandidatePair | None) -> bool:
    """Whether a pair is worth another nomination, and checks until it works or fails.

    A relay costs its owner and adds to each round trip, so whatever is better than a relayed pair is worth it.  From
    one direct pair to another there is little to gain, and often dozens of addresses that nothing answers from.
    """
    return selected is None or (selected.is_relayed and pair.priority > selected.priority)


def outranks(pair: CandidatePair, selected: CandidatePair | None) -> bool:
    """Whether the nomination of a pair replaces the one before.

    RFC 8445 §8.1.1: of several the highest priority wins, as long as its path lives; numbers, which only renomination
    gives, come first.
    """
    return selected is None or (pair.nomination, pair.priority) > (selected.nomination, selected.priority)


class Nomination:
    """Regular nomination: one pair, chosen once, by repeating its check with USE-CANDIDATE.

    The choice is made at once when no better pair can come of what is known: all pairs of higher priority have
    failed, and either both sides said that their candidates have ended or the pair joins two host addresses.
    Otherwise it is made a little after the first pair became valid; longer after, while only a relay works, because
    moving off it later takes a restart; longest, while the peer is heard on a direct pair.  Data needs not wait for
    this: it flows on any valid pair (RFC 8445 §12.1).

    If the pair fails before the peer has answered, the list has failed with it (RFC 8445 §8.1.1): the peer may have
    followed, and would not go elsewhere.

    Opposite a peer that knows renomination the choice of a relayed pair is not the last one: each better pair that
    becomes valid later is nominated in its turn, under the next number.
    """

    __slots__ = ("_config", "_first_valid_at", "_latest", "deadline", "pair", "sent")

    def __init__(self, config: IceConfig) -> None:
        self._config = config
        self._first_valid_at: float | None = None
        #: Number of the latest nomination.
        self._latest = 0
        #: When `choose` will decide at the latest; None while there is nothing to wait for.
        self.deadline: float | None = None
        #: The pair that is being nominated.
        self.pair: CandidatePair | None = None
        #: A nomination has left; the peer may have followed it although no answer came.
        self.sent = False

    def choose(self, checklist: Checklist, *, ended: bool, now: float) -> None:
        """Queue the nominating check, unless it is too early.  `ended`: neither side will add candidates."""
        pair = self._choose(checklist, ended=ended, now=now)
        if pair is not None:
            self._begin(pair, checklist)

    def improve(self, checklist: Checklist, selected: CandidatePair | None) -> None:
        """Queue the nominating check of a valid pair that improves on the selected one, if there is any."""
        best = checklist.best_valid()
        if best is not None and improves(best, selected):
            self._begin(best, checklist)

    def give_up(self, pair: CandidatePair | None) -> None:
        """Nominate another one later, if it is this pair that is being nominated."""
        if pair is not None and pair is self.pair:
            pair.nominate_next = False
            self.pair = None

    def conclude(self) -> None:
        """A pair is nominated: without renomination no other will be (RFC 8445 §8.1.1)."""
        self.give_up(self.pair)
        self.deadline = None

    def _begin(self, pair: CandidatePair, checklist: Checklist) -> None:
        self.deadline = None
        self.pair = pair
        self._latest += 1
        pair.nomination = self._latest
        pair.nominate_next = True
        checklist.trigger(pair, first=True)

    def _choose(self, checklist: Checklist, *, ended: bool, now: float) -> CandidatePair | None:
        best = checklist.best_valid()
        if best is None:
            self.deadline = None
            return None
        if self._first_valid_at is None:
            self._first_valid_at = now
        better = [pair for pair in checklist if pair.is_open and pair.priority > best.priority]
        self.deadline = self._first_valid_at + self._wait(best, better)
        if now >= self.deadline or (not better and (ended or best.is_host_only)):
            return best
        return None

    def _wait(self, best: CandidatePair, better: list[CandidatePair]) -> float:
        config = self._config
        if not best.is_relayed:
            return config.nomination_wait
        if any(pair.requests_received and not pair.is_relayed for pair in better):
            return max(config.relay_nomination_wait, config.promising_nomination_wait)
        return config.relay_nomination_wait
