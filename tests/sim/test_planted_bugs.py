"""Bugs planted in the ICE code: the invariants catch each within so many scenarios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs
import pytest

from edgeice.addresses import Path
from edgeice.ice import (
    Candidate,
    CandidateType,
    IceCredentials,
    Role,
    checklist,
    checks,
    credentials,
    priority,
    session,
)
from edgeice.ice.checklist import Checklist
from edgeice.ice.checks import Answer, CheckTable
from edgeice.ice.consent import Consent
from edgeice.ice.generation import Generation
from edgeice.ice.incoming import PeerCheck
from edgeice.ice.nomination import Nomination
from edgeice.ice.pacer import Turn
from edgeice.ice.pair import CandidatePair, PairInput, PairState
from edgeice.ice.pairing import Pairing
from edgeice.ice.peer_checks import PeerChecks
from edgeice.ice.responder import Responder
from edgeice.ice.session import IceSession
from edgeice.ice.slots import Slots
from edgeice.peer.relays import Relays
from edgeice.sansio import Entropy
from edgeice.stun import AuthenticatedMessage
from tests.sim.scenario import draw_scenario
from tests.sim.world import run_scenario

Patch = pytest.MonkeyPatch


def candidate_priorities_are_wrong(patch: Patch) -> None:
    """A server-reflexive address is preferred to one of the host (RFC 8445 §5.1.2.2)."""
    wrong = {CandidateType.HOST: 100, CandidateType.SERVER_REFLEXIVE: 126}
    patch.setattr(priority, "_TYPE_PREFERENCES", priority._TYPE_PREFERENCES | wrong)


def pairs_are_ordered_the_other_way_round(patch: Patch) -> None:
    """The worst pair is the first (RFC 8445 §6.1.2.3)."""
    right = priority.pair_priority
    patch.setattr(
        checklist, "pair_priority", lambda controlling, controlled: (1 << 63) - right(controlling, controlled)
    )


def no_check_triggers_another(patch: Patch) -> None:
    """Checks of the peer are answered and that is all (RFC 8445 §7.3.1.4)."""
    right = PeerChecks.take

    def take(self: PeerChecks, check: PeerCheck, *, now: float) -> None:
        if check.use_candidate:
            right(self, check, now=now)

    patch.setattr(PeerChecks, "take", take)


def nomination_comes_too_early(patch: Patch) -> None:
    """The first pair that works is nominated (RFC 8445 §8.1.1 asks for one; a better one is not waited for)."""

    def choose(self: Nomination, pairs: Checklist, *, ended: bool, now: float) -> CandidatePair | None:
        return pairs.best_valid()

    patch.setattr(Nomination, "_choose", choose)


def consent_never_ends(patch: Patch) -> None:
    """Data goes on to a peer that is not there any more (RFC 7675 §5.1)."""

    def renew(self: Consent, now: float, *, sparing: bool = False) -> None:
        self.expires_at = now + 1e6

    patch.setattr(Consent, "renew", renew)
    right = Consent.__init__

    def make(self: Consent, *, interval: float, lifetime: float, entropy: Entropy, now: float) -> None:
        right(self, interval=interval, lifetime=1e6, entropy=entropy, now=now)

    patch.setattr(Consent, "__init__", make)


def role_conflicts_are_overlooked(patch: Patch) -> None:
    """Both ends keep the role that they began with (RFC 8445 §7.3.1.1)."""

    def settle(self: Responder, request: AuthenticatedMessage) -> Role:
        return self._shared.role

    patch.setattr(Responder, "_settle_roles", settle)


def answers_are_taken_from_anywhere(patch: Patch) -> None:
    """A pair is valid although its answers come from another address (RFC 8445 §7.2.5.2.1)."""
    right = CheckTable.answer

    def answer(self: CheckTable, response: AuthenticatedMessage, path: Path, *, now: float) -> Answer | None:
        check = self.get(response.transaction_id)
        return right(self, response, path if check is None else check.pair.path, now=now)

    patch.setattr(CheckTable, "answer", answer)


def checks_claim_the_priority_of_a_host(patch: Patch) -> None:
    """The PRIORITY of a check is not that of a peer-reflexive candidate (RFC 8445 §7.1.1)."""
    right = priority.candidate_priority
    patch.setattr(checks, "candidate_priority", lambda _kind, preference: right(CandidateType.HOST, preference))


def a_restart_keeps_the_credentials(patch: Patch) -> None:
    """The new generation has the old one's ufrag and password (RFC 8445 §9)."""
    right, made = credentials.generate_credentials, dict[int, IceCredentials]()
    kept: list[Entropy] = []

    def generate(entropy: Entropy) -> IceCredentials:
        kept.append(entropy)  # so that no other one gets its id
        return made.setdefault(id(entropy), right(entropy))

    patch.setattr(session, "generate_credentials", generate)


def patience_is_ignored(patch: Patch) -> None:
    """A session fails as soon as nothing is left to check (RFC 8863 §4)."""
    right = Generation.work

    def work(self: Generation, *, now: float) -> None:
        self._selection.patience_over = self.remote is not None
        right(self, now=now)

    patch.setattr(Generation, "work", work)


def nothing_freezes(patch: Patch) -> None:
    """All pairs of a foundation are checked at once (RFC 8445 §6.1.2.6)."""
    right = Checklist._insert

    def insert(self: Checklist, local: Candidate, remote: Candidate, value: int) -> CandidatePair:
        pair = right(self, local, remote, value)
        if pair.state is PairState.FROZEN:
            pair.apply(PairInput.UNFREEZE)
        return pair

    patch.setattr(Checklist, "_insert", insert)


def checks_are_not_paced(patch: Patch) -> None:
    """A session sends all its checks at once (RFC 8445 §14.2)."""
    patch.setattr(Turn, "take", lambda _self, _now: True)


def candidates_of_another_generation_count(patch: Patch) -> None:
    """What was said in an earlier session is believed (RFC 8838 §9)."""
    patch.setattr(Slots, "by_remote", lambda self, _ufrag: self.newest if self.newest.remote is not None else None)


def a_later_base_is_paired_with_whom_another_one_heard(patch: Patch) -> None:
    """A peer-reflexive candidate is checked from bases that it never sent to (RFC 8445 §7.3.1.3)."""

    def pair(self: Pairing, *, above: int) -> None:
        if self._untold:
            self._checklist.form(self._untold, self.remotes, above=above)
            self.forget_untold()

    patch.setattr(Pairing, "pair_told", pair)


def a_restart_tells_an_end_before_servers_answered(patch: Patch) -> None:
    """A host that moves says that it has no more candidates before it knows how servers see it (RFC 8838 §13)."""
    right = IceSession.base_added

    def add(self: IceSession, base: object, *, now: float) -> None:
        gathered = self._gathered
        right(self, base, now=now)  # type: ignore[arg-type]  # as it came
        self._gathered = gathered

    patch.setattr(IceSession, "base_added", add)


def only_the_answer_to_the_latest_checks_counts(patch: Patch) -> None:
    """Two ends whose checks cross trigger each other for ever (RFC 8445 §7.3.1.4: late answers count)."""
    patch.setattr(checks, "_MAX_REPLACED", 1)


def relays_are_never_given_back(patch: Patch) -> None:
    """Allocations outlive the last session (RFC 8656 §8)."""
    patch.setattr(Relays, "release", lambda _self, **_now: None)


@attrs.frozen
class Planted:
    """A bug, the rules that must catch it, and within how many scenarios from which seed on."""

    plant: Callable[[Patch], None]
    rules: Sequence[str]
    seeds: int
    first: int = 0


BUGS: Final = (
    Planted(candidate_priorities_are_wrong, ["candidate_priority"], 5),
    Planted(pairs_are_ordered_the_other_way_round, ["best", "direct"], 100),
    Planted(no_check_triggers_another, ["triggered_check", "connect"], 20),
    Planted(nomination_comes_too_early, ["best", "direct"], 60, 100),
    Planted(consent_never_ends, ["consent"], 100),
    Planted(role_conflicts_are_overlooked, ["roles", "connect"], 50),
    Planted(answers_are_taken_from_anywhere, ["consent", "agree", "arrive"], 50),
    Planted(checks_claim_the_priority_of_a_host, ["request_priority"], 5),
    Planted(a_restart_keeps_the_credentials, ["restart_credentials"], 50),
    Planted(patience_is_ignored, ["patience"], 20),
    Planted(nothing_freezes, ["freezing"], 100),
    Planted(checks_are_not_paced, ["ta", "host_spacing"], 5),
    Planted(relays_are_never_given_back, ["released"], 50),
    Planted(candidates_of_another_generation_count, ["stranger"], 50),
    Planted(a_later_base_is_paired_with_whom_another_one_heard, ["stranger"], 100),
    Planted(a_restart_tells_an_end_before_servers_answered, ["connect"], 40, 1400),
    Planted(only_the_answer_to_the_latest_checks_counts, ["connect", "stalled"], 40, 160),
)


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.plant.__name__)
def test_a_planted_bug_is_caught(bug: Planted, monkeypatch: Patch) -> None:
    bug.plant(monkeypatch)
    for seed in range(bug.first, bug.first + bug.seeds):
        found = {violation.rule for violation in run_scenario(draw_scenario(seed)).violations}
        if found & set(bug.rules):
            return
    pytest.fail(f"{bug.seeds} scenarios did not show it")
