"""What a check of the peer makes this side do (RFC 8445 §7.3)."""

from __future__ import annotations

import attrs
import pytest

from edgeice import stun
from edgeice.addresses import Base, Path
from edgeice.ice import (
    Candidate,
    CandidatePair,
    CandidateType,
    IceConfig,
    PairNominated,
    PairState,
    Role,
    RoleSwitched,
)
from tests.support.ice_pair import Agent, World, address

PATH = Path(address(1), address(2))


def check(world: World, *, ufrag: str | None = None, number: int = 1, claim: int = 1, nominate: bool = False) -> bytes:
    """A check of B for A, perhaps under another ufrag of B's."""
    local, remote = world.b.ice.local_credentials, world.a.ice.local_credentials
    role = stun.Attribute.ICE_CONTROLLED if world.a.ice.role is Role.CONTROLLING else stun.Attribute.ICE_CONTROLLING
    attributes: list[tuple[int, object]] = [
        (stun.Attribute.USERNAME, remote.ufrag + (f":{local.ufrag}" if ufrag is None else ufrag)),
        (stun.Attribute.PRIORITY, 1862270975),
        (role, claim),
    ]
    if nominate:
        attributes.append((stun.Attribute.USE_CANDIDATE, True))
    return stun.encode(stun.Method.BINDING, stun.MessageClass.REQUEST, number.to_bytes(12), attributes, key=remote.key)


def receive(agent: Agent, data: bytes, path: Path = PATH) -> None:
    agent.ice.receive_stun(data, path, now=agent.world.now)
    agent.drain()


def classes(agent: Agent) -> list[stun.MessageClass]:
    return [stun.decode(sent.data).message_class for sent in agent.sent]


def waiting() -> World:
    """A knows B's parameters and no candidate of it."""
    world = World()
    world.gather()
    world.b.candidates.clear()
    world.b.describe_to(world.a)
    assert world.a.sent == []
    return world


def test_ice_38_ice_40_a_check_of_the_peer_is_answered_and_triggers_one() -> None:
    world = waiting()
    receive(world.a, check(world))
    assert classes(world.a) == [stun.MessageClass.SUCCESS, stun.MessageClass.REQUEST]
    assert world.a.ice.accepts(PATH)


@pytest.mark.parametrize("ufrag", ["", ":", ":abcd", ":abcd:efgh"])
def test_ice_31_a_check_that_names_another_ufrag_of_the_peer_is_answered_and_triggers_none(ufrag: str) -> None:
    world = waiting()
    receive(world.a, check(world, ufrag=ufrag))
    world.run(1.0)
    assert classes(world.a) == [stun.MessageClass.SUCCESS]
    assert not world.a.ice.accepts(PATH)
    assert world.a.ice.drops["check_ufrag"] == 1


def test_ice_14_ice_31_a_check_that_names_another_ufrag_of_the_peer_settles_no_role() -> None:
    world = waiting()
    assert world.a.ice.role is Role.CONTROLLING
    local = world.a.ice.local_credentials
    conflict = stun.encode(
        stun.Method.BINDING,
        stun.MessageClass.REQUEST,
        b"c" * 12,
        [(stun.Attribute.USERNAME, f"{local.ufrag}:abcd"), (stun.Attribute.ICE_CONTROLLING, (1 << 64) - 1)],
        key=local.key,
    )
    receive(world.a, conflict)
    assert world.a.ice.role is Role.CONTROLLING
    assert classes(world.a) == [stun.MessageClass.SUCCESS]


def test_ice_31_early_checks_are_acted_on_if_they_name_the_ufrag_that_the_description_then_has() -> None:
    world = World()
    world.gather()
    world.b.candidates.clear()
    elsewhere = Path(address(1), address(3))
    receive(world.a, check(world))
    receive(world.a, check(world, ufrag=":abcd", number=2), elsewhere)
    assert classes(world.a) == [stun.MessageClass.SUCCESS] * 2
    world.b.describe_to(world.a)
    world.run(1.0)
    requests = [sent.path for sent in world.a.sent if stun.decode(sent.data).message_class is stun.MessageClass.REQUEST]
    assert set(requests) == {PATH}
    assert world.a.ice.drops["check_ufrag"] == 1


@pytest.mark.parametrize(
    ("role", "theirs", "switches"),
    [
        # RFC 8445 §7.3.1.1: the larger tie-breaker controls, and who is asked wins where they are equal.
        ("A", -1, False),
        ("A", 0, False),
        ("A", 1, True),
        ("B", -1, True),
        ("B", 0, True),
        ("B", 1, False),
    ],
)
def test_ice_14_who_changes_its_role(role: str, theirs: int, *, switches: bool) -> None:
    world = World(roles=role + "B")
    world.gather()
    before = world.a.ice.role
    claim = stun.Attribute.ICE_CONTROLLING if role == "A" else stun.Attribute.ICE_CONTROLLED
    local = world.a.ice.local_credentials
    attributes = [
        (stun.Attribute.USERNAME, f"{local.ufrag}:abcd"),
        (claim, world.a.ice._shared.tie_breaker + theirs),
    ]
    receive(world.a, stun.encode(stun.Method.BINDING, stun.MessageClass.REQUEST, b"r" * 12, attributes, key=local.key))
    assert (world.a.ice.role is not before) is switches
    assert len(world.a.of(RoleSwitched)) == switches
    (answer,) = (stun.decode(sent.data) for sent in world.a.sent)
    error = answer.get(stun.Attribute.ERROR_CODE)
    assert (None if error is None else error.code) == (None if switches else 487)
    stun.authenticate(answer, local.key)


def silent(*candidates: Candidate, transmissions: int = 7, pairs: int = 100) -> World:
    """A has pairs with these remote candidates, and nothing answers it."""
    world = World(config=IceConfig(check_transmissions=transmissions, max_pairs=pairs))
    world.filter = lambda _agent, _sent: False
    world.a.add_base(address(1))
    world.a.end()
    world.b.add_base(address(2))
    ufrag = world.b.ice.local_credentials.ufrag
    world.b.candidates[:] = [(candidate, ufrag) for candidate in candidates]
    world.b.describe_to(world.a)
    return world


def remote(host: int, foundation: str, priority: int) -> Candidate:
    """A host candidate of B's."""
    world = World()
    world.b.add_base(address(host))
    return attrs.evolve(world.b.candidates[0][0], foundation=foundation, priority=priority)


def pair_of(world: World, path: Path) -> CandidatePair:
    pair = world.a.ice._slots.current.checklist.get(path.local, path.remote)
    assert pair is not None
    return pair


def state_of(world: World, path: Path) -> PairState:
    return pair_of(world, path).state


def requests_on(world: World, path: Path) -> list[bytes]:
    """Transaction ids of the requests that A sent on a path, one for each datagram."""
    messages = [stun.decode(sent.data) for sent in world.a.sent if sent.path == path]
    return [each.transaction_id for each in messages if each.message_class is stun.MessageClass.REQUEST]


OTHER = Path(address(1), address(3))


@pytest.mark.parametrize("state", [PairState.WAITING, PairState.FROZEN])
def test_ice_40_a_pair_that_waits_or_is_frozen_is_checked_next_and_once(state: PairState) -> None:
    foundation = "1" if state is PairState.FROZEN else "3"
    # Another pair is before it, and a third one before it in the order of priorities.
    world = silent(remote(2, "1", 300), remote(4, "4", 200), remote(3, foundation, 100))
    assert state_of(world, OTHER) is state
    receive(world.a, check(world, number=1), OTHER)
    receive(world.a, check(world, number=2), OTHER)
    assert state_of(world, OTHER) is PairState.WAITING
    world.run(0.02)
    assert state_of(world, OTHER) is PairState.IN_PROGRESS
    assert len(requests_on(world, OTHER)) == 1
    assert requests_on(world, Path(address(1), address(4))) == []
    world.run(0.3)
    assert len(requests_on(world, OTHER)) == 1


def test_ice_40_a_check_in_progress_is_repeated_no_more_and_its_late_answer_counts() -> None:
    world = silent(remote(2, "1", 300))
    assert state_of(world, PATH) is PairState.IN_PROGRESS
    world.run(0.1)
    receive(world.a, check(world), PATH)
    world.run(20.0)
    first, *others = requests_on(world, PATH)
    # 0, 0.5, 1.5, 3.5, 7.5, 15.5 s after the trigger.
    assert others == [others[0]] * 6
    assert others[0] != first
    mapped = [(stun.Attribute.XOR_MAPPED_ADDRESS, address(1))]
    key = world.b.ice.local_credentials.key
    receive(world.a, stun.encode(stun.Method.BINDING, stun.MessageClass.SUCCESS, first, mapped, key=key))
    assert state_of(world, PATH) is PairState.SUCCEEDED
    assert world.a.ice.send_path == PATH


def test_ice_40_a_retransmitted_check_triggers_no_other() -> None:
    world = silent(remote(2, "1", 300))
    for _ in range(3):
        receive(world.a, check(world, number=1), PATH)
        world.run(0.1)
    assert len(set(requests_on(world, PATH))) == 2


def test_ice_40_a_check_of_the_peer_finds_room_in_a_full_list() -> None:
    world = silent(remote(3, "3", 2_000_000_000), remote(4, "4", 1_900_000_000), pairs=2)
    receive(world.a, check(world))
    world.run(0.02)
    pairs = world.a.ice._slots.current.checklist
    # The pair that the peer is heard on has the lowest priority of all, and works one way at least.
    assert [pair.path for pair in pairs] == [OTHER, PATH]
    assert len(requests_on(world, PATH)) == 1


def test_ice_40_a_pair_that_succeeded_is_left_alone() -> None:
    world = World()
    world.connect()
    sent = len(requests_on(world, PATH))
    receive(world.a, check(world, number=9))
    world.run(1.0)
    assert state_of(world, PATH) is PairState.SUCCEEDED
    assert len(requests_on(world, PATH)) == sent


def test_ice_40_a_pair_that_failed_is_checked_again() -> None:
    world = silent(remote(2, "1", 300), transmissions=1)
    world.run(8.1)
    assert state_of(world, PATH) is PairState.FAILED
    receive(world.a, check(world))
    world.run(0.4)
    assert state_of(world, PATH) is PairState.IN_PROGRESS
    assert len(requests_on(world, PATH)) == 2


def test_trk_07_a_candidate_that_a_check_outran_leaves_one_pair_with_the_priority_that_the_peer_gave() -> None:
    world = silent(remote(3, "3", 2000))
    receive(world.a, check(world))
    checklist = world.a.ice._slots.current.checklist
    assert [pair.path for pair in checklist] == [PATH, OTHER]
    early = pair_of(world, PATH)
    assert early.remote.type.value == "prflx"
    state = early.state
    ufrag = world.b.ice.local_credentials.ufrag
    world.a.ice.add_remote_candidate(remote(2, "2", 1000), ufrag=ufrag, now=world.now)
    assert [pair.path for pair in checklist] == [OTHER, PATH]
    assert pair_of(world, PATH) is early
    assert (early.remote.type.value, early.remote.priority, early.state) == ("host", 1000, state)
    # Both are pairs with a controlling side of priority G and a controlled one of D = 1000.
    assert early.priority == (1000 << 32) + 2 * early.local.priority + 1


def requests_of(agent: Agent) -> list[tuple[stun.Message, Path]]:
    messages = [(stun.decode(sent.data), sent.path) for sent in agent.sent]
    return [each for each in messages if each[0].message_class is stun.MessageClass.REQUEST]


@pytest.mark.parametrize("roles", ["AB", "BA"])
def test_ice_30_dec_3_a_check_has_exactly_what_it_must(roles: str) -> None:
    world = World(roles=roles)
    for number, agent in ((1, world.a), (2, world.b), (12, world.b), (11, world.a)):
        agent.add_base(address(number))
    # The best pair does not answer, so that others are checked too.
    world.filter = lambda _agent, sent: address(1) not in (sent.path.local, sent.path.remote)
    world.exchange()
    world.run(10.0)  # consent too
    for agent in (world.a, world.b):
        mine, theirs = agent.ice.local_credentials, agent.peer.ice.local_credentials
        controls = agent.ice.role is Role.CONTROLLING
        claim = stun.Attribute.ICE_CONTROLLING if controls else stun.Attribute.ICE_CONTROLLED
        asked = requests_of(agent)
        assert len({path.local for _, path in asked}) == 2
        for request, path in asked:
            host = next(each for each, _ in agent.candidates if each.address == path.local)
            assert request.get(stun.Attribute.USERNAME) == f"{theirs.ufrag}:{mine.ufrag}"
            assert request.get(claim) == agent.ice._shared.tie_breaker
            # RFC 8445 §7.1.1: as the candidate's own, but of the type of a peer-reflexive one.
            assert request.get(stun.Attribute.PRIORITY) == host.priority - (126 << 24) + (110 << 24)
            stun.authenticate(request, theirs.key, integrity="sha1")
            assert request.has_fingerprint
            names = {stun.Attribute.USERNAME, claim, stun.Attribute.PRIORITY}
            nominates = stun.Attribute.USE_CANDIDATE in request
            assert {name for name in stun.Attribute if name in request} - names <= {
                stun.Attribute.USE_CANDIDATE,
                stun.Attribute.MESSAGE_INTEGRITY,
                stun.Attribute.FINGERPRINT,
            }
            assert controls or not nominates
        assert sum(stun.Attribute.USE_CANDIDATE in request for request, _ in asked) == controls


def test_ice_13_a_role_that_was_switched_is_kept_over_restarts() -> None:
    world = World(roles="AA")
    world.connect()
    world.run(1.0)
    roles = world.a.ice.role, world.b.ice.role
    assert set(roles) == {Role.CONTROLLING, Role.CONTROLLED}
    switched = len(world.a.of(RoleSwitched)) + len(world.b.of(RoleSwitched))
    for _ in range(3):
        world.restart()
        world.run(1.0)
        assert (world.a.ice.role, world.b.ice.role) == roles
        assert world.states == ("completed", "completed")
    assert len(world.a.of(RoleSwitched)) + len(world.b.of(RoleSwitched)) == switched


def test_ice_38_the_source_of_a_check_is_a_candidate_of_its_priority_like_no_other() -> None:
    # A remote candidate that is named as one that was learned could be is told apart all the same.
    world = World()
    world.filter = lambda _agent, _sent: False
    world.a.add_base(address(1))
    world.a.add_base(address(11))
    ufrag = world.b.ice.local_credentials.ufrag
    world.b.candidates[:] = [(remote(3, "prflx1", 2000), ufrag), (remote(4, "prflx2", 1000), ufrag)]
    world.b.describe_to(world.a)
    receive(world.a, check(world))
    learned = pair_of(world, PATH).remote
    assert (learned.type.value, learned.priority, learned.component) == ("prflx", 1862270975, 1)
    pairs = list(world.a.ice._slots.current.checklist)
    foundations = {pair.remote.foundation for pair in pairs if pair.remote is not learned}
    assert learned.foundation not in foundations
    # It is paired with the base that the check came to, and with no other.
    assert [pair.path for pair in pairs if pair.remote is learned] == [PATH]
    receive(world.a, check(world, number=2), Path(address(11), address(5)))
    assert pair_of(world, Path(address(11), address(5))).remote.foundation != learned.foundation


def test_ice_38_a_base_that_comes_later_is_not_paired_with_a_candidate_that_was_learned() -> None:
    world = World()
    world.filter = lambda _agent, _sent: False
    world.a.add_base(address(1))
    world.b.candidates[:] = [(remote(2, "told", 2000), world.b.ice.local_credentials.ufrag)]
    world.b.describe_to(world.a)
    receive(world.a, check(world, number=1), Path(address(1), address(5)))
    world.a.add_base(address(12))
    world.run(0.1)
    paths = {pair.path for pair in world.a.ice._slots.current.checklist}
    assert Path(address(1), address(5)) in paths
    assert Path(address(12), address(5)) not in paths
    assert Path(address(12), address(2)) in paths


def test_ice_38_host_12_many_ports_of_the_peer_leave_room_for_other_ways() -> None:
    world = World()
    world.filter = lambda _agent, _sent: False
    for host in (1, 11):
        world.a.add_base(address(host))
    world.b.candidates.clear()
    world.b.describe_to(world.a)
    for number, port in enumerate(range(5000, 5080)):
        receive(world.a, check(world, number=number), Path(address(1), address(5, port)))
    assert len(world.a.ice._slots.current.checklist) == 16
    assert world.a.ice.drops["remote_candidates_full"] == 80 - 16
    others = Path(address(11), address(5)), Path(address(1), address(6))
    for number, other in enumerate(others):
        receive(world.a, check(world, number=1000 + number), other)
        assert pair_of(world, other).state is PairState.WAITING


def test_ice_41_host_12_a_peer_that_came_from_many_addresses_may_nominate_another() -> None:
    # Behind two NATs that map by destination each answer shows a new address, and soon no more are learned.
    world = World(roles="BA", config=IceConfig(max_remote_candidates=4))
    world.filter = lambda _agent, _sent: False
    world.gather()
    world.b.candidates.clear()
    world.b.describe_to(world.a)
    ports = range(5000, 5090)
    for number, port in enumerate(ports):
        receive(world.a, check(world, number=number), Path(address(1), address(5, port)))
    checklist = world.a.ice._slots.current.checklist
    assert len(checklist) == 4
    nominated = Path(address(1), address(6))
    receive(world.a, check(world, number=1000, nominate=True), nominated)
    assert pair_of(world, nominated).nominated_by_peer
    # Not without end.
    for number, port in enumerate(ports):
        receive(world.a, check(world, number=2000 + number, nominate=True), Path(address(1), address(7, port)))
    assert len(checklist) == 12
    assert world.a.ice.drops["remote_candidates_full"] == 86 + 83


RELAYED, RELAY = address(20, 50000), address(21, 3478)


def relaying() -> World:
    """A has a base and an allocation on a relay, and nothing answers."""
    world = World()
    world.filter = lambda _agent, _sent: False
    world.a.add_base(address(1))
    world.hosts[RELAYED] = world.a
    relay = Base(RELAYED, "eth0", server=RELAY, mapped=address(22))
    world.a.ice.base_added(relay, now=world.now)
    world.a.drain()
    world.b.add_base(address(2))
    world.b.candidates.clear()
    world.b.describe_to(world.a)
    return world


def test_ice_39_a_check_through_a_relay_came_from_the_peer_as_the_relay_saw_it() -> None:
    world = relaying()
    path = Path(RELAYED, address(66))
    receive(world.a, check(world), path)
    answer, triggered = (stun.decode(sent.data) for sent in world.a.sent)
    assert [sent.path for sent in world.a.sent] == [path, path]
    assert answer.get(stun.Attribute.XOR_MAPPED_ADDRESS) == address(66)
    pair = pair_of(world, path)
    # RFC 8445 §7.3.1.4: the local candidate is the relayed one.
    assert (pair.local.type, pair.remote.type) == (CandidateType.RELAYED, CandidateType.PEER_REFLEXIVE)
    assert triggered.get(stun.Attribute.PRIORITY) == (110 << 24) + (pair.local.priority & 0xFFFFFF)


def test_ice_39_what_comes_by_the_host_does_not_belong_to_the_relay() -> None:
    world = relaying()
    receive(world.a, check(world), PATH)
    assert pair_of(world, PATH).local.type is CandidateType.HOST
    pairs = world.a.ice._slots.current.checklist
    assert [pair.path for pair in pairs] == [PATH]


@pytest.mark.parametrize("role", [Role.CONTROLLING, Role.CONTROLLED])
def test_ice_42_a_nomination_by_a_peer_that_does_not_control_is_none(role: Role) -> None:
    world = World(roles="AB" if role is Role.CONTROLLING else "BA")
    world.filter = lambda _agent, _sent: False
    world.gather()
    world.b.candidates.clear()
    world.b.describe_to(world.a)
    local, mine = world.a.ice.local_credentials, world.b.ice.local_credentials
    values: list[tuple[int, object]] = [
        (stun.Attribute.USERNAME, f"{local.ufrag}:{mine.ufrag}"),
        (stun.Attribute.PRIORITY, 1862270975),
        (stun.Attribute.ICE_CONTROLLED, 1),
        (stun.Attribute.USE_CANDIDATE, True),
    ]
    kind = stun.MessageClass.REQUEST
    receive(world.a, stun.encode(stun.Method.BINDING, kind, b"n" * 12, values, key=local.key))
    # One that controls nothing and meets one that does not either makes that one control.
    assert world.a.ice.role is Role.CONTROLLING
    world.run(0.02)
    ((request, _),) = requests_of(world.a)
    mapped = [(stun.Attribute.XOR_MAPPED_ADDRESS, address(1))]
    success = stun.encode(stun.Method.BINDING, stun.MessageClass.SUCCESS, request.transaction_id, mapped, key=mine.key)
    receive(world.a, success)
    assert pair_of(world, PATH).state is PairState.SUCCEEDED
    assert not pair_of(world, PATH).nominated_by_peer
    assert world.a.of(PairNominated) == []


def test_ice_43_a_check_without_fingerprint_is_dropped_unanswered() -> None:
    world = waiting()
    local, mine = world.a.ice.local_credentials, world.b.ice.local_credentials
    values: list[tuple[int, object]] = [
        (stun.Attribute.USERNAME, f"{local.ufrag}:{mine.ufrag}"),
        (stun.Attribute.PRIORITY, 1862270975),
        (stun.Attribute.ICE_CONTROLLED, 1),
    ]
    kind = stun.MessageClass.REQUEST
    bare = stun.encode(stun.Method.BINDING, kind, b"f" * 12, values, key=local.key, fingerprint=False)
    receive(world.a, bare)
    assert world.a.sent == []
    assert world.a.ice.drops["fingerprint_missing"] == 1
    receive(world.a, stun.encode(stun.Method.BINDING, kind, b"f" * 12, values, key=local.key))
    assert classes(world.a) == [stun.MessageClass.SUCCESS, stun.MessageClass.REQUEST]


def test_ice_43_a_request_of_rfc_3489_is_dropped_unanswered() -> None:
    world = waiting()
    data = bytearray(check(world))
    data[4:8] = bytes(4)  # no magic cookie
    receive(world.a, bytes(data))
    assert world.a.sent == []
    assert sum(world.a.ice.drops.snapshot().values()) == 1
