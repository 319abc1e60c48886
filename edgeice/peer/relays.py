"""Allocations on TURN servers as bases of the Endpoint: shared by its sessions, held while there are some.

Each uplink (interface) has one, on the server that is nearest from there; see `edgeice.peer.uplink`.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Final

import attrs

from edgeice import __version__
from edgeice.addresses import Base, Path, TransportAddress
from edgeice.errors import ConfigError
from edgeice.ice import ServerReflexiveLearned, SharedTurn
from edgeice.peer.config import TurnServer
from edgeice.peer.relay_events import RelayFailed, RelayGained, RelayLost
from edgeice.peer.relay_link import RelayLink, RelayTarget
from edgeice.peer.uplink import Uplink, UplinkOwner
from edgeice.sansio import Action, BoundedQueue, CloseFlow, DropCounter, Entropy, Event, Resolve
from edgeice.stun import ServerUri, parse_uri
from edgeice.turn import (
    Allocated,
    Allocation,
    AllocationFailed,
    AllocationLost,
    AllocationRedirected,
    PeerRefused,
    PeerUnreachable,
    ServerChallenged,
    TurnCredentials,
)

__all__ = ["Relays"]

#: Addresses that one server name may stand for.
_MAX_ADDRESSES: Final = 4
_MAX_SERVERS: Final = 8
#: Seconds that allocations outlive the last session: sessions come in bursts, the next one has its relay at once, and
#: servers refuse a 5-tuple whose allocation was deleted a moment ago.
_LINGER: Final = 30.0
#: What the server's log says who this is (RFC 8656 §5).
_SOFTWARE: Final = f"edgeice {__version__}"
#: Datagrams of peers that wait for the driver, which fetches them after each batch.
_DELIVERY_LIMIT: Final = 1024


@attrs.frozen
class _Server:
    uri: ServerUri
    credentials: TurnCredentials

    @property
    def service(self) -> str:
        """Who provides it DNS may say (RFC 5928 §4), unless a port says which server it is; then empty."""
        return f"_{self.uri.scheme}._{self.uri.transport}" if self.uri.port is None else ""

    def target(self, ip: str, port: int | None = None) -> RelayTarget:
        transport = "tls" if self.uri.is_secure else self.uri.transport
        address = TransportAddress.parse(ip, self.uri.effective_port if port is None else port)
        return RelayTarget(str(self.uri), address, transport, self.uri.host)


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
        self._servers: list[_Server] = []
        self._targets: dict[str, list[RelayTarget]] = {}
        #: Names and services that are being looked up.
        self._unresolved: set[tuple[str, str]] = set()
        self._uplinks: dict[str, Uplink] = {}
        self._owner = UplinkOwner(self._start, self._proceed, self._keep, self._drop)
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
        if len(servers) > _MAX_SERVERS:
            raise ConfigError(f"turn: {len(servers)} servers, at most {_MAX_SERVERS} are asked")
        self._servers = [
            _Server(parse_uri(server.uri), TurnCredentials(server.username, server.password)) for server in servers
        ]
        self._targets.clear()
        self._unresolved.clear()
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
        self._settle(now)

    def base_added(self, base: Base, *, now: float) -> None:
        """A socket is open."""
        uplink = self._uplinks.setdefault(base.interface, Uplink(self._owner, self._turn))
        uplink.bases.append(base)
        if self._wanted:
            uplink.race(self._all_targets(), now=now)
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
                    uplink.race(self._all_targets(), now=now)
        # What was carried from there has no way left to say anything.
        for link in [link for link in self._closing if link.base.address == address]:
            self._forget(link)
        self._settle(now)

    def resolved(self, name: str, addresses: Sequence[str], *, now: float) -> None:
        """A server's name was looked up."""
        self.located(name, "", [(ip, None) for ip in addresses], now=now)

    def located(self, name: str, service: str, servers: Sequence[tuple[str, int | None]], *, now: float) -> None:
        """A service's servers were looked up."""
        if (name, service) not in self._unresolved:
            return
        self._unresolved.discard((name, service))
        for server in self._servers:
            if (server.uri.host, server.service) == (name, service):
                self._targets[str(server.uri)] = [server.target(ip, port) for ip, port in servers[:_MAX_ADDRESSES]]
                if not servers:
                    self._events.append(RelayFailed(str(server.uri), None, None, "name_unknown", None))
        self._race(now)

    @property
    def servers(self) -> tuple[TransportAddress, ...]:
        """Addresses of the servers, as far as they are known, and of those that they led to."""
        return (*(target.server for target in self._all_targets()), *(link.target.server for link in self._links))

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
                uplink.race(self._all_targets(), now=now)
            uplink.work(now=now)
        self._settle(now)

    def _touch(self, link: RelayLink, now: float) -> None:
        self._dirty[link] = None
        self._settle(now)

    # Outputs

    def next_timeout(self) -> float | None:
        """The earliest deadline."""
        times = [uplink.next_timeout() for uplink in self._uplinks.values()]
        times += [link.next_timeout() for link in [*self._links, *self._closing]]
        times.append(self._release_at)
        return min((at for at in times if at is not None), default=None)

    def poll_action(self) -> Action | None:
        """What goes to servers, and names to look up."""
        return self._actions.popleft() if self._actions else None

    def poll_event(self) -> Event | None:
        """What servers said."""
        return self._events.popleft() if self._events else None

    def poll_change(self) -> Base | TransportAddress | None:
        """A relayed base that is new, or the address of one that is gone."""
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
        return not self._unresolved and all(uplink.is_settled for uplink in self._uplinks.values())

    def asked(self) -> list[tuple[str, TransportAddress | None]]:
        """Servers that are asked for an allocation, each with the base; without one where its name is looked up."""
        unknown = [(str(each.uri), None) for each in self._servers if (each.uri.host, each.service) in self._unresolved]
        return unknown + [
            (link.target.uri, link.base.address) for link, uplink in self._links.items() if link is not uplink.held
        ]

    def learned(self) -> list[ServerReflexiveLearned]:
        """How the servers see the bases."""
        return [
            ServerReflexiveLearned(link.base.address, relayed.mapped, link.target.server)
            for link in self._links
            for relayed in link.relayed[:1]
            if relayed.mapped is not None and link.flow_id is None
        ]

    # Inside

    def _all_targets(self) -> list[RelayTarget]:
        return [target for server in self._servers for target in self._targets.get(str(server.uri), ())]

    def _look_up(self, now: float) -> None:
        """Names are looked up again for each race that begins anew: servers move."""
        for server in self._servers:
            if server.uri.is_address:
                self._targets[str(server.uri)] = [server.target(server.uri.host)]
            elif (server.uri.host, server.service) not in self._unresolved:
                self._unresolved.add((server.uri.host, server.service))
                self._actions.append(Resolve(server.uri.host, service=server.service))
        self._race(now)

    def _race(self, now: float) -> None:
        if self._wanted:
            targets = self._all_targets()
            for uplink in self._uplinks.values():
                uplink.race(targets, now=now)
        self._settle(now)

    def _start(self, target: RelayTarget, base: Base, now: float) -> RelayLink | None:
        flow_id = None if target.transport == "udp" else next(self._flow_ids)
        server = next(server for server in self._servers if str(server.uri) == target.uri)
        allocation = Allocation(
            target.server,
            stream=flow_id is not None,
            credentials=server.credentials,
            family=4,
            dual=True,
            entropy=self._entropy,
            now=now,
            software=_SOFTWARE,
            hold=True,
            tried=self._uplinks[base.interface].tried - {target.server},
        )
        link = RelayLink(target, base, flow_id, allocation, now=now)
        if flow_id is not None:
            self._by_flow[flow_id] = link
        elif link.path is not None:
            if link.path in self._by_path:
                return None
            self._by_path[link.path] = link
        self._links[link] = self._uplinks[base.interface]
        self._dirty[link] = None
        return link

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
        if link.path is not None:
            self._by_path.pop(link.path, None)
        if link.flow_id is not None and self._by_flow.pop(link.flow_id, None) is not None:
            self._actions.append(CloseFlow(link.flow_id))

    def _take(self, link: RelayLink, event: Event, now: float) -> None:
        match event:
            case PeerUnreachable():
                self._unreachable += link.paths_to(event.peer.ip)
            case PeerRefused():
                self._unreachable += link.paths_to(event.ip)
            case _ if link in self._links:
                self._take_outcome(link, self._links[link], event, now)

    def _take_outcome(self, link: RelayLink, uplink: Uplink, event: Event, now: float) -> None:
        match event:
            case ServerChallenged():
                link.rtt = event.rtt
                uplink.answered(link, now=now)
            case Allocated():
                link.allocated(event)
                uplink.allocated(link, now=now)
            case AllocationRedirected():
                if not uplink.redirect(link, event.server, event.domain, now=now):
                    self._fail(link, "redirect_loop", 300)
            case AllocationFailed(new_port=True) if link.path is not None:
                self._fail(link, event.reason, event.code)
                uplink.mismatched(link, now=now)
            case AllocationFailed():
                self._fail(link, event.reason, event.code)
                uplink.failed(link, retry_at=event.retry_at, now=now)
            case AllocationLost():
                self._events.append(RelayLost(link.target.uri, link.base.address, link.failure or event.reason))
                uplink.lost(link, now=now)

    def _fail(self, link: RelayLink, reason: str, code: int | None) -> None:
        self._events.append(
            RelayFailed(link.target.uri, link.base.address, link.target.server, link.failure or reason, code)
        )
