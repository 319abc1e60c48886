"""Names of forwards, looked up without holding up anything else on the device."""

from __future__ import annotations

import socket
from typing import Any, Final

import trio

__all__ = ["look_up"]

#: Look-ups at once.  A resolver that does not answer holds a thread for as long as it likes, and other threads start
#: and end processes; so these have a limit of their own, and further names wait.
_LOOKUPS: Final = trio.CapacityLimiter(8)


async def look_up(host: str, port: int, limiter: trio.CapacityLimiter = _LOOKUPS) -> list[tuple[int, tuple[Any, ...]]]:
    """Address family and socket address of each TCP endpoint of `host`, a name or an address.

    Args:
        host: Name or IP address.
        port: TCP port.
        limiter: How many names may be looked up at once; addresses need none.  By default one that all names share
            which operators gave.

    Raises:
        OSError: there is none, or the resolver failed (`socket.gaierror`).
        UnicodeError: `host` can be no name.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        found = await trio.to_thread.run_sync(_ask, host, port, abandon_on_cancel=True, limiter=limiter)
    else:
        await trio.lowlevel.checkpoint()
    return [(family, sockaddr) for family, _type, _protocol, _name, sockaddr in found]


def _ask(host: str, port: int) -> list[tuple[Any, ...]]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
