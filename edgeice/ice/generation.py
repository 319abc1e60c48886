"""One generation: a checklist with its own credentials on both sides (RFC 8445 §9: what a restart makes anew)."""

from __future__ import annotations

from typing import Final

import attrs

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice.candidate import Candidate, CandidateType
from edgeice.ice.checklist import Checklist
from edgeice.ice.checks import Check, Retransmission, encode_check
from edgeice.ice.config import DEFAULT_PACING, RemoteParameters, Role
from edgeice.ice.consent import Consent
from edgeice.ice.credentials import IceCredentials
from edgeice.ice.events import (
    ConsentExpired,
    FailureVerdict,
    LocalCandidatesEnded,
    PairNominated,
)
from edgeice.ice.locals import LocalCandidates
from edgeice.ice.nomination import Nomination
from edgeice.ice.pair import CandidatePair, PairInput, PairState
from edgeice.ice.priority import LocalPreferences, candidate_priority
from edgeice.ice.remotes import RemoteCandidates
from edgeice.ice.shared import Shared
from edgeice.ice.verdict import explain_failure
from edgeice.stun import Attribute, AuthenticatedMessage, ErrorCode

__all__ = ["Generation"]

#: Checks that came before the peer's parameters and are acted on once they are known (RFC 8445 §7.3).
_EARLY_LIMIT: Final = 32
#: A pair whose role conflicts go on after this many is no conflict but a loop.
_MAX_ROLE_CONFLICTS: Final = 4


@attrs.frozen
class _EarlyCheck:
    path: Path
    priority: int
    use_candidate: bool
    transaction_id: bytes


class Generation:
    """Candidates, pairs, checks and consent under one pair of credentials.

    It acts on its own deadlines in `work`; what may be sent when is the session's to pace.

    Attributes:
        locals: This side's candidates.
        selected: The nominated pair; None before, and after its base or consent is lost.
        completed: A pair was nominated once: no other will be (RFC 8445 §8.1.1).
        heard: Paths on which an authenticated message of the peer arrived.
    """

    def __init__(self, shared: Shared, number: int, local: IceCredentials, preferences: LocalPreferences) -> None:
        self.number = number
        self.local = local
        self.remote: RemoteParameters | None = None
        self.selected: CandidatePair | None = None
        self.completed = False
        self.heard: dict[Path, None] = {}
        self.checklist = Checklist(role=shared.role, limit=shared.config.max_pairs, drops=shared.drops)
        self._shared = shared
        self.locals = LocalCandidates(shared, local.ufrag, preferences)
        self._remotes = RemoteCandidates(shared)
        self._local_ended = False
        self._remote_ended = False
        self._early: dict[Path, _EarlyCheck] = {}
        self._checks: dict[bytes, Check] = {}
        self._nomination = Nomination(shared.config)
        self._nominating: CandidatePair | None = None
        self._started_at = 0.0
        #: When patience ends; None before it begins and after.
        self._patience_at: float | None = None
        self._patience_over = False

    # Candidates

    def base_added(self, base: Base) -> None:
        """Make a host candidate, unless this side said that it has no more."""
        if self._local_ended or self.completed:
            return
        candidate = self.locals.add_host(base)
        if candidate is not None:
            for remote in self._remotes:
                self.checklist.add(candidate, remote)

    def add_server_reflexive(self, base: TransportAddress, mapped: TransportAddress, server: TransportAddress) -> None:
        """Make a server-reflexive candidate; it is conveyed and never paired (RFC 8445 §6.1.2.4)."""
        if not self._local_ended and not self.completed:
            self.locals.add_server_reflexive(base, mapped, server)

    def base_removed(self, address: TransportAddress) -> None:
        """Drop everything that the base carried."""
        self.locals.remove(address)
        for pair in [pair for pair in self.checklist if pair.path.local == address]:
            self.checklist.remove(pair)
            self._forget_checks(pair)
            if pair is self._nominating:
                self._nominating = None
            if pair is self.selected:
                self.selected = None
        self.heard = {path: None for path in self.heard if path.local != address}

    def end_of_local_candidates(self) -> None:
        """No more local candidates will come."""
        if not self._local_ended:
            self._local_ended = True
            self._shared.emit(LocalCandidatesEnded(self.local.ufrag))

    def set_remote(self, remote: RemoteParameters, *, now: float) -> None:
        """Take the peer's parameters; checks begin, and early ones are acted on."""
        self.remote = remote
        self._started_at = now
        # RFC 8863 §4: patience starts when both sides' parameters are known, candidates or not.
        self._patience_at = now + self._shared.config.patience
        early, self._early = self._early, {}
        for check in early.values():
            self._take_check(check.path, check.priority, check.transaction_id, use_candidate=check.use_candidate)

    def add_remote(self, candidate: Candidate) -> None:
        """Take a signaled candidate and pair it."""
        if self._remote_ended or self.completed:
            self._shared.drops.count("candidate_late")  # RFC 8838 §14
            return
        known = self._remotes.get(candidate.address)
        if not self._remotes.add(candidate):
            return
        if known is not None:
            self.checklist.replace_remote(known, candidate)
        for host in self.locals:
            self.checklist.add(host, candidate)

    def end_of_remote(self) -> None:
        """The peer has no more candidates."""
        self._remote_ended = True

    # Checks of the peer

    def receive_request(self, message: AuthenticatedMessage, path: Path) -> None:
        """Act on an authenticated request of the peer that was answered with success."""
        self._note_heard(path)
        priority = message.get(Attribute.PRIORITY)
        use_candidate = message.get(Attribute.USE_CANDIDATE) is not None
        check = _EarlyCheck(
            path,
            priority if isinstance(priority, int) and 0 < priority < 1 << 31 else 1,
            use_candidate,
            message.transaction_id,
        )
        if self.remote is None:
            if path in self._early or len(self._early) < _EARLY_LIMIT:
                self._early[path] = check
            else:
                self._shared.drops.count("early_checks_full")
            return
        self._take_check(check.path, check.priority, check.transaction_id, use_candidate=use_candidate)

    def _note_heard(self, path: Path) -> None:
        self.heard[path] = None
        if len(self.heard) > 2 * self._shared.config.max_remote_candidates:
            del self.heard[next(iter(self.heard))]

    def _take_check(self, path: Path, priority: int, transaction_id: bytes, *, use_candidate: bool) -> None:
        """RFC 8445 §7.3.1.3-7.3.1.5: learn a candidate, trigger a check, note a nomination."""
        pair = self.checklist.get(path.local, path.remote)
        if pair is None:
            # Once nominated, only another nomination of the peer's brings a pair back (RFC 8445 §8.1.1).
            if self.completed and not (use_candidate and self._shared.role is Role.CONTROLLED):
                return
            host = self.locals.host(path.local)
            if host is None:
                return
            remote = self._remotes.get(path.remote) or self._remotes.learn(path.remote, priority)
            pair = self.checklist.add(host, remote) if remote is not None else None
            if pair is None:
                return
        pair.requests_received += 1
        if pair.is_dead:
            return  # RFC 7675 §5.1: only new credentials revive the path
        if use_candidate and self._shared.role is Role.CONTROLLED:
            pair.nominated_by_peer = True
            if pair.state is PairState.SUCCEEDED:
                self._select(pair)
                return
        if pair.state is PairState.SUCCEEDED or pair.trigger_id == transaction_id:
            return
        pair.trigger_id = transaction_id
        if pair.check is not None:
            pair.check.silence()
        pair.apply(PairInput.TRIGGER)
        self.checklist.trigger(pair)

    # Own checks

    @property
    def has_checks_to_send(self) -> bool:
        """Whether a check waits for its turn."""
        return self.remote is not None and self.checklist.has_work

    @property
    def pacing(self) -> float:
        """Ta: the larger of both sides' (RFC 8445 §14.2)."""
        if self.remote is None:
            return self._shared.config.pacing
        theirs = DEFAULT_PACING if self.remote.pacing is None else self.remote.pacing
        return max(self._shared.config.pacing, min(theirs, 1.0))

    def send_check(self, *, now: float) -> None:
        """Send the check whose turn it is."""
        pair = self.checklist.next_pair()
        if pair is None:
            return
        shared = self._shared
        nominate = shared.role is Role.CONTROLLING and pair.nominate_next
        transaction_id = shared.entropy.token_bytes(12)
        # RFC 8445 §7.1.1: the priority of the candidate that this check would teach the peer.
        priority = candidate_priority(CandidateType.PEER_REFLEXIVE, pair.local.priority >> 8 & 0xFFFF)
        data = self._encode(transaction_id, priority, use_candidate=nominate)
        active = self.checklist.count(PairState.WAITING, PairState.IN_PROGRESS)
        rto = max(shared.config.rto, self.pacing * active)  # RFC 8445 §14.3
        timer = Retransmission(rto=rto, transmissions=shared.config.check_transmissions, now=now)
        check = Check(pair, transaction_id, data, priority, shared.role, nominate, timer)
        if pair.check is not None:
            # One replaced check at most is waited for: a peer that triggers and never answers fills no table.
            if pair.replaced_check is not None:
                self._checks.pop(pair.replaced_check.transaction_id, None)
            pair.check.silence()
            pair.replaced_check = pair.check
        pair.check = check
        pair.apply(PairInput.CHECK_SENT)
        self._checks[transaction_id] = check
        self._transmit(pair, data)
        shared.trace(now, "check_sent", path=str(pair.path), nominate=nominate)

    def _encode(self, transaction_id: bytes, priority: int, *, use_candidate: bool) -> bytes:
        assert self.remote is not None  # nothing is checked before
        return encode_check(
            transaction_id,
            local=self.local,
            remote=self.remote.credentials,
            priority=priority,
            role=self._shared.role,
            tie_breaker=self._shared.tie_breaker,
            use_candidate=use_candidate,
        )

    def _transmit(self, pair: CandidatePair, data: bytes) -> None:
        pair.requests_sent += 1
        self._shared.transmit(pair.path, data)

    # Answers

    def expects(self, transaction_id: bytes) -> bool:
        """Whether a response belongs to this generation."""
        return transaction_id in self._checks or any(
            pair.consent is not None and pair.consent.expects(transaction_id) for pair in self.checklist
        )

    def receive_success(self, message: AuthenticatedMessage, path: Path, *, now: float) -> None:
        """Act on an authenticated success response."""
        check = self._checks.get(message.transaction_id)
        if check is None:
            self._renew_consent(message.transaction_id, path, now)
            return
        pair = check.pair
        pair.responses_received += 1
        if path != pair.path:
            # RFC 8445 §7.2.5.2.1.  Somebody may have replayed the answer from elsewhere: the true one still counts.
            check.silence()
            self._fail(pair, "asymmetric", now)
            return
        del self._checks[message.transaction_id]
        self._drop_check(check)
        mapped = message.get(Attribute.XOR_MAPPED_ADDRESS)
        # RFC 8489 §6.3.3: an attribute that must be understood and is not fails the transaction.
        if not isinstance(mapped, TransportAddress) or message.unknown_required:
            self._fail(pair, "malformed", now)
            return
        self._note_heard(path)
        if check.timer.transmissions == 1:
            pair.rtt = now - check.timer.sent_at
        self._succeed(pair, mapped, check, now)

    def _succeed(self, pair: CandidatePair, mapped: TransportAddress, check: Check, now: float) -> None:
        """RFC 8445 §7.2.5.3: the pair is valid."""
        shared = self._shared
        pair.valid_local = self.locals.mapped(pair.local, mapped, check.priority)
        pair.apply(PairInput.SUCCESS)
        if not pair.nominate_next:
            self.checklist.untrigger(pair)
        self.checklist.unfreeze(pair.foundation)
        config = shared.config
        if pair.consent is None:
            pair.consent = Consent(
                interval=config.consent_interval, lifetime=config.consent_expiry, entropy=shared.entropy, now=now
            )
        else:
            pair.consent.renew(now)
        shared.trace(now, "check_succeeded", path=str(pair.path), rtt=pair.rtt)
        if (check.use_candidate and shared.role is Role.CONTROLLING) or (
            pair.nominated_by_peer and shared.role is Role.CONTROLLED
        ):
            self._select(pair)

    def receive_error(self, message: AuthenticatedMessage, path: Path, *, now: float) -> Role | None:
        """Act on an authenticated error response; gives the role that this side must take after a conflict."""
        error = message.get(Attribute.ERROR_CODE)
        code = error.code if isinstance(error, ErrorCode) else 0
        check = self._checks.pop(message.transaction_id, None)
        if check is None:
            return self._consent_error(message.transaction_id, code, path, now)
        pair = check.pair
        self._drop_check(check)
        pair.responses_received += 1
        if path != pair.path:
            self._fail(pair, "asymmetric", now)
            return None
        pair.role_conflicts += code == 487
        if code != 487 or pair.role_conflicts > _MAX_ROLE_CONFLICTS:
            self._fail(pair, f"error_{code}", now)
            return None
        # RFC 8445 §7.2.5.1: the role opposite to the one that the request claimed.
        pair.apply(PairInput.TRIGGER)
        self.checklist.trigger(pair)
        return check.role.opposite

    # Nomination

    def _select(self, pair: CandidatePair) -> None:
        """The pair is nominated (RFC 8445 §8.1.2): all others are done with."""
        if self.selected is not None and self.selected.priority >= pair.priority:
            return  # RFC 8445 §8.1.1: of several nominations the highest priority wins, as long as its path lives
        self.completed = True
        self.selected = pair
        self._nominating = None
        pair.nominated = True
        pair.nominate_next = False
        for dropped in self.checklist.keep(lambda other: other is pair):
            self._forget_checks(dropped)
        local = pair.valid_local or pair.local
        self._shared.emit(PairNominated(pair.path, local, pair.remote, self.number))

    def _choose(self, now: float) -> None:
        if self._shared.role is not Role.CONTROLLING or self.completed or self._nominating is not None:
            return
        ended = self._local_ended and self._remote_ended
        pair = self._nomination.choose(self.checklist, ended=ended, now=now)
        if pair is not None:
            self._nominating = pair
            pair.nominate_next = True
            self.checklist.trigger(pair, first=True)

    # Time

    def work(self, *, now: float) -> None:
        """Act on deadlines: retransmit, give up, keep consent, nominate."""
        if self._patience_at is not None and self._patience_at <= now:
            self._patience_at, self._patience_over = None, True
        for check in [check for check in self._checks.values() if check.deadline <= now]:
            self._check_due(check, now)
        for pair in list(self.checklist):
            if pair.consent is not None:
                self._keep_consent(pair, now)
        self._choose(now)

    def next_timeout(self) -> float | None:
        """The earliest deadline of `work`, and of failure."""
        times = [check.deadline for check in self._checks.values()]
        for pair in self.checklist:
            if pair.consent is not None:
                times.append(pair.consent.expires_at)
                if self._wants_consent(pair):
                    times.append(pair.consent.due_at)
        if self._nomination.deadline is not None and not self.completed and self._nominating is None:
            times.append(self._nomination.deadline)
        if self._patience_at is not None:
            times.append(self._patience_at)
        return min(times, default=None)

    def _check_due(self, check: Check, now: float) -> None:
        if not check.silenced and check.timer.expire(now):
            self._transmit(check.pair, check.data)
            return
        del self._checks[check.transaction_id]
        was_current = check.pair.check is check
        self._drop_check(check)
        if not was_current or check.silenced:
            return
        if check.use_candidate and check.pair.consent is not None and not self.completed:
            # The path answers other checks, so nominating it was unlucky, not wrong.
            self.checklist.trigger(check.pair, first=True)
        else:
            self._fail(check.pair, "timeout", now)

    def _drop_check(self, check: Check) -> None:
        if check.pair.check is check:
            check.pair.check = None
        if check.pair.replaced_check is check:
            check.pair.replaced_check = None

    def _forget_checks(self, pair: CandidatePair) -> None:
        for transaction_id in [tid for tid, check in self._checks.items() if check.pair is pair]:
            del self._checks[transaction_id]
        pair.check = pair.replaced_check = None

    def _fail(self, pair: CandidatePair, result: str, now: float) -> None:
        """RFC 8445 §7.2.5.2: the pair is no way."""
        if pair is self._nominating:
            self._nominating = None
            pair.nominate_next = False
        pair.apply(PairInput.FAIL)
        pair.result = result
        pair.valid_local = None
        pair.consent = None
        if pair is self.selected:
            self.selected = None
        self._shared.trace(now, "pair_failed", path=str(pair.path), result=result)

    # Consent

    def _wants_consent(self, pair: CandidatePair) -> bool:
        # A nomination that is under way renews consent by itself.
        return pair.is_valid and (self.selected is None or pair is self.selected)

    def _keep_consent(self, pair: CandidatePair, now: float) -> None:
        consent = pair.consent
        assert consent is not None
        if consent.expires_at <= now:
            self._lose_consent(pair, "consent_expired", now)
        elif consent.due_at <= now and self._wants_consent(pair):
            transaction_id = self._shared.entropy.token_bytes(12)
            priority = candidate_priority(CandidateType.PEER_REFLEXIVE, pair.local.priority >> 8 & 0xFFFF)
            consent.sent(transaction_id, self._shared.role, now)
            # While a nomination is under way, each request that goes anyhow repeats it.
            self._transmit(pair, self._encode(transaction_id, priority, use_candidate=pair.nominate_next))

    def _renew_consent(self, transaction_id: bytes, path: Path, now: float) -> None:
        for pair in self.checklist:
            if pair.consent is not None and pair.path == path and pair.consent.take(transaction_id) is not None:
                pair.consent.renew(now)
                pair.responses_received += 1
                return
        self._shared.drops.count("unexpected_response")

    def _consent_error(self, transaction_id: bytes, code: int, path: Path, now: float) -> Role | None:
        for pair in self.checklist:
            sent = pair.consent.take(transaction_id) if pair.consent is not None and pair.path == path else None
            if sent is not None:
                if code == 403:
                    self._lose_consent(pair, "consent_revoked", now)  # RFC 7675 §5.2
                return sent[1].opposite if code == 487 else None
        self._shared.drops.count("unexpected_response")
        return None

    def _lose_consent(self, pair: CandidatePair, result: str, now: float) -> None:
        self._forget_checks(pair)
        self.checklist.untrigger(pair)
        self._fail(pair, result, now)
        self._shared.emit(ConsentExpired(pair.path, self.number, result == "consent_revoked"))

    # What the session asks

    @property
    def best_pair(self) -> CandidatePair | None:
        """The pair that data goes by: the selected one, before that the best valid one (RFC 8445 §12.1)."""
        return self.selected if self.completed else self.checklist.best_valid()

    @property
    def has_failed(self) -> bool:
        """Whether no path can come any more (RFC 8445 §6.1.2.1, RFC 8838 §8, RFC 8863 §4)."""
        if not self._patience_over or self.completed or self.best_pair is not None:
            return False
        return not any(pair.is_open for pair in self.checklist)

    def set_role(self, role: Role) -> None:
        """The session's role changed."""
        self.checklist.set_role(role)
        if role is Role.CONTROLLED and self._nominating is not None:
            self._nominating.nominate_next = False
            self._nominating = None

    def verdict(self, *, now: float) -> FailureVerdict:
        """Why there is no path."""
        return explain_failure(
            self.locals.counts(),
            self._remotes.counts(),
            self.checklist,
            now - self._started_at,
        )
