"""rtnetlink(7) with the standard library: dump requests, and a total decoder for what the kernel answers.

The decoder leaves out what says nothing about interfaces: a bridge's notes about its ports (family AF_BRIDGE, where
even "link deleted" only means that a port left the bridge) and the scan results of wireless drivers, which come as
link messages without the link's properties.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import attrs

from edgeice.errors import DecodeError
from edgeice.net.interfaces import Interface, InterfaceAddress, Snapshot

__all__ = [
    "GROUPS",
    "AddressMessage",
    "DumpDone",
    "DumpInterrupted",
    "LinkMessage",
    "Message",
    "assemble",
    "decode",
    "dump_addresses",
    "dump_links",
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
_NLM_F_REQUEST: Final = 0x001
_NLM_F_DUMP_INTR: Final = 0x010
_NLM_F_DUMP: Final = 0x300
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_WIRELESS: Final = 11
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_FLAGS: Final = 8
_ADDRESS_LENGTHS: Final = {2: 4, 10: 16}  # AF_INET, AF_INET6

#: Multicast groups to bind to: link, IPv4 address and IPv6 address changes.
GROUPS: Final = 0x1 | 0x10 | 0x100

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_I32 = struct.Struct("=i")


@attrs.frozen
class LinkMessage:
    """An interface is there (without its addresses), or went away."""

    interface: Interface
    removed: bool = False


@attrs.frozen
class AddressMessage:
    """An interface, by index, has an address, or lost it."""

    index: int
    address: InterfaceAddress
    removed: bool = False


@attrs.frozen
class DumpInterrupted:
    """Something changed during the dump, so that entries may be missing from it."""


@attrs.frozen
class DumpDone:
    """The kernel answered a dump to its end; `error` is an errno, 0 for none."""

    sequence: int
    error: int


Message: TypeAlias = LinkMessage | AddressMessage | DumpInterrupted | DumpDone


def dump_links(sequence: int) -> bytes:
    """Ask for all links."""
    return _HEADER.pack(32, _RTM_GETLINK, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0) + bytes(16)


def dump_addresses(sequence: int) -> bytes:
    """Ask for all addresses."""
    return _HEADER.pack(24, _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0) + bytes(8)


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
        if message is not None:
            found.append(message)
    return found


def assemble(messages: Iterable[Message]) -> Snapshot:
    """The snapshot that a dump of links and then addresses describes.

    An address of an interface that came up between the two dumps is left out; the kernel tells of that one apart.
    """
    links: dict[int, Interface] = {}
    addresses: dict[int, set[InterfaceAddress]] = {}
    for message in messages:
        if isinstance(message, LinkMessage):
            links[message.interface.index] = message.interface
        elif isinstance(message, AddressMessage):
            addresses.setdefault(message.index, set()).add(message.address)
    return Snapshot(
        {index: attrs.evolve(link, addresses=frozenset(addresses.get(index, ()))) for index, link in links.items()}
    )


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
    family, _type, index, flags, _change = _LINK.unpack_from(body)
    attributes = _attributes(body[_LINK.size :])
    if family != 0 or _IFLA_WIRELESS in attributes:
        return None
    name = attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace")
    return LinkMessage(Interface(index, name, flags, _u32(attributes.get(_IFLA_MTU), 0)), removed)


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
