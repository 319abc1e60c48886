"""One generation: a checklist with its own credentials on both sides (RFC 8445 §9: what a restart makes anew)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice.candidate import Candidate
from edgeice.ice.checklist import Checklist
from edgeice.ice.checks import Check, CheckTable
from edgeice.ice.config import RemoteParameters, Role
from edgeice.ice.consent import Consents
from edgeice.ice.credentials import IceCredentials
from edgeice.ice.events import ConsentExpired, FailureVerdict, PairNominated
from edgeice.ice.incoming import EarlyChecks, HeardPaths, PeerCheck
from edgeice.ice.moves import Moves
from edgeice.ice.pair import CandidatePair, PairInput, PairState
from edgeice.ice.pairing import Pairing
from edgeice.ice.peer_checks import PeerChecks
from edgeice.ice.priority import LocalPreferences
from edgeice.ice.selection import Selection
from edgeice.ice.shared import Shared
from edgeice.ice.verdict import explain_failure
from edgeice.stun import AuthenticatedMessage

__all__ = ["Generation"]

#: A pair whose role conflicts go on after this many is no conflict but a loop.
_MAX_ROLE_CONFLICTS: Final = 4


class Generation:
    """Candidates, pairs, checks and consent under one pair of credentials.

    It acts on its own deadlines in `work`; what may be sent when is the session's to pace.

    Attributes:
        locals: This side's candidates.
        remotes: The peer's.
        heard: Paths on which an authenticated message of the peer arrived.
        is_rescue: It was opened by a restart, and the generation before has no path.
    """

    def __init__(self, shared: Shared, number: int, local: IceCredentials, preferences: LocalPreferences) -> None:
        self.number = number
        self.local = local
        self.remote: RemoteParameters | None = None
        self.is_rescue = False
        self.heard = HeardPaths(2 * shared.config.max_remote_candidates)
        self.checklist = Checklist(role=shared.role, limit=shared.config.max_pairs, drops=shared.drops)
        self._shared = shared
        self._pairing = Pairing(shared, self.checklist, local.ufrag, preferences)
        self.locals, self.remotes = self._pairing.locals, self._pairing.remotes
        self._early = EarlyChecks(shared.drops)
        self._checks = CheckTable(shared, local)
        self._consents = Consents(shared, self.checklist)
        self._selection = Selection(shared, self.checklist, self._checks)
        self._moves = Moves(shared, self.checklist, self._selection, self._pairing, self._send_check)
        self._peer_checks = PeerChecks(
            shared, self.checklist, self._pairing, self._selection, self._moves, self._select
        )
        self._started_at = 0.0
        #: When patience ends; None before it begins and after.
        self._patience_at: float | None = None
        self._retired = False

    # Candidates

    def base_added(self, base: Base, *, now: float) -> None:
        """Make a host or relayed candidate, unless this side said that it has no more."""
        self._pairing.update_base(base)
        if not self._selection.is_settled:
            self._pairing.add_base(base, now=now)

    def pair_told(self, *, now: float) -> None:
        """Pair the local candidates that came since the last round: the owner has told them now (RFC 8838 §10)."""
        if self._pairing.due_at is not None:
            self._pairing.pair_told(above=self._selection.worth)
            self._selection.tidy(now)

    def add_server_reflexive(self, base: TransportAddress, mapped: TransportAddress, server: TransportAddress) -> None:
        """Make a server-reflexive candidate; it is conveyed and never paired (RFC 8445 §6.1.2.4)."""
        if self._pairing.takes_local and not self._selection.is_settled:
            self.locals.add_server_reflexive(base, mapped, server)

    def base_removed(self, address: TransportAddress, *, now: float) -> None:
        """Drop everything that the base carried; with mobility, data goes on by what is left."""
        self._pairing.remove_base(address)
        self.heard.forget_base(address)
        self._remove([pair for pair in self.checklist if pair.path.local == address], "base_gone", now)

    def _remove(self, pairs: Sequence[CandidatePair], cause: str, now: float) -> None:
        lost = self.selected in pairs
        for pair in pairs:
            self.checklist.remove(pair)
            self._checks.forget(pair)
            self._selection.lose(pair)
        if lost:
            self._moves.carry_on(cause, now=now)

    def end_of_local_candidates(self) -> None:
        """No more local candidates will come."""
        self._pairing.end_local()

    def set_remote(self, remote: RemoteParameters, *, now: float) -> None:
        """Take the peer's parameters; checks begin, and early ones are acted on."""
        both = remote.renomination and self._shared.config.renomination
        mobile = both and remote.mobility and self._shared.config.mobility
        self.remote = attrs.evolve(remote, renomination=both, mobility=mobile)
        self._selection.renominates = self.checklist.by_cost = both
        self._selection.mobile = self._pairing.mobile = mobile
        self._started_at = now
        # RFC 8863 §4: patience starts when both sides' parameters are known, candidates or not.
        self._patience_at = now + self._shared.config.patience
        for check in self._early.take():
            if self.is_of_peer(check):
                self._peer_checks.take(check, now=now)
            else:
                self._shared.drops.count("check_ufrag")

    def add_remotes(self, candidates: Sequence[Candidate], *, now: float) -> None:
        """Take signaled candidates and pair them."""
        if self._selection.is_settled:
            self._shared.drops.count("candidate_late", len(candidates))  # RFC 8838 §14
        else:
            self._pairing.add_remotes(candidates, above=self._selection.worth, now=now)
            self._selection.tidy(now)

    def remove_remotes(self, candidates: Sequence[Candidate], *, now: float) -> None:
        """The peer has these candidates no more; without mobility that is nothing to go by, and is counted."""
        if not self.is_mobile:
            self._shared.drops.count("candidate_withdrawal", len(candidates))
            return
        gone = set(self._pairing.remove_remotes(candidates))
        self._remove([pair for pair in self.checklist if pair.remote in gone], "peer_moved", now)

    def end_of_remote(self) -> None:
        """The peer has no more candidates."""
        self._pairing.remote_ended = True

    @property
    def _has_all_candidates(self) -> bool:
        """Whether gathering is done here and the peer has no more, as it said or as its description means."""
        remote_ended = self._pairing.remote_ended or (self.remote is not None and not self.remote.trickle)
        return self._pairing.local_ended and remote_ended

    # Checks of the peer

    def is_of_peer(self, check: PeerCheck) -> bool:
        """Whether a check names the peer's ufrag, as far as it is known; nothing follows from one that does not."""
        return self.remote is None or check.remote_ufrag == self.remote.credentials.ufrag

    def receive_check(self, check: PeerCheck, *, now: float) -> None:
        """Act on an authenticated request of the peer that was answered with success."""
        self.heard.note(check.path)
        if self._retired:
            return
        if self.remote is None:
            self._early.add(check)
        else:
            self._peer_checks.take(check, now=now)

    # Own checks

    @property
    def has_checks_to_send(self) -> bool:
        """Whether a check waits for its turn."""
        return self.remote is not None and self.checklist.has_work

    @property
    def pacing(self) -> float:
        """Ta: the larger of both sides' (RFC 8445 §14.2)."""
        own = self._shared.config.pacing
        return own if self.remote is None else self.remote.ta(own)

    def send_check(self, *, now: float) -> None:
        """Send the check whose turn it is."""
        pair = self.checklist.next_pair()
        if pair is not None:
            self._send_check(pair, now=now)

    def _send_check(self, pair: CandidatePair, *, now: float) -> None:
        shared = self._shared
        if self.remote is None:
            return
        if (refused := shared.destinations.refuses(pair.path.remote)) is not None:
            self._fail(pair, refused, now)  # it is known since as what serves this host
            return
        nominate = shared.role is Role.CONTROLLING and pair.nominate_next
        self._selection.nomination.sent |= nominate
        rto = max(shared.config.rto, self.pacing * self.checklist.active)  # RFC 8445 §14.3
        self._checks.send(pair, self.remote, use_candidate=nominate, rto=rto, now=now)
        pair.apply(PairInput.CHECK_SENT)
        shared.trace(now, "check_sent", path=pair.path, nominate=nominate)

    # Answers

    def expects(self, transaction_id: bytes) -> bool:
        """Whether a response belongs to this generation."""
        return transaction_id in self._checks or self._consents.expects(transaction_id)

    def receive_response(self, message: AuthenticatedMessage, path: Path, *, now: float) -> Role | None:
        """Act on an authenticated response; gives the role that this side must take after a conflict."""
        if message.transaction_id not in self._checks:
            return self._consent_answered(message, path, now)
        answer = self._checks.answer(message, path, now=now)
        # A pair that made room for another is not brought back.
        if answer is None or self.checklist.get(*answer.check.pair.key) is not answer.check.pair:
            return None
        pair = answer.check.pair
        if answer.failure:
            self._fail(pair, answer.failure, now)
        elif answer.mapped is not None:
            self.heard.note(path)
            self._succeed(pair, answer.mapped, answer.check, now)
        else:
            return self._conflict(pair, answer.check, now)
        return None

    def _conflict(self, pair: CandidatePair, check: Check, now: float) -> Role | None:
        """RFC 8445 §7.2.5.1: take the role opposite to the one that the request claimed, and check again."""
        pair.role_conflicts += 1
        if pair.role_conflicts > _MAX_ROLE_CONFLICTS:
            self._fail(pair, "error_487", now)
            return None
        pair.apply(PairInput.TRIGGER)
        self.checklist.trigger(pair)
        return check.role.opposite

    def _succeed(self, pair: CandidatePair, mapped: TransportAddress, check: Check, now: float) -> None:
        """RFC 8445 §7.2.5.3: the pair is valid."""
        shared = self._shared
        self.checklist.set_valid(pair, self.locals.mapped(pair.local, mapped, check.priority))
        pair.apply(PairInput.SUCCESS)
        if not pair.nominate_next:
            self.checklist.untrigger(pair)
        self.checklist.unfreeze(pair.foundation)
        selection = self._selection
        self._consents.grant(pair, now, sparing=selection.spares(pair))
        shared.trace(now, "check_succeeded", path=pair.path, rtt=pair.rtt)
        # With mobility a nomination may have been replaced by a newer one since.
        nominated = check.use_candidate and (pair is selection.nomination.pair or not selection.mobile)
        if (nominated and shared.role is Role.CONTROLLING) or (
            pair.nominated_by_peer and shared.role is Role.CONTROLLED
        ):
            self._select(pair, now=now)
        elif selection.must_follow(pair):
            self._moves.move(pair, "peer_moved", now=now)
        elif selection.completed and selection.pair is None:
            self._moves.carry_on(selection.cause, now=now)
        selection.tidy(now)

    def socket_error(self, path: Path, *, now: float) -> bool:
        """The network refused to carry a datagram on `path`; False if no pair is checked there.

        It is a hint: the check is repeated all the same.  Refused twice, the pair is held for failed, so that nothing
        waits for it; an answer still makes it valid.
        """
        pair = self.checklist.get(path.local, path.remote)
        if pair is None or pair.check is None or pair.check.silenced:
            return False
        if pair.check.note_refusal() and pair.state is PairState.IN_PROGRESS:
            self._fail(pair, "refused", now)
        return True

    # Nomination

    def _select(self, pair: CandidatePair, *, now: float) -> None:
        if self._selection.select(pair, now):
            self._pairing.forget_learned()
            local = pair.valid_local or pair.local
            self._shared.emit(PairNominated(pair.path, local, pair.remote, self.number))

    # Moves

    @property
    def is_mobile(self) -> bool:
        """Whether both sides know mobility."""
        return self._selection.mobile

    @property
    def cause(self) -> str:
        """Why data goes where it goes, as `Selection.cause`."""
        return self._selection.cause

    @property
    def backups(self) -> list[CandidatePair]:
        """The valid pairs beside the selected one, as `Selection.backups`."""
        return self._selection.backups

    def leave(self, pair: CandidatePair, *, cause: str, now: float) -> bool:
        """Take data off the selected pair, which does not work although it is still valid.

        It goes by the best other valid pair at once, and a check there tells the peer.  False, and nothing changes,
        where there is no other, or `pair` is not the selected one, or the peer does not know mobility.
        """
        return self._moves.leave(pair, cause=cause, now=now)

    # Time

    def work(self, *, now: float) -> None:
        """Act on deadlines: retransmit, give up, keep consent, nominate."""
        if self._patience_at is not None and self._patience_at <= now:
            self._patience_at, self._selection.patience_over = None, True
        for check in self._checks.handle_timeout(now=now):
            pair = check.pair
            if check.use_candidate and pair.consent is not None and not self.completed:
                # The path answers other checks, so nominating it was unlucky, not wrong.
                self.checklist.trigger(pair, first=True)
            elif self.is_mobile and pair.consent is not None:
                self._selection.nomination.give_up(pair)  # consent decides on a valid pair
            elif pair.state is not PairState.FAILED:
                self._fail(pair, "refused" if check.refused else "timeout", now)
        for pair, consent in self._consents:
            if consent.expires_at <= now:
                self._lose_consent(pair, "consent_expired", now)
            elif consent.due_at is not None and consent.due_at <= now and self._wants_consent(pair):
                consent.due_at = None  # it waits for its turn
        self._selection.settle(now)
        self._moves.work(now=now)
        self._selection.choose(ended=self._has_all_candidates, hurried=self.is_rescue, now=now)

    def next_timeout(self) -> float | None:
        """The earliest deadline of `work`, and of failure."""
        return min((at for _, at in self.deadlines() if at is not None), default=None)

    def deadlines(self) -> Iterator[tuple[str, float | None]]:
        """All of them, by what comes then; None while that does not."""
        yield "retransmission", self._checks.next_timeout()
        yield "patience", self._patience_at
        yield "conveyance", self._pairing.due_at
        yield "retry", self._moves.due_at
        if self.selected is not None:
            yield "settling", self._selection.settle_at
        for pair, consent in self._consents:
            yield "consent_expiry", consent.expires_at
            if self._wants_consent(pair):
                yield "consent", consent.due_at
        nomination = self._selection.nomination
        if nomination.pair is None:
            yield "nomination", nomination.deadline

    def _fail(self, pair: CandidatePair, result: str, now: float) -> None:
        """RFC 8445 §7.2.5.2: the pair is no way."""
        lost = pair is self.selected
        self._selection.lose(pair)
        self.checklist.untrigger(pair)
        pair.apply(PairInput.FAIL)
        pair.result = result
        self.checklist.set_valid(pair, None)
        pair.consent = None
        pair.good_since = None
        self._shared.trace(now, "pair_failed", path=pair.path, result=result)
        if lost:
            self._moves.carry_on("consent", now=now)

    # Consent

    def _wants_consent(self, pair: CandidatePair) -> bool:
        # A nomination that is under way renews consent by itself.
        return pair.is_valid and self._selection.keeps_consent(pair)

    @property
    def has_consent_to_ask(self) -> bool:
        """Whether a consent check waits for its turn."""
        return self._consents.next(self._wants_consent) is not None

    def ask_consent(self, *, now: float) -> None:
        """Send the consent check that is needed soonest."""
        waiting = self._consents.next(self._wants_consent)
        if waiting is not None and self.remote is not None:
            pair, consent = waiting
            # While a nomination is under way, each request that goes anyhow repeats it.  Some lite peers go by nothing
            # else and drop what does not have it; the pair is the one that was nominated (RFC 8445 §8.1.1).
            repeats = self.remote.lite and pair is self.selected and self._shared.role is Role.CONTROLLING
            nominates = pair.nominate_next or repeats
            sent = self._checks.send_once(pair, self.remote, use_candidate=nominates)
            asked_at = self._shared.liveness.ask(consent.pulse, now=now)
            consent.sent(sent, self._shared.role, now, nominates=nominates, asked_at=asked_at)

    def ask_soon(self, pair: CandidatePair) -> None:
        """Send a consent check on a pair before its time, to see whether it lives; pacing says when."""
        if pair.consent is not None:
            pair.consent.due_at = None

    def _consent_answered(self, message: AuthenticatedMessage, path: Path, now: float) -> Role | None:
        answer = self._consents.answer(message, path, spares=self._selection.spares, now=now)
        if answer is None:
            return None
        if answer.revoked:
            self._lose_consent(answer.pair, "consent_revoked", now)
        elif answer.nominated and answer.pair is self._selection.nomination.pair:
            # The nominating check may be unlucky for long; this says what its answer would.
            self._checks.forget(answer.pair)
            self._select(answer.pair, now=now)
        return answer.role

    def _lose_consent(self, pair: CandidatePair, result: str, now: float) -> None:
        self._checks.forget(pair)
        self._fail(pair, result, now)
        self._shared.emit(ConsentExpired(pair.path, self.number, result == "consent_revoked"))

    def retire(self) -> None:
        """Another generation took over: from now on this one only receives, and its checks are answered."""
        self._retired = True
        self._selection.retire()
        self._pairing.forget_untold()
        self._patience_at = None

    # What the session asks

    @property
    def selected(self) -> CandidatePair | None:
        """The nominated pair, as `Selection.pair`."""
        return self._selection.pair

    @property
    def completed(self) -> bool:
        """Whether a pair was nominated once, as `Selection.completed`."""
        return self._selection.completed

    @property
    def best_pair(self) -> CandidatePair | None:
        """The pair that data goes by, as `Selection.best_pair`."""
        return self._selection.best_pair

    @property
    def alternative(self) -> CandidatePair | None:
        """What there is beside a selected pair that was lost, as `Selection.alternative`."""
        return self._selection.alternative

    @property
    def has_failed(self) -> bool:
        """Whether no path can come any more (RFC 8445 §6.1.2.1, RFC 8838 §8, RFC 8863 §4)."""
        if not self._selection.patience_over or self.completed or self.best_pair is not None:
            return False
        exhausted = self._has_all_candidates and not any(pair.is_open for pair in self.checklist)
        return exhausted or self._selection.nomination_failed

    def set_role(self, role: Role) -> None:
        """The session's role changed."""
        self.checklist.set_role(role)
        self._selection.set_role(role)

    def verdict(self, *, now: float) -> FailureVerdict:
        """Why there is no path, and what was tried; of a pair that was formed twice the last of it."""
        pairs = {pair.key: pair for pair in (*self.checklist.dropped, *self.checklist)}
        return explain_failure(
            self.locals.counts(),
            self.remotes.counts(),
            pairs.values(),
            0.0 if self.remote is None else now - self._started_at,
            nomination=self._selection.nomination_failed,
        )
