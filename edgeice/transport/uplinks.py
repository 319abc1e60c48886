"""The interfaces of this host as sessions see them: for whoever wants to know what carries traffic, and how much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import attrs

from edgeice.addresses import Base
from edgeice.net import InterfacePolicy, Link, Snapshot

__all__ = ["InterfaceReport", "report", "uplink"]

_FAMILIES: Final[tuple[Literal[4, 6], ...]] = (4, 6)


@attrs.frozen(kw_only=True)
class InterfaceReport:
    """One interface that sessions use, or did, or that leads to the rest of the world."""

    interface: str
    #: None where the interface is gone.
    link: Link | None
    #: IP versions whose default route it is.
    default_route: tuple[Literal[4, 6], ...]
    #: Those that sessions have sockets on.
    addresses: tuple[str, ...]
    #: Bytes since the start, without headers.
    sent: int
    received: int


def report(
    snapshot: Snapshot, policy: InterfacePolicy, bases: Iterable[Base], traffic: Mapping[str, tuple[int, int]]
) -> list[InterfaceReport]:
    """All of them, those that are there first.

    Args:
        snapshot: The interfaces that there are.
        policy: What their links are and cost.
        bases: The open ones.
        traffic: Bytes sent and received by interface; an empty name stands for loopback, as it does in bases.
    """
    interfaces = sorted(snapshot.interfaces.values(), key=lambda each: each.index)
    links = {each.name: policy.link(each) for each in interfaces}
    loopback = next((each.name for each in interfaces if each.is_loopback), "lo")
    addresses: dict[str, list[str]] = {}
    for base in bases:
        addresses.setdefault(base.interface or loopback, []).append(base.address.ip)
    counted = {name or loopback: both for name, both in traffic.items()}
    routes: dict[str, list[Literal[4, 6]]] = {}
    for family in _FAMILIES:
        if (best := snapshot.default_route(family)) is not None:
            routes.setdefault(best.name, []).append(family)
    shown = addresses.keys() | counted.keys() | routes.keys()
    return [
        InterfaceReport(
            interface=name,
            link=links.get(name),
            default_route=tuple(routes.get(name, ())),
            addresses=tuple(addresses.get(name, ())),
            sent=counted.get(name, (0, 0))[0],
            received=counted.get(name, (0, 0))[1],
        )
        for name in [*links, *sorted(shown - links.keys())]
        if name in shown
    ]


def uplink(snapshot: Snapshot, policy: InterfacePolicy) -> Link:
    """The link of the default route, IPv4's before IPv6's; an unmetered `other` where there is none."""
    for family in _FAMILIES:
        if (best := snapshot.default_route(family)) is not None:
            return policy.link(best)
    return Link("other", 0)
