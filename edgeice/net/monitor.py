"""Watches the kernel's interfaces and gives a snapshot after every change.

What the kernel tells is only taken as a sign that something changed: the snapshot itself always comes from a fresh
dump, which costs some 0.1 ms.  So lost messages (ENOBUFS), messages that tell half, and their order cannot make it
wrong.
"""

from __future__ import annotations

import errno
import os
import socket
from types import TracebackType
from typing import Final, Self

import trio

from edgeice.errors import DecodeError
from edgeice.net.interfaces import Snapshot
from edgeice.net.netlink import (
    GROUPS,
    DumpDone,
    DumpInterrupted,
    Message,
    assemble,
    decode,
    dump_addresses,
    dump_links,
)

__all__ = ["InterfaceMonitor"]

#: Seconds in which changes that come in a burst (a link with three addresses goes up) are told as one.
_COALESCE: Final = 0.02
_READ_SIZE: Final = 1 << 16
#: Dumps tried before one is taken that changes interrupted; the next event then mends it.
_DUMP_ATTEMPTS: Final = 5


class InterfaceMonitor:
    """An rtnetlink socket; use as a context manager, `read` once, then `changed` for ever.

    Raises OSError where the kernel refuses a netlink socket.
    """

    def __init__(self) -> None:
        self._events = _netlink_socket(GROUPS)
        #: The interfaces as last read.
        self.snapshot = Snapshot()
        #: Datagrams that could not be decoded, and overruns; each led to a fresh dump, too.
        self.errors = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        trio.lowlevel.notify_closing(self._events)
        self._events.close()

    async def read(self) -> Snapshot:
        """Ask the kernel for everything."""
        self.snapshot = await _read_snapshot()
        return self.snapshot

    async def changed(self) -> Snapshot:
        """Wait until the interfaces differ from `snapshot`, and for the burst around it to end."""
        while True:
            await trio.lowlevel.wait_readable(self._events)
            if not self._take_events():
                continue
            await trio.sleep(_COALESCE)
            self._take_events()
            fresh = await _read_snapshot()
            if fresh != self.snapshot:
                self.snapshot = fresh
                return fresh

    def _take_events(self) -> bool:
        """Empty the socket; True if anything in it may concern interfaces."""
        concerned = False
        while True:
            try:
                data, (sender, _groups) = self._events.recvfrom(_READ_SIZE)
            except BlockingIOError:
                return concerned
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.errors += 1
                concerned = True
                continue
            if sender != 0:
                continue  # any process may send to a netlink socket; only the kernel is believed
            try:
                concerned = bool(decode(data)) or concerned
            except DecodeError:
                self.errors += 1
                concerned = True


async def _read_snapshot() -> Snapshot:
    for _attempt in range(_DUMP_ATTEMPTS):
        # A fresh socket: answers to a dump that was canceled half-way cannot get mixed into it.
        with _netlink_socket(0) as sock:
            messages = await _dump(sock, dump_links(1), 1) + await _dump(sock, dump_addresses(2), 2)
        if DumpInterrupted() not in messages:
            break
    return assemble(messages)


async def _dump(sock: socket.socket, request: bytes, sequence: int) -> list[Message]:
    sock.send(request)
    messages: list[Message] = []
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            data, (sender, _groups) = sock.recvfrom(_READ_SIZE)
        except BlockingIOError:
            continue
        if sender != 0:
            continue
        for message in decode(data):
            if not isinstance(message, DumpDone):
                messages.append(message)
            elif message.sequence == sequence:
                if message.error:
                    raise OSError(message.error, os.strerror(message.error))
                return messages


def _netlink_socket(groups: int) -> socket.socket:
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    )
    try:
        sock.bind((0, groups))
    except BaseException:
        sock.close()
        raise
    return sock
