"""What the monitor keeps of requests and sessions, and what it found wrong."""

from __future__ import annotations

import attrs

from edgeice.addresses import Path, TransportAddress
from edgeice.ice import Candidate
from tests.sim.agents import End

__all__ = ["RequestSeen", "SessionSeen", "Violation"]


@attrs.frozen
class Violation:
    """Something that must not be."""

    rule: str
    at: float
    text: str


@attrs.define(eq=False)
class RequestSeen:
    """A check or consent request that an agent sent."""

    party: End | None
    path: Path
    ufrag: str
    nominates: bool
    times: list[float]
    answered_at: float | None = None


@attrs.define(eq=False)
class SessionSeen:
    """What the monitor knows of one party."""

    #: Own ufrags, oldest first, each with the generation's candidates as said.
    said: dict[str, list[Candidate]] = attrs.field(factory=dict)
    said_ended: set[str] = attrs.field(factory=set)
    credentials: list[tuple[str, str]] = attrs.field(factory=list)
    #: The peer's candidates as heard, by the peer's ufrag.
    heard: dict[str, dict[TransportAddress, Candidate]] = attrs.field(factory=dict)
    #: When the description of the newest generation was heard.
    described_at: float | None = None
    remote_pacing: float = 0.0
    #: The peer's, of the newest description that was taken.
    remote_ufrag: str = ""
    last_new_at: float = -1e9
    #: Sources of requests, by base.
    callers: set[tuple[TransportAddress, TransportAddress]] = attrs.field(factory=set)
    #: Paths on which a check succeeded, by own ufrag.
    succeeded: set[tuple[str, Path]] = attrs.field(factory=set)
    requested: set[tuple[str, Path]] = attrs.field(factory=set)
    #: Nominating requests that succeeded, by own ufrag: their path.
    nominated: dict[str, Path] = attrs.field(factory=dict)
    #: Path -> until when a triggered check must have left.
    triggers: dict[Path, tuple[str, float]] = attrs.field(factory=dict)
    triggered_by: set[bytes] = attrs.field(factory=set)
    #: Generations that have a nominated pair.
    completed: set[str] = attrs.field(factory=set)
    lost_at: float | None = None
    ended_at: float | None = None
