"""Which pairs are kept alive beside the one that carries data, so that a move needs no signaling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from edgeice.ice.pair import CandidatePair

__all__ = ["BACKUP_LIMIT", "choose_backups", "is_wanted"]

#: Each is checked for consent as long as the session lasts.
BACKUP_LIMIT: Final = 6


def choose_backups(valid: Iterable[CandidatePair], selected: CandidatePair | None) -> list[CandidatePair]:
    """The valid pairs that are worth their traffic, the most useful first, at most `BACKUP_LIMIT`.

    Of each combination of an interface here and one of the peer's the best, unless the selected pair joins the same
    two: what ends one of them ends the other as well.  Of too many those go first that share no interface with what
    is there already, so that no single loss takes all.
    """
    best: dict[tuple[int, int], CandidatePair] = {}
    for pair in valid:
        if selected is None or pair.combination != selected.combination:
            known = best.get(pair.combination)
            if known is None or pair.rank < known.rank:
                best[pair.combination] = pair
    here: Counter[int] = Counter()
    there: Counter[int] = Counter()
    if selected is not None:
        here[selected.combination[0]] += 1
        there[selected.combination[1]] += 1
    chosen: list[CandidatePair] = []
    while best and len(chosen) < BACKUP_LIMIT:
        pair = min(best.values(), key=lambda each: (here[each.combination[0]] + there[each.combination[1]], each.rank))
        del best[pair.combination]
        here[pair.combination[0]] += 1
        there[pair.combination[1]] += 1
        chosen.append(pair)
    return chosen


def is_wanted(
    combination: tuple[int, int], backups: Iterable[CandidatePair], selected: CandidatePair, *, relayed: bool
) -> bool:
    """Whether a pair of this combination is worth checks: nothing is valid there, or only relays and it is direct."""
    kept = list(backups)
    there = [pair for pair in (selected, *kept) if pair.combination == combination]
    if not there:
        return len(kept) < BACKUP_LIMIT
    return not relayed and all(pair.is_relayed for pair in there)
