"""rtnetlink(7) with the standard library: dump requests, and a total decoder for what the kernel answers."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from typing import Final

import attrs

from edgeice.errors import DecodeError
from edgeice.net.interfaces import Interface, InterfaceAddress, Snapshot

__all__ = ["GROUPS", "DumpDone", "apply_messages", "dump_addresses", "dump_links"]

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
_NLM_F_DUMP: Final = 0x300
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_FLAGS: Final = 8

#: Multicast groups to bind to: link, IPv4 address and IPv6 address changes.
GROUPS: Final = 0x1 | 0x10 | 0x100

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")


@attrs.frozen
class DumpDone:
    """The kernel answered a dump to its end; `error` is an errno, 0 for none."""

    sequence: int
    error: int


def dump_links(sequence: int) -> bytes:
    """Ask for all links."""
    return _HEADER.pack(32, _RTM_GETLINK, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0) + bytes(16)


def dump_addresses(sequence: int) -> bytes:
    """Ask for all addresses."""
    return _HEADER.pack(24, _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0) + bytes(8)


def apply_messages(snapshot: Snapshot, data: bytes) -> tuple[Snapshot, list[DumpDone]]:
    """The snapshot after the messages of one datagram; raises DecodeError if they are cut."""
    interfaces = dict(snapshot.interfaces)
    done: list[DumpDone] = []
    for kind, sequence, body in _messages(data):
        if kind in (_NLMSG_DONE, _NLMSG_ERROR):
            error = _U32.unpack_from(body)[0] if len(body) >= 4 else 0
            done.append(DumpDone(sequence, -error & 0xFFFFFFFF))
        elif kind in (_RTM_NEWLINK, _RTM_DELLINK):
            _apply_link(interfaces, body, new=kind == _RTM_NEWLINK)
        elif kind in (_RTM_NEWADDR, _RTM_DELADDR):
            _apply_address(interfaces, body, new=kind == _RTM_NEWADDR)
    return Snapshot(interfaces), done


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at < len(data):
        if len(data) - at < _HEADER.size:
            raise DecodeError("netlink", "cut header")
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            raise DecodeError("netlink", "bad length")
        yield kind, sequence, data[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= length <= len(data) - at:
            raise DecodeError("netlink", "bad attribute length")
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found


def _apply_link(interfaces: dict[int, Interface], body: bytes, *, new: bool) -> None:
    if len(body) < _LINK.size:
        raise DecodeError("netlink", "short link message")
    family, _type, index, flags, _change = _LINK.unpack_from(body)
    if family != 0:
        return  # a bridge tells about its ports in this family; the port itself is told of apart
    if not new:
        interfaces.pop(index, None)
        return
    attributes = _attributes(body[_LINK.size :])
    name = attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace")
    mtu = attributes.get(_IFLA_MTU, b"")
    before = interfaces.get(index)
    interfaces[index] = Interface(
        index,
        name,
        flags,
        _U32.unpack(mtu)[0] if len(mtu) == 4 else 0,
        before.addresses if before else frozenset(),
    )


def _apply_address(interfaces: dict[int, Interface], body: bytes, *, new: bool) -> None:
    if len(body) < _ADDRESS.size:
        raise DecodeError("netlink", "short address message")
    _family, prefix, flags, _scope, index = _ADDRESS.unpack_from(body)
    interface = interfaces.get(index)
    attributes = _attributes(body[_ADDRESS.size :])
    # On a point-to-point link IFA_ADDRESS is the other end's; IFA_LOCAL is always this end's.
    raw = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS, b""))
    if interface is None or len(raw) not in (4, 16):
        return
    wide = attributes.get(_IFA_FLAGS, b"")
    ip = str(ipaddress.ip_address(raw))
    others = {address for address in interface.addresses if address.ip != ip}
    if new:
        others.add(InterfaceAddress(ip, prefix, _U32.unpack(wide)[0] if len(wide) == 4 else flags))
    interfaces[index] = attrs.evolve(interface, addresses=frozenset(others))
