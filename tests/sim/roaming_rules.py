"""What must hold besides while sessions roam."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from edgeice import stun
from edgeice.addresses import Path, TransportAddress
from edgeice.ice import Candidate, CandidateType, decode_candidate
from edgeice.peer import CandidateWithdrawn, ConnectionEnded, PathChanged
from edgeice.sansio import Event
from edgeice.stun import Attribute
from tests.sim.agents import Agent, End
from tests.sim.invariants import Monitor
from tests.sim.records import RequestSeen
from tests.sim.roamers import Roamer

__all__ = ["RoamingMonitor"]

#: RFC 7675 §5.1.
_CONSENT: Final = 30.0
_EPSILON: Final = 1e-3
#: Requests of one end within a second: one per Ta, and those that a lost path makes urgent.
_URGENT: Final = 40
#: Restarts that one end offers within a minute.
_RESTARTS: Final = 34


#: Moves of one end to a better pair while nothing happens.
_IMPROVEMENTS: Final = 2


class RoamingMonitor(Monitor):
    """Sees everything that sessions do that roam.

    Attributes:
        moves: Of each end: when data began to go another way, where, and why.
        round_trips: By end and path, as last measured.
        mirrors: The same pair as the other end sees it.
    """

    def __init__(self, servers: set[TransportAddress], *, traced: bool = False) -> None:
        super().__init__(servers, traced=traced)
        # What may be lost is judged path by path.
        self.disturbed = True
        self.moves: dict[str, list[tuple[float, Path | None, str]]] = {}
        self.round_trips: dict[tuple[str, Path], float] = {}
        self.mirrors: dict[tuple[str, Path], Path] = {}
        #: Whether the path that an end uses was agreed on.
        self._nominated: dict[str, bool] = {}
        self._numbers: dict[tuple[str, str, bool], tuple[int, Path]] = {}
        self._recent: dict[str, deque[float]] = {}
        #: Addresses that ends said are gone, by their ufrag.
        self._retracted: set[tuple[str, TransportAddress]] = set()
        #: When an end was told last that its peer has an address no more.
        self._withdrawn_at: dict[str, float] = {}

    def told(self, party: End, event: Event) -> None:
        """Check what sessions tell."""
        now = party.agent.now
        super().told(party, event)
        if isinstance(event, PathChanged):
            moves = self.moves.setdefault(party.name, [])
            before = moves[-1][1] if moves else None
            if event.path is None and before is not None and self._nominated.get(party.name):
                self._check_loss(party, before, now)
            if event.path != before:
                moves.append((now, event.path, event.cause))
            self._nominated[party.name] = event.nominated
        elif isinstance(event, CandidateWithdrawn):
            candidate = decode_candidate(event.candidate)
            if isinstance(candidate, Candidate):
                self._retracted.add((event.ufrag, candidate.address))
        elif isinstance(event, ConnectionEnded) and event.step != "closed":
            self.violate("ended", now, f"{party.name} ended: {event.step}: {event.reason}")

    def withdrawn(self, party: End, line: str) -> None:
        """An end was told that its peer has an address no more."""
        self._withdrawn_at[party.name] = party.agent.now
        self.note(party.agent.now, f"{party.name} is told that {line} is gone")

    def addresses_gone(self, name: str, ips: Iterable[str]) -> None:
        """A host lost addresses: if they come again, so must consent to what is sent from there."""
        gone = set(ips)
        for end in self._sessions:
            if end.name == name and self.mobile:
                self._check_withdrawn(end, gone)
        for agent, path in list(self._consent):
            if agent == name and path.local.ip in gone:
                del self._consent[agent, path]

    def _check_withdrawn(self, end: End, gone: set[str]) -> None:
        """What the peer was told of an address that is gone is withdrawn at once."""
        current = end.connection._link.ice._slots.current
        if end.ended is not None or not current.is_mobile:
            return
        for candidate in self._sessions[end].said.get(current.local.ufrag, ()):
            key = current.local.ufrag, candidate.address
            if candidate.address.ip in gone and candidate.type is CandidateType.HOST and key not in self._retracted:
                self.violate("withdrawal", end.agent.now, f"{end.name} did not say that {candidate.address} is gone")

    def _check_loss(self, party: End, path: Path, now: float) -> None:
        """Nothing but its base's, its address's or its consent's end takes a path away; a restart never does."""
        if path.local not in party.connection._link.ice._bases or self._withdrawn_at.get(party.name) == now:
            return
        granted = self._consent.get((party.name, path), {})
        # What a generation was granted that another one has replaced is over with it.
        used = [generation.local.ufrag for generation in party.connection._link.ice._slots.active()]
        if any(now < granted.get(ufrag, -_CONSENT) + _CONSENT - _EPSILON for ufrag in used):
            self.violate("path_dropped", now, f"{party.name} dropped {path}, which works")

    def _is_urgent(self, message: stun.Message) -> bool:
        """A check that tells the peer of a move goes at once."""
        return message.get(Attribute.NOMINATION) is not None and self.mobile

    def _check_request(self, party: End, request: RequestSeen, message: stun.Message, now: float) -> None:
        super()._check_request(party, request, message, now)
        recent = self._recent.setdefault(party.name, deque())
        recent.append(now)
        while recent[0] <= now - 1.0:
            recent.popleft()
        if len(recent) > 1.0 / party.agent.config.pacing + _URGENT:
            self.violate("probes", now, f"{party.name} sends {len(recent)} requests within a second")
        number = message.get(Attribute.NOMINATION)
        if number is None:
            return
        # Each side counts by itself: who nominates, and who asks to be followed.
        key = party.name, request.ufrag, request.nominates
        before, path = self._numbers.get(key, (0, request.path))
        if number < before or (number == before and path != request.path):
            self.violate("number", now, f"{party.name} nominates {request.path} as {number} after {before} for {path}")
        self._numbers[key] = number, request.path

    def _check_nomination(self, party: End, _request: RequestSeen, message: stun.Message, now: float) -> None:
        if message.get(Attribute.ICE_CONTROLLING) is None:
            self.violate("nomination_role", now, f"{party.name} nominates and does not control")

    def _check_freezing(
        self, party: End, request: RequestSeen, known: dict[TransportAddress, Candidate], now: float
    ) -> None:
        """What a lost path makes urgent does not wait for its foundation."""

    def _success(self, agent: Agent, transaction: bytes, path: Path, now: float) -> None:
        super()._success(agent, transaction, path, now)
        request = self._requests.get(transaction)
        if request is not None and request.path == path and len(request.times) == 1:
            self.round_trips[agent.name, path] = now - request.times[0]

    def _asked(self, agent: Agent, data: bytes, path: Path, now: float) -> None:
        super()._asked(agent, data, path, now)
        request = self._requests.get(data[8:20])
        if request is not None and request.party is not None:
            self.mirrors[agent.name, path] = request.path
            self.mirrors[request.party.name, request.path] = path

    def paths_of(self, name: str, base: TransportAddress) -> list[Path]:
        """The paths from a base that ever answered an end."""
        return [path for agent, path in self._consent if agent == name and path.local == base]

    def check_quiet(self, begun: float, now: float) -> None:
        """Where nothing happens data stays where it is, but for what was being improved."""
        for name, moves in self.moves.items():
            since = [(path, cause) for at, path, cause in moves if at > begun]
            if len(since) > _IMPROVEMENTS or any(path is None or cause == "silent" for path, cause in since):
                self.violate("flap", now, f"{name} moved without a cause: {since}")

    def check_restarts(self, ends: Iterable[Roamer], now: float) -> None:
        """They are bounded in rate."""
        for end in ends:
            for first, last in zip(end.restarts, end.restarts[_RESTARTS:], strict=False):
                if last - first < 60.0:
                    self.violate("restarts", now, f"{end.name} offers {_RESTARTS + 1} restarts in {last - first:.1f} s")
                    return
