"""Two sessions with data channels whose hosts have several interfaces, on links that fail as told, in virtual time."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from random import Random
from typing import TypeVar

import attrs

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.dtls import Certificate
from edgeice.ice import IceConfig, Role
from edgeice.peer import (
    CandidateGathered,
    CandidatesEnded,
    CandidateWithdrawn,
    Connection,
    ConnectionState,
    Endpoint,
    EndpointConfig,
    PathChanged,
)
from edgeice.sansio import Action, Entropy, Event, Transmit, drain
from edgeice.sctp import ChannelOpened, MessageReceived
from edgeice.stun import is_stun

__all__ = ["Echo", "Host", "Roamers", "Wire"]

E = TypeVar("E", bound=Event)

CERTIFICATES = Certificate.generate(), Certificate.generate()


@attrs.define
class Wire:
    """What a host's interface goes by: seconds one way, what it loses out and in, and whether it carries."""

    name: str
    cost: int = 0
    delay: float = 0.010
    loss: tuple[float, float] = (0.0, 0.0)
    #: Out and in.
    works: tuple[bool, bool] = (True, True)

    def cut(self) -> None:
        """It carries nothing any more, and says nothing."""
        self.works = False, False


class Host:
    """One endpoint with its session, and what it told."""

    def __init__(self, world: Roamers, number: int, role: Role, wires: tuple[Wire, ...], ice: IceConfig) -> None:
        self.wires = {TransportAddress(f"192.0.{number + 2}.{each + 1}", 4000): wire for each, wire in enumerate(wires)}
        self.bases = {wire.name: Base(at, wire.name, cost=wire.cost) for at, wire in self.wires.items()}
        self.endpoint = Endpoint(EndpointConfig(ice=ice), entropy=Entropy.seeded(10 * world.seed + number))
        for base in self.bases.values():
            self.endpoint.base_added(base, now=world.now)
        self.connection: Connection = self.endpoint.connect(CERTIFICATES[number], role, now=world.now)
        self.events: list[tuple[float, Event]] = []
        self.peer: Host
        #: It does nothing until then: the process is not scheduled.
        self.stalls_until = 0.0
        self._world = world

    def drain(self) -> None:
        """Send and hear what there is."""
        drain(self.endpoint, self._act, self._hear)
        drain(self.connection, self._act, self._hear)

    def _act(self, action: Action) -> None:
        assert isinstance(action, Transmit)
        self._world.carry(self, action)

    def _hear(self, event: Event) -> None:
        self.events.append((self._world.now, event))
        if isinstance(event, MessageReceived):
            self.connection.channels.consumed(event.charge, now=self._world.now)
            self._world.on_message(self, event)
        elif isinstance(event, CandidateGathered | CandidatesEnded | CandidateWithdrawn) and self._world.signals:
            self._world.signal(self.peer, event)

    def loses(self, name: str) -> None:
        """An interface is gone, and the kernel says so."""
        self.endpoint.base_removed(self.bases[name].address, now=self._world.now)
        self.drain()

    def of(self, kind: type[E]) -> list[tuple[float, E]]:
        """Events of one kind, with the time."""
        return [(at, event) for at, event in self.events if isinstance(event, kind)]

    @property
    def paths(self) -> list[tuple[str, str]]:
        """Interface and cause of each change of the path."""
        told = [event for _, event in self.of(PathChanged)]
        return [(path.interface, path.cause) for path in told]

    @property
    def interface(self) -> str:
        """Where data leaves."""
        return self.connection.pathways.current.interface

    @property
    def messages(self) -> list[bytes | str]:
        """What came by data channels."""
        return [event.data for _, event in self.of(MessageReceived)]


class Roamers:
    """A (the offerer) and B with one open channel, and nothing under way.

    Args:
        a: A's interfaces.
        b: B's; one by default.
        seed: Of all dice.
        ice: Of A and of B.
        roles: Of A; B has the other.
    """

    def __init__(
        self,
        *a: Wire,
        b: tuple[Wire, ...] = (Wire("eth0", delay=0.0),),
        seed: int = 1,
        ice: tuple[IceConfig, IceConfig] | None = None,
        settle: float = 20.0,
    ) -> None:
        self.now = 100.0
        self.seed = seed
        self.dice = Random(seed)
        #: Candidates after the descriptions reach the peer.
        self.signals = True
        #: Everything that was put on a wire: when, by whom, what.
        self.sent: list[tuple[float, Host, Transmit]] = []
        self.on_message: Callable[[Host, MessageReceived], None] = lambda _host, _event: None
        self._flying: list[tuple[float, int, Host, Transmit]] = []
        self._signaled: list[tuple[float, int, Host, Event]] = []
        self._order = itertools.count()
        #: One object for each 5-tuple, as the driver has them.
        self._paths: dict[Path, Path] = {}
        configs = ice or (IceConfig(), IceConfig())
        self.a = Host(self, 0, Role.CONTROLLING, a, configs[0])
        self.b = Host(self, 1, Role.CONTROLLED, b, configs[1])
        self.a.peer, self.b.peer = self.b, self.a
        self.hosts = (self.a, self.b)
        offer = self.a.connection.create_offer(now=self.now)
        self.a.connection.accept_answer(self.b.connection.accept_offer(offer, now=self.now), now=self.now)
        self.run(settle / 2)
        assert all(host.connection.state is ConnectionState.CONNECTED for host in self.hosts)
        self.channel = self.a.connection.channels.open("label", now=self.now)
        self.a.connection.flush(now=self.now)
        self.run(settle / 2)
        assert all(host.of(ChannelOpened) for host in self.hosts)
        #: What it took to come so far.
        self.setup = tuple(self.sent)
        self.forget()

    def forget(self) -> None:
        """What was told and sent so far is of no interest."""
        self.sent.clear()
        for host in self.hosts:
            host.events.clear()

    def carry(self, sender: Host, sent: Transmit) -> None:
        """Put a datagram on the wires of both ends."""
        self.sent.append((self.now, sender, sent))
        out, into = sender.wires[sent.path.local], sender.peer.wires.get(sent.path.remote)
        if into is None or not out.works[0] or not into.works[1]:
            return
        if self.dice.random() < out.loss[0] or self.dice.random() < into.loss[1]:
            return
        heapq.heappush(self._flying, (self.now + out.delay + into.delay, next(self._order), sender.peer, sent))

    def signal(self, receiver: Host, event: Event) -> None:
        """Tell the peer by the signaling channel."""
        heapq.heappush(self._signaled, (self.now + 0.05, next(self._order), receiver, event))

    def send(self, host: Host, data: bytes) -> None:
        """Send a message by the channel."""
        host.connection.channels.send(self.channel, data, now=self.now)
        host.connection.flush(now=self.now)
        host.drain()

    def stun(self, host: Host, since: float = 0.0) -> list[Transmit]:
        """Binding requests that a host sent."""
        return [sent for at, by, sent in self.sent if by is host and at >= since and sent.data[:2] == b"\x00\x01"]

    def data(self, host: Host, since: float = 0.0) -> list[Transmit]:
        """Everything else but its STUN."""
        return [sent for at, by, sent in self.sent if by is host and at >= since and not is_stun(sent.data)]

    # Time

    def run(self, seconds: float) -> None:
        """Let so much virtual time pass."""
        until = self.now + seconds
        for _ in range(2_000_000):
            for host in self.hosts:
                host.drain()
            host = min(self.hosts, key=self._wakes)
            at = self._wakes(host)
            arrives = self._arrives()
            at = min(at, arrives, self._signaled[0][0] if self._signaled else math.inf)
            if at > until:
                break
            self.now = max(self.now, at)
            if self._signaled and self._signaled[0][0] <= self.now:
                self._take_signal(*heapq.heappop(self._signaled)[2:])
            elif arrives <= self.now:
                self._take_datagram()
            else:
                for machine in (host.endpoint, host.connection):
                    machine.handle_timeout(now=self.now)
        else:
            raise AssertionError("time does not pass")
        self.now = until

    def _wakes(self, host: Host) -> float:
        times = [machine.next_timeout() for machine in (host.endpoint, host.connection)]
        return max(min((at for at in times if at is not None), default=math.inf), host.stalls_until)

    def _arrives(self) -> float:
        """When a datagram is taken: not while its receiver stalls."""
        return min((max(at, host.stalls_until) for at, _, host, _ in self._flying), default=math.inf)

    def _take_datagram(self) -> None:
        index, flight = min(
            enumerate(self._flying), key=lambda each: (max(each[1][0], each[1][2].stalls_until), each[1][:2])
        )
        del self._flying[index]
        heapq.heapify(self._flying)
        _, _, host, sent = flight
        path = Path(sent.path.remote, sent.path.local)
        path = self._paths.setdefault(path, path)
        session = host.endpoint.receive_datagram(sent.data, path, now=self.now)
        if session is not None:
            session.receive_datagram(sent.data, path, now=self.now)
            session.batch_received(now=self.now)

    def _take_signal(self, host: Host, event: Event) -> None:
        match event:
            case CandidateGathered():
                host.connection.add_remote_candidate(event.candidate, event.ufrag, now=self.now)
            case CandidatesEnded():
                host.connection.end_of_candidates(event.ufrag, now=self.now)
            case CandidateWithdrawn():
                host.connection.remove_remote_candidate(event.candidate, event.ufrag, now=self.now)


class Echo:
    """A message from one host each 10 ms, which the other sends back."""

    def __init__(self, world: Roamers, sender: Host) -> None:
        self.world = world
        self.sender = sender
        self.said: list[bytes] = []
        self.heard: list[tuple[float, bytes]] = []
        world.on_message = self._on_message

    def _on_message(self, host: Host, event: MessageReceived) -> None:
        assert isinstance(event.data, bytes)
        if host is self.sender:
            self.heard.append((self.world.now, event.data))
        else:
            host.connection.channels.send(self.world.channel, event.data, now=self.world.now)
            host.connection.flush(now=self.world.now)

    def run(self, seconds: float) -> None:
        """Echo for so long."""
        for _ in range(round(seconds * 100)):
            data = b"%d" % len(self.said)
            self.said.append(data)
            self.world.send(self.sender, data)
            self.world.run(0.01)

    def finish(self) -> float:
        """All came back once and in order; gives the longest silence."""
        self.world.run(5.0)
        assert [data for _, data in self.heard] == self.said
        times = [at for at, _ in self.heard]
        return max(later - earlier for earlier, later in itertools.pairwise(times))
