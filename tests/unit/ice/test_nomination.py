"""What nomination ends and what it leaves (RFC 8445 §8.1, §8.3)."""

from __future__ import annotations

from edgeice.addresses import Path
from edgeice.ice import SelectedPathLost
from tests.support.ice_pair import World, address

OTHER = Path(address(11), address(2))


def two_ways() -> World:
    """A has two addresses, and both of its pairs are valid when the first is nominated."""
    world = World(delay=0.1)
    for host, agent in ((1, world.a), (11, world.a), (2, world.b)):
        agent.add_base(address(host))
    world.a.end()
    world.b.end()
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    world.run(2.0, lambda: world.states == ("completed", "completed"))
    assert world.a.ice.send_path == Path(address(1), address(2))
    return world


def test_ice_53_an_unselected_valid_pair_is_an_alternative_while_the_selected_one_is_replaced() -> None:
    world = two_ways()
    world.run(2.5)
    assert world.a.ice.accepts(OTHER)
    world.a.remove_base(address(1))
    # ICE-55: after nomination nothing but the selected pair carries data, so the owner learns that it must restart.
    assert world.a.sends_to() is None
    assert len(world.a.of(SelectedPathLost)) == 1
    world.restart()
    assert world.a.ice.send_path == OTHER  # at once, no check of the new generation is answered yet
    world.run(1.0)
    assert world.states == ("completed", "completed")
    assert world.a.ice.send_path == OTHER


def test_ice_53_unselected_pairs_are_released_three_seconds_after_nomination() -> None:
    world = two_ways()
    checklist = world.a.ice._slots.current.checklist
    assert [pair.path for pair in checklist] == [Path(address(1), address(2)), OTHER]
    sent = len(world.a.sent)
    world.run(2.9)
    assert len(checklist) == 2
    assert len(world.a.sent) == sent  # they are kept, and asked nothing
    world.run(0.2)
    assert [pair.path for pair in checklist] == [Path(address(1), address(2))]
    assert world.a.ice.accepts(OTHER)  # ICE-56
    world.a.remove_base(address(1))
    world.restart()
    assert world.a.ice.send_path is None


def test_ice_53_an_alternative_keeps_its_consent_while_nothing_is_selected() -> None:
    world = two_ways()
    world.a.remove_base(address(1))
    world.run(60.0)
    world.restart()
    assert world.a.ice.send_path == OTHER


def test_ice_52_pairs_that_are_not_valid_go_at_nomination_with_their_checks() -> None:
    world = World()
    for host, agent in ((1, world.a), (11, world.a), (2, world.b)):
        agent.add_base(address(host))
    world.filter = lambda _agent, sent: address(11) not in (sent.path.local, sent.path.remote)
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    world.run(1.0, lambda: world.states == ("completed", "completed"))
    current = world.a.ice._slots.current
    assert [pair.path for pair in current.checklist] == [Path(address(1), address(2))]
    assert len(current._checks) == 0
