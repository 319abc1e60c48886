"""Which way a connection to the broker takes: the kernel's own, or one that is pinned to an interface.

The kernel sends by its best default route, whether or not that still leads anywhere: a link that lost its carrier, with
nobody there to take its routes away, stays the best one.  And it chooses for each packet: when a better route appears,
what a connection sends leaves by it, still with the address of the other interface.  So whoever watches the interfaces
says which addresses of this host are of use, and a connection's socket is pinned to the interface that it begins on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

__all__ = ["MAX_PINNED", "Footing", "Network", "Usable", "Way"]

#: Interfaces that one address of the broker is tried by.
MAX_PINNED = 4


@attrs.frozen
class Usable:
    """An address of this host by which others can be reached now."""

    ip: str
    interface: str
    #: What the interface costs: see `Base.cost`.
    cost: int = 0


@attrs.frozen
class Way:
    """One way to one of the broker's addresses."""

    #: The broker's, with a scope where it needs one.
    address: str
    #: The interface that the socket is pinned to; empty leaves it to the kernel.
    interface: str = ""
    #: The own address that the kernel takes where it chooses.
    source: str = ""


class Network:
    """What is known of the own addresses, and what follows for connections to the broker."""

    def __init__(self) -> None:
        #: The usable addresses; None while nobody watches them.
        self.usable: tuple[Usable, ...] | None = None
        #: An own address on which the broker fell silent, although the address is there.
        self._suspect = ""

    def update(self, usable: Iterable[Usable]) -> bool:
        """Take what the usable addresses are now; whether that is news."""
        before, self.usable = self.usable, tuple(usable)
        if self.usable == before:
            return False
        self._suspect = ""
        return True

    def fell_silent(self, source: str) -> None:
        """The broker is not heard any more on a connection from this own address: others are tried before it."""
        self._suspect = source

    def reached(self) -> None:
        """The broker accepted a connection."""
        self._suspect = ""

    def ways(self, address: str, source: str | None) -> list[Way]:
        """The ways to an address of the broker, the one to try first first.

        The kernel's choice of an interface comes first where its address is usable, then the others by their cost.  A
        socket that is not pinned is tried at last; but sooner where the kernel's choice is none of the usable
        addresses, as not all may be known here that leads somewhere.

        Args:
            address: The broker's.
            source: The own address that the kernel would send from; None where it knows no way.
        """
        kernel = [] if source is None else [Way(address, source=source)]
        if not self.usable or "%" in address or source == address or (source is not None and _is_loopback(source)):
            return kernel
        here = self._entry(source or "")
        family = ":" in address
        names: dict[str, None] = {}
        for each in sorted(self.usable, key=lambda usable: (usable is not here, usable.cost)):
            if (":" in each.ip) == family:
                names[each.interface] = None
        pinned = [Way(address, interface=name) for name in names][:MAX_PINNED]
        before = len(pinned) if here is not None else 1
        found = pinned[:before] + kernel + pinned[before:]
        suspect = self._entry(self._suspect)
        if suspect is not None:
            found.sort(key=lambda way: way.source == suspect.ip or way.interface == suspect.interface)
        return found

    def interface_of(self, ip: str) -> str | None:
        """The interface of an own address that is usable, None for others."""
        entry = self._entry(ip)
        return None if entry is None else entry.interface

    def has(self, interface: str, *, like: str) -> bool:
        """Whether an interface has a usable address of the family that `like` is of."""
        return any(each.interface == interface and (":" in each.ip) == (":" in like) for each in self.usable or ())

    def _entry(self, ip: str) -> Usable | None:
        return next((each for each in self.usable or () if each.ip == ip), None)


class Footing:
    """What a connection stands on: its own address, and the interface that has it.

    An address that never was among the usable ones, as loopback's, is nobody's business here.

    Args:
        network: What is known.
        way: The way that the connection took.
        local: Its own address.
        source: Asks from which address the kernel would send to the broker now.
    """

    def __init__(self, network: Network, way: Way, local: str, source: Callable[[], str | None]) -> None:
        self.way = way
        self.local = local
        self._network = network
        self._source = source
        self._interface = way.interface
        self._is_listed = False
        self.is_lost()

    @property
    def interface(self) -> str:
        """The interface's name, empty where it is not known."""
        return self._interface

    def is_lost(self) -> bool:
        """Whether it is gone by what is known now."""
        interface = self._network.interface_of(self.local)
        if interface is None:
            if self._is_listed:
                return True
            return bool(self.way.interface) and not self._network.has(self.way.interface, like=self.local)
        self._interface = self._interface or interface
        self._is_listed = True
        return interface != self._interface or self._is_misled()

    def _is_misled(self) -> bool:
        """Whether the kernel sends what is not pinned by another interface now, where its address is a stranger's."""
        if self.way.interface:
            return False
        source = self._source()
        return source != self.local and self._network.interface_of(source or "") != self._interface


def _is_loopback(ip: str) -> bool:
    return ip.startswith("127.") or ip == "::1"
