"""Forgets all bindings of a namespace's NAT, by netlink: conntrack(8) need not be there."""

from __future__ import annotations

import errno
import os
import socket
import struct

from tests.lab.namespaces import LabError, inside

__all__ = ["forget"]

# <linux/netlink.h>, <linux/netfilter/nfnetlink.h>, <linux/netfilter/nfnetlink_conntrack.h>
_NETLINK_NETFILTER = 12
_DELETE = 0x0102
_REQUEST_AND_ACKNOWLEDGE = 0x0005
_MESSAGE = struct.Struct("=IHHIIBBH")
_ERROR_OFFSET = 16


def forget(name: str) -> None:
    """Delete the connection tracker's entries of both families."""
    with inside(name):
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    with netlink:
        netlink.settimeout(2)
        for family in (socket.AF_INET, socket.AF_INET6):
            netlink.send(_MESSAGE.pack(_MESSAGE.size, _DELETE, _REQUEST_AND_ACKNOWLEDGE, 1, 0, family, 0, 0))
            number = -struct.unpack_from("=i", netlink.recv(4096), _ERROR_OFFSET)[0]
            if number not in (0, errno.ENOENT):  # there was nothing to delete
                raise LabError(f"conntrack: {os.strerror(number)}")
