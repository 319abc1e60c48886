"""A session on networks that Hypothesis draws, with things happening in any order; what it finds, it makes small."""

from __future__ import annotations

import random

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.sim.scenario import Blackout, Flush, Scenario, SessionPlan, draw_topology
from tests.sim.signaling import SignalingPlan
from tests.sim.world import World


class SessionMachine(RuleBasedStateMachine):
    """Two agents and whatever may happen to them."""

    world: World

    @initialize(
        seed=st.integers(0, 2**16),
        rough=st.booleans(),
        roles=st.tuples(st.booleans(), st.booleans()),
        trickles=st.tuples(st.booleans(), st.booleans()),
        signaling=st.sampled_from(
            (
                SignalingPlan(delay=0.001),
                SignalingPlan(delay=0.2, jitter=0.2, duplication=0.2, reordering=0.2, retained=True),
            )
        ),
    )
    def begin(
        self,
        seed: int,
        rough: bool,
        roles: tuple[bool, bool],
        trickles: tuple[bool, bool],
        signaling: SignalingPlan,
    ) -> None:
        topology = draw_topology(random.Random(seed), hosts=2, rough=rough, swift=not rough)
        plan = SessionPlan(one="a", other="b", controlling=roles, trickles=trickles, signaling=signaling)
        self.world = World(Scenario(seed=seed, topology=topology, sessions=(plan,)))
        # Nothing here is undisturbed.
        self.world.monitor.disturbed = True
        self.world.begin()

    @rule(seconds=st.sampled_from((0.01, 0.1, 1.0, 7.0)))
    def let_time_pass(self, seconds: float) -> None:
        self.world.clock.run(seconds)

    @rule(which=st.booleans(), again=st.booleans())
    def restart(self, which: bool, again: bool) -> None:
        self.world.parties[which].restart(again=again)

    @precondition(lambda self: all(party.is_answered for party in self.world.parties))
    @rule(which=st.booleans(), number=st.integers(0, 2))
    def leave_or_take_an_interface(self, which: bool, number: int) -> None:
        world, party = self.world, self.world.parties[which]
        plans = world.scenario.topology.host(party.name).interfaces
        plan = plans[number % len(plans)]
        if (party.name, plan.name) in world.up:
            world.up.discard((party.name, plan.name))
            party.agent.shut(plan)
        else:
            world.up.add((party.name, plan.name))
            party.agent.open(plan)
        party.restart(again=True)

    @rule(which=st.booleans(), number=st.integers(0, 2), seconds=st.sampled_from((2.0, 40.0)))
    def black_out(self, which: bool, number: int, seconds: float) -> None:
        host = self.world.scenario.topology.hosts[which]
        interface = host.interfaces[number % len(host.interfaces)].name
        self.world.begin_blackout(Blackout(host.name, interface, seconds))

    @precondition(lambda self: self.world.network.routers)
    @rule(number=st.integers(0, 5))
    def flush_a_router(self, number: int) -> None:
        routers = sorted(self.world.network.routers)
        self.world.network.routers[Flush(routers[number % len(routers)]).router].flush()

    @rule(which=st.booleans())
    def send_data(self, which: bool) -> None:
        self.world.parties[which].send(b"\x17more")

    @invariant()
    def nothing_is_violated(self) -> None:
        if hasattr(self, "world"):
            assert not self.world.monitor.violations

    def teardown(self) -> None:
        """Once it is left alone, the session comes to where the oracle says that it can."""
        if not hasattr(self, "world"):
            return
        world = self.world
        for party in world.parties:
            party.restart(again=True)
        world.rest(200.0, at_least=45.0)
        world.disturb()
        # One that has failed while its network was broken stays so.
        if not any(party.ended for party in world.parties):
            world.check()
        world.end()
        assert not world.monitor.violations


TestSession = SessionMachine.TestCase
TestSession.settings = hypothesis.settings(max_examples=25, stateful_step_count=12)
