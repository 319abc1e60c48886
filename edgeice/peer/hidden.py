"""The peer's candidates that hide their address behind a name (draft-ietf-mmusic-mdns-ice-candidates §3.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from edgeice.errors import DecodeError
from edgeice.ice import Candidate, NamedCandidate
from edgeice.sansio import DropCounter, Resolve

__all__ = ["HiddenCandidates"]

#: Names of one generation that are looked up; a browser has one for each of its addresses.
NAMES_LIMIT: Final = 16
#: Candidates with the same name: one address, several ports.
_SAME_NAME: Final = 4


class HiddenCandidates:
    """Has names looked up, and gives the candidates once they are.

    While a name of a generation is under way the peer's end of candidates waits for it: what is resolved is one of
    them.

    Args:
        is_current: Whether the peer's ufrag is that of a generation here; candidates of any other are dropped.
        drops: Counts `candidate_generation`, `candidate_late`, `candidate_mdns_limit`, `candidate_mdns_unknown` (nobody
            has the name), `candidate_mdns_ambiguous` (several addresses).
    """

    __slots__ = ("_actions", "_asked", "_drops", "_ended", "_is_current", "_waiting")

    def __init__(self, is_current: Callable[[str], bool], drops: DropCounter) -> None:
        self._is_current = is_current
        self._drops = drops
        #: Names that were asked for, by ufrag.
        self._asked: dict[str, set[str]] = {}
        self._waiting: dict[str, list[tuple[NamedCandidate, str]]] = {}
        #: Ufrags whose end of candidates waits.
        self._ended: set[str] = set()
        # Bounded by the names that wait.
        self._actions: deque[Resolve] = deque()

    def add(self, candidate: NamedCandidate, ufrag: str) -> None:
        """Look a candidate's name up, within bounds."""
        if not self._is_current(ufrag):
            self._drops.count("candidate_generation")
            return
        if ufrag in self._ended:
            self._drops.count("candidate_late")  # RFC 8838 §14
            return
        self._asked = {each: names for each, names in self._asked.items() if self._is_current(each)}
        names = self._asked.setdefault(ufrag, set())
        name = candidate.name
        waiting = self._waiting.get(name, [])
        if (name not in names and len(names) >= NAMES_LIMIT) or len(waiting) >= _SAME_NAME:
            self._drops.count("candidate_mdns_limit")
            return
        names.add(name)
        if not waiting:
            self._actions.append(Resolve(name, multicast=True))
        self._waiting[name] = [*waiting, (candidate, ufrag)]

    def __contains__(self, name: str) -> bool:
        """Whether a name is waited for."""
        return name in self._waiting

    def resolved(self, name: str, addresses: Sequence[str]) -> list[tuple[Candidate, str]]:
        """Take what a name stands for; gives candidates with their ufrags."""
        waiting = self._waiting.pop(name, [])
        if waiting and len(addresses) != 1:
            # draft-ietf-mmusic-mdns-ice-candidates §3.2.1: several addresses are no candidate's.
            self._drops.count("candidate_mdns_ambiguous" if addresses else "candidate_mdns_unknown", len(waiting))
            return []
        found: list[tuple[Candidate, str]] = []
        for candidate, ufrag in waiting:
            try:
                found.append((candidate.at(addresses[0]), ufrag))
            except DecodeError as error:
                self._drops.count(error.reason)
        return found

    def end(self, ufrag: str) -> bool:
        """The peer has no more candidates of this generation; True if none of them is waited for."""
        if any(of == ufrag for waiting in self._waiting.values() for _, of in waiting):
            self._ended.add(ufrag)
            return False
        return True

    def take_ended(self) -> list[str]:
        """Ufrags whose end of candidates need not wait any more."""
        ready = [ufrag for ufrag in self._ended if self.end(ufrag)]
        self._ended.difference_update(ready)
        return ready

    def poll_action(self) -> Resolve | None:
        """The next name to look up."""
        return self._actions.popleft() if self._actions else None

    def clear(self) -> None:
        """Nothing is waited for any more."""
        self._waiting.clear()
        self._ended.clear()
        self._actions.clear()
