"""Watches the kernel's interfaces and gives a snapshot after every change."""

from __future__ import annotations

import errno
import socket
from types import TracebackType
from typing import Final, Self

import trio

from edgeice.errors import DecodeError
from edgeice.net.interfaces import Snapshot
from edgeice.net.netlink import GROUPS, DumpDone, apply_messages, dump_addresses, dump_links

__all__ = ["InterfaceMonitor"]

#: Changes that come in a burst (a link with three addresses goes up) are told as one.
_COALESCE: Final = 0.02
_READ_SIZE: Final = 1 << 16


class InterfaceMonitor:
    """An rtnetlink socket; use as a context manager, `read` once, then `changed` for ever.

    Raises OSError where the kernel refuses a netlink socket.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            self._socket.setblocking(False)
            self._socket.bind((0, GROUPS))
        except BaseException:
            self._socket.close()
            raise
        self._sequence = 0
        #: The interfaces as last read.
        self.snapshot = Snapshot()
        #: Datagrams that could not be decoded, and overruns that led to a full dump.
        self.errors = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()

    async def read(self) -> Snapshot:
        """Ask the kernel for everything."""
        self.snapshot = Snapshot()
        for request in (dump_links, dump_addresses):
            self._sequence += 1
            self._socket.send(request(self._sequence))
            while True:
                done = await self._receive()
                if done is None:
                    return await self.read()
                if any(each.sequence == self._sequence for each in done):
                    break
        return self.snapshot

    async def changed(self) -> Snapshot:
        """Wait for a change, and for the burst around it to end."""
        await self._take()
        with trio.move_on_after(_COALESCE) as scope:
            while True:
                await self._take()
                scope.deadline = min(scope.deadline, trio.current_time() + _COALESCE)
        return self.snapshot

    async def _take(self) -> None:
        if await self._receive() is None:
            await self.read()

    async def _receive(self) -> list[DumpDone] | None:
        """Apply one datagram; None when messages were lost and everything has to be read again."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                data, sender = self._socket.recvfrom(_READ_SIZE)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.errors += 1
                return None
            if sender[0] != 0:
                continue  # any process may send to a netlink socket; only the kernel is believed
            try:
                self.snapshot, done = apply_messages(self.snapshot, data)
            except DecodeError:
                self.errors += 1
                return None
            return done
