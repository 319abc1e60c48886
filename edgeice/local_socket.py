"""Unix sockets in the file system that belong to one user: named, made, found stale and reached."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgeice.errors import EdgeIceError

__all__ = ["AlreadyServedError", "address_of", "is_served", "listen_local", "peer_of"]

#: sun_path holds 108 bytes, the last of them a zero.
_SUN_PATH: Final = 107


class AlreadyServedError(EdgeIceError):
    """Another process listens on the socket."""


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """A name of the socket that the kernel takes: a long one is reached by a descriptor of its folder."""
    if len(os.fsencode(path)) <= _SUN_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listen_local(path: Path, backlog: int) -> socket.socket:
    """Listen on a Unix socket that only this user may open; replaces a socket that nobody serves any more.

    Raises AlreadyServedError where another process listens there, and OSError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setblocking(False)
        with _locked(path.parent):  # or two that start at once would both find the old one stale
            if path.is_socket():
                if is_served(path):
                    raise AlreadyServedError(str(path))  # noqa: TRY301  # closed below
                path.unlink()
            mask = os.umask(0o177)
            try:
                with address_of(path) as address:
                    listener.bind(address)
            finally:
                os.umask(mask)
            listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_served(path: Path) -> bool:
    """Whether a process listens on a socket; one whose backlog is full does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            with address_of(path) as address:
                probe.connect(address)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Process and user that are at the other end of a connected socket, as the kernel noted them."""
    pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid
