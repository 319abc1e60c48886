"""Which pairs are kept beside the selected one, in which order they are taken, and what is tried again."""

from __future__ import annotations

import itertools
import random

import pytest

from edgeice import stun
from edgeice.addresses import Path
from edgeice.ice import Candidate, CandidatePair, CandidateType, IceConfig
from edgeice.ice.backups import BACKUP_LIMIT, choose_backups
from tests.support.ice_roaming import Roaming, at, moves

COSTS = {1: 0, 2: 10, 3: 900, 4: 50}


def pair(here: int, there: int, priority: int = 100) -> CandidatePair:
    """A pair of two interfaces."""
    local = Candidate("l", 1, at(1, here), CandidateType.HOST, network=here, cost=COSTS[here])
    remote = Candidate("r", 1, at(2, there, 4000 + priority), CandidateType.HOST, network=there, cost=COSTS[there])
    return CandidatePair(local, remote, Path(local.address, remote.address), "lr", priority)


def test_of_each_combination_the_best_is_kept_but_for_that_of_the_selected_pair() -> None:
    selected = pair(2, 1)
    valid = [selected, pair(2, 1, 99), pair(3, 1, 5), pair(3, 1, 7), pair(2, 2, 1)]
    random.Random(1).shuffle(valid)
    # Both share one interface with the selected pair; the cheaper comes first.
    assert [(each.combination, each.priority) for each in choose_backups(valid, selected)] == [((2, 2), 1), ((3, 1), 7)]


def test_at_most_six_are_kept_and_each_single_loss_leaves_one_of_them() -> None:
    selected = pair(1, 1)
    valid = [pair(here, there, 10 * here + there) for here, there in itertools.product((1, 2, 3, 4), repeat=2)]
    chosen = choose_backups(valid, selected)
    assert len(chosen) == BACKUP_LIMIT == 6
    for lost in (1, 2, 3, 4):
        assert [each for each in chosen if each.combination[0] != lost]
        assert [each for each in chosen if each.combination[1] != lost]
    # The first shares nothing with what is in use: whatever ends that, this goes on.
    assert 1 not in chosen[0].combination


@pytest.mark.parametrize("number", [1, 2])
def test_a_cheaper_pair_of_lower_priority_is_the_first_backup(number: int) -> None:
    """Ranks say otherwise, and what is paid for by the byte comes last all the same."""
    config = IceConfig(interface_ranks={"eth0": 0, "wwan0": 1, "wlan0": 2})
    links = ((1, 2, 3), (1,)) if number == 1 else ((1,), (1, 2, 3))
    world = Roaming(*links, config=config)
    mover = world.agent(number)
    pairs = {each.path.local: each.priority for each in mover.ice._slots.current.checklist}
    assert pairs[at(number, 3)] > pairs[at(number, 2)]
    world.pull(number, 1)
    assert moves(mover)[0][0] == at(number, 2)


@pytest.mark.parametrize("number", [1, 2])
def test_what_was_left_for_its_silence_is_not_gone_back_to_while_there_is_another(number: int) -> None:
    world = Roaming((1, 2, 3), (1,)) if number == 1 else Roaming((1,), (1, 2, 3))
    mover = world.agent(number)
    assert mover.ice.leave(cause="silent", now=world.now)
    mover.drain()
    world.pull(number, 2)
    assert [(local, cause) for local, _, cause in moves(mover)] == [
        (at(number, 2), "silent"),
        (at(number, 3), "base_gone"),
    ]
    world.pull(number, 3)
    assert moves(mover)[-1][0] == at(number, 1)  # better than nothing


@pytest.mark.parametrize(("interface", "longest"), [(2, 31.0), (3, 121.0)])
@pytest.mark.parametrize("number", [1, 2])
def test_a_network_that_comes_back_without_a_word_is_found(number: int, interface: int, longest: float) -> None:
    """Every half minute where bytes are free, every two minutes where they are not; two pairs, two requests each."""
    links = ((1, interface), (1,)) if number == 1 else ((1,), (1, interface))
    world = Roaming(*links, connected=False)
    world.broken = {(number, interface)}
    world.run(120.0)
    world.forget()
    world.run(480.0)
    path = Path(at(number, interface), at(3 - number, 1))
    tried = [sent for sent in world.agent(number).sent if sent.path == path]
    assert len(tried) == pytest.approx(480 / (longest - 1) * 2, abs=2)
    world.broken = set()
    began = world.now
    checklist = world.agent(number).ice._slots.current.checklist
    world.run(200.0, lambda: any(each.path == path and each.is_valid for each in checklist))
    assert world.now - began <= longest + 6.0  # the timer runs with that of consent


def test_a_pair_that_this_side_dropped_is_answered_and_not_checked_again() -> None:
    """The peer keeps another pair of the combination, and goes on asking for consent."""
    world = Roaming((2,), (2,), connected=False)
    world.plug(1, 2, 4100)
    world.run(20.0)
    dropped = Path(at(2, 2), at(1, 2, 4100))
    checklist = world.b.ice._slots.current.checklist
    assert checklist.get(dropped.local, dropped.remote) is None
    ours, theirs = world.b.ice.local_credentials, world.a.ice.local_credentials
    for number in range(10):
        request = stun.encode(
            stun.Method.BINDING,
            stun.MessageClass.REQUEST,
            b"%012d" % number,
            [
                (stun.Attribute.USERNAME, f"{ours.ufrag}:{theirs.ufrag}"),
                (stun.Attribute.ICE_CONTROLLING, world.a.ice._shared.tie_breaker),
                (stun.Attribute.PRIORITY, 1),
            ],
            key=ours.key,
        )
        world.forget()
        world.b.ice.receive_stun(request, dropped, now=world.now)
        world.b.drain()
        assert [stun.decode(sent.data).message_class for sent in world.b.sent] == [stun.MessageClass.SUCCESS]
        assert checklist.get(dropped.local, dropped.remote) is None
