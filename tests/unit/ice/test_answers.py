"""What the answers to this side's checks make of pairs, and what no answer does (RFC 8445 §7.2.5)."""

from __future__ import annotations

import errno

import pytest

from edgeice import stun
from edgeice.addresses import Path, TransportAddress
from edgeice.ice import (
    Candidate,
    CandidatePair,
    CandidateType,
    IceConfig,
    IceFailed,
    PairNominated,
    PairState,
    Role,
    RoleSwitched,
    SendPathChanged,
)
from edgeice.ice.priority import pair_priority
from edgeice.sansio import Transmit
from tests.support.ice_pair import Agent, World, address

PATH = Path(address(1), address(2))
MAPPED = (stun.Attribute.XOR_MAPPED_ADDRESS, address(1))


def checking(*remotes: Candidate, role: str = "A", config: IceConfig | None = None) -> World:
    """A checks pairs with B's host 2, or with these candidates, and nobody answers but the test."""
    world = World(roles=role + "AB"[role == "A"], config=config)
    world.filter = lambda _agent, _sent: False
    world.gather()
    if remotes:
        ufrag = world.b.ice.local_credentials.ufrag
        world.b.candidates[:] = [(candidate, ufrag) for candidate in remotes]
    world.b.describe_to(world.a)
    return world


def remote(host: int, priority: int, foundation: str) -> Candidate:
    return Candidate(foundation, priority, address(host), CandidateType.HOST)


def requests(agent: Agent, path: Path = PATH) -> list[stun.Message]:
    """Each request on a path once, in the order of sending."""
    messages = [stun.decode(sent.data) for sent in agent.sent if sent.path == path]
    asked = {each.transaction_id: each for each in messages if each.message_class is stun.MessageClass.REQUEST}
    return list(asked.values())


def respond(
    world: World, request: stun.Message, attribute: tuple[int, object] = MAPPED, *, path: Path = PATH, code: int = 0
) -> None:
    """B's answer to a check of A's arrives."""
    value = (stun.Attribute.ERROR_CODE, stun.ErrorCode(code)) if code else attribute
    kind = stun.MessageClass.ERROR if code else stun.MessageClass.SUCCESS
    key = world.b.ice.local_credentials.key
    answer = stun.encode(stun.Method.BINDING, kind, request.transaction_id, [value], key=key)
    world.a.ice.receive_stun(answer, path, now=world.now)
    world.a.drain()


def trigger(world: World, number: int, path: Path = PATH, *, nominate: bool = False) -> None:
    """A check of B's arrives."""
    local, mine = world.a.ice.local_credentials, world.b.ice.local_credentials
    controls = world.a.ice.role is Role.CONTROLLED
    claim = stun.Attribute.ICE_CONTROLLING if controls else stun.Attribute.ICE_CONTROLLED
    values: list[tuple[int, object]] = [
        (stun.Attribute.USERNAME, f"{local.ufrag}:{mine.ufrag}"),
        (stun.Attribute.PRIORITY, 1862270975),
        (claim, 1),
    ]
    if nominate:
        values.append((stun.Attribute.USE_CANDIDATE, True))
    kind = stun.MessageClass.REQUEST
    request = stun.encode(stun.Method.BINDING, kind, number.to_bytes(12), values, key=local.key)
    world.a.ice.receive_stun(request, path, now=world.now)
    world.a.drain()


def pair_of(world: World, path: Path = PATH) -> CandidatePair:
    pair = world.a.ice._slots.current.checklist.get(path.local, path.remote)
    assert pair is not None
    return pair


def claims(request: stun.Message) -> Role:
    return Role.CONTROLLED if request.get(stun.Attribute.ICE_CONTROLLING) is None else Role.CONTROLLING


def tie_breaker(request: stun.Message) -> object:
    controlling = request.get(stun.Attribute.ICE_CONTROLLING)
    return request.get(stun.Attribute.ICE_CONTROLLED) if controlling is None else controlling


@pytest.mark.parametrize("role", ["A", "B"])
def test_ice_15_a_role_conflict_makes_this_side_take_the_other_role_and_check_again(role: str) -> None:
    world = checking(remote(2, 12345, "2"), role=role)
    before = world.a.ice.role
    (first,) = requests(world.a)
    respond(world, first, code=487)
    assert world.a.ice.role is before.opposite
    assert world.a.of(RoleSwitched) == [RoleSwitched(before.opposite)]
    assert pair_of(world).state is PairState.WAITING
    world.run(0.02)
    _, second = requests(world.a)
    assert (claims(first), claims(second)) == (before, before.opposite)
    assert tie_breaker(second) != tie_breaker(first)
    pair = pair_of(world)
    ours, theirs = pair.local.priority, pair.remote.priority
    controls = world.a.ice.role is Role.CONTROLLING
    assert pair.priority == (pair_priority(ours, theirs) if controls else pair_priority(theirs, ours))


def test_ice_15_two_conflicts_that_are_under_way_together_switch_once() -> None:
    world = checking(remote(2, 200, "2"), remote(3, 100, "3"))
    other = Path(address(1), address(3))
    world.run(0.02)
    (first,), (second,) = requests(world.a), requests(world.a, other)
    respond(world, first, code=487)
    breaker = world.a.ice._shared.tie_breaker
    respond(world, second, path=other, code=487)
    assert world.a.of(RoleSwitched) == [RoleSwitched(Role.CONTROLLED)]
    assert world.a.ice._shared.tie_breaker == breaker
    # Both are checked again, in the role that was taken.
    world.run(0.1)
    again = [requests(world.a, path)[1:] for path in (PATH, other)]
    assert [[claims(each) for each in sent] for sent in again] == [[Role.CONTROLLED], [Role.CONTROLLED]]


def test_ice_15_a_conflict_told_from_elsewhere_is_one() -> None:
    # A NAT may map by destination and let everybody in: then B's answers come from elsewhere, and B, whose role it is,
    # checks nothing before the conflict is settled.
    world = checking()
    (first,) = requests(world.a)
    respond(world, first, path=Path(address(1), address(2, 4001)), code=487)
    assert world.a.of(RoleSwitched) == [RoleSwitched(Role.CONTROLLED)]
    world.run(0.02)
    assert [claims(each) for each in requests(world.a)] == [Role.CONTROLLING, Role.CONTROLLED]
    assert world.a.sends_to() is None


def test_ice_15_a_conflict_without_end_is_a_failure() -> None:
    world = checking()
    for _ in range(20):
        respond(world, requests(world.a)[-1], code=487)
        world.run(0.03)
    assert (pair_of(world).state, pair_of(world).result) == (PairState.FAILED, "error_487")
    assert len(requests(world.a)) == 5


@pytest.mark.parametrize("path", [Path(address(1), address(3)), Path(address(1), address(2, 4001)), "other base"])
@pytest.mark.parametrize("code", [0, 400])
def test_ice_32_ice_34_an_answer_from_elsewhere_or_to_elsewhere_fails_the_pair(path: Path | str, code: int) -> None:
    world = checking()
    world.a.add_base(address(11))
    where = path if isinstance(path, Path) else Path(address(11), address(2))
    (check,) = requests(world.a)
    respond(world, check, path=where, code=code)
    assert (pair_of(world).state, pair_of(world).result) == (PairState.FAILED, "asymmetric")
    assert world.a.ice.role is Role.CONTROLLING
    assert world.a.sends_to() is None
    # HOST-06: the true answer still counts.
    respond(world, check)
    assert world.a.sends_to() == address(2)


@pytest.mark.parametrize("code", [400, 401, 420, 500, 699])
def test_ice_34_an_error_fails_the_pair_and_no_other_of_its_foundation(code: int) -> None:
    world = checking(remote(2, 300, "f"), remote(3, 200, "f"), remote(4, 100, "f"))
    (check,) = requests(world.a)
    respond(world, check, code=code)
    assert (pair_of(world).state, pair_of(world).result) == (PairState.FAILED, f"error_{code}")
    # One of the others has its turn now, which the failure did not give to both.
    states = [pair_of(world, Path(address(1), address(host))).state for host in (3, 4)]
    assert sorted(state.value for state in states) in (["frozen", "frozen"], ["frozen", "waiting"])
    world.run(0.02)
    states = [pair_of(world, Path(address(1), address(host))).state for host in (3, 4)]
    assert states == [PairState.IN_PROGRESS, PairState.FROZEN]


def test_ice_34_a_check_without_an_answer_fails_its_pair_after_seven_times_and_no_other() -> None:
    world = checking(remote(2, 300, "f"), remote(3, 200, "f"))
    other = Path(address(1), address(3))
    world.run(39.4)
    assert pair_of(world).state is PairState.IN_PROGRESS
    assert pair_of(world, other).state is PairState.FROZEN
    times = [at - 100.0 for sent, at in zip(world.a.sent, world.a.sent_at, strict=True) if sent.path == PATH]
    assert times == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5])
    world.run(0.2)
    assert (pair_of(world).state, pair_of(world).result) == (PairState.FAILED, "timeout")
    assert pair_of(world, other).state is PairState.IN_PROGRESS


def test_ice_34_ice_40_the_failure_of_a_check_that_another_one_replaced_is_none() -> None:
    world = checking()
    (first,) = requests(world.a)
    trigger(world, 1)
    respond(world, first, code=400)
    assert pair_of(world).state is PairState.WAITING
    world.run(0.02)
    assert len(requests(world.a)) == 2
    assert pair_of(world).state is PairState.IN_PROGRESS


def test_ice_40_the_answer_to_the_first_of_many_checks_that_followed_each_other_counts() -> None:
    # Behind NATs several checks of the peer may come by one path, each triggers one, and a round trip is longer.
    world = checking()
    for number in range(8):
        trigger(world, number)
        world.run(0.03)
    asked = requests(world.a)
    assert len(asked) == 9
    respond(world, asked[0])
    assert pair_of(world).state is PairState.SUCCEEDED


def refuse(world: World, error: int = errno.ECONNREFUSED, path: Path = PATH) -> None:
    world.a.ice.socket_error(path, error, now=world.now)
    world.a.drain()


def test_ice_33_a_refusal_is_a_hint_and_a_second_one_of_a_repeated_check_fails_the_pair() -> None:
    world = checking(remote(2, 300, "f"), remote(3, 200, "f"))
    for _ in range(10):
        refuse(world)
        world.run(0.01)
    assert pair_of(world).state is PairState.IN_PROGRESS
    world.run(0.5)
    refuse(world)
    assert (pair_of(world).state, pair_of(world).result) == (PairState.FAILED, "refused")
    world.run(0.02)
    assert pair_of(world, Path(address(1), address(3))).state is PairState.IN_PROGRESS
    # Anybody can forge that: an answer still makes the pair valid, also one to a later repetition.
    world.run(10.0)
    assert len([sent for sent in world.a.sent if sent.path == PATH]) == 5
    respond(world, requests(world.a)[0])
    assert world.a.sends_to() == address(2)


def test_ice_33_one_refusal_and_silence_is_told_as_such() -> None:
    world = checking(config=IceConfig(check_transmissions=3))
    refuse(world)
    world.run(30.0)
    assert (pair_of(world).state, pair_of(world).result) == (PairState.FAILED, "refused")


@pytest.mark.parametrize(
    ("error", "path"),
    [
        (errno.ENOBUFS, PATH),
        (errno.EMSGSIZE, PATH),
        (errno.EAGAIN, PATH),
        (errno.ECONNREFUSED, Path(address(1), address(9))),
        (errno.ECONNREFUSED, Path(address(9), address(2))),
    ],
)
def test_ice_33_what_may_pass_and_what_is_refused_elsewhere_says_nothing(error: int, path: Path) -> None:
    world = checking()
    for _ in range(3):
        refuse(world, error, path)
        world.run(1.0)
    assert (pair_of(world).state, pair_of(world).result) == (PairState.IN_PROGRESS, "")


def test_ice_33_a_path_that_works_is_not_lost_by_refusals() -> None:
    world = World()
    world.connect()
    for _ in range(50):
        refuse(world)
        world.run(1.0)
    assert world.states == ("completed", "completed")
    assert pair_of(world).state is PairState.SUCCEEDED


def test_ice_33_a_refused_nomination_does_not_end_what_works() -> None:
    world = World()
    world.gather()
    lost: list[bytes] = []

    def lose_nominations(_agent: Agent, sent: Transmit) -> bool:
        if stun.Attribute.USE_CANDIDATE in stun.decode(sent.data):
            lost.append(sent.data)
        return not lost

    world.filter = lose_nominations
    world.exchange()
    for _ in range(6):
        world.run(0.4)
        refuse(world)
    assert len(lost) >= 3
    assert (world.a.state, world.a.sends_to()) == ("connected", address(2))
    lost.clear()
    world.filter = lambda _agent, _sent: True
    world.run(5.0)
    assert world.states == ("completed", "completed")


def test_ice_36_the_valid_pair_joins_the_address_that_the_peer_saw_and_the_one_that_was_asked() -> None:
    world = checking()
    outside = TransportAddress("198.51.100.7", 61000)
    (check,) = requests(world.a)
    respond(world, check, (stun.Attribute.XOR_MAPPED_ADDRESS, outside))
    (event,) = world.a.of(SendPathChanged)
    assert isinstance(event, SendPathChanged)
    # It sends from the base all the same.
    assert event.path == PATH
    assert event.local is not None
    assert event.remote is not None
    assert (event.local.address, event.local.type, event.local.base) == (
        outside,
        CandidateType.PEER_REFLEXIVE,
        address(1),
    )
    assert event.local.priority == check.get(stun.Attribute.PRIORITY)
    assert event.remote.address == address(2)
    # ICE-35: nothing else is paired with it.
    assert [pair.path for pair in world.a.ice._slots.current.checklist] == [PATH]
    assert pair_of(world).local.address == address(1)


def test_ice_36_an_address_that_is_known_is_no_new_candidate() -> None:
    world = World()
    world.filter = lambda _agent, _sent: False
    outside, server = TransportAddress("198.51.100.7", 61000), TransportAddress("203.0.113.1", 3478)
    world.a.add_base(address(1))
    world.a.ice.add_server_reflexive(address(1), outside, server, now=world.now)
    world.b.add_base(address(2))
    world.b.describe_to(world.a)
    respond(world, requests(world.a)[0], (stun.Attribute.XOR_MAPPED_ADDRESS, outside))
    (event,) = world.a.of(SendPathChanged)
    assert isinstance(event, SendPathChanged)
    assert event.local is not None
    assert (event.local.address, event.local.type) == (outside, CandidateType.SERVER_REFLEXIVE)


def test_ice_37_success_makes_the_pair_succeed_and_starts_the_frozen_ones_of_its_foundation() -> None:
    frozen = remote(3, 200, "f"), remote(4, 100, "f")
    world = checking(remote(2, 300, "f"), *frozen, remote(5, 400, "other"), remote(6, 50, "other"))
    world.run(0.02)
    paths = [Path(address(1), each.address) for each in frozen]
    assert [pair_of(world, path).state for path in paths] == [PairState.FROZEN] * 2
    respond(world, requests(world.a)[0], (stun.Attribute.XOR_MAPPED_ADDRESS, TransportAddress("198.51.100.7", 1)))
    assert pair_of(world).state is PairState.SUCCEEDED
    assert [pair_of(world, path).state for path in paths].count(PairState.FROZEN) == 0
    assert pair_of(world, Path(address(1), address(6))).state is PairState.FROZEN


def test_a_pair_that_made_room_is_not_brought_back_by_its_late_answer() -> None:
    world = World(config=IceConfig(max_pairs=1))
    world.filter = lambda _agent, _sent: False
    world.a.add_base(address(1))
    world.b.add_base(address(2))
    world.b.describe_to(world.a)
    (check,) = requests(world.a)
    respond(world, check, path=Path(address(1), address(66)))
    assert pair_of(world).state is PairState.FAILED
    ufrag = world.b.ice.local_credentials.ufrag
    world.a.ice.add_remote_candidate(remote(3, 1, "n"), ufrag=ufrag, now=world.now)
    respond(world, check)
    assert world.a.ice.send_path is None
    assert [pair.path.remote for pair in world.a.ice._slots.current.checklist] == [address(3)]


def test_ice_15_a_conflict_told_to_a_replaced_check_makes_no_further_one() -> None:
    world = checking()
    (first,) = requests(world.a)
    trigger(world, 1)
    world.run(0.02)
    respond(world, first, code=487)
    world.run(1.0)
    roles = [claims(each) for each in requests(world.a)]
    assert roles == [Role.CONTROLLING, Role.CONTROLLING, Role.CONTROLLED]
    respond(world, requests(world.a)[1], code=487)
    world.run(1.0)
    assert world.a.of(RoleSwitched) == [RoleSwitched(Role.CONTROLLED)]
    assert len(requests(world.a)) == 3


def test_ice_22_the_larger_ta_of_both_sides_is_kept() -> None:
    for theirs, gap in ((0.005, 0.02), (0.03, 0.03), (None, 0.05), (100.0, 1.0)):
        world = World()
        world.filter = lambda _agent, _sent: False
        world.gather()
        world.b.candidates[:] = [
            (remote(host, 1000 - host, str(host)), world.b.ice.local_credentials.ufrag) for host in range(2, 6)
        ]
        world.b.describe_to(world.a, pacing=theirs)
        world.run(3.5)
        began = {sent.data[8:20]: at for sent, at in zip(world.a.sent[::-1], world.a.sent_at[::-1], strict=True)}
        times = sorted(began.values())
        assert [round(later - times[0], 6) for later in times] == [round(gap * number, 6) for number in range(4)]


@pytest.mark.parametrize(("pairs", "rto"), [(4, 0.5), (10, 0.5), (40, 0.8), (64, 1.28)])
def test_ice_23_a_check_is_repeated_when_all_that_wait_had_their_turn_and_never_before_half_a_second(
    pairs: int, rto: float
) -> None:
    world = checking(*(remote(host, 1000 - host, str(host)) for host in range(2, 2 + pairs)))
    world.run(3.0)
    times = [at for sent, at in zip(world.a.sent, world.a.sent_at, strict=True) if sent.path == PATH]
    assert round(times[1] - times[0], 6) == rto


def test_ice_41_ice_42_nothing_is_nominated_by_whoever_does_not_control() -> None:
    world = checking()
    respond(world, requests(world.a)[0])
    trigger(world, 1, nominate=True)
    assert world.a.ice.role is Role.CONTROLLING
    assert not pair_of(world).nominated
    assert world.a.state == "connected"


def controlled(**options: IceConfig) -> World:
    """A is controlled, and one of its pairs is valid, the other one not yet."""
    world = checking(remote(2, 200, "2"), remote(3, 100, "3"), role="B", **options)
    world.run(0.02)
    respond(world, requests(world.a, OTHER)[0], path=OTHER)
    assert world.a.sends_to() == address(3)
    return world


OTHER = Path(address(1), address(3))


def nominated(world: World) -> list[Path]:
    return [event.path for event in world.a.of(PairNominated) if isinstance(event, PairNominated)]


def test_ice_41_the_nomination_of_a_pair_that_succeeded_counts_at_once() -> None:
    world = controlled()
    sent = len(requests(world.a, OTHER))
    trigger(world, 1, OTHER, nominate=True)
    assert nominated(world) == [OTHER]
    assert world.a.state == "completed"
    assert len(requests(world.a, OTHER)) == sent


def test_ice_41_the_nomination_of_another_pair_counts_once_the_triggered_check_succeeds() -> None:
    world = controlled()
    trigger(world, 1, PATH, nominate=True)
    world.run(0.05)
    assert nominated(world) == []
    assert (world.a.state, world.a.sends_to()) == ("connected", address(3))
    _, triggered = requests(world.a)
    assert stun.Attribute.USE_CANDIDATE not in triggered
    respond(world, triggered)
    assert nominated(world) == [PATH]
    assert (world.a.state, world.a.sends_to()) == ("completed", address(2))


def test_ice_41_when_what_the_peer_nominated_does_not_work_the_list_fails_with_patience() -> None:
    world = controlled()
    trigger(world, 1, PATH, nominate=True)
    world.run(0.05)
    respond(world, requests(world.a)[-1], code=400)
    assert pair_of(world).state is PairState.FAILED
    assert not pair_of(world).is_valid
    keep_consent(world, until=139.4)
    assert (world.a.state, world.a.sends_to()) == ("connected", address(3))
    keep_consent(world, until=139.6)
    assert world.a.sends_to() is None
    assert world.a.state == "failed"
    (failed,) = world.a.of(IceFailed)
    assert isinstance(failed, IceFailed)
    assert failed.verdict.reason == "nomination"
    # What the peer nominates after all counts: the other pair still is what it was.
    trigger(world, 2, OTHER, nominate=True)
    assert nominated(world) == [OTHER]
    assert (world.a.state, world.a.sends_to()) == ("completed", address(3))


def test_ice_41_a_nomination_that_failed_is_forgotten_when_another_one_is_followed() -> None:
    world = controlled()
    trigger(world, 1, PATH, nominate=True)
    world.run(0.05)
    respond(world, requests(world.a)[-1], code=400)
    trigger(world, 2, OTHER, nominate=True)
    keep_consent(world, until=150.0)
    assert (world.a.state, world.a.sends_to()) == ("completed", address(3))


def keep_consent(world: World, *, until: float) -> None:
    """Let time pass in which B answers what is asked on the other pair."""
    answered = {each.transaction_id for each in requests(world.a, OTHER)[:1]}
    while world.now < until:
        world.run(min(1.0, until - world.now))
        for request in requests(world.a, OTHER):
            if request.transaction_id not in answered:
                answered.add(request.transaction_id)
                respond(world, request, path=OTHER)


@pytest.mark.parametrize("role", ["A", "B"])
def test_ice_36_a_valid_pair_has_the_priority_of_what_the_peer_saw(role: str) -> None:
    world = checking(remote(2, 2_000_000_000, "2"), remote(3, 1_900_000_000, "3"), role=role)
    world.run(0.05)
    (first,), (second,) = requests(world.a), requests(world.a, OTHER)
    assert [pair.path for pair in world.a.ice._slots.current.checklist] == [PATH, OTHER]
    # The better of the two leads through a NAT, the other one from host to host.
    respond(world, first, (stun.Attribute.XOR_MAPPED_ADDRESS, TransportAddress("198.51.100.7", 61000)))
    assert world.a.sends_to() == address(2)
    seen = first.get(stun.Attribute.PRIORITY)
    assert isinstance(seen, int)
    ours, theirs = (seen, 2_000_000_000) if role == "A" else (2_000_000_000, seen)
    assert pair_of(world).priority == pair_priority(ours, theirs)
    assert not pair_of(world).is_host_only
    respond(world, second, path=OTHER)
    assert world.a.sends_to() == address(3)
    assert pair_of(world, OTHER).is_host_only
    # A pair that fails counts as what it was formed of.
    world.a.ice._slots.current.checklist.set_valid(pair_of(world), None)
    host = pair_of(world).local.priority
    ours, theirs = (host, 2_000_000_000) if role == "A" else (2_000_000_000, host)
    assert pair_of(world).priority == pair_priority(ours, theirs)
