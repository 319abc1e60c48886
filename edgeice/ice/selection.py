"""Which pair of a generation is nominated, and which others are kept beside it (RFC 8445 §8.1)."""

from __future__ import annotations

from edgeice.ice.checklist import Checklist
from edgeice.ice.checks import CheckTable
from edgeice.ice.config import Role
from edgeice.ice.nomination import Nomination, improves, outranks
from edgeice.ice.pair import CandidatePair
from edgeice.ice.shared import Shared

__all__ = ["Selection"]


class Selection:
    """Chooses, on the controlling side, and remembers what was chosen, on both.

    Attributes:
        pair: The nominated pair; None before, and after its base or consent is lost.  The other valid pairs stay for
            `settle_time` longer, and where this one is lost by then, as long as consent to them lasts.
        completed: A pair was nominated once: no other will be (RFC 8445 §8.1.1), unless both sides know renomination
            and it is better.
        renominates: Whether nomination is not the end: both sides know renomination.
        nomination: What is being nominated.
        patience_over: A list that has failed is told so from now on (RFC 8863 §4).
        settle_at: When unselected pairs are released, None before nomination and after.
    """

    def __init__(self, shared: Shared, checklist: Checklist, checks: CheckTable) -> None:
        self.pair: CandidatePair | None = None
        self.completed = False
        self.renominates = False
        self.nomination = Nomination(shared.config)
        self.patience_over = False
        self.settle_at: float | None = None
        self._shared = shared
        self._checklist = checklist
        self._checks = checks
        self._retired = False

    # What it knows

    @property
    def worth(self) -> int:
        """The priority that a new pair must exceed to be of use: after nomination that of the selected one."""
        return 0 if self.pair is None else self.pair.priority

    @property
    def is_settled(self) -> bool:
        """Whether candidates come too late (RFC 8838 §13)."""
        improvable = self.renominates and (self.pair is None or self.pair.is_relayed)
        return self.completed and not improvable

    @property
    def number(self) -> int:
        """Of the nomination that the selected pair has; 0 without one."""
        return 0 if self.pair is None else self.pair.nomination

    @property
    def best_pair(self) -> CandidatePair | None:
        """The pair that data goes by: the selected one, before that the best valid one (RFC 8445 §12.1)."""
        return self.pair if self.completed or self.nomination_failed else self._checklist.best_valid()

    @property
    def alternative(self) -> CandidatePair | None:
        """After the selected pair is lost, the best of those that were valid beside it."""
        return self._checklist.best_valid() if self.completed and self.pair is None else None

    @property
    def nomination_failed(self) -> bool:
        """Whether the list has failed by what was nominated (RFC 8445 §7.3.1.5, §8.1.1), once patience is over."""
        if self.completed or not self.patience_over:
            return False
        if self._shared.role is Role.CONTROLLED:
            return self._checklist.nomination_failed
        return self.nomination.sent and self.nomination.pair is None and not self.renominates

    def betters(self, pair: CandidatePair) -> bool:
        """Whether a pair may still take the selected one's place."""
        return self.renominates and improves(pair, self.pair)

    # What happens

    def choose(self, *, ended: bool, now: float) -> None:
        """Nominate what is to be nominated.  `ended`: neither side will add candidates."""
        if self._shared.role is not Role.CONTROLLING or self.nomination.pair is not None:
            return
        if not self.completed and (self.renominates or not self.nomination.sent):
            self.nomination.choose(self._checklist, ended=ended, now=now)
        elif self.completed and self.renominates:
            self.nomination.improve(self._checklist, self.pair)

    def select(self, pair: CandidatePair, now: float) -> bool:
        """The pair is nominated: those that are not valid are done with, the others soon; False if nothing changes."""
        if not outranks(pair, self.pair):
            return False
        if self.pair is not None:
            self.pair.nominated = False
        self.completed = True
        self.pair = pair
        self.nomination.conclude()
        pair.nominated = True
        self.settle_at = now + self._shared.config.settle_time  # RFC 8445 §8.3.1
        self._release(keep_valid=True)
        return True

    def lose(self, pair: CandidatePair) -> None:
        """A pair is no way any more."""
        self.nomination.give_up(pair)
        if pair is self.pair:
            self.pair = None

    def settle(self, now: float) -> None:
        """Release the unselected pairs once their time has come."""
        if self.settle_at is not None and self.settle_at <= now and self.pair is not None:
            self.settle_at = None
            self._release(keep_valid=False)

    def set_role(self, role: Role) -> None:
        """The session's role changed."""
        if role is Role.CONTROLLED:
            self.nomination.give_up(self.nomination.pair)
            self.nomination.sent = False

    def retire(self) -> None:
        """Another generation took over: nothing is selected any more, and no pair is kept."""
        self._retired = True
        self.pair = None
        self.nomination.conclude()
        self._release(keep_valid=False)
        self.settle_at = None

    # Inside

    def _release(self, *, keep_valid: bool) -> None:
        """Drop unselected pairs and all their checks (RFC 8445 §8.1.2), but for those that may be selected yet."""
        better = set() if self._retired else {pair for pair in self._checklist if self._may_follow(pair)}
        for pair in self._checklist:
            if pair is not self.pair and pair not in better:
                self._checks.forget(pair)
        # A pair whose consent ended stays known, so that its path is not taken up again (RFC 7675 §5.1).
        self._checklist.keep(
            lambda pair: pair is self.pair or pair in better or pair.is_dead or (keep_valid and pair.is_valid)
        )

    def _may_follow(self, pair: CandidatePair) -> bool:
        """Whether a pair may take the selected one's place: by renomination, or by what the peer has nominated."""
        return self.betters(pair) or (pair.nominated_by_peer and pair.is_open and outranks(pair, self.pair))
