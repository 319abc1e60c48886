"""What nomination ends and what it leaves (RFC 8445 §8.1, §8.3)."""

from __future__ import annotations

import pytest

from edgeice import stun
from edgeice.addresses import Path, TransportAddress
from edgeice.ice import ConsentExpired, IceConfig, PairNominated, RestartSucceeded, SelectedPathLost
from edgeice.sansio import Transmit
from tests.support.ice_pair import Agent, World, address

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


def nominates(sent: Transmit, ufrag: str) -> bool:
    message = stun.decode(sent.data)
    username = message.get(stun.Attribute.USERNAME)
    wanted = isinstance(username, str) and username.startswith(ufrag)
    return wanted and message.get(stun.Attribute.USE_CANDIDATE) is not None


def test_ice_59_a_retiring_generation_answers_and_nominates_nothing() -> None:
    world = World()
    world.gather()
    old = world.b.ice.local_credentials.ufrag
    held: list[Transmit] = []

    def hold(_agent: Agent, sent: Transmit) -> bool:
        if nominates(sent, old):
            held.append(sent)
            return False
        return True

    world.filter = hold
    world.exchange()
    world.run(0.3)
    assert world.states == ("connected", "connected")
    world.restart()
    world.run(0.3)
    assert len(world.a.of(RestartSucceeded)) == len(world.b.of(RestartSucceeded)) == 1
    # Now the nomination of the old generation gets through, and its answer.
    world.b.sent.clear()
    world.filter = lambda _agent, _sent: True
    world.carry(world.a, held[0])
    world.run(1.0)
    assert [stun.decode(sent.data).message_class for sent in world.b.sent] == [stun.MessageClass.SUCCESS]
    for agent in (world.a, world.b):
        nominated = [event.generation for event in agent.of(PairNominated) if isinstance(event, PairNominated)]
        assert nominated == [1]
    assert world.a.ice.drops["unexpected_response"] == 1


def test_a_retiring_generation_asks_nothing_and_wakes_nobody() -> None:
    world = World(config=IceConfig(retire_time=20.0))
    world.connect()
    old = world.b.ice.local_credentials.ufrag
    world.run(3.5)  # its unselected pairs are released
    world.restart()
    world.run(4.0)
    assert len(world.a.of(RestartSucceeded)) == 1
    world.a.sent.clear()
    assert world.a.ice._slots.all()[1].next_timeout() is None
    world.run(15.0)
    names = [stun.decode(sent.data).get(stun.Attribute.USERNAME) for sent in world.a.sent]
    assert not any(isinstance(name, str) and name.startswith(old) for name in names)
    assert world.a.of(ConsentExpired) == []


def test_ice_50_the_answer_to_a_consent_check_that_repeats_the_nomination_concludes_it() -> None:
    world = World(delay=0.05)
    world.gather()
    unlucky: set[bytes] = set()

    def loses_answers(agent: Agent, sent: Transmit) -> bool:
        message = stun.decode(sent.data)
        if agent is world.a and message.get(stun.Attribute.USE_CANDIDATE) is not None and not unlucky:
            unlucky.add(message.transaction_id)
        return agent is world.a or message.transaction_id not in unlucky

    world.filter = loses_answers
    world.exchange()
    world.run(1.0)
    # B has followed the nomination, and A does not know it.
    assert world.states == ("connected", "completed")
    world.run(6.0)
    assert world.states == ("completed", "completed")
    assert len(world.a.of(PairNominated)) == len(world.b.of(PairNominated)) == 1
    world.run(120.0)  # the check itself is given up, and with it nothing
    assert world.states == ("completed", "completed")


def nominations_of(agent: Agent) -> set[TransportAddress]:
    """Where an agent sent requests that nominate."""
    return {
        sent.path.remote for sent in agent.sent if stun.decode(sent.data).get(stun.Attribute.USE_CANDIDATE) is not None
    }


@pytest.mark.parametrize("renominates", [False, True])
def test_ice_50_after_a_nomination_that_failed_only_renomination_makes_another(*, renominates: bool) -> None:
    world = World()
    world.a.renominates = world.b.renominates = renominates
    world.a.add_base(address(1))
    for host in (2, 12):
        world.b.add_base(address(host))
    world.a.end()
    world.b.end()
    # Both pairs answer until one is nominated; then that one falls silent.
    silent: set[TransportAddress] = set()

    def passes(agent: Agent, sent: Transmit) -> bool:
        if agent is world.a and stun.decode(sent.data).get(stun.Attribute.USE_CANDIDATE) is not None and not silent:
            silent.add(sent.path.remote)
        return not silent & {sent.path.local, sent.path.remote}

    world.filter = passes
    world.exchange()
    world.run(29.0)
    assert nominations_of(world.a) == silent
    assert world.a.state == "connected"
    world.run(60.0)
    if renominates:
        assert len(nominations_of(world.a)) == 2
        assert world.states == ("completed", "completed")
        return
    assert nominations_of(world.a) == silent
    assert world.a.sends_to() is None
    assert world.states == ("failed", "connected")
    # A restart brings what the first generation could not.
    world.restart()
    world.run(3.0)
    assert world.states == ("completed", "completed")
