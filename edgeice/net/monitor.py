"""Watches the kernel's interfaces, addresses and default routes, and gives a snapshot after every change.

What the kernel tells is only taken as a sign that something changed, and whether it is a loss: the snapshot itself
always comes from a fresh dump, which costs some 0.3 ms and never waits, for the kernel answers within the calls.  So
lost messages (ENOBUFS), messages that tell half, and their order cannot make it wrong.

A loss of what was there leads to a dump at once.  Anything else waits for the rest of its burst, and for longer where
it is about what is held back anyway (see `FlapGuard`): such a storm is heard in batches, a dump is made each second.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import math
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import attrs
import trio

from edgeice.errors import DecodeError
from edgeice.net.flapping import FlapGuard
from edgeice.net.interfaces import Snapshot
from edgeice.net.links import LinkClass, classify, read_facts
from edgeice.net.netlink import (
    GROUPS,
    AddressMessage,
    DumpDone,
    DumpInterrupted,
    LinkMessage,
    Message,
    RouteMessage,
    assemble,
    decode,
    dump_addresses,
    dump_links,
    dump_routes,
)

__all__ = ["InterfaceMonitor"]

#: Seconds in which gains that come in a burst (a link with three addresses goes up) are told as one.
_COALESCE: Final = 0.02
#: The same for what is held back, and for trying again where the kernel refused a dump.
_PATIENCE: Final = 1.0
_READ_SIZE: Final = 1 << 16
#: Datagrams read before other tasks get their turn.
_BATCH: Final = 256
#: Dumps tried before one is taken that changes interrupted; the next event then mends it.
_DUMP_ATTEMPTS: Final = 5
# <linux/netlink.h>
_SOL_NETLINK: Final = 270
_NETLINK_GET_STRICT_CHK: Final = 12


class _News(enum.Enum):
    """What an event is about."""

    LOSS = enum.auto()  # of what is in use
    CHANGE = enum.auto()
    OF_HELD = enum.auto()  # of what is held back firmly, and so in no use


class InterfaceMonitor:
    """An rtnetlink socket; use as a context manager, `read` once, then `changed` for ever.

    Raises OSError where the kernel refuses a netlink socket.
    """

    def __init__(self, sys: Path = Path("/sys")) -> None:
        self._events = _netlink_socket(GROUPS)
        self._sys = sys
        #: The interfaces as last read.
        self.snapshot = Snapshot()
        #: Datagrams that could not be decoded, overruns, and dumps that the kernel refused.
        self.errors = 0
        self._guard = FlapGuard()
        #: When to look although nothing was lost.
        self._look_at = math.inf
        self._looked_at = -math.inf
        #: Index of each interface that had carrier when it was heard of last.
        self._carrier: set[int] = set()
        #: What the kernel said of each interface, by index and name.
        self._classes: dict[tuple[int, str], LinkClass] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        trio.lowlevel.notify_closing(self._events)
        self._events.close()

    def read(self) -> Snapshot:
        """Ask the kernel for everything; raises OSError where it refuses."""
        now = self._looked_at = trio.current_time()
        self._look_at = math.inf
        messages = _dump_all()
        fresh = assemble(messages, self._classify)
        present = {(index, each.name) for index, each in fresh.interfaces.items()}
        self._classes = {key: found for key, found in self._classes.items() if key in present}
        self._carrier = {index for index, each in fresh.interfaces.items() if each.has_carrier}
        self.snapshot = attrs.evolve(fresh, held=self._guard.held(now=now))
        return self.snapshot

    async def changed(self) -> Snapshot:
        """Wait until the interfaces, or what is held back of them, differ from `snapshot`."""
        while True:
            before, now = self.snapshot, trio.current_time()
            deadline = min(self._look_at, self._guard.next_timeout(now=now))
            with trio.move_on_at(deadline):
                await trio.lowlevel.wait_readable(self._events)
            heard = self._take_events()
            if heard == {_News.OF_HELD}:
                await trio.sleep(_COALESCE)
            if _News.LOSS in heard or trio.current_time() >= deadline:
                try:
                    self.read()
                except OSError:  # no memory, most likely
                    self.errors += 1
                    self._wait(_PATIENCE)
            if self.snapshot != before:
                return self.snapshot

    def _classify(self, link: LinkMessage) -> LinkClass:
        key = (link.interface.index, link.interface.name)
        if key not in self._classes:
            self._classes[key] = classify(link.hardware, read_facts(key[1], key[0], self._sys))
        return self._classes[key]

    def _take_events(self) -> set[_News]:
        """Empty the socket, or nearly."""
        heard: set[_News] = set()
        for _ in range(_BATCH):
            try:
                data, (sender, _groups) = self._events.recvfrom(_READ_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno not in {errno.ENOBUFS, errno.ENOMEM}:
                    raise
                heard.add(self._overrun())
                continue
            if sender != 0:
                continue  # any process may send to a netlink socket; only the kernel is believed
            try:
                messages = decode(data)
            except DecodeError:
                heard.add(self._overrun())
            else:
                heard.update(news for message in messages if (news := self._take(message)) is not None)
        if heard:
            self._wait(_PATIENCE if heard == {_News.OF_HELD} else _COALESCE)
        return heard

    def _overrun(self) -> _News:
        """Something was not heard: it may have been a loss, but a flood of this must not cost a dump each."""
        self.errors += 1
        return _News.LOSS if trio.current_time() - self._looked_at > _COALESCE else _News.CHANGE

    def _wait(self, seconds: float) -> None:
        self._look_at = min(self._look_at, trio.current_time() + seconds)

    def _take(self, message: Message) -> _News | None:
        match message:
            case LinkMessage():
                is_loss = self._is_lost_link(message)
                is_held = self.snapshot.holds(message.interface.name)
            case AddressMessage():
                is_loss = self._is_lost_address(message)
                is_held = self.snapshot.holds(self._name(message.index), message.address.ip)
            case RouteMessage():
                is_loss = self._is_lost_route(message)
                held = {name for (name, _ip), each in self.snapshot.held.items() if each.is_firm}
                is_held = held.issuperset(self._name(route.index) for route in message.routes)
            case _:
                return None
        if is_held:
            return _News.OF_HELD
        return _News.LOSS if is_loss else _News.CHANGE

    def _name(self, index: int) -> str:
        interface = self.snapshot.interfaces.get(index)
        return "" if interface is None else interface.name

    def _is_lost_link(self, message: LinkMessage) -> bool:
        told, known = message.interface, self.snapshot.interfaces.get(message.interface.index)
        has_carrier = told.has_carrier and not message.removed
        if told.index in self._carrier and not has_carrier:
            self._guard.lost(told.name, now=trio.current_time())
        if has_carrier:
            self._carrier.add(told.index)
        else:
            self._carrier.discard(told.index)
        return known is not None and (message.removed or known.name != told.name or known.has_carrier > has_carrier)

    def _is_lost_address(self, message: AddressMessage) -> bool:
        known = self.snapshot.interfaces.get(message.index)
        if known is None:
            return False
        if message.removed:
            self._guard.lost(known.name, message.address.ip, now=trio.current_time())
        is_usable = message.address.is_usable and not message.removed
        return not is_usable and any(each.ip == message.address.ip and each.is_usable for each in known.addresses)

    def _is_lost_route(self, message: RouteMessage) -> bool:
        if message.removed:
            return not self.snapshot.routes.isdisjoint(message.routes)
        return any(
            route.is_down and attrs.evolve(route, is_down=False) in self.snapshot.routes for route in message.routes
        )


def _dump_all() -> list[Message]:
    messages: list[Message] = []
    for _attempt in range(_DUMP_ATTEMPTS):
        # A fresh socket: what an earlier one has left over cannot get mixed into it.
        with _netlink_socket(0) as sock:
            with contextlib.suppress(OSError):  # before Linux 4.20, which tells all routes
                sock.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
            requests = (dump_links(1), dump_addresses(2), dump_routes(3))
            messages = [
                message for sequence, request in enumerate(requests, 1) for message in _dump(sock, request, sequence)
            ]
        if DumpInterrupted() not in messages:
            break
    return messages


def _dump(sock: socket.socket, request: bytes, sequence: int) -> list[Message]:
    sock.send(request)
    messages: list[Message] = []
    while True:
        # Never EAGAIN: the kernel has put the first part there when the request was sent, and each next part when the
        # one before is read.
        data, (sender, _groups) = sock.recvfrom(_READ_SIZE)
        if sender != 0:
            continue
        try:
            found = decode(data)
        except DecodeError as error:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG)) from error
        for message in found:
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
