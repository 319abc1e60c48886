"""TCP connections of forwards: how they are made, and how they end."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from edgeice.services.control import ErrorCode, ServiceError
from edgeice.services.lookup import look_up

__all__ = ["TcpStream", "connect_tcp", "format_endpoint"]

#: Seconds for one address, and for all of a name.
_ATTEMPT: Final = 5.0
_PATIENCE: Final = 10.0
#: Addresses of a name that are tried.
_ADDRESSES: Final = 8

_CODES: Final = {
    errno.ECONNREFUSED: ErrorCode.REFUSED,
    errno.EHOSTUNREACH: ErrorCode.UNREACHABLE,
    errno.ENETUNREACH: ErrorCode.UNREACHABLE,
    errno.ENETDOWN: ErrorCode.UNREACHABLE,
    errno.EADDRNOTAVAIL: ErrorCode.UNREACHABLE,
    errno.ETIMEDOUT: ErrorCode.TIMEOUT,
    errno.EMFILE: ErrorCode.LIMIT,
    errno.ENFILE: ErrorCode.LIMIT,
    errno.ENOBUFS: ErrorCode.LIMIT,
}


def format_endpoint(ip: str, port: int) -> str:
    """`192.0.2.1:22` or `[2001:db8::1]:22`."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


class TcpStream:
    """A TCP connection as `relay` takes it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int) -> bytes:
        """See `ByteStream`."""
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes) -> None:
        """See `ByteStream`."""
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        """See `ByteStream`."""
        await self._stream.send_eof()

    def reset(self) -> None:
        """Close with RST (RFC 9293 §3.10.5): the peer is not to take it for the end; nothing happens once closed."""
        if self._stream.socket.fileno() >= 0:
            self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._stream.socket.close()

    async def aclose(self) -> None:
        """Close in order."""
        await self._stream.aclose()


async def connect_tcp(host: str, port: int, bars: Callable[[str, int], Awaitable[bool]]) -> tuple[TcpStream, str]:
    """Connect to `host`, a name or an address; gives the stream and the address that it is connected to.

    Each address is judged after the name was resolved, and it is that very address that is connected to, so that no
    name can point elsewhere in between.

    Args:
        host: Name, IPv4 or IPv6 address (without brackets).
        port: TCP port.
        bars: Says of an IP address and port whether they may not be connected to.

    Raises:
        ServiceError: `not-found`, `refused`, `unreachable`, `timeout`, `unauthorized`, `limit`.
    """
    error = ServiceError(ErrorCode.TIMEOUT, f"{host} was not reached within {_PATIENCE:g} s")
    with trio.move_on_after(_PATIENCE):
        addresses = await _resolve(host, port)
        for family, address in addresses[:_ADDRESSES]:
            ip = str(address[0])
            if await bars(ip, port):
                error = ServiceError(ErrorCode.UNAUTHORIZED, f"forwards do not go to {format_endpoint(ip, port)}")
                continue
            try:
                return await _connect(family, address), format_endpoint(ip, port)
            except ServiceError as failed:
                error = failed
    raise error


async def _resolve(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    try:
        return await look_up(host, port)
    except (socket.gaierror, UnicodeError) as failed:
        reason = getattr(failed, "strerror", None) or "no valid name"
        raise ServiceError(ErrorCode.NOT_FOUND, f"{host}: {reason}") from None


async def _connect(family: int, address: tuple[Any, ...]) -> TcpStream:
    where = format_endpoint(address[0], address[1])
    try:
        sock = trio.socket.socket(family, socket.SOCK_STREAM)
    except OSError as failed:
        raise _explain(failed, where) from None
    try:
        with trio.move_on_after(_ATTEMPT) as scope:
            await sock.connect(address)
    except OSError as failed:
        sock.close()
        raise _explain(failed, where) from None
    except BaseException:
        sock.close()
        raise
    if scope.cancelled_caught:
        sock.close()
        raise ServiceError(ErrorCode.TIMEOUT, f"{where} did not answer within {_ATTEMPT:g} s")
    return TcpStream(trio.SocketStream(sock))


def _explain(failed: OSError, where: str) -> ServiceError:
    number = failed.errno or 0
    return ServiceError(_CODES.get(number, ErrorCode.UNREACHABLE), f"{where}: {os.strerror(number)}")
