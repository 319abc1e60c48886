"""The smallest machines that a driver can drive, for tests of the driver."""

# ruff: noqa: ARG002  # toys take what the contract passes, and keep what tests ask about
from __future__ import annotations

from collections import deque

import attrs

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.sansio import Action, Delivery, Event, Transmit


@attrs.frozen
class Noted(Event):
    """Something happened in a toy."""

    what: str


class Toy:
    """A session: keeps what it hears, echoes if asked to, and has a list of deadlines."""

    def __init__(self, *, echo: bool = False) -> None:
        self.echo = echo
        self.actions: deque[Action] = deque()
        self.events: deque[Event] = deque()
        self.received: list[tuple[bytes, Path]] = []
        #: When each input came, in order.
        self.times: list[float] = []
        self.deadlines: list[float] = []
        self.fired: list[float] = []

    def receive_datagram(self, data: bytes, path: Path, *, now: float) -> None:
        self.received.append((data, path))
        self.times.append(now)
        if self.echo:
            self.actions.append(Transmit(path, data))

    def batch_received(self, *, now: float) -> None:
        self.times.append(now)

    def handle_timeout(self, *, now: float) -> None:
        self.times.append(now)
        while self.deadlines and min(self.deadlines) <= now:
            self.deadlines.remove(min(self.deadlines))
            self.fired.append(now)

    def next_timeout(self) -> float | None:
        return min(self.deadlines, default=None)

    def poll_action(self) -> Action | None:
        return self.actions.popleft() if self.actions else None

    def poll_event(self) -> Event | None:
        return self.events.popleft() if self.events else None


class ToyRouter(Toy):
    """A router: gives all datagrams to one session, or takes them itself, and keeps every other input."""

    def __init__(self, session: Toy | None = None, *, echo: bool = False) -> None:
        super().__init__(echo=echo)
        self.session = session
        self.inputs: list[tuple[object, ...]] = []
        self.touched: deque[Toy] = deque()
        self.deliveries: deque[Delivery] = deque()
        #: The base that it relays for, and what was sent from there.
        self.relayed: TransportAddress | None = None
        self.sent: list[tuple[Path, bytes]] = []
        #: Sends a datagram again as soon as the kernel refuses one: what no driver must fall for.
        self.stubborn: Transmit | None = None

    def receive_datagram(self, data: bytes, path: Path, *, now: float) -> Toy | None:  # type: ignore[override]  # the router's says who is next
        if self.session is None:
            super().receive_datagram(data, path, now=now)
        return self.session

    def base_added(self, base: Base, *, now: float) -> None:
        self.inputs.append(("base_added", base))

    def base_removed(self, address: TransportAddress, *, now: float) -> None:
        self.inputs.append(("base_removed", address))

    def socket_error(self, path: Path, errno: int, *, now: float) -> None:
        self.inputs.append(("socket_error", path, errno))
        if self.stubborn is not None:
            self.actions.append(self.stubborn)

    def located(self, name: str, service: str, servers: list[tuple[str, int | None]], *, now: float) -> None:
        self.inputs.append(("located", name, service, servers))

    def resolved(self, name: str, addresses: list[str], *, now: float) -> None:
        self.inputs.append(("resolved", name, addresses))

    def flow_opened(self, flow_id: int, local: TransportAddress, *, now: float) -> None:
        self.inputs.append(("flow_opened", flow_id, local))

    def flow_failed(self, flow_id: int, reason: str, *, now: float) -> None:
        self.inputs.append(("flow_failed", flow_id, reason))

    def flow_closed(self, flow_id: int, *, now: float) -> None:
        self.inputs.append(("flow_closed", flow_id))

    def receive_stream(self, flow_id: int, data: bytes, *, now: float) -> None:
        self.inputs.append(("receive_stream", flow_id, data))

    def send_relayed(self, path: Path, data: bytes, *, now: float) -> bool:
        if path.local != self.relayed:
            return False
        self.sent.append((path, data))
        return True

    def poll_delivery(self) -> Delivery | None:
        return self.deliveries.popleft() if self.deliveries else None

    def close(self, *, now: float) -> None:
        self.inputs.append(("close",))

    def poll_touched(self) -> Toy | None:
        return self.touched.popleft() if self.touched else None
