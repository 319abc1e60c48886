"""Nomination ends on the best path, on both sides (RFC 8445 §8.1.1), and goes on to it where the peer knows how to."""

from __future__ import annotations

import random

import attrs
import pytest

from edgeice import stun
from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice import IceConfig, Pacer, PairNominated, Role
from edgeice.sansio import Transmit
from tests.support.ice_pair import Agent, World, address

DIRECT = Path(address(1), address(2))
SERVER = TransportAddress("203.0.113.1", 3478)
HOSTS = {address(1), address(2)}


def is_direct(sent: Transmit) -> bool:
    return {sent.path.local, sent.path.remote} == HOSTS


class Ways(World):
    """Both agents have a host and a relayed candidate; relays always work.

    Args:
        renominates: Both announce renomination.
        works_after: Seconds until the direct path works, each way: A to B, B to A.
        seed: Of the agents.
    """

    def __init__(
        self, *, renominates: bool = False, works_after: tuple[float, float] = (0.0, 0.0), seed: int = 1
    ) -> None:
        super().__init__(seed=seed)
        self.begun = self.now
        self._works_after = works_after
        self.filter = self._passes
        for host, agent in ((1, self.a), (2, self.b)):
            agent.renominates = renominates
            agent.add_base(address(host))
            add_relay(agent, address(20 + host))
            agent.end()
        self.exchange()

    def _passes(self, agent: Agent, sent: Transmit) -> bool:
        after = self._works_after[agent is self.b]
        return not is_direct(sent) or self.now - self.begun >= after

    @property
    def ends(self) -> tuple[Path | None, Path | None]:
        """Where both send, each as A sees it."""
        theirs = self.b.ice.send_path
        return self.a.ice.send_path, None if theirs is None else Path(theirs.remote, theirs.local)


def add_relay(agent: Agent, base: TransportAddress) -> None:
    agent.world.hosts[base] = agent
    agent.ice.base_added(Base(base, "eth0", server=SERVER, mapped=base), now=agent.world.now)
    agent.drain()


def nominations(agent: Agent) -> list[Path]:
    return [event.path for event in agent.of(PairNominated) if isinstance(event, PairNominated)]


def numbers(agent: Agent) -> list[int | None]:
    """Of the nominating requests that an agent sent, repetitions aside."""
    found: dict[bytes, int | None] = {}
    for sent in agent.sent:
        message = stun.decode(sent.data)
        if message.get(stun.Attribute.USE_CANDIDATE):
            found.setdefault(message.transaction_id, message.get(stun.Attribute.NOMINATION))
    return list(found.values())


@pytest.mark.parametrize("lost", [0.1, 0.4, 1.0])
def test_ice_50_direct_beats_a_relay_that_answered_first(lost: float) -> None:
    world = Ways(works_after=(lost, lost))
    world.run(0.3)
    assert DIRECT not in world.ends
    world.run(10.0)
    assert world.states == ("completed", "completed")
    assert world.ends == (DIRECT, DIRECT)
    assert nominations(world.a) == [DIRECT]
    assert len(nominations(world.b)) == 1
    assert numbers(world.a) == [None]


def test_ice_50_data_flows_by_the_relay_while_nomination_waits_for_a_better_pair() -> None:
    world = Ways(works_after=(1e9, 1e9))
    world.run(0.1)
    assert world.states == ("connected", "connected")
    assert None not in world.ends
    world.run(1.8)
    assert world.states == ("connected", "connected")
    world.run(0.2)
    assert world.states == ("completed", "completed")
    assert world.ends[0] == world.ends[1]


@pytest.mark.parametrize(("a_to_b", "b_to_a"), [(3.0, 0.0), (0.0, 3.0)])
def test_ice_50_a_direct_pair_on_which_the_peer_is_heard_is_waited_for_longer(a_to_b: float, b_to_a: float) -> None:
    world = Ways(works_after=(a_to_b, b_to_a))
    world.run(2.5)
    heard = b_to_a == 0.0
    assert (world.a.state == "completed") is not heard
    world.run(10.0)
    assert (world.ends == (DIRECT, DIRECT)) is heard
    assert world.ends[0] == world.ends[1]
    assert len(nominations(world.a)) == len(nominations(world.b)) == 1


@pytest.mark.parametrize("promising", [False, True])
def test_ice_50_the_wait_has_an_end(*, promising: bool) -> None:
    world = Ways(works_after=(1e9, 0.0 if promising else 1e9))
    begun = world.now
    world.run(30.0, lambda: bool(nominations(world.a)))
    assert world.now - begun == pytest.approx(5.06 if promising else 2.06, abs=0.05)


def test_ice_50_where_only_relays_are_known_nothing_is_waited_for() -> None:
    world = World()
    for host, agent in ((21, world.a), (22, world.b)):
        add_relay(agent, address(host))
        agent.end()
    begun = world.now
    world.exchange()
    world.run(5.0, lambda: world.states == ("completed", "completed"))
    assert world.now - begun < 0.1


def test_ice_50_a_plain_peer_sees_one_nomination_although_a_better_pair_works_later() -> None:
    world = Ways(works_after=(6.0, 6.0))
    world.run(5.9)
    relayed = world.ends
    assert relayed[0] == relayed[1] != DIRECT
    before = len([sent for sent in world.a.sent if is_direct(sent)])
    world.run(60.0)
    assert world.ends == relayed
    assert len(nominations(world.a)) == len(nominations(world.b)) == 1
    assert numbers(world.a) == [None]
    assert len([sent for sent in world.a.sent if is_direct(sent)]) == before


def test_renomination_moves_both_ends_to_a_better_pair_that_works_later() -> None:
    world = Ways(renominates=True, works_after=(6.0, 6.0))
    gaps: list[float] = []

    def look() -> bool:
        if world.now - world.begun > 0.1 and None in world.ends:
            gaps.append(world.now)
        return False

    world.run(5.9)
    assert world.ends[0] != DIRECT
    assert world.states == ("completed", "completed")
    world.run(14.0, look)
    assert world.ends == (DIRECT, DIRECT)
    assert gaps == []
    assert nominations(world.a)[-1] == DIRECT
    assert numbers(world.a) == [1, 2]
    # The other pairs are given up, and nothing but consent is sent.
    world.run(60.0)
    assert [pair.path for pair in world.a.ice._slots.current.checklist] == [DIRECT]
    before = len(world.a.sent)
    world.run(60.0)
    assert len(world.a.sent) - before <= 2 * 16


@pytest.mark.parametrize("renominates", [False, True])
def test_renomination_costs_nothing_where_a_direct_pair_is_selected(*, renominates: bool) -> None:
    world = World()
    world.a.renominates = world.b.renominates = renominates
    world.a.add_base(address(1))
    world.b.add_base(address(2))
    template, ufrag = world.b.candidates[0]
    unreachable = [
        (attrs.evolve(template, foundation=str(n), priority=template.priority + n, address=address(60 + n)), ufrag)
        for n in range(1, 9)
    ]
    world.b.candidates[:0] = unreachable
    world.exchange()
    world.run(2.0)
    assert world.states == ("completed", "completed")
    assert world.a.ice.send_path == DIRECT
    assert [pair.path for pair in world.a.ice._slots.current.checklist] == [DIRECT]
    sent = len(world.a.sent)
    world.run(60.0)
    assert len(world.a.sent) - sent <= 2 * 16  # consent, asked and answered
    # Nor does a candidate that comes now lead to anything.
    world.a.ice.add_remote_candidate(unreachable[0][0], ufrag=ufrag, now=world.now)
    assert world.a.ice.drops["candidate_late"] == 1


@pytest.mark.parametrize("announces", ["a", "b"])
def test_renomination_is_used_only_if_both_announce_it(announces: str) -> None:
    world = World(config=IceConfig(renomination=False))
    one = Agent(world, *(Role.CONTROLLING, 1) if announces == "a" else (Role.CONTROLLED, 2), IceConfig(), Pacer())
    if announces == "a":
        world.a, one.peer, world.b.peer = one, world.b, one
    else:
        world.b, one.peer, world.a.peer = one, world.a, one
    one.renominates = True
    for host, agent in ((1, world.a), (2, world.b)):
        agent.add_base(address(host))
        add_relay(agent, address(20 + host))
        agent.end()
    world.filter = lambda _agent, sent: not is_direct(sent) or world.now > 106.0
    world.exchange()
    world.run(60.0)
    assert len(nominations(world.a)) == len(nominations(world.b)) == 1
    assert numbers(world.a) == [None]


def test_renomination_of_a_peer_is_ignored_where_it_is_switched_off_here() -> None:
    world = World(config=IceConfig(renomination=False))
    world.a.renominates = world.b.renominates = True
    world.connect()
    assert numbers(world.a) == [None]


def nominate(world: World, number: int | None, host: int, *, use_candidate: bool = True) -> None:
    """A nominates the pair of another of its addresses, by a request that only B sees."""
    local, remote = world.a.ice.local_credentials, world.b.ice.local_credentials
    attributes: list[tuple[int, object]] = [
        (stun.Attribute.USERNAME, f"{remote.ufrag}:{local.ufrag}"),
        (stun.Attribute.PRIORITY, 1),
        (stun.Attribute.ICE_CONTROLLING, 1 << 63),
    ]
    if use_candidate:
        attributes.append((stun.Attribute.USE_CANDIDATE, True))
    if number is not None:
        attributes.append((stun.Attribute.NOMINATION, number))
    transaction_id = bytes([host, number or 0]) * 6
    request = stun.encode(stun.Method.BINDING, stun.MessageClass.REQUEST, transaction_id, attributes, key=remote.key)
    world.b.ice.receive_stun(request, Path(address(2), address(host)), now=world.now)
    world.b.drain()
    world.run(0.5)


@pytest.mark.parametrize("use_candidate", [True, False])
def test_renomination_the_highest_number_counts_whatever_the_priority_and_replays_do_not(
    *, use_candidate: bool
) -> None:
    world = World()
    world.a.renominates = world.b.renominates = True
    world.connect()
    for host in (11, 12):
        world.a.add_base(address(host))
    nominate(world, 7, 11, use_candidate=use_candidate)
    assert world.b.sends_to() == address(11)
    nominate(world, 8, 12, use_candidate=use_candidate)
    assert world.b.sends_to() == address(12)
    nominate(world, 7, 11, use_candidate=use_candidate)  # somebody sends the former one again
    assert world.b.sends_to() == address(12)


@pytest.mark.parametrize("use_candidate", [True, False])
def test_renomination_numbers_mean_nothing_of_a_plain_peer(*, use_candidate: bool) -> None:
    world = World()
    world.connect()
    world.a.add_base(address(11))
    nominate(world, 7, 11, use_candidate=use_candidate)
    assert world.b.sends_to() == address(1)  # RFC 8445 §8.1.1: the higher priority


class Lossy:
    """Loses datagrams by seeded dice."""

    def __init__(self, loss: float, seed: int) -> None:
        self._loss = loss
        self._dice = random.Random(seed)

    def __call__(self, _agent: Agent, _sent: Transmit) -> bool:
        return self._dice.random() >= self._loss


@pytest.mark.parametrize("renominates", [False, True])
@pytest.mark.parametrize("loss", [0.1, 0.3])
def test_ice_50_both_ends_end_on_one_pair_on_lossy_links(loss: float, *, renominates: bool) -> None:
    direct = 0
    for seed in range(40):
        world = Ways(renominates=renominates, seed=seed * 2)
        world.filter = Lossy(loss, seed)
        world.run(20.0)
        # Consent that is lost by chance is another matter.
        assert world.states == ("completed", "completed"), seed
        assert world.ends[0] == world.ends[1], seed
        direct += world.ends[0] == DIRECT
    # What the first wait misses by chance, renomination repairs.
    assert direct == 40 if renominates else direct >= 36
