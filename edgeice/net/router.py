"""What a driver drives: the router that owns bases, flows and names, and the sessions that it routes datagrams to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.sansio import DatagramMachine, Delivery, Machine

__all__ = ["FlowAnswers", "Router", "Session"]


class Session(DatagramMachine, Protocol):
    """A machine that gets the datagrams which the router assigns to it."""


class Router(Machine, Protocol):
    """The machine that owns bases, flows and names, and knows to which session a datagram belongs."""

    def receive_datagram(self, data: bytes, path: Path, *, now: float) -> Session | None:
        """The session that must get the datagram; None if the router consumed or dropped it."""

    def base_added(self, base: Base, *, now: float) -> None:
        """A socket is open on `base`."""

    def base_removed(self, address: TransportAddress, *, now: float) -> None:
        """The socket on that base is closed."""

    def socket_error(self, path: Path, errno: int, *, now: float) -> None:
        """The kernel refused to send on `path`: a hint, told once per path and turn."""

    def resolved(self, name: str, addresses: list[str], *, now: float) -> None:
        """Answer to Resolve without a service; no addresses on failure."""

    def located(self, name: str, service: str, servers: list[tuple[str, int | None]], *, now: float) -> None:
        """Answer to Resolve with a service: addresses and ports, the first to be preferred; none on failure."""

    def flow_opened(self, flow_id: int, local: TransportAddress, *, now: float) -> None:
        """Answer to OpenFlow: connected from `local`."""

    def flow_failed(self, flow_id: int, reason: str, *, now: float) -> None:
        """Answer to OpenFlow: not connected, and why."""

    def flow_closed(self, flow_id: int, *, now: float) -> None:
        """The other end closed an open flow, or it broke."""

    def receive_stream(self, flow_id: int, data: bytes, *, now: float) -> None:
        """Bytes from an open flow."""

    def send_relayed(self, path: Path, data: bytes, *, now: float) -> bool:
        """Send a session's datagram whose base is no socket; False if it is no relayed address either."""

    def poll_delivery(self) -> Delivery | None:
        """A datagram that came wrapped in another, for a session; None when there is none."""

    def close(self, *, now: float) -> None:
        """The driver ends: let servers know while the sockets are still there."""

    def poll_touched(self) -> Session | None:
        """A session whose state the router changed by itself and that must be drained; None when there is none."""


class FlowAnswers:
    """Brings what happens to flows to the router: the sink of the driver's `FlowTable`."""

    def __init__(self, router: Router, touch: Callable[[Machine], None], clock: Callable[[], float]) -> None:
        self._router = router
        self._touch = touch
        self._clock = clock

    def flow_opened(self, flow_id: int, local: TransportAddress) -> None:
        """Connected."""
        self._router.flow_opened(flow_id, local, now=self._clock())
        self._touch(self._router)

    def flow_failed(self, flow_id: int, reason: str) -> None:
        """Not connected."""
        self._router.flow_failed(flow_id, reason, now=self._clock())
        self._touch(self._router)

    def flow_closed(self, flow_id: int) -> None:
        """Ended by the other side."""
        self._router.flow_closed(flow_id, now=self._clock())
        self._touch(self._router)

    def receive_stream(self, flow_id: int, data: bytes) -> None:
        """Bytes came."""
        self._router.receive_stream(flow_id, data, now=self._clock())
        self._touch(self._router)
