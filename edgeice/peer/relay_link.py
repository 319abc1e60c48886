"""One allocation and what carries it to its server: the datagrams of a base, or a TCP or TLS flow (RFC 8656 §3.1)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Literal

import attrs

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.sansio import Action, OpenFlow, SendStream, Transmit
from edgeice.turn import Allocated, Allocation

__all__ = ["RelayLink", "RelayTarget"]

#: Seconds after which a channel is asked for again; the server keeps one for 600 (RFC 8656 §12).
_REBIND: Final = 300.0
#: Seconds without a datagram through the server after one was sent, until it is asked whether it has the allocation
#: at all; twice as long where peers took to answer of late, and twice that each time, up to the second.
_SILENCE: Final = 0.5
_SILENCE_MOST: Final = 12.0
#: Of the longest time that peers took of late, what is left of it after each shorter one.
_FADING: Final = 7 / 8
#: How what peers sent comes from the server (RFC 8656 §11.5, §12.5).
_CHANNELS: Final = b"\x40"
_DATA_INDICATION: Final = b"\x00\x17"
#: Peers whose Path object is kept for the next datagram; the oldest is made anew.
_PATH_LIMIT: Final = 256


@attrs.frozen
class RelayTarget:
    """An address of a TURN server and how it is spoken to."""

    #: The URI that led here, for people.
    uri: str
    server: TransportAddress
    transport: Literal["udp", "tcp", "tls"]
    #: The host of the URI, which the certificate must name (RFC 8489 §6.2.3).
    host: str

    @property
    def key(self) -> tuple[TransportAddress, str]:
        """What makes two targets the same."""
        return self.server, self.transport


class RelayLink:
    """Brings an allocation's bytes to its server and back.

    Args:
        target: The server.
        base: The base whose datagrams carry it, or whose interface its flow is pinned to.
        flow_id: Number of the flow; None over UDP.
        allocation: The client of the server.

    Attributes:
        relayed: The bases that it is to sessions, once the server allocated them: one of each family.
        home: The interface that it began on; another one may carry it since (RFC 8016).
        started_at: When it began.
        carried_at: When it began to go the way that it goes now.
        used_at: When data went through it last.
        rtt: Round trip to the server in seconds, None before it is measured.
        failure: Why its flow could not be opened or broke, in words; empty otherwise.
    """

    def __init__(
        self, target: RelayTarget, base: Base, flow_id: int | None, allocation: Allocation, *, now: float
    ) -> None:
        self.target = target
        self.base = base
        self.flow_id = flow_id
        self.allocation = allocation
        self.relayed: tuple[Base, ...] = ()
        self.home = base.interface
        self.started_at = self.carried_at = self.used_at = now
        self.rtt: float | None = None
        self.failure = ""
        #: By which datagrams come from the server, None over a flow, and while nothing carries it.
        self.path = Path(base.address, target.server) if flow_id is None else None
        self._open = flow_id is None
        self._opened_told = self._open
        self._closing = False
        #: Peers that a channel was asked for, and when.
        self._bound: dict[TransportAddress, float] = {}
        #: When something was sent last, None once a peer was heard after that.
        self._sent_at: float | None = None
        #: How long peers may be silent, and how long they may go on to be: before any was heard, for long.
        self._patience, self._pause = _SILENCE, _SILENCE_MOST
        #: When the server is asked whether it has the allocation, None while peers are heard or nothing is sent.
        self._ask_at: float | None = None
        self._paths: OrderedDict[TransportAddress, Path] = OrderedDict()

    def flow_opened(self) -> None:
        """The flow stands: what waited may go."""
        self._open = True

    def allocated(self, event: Allocated) -> None:
        """The server relays for this host."""
        self.rtt = event.rtt if self.rtt is None else self.rtt
        addresses = (event.relayed,) if event.additional is None else (event.relayed, event.additional)
        self.relayed = tuple(
            Base(address, self.base.interface, self.target.server, event.mapped, self.base.cost)
            for address in addresses
        )

    def carry(self, base: Base, flow_id: int | None, *, now: float) -> bool:
        """Go on from another base, by its datagrams or a flow of its own; False without a ticket for that (RFC 8016).

        The relayed bases are the same, on another interface.
        """
        if self._closing or not self.allocation.move(now=now):
            return False
        self.base, self.flow_id, self.carried_at = base, flow_id, now
        self.path = Path(base.address, self.target.server) if flow_id is None else None
        self._open = self._opened_told = flow_id is None
        self._sent_at = self._ask_at = None
        self.relayed = tuple(attrs.evolve(each, interface=base.interface, cost=base.cost) for each in self.relayed)
        return True

    def strand(self) -> None:
        """Nothing carries it: what is sent is lost."""
        self.flow_id = self.path = None
        self._open, self._opened_told = False, True

    def send(self, path: Path, data: bytes, *, selected: bool, now: float) -> None:
        """Send a session's datagram; on a selected pair by a channel (RFC 8445 §12.1)."""
        if not (self._open or self.flow_id is not None):
            return
        peer = path.remote
        if selected:
            self.used_at = now
        # One that was not used for long is gone at the server.
        if selected and self._bound.get(peer, -_REBIND) <= now - _REBIND:
            self._bound[peer] = now
            self.allocation.bind(peer, now=now)
        self._note(path)
        if self._ask_at is None:
            self._ask_at = now + self._pause
        self._sent_at = now
        self.allocation.send(peer, data, now=now)

    def receive(self, data: bytes, *, now: float) -> None:
        """Take a datagram of the server's, or bytes of its flow."""
        # What the server says of its own proves nothing about its peers.
        if self._sent_at is not None and (data[:1] >= _CHANNELS or data[:2] == _DATA_INDICATION):
            longest = max(2 * (now - self._sent_at), self._patience * _FADING)
            self._patience = self._pause = min(max(longest, _SILENCE), _SILENCE_MOST)
            self._sent_at = self._ask_at = None
        self.allocation.receive(data, now=now)

    def handle_timeout(self, *, now: float) -> None:
        """Act on the allocation's deadlines, and ask the server whether it still has it where nobody is heard."""
        if self._ask_at is not None and self._ask_at <= now:
            self._ask_at = None
            self._pause = min(2 * self._pause, _SILENCE_MOST)
            self.allocation.confirm(now=now)
        self.allocation.handle_timeout(now=now)

    def next_timeout(self) -> float | None:
        """The earliest deadline."""
        at = self.allocation.next_timeout()
        if self._ask_at is None or self.allocation.is_ended:
            return at
        return self._ask_at if at is None else min(at, self._ask_at)

    def close(self, *, now: float) -> None:
        """Give the allocation back; the flow goes with it."""
        if not self._closing:
            self._closing = True
            self.allocation.close(now=now)

    @property
    def is_over(self) -> bool:
        """Whether a closed link has nothing left to say; the end of a flow ends its allocation (RFC 8656 §3.1)."""
        is_ended_by_flow = self.flow_id is not None and not self.allocation.is_mobile  # RFC 8016: else it outlives it
        return self._closing and (is_ended_by_flow or self.allocation.is_ended)

    def poll_action(self) -> Action | None:
        """The next thing to send."""
        if self.flow_id is not None and not self._opened_told:
            self._opened_told = True
            tls_name = self.target.host if self.target.transport == "tls" else None
            datagrams = self.target.transport == "udp"
            return OpenFlow(self.flow_id, self.target.server, self.base.interface or None, tls_name, datagrams)
        if not self._open:
            return None
        data = self.allocation.poll_transmit()
        if data is None:
            return None
        if self.path is not None:
            return Transmit(self.path, data)
        assert self.flow_id is not None  # the other way
        return SendStream(self.flow_id, data)

    def path_from(self, peer: TransportAddress) -> Path | None:
        """The 5-tuple of a datagram of `peer` through the relay, one object for each as the driver has it."""
        path = self._paths.get(peer)
        if path is not None:
            return path
        base = next((base for base in self.relayed if base.address.family == peer.family), None)
        return None if base is None else self._note(Path(base.address, peer))

    def paths_to(self, ip: str) -> list[Path]:
        """The 5-tuples through the relay to any port of an address."""
        return [path for peer, path in self._paths.items() if peer.ip == ip]

    def _note(self, path: Path) -> Path:
        known = self._paths.setdefault(path.remote, path)
        if len(self._paths) > _PATH_LIMIT:
            self._bound.pop(self._paths.popitem(last=False)[0], None)
        return known
