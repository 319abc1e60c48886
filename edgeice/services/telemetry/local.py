"""The stream `local`: lines of JSON that any process of the device sends to a Unix datagram socket.

The socket is there exactly while somebody subscribes.  Nobody subscribed must cost nothing: were it always there, the
agent would have to wake up for each datagram to throw it away, or leave it in the kernel's queue, which then fills and
blocks writers for ever.  So a writer's `sendto` fails at once with ENOENT while nobody listens, which it is to ignore
(with ECONNREFUSED and EAGAIN), and whoever has something costly to measure may look first whether the socket is there.

Anybody on the device may write to it, as to syslog's socket (mode 0666); a folder that not everybody may enter narrows
that.  What is written is taken for a claim of some process and nothing else.

All subscribers read from one ring of the last rows, each at its own place: a slow one loses what the ring no longer
has, counted exactly, and there is no queue beside it.  Subscribers' tasks take turns in reading the socket, so the
agent needs no task for it.  Writers that flood get a quarter of a processor: then the socket is left alone for a while,
and they wait or have their datagrams refused.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Final

import trio

from edgeice.errors import DecodeError
from edgeice.local_socket import address_of
from edgeice.sansio import DropCounter, Entropy
from edgeice.services.control import Control, JsonValue, as_object, as_text, decode_control
from edgeice.services.telemetry.wire import LOCAL, Cursor, encode_row, pack

__all__ = ["LocalStream", "Ring", "Share", "parse_line"]

#: Largest datagram, bytes.
MAX_DATAGRAM: Final = 65536
#: Longest line, bytes.
MAX_LINE: Final = 4096
#: Rows and bytes of them that the ring holds.
RING_ROWS: Final = 1024
RING_BYTES: Final = 256 * 1024

_LONGEST_NAME: Final = 128
_LONGEST_TEXT: Final = 1024
_MOST_TAGS: Final = 16
_LONGEST_TAG: Final = 64
_LONGEST_TAG_VALUE: Final = 256
_LARGEST: Final = 2**64
#: Milliseconds in place of seconds are beyond it.
_LATEST: Final = 1e11
#: Lines and datagrams that are taken in one go before others get their turn.
_AT_ONCE: Final = 128
#: The part of the time that goes into taking datagrams at most, and the seconds that may be saved up.
_SHARE: Final = 0.25
_SAVED: Final = 0.1


def parse_line(line: bytes, now: float) -> str:
    """A process's line as the JSON of a row, with `now` for its time if it has none; raises DecodeError."""
    if len(line) > MAX_LINE:
        raise DecodeError("line-size", f"more than {MAX_LINE} bytes")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise DecodeError("line-utf8", "not UTF-8") from None
    members = decode_control(text)
    return encode_row(
        _time(members.get("t"), now), _name(members.get("name")), _value(members), _tags(members.get("tags"))
    )


def _time(value: JsonValue, now: float) -> int | float:
    if value is None:
        return now
    at = _number(value, "t")
    if not abs(at) < _LATEST:
        raise DecodeError("line-range", "t is no Unix time in seconds")
    return at


def _number(value: JsonValue, name: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DecodeError("line-type", f"{name} is not a number")
    if not -_LARGEST < value < _LARGEST and isinstance(value, int):
        raise DecodeError("line-range", f"{name} has more than 64 bits")
    return value


def _name(value: JsonValue) -> str:
    name = as_text(value, "name")
    if not 1 <= len(name) <= _LONGEST_NAME or not name.isprintable():
        raise DecodeError("line-range", f"name is not 1 to {_LONGEST_NAME} printable characters")
    return name


def _value(members: Control) -> int | float | str | bool:
    value = members.get("value")
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) > _LONGEST_TEXT:
            raise DecodeError("line-range", f"value is longer than {_LONGEST_TEXT} characters")
        return value
    return _number(value, "value")


def _tags(value: JsonValue) -> dict[str, str]:
    if value is None:
        return {}
    tags = {name: as_text(text, "a tag's value") for name, text in as_object(value, "tags").items()}
    if len(tags) > _MOST_TAGS:
        raise DecodeError("line-range", f"more than {_MOST_TAGS} tags")
    for name, text in tags.items():
        if not 1 <= len(name) <= _LONGEST_TAG or len(text) > _LONGEST_TAG_VALUE:
            raise DecodeError("line-range", "a tag's name or value is empty or too long")
        if not (name.isprintable() and text.isprintable()):
            raise DecodeError("line-range", "a tag's name or value is not printable")
    return tags


class Ring:
    """The last rows, numbered from 1.

    Args:
        epoch: Of its cursors.
    """

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self._rows: deque[tuple[str, int]] = deque()
        self._bytes = 0
        #: Number of the newest row.
        self.newest = 0
        self._arrived = trio.lowlevel.ParkingLot()

    def add(self, row: str) -> None:
        """Append a row, and forget the oldest while there are too many."""
        size = len(row.encode())
        self._rows.append((row, size))
        self._bytes += size
        self.newest += 1
        while len(self._rows) > RING_ROWS or self._bytes > RING_BYTES:
            self._bytes -= self._rows.popleft()[1]

    def told(self) -> None:
        """Wake who waits for what was added."""
        self._arrived.unpark_all()

    def cursor(self, number: int) -> Cursor:
        """The place after a row."""
        return Cursor(LOCAL, self.epoch, number)

    def find(self, cursor: Cursor | None) -> int | None:
        """The number of a cursor that this ring gave out, None for any other."""
        known = cursor is not None and (cursor.stream, cursor.epoch) == (LOCAL, self.epoch)
        return cursor.number if cursor is not None and known and cursor.number <= self.newest else None

    async def wait_beyond(self, number: int) -> None:
        """Wait for a row after this one."""
        while self.newest <= number:
            await self._arrived.park()

    def take(self, number: int) -> tuple[int, list[str], int]:
        """What follows a row: how many rows are gone already, those that fit into a message, the last one's number."""
        oldest = self.newest - len(self._rows) + 1
        lost = max(oldest - number - 1, 0)
        skip = number + lost - oldest + 1
        rows = next(pack(islice(self._rows, skip, None)), [])
        return lost, rows, number + lost + len(rows)


class Share:
    """Keeps work to a part of the time.

    Args:
        now: Monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self._saved = _SAVED
        self._at = now

    def spend(self, begun: float, ended: float) -> float:
        """Note that something took that long; returns how long to rest now, 0 while there are savings."""
        self._saved = min(self._saved + (ended - self._at) * _SHARE, _SAVED) - (ended - begun)
        self._at = ended
        return max(-self._saved / _SHARE, 0.0)


class LocalStream:
    """The socket, while somebody subscribes, and the ring behind it.

    Args:
        path: Of the socket.
        wall: Unix seconds.
        entropy: For the ring's epoch.
        drops: Counts what is not taken, by reason.
    """

    def __init__(self, path: Path, wall: Callable[[], float], entropy: Entropy, drops: DropCounter) -> None:
        self._path = path
        self._wall = wall
        self._entropy = entropy
        self._drops = drops
        self._subscribers = 0
        self._socket: socket.socket | None = None
        self._ring = Ring("")
        self._turn = trio.Lock()
        self._buffer = bytearray()
        #: The rest of a datagram.  It stays here when whoever took it leaves.
        self._lines: deque[bytes] = deque()

    def open(self) -> Ring:
        """Subscribe; gives the ring, filled while a subscriber is in `read`.  Raises OSError where no socket can be."""
        if self._subscribers == 0:
            self._socket = _bind(self._path)
            self._ring = Ring(self._entropy.token_bytes(4).hex())
            self._buffer = bytearray(MAX_DATAGRAM)
        self._subscribers += 1
        return self._ring

    def close(self) -> None:
        """Undo one `open`; with the last, socket and ring go away."""
        self._subscribers -= 1
        if self._subscribers == 0:
            assert self._socket is not None
            self._path.unlink(missing_ok=True)
            self._socket.close()
            self._socket, self._ring, self._buffer = None, Ring(""), bytearray()
            self._lines.clear()

    async def read(self) -> None:
        """Take what processes write, for ever, as soon as no other task does."""
        async with self._turn:
            assert self._socket is not None  # whoever reads has subscribed
            share = Share(trio.current_time())
            while True:
                if self._lines:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(self._socket)
                begun = trio.current_time()
                self._work(self._socket)
                self._ring.told()
                rest = share.spend(begun, trio.current_time())
                if rest:
                    await trio.sleep(rest)

    def _work(self, source: socket.socket) -> None:
        """Take lines and datagrams, so many that others need not wait long for their turn."""
        for _ in range(_AT_ONCE):
            if self._lines:
                self._take(self._lines.popleft())
                continue
            try:
                size = source.recv_into(self._buffer, 0, socket.MSG_TRUNC)
            except BlockingIOError:
                return
            if size > MAX_DATAGRAM:
                self._drops.count("datagram-size")
            else:
                self._lines.extend(bytes(memoryview(self._buffer)[:size]).splitlines())

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            self._ring.add(parse_line(line, round(self._wall(), 3)))
        except DecodeError as error:
            self._drops.count(error.reason)


def _bind(path: Path) -> socket.socket:
    """A socket that everybody may write to; replaces one that nobody reads any more.  Raises OSError."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with address_of(path) as address:
            if path.is_socket():
                _check_unread(address)
                path.unlink()
            opened.bind(address)
            os.chmod(address, 0o666)  # noqa: PTH101, S103  # the address is no path where that is too long; see above
    except BaseException:
        opened.close()
        raise
    return opened


def _check_unread(address: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            return
    raise FileExistsError(errno.EADDRINUSE, "another agent reads there")
