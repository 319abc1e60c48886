"""A peer, or somebody beside it, that means harm: what it costs and what it gains (RFC 8445 §19)."""

from __future__ import annotations

import itertools

import attrs
import pytest

from edgeice import stun
from edgeice.addresses import Path, TransportAddress
from edgeice.ice import Candidate, ConsentExpired, PairNominated, PairState, Role, RoleSwitched
from edgeice.sansio import Transmit
from tests.support.ice_pair import Agent, World, address

PATH = Path(address(1), address(2))
#: Nobody's, from where things are sent again.
ELSEWHERE = Path(address(1), address(66))


def classes(agent: Agent, path: Path) -> list[stun.MessageClass]:
    return [stun.decode(sent.data).message_class for sent in agent.sent if sent.path == path]


def requests(agent: Agent) -> list[tuple[Transmit, stun.Message]]:
    messages = [(sent, stun.decode(sent.data)) for sent in agent.sent]
    return [(sent, message) for sent, message in messages if message.message_class is stun.MessageClass.REQUEST]


def receive(agent: Agent, data: bytes, path: Path = PATH) -> None:
    agent.ice.receive_stun(data, path, now=agent.world.now)
    agent.drain()


def checking(*, silent: bool = False) -> World:
    """Both know all of each other, and nothing has arrived yet, or ever will."""
    world = World()
    if silent:
        world.filter = lambda _agent, _sent: False
    world.gather()
    world.exchange()
    return world


def error(world: World, code: int, key: bytes | None, *, extra: tuple[tuple[int, object], ...] = ()) -> bytes:
    """An error response to A's latest check."""
    transaction_id = requests(world.a)[-1][1].transaction_id
    attributes = [(stun.Attribute.ERROR_CODE, stun.ErrorCode(code, "")), *extra]
    return stun.encode(stun.Method.BINDING, stun.MessageClass.ERROR, transaction_id, attributes, key=key)


def test_host_07_a_check_that_is_replayed_from_elsewhere_triggers_one_check_there_and_moves_no_data() -> None:
    world = World()
    world.gather()
    world.b.describe_to(world.a)
    world.a.describe_to(world.b)
    captured = [sent.data for sent, _ in requests(world.b)]
    for _ in range(50):
        for data in captured:
            receive(world.a, data, ELSEWHERE)
        world.run(0.1)
    assert world.states == ("completed", "completed")
    assert world.a.ice.send_path == PATH
    # Answered each time, as any request is; checked once, and only until nomination.
    assert len({message.transaction_id for sent, message in requests(world.a) if sent.path == ELSEWHERE}) == 1
    assert [pair.path for pair in world.a.ice._slots.current.checklist if pair.is_valid] == [PATH]


def test_host_07_a_nomination_that_is_replayed_from_elsewhere_selects_nothing() -> None:
    for renominates in (False, True):
        world = World()
        world.a.renominates = world.b.renominates = renominates
        world.connect()
        (captured,) = (
            sent.data for sent, message in requests(world.a) if message.get(stun.Attribute.USE_CANDIDATE) is not None
        )
        path = Path(address(2), address(66))
        for _ in range(50):
            receive(world.b, captured, path)
            world.run(0.1)
        assert world.b.ice.send_path == Path(address(2), address(1))
        assert len(world.b.of(PairNominated)) == 1
        assert [each for each in classes(world.b, path) if each is stun.MessageClass.REQUEST] == []
        world.run(60.0)
        assert world.states == ("completed", "completed")


def check_of_b(world: World, number: int) -> bytes:
    local, remote = world.b.ice.local_credentials, world.a.ice.local_credentials
    attributes: list[tuple[int, object]] = [
        (stun.Attribute.USERNAME, f"{remote.ufrag}:{local.ufrag}"),
        (stun.Attribute.PRIORITY, 1862270975),
        (stun.Attribute.ICE_CONTROLLED, 1),
    ]
    return stun.encode(stun.Method.BINDING, stun.MessageClass.REQUEST, number.to_bytes(12), attributes, key=remote.key)


def test_host_07_host_12_checks_from_ten_thousand_ports_are_bounded_in_candidates_pairs_and_answers() -> None:
    world = World()
    world.gather()
    world.b.candidates.clear()
    world.b.describe_to(world.a)
    begun = world.now
    for number in range(10_000):
        world.now = begun + number * 1e-4
        receive(world.a, check_of_b(world, number), Path(address(1), TransportAddress("203.0.113.9", 10_000 + number)))
    current = world.a.ice._slots.current
    assert len(current.checklist) == 16
    assert len(current.heard) <= 128
    answers = [sent for sent in world.a.sent if stun.decode(sent.data).message_class is stun.MessageClass.SUCCESS]
    assert len(answers) == 399  # a burst of 200 and 200 a second
    assert world.a.ice.drops["reply_rate"] == 10_000 - 399
    assert world.a.ice.drops["remote_candidates_full"] == 399 - 16
    # One new check per Ta.
    assert len({message.transaction_id for _, message in requests(world.a)}) <= 1.0 / 0.02 + 1
    world.run(60.0)
    assert len({message.transaction_id for _, message in requests(world.a)}) == 16


def test_host_12_early_checks_from_many_ports_are_bounded() -> None:
    world = World()
    world.gather()
    for number in range(150):
        receive(world.a, check_of_b(world, number), Path(address(1), TransportAddress("203.0.113.9", 10_000 + number)))
    assert world.a.ice.drops["early_checks_full"] == 150 - 32
    world.b.describe_to(world.a)
    world.run(10.0)
    assert len({sent.path for sent, _ in requests(world.a)}) == 16 + 1


@pytest.mark.parametrize("code", [300, 400, 401, 403, 420, 438, 487, 500])
@pytest.mark.parametrize("key", [None, b"a guess"])
def test_host_08_an_error_that_the_peer_did_not_sign_is_ignored(code: int, key: bytes | None) -> None:
    calm = checking()
    calm.run(1.0)
    world = checking()
    for _ in range(20):
        receive(world.a, error(world, code, key))
    assert world.a.ice.drops["integrity_missing" if key is None else "integrity_mismatch"] == 20
    assert world.a.ice.role is Role.CONTROLLING
    world.run(1.0)
    assert world.states == ("completed", "completed")
    assert world.a.of(RoleSwitched) == []
    assert [sent.data for sent, _ in requests(world.a)] == [sent.data for sent, _ in requests(calm.a)]


def test_host_08_a_peer_that_always_says_role_conflict_is_followed_a_few_times() -> None:
    world = checking(silent=True)
    key = world.b.ice.local_credentials.key
    switches = 0
    for _ in range(100):
        role = world.a.ice.role
        receive(world.a, error(world, 487, key))
        switches += world.a.ice.role is not role
        world.run(0.05)
    assert switches == len(world.a.of(RoleSwitched)) == 4
    (pair,) = world.a.ice._slots.current.checklist
    assert (pair.state, pair.result) == (PairState.FAILED, "error_487")
    assert len({message.transaction_id for _, message in requests(world.a)}) == 5
    # That was about one pair; the session goes on when the peer checks in earnest.
    world.filter = lambda _agent, _sent: True
    world.run(5.0)
    assert world.a.state in ("connected", "completed")


def test_host_08_stun_51_an_authentic_redirect_fails_the_pair_and_leads_nowhere() -> None:
    world = checking(silent=True)
    elsewhere = address(77)
    redirect = ((stun.Attribute.ALTERNATE_SERVER, elsewhere),)
    receive(world.a, error(world, 300, world.b.ice.local_credentials.key, extra=redirect))
    world.run(50.0)
    assert elsewhere not in {sent.path.remote for sent in world.a.sent}
    (pair,) = world.a.ice._slots.current.checklist
    assert pair.result == "error_300"


def victims(world: World, count: int) -> list[Candidate]:
    template, _ = world.b.candidates[0]
    return [
        attrs.evolve(
            template,
            foundation=f"v{number}",
            priority=template.priority - number,
            address=TransportAddress(f"198.51.100.{number % 250 + 1}", 7000 + number),
        )
        for number in range(count)
    ]


def test_host_12_a_description_that_names_a_crowd_gets_a_hundred_pairs_and_one_check_per_ta() -> None:
    world = World()
    for host in (1, 11, 12, 13):
        world.a.add_base(address(host))
    world.b.add_base(address(2))
    ufrag = world.b.ice.local_credentials.ufrag
    named = victims(world, 10_000)
    world.b.candidates.clear()
    world.b.describe_to(world.a)
    begun = world.now
    world.a.ice.add_remote_candidates(named, ufrag=ufrag, now=world.now)
    world.a.drain()
    assert len(world.a.ice._slots.current.checklist) == 100
    assert world.a.ice.drops["remote_candidates_full"] == 10_000 - 64
    assert world.a.ice.drops["pairs_full"] == 4 * 64 - 100
    world.run(1.0)
    first: dict[bytes, float] = {}
    for at, sent in zip(world.a.sent_at, world.a.sent, strict=True):
        first.setdefault(stun.decode(sent.data).transaction_id, at)
    times = sorted(first.values())
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= 0.02 - 1e-9
    world.run(300.0)
    # RFC 8445 §19.5.1: a hundred checks, of at most seven datagrams each, and that was all.
    assert len({stun.decode(sent.data).transaction_id for sent in world.a.sent}) == 100
    assert len(world.a.sent) <= 700
    before = len(world.a.sent)
    world.run(600.0)
    assert len(world.a.sent) == before
    assert begun < world.now


def test_host_13_a_victim_gets_the_checks_of_one_pair_and_nothing_else() -> None:
    world = World()
    world.gather()
    (victim,) = victims(world, 1)
    ufrag = world.b.ice.local_credentials.ufrag
    world.b.candidates.insert(0, (victim, ufrag))
    world.filter = lambda _agent, sent: sent.path.remote != address(2)  # B itself is silent
    world.b.describe_to(world.a)
    world.run(600.0)
    there = [sent for sent in world.a.sent if sent.path.remote == victim.address]
    assert len(there) == 7
    assert {stun.decode(sent.data).message_class for sent in there} == {stun.MessageClass.REQUEST}
    assert max(len(sent.data) for sent in there) <= 120
    pair = world.a.ice._slots.current.checklist.get(address(1), victim.address)
    assert pair is not None
    assert (pair.state, pair.consent) == (PairState.FAILED, None)
    assert world.a.ice.send_path is None


def test_host_13_the_peer_cannot_move_data_to_a_victim_by_nominating_it() -> None:
    world = World(roles="BA")
    world.connect()
    local, remote = world.b.ice.local_credentials, world.a.ice.local_credentials
    attributes: list[tuple[int, object]] = [
        (stun.Attribute.USERNAME, f"{remote.ufrag}:{local.ufrag}"),
        (stun.Attribute.PRIORITY, (1 << 31) - 1),
        (stun.Attribute.ICE_CONTROLLING, 1 << 63),
        (stun.Attribute.USE_CANDIDATE, True),
    ]
    for number in range(20):
        request = stun.encode(
            stun.Method.BINDING, stun.MessageClass.REQUEST, number.to_bytes(12), attributes, key=remote.key
        )
        receive(world.a, request, ELSEWHERE)
        world.run(5.0)
        assert world.a.ice.send_path == PATH
    assert set(classes(world.a, ELSEWHERE)) == {stun.MessageClass.REQUEST, stun.MessageClass.SUCCESS}
    assert world.a.of(ConsentExpired) == []
