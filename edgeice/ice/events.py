"""What an ICE session and its gathering tell their owner."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import attrs

from edgeice.addresses import Path, TransportAddress
from edgeice.ice.candidate import Candidate, CandidateType
from edgeice.ice.config import Role
from edgeice.ice.pair import PairState
from edgeice.sansio import Event

__all__ = [
    "ConsentExpired",
    "FailureVerdict",
    "IceFailed",
    "IceState",
    "IceStateChanged",
    "LocalCandidateGathered",
    "LocalCandidateWithdrawn",
    "LocalCandidatesEnded",
    "PairNominated",
    "PairReport",
    "RestartFailed",
    "RestartSucceeded",
    "RoleSwitched",
    "SelectedPathLost",
    "SendPathChanged",
    "ServerNameUnknown",
    "ServerReflexiveLearned",
    "ServerUnanswered",
]


class IceState(Enum):
    """How far a session is; a restart under way does not show here while the old pair works."""

    #: The peer's parameters are not known.
    NEW = "new"
    CHECKING = "checking"
    #: There is a valid pair: data may be sent (RFC 8445 §12.1).
    CONNECTED = "connected"
    #: A pair is nominated.
    COMPLETED = "completed"
    #: There was a path and it is lost; opposite a peer that does not know mobility only a restart can bring another
    #: (RFC 7675 §5.1).
    DISCONNECTED = "disconnected"
    #: No path was found, by the first generation or by a restart after the path was lost.  Another restart may still be
    #: tried; the state lasts until that brings a path.
    FAILED = "failed"
    CLOSED = "closed"


@attrs.frozen
class PairReport:
    """What became of one pair, for a verdict."""

    local: CandidateType
    local_address: TransportAddress
    remote: CandidateType
    remote_address: TransportAddress
    state: PairState
    #: `timeout`, `refused` (by the network, twice or until the time was over), `asymmetric`, `error_NNN`, `malformed`,
    #: `consent_expired`, `consent_revoked`; empty if no check ended.
    result: str
    requests_sent: int
    requests_received: int
    responses_received: int
    rtt: float | None


@attrs.frozen
class FailureVerdict:
    """Why there is no path, for people and programs."""

    #: `no_local_candidates`, `no_remote_candidates`, `no_pairs` (no two of one family), `silence` (nothing came from
    #: the peer), `one_way` (its checks came, answers did not), `nomination` (a pair worked, nominating it did not),
    #: `checks_failed`.
    reason: str
    #: Seconds from the peer's parameters to the verdict.
    elapsed: float
    local_candidates: Mapping[CandidateType, int]
    remote_candidates: Mapping[CandidateType, int]
    pairs: tuple[PairReport, ...]


@attrs.frozen
class LocalCandidateGathered(Event):
    """A candidate to be conveyed to the peer, of the generation that `ufrag` names."""

    candidate: Candidate
    ufrag: str


@attrs.frozen
class LocalCandidatesEnded(Event):
    """No more candidates of this generation will come (RFC 8838 §13)."""

    ufrag: str


@attrs.frozen
class LocalCandidateWithdrawn(Event):
    """A candidate that was conveyed is gone, with its base; told only to a peer that knows mobility."""

    candidate: Candidate
    ufrag: str


@attrs.frozen
class IceStateChanged(Event):
    """The session moved to another state."""

    state: IceState


@attrs.frozen
class SendPathChanged(Event):
    """Data goes another way from now on, or, where `path` is None, nowhere."""

    path: Path | None
    local: Candidate | None
    remote: Candidate | None
    nominated: bool
    #: Consent was not renewed for most of its time: unless an answer comes, the path is lost soon.
    fading: bool = False
    #: Name of the interface that data leaves by; empty where there is none.
    interface: str = ""
    #: Round-trip time as last measured there, in seconds; None where it is not known.
    rtt: float | None = None
    #: Why: `first` (there was none before), `nominated` (agreed on), `better`, `base_gone`, `silent` (nothing was heard
    #: there), `peer_moved`, `restart`, `consent` (it ended, or fades, or no longer does).
    cause: str = ""
    #: The path before, if there was one, carries nothing any more; otherwise what was sent on it still arrives.
    broke: bool = False


@attrs.frozen
class PairNominated(Event):
    """Both ends agreed on the pair of a generation (RFC 8445 §8.1.1)."""

    path: Path
    local: Candidate
    remote: Candidate
    generation: int


@attrs.frozen
class RestartSucceeded(Event):
    """The pending generation nominated a pair and replaced the current one."""

    generation: int


@attrs.frozen
class RestartFailed(Event):
    """The pending generation found no path; the current one goes on as it was."""

    generation: int
    verdict: FailureVerdict


@attrs.frozen
class ConsentExpired(Event):
    """Nothing may be sent on this path until a restart (RFC 7675 §5.1)."""

    path: Path
    generation: int
    #: The peer revoked it (RFC 7675 §5.2) rather than fell silent.
    revoked: bool


@attrs.frozen
class SelectedPathLost(Event):
    """The base that data was sent from is gone."""

    path: Path


@attrs.frozen
class IceFailed(Event):
    """No path was found: by the first generation, or by a restart while the current one had no path."""

    verdict: FailureVerdict


@attrs.frozen
class RoleSwitched(Event):
    """A conflict of roles was settled (RFC 8445 §7.3.1.1)."""

    role: Role


@attrs.frozen
class ServerReflexiveLearned(Event):
    """A STUN server sees `base` as `mapped`."""

    base: TransportAddress
    mapped: TransportAddress
    server: TransportAddress


@attrs.frozen
class ServerUnanswered(Event):
    """A STUN server gave no usable answer to `base`."""

    base: TransportAddress
    server: TransportAddress
    #: `timeout` or `error_NNN`, or `malformed`
    reason: str


@attrs.frozen
class ServerNameUnknown(Event):
    """The name of a STUN server could not be looked up."""

    uri: str
