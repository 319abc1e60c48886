"""Checks of the peer: what one says, and those that came before the peer's description (RFC 8445 §7.3)."""

from __future__ import annotations

from typing import Final

import attrs

from edgeice.addresses import Path, TransportAddress
from edgeice.sansio import DropCounter
from edgeice.stun import Attribute, AuthenticatedMessage

__all__ = ["HIGHEST_NOMINATION", "EarlyChecks", "HeardPaths", "PeerCheck"]

_EARLY_LIMIT: Final = 32
_HIGHEST_PRIORITY: Final = (1 << 31) - 1
#: Nominations are counted in 24 bits (draft-thatcher-ice-renomination-01 §4).
HIGHEST_NOMINATION: Final = (1 << 24) - 1
_HIGHEST_COST: Final = 999


@attrs.frozen
class PeerCheck:
    """An authenticated request of the peer."""

    path: Path
    transaction_id: bytes
    #: Ufrags of the two ends as the check names them (RFC 8445 §7.2.2): this side's, the peer's.
    local_ufrag: str
    remote_ufrag: str
    #: What a candidate learned from it is worth (RFC 8445 §7.3.1.3); 1 if it says nothing usable.
    priority: int
    use_candidate: bool
    #: Number of a nomination among several, or where it is none of a move of the peer's; 0 if it has none, which only
    #: renomination gives.
    nomination: int
    #: Number and cost of the peer's interface that it left from; 0 where it does not say.
    network: int = 0
    cost: int = 0

    @classmethod
    def of(cls, request: AuthenticatedMessage, path: Path) -> PeerCheck:
        """Read a request that arrived on `path`."""
        username = request.get(Attribute.USERNAME)
        local, _, remote = (username if isinstance(username, str) else "").partition(":")
        priority = request.get(Attribute.PRIORITY)
        usable = isinstance(priority, int) and 0 < priority <= _HIGHEST_PRIORITY
        network = request.get(Attribute.NETWORK_INFO) or 0
        return cls(
            path,
            request.transaction_id,
            local,
            remote,
            priority if isinstance(priority, int) and usable else 1,
            request.get(Attribute.USE_CANDIDATE) is not None,
            min(request.get(Attribute.NOMINATION) or 0, HIGHEST_NOMINATION),
            network >> 16,
            min(network & 0xFFFF, _HIGHEST_COST),
        )

    def number(self, *, renomination: bool) -> int:
        """Which of the peer's nominations it is; 0 if it is none."""
        return self.nomination if renomination and self.nomination else int(self.use_candidate)

    @property
    def move(self) -> int:
        """Which of the moves of a controlled peer it tells: "I send here now, follow"; 0 if none."""
        return 0 if self.use_candidate else self.nomination


class HeardPaths:
    """Paths on which an authenticated message of the peer arrived; at `limit` the one that came first is forgotten."""

    __slots__ = ("_limit", "_paths")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._paths: dict[Path, None] = {}

    def note(self, path: Path) -> None:
        """A message arrived."""
        self._paths[path] = None
        if len(self._paths) > self._limit:
            del self._paths[next(iter(self._paths))]

    def forget_base(self, base: TransportAddress) -> None:
        """Nothing arrives on a base any more."""
        self._paths = {path: None for path in self._paths if path.local != base}

    def __contains__(self, path: Path) -> bool:
        return path in self._paths

    def __len__(self) -> int:
        return len(self._paths)


class EarlyChecks:
    """The latest check of each path, at most 32, until the peer's description says what to make of them.

    What an earlier one nominated stays: it was answered, so that the peer does not say it again, and goes on with
    checks that nominate nothing, such as those of consent.

    Further paths are dropped and counted; the peer repeats what matters.
    """

    __slots__ = ("_by_path", "_drops")

    def __init__(self, drops: DropCounter) -> None:
        self._drops = drops
        self._by_path: dict[Path, PeerCheck] = {}

    def add(self, check: PeerCheck) -> None:
        """Keep a check."""
        before = self._by_path.get(check.path)
        if before is not None and not (check.use_candidate or check.nomination):
            check = attrs.evolve(check, use_candidate=before.use_candidate, nomination=before.nomination)
        if check.path in self._by_path or len(self._by_path) < _EARLY_LIMIT:
            self._by_path[check.path] = check
        else:
            self._drops.count("early_checks_full")

    def take(self) -> list[PeerCheck]:
        """All that were kept, and none any more."""
        checks = list(self._by_path.values())
        self._by_path.clear()
        return checks
