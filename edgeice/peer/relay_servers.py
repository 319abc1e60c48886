"""The TURN servers that are configured, and the addresses that their names stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from edgeice.addresses import TransportAddress
from edgeice.errors import ConfigError
from edgeice.peer.config import TurnServer
from edgeice.peer.relay_link import RelayTarget
from edgeice.sansio import Resolve
from edgeice.stun import ServerUri, parse_uri
from edgeice.turn import TurnCredentials

__all__ = ["RelayServers"]

#: Addresses that one server name may stand for.
_MAX_ADDRESSES: Final = 4
_MAX_SERVERS: Final = 8


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


class RelayServers:
    """At most eight servers, with four addresses each."""

    def __init__(self) -> None:
        self._servers: list[_Server] = []
        self._targets: dict[str, list[RelayTarget]] = {}
        #: Names and services that are being looked up.
        self._unresolved: set[tuple[str, str]] = set()

    def replace(self, servers: Sequence[TurnServer]) -> None:
        """Use these from now on; raises ConfigError for more than 8."""
        if len(servers) > _MAX_SERVERS:
            raise ConfigError(f"turn: {len(servers)} servers, at most {_MAX_SERVERS} are asked")
        self._servers = [
            _Server(parse_uri(server.uri), TurnCredentials(server.username, server.password)) for server in servers
        ]
        self._targets.clear()
        self._unresolved.clear()

    def look_up(self) -> list[Resolve]:
        """Names to look up, again for each race that begins anew: servers move."""
        asked = []
        for server in self._servers:
            if server.uri.is_address:
                self._targets[str(server.uri)] = [server.target(server.uri.host)]
            elif (server.uri.host, server.service) not in self._unresolved:
                self._unresolved.add((server.uri.host, server.service))
                asked.append(Resolve(server.uri.host, service=server.service))
        return asked

    def located(self, name: str, service: str, servers: Sequence[tuple[str, int | None]]) -> list[str] | None:
        """A name was looked up; gives the URIs that lead nowhere, None if nobody asked for it."""
        if (name, service) not in self._unresolved:
            return None
        self._unresolved.discard((name, service))
        named = [each for each in self._servers if (each.uri.host, each.service) == (name, service)]
        for server in named:
            self._targets[str(server.uri)] = [server.target(ip, port) for ip, port in servers[:_MAX_ADDRESSES]]
        return [] if servers else [str(server.uri) for server in named]

    @property
    def targets(self) -> list[RelayTarget]:
        """All that is known, in the order of the configuration."""
        return [target for server in self._servers for target in self._targets.get(str(server.uri), ())]

    @property
    def unresolved(self) -> list[str]:
        """URIs whose names are being looked up."""
        return [str(each.uri) for each in self._servers if (each.uri.host, each.service) in self._unresolved]

    @property
    def is_resolving(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._unresolved)

    def credentials(self, target: RelayTarget) -> TurnCredentials:
        """What to allocate there with."""
        return next(server.credentials for server in self._servers if str(server.uri) == target.uri)
