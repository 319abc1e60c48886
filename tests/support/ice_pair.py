"""Two ICE sessions on a simulated link, in virtual time."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice import (
    Candidate,
    CandidatePair,
    IceConfig,
    IceSession,
    LocalCandidateGathered,
    LocalCandidatesEnded,
    LocalCandidateWithdrawn,
    Pacer,
    RemoteParameters,
    Role,
)
from edgeice.ice.checklist import Checklist
from edgeice.sansio import Entropy, Event, Transmit, drain

__all__ = ["Agent", "World", "address", "form_one", "run_together"]


def address(host: int, port: int = 4000) -> TransportAddress:
    """An address of agent `host`."""
    return TransportAddress(f"192.0.2.{host}", port)


class Signal(Protocol):
    def __call__(self, *, now: float) -> None: ...


class Agent:
    """One session with what it said and sent."""

    def __init__(self, world: World, role: Role, seed: int, config: IceConfig, pacer: Pacer) -> None:
        self.world = world
        self.ice = IceSession(config, role=role, pacer=pacer, entropy=Entropy.seeded(seed), now=world.now)
        self.events: list[Event] = []
        self.sent: list[Transmit] = []
        #: When each of `sent` went.
        self.sent_at: list[float] = []
        self.candidates: list[tuple[Candidate, str]] = []
        self.peer: Agent
        #: Candidates go to the peer as soon as they are gathered.
        self.trickles = False
        #: Announces renomination; without, this is a plain peer.
        self.renominates = False
        #: Announces mobility as well.
        self.mobile = False
        #: What is said by signaling comes to the peer; without, only the first description does.
        self.signals = True

    def drain(self) -> None:
        drain(self.ice, self._act, self._hear)

    def _act(self, action: object) -> None:
        assert isinstance(action, Transmit)
        self.sent.append(action)
        self.sent_at.append(self.world.now)
        self.world.carry(self, action)

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        trickles = self.trickles and self.signals
        if isinstance(event, LocalCandidateGathered):
            self.candidates.append((event.candidate, event.ufrag))
            if trickles:
                self._signal(partial(self.peer.ice.add_remote_candidate, event.candidate, ufrag=event.ufrag))
        elif isinstance(event, LocalCandidateWithdrawn):
            if trickles:
                self._signal(partial(self.peer.ice.remove_remote_candidates, (event.candidate,), ufrag=event.ufrag))
        elif isinstance(event, LocalCandidatesEnded) and trickles:
            self._signal(partial(self.peer.ice.end_of_remote_candidates, ufrag=event.ufrag))

    def _signal(self, tell: Signal) -> None:
        if self.world.signaling_delay:
            self.world.signal(self.peer, tell)
        else:
            tell(now=self.world.now)
            self.world.touch(self.peer)

    def add_base(self, base: TransportAddress, interface: str = "eth0", cost: int = 0) -> None:
        self.world.hosts[base] = self
        self.ice.base_added(Base(base, interface, cost=cost), now=self.world.now)
        self.drain()

    def remove_base(self, base: TransportAddress) -> None:
        del self.world.hosts[base]
        self.ice.base_removed(base, now=self.world.now)
        self.drain()

    def end(self) -> None:
        self.ice.end_of_local_candidates(now=self.world.now)
        self.drain()

    def describe_to(self, other: Agent, *, pacing: float | None = 0.02) -> None:
        """What an offer or answer carries: credentials, Ta, candidates so far; further ones trickle."""
        credentials = self.ice.local_credentials
        parameters = RemoteParameters(
            credentials=credentials,
            pacing=pacing,
            renomination=self.renominates or self.mobile,
            mobility=self.mobile,
        )
        other.ice.set_remote_description(parameters, now=self.world.now)
        described = [candidate for candidate, ufrag in self.candidates if ufrag == credentials.ufrag]
        other.ice.add_remote_candidates(described, ufrag=credentials.ufrag, now=self.world.now)
        if any(isinstance(event, LocalCandidatesEnded) and event.ufrag == credentials.ufrag for event in self.events):
            other.ice.end_of_remote_candidates(ufrag=credentials.ufrag, now=self.world.now)
        self.trickles = True
        other.drain()

    def sends_to(self) -> TransportAddress | None:
        path = self.ice.send_path
        return None if path is None else path.remote

    @property
    def state(self) -> str:
        return self.ice.state.value

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


class World:
    """A clock, two agents A (controlling) and B, and a link with a delay.

    Args:
        delay: One way, seconds.
        config: Of both agents.
        roles: Who controls: `A`, else `B`, for each agent.
        pacer: That of A's host, if other sessions share it.
        seed: Of the randomness of A; B has the next.

    Attributes:
        signaling_delay: Of what is said by signaling after the first description, seconds.
        filter: Sees each datagram with its sender before it travels; False loses it.
        translate: Gives the source address that the receiver sees.
    """

    def __init__(
        self,
        *,
        delay: float = 0.010,
        config: IceConfig | None = None,
        roles: str = "AB",
        pacer: Pacer | None = None,
        seed: int = 1,
    ) -> None:
        self.now = 100.0
        self.delay = delay
        self.signaling_delay = 0.0
        self._signals: list[tuple[float, int, Agent, Signal]] = []
        self.hosts: dict[TransportAddress, Agent] = {}
        self.filter: Callable[[Agent, Transmit], bool] = lambda _agent, _sent: True
        self.translate: Callable[[TransportAddress], TransportAddress] = lambda source: source
        self._queue: list[tuple[float, int, Agent, bytes, Path]] = []
        self._order = itertools.count()
        self._touched: list[Agent] = []
        config = config or IceConfig()
        role = {"A": Role.CONTROLLING, "B": Role.CONTROLLED}
        self.a = Agent(self, role[roles[0]], seed, config, pacer or Pacer())
        self.b = Agent(self, role[roles[1]], seed + 1, config, Pacer())
        self.a.peer, self.b.peer = self.b, self.a

    def carry(self, sender: Agent, sent: Transmit) -> None:
        if not self.filter(sender, sent):
            return
        receiver = self.hosts.get(sent.path.remote)
        if receiver is not None:
            path = Path(sent.path.remote, self.translate(sent.path.local))
            heapq.heappush(self._queue, (self.now + self.delay, next(self._order), receiver, sent.data, path))

    def signal(self, receiver: Agent, tell: Signal) -> None:
        heapq.heappush(self._signals, (self.now + self.signaling_delay, next(self._order), receiver, tell))

    @property
    def states(self) -> tuple[str, str]:
        return self.a.state, self.b.state

    def touch(self, agent: Agent) -> None:
        self._touched.append(agent)

    def next_at(self) -> float:
        """When something happens next."""
        times = [agent.ice.next_timeout() for agent in (self.a, self.b)]
        times += [queue[0][0] for queue in (self._queue, self._signals) if queue]
        return min((time for time in times if time is not None), default=math.inf)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass; ends early once `until` holds."""
        end = self.now + seconds
        for _ in range(100_000):
            while self._touched:
                self._touched.pop().drain()
            if until():
                return
            at = self.next_at()
            if at > end:
                break
            self.now = max(self.now, at)
            if self._signals and self._signals[0][0] <= self.now:
                *_, receiver, tell = heapq.heappop(self._signals)
                tell(now=self.now)
                receiver.drain()
                continue
            if self._queue and self._queue[0][0] <= self.now:
                _at, _order, receiver, data, path = heapq.heappop(self._queue)
                receiver.ice.receive_stun(data, path, now=self.now)
                receiver.drain()
                continue
            for agent in (self.a, self.b):
                agent.ice.handle_timeout(now=self.now)
                agent.drain()
        else:
            raise AssertionError("time does not pass: an agent asks for the same deadline again and again")
        self.now = end

    def gather(self) -> None:
        """One host candidate each."""
        for number, agent in ((1, self.a), (2, self.b)):
            agent.add_base(address(number))
            agent.end()

    def exchange(self) -> None:
        """Offer and answer without delay."""
        self.a.describe_to(self.b)
        self.b.describe_to(self.a)

    def restart(self) -> None:
        """Both open a new generation, offered and answered without delay."""
        for agent in (self.a, self.b):
            agent.ice.restart(now=self.now)
            agent.drain()
        self.exchange()

    def connect(self) -> None:
        """One host candidate each, offer and answer without delay."""
        self.gather()
        self.exchange()
        self.run(1.0, lambda: self.states == ("completed", "completed"))


def form_one(pairs: Checklist, local: Candidate, remote: Candidate) -> CandidatePair | None:
    """Form a pair of two signaled candidates; None if none comes of it."""
    before = set(pairs)
    pairs.form([local], [remote])
    return next((pair for pair in pairs if pair not in before), None)


def run_together(worlds: list[World], seconds: float) -> None:
    """Let the same time pass in several worlds, whose agents A share a host."""
    end = worlds[0].now + seconds
    due = {world: world.next_at() for world in worlds}
    while (at := min(due.values())) <= end:
        for world in worlds:
            if due[world] <= at:
                world.run(at - world.now)
                due[world] = world.next_at()
    for world in worlds:
        world.now = end
