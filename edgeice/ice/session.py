"""An ICE session: role, generations in three slots, routing of STUN messages among them.  It only composes.

*Current* carries the session.  A restart fills *pending*, which is checked while current still carries data and keeps
consent; once it nominates, it becomes current and the old one answers from *retiring* for a while.  A restart that
fails, or is taken back, empties *pending* and nothing else happens (RFC 8445 §9, §12.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from edgeice import stun
from edgeice.addresses import Base, Path, TransportAddress
from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.ice.candidate import Candidate
from edgeice.ice.config import CandidatePolicy, IceConfig, RemoteParameters, Role
from edgeice.ice.credentials import IceCredentials, generate_credentials
from edgeice.ice.destinations import Destinations
from edgeice.ice.events import (
    FailureVerdict,
    IceState,
    RestartFailed,
    RestartSucceeded,
    RoleSwitched,
    SelectedPathLost,
)
from edgeice.ice.generation import Generation
from edgeice.ice.outlook import Outlook
from edgeice.ice.pacer import Pacer, Turn
from edgeice.ice.priority import LocalPreferences
from edgeice.ice.requests import Requests
from edgeice.ice.responder import Responder
from edgeice.ice.shared import Shared
from edgeice.ice.slots import Slots
from edgeice.ice.watch import Watch
from edgeice.sansio import REFUSALS, DropCounter, Entropy, Event, Transmit
from edgeice.stun import Message, MessageClass, Method, RefusalBudget
from edgeice.trace import Tracer, ignore

if TYPE_CHECKING:
    from edgeice.ice.tracing import PairTrace

__all__ = ["IceSession"]


class IceSession:
    """One session's ICE (RFC 8445), full agent, one component.

    Args:
        config: Timings and limits.
        role: Who nominates, until a conflict says otherwise.
        pacer: The host's budget of checks.
        entropy: Source of randomness.
        now: Present time.
        bases: Those that there are already; the order of their families depends on all of them (RFC 8421 §4).
        tracer: Hears of checks and states.
        refusals: The host's budget of answers to requests that nobody proved; by default one of its own.
        destinations: Where the host may send to; by default as configured.

    Attributes:
        config: As given.
        drops: What was dropped, by reason.
    """

    def __init__(
        self,
        config: IceConfig,
        *,
        role: Role,
        pacer: Pacer,
        entropy: Entropy,
        now: float,
        bases: Iterable[Base] = (),
        tracer: Tracer = ignore,
        refusals: RefusalBudget | None = None,
        destinations: Destinations | None = None,
    ) -> None:
        self.config = config
        self._shared = Shared(
            config=config,
            entropy=entropy,
            tracer=tracer,
            role=role,
            tie_breaker=int.from_bytes(entropy.token_bytes(8)),
            salt=entropy.token_bytes(16),
            destinations=destinations or config.destinations(),
        )
        self.drops: DropCounter = self._shared.drops
        #: Messages so far whose integrity held: the peer's checks, which may be replayed, and its answers to new ones.
        self.authenticated = 0
        self._bases: dict[TransportAddress, Base] = {base.address: base for base in bases if self._may_use(base)}
        #: The latest answer of each server about each base.
        self._reflexive: dict[tuple[TransportAddress, TransportAddress], TransportAddress] = {}
        self._gathered = False
        first = Generation(self._shared, 0, generate_credentials(entropy), self._preferences())
        for base in self._bases.values():
            first.base_added(base, now=now)
        self._slots = Slots(first, config.retire_time)
        if refusals is None:
            refusals = RefusalBudget(
                overall=config.error_replies_per_second, per_prefix=config.error_replies_per_prefix
            )
        self._responder = Responder(self._shared, self._slots, refusals, now=now)
        self._requests = Requests(self._slots, Turn(pacer, config.pacing))
        self._outlook = Outlook(self._shared, self._slots, self._bases)
        self._watch = Watch(self._shared, self._slots)
        self._pair_trace = None if tracer is ignore else self._trace_pairs(tracer)

    @staticmethod
    def _trace_pairs(tracer: Tracer) -> PairTrace:
        from edgeice.ice.tracing import PairTrace  # noqa: PLC0415  # only for sessions that are traced

        return PairTrace(tracer)

    # What it knows

    @property
    def state(self) -> IceState:
        """How far the session is."""
        return self._outlook.state

    @property
    def role(self) -> Role:
        """Who nominates at present."""
        return self._shared.role

    @property
    def local_credentials(self) -> IceCredentials:
        """Those of the newest generation."""
        return self._slots.newest.local

    @property
    def generation(self) -> int:
        """Number of the newest generation, from 0."""
        return self._slots.newest.number

    @property
    def send_path(self) -> Path | None:
        """Where data goes: the selected pair, before that the best valid one; None while nothing may be sent."""
        return self._outlook.send_path

    @property
    def mobility(self) -> bool:
        """Whether both ends move data from pair to pair by themselves (`edgeice-mobility`)."""
        return self._slots.carrier.is_mobile

    def report(self, *, now: float) -> FailureVerdict:
        """What the generation that carries the session, or else the newest, tried; the reason is that of a failure."""
        return self._slots.carrier.verdict(now=now)

    def ufrags(self) -> tuple[str, ...]:
        """Local ufrags of all living generations."""
        return tuple(generation.local.ufrag for generation in self._slots.all())

    def knows_remote(self, ufrag: str) -> bool:
        """Whether a generation that checks has this ufrag for its peer's."""
        return self._slots.by_remote(ufrag) is not None

    def accepts(self, path: Path) -> bool:
        """Whether the peer proved that it sends on this path: data from there is its (RFC 8445 §12.2)."""
        return any(path in generation.heard for generation in self._slots.all())

    # Local candidates

    def base_added(self, base: Base, *, now: float) -> None:
        """A base can be used: it becomes a host or relayed candidate of the generations that still gather."""
        if not self._may_use(base):
            return
        self._bases[base.address] = base
        # What servers say of it is still to come, and a restart must not end before that.
        self._gathered = False
        for generation in self._slots.active():
            generation.base_added(base, now=now)
        self._settle(now)

    def _may_use(self, base: Base) -> bool:
        # Otherwise nothing is sent from there, and what comes there is not answered.
        return base.server is not None or self.config.policy is not CandidatePolicy.RELAY

    def base_removed(self, address: TransportAddress, *, now: float) -> None:
        """A base is gone, and with it its candidates and pairs in all generations."""
        if self._bases.pop(address, None) is None:
            return
        self._reflexive = {key: mapped for key, mapped in self._reflexive.items() if key[0] != address}
        path = self.send_path
        lost = path if path is not None and path.local == address else None
        for generation in self._slots.all():
            generation.base_removed(address, now=now)
        if lost is not None:
            self._shared.emit(SelectedPathLost(lost))
        self._settle(now)

    def add_server_reflexive(
        self, base: TransportAddress, mapped: TransportAddress, server: TransportAddress, *, now: float
    ) -> None:
        """A STUN server sees `base` as `mapped`."""
        if base not in self._bases:
            return
        self._reflexive[base, server] = mapped
        for generation in self._slots.active():
            generation.add_server_reflexive(base, mapped, server)
        self._settle(now)

    def end_of_local_candidates(self, *, now: float) -> None:
        """No more local candidates come of their own.  Without any base this is not the end: one may come back."""
        self._gathered = True
        for generation in self._slots.active():
            if generation.locals:
                generation.end_of_local_candidates()
        self._settle(now)

    # The peer

    def set_remote_description(self, remote: RemoteParameters, *, now: float) -> None:
        """Take the peer's parameters for the newest generation; the same credentials again change nothing."""
        newest = self._slots.newest
        if newest.remote is not None and newest.remote.credentials == remote.credentials:
            return
        if newest.remote is not None:
            raise LocalProtocolError("new credentials of the peer need a restart here too")
        newest.set_remote(remote, now=now)
        if newest.is_mobile:
            for base in self._bases.values():  # those that came after the end of candidates, too
                newest.base_added(base, now=now)
            for (base_address, server), mapped in self._reflexive.items():
                newest.add_server_reflexive(base_address, mapped, server)
        if remote.lite:
            self._take_role(Role.CONTROLLING)  # RFC 8445 §6.1.1
        if newest is self._slots.current:
            self._outlook.set_state(IceState.CHECKING)
        self._settle(now)

    def add_remote_candidate(self, candidate: Candidate, *, ufrag: str, now: float) -> None:
        """Take one candidate as it is trickled."""
        self.add_remote_candidates((candidate,), ufrag=ufrag, now=now)

    def add_remote_candidates(self, candidates: Sequence[Candidate], *, ufrag: str, now: float) -> None:
        """Take candidates of the generation that the peer's `ufrag` names; dropped where that is none here.

        Of those that come together the best pairs are checked first.
        """
        generation = self._slots.by_remote(ufrag)
        if generation is None:
            self.drops.count("candidate_generation", len(candidates))
            return
        generation.add_remotes(candidates, now=now)
        self._settle(now)

    def remove_remote_candidates(self, candidates: Sequence[Candidate], *, ufrag: str, now: float) -> None:
        """The peer has these candidates of the generation that its `ufrag` names no more, and told so by signaling.

        What is not known here, or of a peer that does not know mobility, is counted and ignored.
        """
        generation = self._slots.by_remote(ufrag)
        if generation is None:
            self.drops.count("candidate_generation", len(candidates))
            return
        generation.remove_remotes(candidates, now=now)
        self._settle(now)

    def end_of_remote_candidates(self, *, ufrag: str, now: float) -> None:
        """The peer has no more candidates of this generation (RFC 8838 §14)."""
        generation = self._slots.by_remote(ufrag)
        if generation is None:
            self.drops.count("candidate_generation")
            return
        generation.end_of_remote()
        self._settle(now)

    # Moves

    def leave(self, *, cause: str, now: float) -> bool:
        """Take data off the pair that carries it, as `Generation.leave`; False where no other pair is valid."""
        current = self._slots.current
        moved = current.selected is not None and current.leave(current.selected, cause=cause, now=now)
        self._settle(now)
        return moved

    def note_outstanding(self, outstanding: bool, *, now: float) -> None:
        """Data waits to be acknowledged from now on, or none does: only then is the silence of a path judged."""
        self._watch.note_outstanding(outstanding, now=now)

    def note_heard(self, path: Path, *, now: float) -> None:
        """Data that only the peer can have sent came on a path."""
        if self._watch.note_heard(path, now=now):
            self._settle(now)

    # Restart

    def restart(self, *, now: float) -> IceCredentials:
        """Open a pending generation with new credentials; one that was pending is given up."""
        if self.state is IceState.CLOSED:
            raise LocalProtocolError("the session is closed")
        number = self._slots.newest.number + 1
        pending = Generation(self._shared, number, generate_credentials(self._shared.entropy), self._preferences())
        self._slots.pending = pending
        for base in self._bases.values():
            pending.base_added(base, now=now)
        for (base_address, server), mapped in self._reflexive.items():
            pending.add_server_reflexive(base_address, mapped, server)
        if self._gathered and pending.locals:
            pending.end_of_local_candidates()
        self._settle(now)
        return pending.local

    def _preferences(self) -> LocalPreferences:
        hosts = (base for base in self._bases.values() if base.server is None)
        return LocalPreferences(self.config.interface_ranks, hosts)

    def revert_restart(self, *, now: float) -> None:
        """Give the pending generation up: its offer was taken back."""
        if self._slots.pending is None:
            raise LocalProtocolError("no restart is under way")
        self._slots.pending = None
        self._settle(now)

    # STUN messages

    def receive_stun(self, data: bytes, path: Path, *, now: float) -> None:
        """Take a STUN message that arrived on a base."""
        if self.state is IceState.CLOSED or path.local not in self._bases:
            self.drops.count("no_base")
            return
        try:
            message = stun.decode(data)
            if message.method != Method.BINDING:
                raise DecodeError("stun_method")  # noqa: TRY301  # counted like every other reason
            if message.message_class is MessageClass.REQUEST:
                self._receive_request(message, path, now)
            elif message.message_class is not MessageClass.INDICATION:  # a keepalive asks for nothing (RFC 8445 §11)
                self._receive_response(message, path, now)
        except DecodeError as error:
            self.drops.count(error.reason)
            self._shared.trace(now, "stun_dropped", path=path, reason=error.reason)
        self._settle(now)

    def socket_error(self, path: Path, error: int, *, now: float) -> bool:
        """The kernel or the network refused to carry a datagram (an errno); False if that means nothing here."""
        if self.state is IceState.CLOSED or error not in REFUSALS:
            return False
        concerned = [generation.socket_error(path, now=now) for generation in self._slots.active()]
        if any(concerned):
            self._settle(now)
        return any(concerned)

    def _receive_request(self, message: Message, path: Path, now: float) -> None:
        accepted = self._responder.receive(message, path, now=now)
        self.authenticated += 1
        if accepted is not None:
            self._take_role(accepted.role)
            accepted.generation.receive_check(accepted.check, now=now)

    def _receive_response(self, message: Message, path: Path, now: float) -> None:
        generation = self._slots.expecting(message.transaction_id)
        if generation is None or generation.remote is None:
            raise DecodeError("unexpected_response")
        # RFC 8489 §9.1.4: checks carry SHA-1, so nothing else answers them.
        response = stun.authenticate(message, generation.remote.credentials.key, integrity="sha1")
        self.authenticated += 1
        role = generation.receive_response(response, path, now=now)
        if role is not None and role is not self._shared.role:
            self._shared.new_tie_breaker()
            self._take_role(role)

    def _take_role(self, role: Role) -> None:
        if role is not self._shared.role:
            self._shared.role = role
            for generation in self._slots.all():
                generation.set_role(role)
            self._shared.emit(RoleSwitched(role))

    # Time

    def handle_timeout(self, *, now: float) -> None:
        """Act on every deadline that has come."""
        if self.state is IceState.CLOSED:
            return
        if self._pair_trace is not None:
            self._pair_trace.due(self._slots.all(), now=now)
        for generation in self._slots.active():
            generation.pair_told(now=now)
        for generation in self._slots.all():
            generation.work(now=now)
        self._slots.handle_timeout(now=now)
        self._settle(now)

    def next_timeout(self) -> float | None:
        """The earliest deadline."""
        if self.state is IceState.CLOSED:
            return None
        times = [generation.next_timeout() for generation in self._slots.all()]
        times += [self._requests.due_at, self._slots.next_timeout(), self._outlook.fades_at]
        times.append(self._watch.next_timeout())
        return min((at for at in times if at is not None), default=None)

    def poll_action(self) -> Transmit | None:
        """The next STUN message to send."""
        return self._shared.actions.pop()

    def poll_event(self) -> Event | None:
        """The next thing to know."""
        return self._shared.events.pop()

    def close(self, *, now: float) -> None:
        """End the session; nothing is sent or answered any more."""
        if self.state is not IceState.CLOSED:
            self._slots.clear()
            self._requests.release(now)
            self._shared.actions.clear()
            self._outlook.close()

    # Inside

    def _settle(self, now: float) -> None:
        """After any input: start what can start, move slots, tell what changed."""
        if self.state is IceState.CLOSED:
            return
        if self._slots.pending is not None:
            self._slots.pending.is_rescue = self._slots.current.best_pair is None
        for generation in self._slots.active():
            generation.work(now=now)
        self._move_slots(now)
        self._watch.work(now=now)
        self._requests.send(now)
        self._outlook.tell(now)
        if self._pair_trace is not None:
            self._pair_trace.note(self._slots.all(), now=now)

    def _move_slots(self, now: float) -> None:
        pending = self._slots.pending
        if pending is None:
            return
        if pending.completed:
            self._slots.promote(pending, now=now)
            self._shared.emit(RestartSucceeded(pending.number))
        elif pending.has_failed:
            self._slots.pending = None
            verdict = pending.verdict(now=now)
            self._shared.emit(RestartFailed(pending.number, verdict))
            self._outlook.restart_failed(verdict)
