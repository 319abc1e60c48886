"""Interfaces and their addresses as a snapshot, what changed between two, and which addresses sessions may use."""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

__all__ = [
    "DEFAULT_EXCLUDED",
    "Interface",
    "InterfaceAddress",
    "InterfacePolicy",
    "Snapshot",
    "delta",
    "usable_addresses",
]

#: Interface name pattern -> why an address on it is no way to a peer.
DEFAULT_EXCLUDED: Final[Mapping[str, str]] = {
    "br-*": "container bridge: reaches only containers of this host",
    "cali*": "container network",
    "cni*": "container network",
    "docker*": "container bridge: reaches only containers of this host",
    "flannel*": "container network",
    "lxc*": "container network",
    "lxdbr*": "container bridge",
    "podman*": "container bridge",
    "tailscale*": "overlay network: a tunnel inside a tunnel",
    "tap*": "tunnel",
    "tun*": "tunnel",
    "veth*": "one end of a container's link",
    "virbr*": "virtual machines' bridge",
    "vmnet*": "virtual machines' network",
    "vnet*": "a virtual machine's link",
    "wg*": "tunnel",
    "zt*": "overlay network: a tunnel inside a tunnel",
}

# <linux/if.h>, <linux/if_addr.h>
_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8
_IFF_RUNNING: Final = 0x40
_IFF_LOWER_UP: Final = 0x10000
_IFA_TEMPORARY: Final = 0x01
_IFA_DADFAILED: Final = 0x08
_IFA_DEPRECATED: Final = 0x20
_IFA_TENTATIVE: Final = 0x40
#: What IPv4-compatible (::/96) and IPv4-mapped (::ffff:0:0/96) addresses begin with.
_EMBEDDED_IPV4: Final = (bytes(12), bytes(10) + b"\xff\xff")
_CARRIER: Final = _IFF_LOWER_UP | _IFF_RUNNING


def _interface_flags(flags: int) -> int:
    return flags & (_IFF_UP | _IFF_LOOPBACK | _IFF_RUNNING | _IFF_LOWER_UP)


def _address_flags(flags: int) -> int:
    return flags & (_IFA_TEMPORARY | _IFA_DADFAILED | _IFA_DEPRECATED | _IFA_TENTATIVE)


@attrs.frozen
class InterfaceAddress:
    """One address of an interface, with the kernel's flags."""

    ip: str
    #: Length of the network's prefix in bits.
    prefix: int
    #: Those of IFA_F_* that tell whether the address can be used; others are masked, and so are no change.
    flags: int = attrs.field(default=0, converter=_address_flags)

    @property
    def is_temporary(self) -> bool:
        """A privacy address (RFC 8981); IPv4 has none."""
        return bool(self.flags & _IFA_TEMPORARY) and ":" in self.ip

    @property
    def is_usable(self) -> bool:
        """Neither tentative, nor deprecated, nor a duplicate (RFC 4862 §5.4)."""
        return not self.flags & (_IFA_TENTATIVE | _IFA_DADFAILED | _IFA_DEPRECATED)


@attrs.frozen
class Interface:
    """One network interface."""

    index: int
    name: str
    #: Those of IFF_* that tell whether the interface can be used; others are masked, and so are no change.
    flags: int = attrs.field(converter=_interface_flags)
    mtu: int = 0
    addresses: frozenset[InterfaceAddress] = frozenset()

    @property
    def is_loopback(self) -> bool:
        """The loopback interface."""
        return bool(self.flags & _IFF_LOOPBACK)

    @property
    def is_up(self) -> bool:
        """Administratively up."""
        return bool(self.flags & _IFF_UP)

    @property
    def has_carrier(self) -> bool:
        """There is a cable or an association, and what it needs (802.1X, WPA keys) is done.

        The first is IFF_LOWER_UP, the second IFF_RUNNING: operstate UP or UNKNOWN (RFC 2863, as Linux has it).
        """
        return self.flags & _CARRIER == _CARRIER


@attrs.frozen
class Snapshot:
    """All interfaces at one moment, by index."""

    interfaces: Mapping[int, Interface] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class InterfacePolicy:
    """Which interfaces count; patterns as of the shell."""

    #: Left out besides the default ones.
    exclude: tuple[str, ...] = ()
    #: Used although a default pattern leaves them out.
    include: tuple[str, ...] = ()

    def objection(self, name: str) -> str | None:
        """Why an interface is left out; None if it is used."""
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude):
            return "excluded by configuration"
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.include):
            return None
        return next((why for pattern, why in DEFAULT_EXCLUDED.items() if fnmatch.fnmatchcase(name, pattern)), None)


def usable_addresses(snapshot: Snapshot, policy: InterfacePolicy) -> list[tuple[str, str]]:
    """(ip, interface name) of every address that a session may use, ordered by interface and family.

    Left out are loopback, link-local addresses, interfaces without carrier or by the policy, and addresses that the
    kernel does not consider ready; of IPv6 also IPv4-compatible, IPv4-mapped and site-local addresses, and the stable
    siblings, with the same prefix, of an interface's privacy address (RFC 8445 §5.1.1.1).
    """
    found: list[tuple[str, str]] = []
    for interface in sorted(snapshot.interfaces.values(), key=lambda each: each.index):
        if interface.is_loopback or not interface.is_up or not interface.has_carrier:
            continue
        if policy.objection(interface.name) is None:
            found += [(address.ip, interface.name) for address in _ready(interface)]
    return found


def _ready(interface: Interface) -> list[InterfaceAddress]:
    ready = [address for address in interface.addresses if address.is_usable and _is_routable(address.ip)]
    private = {_network(address) for address in ready if address.is_temporary}
    kept = [address for address in ready if address.is_temporary or _network(address) not in private]
    return sorted(kept, key=lambda address: (":" in address.ip, ipaddress.ip_address(address.ip).packed))


def _is_routable(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    if address.version == 6 and (address.packed.startswith(_EMBEDDED_IPV4) or address.is_site_local):
        return False  # RFC 8445 §5.1.1.1
    return not (address.is_link_local or address.is_loopback or address.is_multicast or address.is_unspecified)


def _network(address: InterfaceAddress) -> str:
    return str(ipaddress.ip_network((address.ip, address.prefix), strict=False))


def delta(old: Snapshot, new: Snapshot) -> list[str]:
    """What changed, in words, losses first."""
    lost: list[str] = []
    gained: list[str] = []
    for index in old.interfaces.keys() | new.interfaces.keys():
        before, after = old.interfaces.get(index), new.interfaces.get(index)
        if after is None:
            assert before is not None
            lost.append(f"{before.name} removed")
        elif before is None:
            gained.append(f"{after.name} added")
        else:
            lost += _losses(before, after)
            gained += _gains(before, after)
    return sorted(lost) + sorted(gained)


def _losses(before: Interface, after: Interface) -> Iterator[str]:
    if before.is_up and not after.is_up:
        yield f"{after.name} set down"
    elif before.has_carrier and not after.has_carrier:
        yield f"carrier lost on {after.name}"
    remaining = {address.ip: address for address in after.addresses}
    for address in before.addresses:
        now = remaining.get(address.ip)
        if now is None:
            yield f"address {address.ip} removed from {after.name}"
        elif address.is_usable and not now.is_usable:
            yield f"address {address.ip} no longer preferred on {after.name}"


def _gains(before: Interface, after: Interface) -> Iterator[str]:
    if before.name != after.name:
        yield f"{before.name} renamed to {after.name}"
    if before.mtu != after.mtu:
        yield f"MTU of {after.name} is {after.mtu} now"
    if after.is_up and not before.is_up:
        yield f"{after.name} set up"
    elif after.has_carrier and not before.has_carrier:
        yield f"carrier found on {after.name}"
    earlier = {address.ip: address for address in before.addresses}
    for address in after.addresses:
        then = earlier.get(address.ip)
        if address.is_usable and (then is None or not then.is_usable):
            yield f"address {address.ip} added to {after.name}"
