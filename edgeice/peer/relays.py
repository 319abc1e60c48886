"""Allocations on TURN servers as bases of the Endpoint: shared by its sessions, held while there are some.

Each uplink (interface) has one, on the server that is nearest from there; see `edgeice.peer.uplink`.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Final

from edgeice import __version__
from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice import ServerReflexiveLearned, SharedTurn
from edgeice.peer.config import TurnServer
from edgeice.peer.relay_events import RelayFailed, RelayGained, RelayLost, RelayMoved
from edgeice.peer.relay_link import RelayLink, RelayTarget
from edgeice.peer.relay_moves import RelayMoves
from edgeice.peer.relay_servers import RelayServers
from edgeice.peer.uplink import Uplink, UplinkOwner
from edgeice.sansio import Action, BoundedQueue, CloseFlow, DropCounter, Entropy, Event
from edgeice.turn import (
    Allocated,
    Allocation,
    AllocationFailed,
    AllocationLost,
    AllocationMoved,
    AllocationRedirected,
    PeerRefused,
    PeerUnreachable,
    ServerChallenged,
)

__all__ = ["Relays"]

#: Seconds that allocations outlive the last session: sessions come in bursts, the next one has its relay at once, and
#: servers refuse a 5-tuple whose allocation was deleted a moment ago.
_LINGER: Final = 30.0
#: What the server's log says who this is (RFC 8656 §5).
_SOFTWARE: Final = f"edgeice {__version__}"
#: Datagrams of peers that wait for the driver, which fetches them after each batch.
_DELIVERY_LIMIT: Final = 1024


class Relays:
    """Allocates while there are sessions, and carries their datagrams.

    Args:
        servers: Relays to race; raises ConfigError for more than 8.
        turn: That of all gathering at the host's budget of transactions.
        entropy: For transaction ids.

    Attributes:
        drops: `delivery_full` (more datagrams of peers than the driver fetches).
    """

    def __init__(self, servers: Sequence[TurnServer], turn: SharedTurn, entropy: Entropy) -> None:
        self.drops = DropCounter()
        self._turn = turn
        self._entropy = entropy
        self._servers = RelayServers()
        self._uplinks: dict[str, Uplink] = {}
        self._moves = RelayMoves(self._uplinks)
        self._owner = UplinkOwner(self._start, self._proceed, self._keep, self._drop, self._carry)
        self._wanted = False
        #: When what nobody uses is given back; None while it is used, or nothing is there.
        self._release_at: float | None = None
        self._flow_ids = itertools.count(1)
        self._links: dict[RelayLink, Uplink] = {}
        self._closing: list[RelayLink] = []
        self._by_path: dict[Path, RelayLink] = {}
        self._by_flow: dict[int, RelayLink] = {}
        self._by_relayed: dict[TransportAddress, RelayLink] = {}
        #: Links that may have something to say.
        self._dirty: dict[RelayLink, None] = {}
        self._actions: deque[Action] = deque()
        self._events: deque[Event] = deque()
        self._changes: deque[Base | TransportAddress] = deque()
        self._unreachable: deque[Path] = deque()
        self._deliveries: BoundedQueue[tuple[Path, bytes]] = BoundedQueue(_DELIVERY_LIMIT)
        self.set_servers(servers, now=0.0)

    def set_servers(self, servers: Sequence[TurnServer], *, now: float) -> None:
        """Use other servers or credentials from the next allocation on; those that are held stay (RFC 8656 §5)."""
        self._servers.replace(servers)
        for uplink in self._uplinks.values():
            if uplink.held is None:
                uplink.stop(now=now)  # who is raced may not be among them any more
        if self._wanted:
            self._look_up(now)

    # Inputs

    def acquire(self, *, now: float) -> None:
        """Sessions are there: allocate, unless that is done."""
        self._release_at = None
        if not self._wanted:
            self._wanted = True
            self._look_up(now)

    def release(self, *, now: float) -> None:
        """The last session is gone: give everything back, unless another one comes soon."""
        self._release_at = now + _LINGER

    def close(self, *, now: float) -> None:
        """Give everything back (RFC 8656 §8)."""
        self._release_at = None
        self._wanted = False
        for uplink in self._uplinks.values():
            uplink.stop(now=now)
        for link in self._moves.links:
            self._drop(link, now)
        self._settle(now)

    def base_added(self, base: Base, *, now: float) -> None:
        """A socket is open."""
        uplink = self._uplinks.setdefault(base.interface, Uplink(self._owner, self._turn))
        uplink.bases.append(base)
        for link in self._moves.stranded:
            if self._carry(link, now) and link not in self._moves.guests:
                uplink.resume(link, now=now)
        if self._wanted:
            uplink.race(self._servers.targets, now=now)
        self._settle(now)

    def base_removed(self, address: TransportAddress, *, now: float) -> None:
        """A socket is closed, and with it what it carried; another address of the interface takes over."""
        for interface, uplink in list(self._uplinks.items()):
            if any(base.address == address for base in uplink.bases):
                uplink.base_removed(address, now=now)
                if not uplink.bases:
                    uplink.stop(now=now)
                    del self._uplinks[interface]
                elif self._wanted:
                    uplink.race(self._servers.targets, now=now)
        for link in list(self._moves.guests):
            if link.base.address == address and not self._carry(link, now):
                self._drop(link, now)
        # What was carried from there has no way left to say anything.
        for link in [link for link in self._closing if link.base.address == address]:
            self._forget(link)
        self._settle(now)

    def resolved(self, name: str, addresses: Sequence[str], *, now: float) -> None:
        """A server's name was looked up."""
        self.located(name, "", [(ip, None) for ip in addresses], now=now)

    def located(self, name: str, service: str, servers: Sequence[tuple[str, int | None]], *, now: float) -> None:
        """A service's servers were looked up."""
        lost = self._servers.located(name, service, servers)
        if lost is None:
            return
        self._events.extend(RelayFailed(uri, None, None, "name_unknown", None) for uri in lost)
        self._race(now)

    @property
    def servers(self) -> tuple[TransportAddress, ...]:
        """Addresses of the servers, as far as they are known, and of those that they led to."""
        return (*(target.server for target in self._servers.targets), *(link.target.server for link in self._links))

    def is_server(self, path: Path) -> bool:
        """Whether an allocation's server is at the other end of a path."""
        return path in self._by_path

    def receive_datagram(self, data: bytes, path: Path, *, now: float) -> None:
        """Take a datagram of a server."""
        link = self._by_path[path]
        link.receive(data, now=now)
        self._touch(link, now)

    def flow_opened(self, flow_id: int, *, now: float) -> None:
        """A flow to a server stands."""
        link = self._by_flow.get(flow_id)
        if link is not None:
            link.flow_opened()
            self._touch(link, now)

    def flow_failed(self, flow_id: int, reason: str, *, now: float) -> None:
        """A flow could not be opened, or broke."""
        link = self._by_flow.pop(flow_id, None)
        if link is not None:
            link.failure = reason
            if not (self._moves.may_reopen(link, now) and self._take_to(link, link.base, now)):
                link.allocation.closed(now=now)
            self._touch(link, now)

    def receive_stream(self, flow_id: int, data: bytes, *, now: float) -> None:
        """Bytes of a server."""
        link = self._by_flow.get(flow_id)
        if link is not None:
            link.receive(data, now=now)
            self._touch(link, now)

    def send(self, path: Path, data: bytes, *, selected: bool, now: float) -> bool:
        """Send a session's datagram through the allocation that `path.local` is; False if there is none."""
        link = self._by_relayed.get(path.local)
        if link is None:
            return False
        link.send(path, data, selected=selected, now=now)
        self._touch(link, now)
        return True

    def handle_timeout(self, *, now: float) -> None:
        """Repeat, refresh, race, give back."""
        if self._release_at is not None and self._release_at <= now:
            self.close(now=now)
        for link in [*self._links, *self._closing]:
            at = link.next_timeout()
            if at is not None and at <= now:
                link.handle_timeout(now=now)
                self._dirty[link] = None
        for uplink in self._uplinks.values():
            if uplink.retry_at is not None and uplink.retry_at <= now:
                uplink.retry_at = None
                self._look_up(now)
                uplink.race(self._servers.targets, now=now)
            uplink.work(now=now)
        for link in self._moves.take_due(now):
            self._drop(link, now)
        self._settle(now)

    def _touch(self, link: RelayLink, now: float) -> None:
        self._dirty[link] = None
        self._settle(now)

    # Outputs

    def next_timeout(self) -> float | None:
        """The earliest deadline."""
        times = [uplink.next_timeout() for uplink in self._uplinks.values()]
        times += [link.next_timeout() for link in [*self._links, *self._closing]]
        times += [self._release_at, self._moves.next_timeout()]
        return min((at for at in times if at is not None), default=None)

    def poll_action(self) -> Action | None:
        """What goes to servers, and names to look up."""
        return self._actions.popleft() if self._actions else None

    def poll_event(self) -> Event | None:
        """What servers said."""
        return self._events.popleft() if self._events else None

    def poll_change(self) -> Base | TransportAddress | None:
        """A relayed base that is new or goes another way now, or the address of one that is gone."""
        return self._changes.popleft() if self._changes else None

    def poll_delivery(self) -> tuple[Path, bytes] | None:
        """A datagram of a peer, and the path that it came by."""
        return self._deliveries.pop()

    def poll_unreachable(self) -> Path | None:
        """A path on which a server got an ICMP error (RFC 8656 §11.6): a hint."""
        return self._unreachable.popleft() if self._unreachable else None

    @property
    def finished(self) -> bool:
        """Whether each uplink has its relay or found that there is none for now."""
        return not self._servers.is_resolving and all(uplink.is_settled for uplink in self._uplinks.values())

    def asked(self) -> list[tuple[str, TransportAddress | None]]:
        """Servers that are asked for an allocation, each with the base; without one where its name is looked up."""
        asked: list[tuple[str, TransportAddress | None]] = [(uri, None) for uri in self._servers.unresolved]
        return asked + [(link.target.uri, link.base.address) for link in self._links if not link.relayed]

    def learned(self) -> list[ServerReflexiveLearned]:
        """How the servers see the bases."""
        return [
            ServerReflexiveLearned(link.base.address, relayed.mapped, link.target.server)
            for link in self._links
            for relayed in link.relayed[:1]
            # Of one that was moved nobody has said how the server sees it from there.
            if relayed.mapped is not None and link.flow_id is None and link.carried_at == link.started_at
        ]

    # Inside

    def _look_up(self, now: float) -> None:
        self._actions.extend(self._servers.look_up())
        self._race(now)

    def _race(self, now: float) -> None:
        if self._wanted:
            targets = self._servers.targets
            for uplink in self._uplinks.values():
                uplink.race(targets, now=now)
        self._settle(now)

    def _start(self, target: RelayTarget, base: Base, now: float) -> RelayLink | None:
        flow_id = None if target.transport == "udp" else next(self._flow_ids)
        if flow_id is None and Path(base.address, target.server) in self._by_path:
            return None
        allocation = Allocation(
            target.server,
            stream=flow_id is not None,
            credentials=self._servers.credentials(target),
            family=4,
            dual=True,
            entropy=self._entropy,
            now=now,
            software=_SOFTWARE,
            hold=True,
            tried=self._uplinks[base.interface].tried - {target.server},
            mobile=self._moves.may_ask(target),
        )
        link = RelayLink(target, base, flow_id, allocation, now=now)
        self._enter(link)
        self._links[link] = self._uplinks[base.interface]
        self._dirty[link] = None
        return link

    def _enter(self, link: RelayLink) -> None:
        """Know by which way a link's datagrams or bytes come."""
        if link.flow_id is not None:
            self._by_flow[link.flow_id] = link
        elif link.path is not None:
            self._by_path[link.path] = link

    def _leave(self, link: RelayLink) -> None:
        if link.path is not None and self._by_path.get(link.path) is link:
            del self._by_path[link.path]
        if link.flow_id is not None and self._by_flow.pop(link.flow_id, None) is not None:
            self._actions.append(CloseFlow(link.flow_id))

    def _carry(self, link: RelayLink, now: float) -> bool:
        """The base that carried a link is gone: another one does, or it waits a moment for one (RFC 8016)."""
        base = self._moves.next_base(link)
        if base is not None:
            return self._take_to(link, base, now)
        if link in self._moves.stranded or not self._moves.strand(link, now):
            return False
        self._leave(link)
        link.strand()
        return True

    def _take_to(self, link: RelayLink, base: Base, now: float) -> bool:
        if not link.allocation.is_mobile:
            return False
        self._leave(link)
        # RFC 8656 §3.1: an allocation is a 5-tuple's, and those of another interface's bases are for its own.
        is_own = base.interface == link.home and Path(base.address, link.target.server) not in self._by_path
        by_base = link.target.transport == "udp" and is_own
        if not link.carry(base, None if by_base else next(self._flow_ids), now=now):
            return False
        self._enter(link)
        if (surplus := self._moves.carried(link)) is not None:
            self._drop(surplus, now)
        self._changes.extend(link.relayed)
        self._dirty[link] = None
        return True

    def _proceed(self, link: RelayLink, now: float) -> None:
        link.allocation.proceed(now=now)
        self._dirty[link] = None

    def _keep(self, link: RelayLink) -> None:
        for base in link.relayed:
            self._by_relayed[base.address] = link
            self._changes.append(base)
            self._events.append(RelayGained(link.target.uri, link.base.address, base.address, link.rtt))

    def _drop(self, link: RelayLink, now: float) -> None:
        self._links.pop(link, None)
        self._moves.forget(link)
        for base in link.relayed:
            if self._by_relayed.get(base.address) is link:
                del self._by_relayed[base.address]
                self._changes.append(base.address)
        link.close(now=now)
        self._closing.append(link)
        self._dirty[link] = None

    def _settle(self, now: float) -> None:
        """Take what links have to say, one after the other: what that sets off is taken here too."""
        while self._dirty:
            link = self._dirty.popitem()[0]
            while (event := link.allocation.poll_event()) is not None:
                self._take(link, event, now)
            while (action := link.poll_action()) is not None:
                self._actions.append(action)
            while (received := link.allocation.poll_data()) is not None:
                peer, data = received
                path = link.path_from(peer)
                if path is not None and not self._deliveries.push((path, data)):
                    self.drops.count("delivery_full")
            if link.is_over and link in self._closing:
                self._forget(link)
                for uplink in self._uplinks.values():
                    uplink.place_freed(now=now)

    def _forget(self, link: RelayLink) -> None:
        self._closing.remove(link)
        self._dirty.pop(link, None)  # nothing is written to a flow after its end
        self._leave(link)

    def _take(self, link: RelayLink, event: Event, now: float) -> None:
        match event:
            case PeerUnreachable():
                self._unreachable += link.paths_to(event.peer.ip)
            case PeerRefused():
                self._unreachable += link.paths_to(event.ip)
            case AllocationMoved():
                link.rtt = event.rtt if event.rtt is not None else link.rtt
                for base in link.relayed:
                    self._events.append(RelayMoved(link.target.uri, link.base.address, base.address, event.rtt))
            case AllocationLost() if link in self._links:
                self._events.append(RelayLost(link.target.uri, link.base.address, link.failure or event.reason))
                self._links[link].lost(link, now=now)
            case _ if link in self._links:
                self._take_outcome(link, self._links[link], event, now)

    def _take_outcome(self, link: RelayLink, uplink: Uplink, event: Event, now: float) -> None:
        match event:
            case ServerChallenged():
                link.rtt = event.rtt
                uplink.answered(link, now=now)
            case Allocated():
                link.allocated(event)
                if link.allocation.mobility_forbidden:
                    self._moves.forbade(link.target)
                uplink.allocated(link, now=now)
            case AllocationRedirected():
                if not uplink.redirect(link, event.server, event.domain, now=now):
                    self._fail(link, "redirect_loop", 300)
            case AllocationFailed(new_port=True) if link.path is not None:
                self._fail(link, event.reason, event.code)
                uplink.mismatched(link, now=now)
            case AllocationFailed():
                self._fail(link, event.reason, event.code)
                may_be_back = uplink.is_bereft and event.code is None and event.retry_at is not None
                uplink.failed(link, retry_at=now if may_be_back else event.retry_at, now=now)

    def _fail(self, link: RelayLink, reason: str, code: int | None) -> None:
        self._events.append(
            RelayFailed(link.target.uri, link.base.address, link.target.server, link.failure or reason, code)
        )
