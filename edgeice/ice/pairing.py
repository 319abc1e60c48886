"""Both sides' candidates in one generation, and when they are paired (RFC 8445 §6.1.2, RFC 8838 §9-§14)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from edgeice.addresses import Base, TransportAddress
from edgeice.ice.candidate import Candidate, CandidateType
from edgeice.ice.checklist import Checklist
from edgeice.ice.events import LocalCandidateGathered, LocalCandidatesEnded, LocalCandidateWithdrawn
from edgeice.ice.locals import LocalCandidates
from edgeice.ice.pacer import TokenBucket
from edgeice.ice.priority import LocalPreferences
from edgeice.ice.remotes import RemoteCandidates
from edgeice.ice.shared import Shared

__all__ = ["Pairing"]

#: Candidates of a peer that are taken in the long run, if they come and go: more than interfaces that flap make, and
#: too few for checks to do harm wherever they are sent.
_LATE_PER_SECOND: Final = 4.0


class Pairing:
    """Takes candidates of both sides and forms pairs of them, as long as more may come.

    Attributes:
        locals: This side's candidates.
        remotes: The peer's.
        local_ended: No more local candidates will come.
        remote_ended: The peer has no more candidates.
        mobile: Candidates come and go after either side's end.
        due_at: When `pair_told` has something to do; None if it has not.
    """

    def __init__(self, shared: Shared, checklist: Checklist, ufrag: str, preferences: LocalPreferences) -> None:
        self.locals = LocalCandidates(shared, ufrag, preferences)
        self.remotes = RemoteCandidates(shared)
        self.local_ended = False
        self.remote_ended = False
        self.mobile = False
        self.due_at: float | None = None
        self._shared = shared
        self._checklist = checklist
        self._ufrag = ufrag
        #: Without mobility so many are all that are ever taken; with it, further ones come and go.
        self._late = TokenBucket(_LATE_PER_SECOND, 0.0, burst=shared.config.max_remote_candidates)
        #: Local candidates that the owner is only being told.
        self._untold: list[Candidate] = []

    @property
    def takes_local(self) -> bool:
        """Whether the peer may be told of another local candidate."""
        return self.mobile or not self.local_ended

    def add_base(self, base: Base, *, now: float) -> None:
        """Make a host or relayed candidate, and pair it once the owner has told it (RFC 8838 §10)."""
        candidate = self.locals.add_base(base) if self.takes_local else None
        if candidate is not None and self.remotes:
            self._untold.append(candidate)
            self.due_at = now

    def update_base(self, base: Base) -> None:
        """A base may go by another interface than before, as a relay's can: the peer is told what that costs."""
        for old, new in self.locals.update(base):
            self._checklist.replace_local(old, new)
            if self.mobile and self.locals.is_told(new.type):
                self._shared.emit(LocalCandidateGathered(new, self._ufrag))

    def pair_told(self, *, above: int) -> None:
        """Pair the local candidates that came since the last round, where the pair's priority is above this."""
        if self._untold:
            self._checklist.form(self._untold, self._told_remotes(), above=above)
            self.forget_untold()

    def _told_remotes(self) -> list[Candidate]:
        # RFC 8445 §7.3.1.3: who was learned from a check is paired with the base that it came to alone.
        return [remote for remote in self.remotes if remote.type is not CandidateType.PEER_REFLEXIVE]

    def forget_untold(self) -> None:
        """Pair nothing more of what came."""
        self._untold, self.due_at = [], None

    def remove_base(self, address: TransportAddress) -> None:
        """Drop the candidates of a base, and tell so where the peer can do something with that."""
        for candidate in self.locals.remove(address):
            if self.mobile:
                self._shared.emit(LocalCandidateWithdrawn(candidate, self._ufrag))
        self._untold = [candidate for candidate in self._untold if candidate.address != address]
        if not self._untold:
            self.due_at = None

    def end_local(self) -> None:
        """No more local candidates will come: the peer is to be told (RFC 8838 §13)."""
        if not self.local_ended:
            self.local_ended = True
            self._shared.emit(LocalCandidatesEnded(self._ufrag))

    def form_all(self, *, but: Collection[tuple[int, int]] = ()) -> None:
        """Pair all candidates of both sides that are not paired, but for those that the owner is only being told.

        `but`: nor those of these combinations of interfaces.
        """
        remotes = self._told_remotes()
        for host in self.locals:
            if host not in self._untold:
                wanted = [remote for remote in remotes if (host.network, remote.network) not in but]
                self._checklist.form([host], wanted)

    def add_remotes(self, candidates: Sequence[Candidate], *, above: int, now: float) -> None:
        """Take signaled candidates and pair them, where the pair's priority is above this."""
        if self.remote_ended and not self.mobile:
            self._shared.drops.count("candidate_late", len(candidates))  # RFC 8838 §14
            return
        new = []
        for candidate in candidates:
            if self.mobile and not self._late.take(now):
                self._shared.drops.count("candidate_rate")
                continue
            known = self.remotes.get(candidate.address)
            if self.remotes.add(candidate, updates=self.mobile):
                new.append(candidate)
                if known is not None:
                    self._checklist.replace_remote(known, candidate)
        self._checklist.form(self.locals, new, above=above)

    def forget_learned(self) -> None:
        """With mobility: data goes another way, and peer-reflexive candidates without a pair have had their time.

        Not before: two NATs that map by destination show new ones with each check, and never lead anywhere.
        """
        if self.mobile:
            self.remotes.forget_learned({pair.remote.address for pair in self._checklist if not pair.has_failed})

    def remove_remotes(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The peer has these candidates no more; gives those that are gone now.  Unknown ones are counted."""
        gone = []
        for candidate in candidates:
            found = self.remotes.remove(candidate.address)
            if not found:
                self._shared.drops.count("candidate_unknown")
            gone += found
        return gone
