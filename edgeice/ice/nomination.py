"""When the controlling side nominates, and what (RFC 8445 §8.1.1)."""

from __future__ import annotations

from typing import Final

from edgeice.ice.checklist import Checklist
from edgeice.ice.config import IceConfig
from edgeice.ice.incoming import HIGHEST_NOMINATION
from edgeice.ice.pair import CandidatePair

__all__ = ["Nomination", "improves"]

#: A link that comes and goes is tried again after one and a half minutes at the latest.
_MAX_DOUBLINGS: Final = 5


def improves(pair: CandidatePair, selected: CandidatePair | None) -> bool:
    """Whether a pair is worth another nomination, and checks until it works or fails.

    A relay costs its owner and adds to each round trip, so whatever is better than a relayed pair is worth it.  From
    one direct pair to another there is little to gain, and often dozens of addresses that nothing answers from.  A link
    that costs less comes before all that.
    """
    if selected is None:
        return True
    if _link(pair) != _link(selected):
        return _link(pair) < _link(selected)
    return selected.is_relayed and pair.priority > selected.priority


def _link(pair: CandidatePair) -> tuple[bool, int]:
    return pair.is_metered, pair.cost


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
    becomes valid later is nominated in its turn, under the next number; with mobility, one on a better link, once it
    has answered for a while.
    """

    __slots__ = ("_config", "_first_valid_at", "deadline", "latest", "pair", "sent")

    def __init__(self, config: IceConfig) -> None:
        self._config = config
        self._first_valid_at: float | None = None
        #: Number of the latest nomination.
        self.latest = 0
        #: When `choose` or `improve` will decide at the latest; None while there is nothing to wait for.
        self.deadline: float | None = None
        #: The pair that is being nominated.
        self.pair: CandidatePair | None = None
        #: A nomination has left; the peer may have followed it although no answer came.
        self.sent = False

    def choose(self, checklist: Checklist, *, ended: bool, hurried: bool, now: float) -> None:
        """Queue the nominating check, unless it is too early.

        Args:
            checklist: What there is to choose from.
            ended: Neither side will add candidates.
            hurried: Wait for nothing better, which can still be nominated later.
            now: Present time.
        """
        pair = self._choose(checklist, ended=ended, now=now)
        if hurried:
            pair, self.deadline = checklist.best_valid(), None
        if pair is not None and self.begin(pair):
            checklist.trigger(pair, first=True)

    def improve(self, checklist: Checklist, selected: CandidatePair | None, *, mobile: bool, now: float) -> None:
        """Queue the nominating check of a valid pair that improves on the selected one, if there is any."""
        better = [pair for pair in checklist.valid() if improves(pair, selected)]
        if mobile and selected is not None:
            better = [pair for pair in better if not pair.is_doubtful and pair.good_since is not None]
            proven_at = {pair: self._proven_at(pair, selected) for pair in better}
            self.deadline = min((at for at in proven_at.values() if at > now), default=None)
            better = [pair for pair in better if proven_at[pair] <= now]
        best = min(better, key=checklist.order, default=None)
        if best is not None and self.begin(best):
            checklist.trigger(best, first=True)

    def _proven_at(self, pair: CandidatePair, selected: CandidatePair) -> float:
        """When a pair has answered for long enough; one that was left before, for twice as long each time."""
        since = pair.good_since or 0.0
        if _link(pair) == _link(selected) and not pair.left:
            return since
        return since + self._config.better_link_wait * float(2 ** min(pair.left, _MAX_DOUBLINGS))

    def give_up(self, pair: CandidatePair | None) -> None:
        """Nominate another one later, if it is this pair that is being nominated."""
        if pair is not None and pair is self.pair:
            pair.nominate_next = False
            self.pair = None

    def conclude(self) -> None:
        """A pair is nominated: without renomination no other will be (RFC 8445 §8.1.1)."""
        self.give_up(self.pair)
        self.deadline = None

    def begin(self, pair: CandidatePair) -> bool:
        """Let the next check on a pair nominate it; False once all numbers are used, which only a restart cures."""
        self.deadline = None
        if self.latest >= HIGHEST_NOMINATION:
            return False
        self.give_up(self.pair)
        self.pair = pair
        self.latest += 1
        pair.nomination = self.latest
        pair.nominate_next = True
        return True

    def _choose(self, checklist: Checklist, *, ended: bool, now: float) -> CandidatePair | None:
        best = checklist.best_valid()
        if best is None:
            self.deadline = None
            return None
        if self._first_valid_at is None:
            self._first_valid_at = now
        better = [pair for pair in checklist if pair.is_open and checklist.prefers(pair, best)]
        self.deadline = self._first_valid_at + self._wait(best, better)
        if now >= self.deadline or (not better and (ended or best.is_host_only)):
            return best
        return None

    def _wait(self, best: CandidatePair, better: list[CandidatePair]) -> float:
        config = self._config
        if not best.is_relayed:
            dear = best.is_metered and not all(pair.is_metered for pair in better)
            return config.relay_nomination_wait if dear else config.nomination_wait
        if any(pair.requests_received and not pair.is_relayed for pair in better):
            return max(config.relay_nomination_wait, config.promising_nomination_wait)
        return config.relay_nomination_wait
