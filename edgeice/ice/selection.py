"""Which pair of a generation is nominated, and which others are kept beside it (RFC 8445 §8.1)."""

from __future__ import annotations

import math

from edgeice.ice.backups import choose_backups, is_wanted
from edgeice.ice.checklist import Checklist
from edgeice.ice.checks import CheckTable
from edgeice.ice.config import Role
from edgeice.ice.incoming import HIGHEST_NOMINATION
from edgeice.ice.nomination import Nomination, improves
from edgeice.ice.pair import CandidatePair
from edgeice.ice.shared import Shared

__all__ = ["Selection"]


class Selection:
    """Chooses, on the controlling side, and remembers what was chosen, on both.

    Between two sides that know mobility other pairs stay valid beside the selected one, and either side may move its
    data to one of them.  Such a move selects the pair here, and is `nominated` once the controlling side has done so.

    Attributes:
        pair: The selected pair; None before, and after its base or consent is lost.  The other valid pairs stay for
            `settle_time` longer, and where this one is lost by then, as long as consent to them lasts.
        completed: A pair was nominated once: no other will be (RFC 8445 §8.1.1), unless both sides know renomination
            and it is better.
        number: Of the latest nomination that was followed; older ones move nothing.
        cause: Why the pair is the selected one, or why there is none: see `SendPathChanged.cause`.
        renominates: Whether nomination is not the end: both sides know renomination.
        mobile: Both sides know mobility.
        nomination: What is being nominated.
        patience_over: A list that has failed is told so from now on (RFC 8863 §4).
        settle_at: When unselected pairs are released, None before nomination and after.
    """

    def __init__(self, shared: Shared, checklist: Checklist, checks: CheckTable) -> None:
        self.pair: CandidatePair | None = None
        self.completed = False
        self.number = 0
        self.cause = ""
        self.renominates = False
        self.mobile = False
        self.nomination = Nomination(shared.config)
        self.patience_over = False
        self.settle_at: float | None = None
        #: Number of this side's latest move, as the controlled one.
        self._moves = 0
        #: Number of the latest move of a controlled peer that was followed.
        self._followed = 0
        self._shared = shared
        self._checklist = checklist
        self._checks = checks
        self._retired = False

    # What it knows

    @property
    def worth(self) -> int:
        """The priority that a new pair must exceed to be of use: after nomination that of the selected one."""
        return 0 if self.pair is None or self.mobile else self.pair.priority

    @property
    def is_settled(self) -> bool:
        """Whether candidates come too late (RFC 8838 §13)."""
        improvable = self.renominates and (self.pair is None or self.pair.is_relayed)
        return self.completed and not self.mobile and not improvable

    @property
    def best_pair(self) -> CandidatePair | None:
        """The pair that data goes by: the selected one, before that the best valid one (RFC 8445 §12.1)."""
        return self.pair if self.completed or self.nomination_failed else self._checklist.best_valid()

    @property
    def alternative(self) -> CandidatePair | None:
        """After the selected pair is lost, the best of those that were valid beside it."""
        return self._checklist.best_valid() if self.completed and self.pair is None else None

    @property
    def backups(self) -> list[CandidatePair]:
        """The valid pairs that are kept beside the selected one; empty without mobility."""
        return choose_backups(self._checklist.valid(), self.pair) if self.mobile else []

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

    def keeps_consent(self, pair: CandidatePair) -> bool:
        """Whether consent on a valid pair is worth asking for."""
        return self.pair is None or pair is self.pair or self.mobile or self.betters(pair)

    def spares(self, pair: CandidatePair) -> bool:
        """Whether consent on a pair is to be asked for as seldom as it may."""
        return self.mobile and self.completed and pair is not self.pair and pair.is_metered

    def wants(self, combination: tuple[int, int]) -> bool:
        """Whether a pair that the peer checks, and that is not on the list, is worth checks of this side."""
        if not self.mobile or not self.completed or self.pair is None:
            return True
        return is_wanted(combination, self.backups, self.pair, relayed=True)

    # What happens

    def choose(self, *, ended: bool, hurried: bool, now: float) -> None:
        """Nominate what is to be nominated.

        Args:
            ended: Neither side will add candidates.
            hurried: The session has no path: between sides that know mobility the first that works is nominated.
            now: Present time.
        """
        if self._shared.role is not Role.CONTROLLING or self.nomination.pair is not None:
            return
        if self.mobile and self.pair is not None and not self.pair.nominated:
            # A move whose nomination was given up: the peer goes by nothing else.
            if self.nomination.begin(self.pair):
                self._checklist.trigger(self.pair, first=True)
            return
        if not self.completed and (self.renominates or not self.nomination.sent):
            self.nomination.choose(self._checklist, ended=ended, hurried=hurried and self.mobile, now=now)
        elif self.completed and self.renominates:
            self.nomination.improve(self._checklist, self.pair, mobile=self.mobile, now=now)

    def select(self, pair: CandidatePair, now: float) -> bool:
        """The pair is nominated: those that are not valid are done with, the others soon; False if nothing changes."""
        if not self._outranks(pair):
            return False
        if self.pair is None or self.pair is pair:
            self.cause = self.cause if self.completed else "nominated"
        else:
            self.cause = "better" if self._shared.role is Role.CONTROLLING else "peer_moved"
        if self.pair is not None:
            self.pair.nominated = False
            self.pair.move = 0
        self.completed = True
        self.number = max(self.number, pair.nomination)
        self.pair = pair
        self.nomination.conclude()
        pair.nominated = True
        pair.move = 0
        if self.settle_at is None or not self.mobile:
            self.settle_at = now + self._shared.config.settle_time  # RFC 8445 §8.3.1
        self._release(keep_since=-math.inf)
        return True

    def move(self, pair: CandidatePair, cause: str, now: float) -> bool:
        """Select a valid pair, and let the next check on it say so; False if it cannot, since all numbers are used."""
        if self.pair is not None and self.pair is not pair:
            self.pair.note_left()
            self.pair.move = 0
        self.pair, self.cause = pair, cause
        pair.nominated = False
        if pair.consent is not None:
            pair.consent.hasten(now)
        if self._shared.role is Role.CONTROLLING:
            self._followed = max(self._followed, pair.peer_move)
            return self.nomination.begin(pair)
        if self._moves >= HIGHEST_NOMINATION:
            return False
        self._moves += 1
        pair.move = self._moves
        return True

    def note_move(self, pair: CandidatePair, number: int) -> bool:
        """The controlled peer says that it sends on a pair from now on; False if that is old."""
        if number <= self._followed:
            return False
        pair.peer_move = max(pair.peer_move, number)
        return True

    def must_follow(self, pair: CandidatePair) -> bool:
        """Whether the peer moved to a pair and this side did not."""
        return self.mobile and self._shared.role is Role.CONTROLLING and pair.peer_move > self._followed

    def lose(self, pair: CandidatePair) -> None:
        """A pair is no way any more."""
        self.nomination.give_up(pair)
        if pair is self.pair:
            self.pair = None

    def settle(self, now: float) -> None:
        """Release the unselected pairs once their time has come."""
        if self.settle_at is None or self.settle_at > now or self.pair is None:
            return
        self.settle_at = None
        if not self.mobile:
            self._release(keep_since=math.inf)
            return
        # Moves may come one after the other: a pair that works since a moment ago may be where the peer is moving to.
        self._release(keep_since=now - self._shared.config.settle_time)
        kept = {self.pair, *self.backups}
        if any(pair not in kept and not pair.is_dead for pair in self._checklist):
            self.tidy(now)

    def tidy(self, now: float) -> None:
        """With mobility: pairs came since; those that are of no use by then are released in a while.

        Not at once: which pair the other end moves to, on its new address perhaps, it says after its check succeeded.
        """
        if self.mobile and self.completed and self.settle_at is None:
            self.settle_at = now + self._shared.config.settle_time

    def set_role(self, role: Role) -> None:
        """The session's role changed."""
        if role is Role.CONTROLLED:
            self.nomination.give_up(self.nomination.pair)
            self.nomination.sent = False
            self.nomination.deadline = None
        else:
            self.nomination.latest = max(self.nomination.latest, self.number)

    def retire(self) -> None:
        """Another generation took over: nothing is selected any more, and no pair is kept."""
        self._retired = True
        self.mobile = False
        self.pair = None
        self.nomination.conclude()
        self._release(keep_since=math.inf)
        self.settle_at = None

    # Inside

    def _outranks(self, pair: CandidatePair) -> bool:
        """Whether the nomination of a pair replaces the one before.

        RFC 8445 §8.1.1: of several the highest priority wins, as long as its path lives; numbers, which only
        renomination gives, come first.
        """
        if pair.nomination != self.number:
            return pair.nomination > self.number or (self.pair is None and not self.mobile)
        return self.pair is None or pair.priority > self.pair.priority

    def _release(self, *, keep_since: float) -> None:
        """Drop unselected pairs and all their checks (RFC 8445 §8.1.2), but for those that may be selected yet.

        Valid ones that answered since then stay, too.
        """
        used = set() if self._retired else {pair for pair in self._checklist if self._may_follow(pair)}
        if self.mobile and self.pair is not None:
            backups = self.backups
            used.update(backups)
            used.update(pair for pair in self._checklist if pair.is_open and self._is_needed(pair, backups))
        for pair in self._checklist:
            if pair is not self.pair and pair not in used:
                self._checks.forget(pair)
        # A pair whose consent ended stays known, so that its path is not taken up again (RFC 7675 §5.1).
        self._checklist.keep(
            lambda pair: (
                pair is self.pair or pair in used or pair.is_dead or (pair.is_valid and pair.answered_at > keep_since)
            )
        )

    def _may_follow(self, pair: CandidatePair) -> bool:
        """Whether a pair may take the selected one's place: by renomination, or by what the peer has nominated."""
        if pair is self.nomination.pair or (pair.nominated_by_peer and pair.is_open and self._outranks(pair)):
            return True
        if self.mobile and self.pair is not None and pair.is_valid and pair.combination != self.pair.combination:
            return False  # the best of its combination is a backup, and may follow as such
        return self.betters(pair)

    def _is_needed(self, pair: CandidatePair, backups: list[CandidatePair]) -> bool:
        """Whether a pair that is not valid yet may become a backup."""
        assert self.pair is not None
        # The peer checks it, and perhaps keeps it: with both on one list, both keep the same.
        return (
            pair.requests_received > 0
            or self.must_follow(pair)
            or is_wanted(pair.combination, backups, self.pair, relayed=pair.is_relayed)
        )
