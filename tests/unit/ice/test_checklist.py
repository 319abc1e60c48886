"""Which pairs are formed, and in which order they are checked (RFC 8445 §6.1.2, §6.1.4; RFC 8838 §11, §12)."""

from __future__ import annotations

import random

import pytest

from edgeice.addresses import Path, TransportAddress
from edgeice.ice import Candidate, CandidatePair, CandidateType, PairInput, PairState, Role
from edgeice.ice.checklist import Checklist
from edgeice.ice.priority import pair_priority
from edgeice.sansio import DropCounter
from tests.support.ice_pair import World, address

F, W, P, S, X = PairState


def candidate(
    ip: str, priority: int = 1, foundation: str = "", *, component: int = 1, scope: str = "", protocol: str = "udp"
) -> Candidate:
    where = TransportAddress(ip, 4000, "udp" if protocol == "udp" else "tcp", scope)
    return Candidate(foundation or f"f{ip}", priority, where, CandidateType.HOST, component, base=where)


def remote(number: int, priority: int, foundation: str = "") -> Candidate:
    return candidate(f"198.51.100.{number}", priority, foundation)


HERE = candidate("192.0.2.1", 1 << 30, "h")


def checklist(limit: int = 100, role: Role = Role.CONTROLLING) -> Checklist:
    return Checklist(role=role, limit=limit, drops=DropCounter())


def numbers(pairs: Checklist, *states: PairState) -> list[int]:
    """Last octet of the remote address of the pairs in these states, in order."""
    wanted = states or tuple(PairState)
    return [int(pair.remote.address.ip.rpartition(".")[2]) for pair in pairs if pair.state in wanted]


def check(pairs: Checklist) -> int | None:
    """Check the pair whose turn it is."""
    pair = pairs.next_pair()
    if pair is None:
        return None
    pair.apply(PairInput.CHECK_SENT)
    return int(pair.remote.address.ip.rpartition(".")[2])


def pair_with(pairs: Checklist, number: int) -> CandidatePair:
    return next(pair for pair in pairs if pair.remote.address.ip == f"198.51.100.{number}")


V4, V6 = "192.0.2.1", "2001:db8::1"
LOCAL_V4, LOCAL_V6 = "169.254.0.1", "fe80::1"
LOOP_V4, LOOP_V6 = "127.0.0.1", "::1"
ALL = (V4, V6, LOCAL_V4, LOCAL_V6, LOOP_V4, LOOP_V6)


@pytest.mark.parametrize("here", ALL)
def test_ice_16_only_addresses_that_can_reach_each_other_are_paired(here: str) -> None:
    pairs = checklist()
    pairs.form([candidate(here)], [candidate(there) for there in ALL])
    assert [pair.remote.address.ip for pair in pairs] == [here]


@pytest.mark.parametrize("other", [{"component": 2}, {"protocol": "tcp"}])
def test_ice_16_only_one_component_and_protocol_are_paired(other: dict[str, str]) -> None:
    pairs = checklist()
    pairs.form([candidate(V4)], [candidate("192.0.2.2", **other)])  # type: ignore[arg-type]
    assert len(pairs) == 0
    pairs.form([candidate(V4, **other)], [candidate("192.0.2.2", **other)])  # type: ignore[arg-type]
    assert len(pairs) == 1


def test_ice_16_a_link_local_address_of_the_peer_is_on_the_interface_of_each_base() -> None:
    pairs = checklist()
    pairs.form([candidate("fe80::1", scope="eth0"), candidate("fe80::2", scope="wlan0")], [candidate("fe80::9")])
    assert sorted(str(pair.path) for pair in pairs) == [
        "[fe80::1%eth0]:4000->[fe80::9%eth0]:4000",
        "[fe80::2%wlan0]:4000->[fe80::9%wlan0]:4000",
    ]
    pairs.form([candidate("fe80::1", scope="eth0")], [candidate("fe80::9")])
    assert len(pairs) == 2


@pytest.mark.parametrize("role", list(Role))
def test_ice_17_pairs_stand_in_the_order_of_their_priorities(role: Role) -> None:
    dice = random.Random(17)
    hosts = [candidate(f"192.0.2.{number}", dice.getrandbits(31) or 1) for number in range(1, 9)]
    remotes = [remote(number, dice.getrandbits(31) or 1) for number in range(1, 9)]
    pairs = checklist(role=role)
    for each in remotes:
        pairs.form(hosts, [each])
    found = [pair.priority for pair in pairs]
    assert found == sorted(found, reverse=True)
    assert len(found) == 64
    for pair in pairs:
        controlling, controlled = pair.local.priority, pair.remote.priority
        if role is Role.CONTROLLED:
            controlling, controlled = controlled, controlling
        assert pair.priority == pair_priority(controlling, controlled)


def test_ice_18_server_reflexive_candidates_of_this_side_are_conveyed_and_never_paired() -> None:
    world = World()
    outside = TransportAddress("198.51.100.1", 61000)
    world.a.add_base(address(1))
    world.b.add_base(address(2))
    server = TransportAddress("203.0.113.1", 3478)
    world.a.ice.add_server_reflexive(address(1), outside, server, now=world.now)
    world.b.describe_to(world.a)
    world.a.ice.add_server_reflexive(address(1), TransportAddress("198.51.100.1", 61001), server, now=world.now)
    world.a.drain()
    kinds = [each.type for each, _ in world.a.candidates]
    assert kinds == [CandidateType.HOST, CandidateType.SERVER_REFLEXIVE, CandidateType.SERVER_REFLEXIVE]
    pairs = world.a.ice._slots.current.checklist
    assert [pair.path for pair in pairs] == [Path(address(1), address(2))]


def test_ice_18_a_pair_is_formed_once() -> None:
    pairs = checklist()
    pairs.form([HERE], [remote(1, 10)])
    first = pair_with(pairs, 1)
    pairs.form([HERE], [remote(1, 10), remote(1, 99)])
    assert list(pairs) == [first]


def test_ice_19_of_a_whole_description_the_best_pairs_are_formed_in_whatever_order_it_is() -> None:
    dice = random.Random(19)
    hosts = [candidate(f"192.0.2.{number}", 1000 + number) for number in range(1, 18)]
    remotes = [remote(number, 2000 + number) for number in range(1, 18)]
    dice.shuffle(remotes)
    drops = DropCounter()
    pairs = Checklist(role=Role.CONTROLLING, limit=100, drops=drops)
    pairs.form(hosts, remotes)
    everything = sorted(pair_priority(each.priority, other.priority) for each in hosts for other in remotes)
    assert [pair.priority for pair in pairs] == everything[:-101:-1]
    assert drops.snapshot() == {"pairs_full": 17 * 17 - 100}


def test_ice_20_of_each_foundation_the_best_pair_waits_and_all_others_are_frozen() -> None:
    pairs = checklist()
    pairs.form([HERE], [remote(number, number, "a" if number % 2 else "b") for number in (1, 6, 5, 2, 3, 4)])
    assert numbers(pairs, W) == [6, 5]
    assert numbers(pairs, F) == [4, 3, 2, 1]


def test_ice_20_a_trickled_pair_starts_if_it_is_the_best_of_its_foundation_or_that_works() -> None:
    pairs = checklist()
    pairs.form([HERE], [remote(5, 5, "a")])
    pairs.form([HERE], [remote(4, 4, "a")])
    pairs.form([HERE], [remote(6, 6, "a")])
    assert (numbers(pairs, W), numbers(pairs, F)) == ([6, 5], [4])
    assert check(pairs) == 6
    pair_with(pairs, 6).apply(PairInput.FAIL)
    pairs.form([HERE], [remote(3, 3, "a")])
    assert numbers(pairs, F) == [4, 3]
    assert check(pairs) == 5
    pair_with(pairs, 5).apply(PairInput.SUCCESS)
    pairs.form([HERE], [remote(2, 2, "a")])
    assert numbers(pairs, W) == [2]


def test_ice_40_a_pair_that_the_peer_was_heard_on_is_not_displaced_before_its_check() -> None:
    pairs = checklist(limit=2)
    pairs.form([HERE], [remote(20, 20), remote(10, 10)])
    heard = pairs.add_heard(HERE, remote(1, 1))
    assert heard is not None
    pairs.trigger(heard)
    pairs.form([HERE], [remote(30, 30)])
    assert numbers(pairs) == [30, 1]
    assert pairs.add_heard(HERE, remote(2, 2)) is not None
    assert numbers(pairs) == [2, 1]
    assert check(pairs) == 1


def test_ice_21_a_triggered_check_goes_first_then_the_best_that_waits_then_frozen_foundations() -> None:
    pairs = checklist()
    table = {10: "a", 9: "b", 8: "a", 7: "b", 6: "c", 5: "a", 4: "b"}
    pairs.form([HERE], [remote(number, number, foundation) for number, foundation in table.items()])
    assert numbers(pairs, W) == [10, 9, 6]
    trigger = pair_with(pairs, 5)
    trigger.apply(PairInput.TRIGGER)
    pairs.trigger(trigger)
    assert check(pairs) == 5
    assert [check(pairs) for _ in range(3)] == [10, 9, 6]
    # Each foundation has a check under way: its other pairs stay frozen.
    assert (pairs.has_work, check(pairs)) == (False, None)
    assert numbers(pairs, F) == [8, 7, 4]
    for number in (9, 6):
        pair_with(pairs, number).apply(PairInput.FAIL)
    assert (pairs.has_work, check(pairs)) == (True, 7)
    assert numbers(pairs, F) == [8, 4]
    # `a` has another one under way, though its best failed.
    pair_with(pairs, 10).apply(PairInput.FAIL)
    assert check(pairs) is None
    pair_with(pairs, 5).apply(PairInput.FAIL)
    assert check(pairs) == 8


def test_ice_21_nothing_is_unfrozen_while_another_pair_waits() -> None:
    pairs = checklist()
    pairs.form([HERE], [remote(number, number, "a" if number > 3 else "b") for number in (5, 4, 3, 2)])
    assert check(pairs) == 5
    pair_with(pairs, 5).apply(PairInput.FAIL)
    assert numbers(pairs, W) == [3]
    assert check(pairs) == 3
    assert numbers(pairs, F) == [4, 2]
    assert check(pairs) == 4


def test_ice_37_success_starts_the_frozen_pairs_of_its_foundation_only() -> None:
    pairs = checklist()
    pairs.form([HERE], [remote(number, number, "a" if number % 2 else "b") for number in range(1, 7)])
    assert numbers(pairs, F) == [4, 3, 2, 1]
    pairs.unfreeze(pair_with(pairs, 5).foundation)
    assert numbers(pairs, W) == [6, 5, 3, 1]
    assert numbers(pairs, F) == [4, 2]


def test_trk_07_a_pair_that_gets_its_true_foundation_counts_there() -> None:
    pairs = checklist()
    early = remote(7, 7, "early")
    pairs.form([HERE], [early])
    pairs.form([HERE], [remote(5, 5, "a"), remote(4, 4, "a")])
    pairs.replace_remote(early, remote(7, 9, "a"))
    assert check(pairs) == 7
    assert check(pairs) == 5
    pair_with(pairs, 5).apply(PairInput.FAIL)
    assert check(pairs) is None  # 7 is under way in its new foundation
    pair_with(pairs, 7).apply(PairInput.FAIL)
    assert check(pairs) == 4


def test_ice_40_a_pair_that_the_peer_was_heard_on_makes_room_in_a_full_list() -> None:
    drops = DropCounter()
    pairs = Checklist(role=Role.CONTROLLING, limit=3, drops=drops)
    pairs.form([HERE], [remote(number, number) for number in (30, 20, 10)])
    assert pairs.add_heard(HERE, remote(1, 1)) is not None
    assert numbers(pairs) == [30, 20, 1]
    for pair in pairs:
        pair.apply(PairInput.CHECK_SENT)
    assert pairs.add_heard(HERE, remote(2, 2)) is None
    pair_with(pairs, 30).apply(PairInput.FAIL)
    assert pairs.add_heard(HERE, remote(2, 2)) is not None
    assert numbers(pairs) == [20, 2, 1]
    assert drops.snapshot() == {"pair_displaced": 2, "pairs_full": 1}


def test_ice_21_ice_37_the_checks_of_a_session_in_order() -> None:
    world = World(roles="BA")
    for host in (1, 2):
        world.a.add_base(address(host))
    described = [(remote(number, number, "p"), world.b.ice.local_credentials.ufrag) for number in (11, 13, 12)]
    for each, _ in described:
        world.b.add_base(each.address)
    world.b.candidates[:] = described
    # The best pair works, and no other.
    answering = {Path(address(1), described[1][0].address), Path(described[1][0].address, address(1))}
    world.filter = lambda _agent, sent: sent.path in answering
    world.b.describe_to(world.a)
    world.run(0.25)
    order = [
        (int(sent.path.local.ip.rpartition(".")[2]), int(sent.path.remote.ip.rpartition(".")[2]), round(at - 100, 6))
        for sent, at in zip(world.a.sent, world.a.sent_at, strict=True)
    ]
    assert order == [(1, 13, 0.0), (2, 13, 0.02), (1, 12, 0.04), (1, 11, 0.06)]
