"""TCP connections of forwards: how they are made, and how they end."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import trio

from edgeice.services.control import ErrorCode, ServiceError
from edgeice.services.lookup import look_up

__all__ = ["TcpStream", "connect_tcp", "format_endpoint"]

#: Seconds for one address, and for a name with all its addresses.
_ATTEMPT: Final = 5.0
_PATIENCE: Final = 10.0
#: Seconds after which the next address is tried beside one that has not answered (RFC 8305 §5).
_STAGGER: Final = 0.25
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
#: Which code tells most, where addresses failed in different ways: what the device lacks, then what is nearest to an
#: answer from over there.
_TELLING: Final = (
    ErrorCode.LIMIT,
    ErrorCode.REFUSED,
    ErrorCode.TIMEOUT,
    ErrorCode.UNREACHABLE,
    ErrorCode.UNAUTHORIZED,
)


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
        _reset(self._stream.socket)

    async def aclose(self) -> None:
        """Close in order."""
        await self._stream.aclose()


def _reset(sock: trio.socket.SocketType) -> None:
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


async def connect_tcp(host: str, port: int, bars: Callable[[str, int], Awaitable[bool]]) -> tuple[TcpStream, str]:
    """Connect to `host`, a name or an address; gives the stream and the address that it is connected to.

    Each address is judged after the name was resolved, and it is that very address that is connected to, so that no
    name can point elsewhere in between.  An address that does not answer holds up the others of its name only for a
    moment (RFC 8305).

    Args:
        host: Name, IPv4 or IPv6 address (without brackets).
        port: TCP port.
        bars: Says of an IP address and port whether they may not be connected to.

    Raises:
        ServiceError: `not-found`, `refused`, `unreachable`, `timeout`, `unauthorized`, `limit`; it says of each
            address what became of it.
    """
    race: _Race | None = None
    try:
        with trio.move_on_after(_PATIENCE) as limit:
            race = _Race(await _resolve(host, port), bars, limit.deadline)
            await race.run()
    except BaseException:
        if race is not None and race.won is not None:
            _reset(race.won[0])
        raise
    if race is None:
        raise ServiceError(ErrorCode.TIMEOUT, f"{host}: the device's resolver did not answer within {_PATIENCE:g} s")
    if race.won is None:
        raise race.error()
    sock, where = race.won
    return TcpStream(trio.SocketStream(sock)), where


async def _resolve(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    try:
        return await look_up(host, port)
    except (socket.gaierror, UnicodeError) as failed:
        reason = getattr(failed, "strerror", None) or "no valid name"
        raise ServiceError(ErrorCode.NOT_FOUND, f"{host}: {reason}") from None


@attrs.frozen
class _Failure:
    """What became of an address."""

    code: ErrorCode
    #: A sentence with {} for the address, or for those that share it.
    text: str


class _Race:
    """Connects to the addresses of a name, each a moment after the one before; the first that answers wins.

    Args:
        addresses: What `look_up` gave.
        bars: See `connect_tcp`.
        deadline: When the race is broken off.
    """

    def __init__(
        self, addresses: list[tuple[int, tuple[Any, ...]]], bars: Callable[[str, int], Awaitable[bool]], deadline: float
    ) -> None:
        self._entrants = _in_turn(addresses)[:_ADDRESSES]
        self._bars = bars
        self._deadline = deadline
        late = _Failure(ErrorCode.TIMEOUT, f"{{}} not tried within {_PATIENCE:g} s")
        #: By address what it came to, at any moment: where nothing else happens any more, that.
        self._failures = {_endpoint(address): late for _family, address in self._entrants}
        #: The connection, and what it leads to.
        self.won: tuple[trio.socket.SocketType, str] | None = None

    async def run(self) -> None:
        """Return when one address has won or all have failed."""
        async with trio.open_nursery() as nursery:
            for family, address in self._entrants:
                where = _endpoint(address)
                if await self._bars(str(address[0]), int(address[1])):
                    self._failures[where] = _Failure(ErrorCode.UNAUTHORIZED, "forwards do not go to {}")
                    continue
                over = trio.Event()
                nursery.start_soon(self._connect, family, address, over, nursery.cancel_scope)
                with trio.move_on_after(_STAGGER):
                    await over.wait()

    async def _connect(
        self, family: int, address: tuple[Any, ...], over: trio.Event, everything: trio.CancelScope
    ) -> None:
        where = _endpoint(address)
        patience = min(_ATTEMPT, self._deadline - trio.current_time())
        self._failures[where] = _Failure(ErrorCode.TIMEOUT, f"{{}} did not answer within {patience:.2g} s")
        sock = None
        try:
            sock = trio.socket.socket(family, socket.SOCK_STREAM)
            with trio.move_on_after(_ATTEMPT):
                await sock.connect(address)
                if self.won is None:
                    self.won = sock, where
                everything.cancel()
        except OSError as failed:
            number = failed.errno or 0
            code = _CODES.get(number, ErrorCode.UNREACHABLE)
            self._failures[where] = _Failure(code, f"{{}}: {os.strerror(number)}")
        finally:
            if sock is not None and self.won is None:
                _reset(sock)
            elif sock is not None and self.won is not None and self.won[0] is not sock:
                sock.close()
            over.set()

    def error(self) -> ServiceError:
        """Why nobody has won, the same reason once for all addresses that have it."""
        reasons: dict[_Failure, list[str]] = {}
        for where, failure in self._failures.items():
            reasons.setdefault(failure, []).append(where)
        code = min((failure.code for failure in reasons), key=_TELLING.index)
        return ServiceError(
            code, "; ".join(failure.text.format(", ".join(found)) for failure, found in reasons.items())
        )


def _endpoint(address: tuple[Any, ...]) -> str:
    return format_endpoint(str(address[0]), int(address[1]))


def _in_turn(addresses: list[tuple[int, tuple[Any, ...]]]) -> list[tuple[int, tuple[Any, ...]]]:
    """The two families in turn, each in the order given: one without a way is no more than every second (§4)."""
    first = [each for each in dict.fromkeys(addresses) if each[0] == addresses[0][0]]
    other = [each for each in dict.fromkeys(addresses) if each[0] != addresses[0][0]]
    paired = [each for pair in zip(first, other, strict=False) for each in pair]
    return paired + first[len(other) :] + other[len(first) :]
