"""The peer's candidates in one generation (RFC 8838 §11, RFC 8445 §7.3.1.3)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Final

import attrs

from edgeice.addresses import TransportAddress
from edgeice.ice.candidate import Candidate, CandidateType
from edgeice.ice.incoming import PeerCheck
from edgeice.ice.shared import Shared

__all__ = ["RemoteCandidates"]

#: Beyond the limit, for sources of checks that nominate: between two NATs that map by destination each answer comes
#: from a new address, so that the limit is reached by addresses that lead nowhere before a relay's way is nominated.
_NOMINATED_ROOM: Final = 8
#: Learned from checks that came to one base from one IP; so what such NATs show leaves room for the others.
_PER_SOURCE: Final = 16


class RemoteCandidates:
    """Signaled and peer-reflexive candidates by address.  What is refused or too many is dropped and counted."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._all: dict[TransportAddress, Candidate] = {}
        #: How many were learned at each base from each IP.
        self._learned: Counter[tuple[TransportAddress, str]] = Counter()
        #: Those that were learned and not forgotten, with the base.
        self._learned_at: dict[TransportAddress, TransportAddress] = {}
        self._numbers = itertools.count(1)

    def __bool__(self) -> bool:
        return bool(self._all)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(list(self._all.values()))

    def get(self, address: TransportAddress) -> Candidate | None:
        """The candidate with this address."""
        return self._all.get(address)

    def counts(self) -> Counter[CandidateType]:
        """How many there are of each type."""
        return Counter(candidate.type for candidate in self._all.values())

    def add(self, candidate: Candidate, *, updates: bool = False) -> bool:
        """Take a signaled candidate; True if it is new, or says more of one that was only learned from a check.

        `updates`: one that was signaled before may be on another interface of the peer's now.
        """
        if not self._is_allowed(candidate.address):
            return False
        if candidate.component != 1:
            self._shared.drops.count("candidate_component")
            return False
        known = self._all.get(candidate.address)
        if known is None:
            if not self._has_room():
                return False
        elif candidate.type is CandidateType.PEER_REFLEXIVE:
            return False
        elif known.type is not CandidateType.PEER_REFLEXIVE:
            if not updates or (known.network, known.cost) == (candidate.network, candidate.cost):
                return False
            candidate = attrs.evolve(known, network=candidate.network, cost=candidate.cost)
        self._all[candidate.address] = candidate
        return True

    def remove(self, address: TransportAddress) -> list[Candidate]:
        """Forget a signaled candidate; gives what is gone.

        With the last one of an interface goes what was learned from checks that left from there.
        """
        known = self._all.get(address)
        if known is None or known.type is CandidateType.PEER_REFLEXIVE:
            return []
        gone = [known]
        rest = [each for each in self._all.values() if each.network == known.network and each is not known]
        if known.network and all(candidate.type is CandidateType.PEER_REFLEXIVE for candidate in rest):
            gone += rest
        for candidate in gone:
            del self._all[candidate.address]
            base = self._learned_at.pop(candidate.address, None)
            if base is not None:
                self._learned[base, candidate.address.ip] -= 1
        return gone

    def forget_learned(self, used: Collection[TransportAddress]) -> None:
        """Make room, once half of it is taken: forget what was learned from checks and is of no use any more."""
        if 2 * len(self._all) < self._shared.config.max_remote_candidates and 2 * len(self._learned_at) < _PER_SOURCE:
            return
        for address, base in list(self._learned_at.items()):
            if address not in used:
                del self._learned_at[address]
                self._learned[base, address.ip] -= 1
                if self._all[address].type is CandidateType.PEER_REFLEXIVE:
                    del self._all[address]

    def learn(self, check: PeerCheck, *, nominates: bool) -> Candidate | None:
        """Make a peer-reflexive candidate of the source of an authenticated check.

        `nominates`: so did the check.
        """
        address, base = check.path.remote, check.path.local
        more = _NOMINATED_ROOM if nominates else 0
        if not self._is_allowed(address) or not self._has_room(more):
            return None
        if self._learned[base, address.ip] >= _PER_SOURCE + more:
            self._shared.drops.count("remote_candidates_full")
            return None
        self._learned[base, address.ip] += 1
        self._learned_at[address] = base
        # RFC 8445 §7.3.1.3: its foundation is like no other's; what the peer signals has no colon in it.
        candidate = Candidate(
            f"prflx:{next(self._numbers)}",
            check.priority,
            address,
            CandidateType.PEER_REFLEXIVE,
            network=check.network,
            cost=check.cost,
        )
        self._all[address] = candidate
        return candidate

    def _is_allowed(self, address: TransportAddress) -> bool:
        refused = self._shared.destinations.refuses(address)
        if refused is not None:
            self._shared.drops.count(refused)
        return refused is None

    def _has_room(self, more: int = 0) -> bool:
        if len(self._all) >= self._shared.config.max_remote_candidates + more:
            self._shared.drops.count("remote_candidates_full")
            return False
        return True
