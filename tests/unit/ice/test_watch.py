"""The selected pair is watched: by what is heard on it, and by the round trips of its consent."""

from __future__ import annotations

import pytest

from edgeice.ice import CandidatePair, SendPathChanged
from tests.support.ice_pair import Agent
from tests.support.ice_roaming import Roaming, at, moves


def selected(agent: Agent) -> CandidatePair:
    pair = agent.ice._slots.current.selected
    assert pair is not None
    assert pair.consent is not None
    return pair


def hear(world: Roaming, local: int, seconds: float) -> None:
    """Data of the peer comes on an interface of A each 100 ms."""
    path = next(pair.path for pair in world.a.ice._slots.current.checklist if pair.path.local == at(1, local))
    for _ in range(round(seconds * 10)):
        world.run(0.1)
        world.a.ice.note_heard(path, now=world.now)
        world.a.drain()


def test_what_is_heard_on_another_path_says_nothing_of_this_one() -> None:
    world = Roaming()
    world.a.ice.note_outstanding(True, now=world.now)
    world.broken.add((1, 2))
    hear(world, 3, 1.2)
    assert moves(world.a)[0] == (at(1, 3), at(2, 1), "silent")


def test_what_is_heard_on_it_keeps_it() -> None:
    world = Roaming()
    world.a.ice.note_outstanding(True, now=world.now)
    world.broken.add((1, 2))
    hear(world, 2, 5.0)
    assert moves(world.a) == []


def test_without_a_backup_the_path_fades_and_is_as_it_was_once_it_is_heard() -> None:
    world = Roaming((2,), (1,))
    world.a.ice.note_outstanding(True, now=world.now)
    world.broken.add((1, 2))
    world.run(1.5)
    hear(world, 2, 0.1)
    told = [event for event in world.a.of(SendPathChanged) if isinstance(event, SendPathChanged)]
    assert [(event.path is not None, event.fading) for event in told] == [(True, True), (True, False)]


def test_the_checks_round_trip_is_the_first_that_is_known() -> None:
    world = Roaming(delay=0.03, connected=False)
    world.run(1.0)
    assert selected(world.a).consent.pulse.srtt == pytest.approx(0.06)  # type: ignore[union-attr]


def test_consent_keeps_the_round_trip_that_is_told_up_to_date() -> None:
    world = Roaming(delay=0.01)
    pair = selected(world.a)
    assert pair.rtt == pytest.approx(0.02)
    world.delay = 0.1
    world.run(300.0)
    assert pair.rtt == pytest.approx(0.2, abs=0.001)
