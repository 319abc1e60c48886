"""When a session has failed, and when not yet (RFC 8445 §6.1.3, RFC 8838 §8, RFC 8863 §4)."""

from __future__ import annotations

from edgeice.addresses import TransportAddress
from edgeice.ice import IceFailed, IceStateChanged, RemoteParameters, RestartFailed
from tests.support.ice_pair import Agent, World, address


def reasons(agent: Agent) -> list[str]:
    return [event.verdict.reason for event in agent.of(IceFailed) if isinstance(event, IceFailed)]


def test_a_restart_that_fails_over_a_dead_path_fails_the_session() -> None:
    world = World()
    world.connect()
    world.filter = lambda _agent, _sent: False
    world.run(40.0)
    assert world.states == ("disconnected", "disconnected")
    world.restart()
    world.run(39.4)
    assert world.states == ("disconnected", "disconnected")
    assert reasons(world.a) == []
    world.run(0.2)
    assert world.states == ("failed", "failed")
    assert reasons(world.a) == reasons(world.b) == ["silence"]
    failed = world.a.of(RestartFailed)[0]
    assert isinstance(failed, RestartFailed)
    assert world.a.of(IceFailed) == [IceFailed(failed.verdict)]


def test_a_path_that_dies_during_a_restart_that_fails_fails_the_session() -> None:
    world = World()
    world.connect()
    world.run(25.0)
    world.filter = lambda _agent, _sent: False
    world.restart()
    world.run(39.6)
    assert world.states == ("failed", "failed")


def test_a_failed_session_comes_back_by_another_restart_and_fails_again_without() -> None:
    world = World()
    world.connect()
    world.filter = lambda _agent, _sent: False
    world.run(40.0)
    for number in (1, 2):
        world.restart()
        world.run(40.0)
        assert len(reasons(world.a)) == number
    assert [event.state.value for event in world.a.of(IceStateChanged) if isinstance(event, IceStateChanged)] == [
        "checking",
        "connected",
        "completed",
        "disconnected",
        "failed",
    ]
    world.filter = lambda _agent, _sent: True
    world.restart()
    world.run(1.0)
    assert world.states == ("completed", "completed")
    # A path that is lost later can come back by a restart: that is no failure.
    world.a.remove_base(address(1))
    world.run(1.0)
    assert world.a.state == "disconnected"


def test_ice_60_a_restart_that_failed_while_the_path_lived_fails_nothing_later() -> None:
    world = World()
    world.connect()
    world.a.ice.restart(now=world.now)
    world.a.drain()
    world.b.ice.restart(now=world.now)
    world.b.drain()
    # Each side hears of the other's restart, with addresses that nobody has.
    for agent in (world.a, world.b):
        agent.candidates.clear()
    world.a.describe_to(world.b)
    world.b.describe_to(world.a)
    world.run(45.0)
    assert world.states == ("completed", "completed")
    assert len(world.a.of(RestartFailed)) == 1
    world.filter = lambda _agent, _sent: False
    world.run(40.0)
    assert world.states == ("disconnected", "disconnected")
    assert reasons(world.a) == []


def checking(*, local_end: bool, remote_end: bool, trickle: bool = True) -> World:
    """A has the peer's parameters and candidates, and nothing answers."""
    world = World()
    world.filter = lambda _agent, _sent: False
    world.a.add_base(address(1))
    world.b.add_base(address(2))
    if local_end:
        world.a.end()
    if remote_end:
        world.b.end()
    credentials = world.b.ice.local_credentials
    world.a.ice.set_remote_description(
        RemoteParameters(credentials=credentials, trickle=trickle, pacing=0.02), now=world.now
    )
    world.b.describe_to(world.a)
    return world


def test_trk_03_no_failure_before_the_peer_has_said_that_it_has_no_more_candidates() -> None:
    world = checking(local_end=True, remote_end=False)
    world.run(300.0)
    assert world.a.state == "checking"
    world.b.end()
    world.run(0.0)
    assert world.a.state == "failed"
    assert reasons(world.a) == ["silence"]


def test_trk_03_no_failure_before_gathering_is_done() -> None:
    world = checking(local_end=False, remote_end=True)
    world.run(300.0)
    assert world.a.state == "checking"
    world.a.end()
    assert world.a.state == "failed"


def test_trk_03_a_peer_that_does_not_trickle_has_said_all_in_its_description() -> None:
    world = checking(local_end=True, remote_end=False, trickle=False)
    world.run(39.4)
    assert world.a.state == "checking"
    world.run(0.2)
    assert world.a.state == "failed"


def test_trk_03_a_candidate_after_patience_still_connects() -> None:
    world = checking(local_end=True, remote_end=False)
    world.a.describe_to(world.b)
    world.run(60.0)
    assert world.states == ("checking", "checking")
    world.filter = lambda _agent, _sent: True
    world.b.add_base(address(12))  # trickled
    world.run(5.0)
    assert world.a.state == "completed"
    assert world.a.sends_to() == address(12)


def test_trk_03_pac_02_ended_lists_without_a_pair_fail_when_patience_ends() -> None:
    world = World()
    world.a.add_base(address(1))
    world.a.end()
    world.b.add_base(TransportAddress("2001:db8::2", 4000))
    world.b.end()
    world.b.describe_to(world.a)
    world.run(39.4)
    assert world.a.state == "checking"
    world.run(0.2)
    assert reasons(world.a) == ["no_pairs"]
