"""Opposite a peer that only answers (RFC 8445 §2.5, §6.1.1, §7.3.2)."""

from __future__ import annotations

import pytest

from edgeice import stun
from edgeice.ice import PairNominated, RemoteParameters, Role
from edgeice.sansio import Transmit
from tests.support.ice_pair import Agent, World, address


class LiteWorld(World):
    """B is lite: it answers A's checks and sends none.

    Attributes:
        nominations: Answer, once A has nominated, only what has USE-CANDIDATE, as some servers do.
    """

    def __init__(self, *, role: str = "A", nominations: bool = False) -> None:
        super().__init__(roles=role + ("B" if role == "A" else "A"))
        self.nominations = nominations
        self.filter = self._answers_only
        self.gather()
        credentials = self.b.ice.local_credentials
        lite = RemoteParameters(credentials=credentials, lite=True, trickle=False, pacing=0.02)
        self.a.ice.set_remote_description(lite, now=self.now)
        for candidate, ufrag in self.b.candidates:
            self.a.ice.add_remote_candidate(candidate, ufrag=ufrag, now=self.now)
        self.a.drain()

    def _answers_only(self, agent: Agent, sent: Transmit) -> bool:
        message = stun.decode(sent.data)
        if agent is self.b:
            return message.message_class is not stun.MessageClass.REQUEST
        nominated = bool(self.a.of(PairNominated))
        return not (self.nominations and nominated) or message.get(stun.Attribute.USE_CANDIDATE) is not None


def requests(agent: Agent) -> list[stun.Message]:
    messages = [stun.decode(sent.data) for sent in agent.sent]
    return [message for message in messages if message.message_class is stun.MessageClass.REQUEST]


@pytest.mark.parametrize("role", ["A", "B"])
def test_ice_13_ice_62_this_side_controls_a_lite_peer_and_nominates_once(role: str) -> None:
    world = LiteWorld(role=role)
    world.run(1.0)
    assert world.a.ice.role is Role.CONTROLLING
    assert world.a.state == "completed"
    assert world.a.sends_to() == address(2)
    assert [message.get(stun.Attribute.USE_CANDIDATE) is not None for message in requests(world.a)] == [False, True]


def test_ice_62_consent_with_a_lite_peer_repeats_the_nomination() -> None:
    world = LiteWorld(nominations=True)
    world.run(120.0)
    assert world.a.state == "completed"
    consent = requests(world.a)[2:]
    assert 19 <= len(consent) <= 30
    assert all(message.get(stun.Attribute.USE_CANDIDATE) is not None for message in consent)
    assert len(world.a.of(PairNominated)) == 1


def test_ice_50_consent_with_a_full_peer_nominates_nothing() -> None:
    world = World()
    world.connect()
    world.run(60.0)
    assert [message.get(stun.Attribute.USE_CANDIDATE) is not None for message in requests(world.a)].count(True) == 1
