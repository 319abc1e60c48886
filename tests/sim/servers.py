"""Servers on the simulated internet, and how datagrams and streams come to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import attrs

from edgeice import stun
from edgeice.addresses import TransportAddress
from edgeice.errors import DecodeError
from tests.sim.network import Interface, Network

__all__ = ["Flow", "Outgoing", "ServerHost", "Service", "StunServer"]

#: Seconds after which a stream tries again to get through an interface that swallows everything.
_RETRY = 0.25


@attrs.frozen
class Outgoing:
    """A datagram, or message of a stream where `target.protocol` is "tcp"."""

    local: TransportAddress
    target: TransportAddress
    data: bytes


class Service(Protocol):
    """Takes datagrams; gives what it sends at once."""

    def receive(self, data: bytes, local: TransportAddress, source: TransportAddress, *, now: float) -> list[Outgoing]:
        """Take a datagram that came to `local`."""

    def disconnected(self, client: TransportAddress) -> None:
        """A client's stream ended."""


class StunServer:
    """Says to each who asks how it sees him (RFC 8489 §6.3.1)."""

    def receive(
        self,
        data: bytes,
        local: TransportAddress,
        source: TransportAddress,
        *,
        now: float,  # noqa: ARG002  # it keeps nothing
    ) -> list[Outgoing]:
        """Answer a Binding request."""
        try:
            message = stun.decode(data)
        except DecodeError:
            return []
        if message.method != stun.Method.BINDING or message.message_class is not stun.MessageClass.REQUEST:
            return []
        return [Outgoing(local, source, stun.success_response(message, source))]

    def disconnected(self, client: TransportAddress) -> None:
        """It keeps nothing of clients."""


class ServerHost:
    """A server's place on the network.

    Args:
        network: Where it is.
        service: What it does.
        address: Where it listens.
        ports: Whether it has other ports too, as relays do.
    """

    def __init__(self, network: Network, service: Service, address: TransportAddress, *, ports: bool = False) -> None:
        self.address = address
        self._network = network
        self._service = service
        self._ports = ports
        self._interface = network.interfaces[f"server-{address.ip}", "eth0"]
        self._interface.receive = self._receive
        self._flows: dict[TransportAddress, Flow] = {}

    def _receive(self, data: bytes, destination: TransportAddress, source: TransportAddress) -> None:
        if destination.port == self.address.port or self._ports:
            self.handle(data, destination, source)

    def handle(self, data: bytes, local: TransportAddress, source: TransportAddress) -> None:
        """Let the service take a datagram, or a message of a stream, and send what it says."""
        for each in self._service.receive(data, local, source, now=self._network.clock.now):
            if each.target.protocol == "tcp":
                flow = self._flows.get(each.target)
                if flow is not None:
                    flow.send_back(each.data)
            else:
                self._network.send(self._interface, each.data, each.local, each.target)

    def connect(self, flow: Flow) -> None:
        """A stream to it is open."""
        self._flows[flow.client] = flow

    def disconnect(self, flow: Flow) -> None:
        """A stream ended."""
        if self._flows.pop(flow.client, None) is not None:
            self._service.disconnected(flow.client)


class Flow:
    """A TCP connection of a client to a server: everything arrives, in order, once the interface lets it through.

    Args:
        network: Where it is.
        interface: The client's.
        client: Its address as the server sees it; of no other flow.
        server: The other end.
        deliver: Gets what the server sends.
    """

    def __init__(
        self,
        network: Network,
        interface: Interface,
        client: TransportAddress,
        server: ServerHost,
        deliver: Callable[[bytes], None],
    ) -> None:
        self.client = client
        self._network = network
        self._interface = interface
        self._server = server
        self._deliver = deliver
        self._delay = interface.plan.link.delay + network.topology.core_delay
        self._there: deque[tuple[float, bytes]] = deque()
        self._back: deque[tuple[float, bytes]] = deque()
        self._unread = b""
        server.connect(self)

    def send(self, data: bytes) -> None:
        """Let the client send."""
        self._there.append((self._network.clock.now + self._delay, data))
        self._network.clock.after(self._delay, lambda: self._pump(self._there, self._arrive))

    def send_back(self, data: bytes) -> None:
        """Let the server send."""
        self._back.append((self._network.clock.now + self._delay, data))
        self._network.clock.after(self._delay, lambda: self._pump(self._back, self._deliver))

    def close(self) -> None:
        """End it; nothing arrives any more."""
        self._there.clear()
        self._back.clear()
        self._server.disconnect(self)

    def _pump(self, queue: deque[tuple[float, bytes]], arrive: Callable[[bytes], None]) -> None:
        if self._interface.up.broken:
            self._network.clock.after(_RETRY, lambda: self._pump(queue, arrive))
            return
        while queue and queue[0][0] <= self._network.clock.now:
            arrive(queue.popleft()[1])

    def _arrive(self, data: bytes) -> None:
        """Cut the stream into messages (RFC 8656 §12.5)."""
        self._unread += data
        while len(self._unread) >= 4:
            size = int.from_bytes(self._unread[2:4], "big")
            size = 4 + (size + 3 & ~3) if self._unread[0] & 0xC0 else 20 + size
            if len(self._unread) < size:
                return
            message, self._unread = self._unread[:size], self._unread[size:]
            self._server.handle(message, self._server.address, self.client)
