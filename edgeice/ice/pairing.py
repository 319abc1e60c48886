"""Both sides' candidates in one generation, and when they are paired (RFC 8445 §6.1.2, RFC 8838 §9-§14)."""

from __future__ import annotations

from collections.abc import Sequence

from edgeice.addresses import Base, TransportAddress
from edgeice.ice.candidate import Candidate, CandidateType
from edgeice.ice.checklist import Checklist
from edgeice.ice.events import LocalCandidatesEnded
from edgeice.ice.locals import LocalCandidates
from edgeice.ice.priority import LocalPreferences
from edgeice.ice.remotes import RemoteCandidates
from edgeice.ice.shared import Shared

__all__ = ["Pairing"]


class Pairing:
    """Takes candidates of both sides and forms pairs of them, as long as more may come.

    Attributes:
        locals: This side's candidates.
        remotes: The peer's.
        local_ended: No more local candidates will come.
        remote_ended: The peer has no more candidates.
        due_at: When `pair_told` has something to do; None if it has not.
    """

    def __init__(self, shared: Shared, checklist: Checklist, ufrag: str, preferences: LocalPreferences) -> None:
        self.locals = LocalCandidates(shared, ufrag, preferences)
        self.remotes = RemoteCandidates(shared)
        self.local_ended = False
        self.remote_ended = False
        self.due_at: float | None = None
        self._shared = shared
        self._checklist = checklist
        self._ufrag = ufrag
        #: Local candidates that the owner is only being told.
        self._untold: list[Candidate] = []

    def add_base(self, base: Base, *, now: float) -> None:
        """Make a host or relayed candidate, and pair it once the owner has told it (RFC 8838 §10)."""
        candidate = None if self.local_ended else self.locals.add_base(base)
        if candidate is not None and self.remotes:
            self._untold.append(candidate)
            self.due_at = now

    def pair_told(self, *, above: int) -> None:
        """Pair the local candidates that came since the last round, where the pair's priority is above this."""
        if self._untold:
            # RFC 8445 §7.3.1.3: who was learned from a check is paired with the base that it came to alone.
            told = [remote for remote in self.remotes if remote.type is not CandidateType.PEER_REFLEXIVE]
            self._checklist.form(self._untold, told, above=above)
            self.forget_untold()

    def forget_untold(self) -> None:
        """Pair nothing more of what came."""
        self._untold, self.due_at = [], None

    def remove_base(self, address: TransportAddress) -> None:
        """Drop the candidates of a base."""
        self.locals.remove(address)
        self._untold = [candidate for candidate in self._untold if candidate.address != address]

    def end_local(self) -> None:
        """No more local candidates will come: the peer is to be told (RFC 8838 §13)."""
        if not self.local_ended:
            self.local_ended = True
            self._shared.emit(LocalCandidatesEnded(self._ufrag))

    def add_remotes(self, candidates: Sequence[Candidate], *, above: int) -> None:
        """Take signaled candidates and pair them, where the pair's priority is above this."""
        if self.remote_ended:
            self._shared.drops.count("candidate_late", len(candidates))  # RFC 8838 §14
            return
        new = []
        for candidate in candidates:
            known = self.remotes.get(candidate.address)
            if self.remotes.add(candidate):
                new.append(candidate)
                if known is not None:
                    self._checklist.replace_remote(known, candidate)
        self._checklist.form(self.locals, new, above=above)
