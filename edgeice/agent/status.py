"""What the agent knows of itself, for whoever may open its local socket."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from edgeice.errors import ConfigError
from edgeice.files import check_writable
from edgeice.local_socket import AlreadyServedError, address_of, listen_local
from edgeice.sansio import DropCounter

__all__ = ["ask_status", "check_status_socket", "open_status_socket", "serve_status"]

#: Connections served at once; further ones wait in the kernel's backlog, and beyond that are refused by it.
_AT_ONCE: Final = 16
_BACKLOG: Final = 128
_ANSWER_TIME: Final = 5.0
#: How long a client that was answered may take to close, seconds.
_CLOSE_TIME: Final = 1.0
#: How long to wait where no descriptor is left for another connection, seconds.
_ACCEPT_PAUSE: Final = 0.1
_READ_LIMIT: Final = 1 << 20


def open_status_socket(path: Path) -> socket.socket:
    """Listen on a Unix socket that only this user may open; replaces a socket that nobody serves any more.

    Raises ConfigError where another agent runs, or where the socket cannot be made.
    """
    try:
        return listen_local(path, _BACKLOG)
    except AlreadyServedError:
        raise ConfigError(f"{path}: another agent runs here; stop it first") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot listen there: {error.strerror or error}") from None


def check_status_socket(path: Path) -> None:
    """Raise ConfigError where no socket could be made; an agent may be listening there."""
    try:
        if path.exists() and not path.is_socket():
            raise FileExistsError(errno.EEXIST, "something else stands there")
        if not path.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{path.parent} is no folder")
        check_writable(path.parent)
    except OSError as error:
        raise ConfigError(f"{path}: cannot listen there: {error.strerror}") from None


async def serve_status(listener: socket.socket, snapshot: Callable[[], dict[str, object]], drops: DropCounter) -> None:
    """Answer each connection with one JSON object, for ever.

    Args:
        listener: From `open_status_socket`.
        snapshot: What to answer.
        drops: Counts clients that say something, as `unasked`: none has to.
    """
    server = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    slots = trio.Semaphore(_AT_ONCE)

    async def answer(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                with trio.fail_after(_ANSWER_TIME):
                    await stream.send_all(json.dumps(snapshot(), default=str).encode() + b"\n")
                    await stream.send_eof()
                with trio.fail_after(_CLOSE_TIME):
                    if await stream.receive_some(1):
                        drops.count("unasked")
        except (trio.BrokenResourceError, trio.TooSlowError):
            return
        finally:
            slots.release()

    async with trio.open_nursery() as nursery:
        while True:
            await slots.acquire()
            try:
                stream = await server.accept()
            except OSError:
                slots.release()
                await trio.sleep(_ACCEPT_PAUSE)
            else:
                nursery.start_soon(answer, stream)


async def ask_status(path: Path) -> dict[str, object]:
    """What the agent behind a socket says; raises ConfigError that says what is wrong."""
    data = b""
    try:
        with trio.fail_after(_ANSWER_TIME):
            with address_of(path) as address:
                stream = await trio.open_unix_socket(address)
            async with stream:
                async for chunk in stream:
                    data += chunk
                    if len(data) > _READ_LIMIT:
                        break
    except (OSError, trio.TooSlowError) as error:
        reason = getattr(error, "strerror", None) or "no answer"
        raise ConfigError(f"{path}: no agent answers there ({reason}); is `edgeice-agent run` running?") from None
    try:
        answer = json.loads(data)
    except ValueError:
        raise ConfigError(f"{path}: what answers there is no agent") from None
    return answer if isinstance(answer, dict) else {}
