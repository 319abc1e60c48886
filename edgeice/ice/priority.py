"""Priorities of candidates and pairs, and the order of local addresses (RFC 8445 §5.1.2, §6.1.2.3; RFC 8421)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from edgeice.addresses import Base, TransportAddress
from edgeice.ice.candidate import CandidateType

__all__ = ["LocalPreferences", "candidate_priority", "interleave", "pair_priority"]

#: RFC 8445 §5.1.2.2, the recommended type preferences.
_TYPE_PREFERENCES: Final = {
    CandidateType.HOST: 126,
    CandidateType.PEER_REFLEXIVE: 110,
    CandidateType.SERVER_REFLEXIVE: 100,
    CandidateType.RELAYED: 0,
}
_HIGHEST: Final = 0xFFFF
#: Room for addresses within a rank; ranks beyond the last share its room.
_RANK_SIZE: Final = 0x1000
_RANKS: Final = 16
#: Costs above each of which a base is a rank lower: those of wired links, of Wi-Fi, of others, of unmetered cellular.
_COST_STEPS: Final = (0, 10, 50, 100)


def candidate_priority(kind: CandidateType, local_preference: int, component: int = 1) -> int:
    """RFC 8445 §5.1.2.1: type, then local preference (0 to 65535), then component."""
    return _TYPE_PREFERENCES[kind] << 24 | local_preference << 8 | 256 - component


def pair_priority(controlling: int, controlled: int) -> int:
    """RFC 8445 §6.1.2.3, from the priorities of the controlling and the controlled agent's candidate."""
    if controlling > controlled:
        return (controlled << 32) + 2 * controlling + 1
    return (controlling << 32) + 2 * controlled


def interleave(addresses: Iterable[TransportAddress]) -> list[TransportAddress]:
    """Order addresses so that no broken family holds the other up (RFC 8421 §4).

    The order within a family is kept.  IPv6 goes first; of N6 and N4 addresses, (N4+N6)/N4 of IPv6 stand before the
    first of IPv4, then the families alternate.
    """
    v6: list[TransportAddress] = []
    v4: list[TransportAddress] = []
    for address in addresses:
        (v6 if address.family == 6 else v4).append(address)
    if not v4:
        return v6
    head = (len(v4) + len(v6)) // len(v4)
    ordered, rest = v6[:head], v6[head:]
    while v4 or rest:
        if v4:
            ordered.append(v4.pop(0))
        if rest:
            ordered.append(rest.pop(0))
    return ordered


class LocalPreferences:
    """Gives each base of a generation a local preference that no other has (RFC 8445 §5.1.2.1).

    The bases that there are when the generation begins are ordered by RFC 8421 §4 within each rank.  Further ones come
    one by one, and what was announced cannot be changed: of the places left, the family that came first gets the odd
    ones from the top and the other the even ones, so that the families alternate.

    Args:
        ranks: Interface name -> rank; where there is none, the cost of the base decides.
        bases: Those that are known from the beginning.
    """

    def __init__(self, ranks: Mapping[str, int], bases: Iterable[Base] = ()) -> None:
        self._ranks = ranks
        self._taken: dict[TransportAddress, int] = {}
        #: The family that has the highest place of a rank, by that place.
        self._first: dict[int, int] = {}
        by_rank: dict[int, list[TransportAddress]] = {}
        for base in bases:
            by_rank.setdefault(self._top(base), []).append(base.address)
        for top, addresses in by_rank.items():
            ordered = interleave(addresses)[:_RANK_SIZE]
            self._first[top] = ordered[0].family
            self._taken |= {address: top - place for place, address in enumerate(ordered)}

    def _top(self, base: Base) -> int:
        """The highest preference of a base's rank."""
        rank = self._ranks.get(base.interface)
        if rank is None:
            rank = sum(base.cost > step for step in _COST_STEPS)
        return _HIGHEST - min(max(rank, 0), _RANKS - 1) * _RANK_SIZE

    def allocate(self, base: Base) -> int | None:
        """The preference of `base`, the same as before if it has one; None when its rank is full."""
        address = base.address
        if address not in self._taken:
            top = self._top(base)
            used = set(self._taken.values())
            # RFC 8445 §5.1.2.1: a single address has the highest of all.
            start = top if address.family == self._first.setdefault(top, address.family) else top - 1
            free = next((p for p in range(start, top - _RANK_SIZE, -2) if p not in used), None)
            if free is None:
                return None
            self._taken[address] = free
        return self._taken[address]

    def release(self, address: TransportAddress) -> None:
        """Free the preference of a base that is gone."""
        self._taken.pop(address, None)
