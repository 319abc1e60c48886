"""A STUN server on the simulated internet."""

from __future__ import annotations

from typing import Protocol

from edgeice import stun
from edgeice.addresses import TransportAddress
from edgeice.errors import DecodeError
from tests.sim.network import Network

__all__ = ["DatagramService", "StunServer", "serve"]


class DatagramService(Protocol):
    """Takes datagrams of clients; gives what it sends back at once."""

    def receive(self, data: bytes, client: TransportAddress, *, now: float) -> list[tuple[TransportAddress, bytes]]:
        """Take a datagram; gives answers with their destinations."""


class StunServer:
    """Says to each who asks how it sees him (RFC 8489 §6.3.1)."""

    def __init__(self) -> None:
        self.answered = 0

    def receive(
        self,
        data: bytes,
        client: TransportAddress,
        *,
        now: float,  # noqa: ARG002  # it keeps nothing
    ) -> list[tuple[TransportAddress, bytes]]:
        """Answer a Binding request."""
        try:
            message = stun.decode(data)
        except DecodeError:
            return []
        if message.method != stun.Method.BINDING or message.message_class is not stun.MessageClass.REQUEST:
            return []
        self.answered += 1
        return [(client, stun.success_response(message, client))]


def serve(network: Network, service: DatagramService, address: TransportAddress) -> None:
    """Put a service on its host's interface."""
    interface = network.interfaces[f"server-{address.ip}", "eth0"]

    def receive(data: bytes, destination: TransportAddress, source: TransportAddress) -> None:
        if destination.port == address.port:
            for target, answer in service.receive(data, source, now=network.clock.now):
                network.send(interface, answer, destination, target)

    interface.receive = receive
