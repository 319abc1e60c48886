"""How much passed by each interface."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["Traffic", "TrafficTable"]

#: Interfaces remembered; the one that was opened on longest ago is forgotten first.
_LIMIT: Final = 64


class Traffic:
    """Bytes that sockets of one interface sent and received, without the headers of IP, UDP, TCP and TLS."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0


class TrafficTable:
    """The traffic of all interfaces; it goes on where an interface comes back."""

    def __init__(self) -> None:
        self._traffic: OrderedDict[str, Traffic] = OrderedDict()

    def of(self, interface: str) -> Traffic:
        """Where a socket of an interface counts; an empty name stands for loopback."""
        traffic = self._traffic.pop(interface, None) or Traffic()
        self._traffic[interface] = traffic
        if len(self._traffic) > _LIMIT:
            self._traffic.popitem(last=False)
        return traffic

    def snapshot(self) -> dict[str, tuple[int, int]]:
        """Bytes sent and received by interface."""
        return {name: (traffic.sent, traffic.received) for name, traffic in self._traffic.items()}
