"""Asks a STUN server how it sees a socket, with nothing of edgeice."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
from typing import Self

from tests.lab.lab import Host

__all__ = ["Probe"]

_COOKIE = 0x2112A442
_BINDING_REQUEST, _BINDING_SUCCESS = 0x0001, 0x0101
_XOR_MAPPED_ADDRESS = 0x0020


class Probe:
    """A UDP socket of a host's.

    Args:
        host: Whose it is.
        address: What it is bound to.
        device: What it is held to, if anything (SO_BINDTODEVICE).
    """

    def __init__(self, host: Host, address: str, device: str = "") -> None:
        with host.inside():
            self.socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        if device:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        self.socket.bind((address, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self.socket.close()

    def mapped(self, server: str, *, wait: float = 2.0, tries: int = 1) -> tuple[str, int] | None:
        """How a server on port 3478 sees this socket; None if it answers none of the tries within `wait` seconds."""
        transaction = os.urandom(12)
        request = struct.pack("!HHI", _BINDING_REQUEST, 0, _COOKIE) + transaction
        self.socket.settimeout(wait / tries)
        for _ in range(tries):
            with contextlib.suppress(OSError):  # no route, or no answer in time
                self.socket.sendto(request, (server, 3478))
                while (answer := self.socket.recv(2048))[8:20] != transaction:
                    pass  # a late answer to an earlier question
                assert struct.unpack_from("!H", answer) == (_BINDING_SUCCESS,), answer
                return _xor_mapped(answer)
        return None


def _xor_mapped(message: bytes) -> tuple[str, int]:
    at = 20
    while at < len(message):
        kind, length = struct.unpack_from("!HH", message, at)
        if kind == _XOR_MAPPED_ADDRESS:
            port = struct.unpack_from("!H", message, at + 6)[0] ^ (_COOKIE >> 16)
            hidden = message[at + 8 : at + 4 + length]
            mask = message[4:20][: len(hidden)]
            return str(ipaddress.ip_address(bytes(a ^ b for a, b in zip(hidden, mask, strict=True)))), port
        at += 4 + (length + 3 & ~3)
    raise AssertionError(f"no XOR-MAPPED-ADDRESS in {message.hex()}")
