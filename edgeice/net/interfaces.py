"""Interfaces, addresses and default routes as a snapshot, and which addresses sessions may use."""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, TypeAlias

import attrs

from edgeice.net.links import Link, LinkClass, LinkPolicy

__all__ = [
    "DEFAULT_EXCLUDED",
    "Assessed",
    "DefaultRoute",
    "Held",
    "Interface",
    "InterfaceAddress",
    "InterfacePolicy",
    "Snapshot",
    "UsableAddress",
    "assess",
    "usable_addresses",
]

#: Interface name pattern -> why an address on it is no way to a peer.
DEFAULT_EXCLUDED: Final[Mapping[str, str]] = {
    "br-*": "container bridge: reaches only containers of this host",
    "cali*": "container network",
    "cilium*": "container network",
    "cni*": "container network",
    "docker*": "container bridge: reaches only containers of this host",
    "dummy*": "leads nowhere",
    "flannel*": "container network",
    "gre*": "tunnel",
    "ifb*": "shapes traffic, leads nowhere",
    "ip6tnl*": "tunnel",
    "ipsec*": "tunnel",
    "kube-*": "container network",
    "lxc*": "container network",
    "lxdbr*": "container bridge: reaches only containers of this host",
    "nebula*": "overlay network: a tunnel inside a tunnel",
    "podman*": "container bridge: reaches only containers of this host",
    "sit*": "tunnel",
    "tailscale*": "overlay network: a tunnel inside a tunnel",
    "tap*": "tunnel",
    "tun*": "tunnel",
    "veth*": "one end of a container's link",
    "virbr*": "virtual machines' bridge",
    "vmnet*": "virtual machines' network",
    "vnet*": "a virtual machine's link",
    "vti*": "tunnel",
    "weave*": "container network",
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
    #: What kind of link it is, as far as the kernel knows.
    link_class: LinkClass = "other"

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
class DefaultRoute:
    """A way to the rest of the world by an interface, that with `index`."""

    index: int
    family: Literal[4, 6]
    #: Of several, the kernel takes the one with the least.
    metric: int
    #: The kernel knows that it leads nowhere (`dead`, `linkdown`), but keeps it.
    is_down: bool = False


@attrs.frozen
class Held:
    """An interface or address that is not used although it may be there: it went away too often."""

    #: For how long, and why.
    why: str
    #: Whether it is left alone too where there is nothing else to be used.
    is_firm: bool = False


@attrs.frozen
class Snapshot:
    """All interfaces at one moment, by index, and where the default routes of the main table lead."""

    interfaces: Mapping[int, Interface] = attrs.field(factory=dict)
    routes: frozenset[DefaultRoute] = frozenset()
    #: What is held back, by (interface name, IP); an empty IP stands for all of the interface.
    held: Mapping[tuple[str, str], Held] = attrs.field(factory=dict)

    def default_route(self, family: Literal[4, 6]) -> Interface | None:
        """The interface of the default route that works: with carrier, not held back firmly, the least metric."""
        best: tuple[int, Interface] | None = None
        for route in self.routes:
            interface = self.interfaces[route.index]
            works = interface.has_carrier and not route.is_down and not self.holds(interface.name)
            if route.family == family and works and (best is None or route.metric < best[0]):
                best = route.metric, interface
        return None if best is None else best[1]

    def holds(self, interface: str, ip: str = "") -> bool:
        """Whether an interface, or one address of it, is held back firmly, and so in no use at all."""
        held = self.held.get((interface, "")) or self.held.get((interface, ip))
        return held is not None and held.is_firm


_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@attrs.frozen(kw_only=True)
class InterfacePolicy:
    """Which interfaces and addresses count; patterns as of the shell."""

    #: Left out besides the default ones.
    exclude: tuple[str, ...] = ()
    #: Used although a default pattern leaves them out.
    include: tuple[str, ...] = ()
    #: Where there are any, only these are used, also those that a default pattern leaves out.
    only: tuple[str, ...] = ()
    #: Where there are any, only addresses in one of these networks are used.
    networks: tuple[_Network, ...] = ()
    #: Addresses in these networks are left out.
    exclude_networks: tuple[_Network, ...] = ()
    #: What links are and cost.
    links: LinkPolicy = attrs.field(factory=LinkPolicy)

    def link(self, interface: Interface) -> Link:
        """What an interface's link is and costs."""
        return self.links.link(interface.name, interface.link_class)

    def objection(self, name: str) -> str | None:
        """Why an interface is left out, with the pattern that does it; None if it is used."""
        if (pattern := _matching(name, self.exclude)) is not None:
            return f"{pattern}: excluded by configuration"
        if self.only:
            return None if _matching(name, self.only) else "is none of those that alone are to be used"
        if _matching(name, self.include) or (pattern := _matching(name, DEFAULT_EXCLUDED)) is None:
            return None
        return f"{pattern}: {DEFAULT_EXCLUDED[pattern]}"

    def address_objection(self, ip: str) -> str | None:
        """Why the networks leave an address out; None if they do not."""
        address = ipaddress.ip_address(ip)
        for network in self.exclude_networks:
            if address in network:
                return f"{network}: excluded by configuration"
        if self.networks and not any(address in network for network in self.networks):
            return "is in none of the networks that alone are to be used"
        return None


def _matching(name: str, patterns: Iterable[str]) -> str | None:
    return next((pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)), None)


@attrs.frozen
class Assessed:
    """Whether sessions may use an address, or, where `ip` is empty, anything of an interface."""

    interface: str
    ip: str
    #: Why not; empty where they may.
    why: str


@attrs.frozen
class UsableAddress:
    """An address that can be used now, and what its interface costs (see `Base.cost`)."""

    ip: str
    interface: str
    cost: int = 0


def usable_addresses(snapshot: Snapshot, policy: InterfacePolicy) -> list[UsableAddress]:
    """Every address that a session may use, ordered by interface and family."""
    costs = {each.name: policy.link(each).cost for each in snapshot.interfaces.values()}
    return [
        UsableAddress(each.ip, each.interface, costs[each.interface])
        for each in assess(snapshot, policy)
        if not each.why
    ]


def assess(snapshot: Snapshot, policy: InterfacePolicy) -> list[Assessed]:
    """What of every interface may be used, and why the rest is left out; ordered by interface and family.

    Left out are loopback, link-local addresses, interfaces without carrier or by the policy, and addresses that the
    kernel does not consider ready; of IPv6 also IPv4-compatible, IPv4-mapped and site-local addresses, and the stable
    siblings, with the same prefix, of an interface's privacy address (RFC 8445 §5.1.1.1).  What is held back is left
    out as long as there is anything else, or firmly.
    """
    found = _assess(snapshot, policy, snapshot.held)
    if snapshot.held and all(each.why for each in found):
        found = _assess(snapshot, policy, {key: held for key, held in snapshot.held.items() if held.is_firm})
    return found


def _assess(snapshot: Snapshot, policy: InterfacePolicy, held: Mapping[tuple[str, str], Held]) -> list[Assessed]:
    found: list[Assessed] = []
    for interface in sorted(snapshot.interfaces.values(), key=lambda each: each.index):
        why = _interface_objection(interface, policy) or _held(held, interface.name, "")
        if why:
            found.append(Assessed(interface.name, "", why))
        else:
            found += _assess_addresses(interface, policy, held)
    return found


def _held(held: Mapping[tuple[str, str], Held], interface: str, ip: str) -> str:
    reason = held.get((interface, ip))
    return "" if reason is None else f"held back for {reason.why}"


def _interface_objection(interface: Interface, policy: InterfacePolicy) -> str:
    reasons = (
        ("loopback: reaches only this host", interface.is_loopback),
        (policy.objection(interface.name) or "", True),
        ("is set down", not interface.is_up),
        ("has no carrier", not interface.has_carrier),
        ("has no address", not interface.addresses),
    )
    return next((why for why, holds in reasons if why and holds), "")


def _assess_addresses(
    interface: Interface, policy: InterfacePolicy, held: Mapping[tuple[str, str], Held]
) -> Iterator[Assessed]:
    order = sorted(interface.addresses, key=lambda each: (":" in each.ip, ipaddress.ip_address(each.ip).packed))
    objections = {each.ip: _address_objection(each, policy) or _held(held, interface.name, each.ip) for each in order}
    private = {_network(each) for each in order if each.is_temporary and not objections[each.ip]}
    for address in order:
        why = objections[address.ip]
        if not why and not address.is_temporary and _network(address) in private:
            why = "another, privacy address of the same network is used instead"  # RFC 8445 §5.1.1.1
        yield Assessed(interface.name, address.ip, why)


def _address_objection(address: InterfaceAddress, policy: InterfacePolicy) -> str:
    ip = ipaddress.ip_address(address.ip)
    embedded = ip.version == 6 and ip.packed.startswith(_EMBEDDED_IPV4)
    reasons = (
        ("loopback: reaches only this host", ip.is_loopback),
        ("link-local: reaches only neighbors of one link", ip.is_link_local),
        ("is no address of one host", ip.is_multicast or ip.is_unspecified),
        ("IPv4 written as IPv6", embedded),  # RFC 8445 §5.1.1.1
        ("site-local: deprecated by RFC 3879", ip.version == 6 and ip.is_site_local),  # RFC 8445 §5.1.1.1
        ("another host has it", bool(address.flags & _IFA_DADFAILED)),
        ("tentative: not known yet to be this host's alone", bool(address.flags & _IFA_TENTATIVE)),
        ("deprecated: about to go", bool(address.flags & _IFA_DEPRECATED)),
        (policy.address_objection(address.ip) or "", True),
    )
    return next((why for why, holds in reasons if why and holds), "")


def _network(address: InterfaceAddress) -> str:
    return str(ipaddress.ip_network((address.ip, address.prefix), strict=False))
