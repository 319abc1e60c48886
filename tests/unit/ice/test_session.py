from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice import stun
from edgeice.addresses import Path, TransportAddress
from edgeice.ice import (
    ConsentExpired,
    IceConfig,
    IceFailed,
    PairNominated,
    RestartFailed,
    RestartSucceeded,
    Role,
    RoleSwitched,
    SelectedPathLost,
    SendPathChanged,
)
from edgeice.sansio import Transmit
from tests.support.ice_pair import Agent, World, address


def requests(world: World, agent: str) -> list[stun.Message]:
    messages = [stun.decode(sent.data) for sent in getattr(world, agent).sent]
    return [message for message in messages if message.message_class is stun.MessageClass.REQUEST]


def test_ice_50_two_hosts_connect_with_exactly_three_checks_and_nominate_once() -> None:
    world = World(delay=0.004)
    world.connect()
    assert world.states == ("completed", "completed")
    # A: an ordinary check and the nominating one; B: its own check.
    assert [message.get(stun.Attribute.USE_CANDIDATE) is not None for message in requests(world, "a")] == [False, True]
    assert [message.get(stun.Attribute.USE_CANDIDATE) is not None for message in requests(world, "b")] == [False]
    assert len(world.a.of(PairNominated)) == len(world.b.of(PairNominated)) == 1
    assert world.a.ice.send_path == Path(address(1), address(2))
    assert world.b.ice.send_path == Path(address(2), address(1))


def test_data_may_flow_one_round_trip_after_the_descriptions() -> None:
    world = World(delay=0.010)
    for number, agent in ((1, world.a), (2, world.b)):
        agent.add_base(address(number))
        agent.end()
    begun = world.now
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    world.run(1.0, lambda: world.a.ice.send_path is not None and world.b.ice.send_path is not None)
    assert world.now - begun == pytest.approx(0.020)


def test_ice_30_a_check_says_what_it_must() -> None:
    world = World()
    world.connect()
    check = requests(world, "a")[0]
    local, remote = world.a.ice.local_credentials, world.b.ice.local_credentials
    assert check.get(stun.Attribute.USERNAME) == f"{remote.ufrag}:{local.ufrag}"
    assert check.get(stun.Attribute.ICE_CONTROLLING) is not None
    assert check.get(stun.Attribute.ICE_CONTROLLED) is None
    priority = check.get(stun.Attribute.PRIORITY)
    assert isinstance(priority, int)
    assert priority >> 24 == 110
    assert check.has_fingerprint
    stun.authenticate(check, remote.key)


@pytest.mark.parametrize("roles", ["AA", "BB"])
def test_ice_14_ice_15_a_role_conflict_is_settled(roles: str) -> None:
    world = World(roles=roles)
    world.connect()
    world.run(1.0)
    assert world.states == ("completed", "completed")
    assert {world.a.ice.role, world.b.ice.role} == {Role.CONTROLLING, Role.CONTROLLED}
    assert len(world.a.of(RoleSwitched)) + len(world.b.of(RoleSwitched)) == 1


def test_ice_31_a_check_before_the_answer_is_answered_and_acted_on_later() -> None:
    world = World()
    for number, agent in ((1, world.a), (2, world.b)):
        agent.add_base(address(number))
        agent.end()
    world.a.describe_to(world.b)
    world.run(0.2)
    # B's check got its answer, so B may send; A knows no password of B and sent no request.
    assert world.b.state == "connected"
    assert requests(world, "a") == []
    world.b.describe_to(world.a)
    world.run(0.5)
    assert world.a.state == "completed"


def test_ice_35_ice_38_a_peer_behind_a_nat_is_learned_from_its_checks() -> None:
    world = World()
    outside = TransportAddress("198.51.100.7", 61000)

    def translate(source: TransportAddress) -> TransportAddress:
        return outside if source == address(1) else source

    world.translate = translate
    world.a.add_base(address(1))
    world.hosts[outside] = world.a
    world.b.add_base(address(2))
    world.a.end()
    world.b.end()
    # What reaches the outside address goes in to A's base.
    deliver = world.a.ice.receive_stun

    def receive(data: bytes, path: Path, *, now: float) -> None:
        deliver(data, Path(address(1), path.remote), now=now)

    world.a.ice.receive_stun = receive  # type: ignore[method-assign]  # the NAT's inner side
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    world.run(2.0)
    assert world.states == ("completed", "completed")
    nominated = world.b.of(PairNominated)[0]
    assert isinstance(nominated, PairNominated)
    assert (nominated.remote.address, nominated.remote.type.value) == (outside, "prflx")
    seen = world.a.of(PairNominated)[0]
    assert isinstance(seen, PairNominated)
    assert (seen.local.address, seen.local.type.value) == (outside, "prflx")


def test_a_lost_check_is_repeated_after_half_a_second() -> None:
    world = World()
    lost = iter([True, True])
    world.filter = lambda _agent, _sent: not next(lost, False)
    for number, agent in ((1, world.a), (2, world.b)):
        agent.add_base(address(number))
        agent.end()
    begun = world.now
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    world.run(5.0, lambda: world.states == ("completed", "completed"))
    assert 0.5 < world.now - begun < 0.7


class FairLoss:
    """Loses datagrams by seeded dice, but never more than three in a row."""

    def __init__(self, loss: float, seed: int) -> None:
        self.loss = loss
        self.dice = random.Random(seed)
        self.row = 0

    def __call__(self, _agent: object, _sent: object) -> bool:
        lost = self.row < 3 and self.dice.random() < self.loss
        self.row = self.row + 1 if lost else 0
        return not lost


@pytest.mark.parametrize("loss", [0.1, 0.3])
def test_connects_over_a_lossy_link(loss: float) -> None:
    for seed in range(30):
        world = World(delay=0.05)
        world.filter = FairLoss(loss, seed)
        world.connect()
        world.run(60.0, lambda world=world: world.states == ("completed", "completed"))  # type: ignore[misc]
        assert world.states == ("completed", "completed"), seed
        assert world.a.ice.send_path == Path(address(1), address(2))


def test_con_02_con_03_consent_is_asked_every_five_seconds_and_ends_after_thirty() -> None:
    world = World()
    world.connect()
    before = len(requests(world, "a"))
    world.run(60.0)
    assert world.a.state == "completed"
    asked = len(requests(world, "a")) - before
    assert 10 <= asked <= 15  # 60 s at 4 to 6 s
    world.filter = lambda _agent, _sent: False
    world.run(23.9)
    assert world.a.sends_to() == address(2)
    world.run(6.2)
    assert world.a.sends_to() is None
    assert world.a.state == "disconnected"
    assert len(world.a.of(ConsentExpired)) == 1


def test_ice_58_ice_59_a_restart_keeps_the_path_until_the_new_one_is_nominated() -> None:
    world = World()
    world.connect()
    old = world.a.ice.local_credentials
    changes = len(world.a.of(SendPathChanged))
    world.a.add_base(address(11))
    world.a.ice.restart(now=world.now)
    world.a.drain()
    world.b.ice.restart(now=world.now)
    world.b.drain()
    assert world.a.ice.local_credentials.ufrag != old.ufrag
    assert world.a.ice.local_credentials.pwd != old.pwd
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    gaps: list[float] = []

    def no_path() -> bool:
        if world.a.ice.send_path is None or world.b.ice.send_path is None:
            gaps.append(world.now)
        return bool(world.a.of(RestartSucceeded)) and bool(world.b.of(RestartSucceeded))

    world.run(2.0, no_path)
    assert gaps == []
    assert len(world.a.of(RestartSucceeded)) == len(world.b.of(RestartSucceeded)) == 1
    later = world.a.of(SendPathChanged)[changes:]
    assert all(isinstance(event, SendPathChanged) and event.path is not None for event in later)
    assert old.ufrag in world.a.ice.ufrags()
    world.run(11.0)
    assert world.a.ice.ufrags() == (world.a.ice.local_credentials.ufrag,)


def test_ice_60_a_failed_restart_leaves_the_old_path() -> None:
    world = World()
    world.connect()
    path = world.a.ice.send_path
    world.a.ice.restart(now=world.now)
    world.a.drain()
    world.b.ice.restart(now=world.now)
    world.b.drain()
    ufrags = {world.a.ice.local_credentials.ufrag, world.b.ice.local_credentials.ufrag}

    def old_only(_agent: object, sent: object) -> bool:
        username = stun.decode(sent.data).get(stun.Attribute.USERNAME)  # type: ignore[attr-defined]
        return not isinstance(username, str) or username.partition(":")[0] not in ufrags

    world.filter = old_only
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    world.run(60.0)
    assert len(world.a.of(RestartFailed)) == 1
    assert world.a.ice.send_path == path
    assert world.a.state == "completed"


def test_ice_60_a_restart_that_is_taken_back_changes_nothing() -> None:
    world = World()
    world.connect()
    before = world.a.ice.local_credentials
    world.a.ice.restart(now=world.now)
    world.a.ice.revert_restart(now=world.now)
    world.a.drain()
    assert world.a.ice.local_credentials == before
    assert world.a.state == "completed"


def test_a_base_that_goes_takes_its_path_with_it_and_a_restart_brings_another() -> None:
    world = World()
    world.connect()
    world.a.remove_base(address(1))
    assert world.a.sends_to() is None
    assert len(world.a.of(SelectedPathLost)) == 1
    world.a.ice.restart(now=world.now)
    world.a.drain()
    world.a.trickles = False
    world.b.ice.restart(now=world.now)
    world.b.drain()
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    # The new address comes after the restart began, and is trickled.
    world.a.add_base(address(12))
    world.run(2.0)
    assert world.a.ice.send_path == Path(address(12), address(2))
    assert world.b.ice.send_path == Path(address(2), address(12))


def test_pac_01_pac_02_no_failure_before_patience_ends_and_then_with_a_verdict() -> None:
    world = World()
    for number, agent in ((1, world.a), (2, world.b)):
        agent.add_base(address(number))
        agent.end()
    world.filter = lambda _agent, _sent: False
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    world.run(39.4)
    assert world.a.state == "checking"
    world.run(1.0)
    assert world.a.state == "failed"
    failed = world.a.of(IceFailed)[0]
    assert isinstance(failed, IceFailed)
    assert failed.verdict.reason == "silence"
    assert [report.result for report in failed.verdict.pairs] == ["timeout"]


def test_trk_03_an_empty_remote_list_is_no_failure_and_a_late_candidate_connects() -> None:
    world = World()
    for number, agent in ((1, world.a), (2, world.b)):
        agent.add_base(address(number))
    candidate = world.b.candidates[0]
    world.b.candidates.clear()
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    world.filter = lambda agent, _sent: agent is world.a
    world.run(30.0)
    assert world.a.state == "checking"
    world.filter = lambda _agent, _sent: True
    world.a.ice.add_remote_candidate(candidate[0], ufrag=candidate[1], now=world.now)
    world.a.drain()
    world.run(5.0)
    assert world.a.state == "completed"


def test_ice_50_nothing_is_waited_for_where_two_host_addresses_meet() -> None:
    world = World(config=IceConfig(interface_ranks={"wwan0": 5}))
    world.a.add_base(address(1))
    world.b.add_base(address(2))
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    begun = world.now
    # Neither side said that it has no more candidates, but both are hosts: nothing better can come.
    world.run(2.0, lambda: bool(world.a.of(PairNominated)))
    assert world.now - begun < 0.1


def test_host_06_forged_answers_are_ignored_and_the_true_one_wins() -> None:
    world = World()
    for number, agent in ((1, world.a), (2, world.b)):
        agent.add_base(address(number))
        agent.end()
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    check = requests(world, "a")[0]
    mapped = [(stun.Attribute.XOR_MAPPED_ADDRESS, address(66))]
    for key in (None, b"x" * 24):
        forged = stun.encode(stun.Method.BINDING, stun.MessageClass.SUCCESS, check.transaction_id, mapped, key=key)
        world.a.ice.receive_stun(forged, Path(address(1), address(2)), now=world.now)
        world.a.drain()
    assert world.a.ice.send_path is None
    world.run(1.0)
    assert world.a.state == "completed"
    assert world.a.ice.drops.snapshot() == {"integrity_missing": 1, "integrity_mismatch": 1}


def test_ice_32_an_authentic_answer_from_elsewhere_fails_the_pair() -> None:
    world = World()
    for number, agent in ((1, world.a), (2, world.b)):
        agent.add_base(address(number))
        agent.end()
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    check = requests(world, "a")[0]
    key = world.b.ice.local_credentials.key
    mapped = [(stun.Attribute.XOR_MAPPED_ADDRESS, address(1))]
    answer = stun.encode(stun.Method.BINDING, stun.MessageClass.SUCCESS, check.transaction_id, mapped, key=key)
    world.a.ice.receive_stun(answer, Path(address(1), address(66)), now=world.now)
    world.a.drain()
    assert world.a.sends_to() is None
    # It was a replay: the answer that comes from where the check went makes the pair valid all the same.
    world.a.ice.receive_stun(answer, Path(address(1), address(2)), now=world.now)
    world.a.drain()
    assert world.a.sends_to() == address(2)


@pytest.mark.parametrize("message_class", [stun.MessageClass.SUCCESS, stun.MessageClass.ERROR])
@pytest.mark.parametrize("nominating", [False, True])
def test_host_06_an_answer_replayed_from_elsewhere_costs_no_more_than_its_loss(
    message_class: stun.MessageClass, *, nominating: bool
) -> None:
    world = World()
    lost: list[Transmit] = []

    def lose_one_answer(agent: Agent, sent: Transmit) -> bool:
        message = stun.decode(sent.data)
        if agent is world.a or message.message_class is stun.MessageClass.REQUEST or lost:
            return True
        asked = next(stun.decode(each.data) for each in world.a.sent if each.data[8:20] == message.transaction_id)
        if nominating and stun.Attribute.USE_CANDIDATE not in asked:
            return True
        lost.append(sent)
        key = world.b.ice.local_credentials.key
        values = [(stun.Attribute.XOR_MAPPED_ADDRESS, address(1)), (stun.Attribute.ERROR_CODE, stun.ErrorCode(400, ""))]
        value = values[message_class is stun.MessageClass.ERROR]
        answer = stun.encode(stun.Method.BINDING, message_class, message.transaction_id, [value], key=key)
        world.a.ice.receive_stun(answer, Path(address(1), address(66)), now=world.now)
        return False

    world.filter = lose_one_answer
    world.connect()
    assert lost
    assert (world.a.sends_to(), world.b.sends_to()) == (address(2), address(1))
    assert world.states == ("completed", "completed")
    assert world.a.ice.drops["asymmetric_response"] == 1
    changes = [event for event in world.a.of(SendPathChanged) if isinstance(event, SendPathChanged)]
    assert all(event.path is not None for event in changes)


@pytest.mark.parametrize("source", [2, 66])
def test_host_06_an_error_to_a_check_that_a_trigger_replaced_fails_nothing(source: int) -> None:
    world = World()
    world.filter = lambda agent, _sent: agent is world.b  # what A asks gets lost, so that B's checks trigger others
    world.gather()
    world.exchange()
    world.run(0.015)
    (check,) = requests(world, "a")
    key = world.b.ice.local_credentials.key
    error = [(stun.Attribute.ERROR_CODE, stun.ErrorCode(400, ""))]
    refusal = stun.encode(stun.Method.BINDING, stun.MessageClass.ERROR, check.transaction_id, error, key=key)
    world.a.ice.receive_stun(refusal, Path(address(1), address(source)), now=world.now)
    world.filter = lambda _agent, _sent: True
    world.run(2.0, lambda: world.states == ("completed", "completed"))
    assert world.states == ("completed", "completed")


def test_stun_24_unsigned_and_wrongly_signed_requests_get_400_and_401_at_a_bounded_rate() -> None:
    world = World()
    world.a.add_base(address(1))
    path = Path(address(1), address(66))
    ufrag = world.a.ice.local_credentials.ufrag
    name = [(stun.Attribute.USERNAME, f"{ufrag}:evil")]
    codes: list[int] = []
    for number in range(200):
        key = b"wrong" if number % 2 else None
        request = stun.encode(stun.Method.BINDING, stun.MessageClass.REQUEST, number.to_bytes(12), name, key=key)
        world.a.sent.clear()
        world.a.ice.receive_stun(request, path, now=world.now)
        world.a.drain()
        for sent in world.a.sent:
            assert len(sent.data) <= len(request)
            error = stun.decode(sent.data).get(stun.Attribute.ERROR_CODE)
            assert isinstance(error, stun.ErrorCode)
            codes.append(error.code)
    assert set(codes) == {400, 401}
    assert len(codes) == 5  # of one source
    assert world.a.ice.drops["refusal_rate"] == 195


@given(st.binary(max_size=200))
def test_host_01_garbage_never_raises_and_answers_nothing(data: bytes) -> None:
    world = World()
    world.a.add_base(address(1))
    world.a.sent.clear()
    world.a.ice.receive_stun(data, Path(address(1), address(66)), now=world.now)
    world.a.drain()
    assert world.a.sent == []


@given(st.integers(0, 95), st.integers(0, 255))
def test_host_04_a_check_with_one_byte_changed_never_makes_a_pair(at: int, value: int) -> None:
    world = World()
    for number, agent in ((1, world.a), (2, world.b)):
        agent.add_base(address(number))
        agent.end()
    world.a.describe_to(world.b)
    check = bytearray(world.b.sent[0].data)
    if at >= len(check) or check[at] == value:
        return
    check[at] = value
    world.a.ice.receive_stun(bytes(check), Path(address(1), address(66)), now=world.now)
    world.a.drain()
    assert not world.a.ice.accepts(Path(address(1), address(66)))


def test_host_12_a_flood_of_candidates_is_bounded() -> None:
    world = World()
    world.connect()
    world = World()
    world.a.add_base(address(1))
    world.b.add_base(address(2))
    world.b.describe_to(world.a)
    template, ufrag = world.b.candidates[0]
    import attrs

    for number in range(10_000):
        flood = attrs.evolve(template, address=TransportAddress(f"203.0.113.{number % 200 + 1}", 1024 + number))
        world.a.ice.add_remote_candidate(flood, ufrag=ufrag, now=world.now)
    world.a.drain()
    before = len(world.a.sent)
    world.run(1.0)
    assert world.a.ice.drops["remote_candidates_full"] == 10_000 - 63
    # One new check each 20 ms, and at most one repetition of each.
    assert len(world.a.sent) - before <= 2 * 51


@pytest.mark.parametrize("integrity", ["sha1", "sha256"])
def test_stun_08_stun_27_an_answer_that_must_not_be_taken_makes_no_pair(integrity: str) -> None:
    world = World()
    for number, agent in ((1, world.a), (2, world.b)):
        agent.add_base(address(number))
        agent.end()
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    check = requests(world, "a")[0]
    attributes: list[tuple[int, object]] = [(stun.Attribute.XOR_MAPPED_ADDRESS, address(1))]
    if integrity == "sha1":
        attributes.append((0x7A01, b"must be understood"))
    answer = stun.encode(
        stun.Method.BINDING,
        stun.MessageClass.SUCCESS,
        check.transaction_id,
        attributes,
        key=world.b.ice.local_credentials.key,
        integrity="sha1" if integrity == "sha1" else "sha256",
    )
    world.a.ice.receive_stun(answer, Path(address(1), address(2)), now=world.now)
    world.a.drain()
    assert world.a.sends_to() is None


def test_host_12_checks_that_the_peer_triggers_and_never_answers_fill_no_table() -> None:
    world = World()
    for number, agent in ((1, world.a), (2, world.b)):
        agent.add_base(address(number))
        agent.end()
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    world.filter = lambda _agent, _sent: False
    local, remote = world.b.ice.local_credentials, world.a.ice.local_credentials
    for number in range(1000):
        request = stun.encode(
            stun.Method.BINDING,
            stun.MessageClass.REQUEST,
            number.to_bytes(12),
            [
                (stun.Attribute.USERNAME, f"{remote.ufrag}:{local.ufrag}"),
                (stun.Attribute.PRIORITY, 1),
                (stun.Attribute.ICE_CONTROLLED, 1),
            ],
            key=remote.key,
        )
        world.a.ice.receive_stun(request, Path(address(1), address(2)), now=world.now)
        world.a.drain()
        world.run(0.02)
    assert len(world.a.ice._slots.current._checks) == 17


@pytest.mark.parametrize(("priority", "follows"), [(0x7FFFFFFF, True), (1, False)])
def test_ice_51_of_two_nominations_the_higher_priority_wins(priority: int, follows: bool) -> None:
    world = World()
    world.connect()
    world.a.add_base(address(11))
    nominate_from(world, 11, priority)
    world.run(1.0)
    assert world.b.sends_to() == address(11 if follows else 1)


def test_ice_51_a_nomination_is_followed_when_the_selected_path_is_lost() -> None:
    world = World()
    world.connect()
    world.a.add_base(address(11))
    world.filter = lambda _agent, sent: address(1) not in (sent.path.local, sent.path.remote)
    world.run(40.0)
    assert world.b.sends_to() is None
    nominate_from(world, 11, 1)
    world.run(1.0)
    assert world.b.sends_to() == address(11)


@pytest.mark.parametrize("better_first", [False, True])
def test_ice_51_the_best_of_an_aggressive_peers_nominations_wins_although_it_works_later(*, better_first: bool) -> None:
    world = World()
    for host in (1, 11):
        world.a.add_base(address(host))
    world.b.add_base(address(2))
    world.filter = lambda _agent, _sent: False
    world.exchange()
    for host in (1, 11) if better_first else (11, 1):
        nominate_from(world, host, 0x7FFFFFFF - host, number=host)
    # A's answers, and nothing else of it, get through.
    world.filter = lambda agent, sent: (
        stun.decode(sent.data).message_class is stun.MessageClass.SUCCESS
        if agent is world.a
        else sent.path.remote != address(1) or world.now > 101.0
    )
    world.run(0.9)
    assert world.b.sends_to() == address(11)
    world.run(3.0)
    assert world.b.sends_to() == address(1)
    assert len(world.b.of(PairNominated)) == 2


def nominate_from(world: World, host: int, priority: int, *, number: int = 0) -> None:
    """A nominates the pair of another of its addresses, as an aggressive peer does."""
    local, remote = world.a.ice.local_credentials, world.b.ice.local_credentials
    attributes: list[tuple[int, object]] = [
        (stun.Attribute.USERNAME, f"{remote.ufrag}:{local.ufrag}"),
        (stun.Attribute.PRIORITY, priority),
        (stun.Attribute.ICE_CONTROLLING, 1 << 63),
        (stun.Attribute.USE_CANDIDATE, True),
    ]
    transaction_id = bytes([number]) * 12
    request = stun.encode(stun.Method.BINDING, stun.MessageClass.REQUEST, transaction_id, attributes, key=remote.key)
    world.b.ice.receive_stun(request, Path(address(2), address(host)), now=world.now)
    world.b.drain()
