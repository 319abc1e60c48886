"""Whether a path that is left carries nothing any more, or still brings what was sent on it."""

from __future__ import annotations

import pytest

from edgeice.ice import SendPathChanged
from tests.support.ice_pair import Agent, World
from tests.support.ice_roaming import Roaming


def told(agent: Agent) -> list[tuple[str, bool]]:
    """Cause and verdict of each change of the path."""
    events = [event for event in agent.of(SendPathChanged) if isinstance(event, SendPathChanged)]
    return [(event.cause, event.broke) for event in events]


@pytest.mark.parametrize("mover", [1, 2])
def test_both_ends_know_that_a_path_broke_whose_interface_is_gone(mover: int) -> None:
    world = Roaming((2, 3) if mover == 1 else (1,), (2, 3) if mover == 2 else (1,))
    world.pull(mover, 2)
    world.run(1.0)
    ends = (world.a, world.b) if mover == 1 else (world.b, world.a)
    assert told(ends[0])[0] == ("base_gone", True)
    assert told(ends[1])[0] == ("peer_moved", True)
    assert all(not broke for end in ends for cause, broke in told(end) if cause == "nominated")


def test_the_controlling_side_knows_that_a_peer_that_moves_off_a_worse_link_does_so_as_it_broke() -> None:
    """The controlled side moves for no other reason."""
    world = Roaming((1,), (2, 3))
    assert world.b.ice.leave(cause="silent", now=world.now)
    world.b.drain()
    world.run(0.1)
    assert told(world.b)[0] == ("silent", True)
    assert told(world.a)[0] == ("peer_moved", True)
    # The better one answers again, and now the other is left.
    world.run(10.0, lambda: not any(pair.suspect for pair in world.b.ice._slots.current.checklist))
    world.forget()
    assert world.b.ice.leave(cause="silent", now=world.now)
    world.b.drain()
    world.run(0.1)
    assert told(world.a)[0] == ("peer_moved", True)


def test_a_path_that_is_left_for_a_better_one_still_works_at_both_ends() -> None:
    world = Roaming((3,), (1,))
    world.plug(1, 2)
    world.run(30.0)
    assert ("better", False) in told(world.a)
    assert ("peer_moved", False) in told(world.b)
    assert not any(broke for end in (world.a, world.b) for _, broke in told(end))


def test_a_restart_leaves_a_path_that_works() -> None:
    world = World()
    world.connect()
    for end in (world.a, world.b):
        end.events.clear()
    world.restart()
    world.run(5.0)
    assert {broke for end in (world.a, world.b) for _, broke in told(end)} == {False}


def test_a_restart_leaves_a_path_that_was_fading_as_one_that_broke() -> None:
    world = World()
    world.connect()
    world.filter = lambda _agent, _sent: False
    world.run(25.0)
    assert told(world.a)[-1] == ("consent", False)  # it fades
    world.filter = lambda _agent, _sent: True
    world.restart()
    world.run(1.0)
    assert ("restart", True) in told(world.a)


def test_what_comes_after_no_path_at_all_finds_everything_lost() -> None:
    world = Roaming((2,), (1,))
    world.pull(1, 2)
    world.run(1.0)
    world.plug(1, 2, port=4001)
    world.run(2.0)
    assert told(world.a)[0] == ("base_gone", False)
    assert told(world.a)[1][1] is True
