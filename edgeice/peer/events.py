"""What a session tells its owner; events of data channels are those of `edgeice.sctp`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

import attrs

from edgeice.addresses import Path
from edgeice.sansio import Event

__all__ = [
    "CandidateGathered",
    "CandidateWithdrawn",
    "CandidatesEnded",
    "ConnectionEnded",
    "ConnectionState",
    "DatagramReceived",
    "PathChanged",
    "PathMoved",
    "RestartEnded",
    "StateChanged",
]


class ConnectionState(Enum):
    """Where a session stands, as a person would say it."""

    NEW = "new"
    #: Candidate pairs are being checked.
    CHECKING = "checking"
    #: A path carries data; DTLS is being set up.
    SECURING = "securing"
    #: The peer proved who it is; data channels can be used.
    CONNECTED = "connected"
    #: It did work, and no path carries data at the moment.
    INTERRUPTED = "interrupted"
    CLOSED = "closed"


@attrs.frozen
class CandidateGathered(Event):
    """A local candidate that no description has carried: to be trickled (RFC 8838 §9)."""

    candidate: str
    ufrag: str


@attrs.frozen
class CandidateWithdrawn(Event):
    """A local candidate that the peer was told is gone: it is to be told that as well; only where it knows mobility."""

    candidate: str
    ufrag: str


@attrs.frozen
class CandidatesEnded(Event):
    """No more local candidates of this ufrag will come (RFC 8838 §13)."""

    ufrag: str


@attrs.frozen
class StateChanged(Event):
    """The session's state."""

    state: ConnectionState


@attrs.frozen
class PathChanged(Event):
    """Data now leaves by another candidate pair, or by none (`path` is None)."""

    path: Path | None
    #: "host", "srflx", "prflx" or "relay".
    local_type: str = ""
    remote_type: str = ""
    nominated: bool = False
    #: The peer was not heard on it for long: unless it is, the path is lost soon.
    fading: bool = False
    #: Name of this side's interface, empty where there is none.
    interface: str = ""
    #: Round trip of the pair as its checks measured it, seconds; None while nothing did.
    rtt: float | None = None
    #: Why data goes this way now (`ice.SendPathChanged.cause`).
    cause: str = ""
    #: What the peer says that its interface costs (`addresses.Base.cost`), None where it does not.
    remote_cost: int | None = None


@attrs.frozen
class PathMoved(Event):
    """The peer was heard after data went another way: told once for each move, after its last PathChanged."""

    before: PathChanged
    #: The path now; where the old one came back, the same as `before` but for what was measured since.
    after: PathChanged
    #: What set it off: the cause of the first change.
    cause: str
    #: Seconds without the peer; see `edgeice.peer.moves`.
    pause: float


@attrs.frozen
class RestartEnded(Event):
    """An ICE restart came to its end: the new generation carries the session, or the old one still does."""

    succeeded: bool


@attrs.frozen
class DatagramReceived(Event):
    """A datagram on a session without DTLS."""

    data: bytes


@attrs.frozen
class ConnectionEnded(Event):
    """The session is over, or never came to be."""

    #: "ice", "dtls", "sctp" or "closed": the step that failed, or an orderly end; "defect" for a bug on this side.
    step: str
    reason: str
    #: Puts the verdict together.
    judge: Callable[[], Mapping[str, object]] = attrs.field(default=dict, eq=False, repr=False)

    @property
    def verdict(self) -> Mapping[str, object]:
        """What was tried, for a machine to read: see `edgeice.peer.verdict`; empty where nothing is known."""
        return self.judge()

    @property
    def broken(self) -> bool:
        """Whether something failed, rather than an end's wish."""
        return self.step != "closed"
