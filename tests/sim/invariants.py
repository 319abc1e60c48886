"""What must hold whatever happens: a monitor that sees every datagram, message and event, and checks at rest.

It reads what is on the wire and what is signaled; of the agents' inside it looks only at sizes and roles.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from edgeice import stun
from edgeice.addresses import Path, TransportAddress
from edgeice.ice import Candidate, CandidateType, Role, decode_candidate
from edgeice.peer import ConnectionEnded, PathChanged, RestartEnded
from edgeice.sansio import Event, Transmit
from edgeice.stun import Attribute
from tests.sim.agents import Agent, End
from tests.sim.bounds import oversized
from tests.sim.links import PROBE
from tests.sim.records import RequestSeen, SessionSeen, Violation
from tests.sim.signaling import CandidateSaid, CandidatesEndedSaid, Description, Message

__all__ = ["Monitor"]

#: Clocks are floats.
_EPSILON: Final = 1e-6
#: RFC 8445 §14.2: transactions of one host are so far apart at least.
_HOST_SPACING: Final = 0.005
#: RFC 7675 §5.1.
_CONSENT: Final = 30.0
#: RFC 8863 §4.
_PATIENCE: Final = 39.5
#: RFC 8489 §6.2.1: how often a request is sent, and the least time between two of it.
_TRANSMISSIONS: Final = 7
_RTO: Final = 0.5
#: Within so many seconds, and one Ta for each pair, a triggered check leaves.
_TRIGGER_SLACK: Final = 1.0
#: Of a peer that calls one base from more ports of an address than this, not each gets a pair.
_MANY: Final = 12
_TYPE_PREFERENCES: Final = {
    CandidateType.HOST: 126,
    CandidateType.PEER_REFLEXIVE: 110,
    CandidateType.SERVER_REFLEXIVE: 100,
    CandidateType.RELAYED: 0,
}


class Monitor:
    """Sees everything, and keeps what is wrong.

    Args:
        patience: That of the agents.

    Attributes:
        violations: What was wrong so far.
        log: What happened, if `traced`.
        probes: Where probes arrived: (agent, probe) -> path.
        sent_count: Datagrams sent by agents.
        disturbed: Paths may be lost at present, for a reason that the scenario made.
        mobile: Both ends of sessions know mobility.
    """

    def __init__(self, servers: set[TransportAddress], *, traced: bool = False) -> None:
        self.violations: list[Violation] = []
        self.log: list[str] | None = [] if traced else None
        self.probes: dict[tuple[str, bytes], Path] = {}
        self.sent_count = 0
        self.disturbed = False
        self.mobile = False
        self._servers = servers
        self._server_ips = {each.ip for each in servers}
        self._sessions: dict[End, SessionSeen] = {}
        self._by_ufrag: dict[str, End] = {}
        self._requests: dict[bytes, RequestSeen] = {}
        #: (agent, path) -> own ufrag -> when consent was given last.
        self._consent: dict[tuple[str, Path], dict[str, float]] = {}
        self._new_at: dict[str, float] = {}
        self._gathering: dict[tuple[str, bytes], list[float]] = {}
        #: Requests that arrived and were not answered yet, by agent.
        self._unanswered: dict[str, deque[tuple[bytes, Path]]] = {}

    def violate(self, rule: str, at: float, text: str) -> None:
        """Note that something is wrong."""
        self.violations.append(Violation(rule, at, text))
        self.note(at, f"VIOLATION {rule}: {text}")

    def note(self, at: float, text: str) -> None:
        """Add to the log."""
        if self.log is not None:
            self.log.append(f"{at:10.4f} {text}")

    def watch(self, party: End) -> None:
        """Begin to watch a party."""
        self._sessions[party] = SessionSeen()

    # Signaling

    def said(self, party: End, message: Message) -> None:
        """Check what is conveyed."""
        now, session = party.agent.now, self._sessions[party]
        self.note(now, f"{party.name} says {message}")
        if isinstance(message, Description):
            if any(message.ufrag == ufrag or message.pwd == pwd for ufrag, pwd in session.credentials):
                # RFC 8445 §9: a restart changes both.
                self.violate("restart_credentials", now, f"{party.name} uses credentials again")
            session.credentials.append((message.ufrag, message.pwd))
            self._by_ufrag[message.ufrag] = party
            session.said[message.ufrag] = []
            for line in message.candidates:
                self._candidate_said(party, line, message.ufrag, now)
            if message.ended:
                session.said_ended.add(message.ufrag)
        elif isinstance(message, CandidateSaid):
            self._candidate_said(party, message.line, message.ufrag, now)
        elif isinstance(message, CandidatesEndedSaid):
            session.said_ended.add(message.ufrag)

    def _candidate_said(self, party: End, line: str, ufrag: str, now: float) -> None:
        session = self._sessions[party]
        candidate = decode_candidate(line)
        if not isinstance(candidate, Candidate):
            return
        said = session.said.setdefault(ufrag, [])
        if ufrag in session.said_ended and not self.mobile:
            self.violate("candidate_after_end", now, f"{party.name} says {line}")  # RFC 8838 §13
        kind, local, component = candidate.priority >> 24, candidate.priority >> 8 & 0xFFFF, candidate.priority & 0xFF
        if kind != _TYPE_PREFERENCES[candidate.type] or component != 255:
            self.violate("candidate_priority", now, f"{party.name} says {line}")  # RFC 8445 §5.1.2.1
        # A base that comes again has its old place, and one that is gone leaves it to others.
        rivals = [each for each in said if each.address != candidate.address and each.address in party.agent.bases]
        if candidate.type is CandidateType.HOST and any(each.priority == candidate.priority for each in rivals):
            self.violate("candidate_priority", now, f"{party.name} says {local} twice")
        said.append(candidate)

    def heard(self, party: End, message: Message) -> None:
        """Remember what a party may know."""
        session = self._sessions[party]
        if isinstance(message, Description):
            lines = session.heard.setdefault(message.ufrag, {})
            for line in message.candidates:
                _add(lines, line)
        elif isinstance(message, CandidateSaid):
            _add(session.heard.setdefault(message.ufrag, {}), message.line)

    def taken(self, party: End, description: Description) -> None:
        """Remember from when on a party may ask its peer."""
        session = self._sessions[party]
        session.described_at = party.agent.now
        session.remote_pacing = 0.050 if description.pacing is None else description.pacing
        session.remote_ufrag = description.ufrag

    def withdrawn(self, party: End, line: str) -> None:
        """Only between ends that know mobility is anything withdrawn."""
        self.violate("withdrawn", party.agent.now, f"{party.name} is told that {line} is gone")

    # Events

    def told(self, party: End, event: Event) -> None:
        """Check what sessions tell."""
        now, session = party.agent.now, self._sessions[party]
        if self.log is not None:
            self.note(now, f"{party.name} tells {event}")
        match event:
            case PathChanged():
                if event.path is None:
                    session.lost_at = now
                    session.triggers.clear()
                    if not self.disturbed:
                        self.violate("path_lost", now, f"{party.name} lost its path, and nothing had happened to it")
                elif event.nominated:
                    session.triggers.clear()
                    session.completed = set(party.connection._link.ice.ufrags())
            case RestartEnded(succeeded=False):
                self._check_patience(party, "restart", now)
            case ConnectionEnded():
                session.ended_at = now
                session.triggers.clear()
                if event.step == "ice":
                    self._check_patience(party, event.reason, now)
            case _:
                pass

    def _check_patience(self, party: End, what: str, now: float) -> None:
        begun = self._sessions[party].described_at
        if begun is None or now < begun + _PATIENCE - _EPSILON:
            self.violate("patience", now, f"{party.name} failed ({what}) before its patience ended")

    # The wire

    def sent(self, agent: Agent, sent: Transmit) -> None:
        """Check what an agent sends."""
        now, data, path = agent.now, sent.data, sent.path
        self.sent_count += 1
        if path.local not in agent.bases and not {path.local.ip, path.remote.ip} & self._server_ips:
            self.violate("no_base", now, f"{agent.name} sends from {path.local}, which is gone")
        relays = path.remote in self._servers or (path.local.ip in self._server_ips and data[:2] == b"\x01\x11")
        if relays and data[:2] != b"\x00\x01":
            pass  # a relay's affair, or an endpoint's refusal of what only it saw
        elif not stun.is_stun(data):
            self._data_sent(agent, path, now)
        elif data[:2] == b"\x00\x01":
            self._request_sent(agent, sent, now)
        elif data[1] & 0x10:
            self._indication_or_error(agent, sent, now)
        else:
            self._answered(agent, sent, now)

    def _data_sent(self, agent: Agent, path: Path, now: float) -> None:
        """RFC 7675 §5.1: data only with consent."""
        if not self.has_consent(agent.name, path, now):
            self.violate("consent", now, f"{agent.name} sends data on {path} without consent")

    def _indication_or_error(self, agent: Agent, sent: Transmit, now: float) -> None:
        if sent.data[0] & 1:
            self._answered(agent, sent, now)

    def _answered(self, agent: Agent, sent: Transmit, now: float) -> None:
        waiting = self._unanswered.get(agent.name)
        key = sent.data[8:20], sent.path
        if waiting is None or key not in waiting:
            self.violate("answer", now, f"{agent.name} answers on {sent.path} what nobody asked")
        else:
            waiting.remove(key)
        if self.log is not None:
            self.note(now, f"{agent.name} answers {sent.data[:2].hex()} {sent.path} {key[0].hex()[:6]}")

    def _request_sent(self, agent: Agent, sent: Transmit, now: float) -> None:
        transaction, path = sent.data[8:20], sent.path
        if path.remote in self._servers:
            self._server_asked(agent, transaction, now)
            return
        request = self._requests.get(transaction)
        if request is not None:
            self._repeated(agent, request, now)
            return
        message = stun.decode(sent.data)
        if not self._is_urgent(message):
            self._space(agent, now)
        username = message.get(Attribute.USERNAME) or ""
        ufrag = username.partition(":")[2]
        nominates = message.get(Attribute.USE_CANDIDATE) is not None
        party = self._by_ufrag.get(ufrag)
        request = RequestSeen(party, path, ufrag, nominates, [now])
        self._requests[transaction] = request
        if self.log is not None:
            mark = " nominating" if nominates else ""
            self.note(now, f"{agent.name} asks {path} {transaction.hex()[:6]}{mark} of {ufrag}")
        self._check_overdue(now)
        if party is None:
            self.violate("ufrag", now, f"{agent.name} asks in the name of {ufrag!r}, which was not said")
            return
        self._check_request(party, request, message, now)

    def _check_request(self, party: End, request: RequestSeen, message: stun.Message, now: float) -> None:
        session, path, ufrag = self._sessions[party], request.path, request.ufrag
        if session.ended_at is not None:
            self.violate("closed", now, f"{party.name} asks after its end")
        # RFC 8445 §14.2: the larger Ta of both sides.
        ta = max(party.agent.config.pacing, session.remote_pacing)
        if not self._is_urgent(message):
            if now < session.last_new_at + ta - _EPSILON:
                gap = now - session.last_new_at
                self.violate("ta", now, f"{party.name} asks {gap:.4f} s after the last time, Ta is {ta}")
            session.last_new_at = now
        priority = message.get(Attribute.PRIORITY) or 0
        host = _last_said(session, ufrag, path.local)
        if priority >> 24 != 110 or (host is not None and priority & 0xFFFFFF != host.priority & 0xFFFFFF):
            # RFC 8445 §7.1.1
            self.violate("request_priority", now, f"{party.name} claims {priority:#x} for {path.local}")
        if request.nominates:
            self._check_nomination(party, request, message, now)
        peer_ufrag = (message.get(Attribute.USERNAME) or "").partition(":")[0]
        known = session.heard.get(peer_ufrag, {})
        if path.remote not in known and (path.local, path.remote) not in session.callers:
            self.violate("stranger", now, f"{party.name} asks {path.remote}, which nobody named")
        self._check_freezing(party, request, known, now)
        session.requested.add((ufrag, path))
        session.triggers.pop(path, None)

    def _check_nomination(self, party: End, request: RequestSeen, message: stun.Message, now: float) -> None:
        session = self._sessions[party]
        if message.get(Attribute.ICE_CONTROLLING) is None:
            self.violate("nomination_role", now, f"{party.name} nominates and does not control")
        before = session.nominated.get(request.ufrag)
        if before is not None and before != request.path:
            self.violate("nomination_twice", now, f"{party.name} nominates {request.path} after {before}")

    def _check_freezing(
        self, party: End, request: RequestSeen, known: dict[TransportAddress, Candidate], now: float
    ) -> None:
        """RFC 8445 §6.1.2.6: one pair of a foundation is tried first, unless the peer's check came or one worked."""
        session, path, ufrag = self._sessions[party], request.path, request.ufrag
        if (ufrag, path) in session.requested or (path.local, path.remote) in session.callers:
            return
        mine = self._foundation(session, ufrag, path, known)
        if mine is None:
            return
        tried = [
            other
            for each, other in session.requested
            if each == ufrag and other != path and self._foundation(session, ufrag, other, known) == mine
        ]
        if any((ufrag, other) in session.succeeded for other in tried):
            return
        rank = self._rank(party, ufrag, path, known)
        for other in tried:
            if other.local not in party.connection._link.ice._bases:
                continue  # gone, such as an allocation that its server has lost
            # RFC 8838 §12: a pair that was the best of its foundation when it was formed did not freeze.
            if not self._was_there(session, ufrag, other, path, known):
                continue
            if self._in_progress(ufrag, other, now) and self._rank(party, ufrag, other, known) > rank:
                self.violate("freezing", now, f"{party.name} asks {path} while {other} of its foundation is tried")

    @staticmethod
    def _was_there(
        session: SessionSeen, ufrag: str, one: Path, other: Path, known: dict[TransportAddress, Candidate]
    ) -> bool:
        """Whether the candidates of one pair were known no later than those of the other."""
        remotes = list(known)
        hosts = [each.address for each in session.said.get(ufrag, ())]
        return remotes.index(one.remote) <= remotes.index(other.remote) and (
            hosts.index(one.local) <= hosts.index(other.local)
        )

    def _rank(self, party: End, ufrag: str, path: Path, known: dict[TransportAddress, Candidate]) -> int:
        """A pair's priority (RFC 8445 §6.1.2.3); 0 where a candidate of it was never said."""
        host = _last_said(self._sessions[party], ufrag, path.local)
        remote = known.get(path.remote)
        if host is None or remote is None:
            return 0
        controls = party.connection._link.ice.role is Role.CONTROLLING
        g, d = (host.priority, remote.priority) if controls else (remote.priority, host.priority)
        return (min(g, d) << 32) + 2 * max(g, d) + (g > d)

    @staticmethod
    def _foundation(
        session: SessionSeen, ufrag: str, path: Path, known: dict[TransportAddress, Candidate]
    ) -> tuple[str, str] | None:
        remote = known.get(path.remote)
        host = _last_said(session, ufrag, path.local)
        return None if remote is None or host is None else (host.foundation, remote.foundation)

    def _in_progress(self, ufrag: str, path: Path, now: float) -> bool:
        return any(
            each.ufrag == ufrag and each.path == path and each.answered_at is None and now < each.times[-1] + _RTO
            for each in self._requests.values()
        )

    def _is_urgent(self, _message: stun.Message) -> bool:
        """Whether a request does not wait for its turn; only what saves a session that moves."""
        return False

    def _space(self, agent: Agent, now: float) -> None:
        """RFC 8445 §14.2: all that a host begins is 5 ms apart."""
        before = self._new_at.get(agent.name, -1e9)
        if now < before + _HOST_SPACING - _EPSILON:
            self.violate("host_spacing", now, f"{agent.name} begins two transactions within {now - before:.4f} s")
        self._new_at[agent.name] = now

    def _server_asked(self, agent: Agent, transaction: bytes, now: float) -> None:
        times = self._gathering.setdefault((agent.name, transaction), [])
        if not times:
            self._space(agent, now)
        times.append(now)
        if len(times) > _TRANSMISSIONS:
            self.violate("transmissions", now, f"{agent.name} asks a server {len(times)} times")

    def _repeated(self, agent: Agent, request: RequestSeen, now: float) -> None:
        gap = now - request.times[-1]
        wanted = _RTO * (1 << len(request.times) - 1)
        request.times.append(now)
        if len(request.times) > _TRANSMISSIONS or gap < wanted - _EPSILON:
            # RFC 8489 §6.2.1
            self.violate(
                "transmissions", now, f"{agent.name} repeats after {gap:.3f} s, the {len(request.times)}th time"
            )

    def received(self, agent: Agent, data: bytes, path: Path) -> None:
        """Note what arrives at an agent."""
        now = agent.now
        at = data.find(PROBE)
        if at >= 0:
            self.probes[agent.name, data[at:]] = path
        if not stun.is_stun(data):
            return
        kind = data[:2]
        if kind == b"\x00\x01":
            waiting = self._unanswered.setdefault(agent.name, deque(maxlen=512))
            waiting.append((data[8:20], path))
            self._asked(agent, data, path, now)
        elif kind == b"\x01\x01":
            self._success(agent, data[8:20], path, now)
        elif kind == b"\x01\x11":
            request = self._requests.get(data[8:20])
            if request is not None:
                request.answered_at = now
        if self.log is not None:
            self.note(now, f"{agent.name} gets {kind.hex()} {path} {data[8:20].hex()[:6]}")

    def _success(self, agent: Agent, transaction: bytes, path: Path, now: float) -> None:
        request = self._requests.get(transaction)
        if request is None or request.party is None or request.party.agent is not agent:
            return
        again = request.answered_at is not None
        request.answered_at = now
        if request.path != path or again:
            return  # RFC 8445 §7.2.5.2.1: an answer comes from where it was asked, to where it was asked from
        granted = self._consent.setdefault((agent.name, path), {})
        before = granted.get(request.ufrag)
        if before is None or now <= before + _CONSENT + _EPSILON or not self._fell_silent(request, before):
            # RFC 7675 §5.1: what comes after the end revives nothing.
            granted[request.ufrag] = now
        session = self._sessions[request.party]
        session.succeeded.add((request.ufrag, path))
        session.triggers.pop(path, None)
        if request.nominates:
            session.nominated[request.ufrag] = path

    def _fell_silent(self, request: RequestSeen, since: float) -> bool:
        """Whether consent to a path ended because nobody answered: a pair that was let go may be checked again."""
        return any(
            each.answered_at is None and since < each.times[0] <= since + _CONSENT
            for each in self._requests.values()
            if each.party is request.party and each.path == request.path and each.ufrag == request.ufrag
        )

    def _asked(self, agent: Agent, data: bytes, path: Path, now: float) -> None:
        message = stun.decode(data)
        local, _, remote = (message.get(Attribute.USERNAME) or "").partition(":")
        party = self._by_ufrag.get(local)
        if party is None or party.agent is not agent:
            return
        session = self._sessions[party]
        session.callers.add((path.local, path.remote))
        # RFC 8445 §7.3.1.4: a check back, unless there is no need, or the roles are not settled.
        claims_control = message.get(Attribute.ICE_CONTROLLING) is not None
        ice = party.connection._link.ice
        # One that came before the description is acted on when that comes; its repetitions ask for nothing more.
        repeated = message.transaction_id in session.triggered_by
        session.triggered_by.add(message.transaction_id)
        if (
            repeated
            or session.ended_at is not None
            or remote != session.remote_ufrag
            or local != ice.local_credentials.ufrag
            or local in session.completed
            or (local, path) in session.succeeded
            or claims_control == (ice.role is Role.CONTROLLING)
            or sum(base == path.local and at.ip == path.remote.ip for base, at in session.callers) > _MANY
        ):
            return
        pairs = len(session.said.get(local, ())) * (1 + len(session.heard[remote]))
        ta = max(party.agent.config.pacing, session.remote_pacing)
        session.triggers.setdefault(path, (local, now + _TRIGGER_SLACK + 2 * ta * pairs))

    def _check_overdue(self, now: float) -> None:
        for party, session in self._sessions.items():
            for path, (ufrag, deadline) in list(session.triggers.items()):
                if path.local not in party.agent.bases or ufrag not in party.connection._link.ice.ufrags():
                    del session.triggers[path]
                elif now > deadline:
                    del session.triggers[path]
                    self.violate("triggered_check", now, f"{party.name} did not check back on {path}")

    # At rest

    def consent_count(self) -> int:
        """How many paths ever had consent."""
        return sum(map(len, self._consent.values()))

    def has_consent(self, name: str, path: Path, now: float, *, within: float = _CONSENT) -> bool:
        """Whether the peer consented to what an agent sends on a path, at most so many seconds ago."""
        granted = self._consent.get((name, path), {})
        return any(now <= at + within + _EPSILON for at in granted.values())

    def check_sizes(self, agent: Agent) -> None:
        """Every table and queue within its stated limit, and nothing overdue."""
        self._check_overdue(agent.now)
        for text in oversized(agent):
            self.violate("bounds", agent.now, text)

    def rank(self, party: End, path: Path) -> int:
        """The priority of a pair of the newest generation; 0 where a candidate of it was never said."""
        session = self._sessions[party]
        ufrag = party.connection._link.ice.local_credentials.ufrag
        return self._rank(party, ufrag, path, session.heard.get(session.remote_ufrag, {}))


def _add(lines: dict[TransportAddress, Candidate], line: str) -> None:
    candidate = decode_candidate(line)
    if isinstance(candidate, Candidate):
        lines.setdefault(candidate.address, candidate)


def _last_said(session: SessionSeen, ufrag: str, base: TransportAddress) -> Candidate | None:
    """The candidate of a base, as it was said last: it may have gone and come again."""
    said = session.said.get(ufrag, ())
    return next((each for each in reversed(said) if each.address == base), None)
