"""rtnetlink(7) with the standard library: dump requests, and a total decoder for what the kernel answers.

The decoder leaves out what says nothing about interfaces: a bridge's notes about its ports (family AF_BRIDGE, where
even "link deleted" only means that a port left the bridge) and the scan results of wireless drivers, which come as
link messages without the link's properties.  Of routes, only the default ones of the main table are told.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, TypeAlias

import attrs

from edgeice.errors import DecodeError
from edgeice.net.interfaces import DefaultRoute, Interface, InterfaceAddress, Snapshot
from edgeice.net.links import LinkClass

__all__ = [
    "GROUPS",
    "AddressMessage",
    "DumpDone",
    "DumpInterrupted",
    "LinkMessage",
    "Message",
    "RouteMessage",
    "assemble",
    "decode",
    "dump_addresses",
    "dump_links",
    "dump_routes",
]

# <linux/netlink.h>, <linux/rtnetlink.h>
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_RTM_NEWLINK: Final = 16
_RTM_DELLINK: Final = 17
_RTM_GETLINK: Final = 18
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_GETADDR: Final = 22
_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25
_RTM_GETROUTE: Final = 26
_NLM_F_REQUEST: Final = 0x001
_NLM_F_DUMP_INTR: Final = 0x010
_NLM_F_DUMP: Final = 0x300
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_LINK: Final = 5
_IFLA_MASTER: Final = 10
_IFLA_WIRELESS: Final = 11
_IFLA_LINKINFO: Final = 18
_IFLA_INFO_KIND: Final = 1
_IFLA_EXT_MASK: Final = 29
_RTEXT_FILTER_SKIP_STATS: Final = 8
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_FLAGS: Final = 8
_RTA_OIF: Final = 4
_RTA_PRIORITY: Final = 6
_RTA_MULTIPATH: Final = 9
_RTA_TABLE: Final = 15
_RT_TABLE_MAIN: Final = 254
_RTN_UNICAST: Final = 1
_RTNH_F_DEAD: Final = 1
_RTNH_F_LINKDOWN: Final = 16
#: What rests on the interface that IFLA_LINK names, and what rests on those that name it as their IFLA_MASTER.
_ABOVE_ONE: Final = frozenset({"ipvlan", "macsec", "macvlan", "vlan"})
_ABOVE_MANY: Final = frozenset({"bond", "bridge", "team"})
#: How many interfaces may lie on one another, as a VLAN does on a bond.
_STACK: Final = 4
_ADDRESS_LENGTHS: Final = {2: 4, 10: 16}  # AF_INET, AF_INET6

#: Multicast groups to bind to: changes of links, and of addresses and routes of both families.
GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEXT_HOP = struct.Struct("=HBBi")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_I32 = struct.Struct("=i")


@attrs.frozen
class LinkMessage:
    """An interface is there (without its addresses and class), or went away."""

    interface: Interface
    removed: bool = False
    #: Kind of hardware, ARPHRD_*; 0 where it was not told.
    hardware: int = 0
    #: Kind of what is made of software, such as `vlan`.
    kind: str = ""
    #: Indexes of the interface that it belongs to, as a port to its bridge, and that it lies on, as a VLAN does.
    master: int = 0
    lower: int = 0


@attrs.frozen
class AddressMessage:
    """An interface, by index, has an address, or lost it."""

    index: int
    address: InterfaceAddress
    removed: bool = False


@attrs.frozen
class RouteMessage:
    """There are default routes, or they went away."""

    routes: tuple[DefaultRoute, ...]
    removed: bool = False


@attrs.frozen
class DumpInterrupted:
    """Something changed during the dump, so that entries may be missing from it."""


@attrs.frozen
class DumpDone:
    """The kernel answered a dump to its end; `error` is an errno, 0 for none."""

    sequence: int
    error: int


Message: TypeAlias = LinkMessage | AddressMessage | RouteMessage | DumpInterrupted | DumpDone


def dump_links(sequence: int) -> bytes:
    """Ask for all links, without their statistics where the kernel can leave those out."""
    mask = _ATTRIBUTE.pack(8, _IFLA_EXT_MASK) + _U32.pack(_RTEXT_FILTER_SKIP_STATS)
    return _HEADER.pack(40, _RTM_GETLINK, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0) + bytes(16) + mask


def dump_addresses(sequence: int) -> bytes:
    """Ask for all addresses."""
    return _HEADER.pack(24, _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0) + bytes(8)


def dump_routes(sequence: int) -> bytes:
    """Ask for the routes of the main table, which the kernel heeds where NETLINK_GET_STRICT_CHK is set."""
    route = _ROUTE.pack(0, 0, 0, 0, _RT_TABLE_MAIN, 0, 0, _RTN_UNICAST, 0)
    return _HEADER.pack(28, _RTM_GETROUTE, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0) + route


def decode(data: bytes) -> list[Message]:
    """The messages of one datagram that concern interfaces; raises DecodeError if any is malformed."""
    found: list[Message] = []
    for kind, flags, sequence, body in _split(data):
        if flags & _NLM_F_DUMP_INTR:
            found.append(DumpInterrupted())
        message: Message | None = None
        if kind in (_NLMSG_ERROR, _NLMSG_DONE):
            message = DumpDone(sequence, -_I32.unpack_from(body)[0] if len(body) >= _I32.size else 0)
        elif kind in (_RTM_NEWLINK, _RTM_DELLINK):
            message = _link(body, removed=kind == _RTM_DELLINK)
        elif kind in (_RTM_NEWADDR, _RTM_DELADDR):
            message = _address(body, removed=kind == _RTM_DELADDR)
        elif kind in (_RTM_NEWROUTE, _RTM_DELROUTE):
            message = _route(body, removed=kind == _RTM_DELROUTE)
        if message is not None:
            found.append(message)
    return found


def assemble(messages: Iterable[Message], classify: Callable[[LinkMessage], LinkClass]) -> Snapshot:
    """The snapshot that a dump of links, then addresses, then routes describes.

    What belongs to an interface that came up meanwhile is left out; the kernel tells of that one apart.

    Args:
        messages: What the kernel answered.
        classify: The class of an interface that lies on no other one.
    """
    links: dict[int, LinkMessage] = {}
    addresses: dict[int, set[InterfaceAddress]] = {}
    routes: set[DefaultRoute] = set()
    for message in messages:
        if isinstance(message, LinkMessage):
            links[message.interface.index] = message
        elif isinstance(message, AddressMessage):
            addresses.setdefault(message.index, set()).add(message.address)
        elif isinstance(message, RouteMessage):
            routes.update(message.routes)
    classes = {index: classify(link) for index, link in links.items()}
    return Snapshot(
        {
            index: attrs.evolve(
                link.interface,
                addresses=frozenset(addresses.get(index, ())),
                link_class=_class_of(link, links, classes),
            )
            for index, link in links.items()
        },
        frozenset(route for route in routes if route.index in links),
    )


def _class_of(
    link: LinkMessage, links: dict[int, LinkMessage], classes: dict[int, LinkClass], depth: int = _STACK
) -> LinkClass:
    """The class of an interface: where it lies on others, theirs, the dearest one for several."""
    index = link.interface.index
    below: list[LinkMessage] = []
    if depth and link.kind in _ABOVE_ONE and link.lower in links:
        below = [links[link.lower]]
    elif depth and link.kind in _ABOVE_MANY:
        below = [each for each in links.values() if each.master == index]
    found = {_class_of(each, links, classes, depth - 1) for each in below}
    dearest: tuple[LinkClass, ...] = ("cellular", "wifi", "wired")
    return next((each for each in dearest if each in found), classes[index])


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    at = 0
    while at < len(data):
        if len(data) - at < _HEADER.size:
            raise DecodeError("netlink", "cut header")
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            raise DecodeError("netlink", "bad length")
        yield kind, flags, sequence, data[at + _HEADER.size : at + length]
        at += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= length <= len(data) - at:
            raise DecodeError("netlink", "bad attribute length")
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + length]  # without the nested and byte-order bits
        at += _aligned(length)
    return found


def _u32(raw: bytes | None, default: int) -> int:
    return int(_U32.unpack(raw)[0]) if raw is not None and len(raw) == _U32.size else default


def _link(body: bytes, *, removed: bool) -> LinkMessage | None:
    if len(body) < _LINK.size:
        raise DecodeError("netlink", "short link message")
    family, hardware, index, flags, _change = _LINK.unpack_from(body)
    attributes = _attributes(body[_LINK.size :])
    if family != 0 or _IFLA_WIRELESS in attributes:
        return None
    name = _text(attributes.get(_IFLA_IFNAME, b""))
    info = _attributes(attributes.get(_IFLA_LINKINFO, b""))
    return LinkMessage(
        Interface(index, name, flags, _u32(attributes.get(_IFLA_MTU), 0)),
        removed,
        hardware,
        _text(info.get(_IFLA_INFO_KIND, b"")),
        _u32(attributes.get(_IFLA_MASTER), 0),
        _u32(attributes.get(_IFLA_LINK), 0),
    )


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "replace")


def _route(body: bytes, *, removed: bool) -> RouteMessage | None:
    if len(body) < _ROUTE.size:
        raise DecodeError("netlink", "short route message")
    family, length, source_length, _tos, table, _protocol, _scope, kind, flags = _ROUTE.unpack_from(body)
    # Looked at before anything else, since most messages are of other routes.
    if length or source_length or kind != _RTN_UNICAST or family not in _ADDRESS_LENGTHS:
        return None
    attributes = _attributes(body[_ROUTE.size :])
    if _u32(attributes.get(_RTA_TABLE), table) != _RT_TABLE_MAIN:
        return None
    metric = _u32(attributes.get(_RTA_PRIORITY), 0)
    hops = list(_next_hops(attributes.get(_RTA_MULTIPATH, b"")))
    if _RTA_OIF in attributes:
        hops.append((_u32(attributes[_RTA_OIF], 0), flags))
    version: Literal[4, 6] = 4 if family == 2 else 6
    return RouteMessage(
        tuple(
            DefaultRoute(index, version, metric, bool(hop_flags & (_RTNH_F_DEAD | _RTNH_F_LINKDOWN)))
            for index, hop_flags in hops
        ),
        removed,
    )


def _next_hops(data: bytes) -> Iterator[tuple[int, int]]:
    """Interface and flags of each way that a route with several has."""
    at = 0
    while at + _NEXT_HOP.size <= len(data):
        length, flags, _hops, index = _NEXT_HOP.unpack_from(data, at)
        if not _NEXT_HOP.size <= length <= len(data) - at:
            raise DecodeError("netlink", "bad length of a next hop")
        yield index, flags
        at += _aligned(length)


def _address(body: bytes, *, removed: bool) -> AddressMessage | None:
    if len(body) < _ADDRESS.size:
        raise DecodeError("netlink", "short address message")
    family, prefix, flags, _scope, index = _ADDRESS.unpack_from(body)
    attributes = _attributes(body[_ADDRESS.size :])
    # On a point-to-point link IFA_ADDRESS is the other end's; IFA_LOCAL is always this end's.
    raw = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS, b""))
    length = _ADDRESS_LENGTHS.get(family)
    if length is None:
        return None
    if len(raw) != length or prefix > 8 * length:
        raise DecodeError("netlink", "bad address")
    # The 8 bits of the header no longer hold all flags; the attribute does.
    wide = _u32(attributes.get(_IFA_FLAGS), flags)
    return AddressMessage(index, InterfaceAddress(str(ipaddress.ip_address(raw)), prefix, wide), removed)
