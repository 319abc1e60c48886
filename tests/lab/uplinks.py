"""A device of a host or a router, its link into a network, and what may happen to both."""

from __future__ import annotations

import contextlib
import ipaddress
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import attrs

from tests.lab.links import Impairment, Wire
from tests.lab.namespaces import LabError, configure, ip, nft

__all__ = ["Lease", "Port", "Uplink", "enable_ipv6"]


@attrs.frozen
class Port:
    """Where a network takes a link in: a device of its namespace that is to be made, and its bridge."""

    namespace: str
    device: str
    bridge: str


@attrs.frozen
class Lease:
    """What a network gives to a device."""

    address: IPv4Interface
    gateway: IPv4Address
    address6: IPv6Interface | None = None
    gateway6: IPv6Address | None = None


def enable_ipv6(namespace: str, device: str) -> None:
    """Let a device have IPv6: at once, without looking for duplicates, and with no advertised routes."""
    folder = f"net/ipv6/conf/{device}"
    configure(namespace, {f"{folder}/accept_dad": 0, f"{folder}/accept_ra": 0, f"{folder}/disable_ipv6": 0})


class Uplink:
    """One link of a namespace into a network.  Made by `Lab.connect` and by routers.

    Args:
        owner: The namespace that the device is made in.
        device: The device's name.
        port: The link's other end.
        lease: The device's addresses and gateways.
        metric: Of its default routes; the lowest one wins.
        table: A routing table of its own for what is sent from its addresses; 0 for none, as a host's is that nobody
            configured: its packets leave by the lowest metric, whatever their source address.
        emulated: Frames are carried by a relay process, so that `impair` works; without, by the kernel.
    """

    def __init__(
        self,
        owner: str,
        device: str,
        port: Port,
        lease: Lease,
        *,
        metric: int = 100,
        table: int = 0,
        emulated: bool = False,
    ) -> None:
        self.device = device
        self.lease = lease
        self._owner = owner
        self._port = port
        self._metric = metric
        self._table = table
        self._wire: Wire | None = None
        if emulated:
            self._wire = Wire([(owner, device), (port.namespace, port.device)])
        else:
            ip("-n", owner, "link", "add", device, "type", "veth", "peer", port.device, "netns", port.namespace)
        try:
            if lease.address6 is not None:
                enable_ipv6(owner, device)
            ip("-n", port.namespace, batch=f"link set {port.device} master {port.bridge}\nlink set {port.device} up\n")
            ip("-n", owner, "link", "set", device, "up")
            self._configure()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """Its IPv4 address."""
        return str(self.lease.address.ip)

    @property
    def address6(self) -> str | None:
        """Its IPv6 address, if it has one."""
        return None if self.lease.address6 is None else str(self.lease.address6.ip)

    def close(self) -> None:
        """End the relay process; the devices go with their namespaces."""
        if self._wire is not None:
            self._wire.close()

    # What may happen

    def down(self) -> None:
        """Set the device down: its routes go, and so do its IPv6 addresses."""
        ip("-n", self._owner, "link", "set", self.device, "down")

    def up(self) -> None:
        """Set the device up, with its addresses and routes."""
        ip("-n", self._owner, "link", "set", self.device, "up")
        self._configure()

    def unplug(self, *, managed: bool = False) -> None:
        """Take the carrier away: a cable is out, a Wi-Fi out of range.

        Args:
            managed: A network manager drops the addresses, and with them the routes.  Without one the kernel keeps
                both, and a default route that leads nowhere still wins.
        """
        if managed:
            ip("-n", self._owner, "address", "flush", "dev", self.device, "scope", "global")
        if self._wire is not None:
            self._wire.set_carrier(on=False)
        else:
            ip("-n", self._port.namespace, "link", "set", self._port.device, "down")

    def plug(self) -> None:
        """Give the carrier back, and the addresses and routes where they are gone."""
        if self._wire is not None:
            self._wire.set_carrier(on=True)
        else:
            ip("-n", self._port.namespace, "link", "set", self._port.device, "up")
        self._configure()

    def remove_address(self) -> None:
        """Take the IPv4 address away, and with it its routes, as where a lease has run out."""
        ip("-n", self._owner, "address", "delete", str(self.lease.address), "dev", self.device)

    def readdress(self, address: str) -> None:
        """Replace the IPv4 address by another one of its network, as DHCP does after roaming."""
        old = self.lease.address
        ip("-n", self._owner, "address", "delete", str(old), "dev", self.device)
        new = ipaddress.IPv4Interface(f"{address}/{old.network.prefixlen}")
        self.lease = attrs.evolve(self.lease, address=new)
        self._configure()

    def blackhole(self, *, on: bool = True) -> None:
        """Let the path die in silence: every packet is lost in both directions, and nobody is told."""
        for namespace, device in ((self._owner, self.device), (self._port.namespace, self._port.device)):
            table = f"netdev hole_{device.replace('-', '_')}"
            chain = f'type filter hook ingress device "{device}" priority 0; policy drop;'
            hole = f"table {table} {{\n chain everything {{ {chain} }}\n}}\n" if on else ""
            nft(namespace, f"add table {table}\ndelete table {table}\n{hole}")

    def impair(self, impairment: Impairment, *, seed: int = 0) -> None:
        """Treat frames so from now on, in each direction; needs an emulated link.  `seed` as of `Wire.impair`."""
        if self._wire is None:
            raise LabError(f"{self.device} is no emulated link")
        self._wire.impair(impairment, seed=seed)

    # Inside

    def _configure(self) -> None:
        lease, on = self.lease, f"dev {self.device}"
        families = [("0.0.0.0/0", lease.address, lease.gateway), ("::/0", lease.address6, lease.gateway6)]
        lines = []
        for everywhere, address, gateway in families:
            if address is None:
                continue
            duplicates = " nodad" if address.version == 6 else ""
            lines.append(f"address replace {address} {on} metric {self._metric}{duplicates}")
            lines.append(f"route replace {everywhere} via {gateway} {on} metric {self._metric}")
            if self._table:
                self._drop_rule(address.version)
                lines.append(f"route replace {address.network} {on} table {self._table}")
                lines.append(f"route replace {everywhere} via {gateway} {on} table {self._table}")
                lines.append(f"rule add from {address.ip} lookup {self._table}")
        ip("-n", self._owner, batch="\n".join(lines) + "\n")

    def _drop_rule(self, version: int) -> None:
        with contextlib.suppress(LabError):  # there was none
            ip("-n", self._owner, f"-{version}", "rule", "delete", "lookup", str(self._table))
