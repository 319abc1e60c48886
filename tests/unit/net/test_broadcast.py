"""The kernel keeps a base from broadcasting: which address of a subnet is its last cannot be told from text."""

from __future__ import annotations

import errno
import socket

import pytest

from edgeice.net.bases import open_udp


def test_host_10_a_base_cannot_send_to_the_broadcast_address_of_a_subnet() -> None:
    opened, _, _ = open_udp("127.0.0.1")
    with opened:
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 0
        with pytest.raises(PermissionError) as caught:
            opened.sendto(b"x", ("127.255.255.255", 5000))  # that of 127.0.0.0/8
        assert caught.value.errno == errno.EACCES
