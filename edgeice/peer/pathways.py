"""What a session's owner should know of its candidate pairs: ICE events in plain words."""

from __future__ import annotations

from collections.abc import Callable

from edgeice.addresses import Path
from edgeice.ice import (
    IceFailed,
    LocalCandidateGathered,
    LocalCandidatesEnded,
    LocalCandidateWithdrawn,
    RestartFailed,
    RestartSucceeded,
    SendPathChanged,
    encode_candidate,
)
from edgeice.peer.events import (
    CandidateGathered,
    CandidatesEnded,
    CandidateWithdrawn,
    ConnectionEnded,
    PathChanged,
    PathMoved,
    RestartEnded,
)
from edgeice.peer.link import IceLink
from edgeice.peer.moves import Moves, way_of
from edgeice.peer.verdict import pairs_as_dict
from edgeice.sansio import Event
from edgeice.trace import fields_of

__all__ = ["Pathways"]


class Pathways:
    """Turns the events of an ICE session into those of a connection, and remembers what a description needs.

    Args:
        link: The ICE session.
        emit: Hears the connection's events.
    """

    def __init__(self, link: IceLink, emit: Callable[[Event], None]) -> None:
        #: The pair that carries data, as last told; `path` is None before the first.
        self.current = PathChanged(None)
        #: The same of the last pair that carried data.
        self.last = self.current
        #: Why no path was found, once ICE gave up.
        self.failure: ConnectionEnded | None = None
        #: What `take_move` will say.
        self._broke: bool | None = None
        self._link = link
        self._emit = emit
        self._gathered: dict[str, list[str]] = {}
        #: When the first generation had all of its candidates.
        self._gathered_at: float | None = None
        self._ended: set[str] = set()
        self._described: set[str] = set()
        self._now = 0.0
        self._moves = Moves(self._moved)

    def describe(self, ufrag: str) -> tuple[tuple[str, ...], bool]:
        """The candidates so far and whether they are all; later ones become events (RFC 8838 §9)."""
        alive = set(self._link.ice.ufrags())
        self._described = (self._described & alive) | {ufrag}
        self._ended &= alive
        return tuple(self._gathered.pop(ufrag, ())), ufrag in self._ended

    def gathered_after(self, began_at: float) -> float | None:
        """Seconds from then on until there were no more candidates to come; None where that is still to be."""
        return None if self._gathered_at is None else round(self._gathered_at - began_at, 3)

    def heard(self, *, now: float) -> None:
        """The peer was heard; before `take_events` with what it said."""
        self._now = now
        self._moves.heard(now=now)

    def take_move(self) -> bool | None:
        """Whether the path that carried data broke, if data goes another way since the last call; else None.

        What was sent on one that broke and is not acknowledged is lost.
        """
        broke, self._broke = self._broke, None
        return broke

    def take_events(self, *, now: float) -> None:
        """Pass on what ICE has to say."""
        self._now = now
        while (event := self._link.ice.poll_event()) is not None:
            if self._link.is_traced:
                self._trace(event, now)
            match event:
                case LocalCandidateGathered():
                    line = encode_candidate(event.candidate)
                    if event.ufrag in self._described:
                        self._emit(CandidateGathered(line, event.ufrag))
                    else:
                        self._gathered.setdefault(event.ufrag, []).append(line)
                case LocalCandidateWithdrawn():
                    self._withdraw(encode_candidate(event.candidate), event.ufrag)
                case LocalCandidatesEnded():
                    self._note_end(event.ufrag, now)
                case SendPathChanged():
                    self._take_path(event)
                case RestartSucceeded() | RestartFailed():
                    self._link.rebind()
                    self._emit(RestartEnded(isinstance(event, RestartSucceeded)))
                case IceFailed():
                    self.failure = ConnectionEnded("ice", event.verdict.reason)
                case _:
                    pass

    def _trace(self, event: Event, now: float) -> None:
        match event:
            case LocalCandidateGathered():
                line = encode_candidate(event.candidate)
                self._link.trace(now, "local_candidate", ufrag=event.ufrag, candidate=line)
            case LocalCandidateWithdrawn():
                line = encode_candidate(event.candidate)
                self._link.trace(now, "local_candidate_withdrawn", ufrag=event.ufrag, candidate=line)
            case IceFailed():
                pass  # the verdict on the session has it
            case RestartFailed():
                facts = {"reason": event.verdict.reason, **pairs_as_dict(event.verdict)}
                self._link.trace(now, "RestartFailed", generation=event.generation, **facts)
            case SendPathChanged():
                pass  # told as PathChanged
            case _:
                self._link.trace(now, type(event).__name__, **fields_of(event))

    def _withdraw(self, line: str, ufrag: str) -> None:
        if ufrag in self._described:
            self._emit(CandidateWithdrawn(line, ufrag))
        elif line in self._gathered.get(ufrag, ()):
            self._gathered[ufrag].remove(line)  # nobody was told

    def _note_end(self, ufrag: str, now: float) -> None:
        if self._gathered_at is None:
            self._gathered_at = now
        self._ended.add(ufrag)
        if ufrag in self._described:
            self._emit(CandidatesEnded(ufrag))

    def _take_path(self, event: SendPathChanged) -> None:
        before: Path | None = self.current.path
        self.current = PathChanged(
            event.path,
            event.local.type.value if event.local else "",
            event.remote.type.value if event.remote else "",
            event.nominated,
            event.fading,
            event.interface,
            event.rtt,
            event.cause,
            event.remote.cost if event.remote is not None and event.remote.network else None,
        )
        if event.path != before or event.broke:
            self._broke = bool(self._broke) or event.broke
        if event.path is not None:
            self.last = self.current
        self._link.note_selected(event.path if event.nominated else None)
        self._emit(self.current)
        self._moves.changed(self.current, now=self._now)

    def _moved(self, move: PathMoved) -> None:
        self._emit(move)
        if self._link.is_traced:
            self._link.trace(
                self._now,
                "moved",
                was=way_of(move.before),
                way=way_of(move.after),
                path=move.after.path,
                cause=move.cause,
                pause_ms=round(move.pause * 1000, 1),
            )
