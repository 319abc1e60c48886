"""Two hosts whose interfaces come and go, and a whole session between them, in Trio's virtual time.

Everything of the session is real: endpoints, ICE, DTLS, SCTP, the signaling's machines, what joins them, and what keeps
its path.  The network below is not, nor is the broker, which loses, repeats and reorders as it is told.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import attrs
import trio

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.dtls import Certificate
from edgeice.ice import IceConfig, Role
from edgeice.net import Driver
from edgeice.peer import Connection, Endpoint, EndpointConfig, PathMoved
from edgeice.sansio import Action, Entropy, Event, Machine, Transmit, drain
from edgeice.signaling import AnswerReceived, OfferReceived, SendSignal, SignalAction
from edgeice.transport import (
    SIGNAL_PROTOCOL,
    DataChannel,
    PathRecovery,
    PeerConnection,
    Progress,
    RestartOffered,
    SignaledConnection,
    SignalPump,
    Trouble,
)
from edgeice.transport.restarts import Need
from tests.unit.signaling import kit

__all__ = ["Broker", "Host", "Internet", "Side", "session_between"]

CERTIFICATES = Certificate.generate(), Certificate.generate()
#: How far a host's address is from the middle of the network, seconds.
DELAY = 0.02


class Internet:
    """Carries datagrams between the hosts' addresses, each of which has its own way and delay."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        #: Addresses that nothing comes to or from any more, and nobody is told.
        self.silent: set[str] = set()
        #: Datagrams carried.
        self.carried = 0
        self._flying: list[tuple[float, int, Transmit]] = []
        self._order = itertools.count()
        self._kick = trio.Event()

    def carry(self, sent: Transmit) -> None:
        """Put a datagram on its way."""
        heapq.heappush(self._flying, (trio.current_time() + 2 * DELAY, next(self._order), sent))
        self._kick.set()

    async def run(self) -> None:
        """Let datagrams arrive, for ever."""
        while True:
            at = self._flying[0][0] if self._flying else math.inf
            with trio.move_on_at(at):
                await self._kick.wait()
            self._kick = trio.Event()
            while self._flying and self._flying[0][0] <= trio.current_time():
                sent = heapq.heappop(self._flying)[2]
                host = self.hosts.get(sent.path.remote.ip)
                if host is not None and not self.silent & {sent.path.local.ip, sent.path.remote.ip}:
                    self.carried += 1
                    host.receive(sent)


class Host:
    """An endpoint and what drives it: stands where a Node and its Driver do."""

    def __init__(self, internet: Internet, seed: int, ice: IceConfig) -> None:
        self.endpoint = Endpoint(EndpointConfig(ice=ice), entropy=Entropy.seeded(seed))
        self._internet = internet
        self._bases: list[Base] = []
        self._sessions: dict[int, tuple[Connection, Callable[[Event], None]]] = {}
        self._ports = itertools.count(4000)
        self._watchers: list[Callable[[], None]] = []
        self._busy = self._again = False
        self._kick = trio.Event()

    # As a Node

    @property
    def bases(self) -> list[Base]:
        """What can be sent from."""
        return list(self._bases)

    def watch_network(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` after each change of `bases`; gives what ends that."""
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed)

    def connection(self, certificate: Certificate, watch: Callable[[Progress], None], role: Role) -> PeerConnection:
        """Begin a session."""
        self.endpoint.prepare()
        connection = self.endpoint.connect(certificate, role, now=trio.current_time())
        self.touch(self.endpoint)
        return PeerConnection(connection, self.endpoint, cast("Driver", self), watch)

    # Its interfaces

    def up(self, ip: str, interface: str, cost: int = 0) -> None:
        """An address comes, with a fresh socket."""
        base = Base(TransportAddress(ip, next(self._ports)), interface, cost=cost)
        self._bases.append(base)
        self._internet.hosts[ip] = self
        self.endpoint.base_added(base, now=trio.current_time())
        self._changed()

    def down(self, interface: str) -> None:
        """An interface goes."""
        for base in [base for base in self._bases if base.interface == interface]:
            self._bases.remove(base)
            self._internet.hosts.pop(base.address.ip, None)
            self.endpoint.base_removed(base.address, now=trio.current_time())
        self._changed()

    def _changed(self) -> None:
        self.touch(self.endpoint)
        for changed in tuple(self._watchers):
            changed()

    # As a Driver

    def attach(self, session: Connection, on_event: Callable[[Event], None], _on_failure: object = None) -> None:
        """Drive a session."""
        self._sessions[id(session)] = (session, on_event)

    def detach(self, session: Connection) -> None:
        """Drive it no more."""
        self._sessions.pop(id(session), None)

    def touch(self, _machine: object) -> None:
        """Send and tell what there is."""
        self._again = True
        if self._busy:
            return
        self._busy = True
        try:
            while self._again:
                self._again = False
                drain(self.endpoint, self._act, lambda _event: None)
                for session, on_event in tuple(self._sessions.values()):
                    drain(session, self._act, on_event)
        finally:
            self._busy = False
        self._kick.set()

    def receive(self, sent: Transmit) -> None:
        """Take a datagram."""
        path, now = Path(sent.path.remote, sent.path.local), trio.current_time()
        if all(base.address != path.local for base in self._bases):
            return
        session = self.endpoint.receive_datagram(sent.data, path, now=now)
        if session is not None:
            session.receive_datagram(sent.data, path, now=now)
            session.batch_received(now=now)
        self.touch(self.endpoint)

    async def run(self) -> None:
        """Wake the machines at their deadlines, for ever."""
        while True:
            self._kick = trio.Event()
            machines: list[Machine] = [self.endpoint, *(session for session, _ in self._sessions.values())]
            times = [at for machine in machines if (at := machine.next_timeout()) is not None]
            with trio.move_on_at(min(times, default=math.inf)):
                await self._kick.wait()
                continue
            for machine in machines:
                machine.handle_timeout(now=trio.current_time())
            self.touch(self.endpoint)
            await trio.lowlevel.checkpoint()

    def _act(self, action: Action) -> None:
        assert isinstance(action, Transmit)
        if any(base.address == action.path.local for base in self._bases):
            self._internet.carry(action)


@attrs.define
class Broker:
    """The road over the broker."""

    dice: random.Random
    loss: float = 0.0
    duplicates: float = 0.0
    #: Messages take from `delay` to `delay + spread` seconds.
    delay: float = DELAY
    spread: float = 0.0
    is_down: bool = False
    #: Messages that were given to it, by the parts of a session that gave them.
    messages: int = 0

    def carry(self, nursery: trio.Nursery, deliver: Callable[[], None]) -> None:
        """Bring a message to the other side, or not."""
        self.messages += 1
        for _ in range(1 + (self.dice.random() < self.duplicates)):
            if not self.is_down and self.dice.random() >= self.loss:
                nursery.start_soon(self._arrive, self.delay + self.spread * self.dice.random(), deliver)

    @staticmethod
    async def _arrive(delay: float, deliver: Callable[[], None]) -> None:
        await trio.sleep(delay)
        deliver()


class Side:
    """One end of the session.

    Attributes:
        offers: Why each restart was offered here, in their order.
        answered: Restarts of the other end that were answered here, by generation.
        agreed: Restarts offered here that were answered, by generation.
        moves: What became of the path.
        over: Set once the path was given up.
    """

    def __init__(
        self, host: Host, nursery: trio.Nursery, broker: Broker, *, offerer: bool, patience: float = 600.0
    ) -> None:
        machines = kit.make_pair()
        self.machine = machines[0 if offerer else 1]
        self.host = host
        self.other: Side
        self.troubles: list[Trouble] = []
        self.answered: list[int] = []
        self.agreed: list[int] = []
        self.moves: list[PathMoved] = []
        self.over = trio.Event()
        self._nursery = nursery
        self._broker = broker
        self.pump = SignalPump(self.machine, self._act, self._take, lambda: kit.WALL)
        self.signaled = SignaledConnection(self.machine, lambda: kit.WALL, self.pump.touch)
        role = Role.CONTROLLING if offerer else Role.CONTROLLED
        self.signaled.attach(host.connection(CERTIFICATES[not offerer], self._watch, role))
        self.recovery = PathRecovery(self.signaled, host, self.troubles.append, offerer=offerer, patience=patience)

    @property
    def peer(self) -> PeerConnection:
        """The peer connection."""
        return self.signaled.peer

    @property
    def offers(self) -> list[Need]:
        """See above."""
        return [trouble.need for trouble in self.troubles if isinstance(trouble, RestartOffered)]

    @property
    def interface(self) -> str:
        """Where data leaves, empty for nowhere."""
        path = self.peer.path.path
        return next((base.interface for base in self.host.bases if path and base.address == path.local), "")

    async def keep(self) -> None:
        """Keep the path until it is given up."""
        await self.recovery.run()
        self.over.set()
        self.peer.abort()

    def _watch(self, progress: Progress) -> None:
        self.signaled.watch(progress)
        self.recovery.watch(progress)
        if isinstance(progress, PathMoved):
            self.moves.append(progress)

    def _take(self, event: Event) -> None:
        match event:
            case OfferReceived(gen=0):
                self.signaled.answer_first(event)
                return
            case OfferReceived():
                self.answered.append(event.gen)
            case AnswerReceived() if event.gen:
                self.agreed.append(event.gen)
            case _:
                pass
        self.signaled.take(event)
        self.recovery.take(event)

    def _act(self, action: SignalAction) -> None:
        assert isinstance(action, SendSignal)
        if action.road in ("channel", "both"):
            self.signaled.send_on_channel(action.jws)
        if action.road in ("mqtt", "both"):
            self._broker.carry(self._nursery, lambda: self.other.hear(action.jws))

    def hear(self, jws: bytes) -> None:
        """Take a message of the broker's, the first of which opens the session."""
        if self.machine.next_gen == 0:
            kit.accept(self.machine, jws, now=trio.current_time())
            self.pump.touch()
            return
        self.machine.receive_jws(jws, "mqtt", now=trio.current_time(), wall=kit.WALL)
        self.pump.touch()

    async def run_channel(self, channel: DataChannel) -> None:
        """Use the session's own road."""

        def receive(text: str) -> None:
            self.machine.receive_jws(text, "channel", now=trio.current_time(), wall=kit.WALL)
            self.pump.touch()

        await self.signaled.run_channel(channel, receive)


@asynccontextmanager
async def session_between(
    device: Callable[[Host], None],
    operator: Callable[[Host], None],
    *,
    broker: Broker | None = None,
    ice: IceConfig | None = None,
    patience: float = 600.0,
    settle: float = 5.0,
    second_road: bool = True,
) -> AsyncIterator[tuple[Side, Side, Internet]]:
    """A session that is up: the operator's side, the device's and the network.

    Args:
        device: Gives its host the addresses.
        operator: The same.
        broker: One that carries all, unless told otherwise.
        ice: For both.
        patience: Of both.
        settle: Seconds that pass once it is up.
        second_road: Open the session's own channel for signaling.
    """
    async with trio.open_nursery() as nursery:
        internet, broker = Internet(), broker or Broker(random.Random(1))
        config = ice or IceConfig()
        hosts = Host(internet, 1, config), Host(internet, 2, config)
        operator(hosts[0])
        device(hosts[1])
        for task in (internet.run, hosts[0].run, hosts[1].run):
            nursery.start_soon(task)
        a = Side(hosts[0], nursery, broker, offerer=True, patience=patience)
        b = Side(hosts[1], nursery, broker, offerer=False, patience=patience)
        a.other, b.other = b, a
        for side in (a, b):
            nursery.start_soon(side.pump.run)
        faults, broker.is_down, broker.loss = (broker.is_down, broker.loss), False, 0.0
        a.machine.offer(a.signaled.describe_first(), now=trio.current_time(), wall=kit.WALL, want=(), nonce="n")
        a.pump.touch()
        channel = await a.peer.open_channel(SIGNAL_PROTOCOL)
        there = await b.peer.incoming.receive()
        if second_road:
            nursery.start_soon(a.run_channel, channel)
            nursery.start_soon(b.run_channel, there)
        for side in (a, b):
            nursery.start_soon(side.keep)
        await trio.sleep(settle)
        broker.is_down, broker.loss = faults
        yield a, b, internet
        nursery.cancel_scope.cancel()
