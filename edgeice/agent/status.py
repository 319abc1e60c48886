"""What the agent knows of itself, for whoever may open its local socket."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from edgeice.errors import ConfigError

__all__ = ["ask_status", "open_status_socket", "serve_status"]

#: Status requests answered at once; further ones wait in the kernel's backlog.
_BACKLOG: Final = 8
_ANSWER_TIME: Final = 5.0
_READ_LIMIT: Final = 1 << 20


def open_status_socket(path: Path) -> socket.socket:
    """Listen on a Unix socket that only this user may open; replaces a socket that nobody serves any more.

    Raises ConfigError where another agent runs, or where the socket cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setblocking(False)
        if path.is_socket():
            if _is_served(path):
                raise ConfigError(f"{path}: another agent runs here; stop it first")  # noqa: TRY301  # closed below
            path.unlink()
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"{path}: cannot listen there: {error.strerror}") from None
    except BaseException:
        listener.close()
        raise
    return listener


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


async def serve_status(listener: socket.socket, snapshot: Callable[[], dict[str, object]]) -> None:
    """Answer each connection with one JSON object, for ever."""
    server = trio.SocketListener(trio.socket.from_stdlib_socket(listener))

    async def answer(stream: trio.SocketStream) -> None:
        with trio.move_on_after(_ANSWER_TIME):
            try:
                await stream.send_all(json.dumps(snapshot(), default=str).encode() + b"\n")
            except trio.BrokenResourceError:
                return

    await trio.serve_listeners(answer, [server])


async def ask_status(path: Path) -> dict[str, object]:
    """What the agent behind a socket says; raises ConfigError that says what is wrong."""
    data = b""
    try:
        with trio.fail_after(_ANSWER_TIME):
            async with await trio.open_unix_socket(str(path)) as stream:
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
