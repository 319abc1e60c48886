"""The checklist of a generation: forming, ordering and freezing pairs (RFC 8445 §6.1.2, §6.1.4; RFC 8838 §10-12)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import attrs

from edgeice.addresses import Path, TransportAddress
from edgeice.ice.candidate import Candidate
from edgeice.ice.config import Role
from edgeice.ice.destinations import Realm, realm
from edgeice.ice.pair import CandidatePair, PairInput, PairKey, PairState
from edgeice.ice.priority import pair_priority
from edgeice.sansio import DropCounter

__all__ = ["Checklist"]

#: Component, protocol and realm.
_Kind: TypeAlias = tuple[int, str, Realm]


class Checklist:
    """Pairs in order of priority, and the queue of triggered checks.

    At the limit a new pair takes the place of the failed pair of lowest priority, else of the lowest pair that waits
    (RFC 8838 §11), if that is lower than its own or the peer was heard on the new one; otherwise it is not formed.
    Both are counted.
    """

    def __init__(self, *, role: Role, limit: int, drops: DropCounter) -> None:
        self._role = role
        self._limit = limit
        self._drops = drops
        #: Valid pairs are ordered by cost before priority.
        self.by_cost = False
        self._pairs: dict[PairKey, CandidatePair] = {}
        self._ordered: list[CandidatePair] | None = None
        self._by_foundation: dict[str, list[CandidatePair]] = {}
        #: Pairs that were taken out, for a verdict; the oldest are forgotten.
        self.dropped: deque[CandidatePair] = deque(maxlen=limit)
        #: First in, first out; no pair is in it twice (RFC 8445 §6.1.4.1).
        self._triggered: deque[CandidatePair] = deque()

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[CandidatePair]:
        """All pairs, the highest priority first."""
        if self._ordered is None:
            self._ordered = sorted(self._pairs.values(), key=lambda pair: pair.priority, reverse=True)
        return iter(self._ordered)

    def get(self, local: TransportAddress, remote: TransportAddress) -> CandidatePair | None:
        """The pair of a base and a remote address."""
        return self._pairs.get((local, remote))

    def form(self, hosts: Iterable[Candidate], remotes: Iterable[Candidate], *, above: int = 0) -> None:
        """Pair candidates with each other, leaving out who does not go together and who is paired already.

        Args:
            hosts: Their own bases: reflexive candidates send from theirs and would be redundant (RFC 8445 §6.1.2.4).
            remotes: The peer's.
            above: Leave out pairs of no higher priority.
        """
        matching: dict[_Kind, list[Candidate]] = {}
        for host in hosts:
            matching.setdefault(_kind(host), []).append(host)
        formed = [
            (priority, local, remote)
            for remote in remotes
            for local in matching.get(_kind(remote), ())
            if (priority := self._priority(local, remote)) > above
            and (local.address, _remote(local.address, remote.address)) not in self._pairs
        ]
        formed.sort(key=lambda each: each[0], reverse=True)
        full = len(self._pairs) + len(formed) > self._limit
        failed, waiting = self._victims() if full else ([], [])
        for number, (priority, local, remote) in enumerate(formed):
            if len(self._pairs) >= self._limit:
                victims = failed or waiting
                # RFC 8445 §6.1.2.5: the lowest are left out.
                if not victims or (not failed and victims[-1].priority >= priority):
                    self._drops.count("pairs_full", len(formed) - number)
                    return
                self._displace(victims.pop())
            self._insert(local, remote, priority)

    def add_heard(self, local: Candidate, remote: Candidate, *, above: int = 0) -> CandidatePair | None:
        """Form the pair that a check of the peer arrived on; None if the list is full of pairs under way.

        That it works one way at least makes it worth more than any that waits, whatever its priority; but `above` as
        in `form`.
        """
        priority = self._priority(local, remote)
        if _kind(local) != _kind(remote) or priority <= above:
            return None
        if len(self._pairs) >= self._limit:
            failed, waiting = self._victims()
            victims = failed or waiting
            if not victims:
                self._drops.count("pairs_full")
                return None
            self._displace(victims.pop())
        return self._insert(local, remote, priority)

    def _insert(self, local: Candidate, remote: Candidate, priority: int) -> CandidatePair:
        path = Path(local.address, _remote(local.address, remote.address))
        pair = CandidatePair(local, remote, path, f"{local.foundation}:{remote.foundation}", priority)
        same = self._by_foundation.setdefault(pair.foundation, [])
        # RFC 8838 §12: the best of its foundation, or one that is known to work, starts at once.
        if not same or all(other.priority < priority for other in same) or PairState.SUCCEEDED in _states(same):
            pair.apply(PairInput.UNFREEZE)
        same.append(pair)
        self._pairs[pair.key] = pair
        self._ordered = None
        return pair

    def _victims(self) -> tuple[list[CandidatePair], list[CandidatePair]]:
        """What may make room, the lowest priority last: failed pairs, and such as wait."""
        # A pair whose consent ended stays known, so that its path is not taken up again (RFC 7675 §5.1).
        failed = [pair for pair in self if pair.state is PairState.FAILED and not pair.is_dead]
        waiting = [pair for pair in self if pair.state is PairState.FROZEN or pair.state is PairState.WAITING]
        # The peer was heard on those that are in the queue.
        return failed, [pair for pair in waiting if pair not in self._triggered]

    def _displace(self, pair: CandidatePair) -> None:
        self.remove(pair)
        self._drops.count("pair_displaced")

    def _priority(self, local: Candidate, remote: Candidate) -> int:
        if self._role is Role.CONTROLLING:
            return pair_priority(local.priority, remote.priority)
        return pair_priority(remote.priority, local.priority)

    def remove(self, pair: CandidatePair) -> None:
        """Take a pair out, also out of the queue."""
        if self._pairs.pop(pair.key, None) is not None:
            self._ordered = None
            self._leave_foundation(pair)
            self.dropped.append(pair)
        if pair in self._triggered:
            self._triggered.remove(pair)

    def _leave_foundation(self, pair: CandidatePair) -> None:
        same = self._by_foundation[pair.foundation]
        same.remove(pair)
        if not same:
            del self._by_foundation[pair.foundation]

    def set_role(self, role: Role) -> None:
        """Recompute all priorities after a role switch (RFC 8445 §7.3.1.1)."""
        self._role = role
        for pair in self._pairs.values():
            self._rank(pair)

    def set_valid(self, pair: CandidatePair, local: Candidate | None) -> None:
        """A check succeeded, and the peer saw this side as `local`; None if the pair is valid no more.

        The valid pair has the priority of that candidate (RFC 8445 §7.2.5.3.2): a path through a NAT is worth less than
        one between two hosts themselves.
        """
        pair.valid_local = local
        self._rank(pair)

    def _rank(self, pair: CandidatePair) -> None:
        pair.priority = self._priority(pair.valid_local or pair.local, pair.remote)
        self._ordered = None

    def replace_remote(self, old: Candidate, new: Candidate) -> None:
        """Give pairs with a peer-reflexive candidate what the peer has now said about it (RFC 8838 §11)."""
        for pair in self._pairs.values():
            if pair.remote is old:
                self._leave_foundation(pair)
                pair.remote = new
                pair.foundation = f"{pair.local.foundation}:{new.foundation}"
                self._by_foundation.setdefault(pair.foundation, []).append(pair)
                self._rank(pair)

    def replace_local(self, old: Candidate, new: Candidate) -> None:
        """Give pairs of a local candidate what is different about its interface."""
        for pair in self._pairs.values():
            if pair.local is old:
                pair.local = new
            if pair.valid_local is old:
                pair.valid_local = new

    def trigger(self, pair: CandidatePair, *, first: bool = False) -> None:
        """Queue a check on a pair, once."""
        if pair in self._triggered:
            return
        if first:
            self._triggered.appendleft(pair)
        else:
            self._triggered.append(pair)

    def untrigger(self, pair: CandidatePair) -> None:
        """Take a pair out of the queue."""
        if pair in self._triggered:
            self._triggered.remove(pair)

    def unfreeze(self, foundation: str) -> None:
        """A pair of this foundation succeeded: the others are worth a try now (RFC 8445 §7.2.5.3.3)."""
        for pair in self._by_foundation.get(foundation, ()):
            if pair.state is PairState.FROZEN:
                pair.apply(PairInput.UNFREEZE)

    @property
    def has_work(self) -> bool:
        """Whether `next_pair` has one."""
        if self._triggered:
            return True
        if any(pair.state is PairState.WAITING for pair in self._pairs.values()):
            return True
        return any(
            any(pair.state is PairState.FROZEN for pair in same)
            and not any(pair.state is PairState.IN_PROGRESS for pair in same)
            for same in self._by_foundation.values()
        )

    def next_pair(self) -> CandidatePair | None:
        """The pair to be checked now (RFC 8445 §6.1.4.2), taken out of the queue if it was in there."""
        if self._triggered:
            return self._triggered.popleft()
        best = next((pair for pair in self if pair.state is PairState.WAITING), None)
        if best is not None:
            return best
        # None waits: of each foundation that nothing is under way of, the best starts.
        for same in self._by_foundation.values():
            if not any(pair.state is PairState.IN_PROGRESS for pair in same):
                frozen = [pair for pair in same if pair.state is PairState.FROZEN]
                if frozen:
                    max(frozen, key=lambda pair: pair.priority).apply(PairInput.UNFREEZE)
        return next((pair for pair in self if pair.state is PairState.WAITING), None)

    @property
    def active(self) -> int:
        """How many pairs wait or are in progress."""
        states = _states(self._pairs.values())
        return states.count(PairState.WAITING) + states.count(PairState.IN_PROGRESS)

    @property
    def nomination_failed(self) -> bool:
        """Whether the peer nominated, and no pair that it nominated works or may work yet.

        Another nomination may still come, and another check of the peer's makes a failed pair wait again.
        """
        nominated = [pair for pair in self._pairs.values() if pair.nominated_by_peer]
        return bool(nominated) and not any(pair.is_open or pair.is_valid for pair in nominated)

    def best_valid(self) -> CandidatePair | None:
        """The valid pair that there is consent on and that is preferred to the others."""
        return min(self.valid(), key=self.order, default=None)

    def valid(self) -> Iterator[CandidatePair]:
        """The valid pairs that there is consent on."""
        return (pair for pair in self if pair.consent is not None and pair.valid_local is not None)

    def order(self, pair: CandidatePair) -> tuple[bool, bool, int, int]:
        """Sorts valid pairs, the preferred one first: by priority, or by `CandidatePair.rank`."""
        return pair.rank if self.by_cost else (False, False, 0, -pair.priority)

    def prefers(self, pair: CandidatePair, other: CandidatePair) -> bool:
        """Whether a pair, once valid, would be preferred to another that is."""
        return self.order(pair)[1:] < self.order(other)[1:]

    def keep(self, wanted: Callable[[CandidatePair], bool]) -> None:
        """Drop all pairs but the wanted ones, as nomination does; the queue keeps those of them still to be checked."""
        self._triggered = deque(pair for pair in self._triggered if pair.is_open and wanted(pair))
        self.dropped += (pair for pair in self._pairs.values() if not wanted(pair))
        self._pairs = {key: pair for key, pair in self._pairs.items() if wanted(pair)}
        self._by_foundation = {}
        for pair in self._pairs.values():
            self._by_foundation.setdefault(pair.foundation, []).append(pair)
        self._ordered = None


def _kind(candidate: Candidate) -> _Kind:
    """RFC 8445 §6.1.2.2: what two candidates must have in common to be paired."""
    address = candidate.address
    return candidate.component, address.protocol, realm(address.ip)


def _states(pairs: Iterable[CandidatePair]) -> list[PairState]:
    return [pair.state for pair in pairs]


def _remote(base: TransportAddress, remote: TransportAddress) -> TransportAddress:
    """A link-local IPv6 address means something on one interface only: that of the base."""
    if base.scope and realm(remote.ip)[:2] == (6, True):
        return attrs.evolve(remote, scope=base.scope)
    return remote
