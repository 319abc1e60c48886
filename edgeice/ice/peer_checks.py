"""What follows from the peer's checks once they are answered (RFC 8445 §7.3.1.3-7.3.1.5)."""

from __future__ import annotations

from typing import Protocol

from edgeice.ice.checklist import Checklist
from edgeice.ice.config import Role
from edgeice.ice.incoming import PeerCheck
from edgeice.ice.moves import Moves
from edgeice.ice.pair import CandidatePair, PairInput, PairState
from edgeice.ice.pairing import Pairing
from edgeice.ice.selection import Selection
from edgeice.ice.shared import Shared

__all__ = ["PeerChecks"]


class _Select(Protocol):
    def __call__(self, pair: CandidatePair, /, *, now: float) -> None: ...


class PeerChecks:
    """Learns candidates, triggers checks, and notes nominations and moves of the peer's, for one generation.

    Args:
        shared: What the session's generations share.
        checklist: The generation's, as the others.
        pairing: Knows both sides' candidates.
        selection: Knows what is nominated.
        moves: Follows the peer.
        select: Takes a pair that is nominated.
    """

    __slots__ = ("_checklist", "_moves", "_pairing", "_select", "_selection", "_shared")

    def __init__(  # noqa: PLR0917  # the parts of a generation
        self,
        shared: Shared,
        checklist: Checklist,
        pairing: Pairing,
        selection: Selection,
        moves: Moves,
        select: _Select,
    ) -> None:
        self._shared = shared
        self._checklist = checklist
        self._pairing = pairing
        self._selection = selection
        self._moves = moves
        self._select = select

    def take(self, check: PeerCheck, *, now: float) -> None:
        """RFC 8445 §7.3.1.3-7.3.1.5: learn a candidate, trigger a check, note a nomination."""
        selection = self._selection
        number = check.number(renomination=selection.renominates)
        nominates = number > 0 and self._shared.role is Role.CONTROLLED
        moves = check.move > 0 and selection.mobile and self._shared.role is Role.CONTROLLING
        pair = self._pair_of(check, number if nominates else 0, moves=moves, now=now)
        if pair is None:
            return
        pair.requests_received += 1
        if pair.is_dead:
            return  # RFC 7675 §5.1: only new credentials revive the path
        if nominates:
            pair.nominated_by_peer = True
            pair.nomination = max(pair.nomination, number)
            if pair.state is PairState.SUCCEEDED:
                self._select(pair, now=now)
                return
        if moves and selection.note_move(pair, check.move) and pair.is_valid:
            self._moves.move(pair, "peer_moved", now=now)  # its own check succeeded there, and consent lasts
            return
        if pair.state is PairState.SUCCEEDED or pair.trigger_id == check.transaction_id:
            return
        pair.retried = False
        pair.trigger_id = check.transaction_id
        if pair.check is not None:
            pair.check.silence()
        pair.apply(PairInput.TRIGGER)
        self._checklist.trigger(pair)

    def _pair_of(self, check: PeerCheck, number: int, *, moves: bool, now: float) -> CandidatePair | None:
        """The pair that a check arrived on, made if there is none.

        `number`: which nomination of it that is; `moves`: the peer says that its data comes this way.
        """
        path = check.path
        pair = self._checklist.get(path.local, path.remote)
        # Once nominated, only another nomination of the peer's brings a pair back (RFC 8445 §8.1.1).
        if pair is not None or (self._selection.is_settled and not number):
            return pair
        host = self._pairing.locals.host(path.local)
        if host is None:
            return None
        remote = self._pairing.remotes.get(path.remote)
        if remote is None:
            # An address that is new may be all that is left of the peer's interface.
            remote = self._pairing.remotes.learn(check, nominates=number > 0)
        elif not number and not moves and not self._selection.wants((host.network, remote.network)):
            return None  # this side dropped the pair, and the peer still asks for consent
        if remote is None:
            return None
        self._selection.tidy(now)
        replaces = number > self._selection.number
        return self._checklist.add_heard(host, remote, above=0 if replaces else self._selection.worth)
