"""Candidate pairs and the states they go through (RFC 8445 §6.1.2)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from edgeice.addresses import Path, TransportAddress
from edgeice.errors import LocalProtocolError
from edgeice.ice.candidate import Candidate, CandidateType

if TYPE_CHECKING:
    from edgeice.ice.checks import Check
    from edgeice.ice.consent import Consent

__all__ = ["METERED", "CandidatePair", "PairInput", "PairKey", "PairState"]

#: From this cost on, each byte is paid for.
METERED: Final = 500

#: Base and remote address: no two pairs of a checklist have both in common (RFC 8445 §6.1.2.4).
PairKey: TypeAlias = tuple[TransportAddress, TransportAddress]


class PairState(Enum):
    """RFC 8445 §6.1.2.6."""

    FROZEN = "frozen"
    WAITING = "waiting"
    IN_PROGRESS = "in_progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class PairInput(Enum):
    """What moves a pair from state to state."""

    #: Its foundation's turn has come (RFC 8445 §6.1.4.2) or another pair of it succeeded (§7.2.5.3.3).
    UNFREEZE = "unfreeze"
    #: The peer's check arrived on it (RFC 8445 §7.3.1.4), or a role conflict asks for another check (§7.2.5.1).
    TRIGGER = "trigger"
    CHECK_SENT = "check_sent"
    SUCCESS = "success"
    FAIL = "fail"


_F, _W, _P, _S, _X = PairState
_UNFREEZE, _TRIGGER, _SENT, _SUCCESS, _FAIL = PairInput

#: What is not in here is a bug of the caller.
TRANSITIONS: Final[dict[tuple[PairState, PairInput], PairState]] = {
    (_F, _UNFREEZE): _W,
    (_F, _TRIGGER): _W,
    (_W, _TRIGGER): _W,
    (_W, _SENT): _P,
    # A check that a trigger replaced may still be answered (RFC 8445 §7.3.1.4).
    (_W, _SUCCESS): _S,
    (_W, _FAIL): _X,
    (_P, _TRIGGER): _W,
    (_P, _SUCCESS): _S,
    (_P, _FAIL): _X,
    # A nominating check repeats a check that succeeded (RFC 8445 §8.1.1).
    (_S, _SENT): _S,
    (_S, _TRIGGER): _S,
    (_S, _SUCCESS): _S,
    (_S, _FAIL): _X,
    (_X, _TRIGGER): _W,
    # The true response of a check that failed because somebody answered it from elsewhere.
    (_X, _SUCCESS): _S,
    (_X, _FAIL): _X,
}


@attrs.define(eq=False)
class CandidatePair:
    """A local and a remote candidate, with what is known about the path between them.

    A reflexive local candidate stands here as its base (RFC 8445 §6.1.2.4), so `path` is what checks are sent on.
    """

    local: Candidate
    remote: Candidate
    path: Path
    foundation: str
    priority: int
    state: PairState = PairState.FROZEN
    #: The local candidate as the peer sees it, once a check succeeded: the pair is in the valid list while it is set.
    valid_local: Candidate | None = None
    consent: Consent | None = None
    #: The check that is retransmitted now, and those that it replaced, oldest first, whose answers still count.
    check: Check | None = None
    replaced_checks: list[Check] = attrs.field(factory=list)
    #: Controlling: the next check nominates.
    nominate_next: bool = False
    #: Controlled: the peer nominates the pair; true until a check of our own succeeds (RFC 8445 §7.3.1.5).
    nominated_by_peer: bool = False
    nominated: bool = False
    #: Number of the latest nomination of the pair, by either side; 0 without one, higher ones replace lower ones.
    nomination: int = 0
    #: Transaction id of the last request that triggered a check: retransmissions of it trigger no other.
    trigger_id: bytes = b""
    #: Controlled: number of this side's own move to the pair, which checks on it tell; 0 while there is none to tell.
    move: int = 0
    #: Controlling: number of the peer's latest move to the pair; 0 without one.
    peer_move: int = 0
    #: Nothing was heard on it although much was sent: any other valid pair is better, until an answer comes.
    suspect: bool = False
    #: Since when each request was answered; None while that is open.
    good_since: float | None = None
    #: When the latest answer came; before all times while none did.
    answered_at: float = float("-inf")
    #: It failed, or was not needed, and is only tried again in case it works by now: with few transmissions.
    retried: bool = False
    #: How often data was taken off the pair because it did not work: each time it must prove itself for longer.
    left: int = 0
    #: Round-trip time of the latest answer to a check sent once (Karn), in seconds; smoothed once consent is asked for.
    rtt: float | None = None
    #: How often the peer said that both ends claim one role; more than a few is no conflict but a loop.
    role_conflicts: int = 0
    requests_sent: int = 0
    requests_received: int = 0
    responses_received: int = 0
    #: Why the last check failed, as a slug; empty while none did.
    result: str = ""

    @property
    def key(self) -> PairKey:
        """What tells the pair from others of its checklist."""
        return self.path.local, self.path.remote

    @property
    def is_valid(self) -> bool:
        """Whether the pair is in the valid list (RFC 8445 §7.2.5.3.2)."""
        return self.valid_local is not None

    @property
    def is_dead(self) -> bool:
        """Whether consent ended on the pair: only new credentials can use its path (RFC 7675 §5.1)."""
        return self.result in {"consent_expired", "consent_revoked"}

    @property
    def is_open(self) -> bool:
        """Whether checks may still make the pair valid."""
        return self.state in {PairState.FROZEN, PairState.WAITING, PairState.IN_PROGRESS}

    @property
    def has_failed(self) -> bool:
        """Whether its check failed, and nothing that could still make it valid is known."""
        return self.state is PairState.FAILED

    @property
    def is_relayed(self) -> bool:
        """Whether datagrams of the pair go through a relay of either side."""
        return CandidateType.RELAYED in (self.local.type, self.remote.type)

    @property
    def cost(self) -> int:
        """What the links of both ends cost together."""
        return self.local.cost + self.remote.cost

    @property
    def is_metered(self) -> bool:
        """Whether either end pays for each byte."""
        return max(self.local.cost, self.remote.cost) >= METERED

    @property
    def combination(self) -> tuple[int, int]:
        """Which interfaces of the two ends it joins, by their numbers."""
        return self.local.network, self.remote.network

    @property
    def is_doubtful(self) -> bool:
        """Whether answers are missing, so that others are preferred: one request may always be lost."""
        return self.suspect or (self.consent is not None and self.consent.unanswered > 1)

    @property
    def rank(self) -> tuple[bool, bool, int, int]:
        """Order among valid pairs where cost counts, the best first: metered links last, then cost, then priority."""
        return self.is_doubtful, self.is_metered, self.cost, -self.priority

    @property
    def is_host_only(self) -> bool:
        """Whether nothing, as far as known, stands between two addresses of the hosts themselves."""
        return (self.valid_local or self.local).type is self.remote.type is CandidateType.HOST

    def note_answer(self, now: float) -> None:
        """The peer answered on it: it works."""
        self.suspect = False
        self.answered_at = now
        if self.good_since is None:
            self.good_since = now

    def note_left(self) -> None:
        """Data was taken off because it did not work, or because the peer said so."""
        self.left += 1
        self.good_since = None
        self.nominated = False

    def apply(self, event: PairInput) -> None:
        """Move to the next state; raises LocalProtocolError where the table has none."""
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            raise LocalProtocolError(f"a pair that is {self.state.value} takes no {event.value}")
        self.state = following
