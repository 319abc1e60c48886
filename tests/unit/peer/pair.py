"""Two sessions with data channels, each at an endpoint of its own, on a link in virtual time."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TypeVar

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.dtls import Certificate
from edgeice.ice import IceConfig, Role
from edgeice.peer import Connection, ConnectionState, Endpoint, EndpointConfig
from edgeice.sansio import Action, Entropy, Event, Transmit, drain
from edgeice.sctp import ChannelOpened, MessageReceived
from edgeice.stun import is_stun

__all__ = ["End", "Pair"]

E = TypeVar("E", bound=Event)

CERTIFICATES = Certificate.generate(), Certificate.generate()


class End:
    """One endpoint with its session, and what it told."""

    def __init__(self, pair: Pair, number: int, role: Role) -> None:
        self.base = Base(TransportAddress(f"192.0.2.{number + 1}", 4000), "eth0")
        self.bases = {self.base.address}
        self.endpoint = Endpoint(EndpointConfig(ice=pair.ice), entropy=Entropy.seeded(number))
        self.endpoint.base_added(self.base, now=pair.now)
        self.connection: Connection = self.endpoint.connect(CERTIFICATES[number], role, now=pair.now)
        self.events: list[Event] = []
        self._pair = pair

    def receive(self, sent: Transmit) -> None:
        """Take a datagram of the other end."""
        session = self.endpoint.receive_datagram(sent.data, Path(sent.path.remote, sent.path.local), now=self._pair.now)
        if session is not None:
            session.receive_datagram(sent.data, Path(sent.path.remote, sent.path.local), now=self._pair.now)
            session.batch_received(now=self._pair.now)
        self.drain()

    def also(self, base: Base) -> None:
        """Have another base from now on."""
        self.bases.add(base.address)
        self.endpoint.base_added(base, now=self._pair.now)
        self.drain()

    def drain(self) -> None:
        """Send and hear what there is."""
        drain(self.endpoint, self._act, self.events.append)
        drain(self.connection, self._act, self.events.append)

    def _act(self, action: Action) -> None:
        assert isinstance(action, Transmit)
        self._pair.carry(self, action)

    def of(self, kind: type[E]) -> list[E]:
        """Events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def messages(self) -> list[bytes | str]:
        """What came by data channels."""
        return [event.data for event in self.of(MessageReceived)]


class Pair:
    """A (the offerer) and B with one open channel, and nothing under way; or, unconnected, right after the answer.

    Attributes:
        held: Datagrams that the link keeps while `holds` is set, STUN aside; the test delivers them as it likes.
    """

    def __init__(self, *, connected: bool = True, ice: IceConfig | None = None) -> None:
        self.ice = ice or IceConfig()
        self.now = 100.0
        self.holds = False
        self.held: list[Transmit] = []
        self._flying: list[tuple[float, int, Transmit]] = []
        self._order = itertools.count()
        self.a, self.b = End(self, 0, Role.CONTROLLING), End(self, 1, Role.CONTROLLED)
        self.ends = (self.a, self.b)
        offer = self.a.connection.create_offer(now=self.now)
        self.a.connection.accept_answer(self.b.connection.accept_offer(offer, now=self.now), now=self.now)
        if not connected:
            return
        self.run(2.0)
        assert all(end.connection.state is ConnectionState.CONNECTED for end in self.ends)
        self.channel = self.a.connection.channels.open("label", now=self.now)
        self.a.connection.flush(now=self.now)
        self.run(1.0)
        assert all(end.of(ChannelOpened) for end in self.ends)
        for end in self.ends:
            end.events.clear()

    def carry(self, _sender: End, sent: Transmit) -> None:
        """Put a datagram on the link."""
        if self.holds and not is_stun(sent.data):
            self.held.append(sent)
        else:
            heapq.heappush(self._flying, (self.now + 0.001, next(self._order), sent))

    def deliver(self, sent: Transmit) -> None:
        """Let a held datagram arrive."""
        next(end for end in self.ends if sent.path.remote in end.bases).receive(sent)

    def send(self, end: End, data: bytes) -> None:
        """Send a message by the channel."""
        end.connection.channels.send(self.channel, data, now=self.now)
        end.connection.flush(now=self.now)
        end.drain()

    def run(self, seconds: float) -> None:
        """Let so much virtual time pass."""
        until = self.now + seconds
        for _ in range(100_000):
            for end in self.ends:
                end.drain()
            machines = [machine for end in self.ends for machine in (end.endpoint, end.connection)]
            at = min((at for machine in machines if (at := machine.next_timeout()) is not None), default=math.inf)
            if self._flying:
                at = min(at, self._flying[0][0])
            if at > until:
                break
            self.now = max(self.now, at)
            if self._flying and self._flying[0][0] <= self.now:
                self.deliver(heapq.heappop(self._flying)[2])
                continue
            for machine in machines:
                machine.handle_timeout(now=self.now)
        else:
            raise AssertionError("time does not pass")
        self.now = until
