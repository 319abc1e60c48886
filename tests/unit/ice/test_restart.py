"""Restarts: what they change, what they leave, and what a storm of them does (RFC 8445 §9, §6.1.1)."""

from __future__ import annotations

import attrs
import pytest

from edgeice import stun
from edgeice.addresses import Path
from edgeice.errors import LocalProtocolError
from edgeice.ice import (
    LocalCandidatesEnded,
    PairNominated,
    RemoteParameters,
    RestartFailed,
    RestartSucceeded,
    Role,
    RoleSwitched,
)
from tests.support.ice_pair import Agent, World, address

PATH = Path(address(1), address(2))


def sent_by(agent: Agent, message_class: stun.MessageClass) -> list[stun.Message]:
    messages = [stun.decode(sent.data) for sent in agent.sent]
    return [message for message in messages if message.message_class is message_class]


def check_of_b(world: World, ufrags: tuple[str, str], pwd: str, number: int) -> bytes:
    """A check for A under given credentials."""
    attributes: list[tuple[int, object]] = [
        (stun.Attribute.USERNAME, ":".join(ufrags)),
        (stun.Attribute.PRIORITY, 1862270975),
        (stun.Attribute.ICE_CONTROLLED, 1),
    ]
    return stun.encode(
        stun.Method.BINDING, stun.MessageClass.REQUEST, number.to_bytes(12), attributes, key=pwd.encode()
    )


def receive(world: World, data: bytes, path: Path = PATH) -> None:
    world.a.ice.receive_stun(data, path, now=world.now)
    world.a.drain()


@pytest.mark.parametrize("roles", ["AB", "BA"])
def test_ice_58_a_restart_changes_both_credentials_and_candidates_start_anew_and_roles_stay(roles: str) -> None:
    world = World(roles=roles)
    world.connect()
    before = world.a.ice.local_credentials
    checklist = world.a.ice._slots.current.checklist
    role = world.a.ice.role
    world.restart()
    after = world.a.ice.local_credentials
    assert (before.ufrag == after.ufrag, before.pwd == after.pwd) == (False, False)
    world.run(2.0)
    assert len(world.a.of(RestartSucceeded)) == 1
    assert world.a.ice._slots.current.checklist is not checklist
    assert world.a.ice.role is role
    assert world.a.of(RoleSwitched) == []
    # The controlling side nominates in the new generation as it did in the first.
    assert len(world.a.of(PairNominated)) == len(world.b.of(PairNominated)) == 2


def test_ice_59_requests_of_both_generations_are_answered_under_their_own_credentials() -> None:
    world = World()
    world.connect()
    old = world.a.ice.local_credentials, world.b.ice.local_credentials
    for agent in (world.a, world.b):
        agent.ice.restart(now=world.now)
        agent.drain()
    new = world.a.ice.local_credentials, world.b.ice.local_credentials
    world.exchange()
    world.a.sent.clear()
    for number, (mine, theirs) in enumerate((old, new)):
        receive(world, check_of_b(world, (mine.ufrag, theirs.ufrag), mine.pwd, number))
        (answer,) = (each for each in sent_by(world.a, stun.MessageClass.SUCCESS) if each.transaction_id[-1] == number)
        stun.authenticate(answer, mine.key)
    # The old ones are still answered for ten seconds after the new ones took over.
    world.run(1.0)
    assert len(world.a.of(RestartSucceeded)) == 1
    for seconds, answered in ((8.0, True), (3.0, False)):
        world.run(seconds)
        world.a.sent.clear()
        receive(world, check_of_b(world, (old[0].ufrag, old[1].ufrag), old[0].pwd, 99))
        assert bool(sent_by(world.a, stun.MessageClass.SUCCESS)) is answered


def test_ice_60_new_credentials_of_the_peer_without_a_restart_are_refused_and_change_nothing() -> None:
    world = World()
    world.connect()
    other = World(seed=50).a.ice.local_credentials
    with pytest.raises(LocalProtocolError):
        world.a.ice.set_remote_description(RemoteParameters(credentials=other, pacing=0.02), now=world.now)
    world.run(60.0)
    assert world.states == ("completed", "completed")
    assert world.a.ice.send_path == PATH


def test_ice_60_the_peer_becomes_lite_only_by_a_restart() -> None:
    world = World(roles="BA")
    world.connect()
    credentials = world.b.ice.local_credentials
    lite = RemoteParameters(credentials=credentials, lite=True, trickle=False, pacing=0.02)
    world.a.ice.set_remote_description(lite, now=world.now)
    world.a.drain()
    world.run(30.0)
    assert world.a.of(RoleSwitched) == []  # the same credentials again: nothing is new
    for agent in (world.a, world.b):
        agent.ice.restart(now=world.now)
        agent.drain()
    world.a.ice.set_remote_description(attrs.evolve(lite, credentials=world.b.ice.local_credentials), now=world.now)
    world.a.drain()
    assert world.a.ice.role is Role.CONTROLLING


@pytest.mark.parametrize("by_check", [False, True])
def test_ice_61_a_peer_that_takes_the_other_role_with_a_restart_is_followed(*, by_check: bool) -> None:
    world = World()
    world.connect()
    assert (world.a.ice.role, world.b.ice.role) == (Role.CONTROLLING, Role.CONTROLLED)
    # B, who offers the restart, controls from now on, and has the larger tie-breaker.
    world.b.ice._take_role(Role.CONTROLLING)
    world.b.ice._shared.tie_breaker = (1 << 64) - 1
    # By B's check, and by the answer to A's own as well: 487 (RFC 8445 §7.2.5.1, §7.3.1.1).
    asked, message_class = (world.a, world.b)[by_check], stun.MessageClass.REQUEST
    world.filter = lambda agent, sent: (
        bool(world.a.of(RoleSwitched)) or agent is asked or stun.decode(sent.data).message_class is not message_class
    )
    world.restart()
    world.run(2.0)
    assert (world.a.ice.role, world.b.ice.role) == (Role.CONTROLLED, Role.CONTROLLING)
    assert len(world.a.of(RestartSucceeded)) == len(world.b.of(RestartSucceeded)) == 1
    assert world.states == ("completed", "completed")
    assert world.a.sends_to() == address(2)
    nominating = [
        message
        for message in sent_by(world.b, stun.MessageClass.REQUEST)
        if message.get(stun.Attribute.USE_CANDIDATE) is not None
    ]
    assert len(nominating) == 1


def test_ice_06_a_restart_after_a_new_base_waits_for_what_servers_say_of_it() -> None:
    world = World()
    world.connect()
    new, mapped, server = address(11), address(12, 5000), address(20, 3478)
    world.a.add_base(new)
    ufrag = world.a.ice.restart(now=world.now).ufrag
    world.a.drain()
    assert LocalCandidatesEnded(ufrag) not in world.a.of(LocalCandidatesEnded)
    world.a.ice.add_server_reflexive(new, mapped, server, now=world.now)
    world.a.ice.end_of_local_candidates(now=world.now)
    world.a.drain()
    told = [candidate.address for candidate, named in world.a.candidates if named == ufrag]
    assert told == [address(1), new, mapped]
    assert world.a.of(LocalCandidatesEnded)[-1] == LocalCandidatesEnded(ufrag)
    # Without a new base nothing is waited for.
    again = world.a.ice.restart(now=world.now).ufrag
    world.a.drain()
    assert world.a.of(LocalCandidatesEnded)[-1] == LocalCandidatesEnded(again)


def test_host_16_checks_of_a_generation_that_is_gone_are_refused() -> None:
    world = World()
    world.connect()
    mine, theirs = world.a.ice.local_credentials, world.b.ice.local_credentials
    world.restart()
    world.run(15.0)
    world.a.sent.clear()
    before = world.a.ice.drops["unknown_user"]
    for number in range(100):
        receive(world, check_of_b(world, (mine.ufrag, theirs.ufrag), mine.pwd, number))
    assert world.a.ice.drops["unknown_user"] - before == 100
    errors = [message.get(stun.Attribute.ERROR_CODE) for message in sent_by(world.a, stun.MessageClass.ERROR)]
    assert [error.code for error in errors if error is not None] == [401] * 5
    assert sent_by(world.a, stun.MessageClass.REQUEST) == []
    assert world.states == ("completed", "completed")


def test_host_16_a_check_that_mixes_the_generations_is_answered_and_has_no_consequence() -> None:
    world = World()
    world.connect()
    old = world.b.ice.local_credentials
    world.restart()
    world.run(2.0)
    mine = world.a.ice.local_credentials
    world.a.sent.clear()
    elsewhere = Path(address(1), address(66))
    receive(world, check_of_b(world, (mine.ufrag, old.ufrag), mine.pwd, 1), elsewhere)
    world.run(2.0)
    assert [stun.decode(sent.data).message_class for sent in world.a.sent if sent.path == elsewhere] == [
        stun.MessageClass.SUCCESS
    ]
    assert world.a.ice.drops["check_ufrag"] == 1
    assert not world.a.ice.accepts(elsewhere)


def test_host_16_candidates_and_end_of_a_replaced_generation_are_ignored() -> None:
    world = World()
    world.connect()
    template, ufrag = world.b.candidates[0]
    world.restart()
    world.run(2.0)
    pairs = len(world.a.ice._slots.current.checklist)
    before = world.a.ice.drops["candidate_generation"]
    late = attrs.evolve(template, address=address(66))
    world.a.ice.add_remote_candidate(late, ufrag=ufrag, now=world.now)
    world.a.ice.end_of_remote_candidates(ufrag=ufrag, now=world.now)
    world.a.ice.add_remote_candidate(late, ufrag="nobodys", now=world.now)
    world.a.drain()
    assert world.a.ice.drops["candidate_generation"] - before == 3
    assert len(world.a.ice._slots.current.checklist) == pairs


@pytest.mark.parametrize("every", [0.01, 0.1])
def test_host_16_a_storm_of_restarts_fills_no_table_and_leaves_the_path(every: float) -> None:
    """Too fast for any to succeed, and so that each does."""
    world = World()
    world.connect()
    for _ in range(round(3.0 / every)):
        world.restart()
        world.run(every)
        assert world.a.ice.send_path == PATH
        # Current, pending and at most two that were replaced.
        assert len(world.a.ice.ufrags()) <= 4
        assert len(world.a.ice._slots.all()) <= 4
    world.run(1.0)
    assert world.states == ("completed", "completed")
    world.run(15.0)
    assert len(world.a.ice.ufrags()) == 1
    # One check and one nomination for a generation at most, and their repetitions: at 20 ms apart.
    asked = {message.transaction_id for message in sent_by(world.a, stun.MessageClass.REQUEST)}
    assert len(asked) <= 2 + 4.0 / 0.02


def test_host_16_restarts_do_not_put_off_the_verdict_on_a_path_that_is_gone() -> None:
    """Each restart has patience of its own (RFC 8863 §4); a session without a path shows that all the same."""
    world = World()
    world.connect()
    world.filter = lambda _agent, _sent: False
    world.run(31.0)
    assert world.states == ("disconnected", "disconnected")
    for _ in range(20):
        world.restart()
        world.run(5.0)
        assert world.states == ("disconnected", "disconnected")
    world.run(35.0)
    assert world.states == ("failed", "failed")
    assert len(world.a.of(RestartFailed)) == 1


def test_ice_60_a_path_that_dies_during_a_restart_keeps_its_own_thirty_seconds() -> None:
    world = World()
    world.connect()
    world.run(5.5)
    fresh = max(
        at
        for at, sent in zip(world.b.sent_at, world.b.sent, strict=True)
        if stun.decode(sent.data).message_class is stun.MessageClass.SUCCESS
    )
    world.filter = lambda _agent, _sent: False
    world.restart()
    world.run(fresh + world.delay + 29.9 - world.now)
    assert world.a.ice.send_path == PATH
    world.run(0.2)
    assert world.a.ice.send_path is None
