"""What a check of the peer makes this side do (RFC 8445 §7.3)."""

from __future__ import annotations

import pytest

from edgeice import stun
from edgeice.addresses import Path
from edgeice.ice import Role
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


def test_ice_38_40_a_check_of_the_peer_is_answered_and_triggers_one() -> None:
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


def test_ice_14_31_a_check_that_names_another_ufrag_of_the_peer_settles_no_role() -> None:
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
