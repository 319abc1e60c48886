"""The local candidates of one generation (RFC 8445 §5.1.1, §5.1.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import attrs

from edgeice.addresses import Base, TransportAddress
from edgeice.ice.candidate import Candidate, CandidateType, local_foundation
from edgeice.ice.config import CandidatePolicy
from edgeice.ice.destinations import usable_local
from edgeice.ice.events import LocalCandidateGathered
from edgeice.ice.priority import LocalPreferences, candidate_priority
from edgeice.ice.shared import Shared

__all__ = ["LocalCandidates"]


class LocalCandidates:
    """Makes candidates of bases, and knows which one an address belongs to.

    At the limit no further ones are made, which is counted.
    """

    def __init__(self, shared: Shared, ufrag: str, preferences: LocalPreferences) -> None:
        self._shared = shared
        self._ufrag = ufrag
        #: By type: no two candidates of one type have the same (RFC 8445 §5.1.2.1).
        self._preferences = {
            CandidateType.HOST: preferences,
            CandidateType.RELAYED: LocalPreferences(shared.config.interface_ranks),
        }
        #: Host and relayed candidates by base; only these are paired (RFC 8445 §6.1.2.4).
        self._hosts: dict[TransportAddress, Candidate] = {}
        #: All by (address, base).
        self._all: dict[tuple[TransportAddress, TransportAddress], Candidate] = {}

    def __bool__(self) -> bool:
        return bool(self._hosts)

    def __iter__(self) -> Iterator[Candidate]:
        """Those that are paired."""
        return iter(list(self._hosts.values()))

    def host(self, base: TransportAddress) -> Candidate | None:
        """The host or relayed candidate of a base."""
        return self._hosts.get(base)

    def counts(self) -> Counter[CandidateType]:
        """How many there are of each type."""
        return Counter(candidate.type for candidate in self._all.values())

    def add_base(self, base: Base) -> Candidate | None:
        """The host or relayed candidate of a new base, its own base; None if there is none to be made."""
        address = base.address
        if address in self._hosts or not usable_local(address, allow_loopback=self._shared.config.allow_loopback):
            return None
        kind = CandidateType.HOST if base.server is None else CandidateType.RELAYED
        preference = self._preferences[kind].allocate(base)
        if preference is None:
            self._shared.drops.count("local_candidates_full")
            return None
        priority = candidate_priority(kind, preference)
        candidate = self._make(
            kind, address, address, base.server, priority, network=self._network(base), related=base.mapped
        )
        if candidate is None:
            self._preferences[kind].release(address)
            return None
        self._hosts[address] = candidate
        if self.is_told(kind):
            self._shared.emit(LocalCandidateGathered(candidate, self._ufrag))
        return candidate

    def add_server_reflexive(self, base: TransportAddress, mapped: TransportAddress, server: TransportAddress) -> None:
        """A server-reflexive candidate, unless it is redundant: same address, same base (RFC 8445 §5.1.3)."""
        host = self._hosts.get(base)
        if host is None or (mapped, base) in self._all:
            return
        kind = CandidateType.SERVER_REFLEXIVE
        preference = host.priority >> 8 & 0xFFFF
        # Servers that see a base differently make several candidates of it, each with a preference of its own (RFC 8445
        # §5.1.2.1).
        taken = {other.priority for other in self._all.values() if other.type is kind}
        priority = next(
            each for place in range(preference, -1, -1) if (each := candidate_priority(kind, place)) not in taken
        )
        candidate = self._make(kind, mapped, base, server, priority, network=(host.network, host.cost), related=base)
        if candidate is not None:
            self._shared.emit(LocalCandidateGathered(candidate, self._ufrag))

    def mapped(self, host: Candidate, mapped: TransportAddress, priority: int) -> Candidate:
        """The candidate that the peer saw, perhaps a new peer-reflexive one (RFC 8445 §7.2.5.3.1)."""
        base = host.address
        if mapped == base:
            return host
        found = self._all.get((mapped, base))
        if found is not None:
            return found
        # At the limit this one check goes without a record of its own.
        network = host.network, host.cost
        made = self._make(CandidateType.PEER_REFLEXIVE, mapped, base, None, priority, network=network, related=base)
        return made or host

    def remove(self, base: TransportAddress) -> list[Candidate]:
        """Drop all candidates of a base; gives those that the peer was told."""
        self._hosts.pop(base, None)
        for preferences in self._preferences.values():
            preferences.release(base)
        gone = [candidate for key, candidate in self._all.items() if key[1] == base and self.is_told(candidate.type)]
        self._all = {key: candidate for key, candidate in self._all.items() if key[1] != base}
        return gone

    def update(self, base: Base) -> list[tuple[Candidate, Candidate]]:
        """A base may go by another interface; gives its candidates that change, as they were and as they are."""
        host = self._hosts.get(base.address)
        number, cost = self._network(base)
        if host is None or (host.network, host.cost) == (number, cost):
            return []
        changed = []
        for key, old in self._all.items():
            if key[1] == base.address:
                self._all[key] = new = attrs.evolve(old, network=number, cost=cost)
                changed.append((old, new))
                if old is host:
                    self._hosts[base.address] = new
        return changed

    def is_told(self, kind: CandidateType) -> bool:
        """Whether the peer is told candidates of this type."""
        if kind is CandidateType.HOST:
            return self._shared.config.policy is not CandidatePolicy.NO_HOST
        return kind is not CandidateType.PEER_REFLEXIVE

    def _network(self, base: Base) -> tuple[int, int]:
        return self._shared.networks.number(base.interface), base.cost

    def _make(
        self,
        kind: CandidateType,
        address: TransportAddress,
        base: TransportAddress,
        server: TransportAddress | None,
        priority: int,
        *,
        network: tuple[int, int],
        related: TransportAddress | None,
    ) -> Candidate | None:
        shared = self._shared
        if len(self._all) >= shared.config.max_local_candidates:
            shared.drops.count("local_candidates_full")
            return None
        foundation = local_foundation(shared.salt, kind, base, server)
        if shared.config.policy is not CandidatePolicy.ALL:
            related = None  # RFC 8839 §5.1: hidden
        number, cost = network
        candidate = Candidate(
            foundation, priority, address, kind, related=related, base=base, network=number, cost=cost
        )
        self._all[address, base] = candidate
        return candidate
