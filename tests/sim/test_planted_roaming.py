"""Bugs planted in what lets sessions roam: the invariants catch each within so many scenarios."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import pytest

from edgeice.addresses import TransportAddress
from edgeice.ice import IceCredentials
from edgeice.ice.generation import Generation
from edgeice.ice.nomination import Nomination
from edgeice.ice.pair import CandidatePair
from edgeice.ice.pairing import Pairing
from edgeice.ice.peer_checks import PeerChecks
from edgeice.ice.selection import Selection
from edgeice.ice.session import IceSession
from edgeice.peer.routes import Routes
from edgeice.transport.restarts import RestartPolicy
from tests.sim.faults import draw_roaming
from tests.sim.roaming import run_roaming

Patch = pytest.MonkeyPatch


def a_nomination_has_the_number_of_the_one_before(patch: Patch) -> None:
    """Numbers do not grow."""
    right = Nomination.begin

    def begin(self: Nomination, pair: CandidatePair) -> bool:
        begun = right(self, pair)
        pair.nomination = 1
        return begun

    patch.setattr(Nomination, "begin", begin)


def backups_are_forgotten(patch: Patch) -> None:
    """Consent is asked for on the selected pair alone, and the others end (RFC 7675 §5.1)."""
    patch.setattr(Selection, "keeps_consent", lambda self, pair: self.pair is None or pair is self.pair)


def a_restart_drops_the_path_that_works(patch: Patch) -> None:
    """The old pair is given up before there is a new one (RFC 8445 §9)."""
    right = IceSession.restart

    def restart(self: IceSession, *, now: float) -> IceCredentials:
        self._slots.current._selection.pair = None
        return right(self, now=now)

    patch.setattr(IceSession, "restart", restart)


def nothing_is_withdrawn(patch: Patch) -> None:
    """The peer is not told of an address that is gone."""
    right = Pairing.remove_base

    def remove(self: Pairing, address: TransportAddress) -> None:
        mobile, self.mobile = self.mobile, False
        right(self, address)
        self.mobile = mobile

    patch.setattr(Pairing, "remove_base", remove)


def data_goes_on_from_an_address_that_is_gone(patch: Patch) -> None:
    """An interface that is lost is found out by consent's end alone."""
    right = Generation.base_removed

    def removed(self: Generation, address: TransportAddress, *, now: float) -> None:
        if self.selected is None or self.selected.path.local != address:
            right(self, address, now=now)

    patch.setattr(Generation, "base_removed", removed)


def a_new_address_is_not_checked(patch: Patch) -> None:
    """What comes after the end of candidates is told and never paired."""
    right = Pairing.pair_told

    def pair(self: Pairing, *, above: int) -> None:
        if self.local_ended:
            self.forget_untold()
        right(self, above=above)

    patch.setattr(Pairing, "pair_told", pair)


def the_peer_is_followed_before_an_own_check(patch: Patch) -> None:
    """Data goes where the peer says, whether or not it consented there (RFC 7675 §5.1)."""
    right = PeerChecks.take

    def take(self: PeerChecks, check: object, *, now: float) -> None:
        right(self, check, now=now)  # type: ignore[arg-type]  # as it came
        pair = self._checklist.get(check.path.local, check.path.remote)  # type: ignore[attr-defined]
        if pair is not None and check.move > 0 and self._selection.mobile:  # type: ignore[attr-defined]
            self._selection.pair = pair

    patch.setattr(PeerChecks, "take", take)


def restarts_come_in_storms(patch: Patch) -> None:
    """While there is no path, a restart is offered twice a second."""
    right = RestartPolicy.next_at

    def next_at(self: RestartPolicy, *, now: float) -> float:
        return min(right(self, now=now), max(self._offered_at + 0.5, now)) if self.need(now=now) else math.inf

    patch.setattr(RestartPolicy, "next_at", next_at)


def links_that_cost_are_used_like_others(patch: Patch) -> None:
    """Metered interfaces carry data though there is another way."""
    patch.setattr(CandidatePair, "is_metered", property(lambda _self: False))
    patch.setattr(CandidatePair, "cost", property(lambda _self: 0))


def a_session_leaves_its_routes(patch: Patch) -> None:
    """What ended is still routed to."""
    patch.setattr(Routes, "forget", lambda _self, _owner: None)


@attrs.frozen
class Planted:
    """A bug, the rules that must catch it, and within how many scenarios from which seed on."""

    plant: Callable[[Patch], None]
    rules: Sequence[str]
    seeds: int = 100
    first: int = 0


BUGS: Final = (
    Planted(a_nomination_has_the_number_of_the_one_before, ["number", "agree"]),
    Planted(backups_are_forgotten, ["backups"]),
    Planted(a_restart_drops_the_path_that_works, ["path_dropped"]),
    Planted(nothing_is_withdrawn, ["withdrawal"]),
    Planted(data_goes_on_from_an_address_that_is_gone, ["no_base"]),
    Planted(a_new_address_is_not_checked, ["backups", "metered"], 50, 50),
    Planted(the_peer_is_followed_before_an_own_check, ["consent"]),
    Planted(restarts_come_in_storms, ["restarts", "stalled"]),
    Planted(links_that_cost_are_used_like_others, ["metered"], 60, 40),
    Planted(a_session_leaves_its_routes, ["left"]),
)


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.plant.__name__)
def test_a_planted_bug_of_roaming_is_caught(bug: Planted, monkeypatch: Patch) -> None:
    bug.plant(monkeypatch)
    for seed in range(bug.first, bug.first + bug.seeds):
        found = {violation.rule for violation in run_roaming(draw_roaming(seed)).violations}
        if found & set(bug.rules):
            return
    pytest.fail(f"{bug.seeds} scenarios did not show it")
