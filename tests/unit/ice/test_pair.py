"""States of a pair, and what a full checklist keeps (RFC 8445 §6.1.2)."""

from __future__ import annotations

import itertools
import random

import pytest

from edgeice.addresses import Path, TransportAddress
from edgeice.errors import LocalProtocolError
from edgeice.ice import Candidate, CandidatePair, CandidateType, PairInput, PairState, Role
from edgeice.ice.checklist import Checklist
from edgeice.sansio import DropCounter
from tests.support.ice_pair import World, address, form_one

F, W, P, S, X = PairState

# Rows: the state; columns: unfreeze, trigger, check sent, success, fail.  None is a bug of the caller.
TABLE: dict[PairState, tuple[PairState | None, ...]] = {
    F: (W, W, None, None, None),
    W: (None, W, P, S, X),
    P: (None, W, None, S, X),
    S: (None, S, S, S, X),
    X: (None, W, None, S, X),
}


def host(number: int, priority: int = 1, foundation: str = "") -> Candidate:
    where = TransportAddress(f"198.51.{number >> 8}.{number & 0xFF}", 4000)
    return Candidate(foundation or f"f{number}", priority, where, CandidateType.HOST, base=where)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(PairState, PairInput)))
def test_every_state_takes_every_input_as_the_table_says(state: PairState, event: PairInput) -> None:
    pair = CandidatePair(host(1), host(2), Path(host(1).address, host(2).address), "1:2", 1, state)
    expected = TABLE[state][list(PairInput).index(event)]
    if expected is None:
        with pytest.raises(LocalProtocolError):
            pair.apply(event)
        assert pair.state is state
    else:
        pair.apply(event)
        assert pair.state is expected


def checklist(limit: int) -> tuple[Checklist, DropCounter]:
    drops = DropCounter()
    return Checklist(role=Role.CONTROLLING, limit=limit, drops=drops), drops


def priorities(pairs: Checklist) -> list[int]:
    return [pair.remote.priority for pair in pairs]


def test_ice_19_the_lowest_pairs_are_dropped_in_whatever_order_they_come() -> None:
    pairs, drops = checklist(100)
    order = list(range(1, 251))
    random.Random(5).shuffle(order)
    for priority in order:
        form_one(pairs, host(0, 1 << 30), host(priority, priority))
    assert priorities(pairs) == list(range(250, 150, -1))
    assert drops["pairs_full"] + drops["pair_displaced"] == 150


def test_ice_19_trk_06_failed_pairs_make_room_first_and_pairs_under_check_never() -> None:
    pairs, drops = checklist(3)
    high, middle, low = (form_one(pairs, host(0), host(number, number)) for number in (30, 20, 10))
    assert high is not None
    assert middle is not None
    assert low is not None
    low.apply(PairInput.CHECK_SENT)
    high.apply(PairInput.FAIL)
    assert form_one(pairs, host(0), host(5, 5)) is not None  # lower than all, but a failed one goes
    assert priorities(pairs) == [20, 10, 5]
    assert form_one(pairs, host(0), host(4, 4)) is None
    assert form_one(pairs, host(0), host(6, 6)) is not None
    assert priorities(pairs) == [20, 10, 6]
    assert form_one(pairs, host(0), host(40, 40)) is not None
    assert form_one(pairs, host(0), host(41, 41)) is not None
    assert priorities(pairs) == [41, 40, 10]  # `low` is in progress
    assert (drops["pairs_full"], drops["pair_displaced"]) == (1, 4)


def test_ice_19_a_session_keeps_a_hundred_pairs_unless_configured() -> None:
    world = World()
    for number in (1, 11, 12):
        world.a.add_base(address(number))
    world.b.describe_to(world.a)
    ufrag = world.b.ice.local_credentials.ufrag
    for number in range(50):
        world.a.ice.add_remote_candidate(host(number, 1000 + number), ufrag=ufrag, now=world.now)
    assert len(world.a.ice._slots.current.checklist) == 100
