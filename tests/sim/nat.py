"""Routers' state: network address translation of IPv4 (RFC 4787) and filtering of IPv6 (RFC 6092)."""

from __future__ import annotations

import random
from collections.abc import Hashable

import attrs

from edgeice.addresses import TransportAddress
from tests.sim.topology import Dependence, FirewallRules, NatRules

__all__ = ["Firewall", "Nat"]


def _part(dependence: Dependence, remote: TransportAddress) -> Hashable:
    """What of a remote address a rule looks at."""
    if dependence is Dependence.INDEPENDENT:
        return None
    return remote.ip if dependence is Dependence.ADDRESS else (remote.ip, remote.port)


@attrs.define(eq=False)
class _Mapping:
    inside: TransportAddress
    port: int
    #: Part of a remote address -> until when it may send in.
    open_to: dict[Hashable, float] = attrs.field(factory=dict)
    expires_at: float = 0.0


class Nat:
    """The bindings of one router.

    Args:
        rules: How it translates.
        ip: Its outer address.
        dice: Outer ports where the inner one is not kept.
    """

    def __init__(self, rules: NatRules, ip: str, dice: random.Random) -> None:
        self.rules = rules
        self.ip = ip
        self._dice = dice
        self._by_inside: dict[tuple[TransportAddress, Hashable], _Mapping] = {}
        self._by_port: dict[int, _Mapping] = {}

    def flush(self) -> None:
        """Forget everything, as after a restart of the router."""
        self._by_inside.clear()
        self._by_port.clear()

    def reboot(self, *, keeps_ports: bool) -> None:
        """Forget who may send in; and, unless it `keeps_ports`, which ports belong to whom, and choose others."""
        if keeps_ports:
            for mapping in self._by_port.values():
                mapping.open_to.clear()
        else:
            self.flush()
            self.rules = attrs.evolve(self.rules, preserves_port=False)

    def outbound(self, source: TransportAddress, remote: TransportAddress, now: float) -> TransportAddress:
        """The outer address that a datagram from inside gets; opens the way for answers."""
        key = (source, _part(self.rules.mapping, remote))
        mapping = self._by_inside.get(key)
        if mapping is not None and mapping.expires_at <= now:
            del self._by_port[mapping.port]
            mapping = None
        if mapping is None:
            mapping = _Mapping(source, self._free_port(source.port, now))
            self._by_inside[key] = self._by_port[mapping.port] = mapping
        mapping.expires_at = mapping.open_to[_part(self.rules.filtering, remote)] = now + self.rules.lifetime
        return TransportAddress(self.ip, mapping.port)

    def inbound(self, port: int, remote: TransportAddress, now: float) -> TransportAddress | None:
        """The inner address that a datagram to an outer port goes to; None if the filter drops it."""
        mapping = self._by_port.get(port)
        if mapping is None or mapping.expires_at <= now:
            return None
        part = _part(self.rules.filtering, remote)
        if mapping.open_to.get(part, 0.0) <= now:
            return None
        if self.rules.refreshed_by_inbound:
            mapping.expires_at = mapping.open_to[part] = now + self.rules.lifetime
        return mapping.inside

    def _free_port(self, wanted: int, now: float) -> int:
        port = wanted if self.rules.preserves_port else self._dice.randrange(1024, 65536)
        while port in self._by_port:
            mapping = self._by_port[port]
            if mapping.expires_at <= now:
                # Somebody else's old binding: its port is free, its key must not find it any more.
                self._by_inside = {key: each for key, each in self._by_inside.items() if each is not mapping}
                del self._by_port[port]
                break
            port = self._dice.randrange(1024, 65536)
        return port


class Firewall:
    """The sessions that one router's filter knows."""

    def __init__(self, rules: FirewallRules) -> None:
        self.rules = rules
        self._open_until: dict[tuple[TransportAddress, Hashable], float] = {}

    def flush(self) -> None:
        """Forget everything."""
        self._open_until.clear()

    def outbound(self, source: TransportAddress, remote: TransportAddress, now: float) -> None:
        """A datagram leaves: answers may come in."""
        self._open_until[source, _part(self.rules.filtering, remote)] = now + self.rules.lifetime

    def admits(self, inside: TransportAddress, remote: TransportAddress, now: float) -> bool:
        """Whether a datagram from outside may come in."""
        if self.rules.filtering is Dependence.INDEPENDENT:
            return True
        return self._open_until.get((inside, _part(self.rules.filtering, remote)), 0.0) > now
