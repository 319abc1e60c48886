"""Which session a datagram belongs to: by 5-tuple once known, by ufrag or transaction before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from edgeice.addresses import Path
from edgeice.errors import LocalProtocolError

__all__ = ["Routes"]

S = TypeVar("S")

#: Seconds that a STUN request is remembered at least: a check waits for its answer as long as that (RFC 8445 §14.3).
_REQUEST_LIFE: Final = 40.0
#: STUN requests whose responses find their session: at 5 ms between two of them, half a minute of the busiest host.
REQUEST_LIMIT: Final = 6000


class Routes(Generic[S]):
    """The routing tables that an Endpoint lends to its sessions.

    A 5-tuple belongs to the session that proved first that it is its own (an authenticated STUN message arrived on
    it) until that session lets go: DTLS 1.2 records carry no connection id, so two sessions cannot share one.
    """

    __slots__ = (
        "_aged_at", "_asked", "_asked_before", "_by_path", "_by_ufrag", "_path_limit", "_paths", "_selected", "_ufrags",
    )  # fmt: skip

    def __init__(self, *, paths_per_session: int = 64) -> None:
        self._by_path: dict[Path, S] = {}
        self._by_ufrag: dict[str, S] = {}
        self._paths: dict[S, dict[Path, None]] = {}
        self._ufrags: dict[S, set[str]] = {}
        self._path_limit = paths_per_session
        #: The nominated pair of each session that has one.
        self._selected: dict[S, Path] = {}
        #: Requests by transaction id: since `_aged_at`, and those before, which are forgotten next.
        self._asked: dict[bytes, S] = {}
        self._asked_before: dict[bytes, S] = {}
        self._aged_at = 0.0

    def by_path(self, path: Path) -> S | None:
        """The session that owns a 5-tuple."""
        return self._by_path.get(path)

    def by_ufrag(self, ufrag: str) -> S | None:
        """The session that issued a local ufrag."""
        return self._by_ufrag.get(ufrag)

    def bind_ufrags(self, session: S, ufrags: Iterable[str]) -> None:
        """Make these the session's ufrags, all others of it forgotten.

        Raises LocalProtocolError if another session has one of them: a session never takes over another's.
        """
        wanted = set(ufrags)
        if any(self._by_ufrag.get(ufrag, session) is not session for ufrag in wanted):
            raise LocalProtocolError("ufrag belongs to another session")
        for ufrag in self._ufrags.get(session, set()) - wanted:
            del self._by_ufrag[ufrag]
        for ufrag in wanted:
            self._by_ufrag[ufrag] = session
        self._ufrags[session] = wanted

    def claim(self, session: S, path: Path) -> bool:
        """Give a 5-tuple to a session; False while another one owns it.

        A session holds a bounded number of 5-tuples; the one claimed longest ago makes room, but never the selected
        one: whoever saw a check can repeat it from as many addresses as he likes.
        """
        owner = self._by_path.get(path)
        if owner is not None:
            return owner is session
        held = self._paths.setdefault(session, {})
        if len(held) >= self._path_limit:
            selected = self._selected.get(session)
            oldest = next(each for each in held if each != selected)
            del held[oldest], self._by_path[oldest]
        held[path] = None
        self._by_path[path] = session
        return True

    def select(self, session: S, path: Path | None) -> None:
        """Note the pair that a session's ends agreed on, None when there is none any more."""
        if path is None:
            self._selected.pop(session, None)
        else:
            self._selected[session] = path

    def is_selected(self, path: Path) -> bool:
        """Whether a session's data goes this way because its ends agreed on it."""
        owner = self._by_path.get(path)
        return owner is not None and self._selected.get(owner) == path

    def note_request(self, session: S, transaction_id: bytes) -> None:
        """A session sent a STUN request; of more than `REQUEST_LIMIT` the older half is forgotten."""
        if len(self._asked) >= REQUEST_LIMIT // 2:
            self._asked_before, self._asked = self._asked, {}
        self._asked[transaction_id] = session

    def by_request(self, transaction_id: bytes) -> S | None:
        """The session that sent a STUN request."""
        return self._asked.get(transaction_id, self._asked_before.get(transaction_id))

    def age(self, *, now: float) -> None:
        """Forget the requests that nobody can answer any more."""
        if now - self._aged_at >= _REQUEST_LIFE:
            self._asked_before, self._asked = self._asked, {}
            self._aged_at = now

    def forget(self, session: S) -> None:
        """Drop everything that leads to a session."""
        self._selected.pop(session, None)
        for path in self._paths.pop(session, {}):
            del self._by_path[path]
        for ufrag in self._ufrags.pop(session, set()):
            del self._by_ufrag[ufrag]
        if not self._ufrags:
            self._asked, self._asked_before = {}, {}

    def __len__(self) -> int:
        return len(self._by_path) + len(self._by_ufrag)
