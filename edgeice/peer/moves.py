"""How long a session was without its peer each time that data went another way: from the events, in a few words.

The pause of a move begins when the path that there was can have carried nothing any more: where its base is gone at
that moment, where it fell silent or the peer left it, when the peer was last heard.  It ends with the next datagram
that only the peer can have sent.  A move that was made before the old path broke has no pause.

So with data under way it is the silence of the peer, give or take a round trip.  With none, a silence may have begun
long after the peer was last heard: then the pause is the most that it can have been.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from edgeice.peer.events import PathChanged, PathMoved

__all__ = ["Moves", "way_of"]

#: Causes of a move from a path that carries nothing any more, or may have stopped before.
_BREAKS: Final = frozenset({"base_gone", "silent", "peer_moved", "consent"})

#: Classes of links by what they cost; a metered one may be of any.
_LINKS: Final = {0: "wired", 10: "wifi", 100: "cellular"}
_METERED: Final = 500


@attrs.define
class _Move:
    """One that is under way."""

    before: PathChanged
    after: PathChanged
    #: What set it off.
    cause: str
    pause_from: float


class Moves:
    """Follows the path of one session.

    Args:
        emit: Hears of each move once the peer is heard after it.
    """

    def __init__(self, emit: Callable[[PathMoved], None]) -> None:
        self._emit = emit
        self._move: _Move | None = None
        #: The path that carried data last.
        self._path = PathChanged(None)
        #: When the peer was heard last, and before that.
        self._heard_at = 0.0
        self._heard_before = 0.0

    def heard(self, *, now: float) -> None:
        """The peer was heard, before what it said is acted on."""
        if now > self._heard_at:
            self._heard_before, self._heard_at = self._heard_at, now
        self._close(now)

    def changed(self, path: PathChanged, *, now: float) -> None:
        """Data goes this way from now on, or the pair that it goes by is told again."""
        before = self._path
        if path.path is not None:
            self._path = path
        if self._move is not None:
            self._move.after = path
        elif before.path is None or path.path == before.path:
            return
        elif path.path is not None and not before.fading and path.cause not in _BREAKS:
            self._emit(PathMoved(before, path, path.cause, 0.0))
            return
        else:
            self._move = _Move(before, path, path.cause, self._pause_from(path, now))
        if self._heard_at == now:
            self._close(now)

    # Inside

    def _pause_from(self, path: PathChanged, now: float) -> float:
        if path.cause == "base_gone":
            return now
        # What made this end move may have come a moment ago, on the new path.
        return self._heard_before if self._heard_at == now else self._heard_at

    def _close(self, now: float) -> None:
        move = self._move
        if move is not None and move.after.path is not None:
            self._move = None
            self._emit(PathMoved(move.before, move.after, move.cause, max(0.0, now - move.pause_from)))


def way_of(path: PathChanged) -> str:
    """A path in a person's words, as seen from this side: `wlan0 direct`, `eth0 relay to wifi`, `none`."""
    if path.path is None:
        return "none"
    kind = "relay" if "relay" in (path.local_type, path.remote_type) else "direct"
    # Where this side has no interface, as on loopback, neither has the peer one that matters.
    there = "" if path.remote_cost is None or not path.interface else f" to {_link_of(path.remote_cost)}"
    return f"{path.interface} {kind}{there}".lstrip()


def _link_of(cost: int) -> str:
    """The class of the peer's link, as far as its cost tells."""
    return _LINKS.get(cost, "metered" if cost >= _METERED else "other")
