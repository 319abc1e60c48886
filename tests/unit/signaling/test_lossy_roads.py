"""Two machines over roads that lose, repeat and reorder: what must hold whatever happens."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import pytest

from edgeice.sansio import Event
from edgeice.signaling import (
    AnswerReceived,
    CandidatesReceived,
    EndOfCandidatesReceived,
    LocalOfferCanceled,
    OfferExpired,
    OfferReceived,
    Road,
    SendSignal,
    SignalingSession,
)
from tests.unit.signaling import kit
from tests.unit.signaling.kit import FINGERPRINT_A, FINGERPRINT_B, WALL, make_sdp


@attrs.define
class Side:
    """One end: answers what is offered, and notes what it was told."""

    session: SignalingSession
    fingerprint: str
    letter: str
    setup: str
    #: The generation that both descriptions are known of, and whether the own offer of a later one is out.
    agreed: int = 0
    log: list[Event] = attrs.field(factory=list)
    offers: int = 0
    answers: int = 0

    def sdp(self, setup: str) -> str:
        self.offers += 1
        return make_sdp(f"{self.letter}gen{self.offers:04d}", setup=setup, fingerprint=self.fingerprint)

    def restart(self, now: float) -> None:
        self.session.offer(self.sdp("actpass"), now=now, wall=WALL)

    def take_events(self) -> None:
        while (event := self.session.poll_event()) is not None:
            self.log.append(event)
            if isinstance(event, OfferReceived):
                assert event.gen > self.agreed
                assert self.session.answer(event.gen, self.sdp(self.setup), wall=WALL)
                self.agreed = event.gen
            elif isinstance(event, AnswerReceived):
                assert event.gen > self.agreed
                self.agreed = event.gen


class World:
    """Two sides, two roads, one clock."""

    def __init__(self, seed: int, *, loss: float, channel_works: bool = True) -> None:
        operator, device = kit.established_pair()
        self.operator = Side(operator, FINGERPRINT_A, "A", "passive")
        self.device = Side(device, FINGERPRINT_B, "D", "active")
        self.now = 1.0
        self.channel_works = channel_works
        self._roads: dict[Road, kit.Road] = {
            "mqtt": kit.Road(seed, loss=loss),
            "channel": kit.Road(seed + 1, loss=loss),
        }

    def settle(self, side: Side) -> None:
        side.take_events()
        other = self.device if side is self.operator else self.operator
        while (action := side.session.poll_action()) is not None:
            assert isinstance(action, SendSignal)
            roads: tuple[Road, ...] = ("mqtt", "channel") if action.road == "both" else (action.road,)
            for road in roads:
                if road == "mqtt" or self.channel_works:
                    self._roads[road].carry(self.now, self._delivery(other, action.jws, road))

    def run(self, until: float) -> None:
        for _ in range(10_000):
            self.settle(self.operator)
            self.settle(self.device)
            machines = (self.operator.session, self.device.session)
            times = [m.next_timeout() for m in machines] + [road.next_at() for road in self._roads.values()]
            at = min((time for time in times if time is not None), default=until)
            if at >= until:
                self.now = until
                return
            self.now = max(self.now, at)
            for road in self._roads.values():
                while (deliver := road.pop_due(self.now)) is not None:
                    deliver()
            for machine in machines:
                machine.handle_timeout(now=self.now, wall=WALL)
        raise AssertionError("livelock")

    def _delivery(self, to: Side, jws: bytes, road: Road) -> Callable[[], None]:
        return lambda: to.session.receive_jws(jws, road, now=self.now, wall=WALL)


@pytest.mark.parametrize("seed", range(20))
def test_trk_02_restarts_over_lossy_roads_agree_on_a_generation(seed: int) -> None:
    world = World(seed, loss=0.3)
    dice = random.Random(seed)
    for _ in range(6):
        for side in dice.sample([world.operator, world.device], dice.randint(1, 2)):
            side.restart(world.now)
        world.run(world.now + dice.choice([0.05, 2.0, 15.0]))
    world.run(world.now + 20.0)
    # One more, with roads that work now and then: both ends must come together.
    for _ in range(5):
        world.operator.restart(world.now)
        world.run(world.now + 20.0)
        if world.operator.agreed == world.device.agreed == world.operator.session.next_gen - 1:
            break
    assert world.operator.agreed == world.device.agreed > 0
    for side in (world.operator, world.device):
        generations = [e.gen for e in side.log if isinstance(e, OfferReceived | AnswerReceived)]
        assert generations == sorted(set(generations)), "each generation is agreed on once, in order"


@pytest.mark.parametrize("seed", range(20))
def test_glare_on_perfect_roads_leaves_one_offer_and_one_answer(seed: int) -> None:
    world = World(seed, loss=0.0)
    world.operator.restart(world.now)
    world.device.restart(world.now)
    world.run(world.now + 20.0)
    assert [type(e) for e in world.operator.log] == [AnswerReceived]
    (offer,) = world.device.log
    assert isinstance(offer, OfferReceived)
    assert offer.rolled_back


@pytest.mark.parametrize("seed", range(10))
def test_a_restart_needs_no_channel_while_the_broker_works(seed: int) -> None:
    world = World(seed, loss=0.0, channel_works=False)
    world.device.restart(world.now)
    world.run(world.now + 20.0)
    assert [type(e) for e in world.device.log] == [AnswerReceived]
    assert world.operator.agreed == 1


@pytest.mark.parametrize("seed", range(20))
def test_trk_02_candidates_come_once_and_end_comes_last(seed: int) -> None:
    world = World(seed, loss=0.1)
    names = [f"candidate:{n}" for n in range(12)]
    side = world.operator
    side.restart(world.now)
    ufrag = f"Agen{side.offers:04d}"
    for index, name in enumerate(names):
        side.session.send_candidates(1, ufrag, (name,), end=index == 11, now=world.now, wall=WALL)
        world.run(world.now + 0.03)
    world.run(world.now + 30.0)
    log = world.device.log
    delivered = [c for event in log if isinstance(event, CandidatesReceived) for c in event.candidates]
    assert len(delivered) == len(set(delivered))
    assert set(delivered) <= set(names)
    ends = [index for index, event in enumerate(log) if isinstance(event, EndOfCandidatesReceived)]
    assert len(ends) <= 1
    if ends:
        # The patience for what got lost is much longer than a road's detours.
        assert not any(isinstance(event, CandidatesReceived) for event in log[ends[0] :])


@pytest.mark.parametrize("seed", range(10))
def test_candidates_on_roads_that_only_reorder_and_repeat_all_come(seed: int) -> None:
    world = World(seed, loss=0.0)
    names = [f"candidate:{n}" for n in range(12)]
    world.operator.restart(world.now)
    for index, name in enumerate(names):
        world.operator.session.send_candidates(1, "Agen0001", (name,), end=index == 11, now=world.now, wall=WALL)
        world.run(world.now + 0.03)
    world.run(world.now + 30.0)
    log = world.device.log
    assert sorted(c for event in log if isinstance(event, CandidatesReceived) for c in event.candidates) == sorted(
        names
    )
    assert isinstance(log[-1], EndOfCandidatesReceived)


def test_with_every_message_lost_each_offer_expires_and_nothing_else_happens() -> None:
    world = World(1, loss=1.0)
    world.operator.restart(world.now)
    world.device.restart(world.now)
    world.run(world.now + 60.0)
    for side in (world.operator, world.device):
        assert [type(event) for event in side.log] == [OfferExpired]
    assert LocalOfferCanceled not in {type(event) for event in world.device.log}
