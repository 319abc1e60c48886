"""The checklist of a generation: forming, ordering and freezing pairs (RFC 8445 §6.1.2, §6.1.4; RFC 8838 §10-12)."""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Callable, Iterator

import attrs

from edgeice.addresses import Path, TransportAddress
from edgeice.ice.candidate import Candidate
from edgeice.ice.config import Role
from edgeice.ice.pair import CandidatePair, PairInput, PairKey, PairState
from edgeice.ice.priority import pair_priority
from edgeice.sansio import DropCounter

__all__ = ["Checklist"]


class Checklist:
    """Pairs in order of priority, and the queue of triggered checks.

    At the limit a new pair takes the place of the failed pair of lowest priority, else of the lowest pair that waits
    (RFC 8838 §11), if that is lower than its own; otherwise it is not formed.  Both are counted.
    """

    def __init__(self, *, role: Role, limit: int, drops: DropCounter) -> None:
        self._role = role
        self._limit = limit
        self._drops = drops
        self._pairs: dict[PairKey, CandidatePair] = {}
        self._ordered: list[CandidatePair] | None = None
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

    def add(self, local: Candidate, remote: Candidate) -> CandidatePair | None:
        """Form a pair, unless the two do not go together, are paired already or the list is full of better ones.

        `local` is its own base: reflexive candidates send from theirs and would be redundant (RFC 8445 §6.1.2.4).
        """
        if not _matches(local, remote):
            return None
        path = _path(local.address, remote.address)
        if (path.local, path.remote) in self._pairs:
            return None
        priority = self._priority(local, remote)
        if len(self._pairs) >= self._limit and not self._make_room(priority):
            self._drops.count("pairs_full")
            return None
        pair = CandidatePair(local, remote, path, f"{local.foundation}:{remote.foundation}", priority)
        # RFC 8838 §12: a foundation that is new, or known to work, starts at once.
        states = {other.state for other in self._pairs.values() if other.foundation == pair.foundation}
        if not states or PairState.SUCCEEDED in states:
            pair.apply(PairInput.UNFREEZE)
        self._pairs[pair.key] = pair
        self._ordered = None
        return pair

    def _make_room(self, priority: int) -> bool:
        for states in ({PairState.FAILED}, {PairState.FROZEN, PairState.WAITING}):
            # A pair whose consent ended stays known, so that its path is not taken up again (RFC 7675 §5.1).
            victims = [pair for pair in self._pairs.values() if pair.state in states and not pair.is_dead]
            victim = min(victims, key=lambda pair: pair.priority, default=None)
            if victim is not None and (victim.state is PairState.FAILED or victim.priority < priority):
                self.remove(victim)
                self._drops.count("pair_displaced")
                return True
        return False

    def _priority(self, local: Candidate, remote: Candidate) -> int:
        if self._role is Role.CONTROLLING:
            return pair_priority(local.priority, remote.priority)
        return pair_priority(remote.priority, local.priority)

    def remove(self, pair: CandidatePair) -> None:
        """Take a pair out, also out of the queue."""
        if self._pairs.pop(pair.key, None) is not None:
            self._ordered = None
        if pair in self._triggered:
            self._triggered.remove(pair)

    def set_role(self, role: Role) -> None:
        """Recompute all priorities after a role switch (RFC 8445 §7.3.1.1)."""
        self._role = role
        for pair in self._pairs.values():
            pair.priority = self._priority(pair.local, pair.remote)
        self._ordered = None

    def replace_remote(self, old: Candidate, new: Candidate) -> None:
        """Give pairs with a peer-reflexive candidate what the peer has now said about it (RFC 8838 §11)."""
        for pair in self._pairs.values():
            if pair.remote is old:
                pair.remote = new
                pair.foundation = f"{pair.local.foundation}:{new.foundation}"
                pair.priority = self._priority(pair.local, new)
        self._ordered = None

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
        for pair in self._pairs.values():
            if pair.state is PairState.FROZEN and pair.foundation == foundation:
                pair.apply(PairInput.UNFREEZE)

    @property
    def has_work(self) -> bool:
        """Whether `next_pair` has one."""
        if self._triggered:
            return True
        busy: set[str] = set()
        frozen: set[str] = set()
        for pair in self._pairs.values():
            if pair.state is PairState.WAITING:
                return True
            if pair.state is PairState.IN_PROGRESS:
                busy.add(pair.foundation)
            elif pair.state is PairState.FROZEN:
                frozen.add(pair.foundation)
        return bool(frozen - busy)

    def next_pair(self) -> CandidatePair | None:
        """The pair to be checked now (RFC 8445 §6.1.4.2), taken out of the queue if it was in there."""
        if self._triggered:
            return self._triggered.popleft()
        active = {PairState.WAITING, PairState.IN_PROGRESS}
        busy = {pair.foundation for pair in self._pairs.values() if pair.state in active}
        for pair in self:
            if pair.state is PairState.FROZEN and pair.foundation not in busy:
                pair.apply(PairInput.UNFREEZE)
                busy.add(pair.foundation)
        return next((pair for pair in self if pair.state is PairState.WAITING), None)

    def count(self, *states: PairState) -> int:
        """How many pairs are in these states."""
        return sum(pair.state in states for pair in self._pairs.values())

    def best_valid(self) -> CandidatePair | None:
        """The valid pair of highest priority that there is consent on."""
        return next((pair for pair in self if pair.is_valid and pair.consent is not None), None)

    def keep(self, wanted: Callable[[CandidatePair], bool]) -> None:
        """Drop all pairs but the wanted ones, as nomination does; of these, the queue keeps those still to be checked."""
        self._triggered = deque(pair for pair in self._triggered if pair.is_open and wanted(pair))
        self._pairs = {key: pair for key, pair in self._pairs.items() if wanted(pair)}
        self._ordered = None


def _matches(local: Candidate, remote: Candidate) -> bool:
    """RFC 8445 §6.1.2.2: same component, protocol and family; link-local only with link-local.

    Loopback goes only with loopback as well: the kernel refuses anything else.
    """
    here, there = local.address, remote.address
    return (
        local.component == remote.component
        and here.protocol == there.protocol
        and here.family == there.family
        and here.is_link_local == there.is_link_local
        and _is_loopback(here) == _is_loopback(there)
    )


def _is_loopback(address: TransportAddress) -> bool:
    return ipaddress.ip_address(address.ip).is_loopback


def _path(base: TransportAddress, remote: TransportAddress) -> Path:
    # A link-local IPv6 address means something on one interface only: that of the base.
    if remote.family == 6 and base.scope and remote.is_link_local:
        remote = attrs.evolve(remote, scope=base.scope)
    return Path(base, remote)
