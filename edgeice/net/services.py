"""Who provides a service under a name: SRV records through the system's resolver (RFC 2782, RFC 8489 §8.1).

The C library asks: it knows the system's name servers, their order, time limits, and TCP for long answers.  Python has
no function for it, so it is called as it is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from edgeice.dns import IN, SRV, decode_services, in_order
from edgeice.errors import DecodeError
from edgeice.sansio import Entropy

__all__ = ["InThread", "locate", "system_services"]

T = TypeVar("T")

#: Servers and addresses of each that are looked at.
TARGETS_LIMIT: Final = 4
_ADDRESSES: Final = 4
_ANSWER_SIZE: Final = 65_535
_ENTROPY: Final = Entropy()
#: Where res_query is, by age of the C library: in it, or beside it under either name.
_LIBRARIES: Final = (None, "libresolv.so.2")
_NAMES: Final = ("res_query", "__res_query")


class InThread(Protocol):
    """Runs a blocking look-up off the event loop."""

    def __call__(self, lookup: Callable[[str], T], name: str, /) -> Awaitable[T]:
        """What `lookup` says of `name`."""


def _draw(most: int) -> int:
    return _ENTROPY.jitter.randint(0, most)


async def locate(
    name: str,
    lookup: Callable[[str], list[str]],
    in_thread: InThread,
    *,
    services: Callable[[str], bytes] | None = None,
    draw: Callable[[int], int] = _draw,
) -> list[tuple[str, int | None]] | None:
    """Addresses and ports of a service's servers, those to be preferred first.

    Args:
        name: With the service in front, `_stun._udp.example.org`.
        lookup: The blocking look-up of a host name.
        in_thread: Runs it.
        services: The blocking look-up of SRV records; by default the system's.
        draw: Chooses among servers of equal priority, as `in_order` has it.

    Returns:
        None where DNS says nothing, so that the name itself is to be tried; an empty list where it says that there is
        no such service.
    """
    data = await in_thread(services or system_services, name)
    try:
        offered = decode_services(data)
    except DecodeError:
        return None
    if not offered:
        return None
    found: list[tuple[str, int | None]] = []
    for each in in_order(offered, draw)[:TARGETS_LIMIT]:
        if not each.is_refusal:
            found += [(ip, each.port) for ip in (await in_thread(lookup, each.target))[:_ADDRESSES]]
    refused = all(each.is_refusal for each in offered)
    return found if found or refused else None


def system_services(name: str) -> bytes:
    """The answer to a question for SRV records, empty on failure.  Blocks."""
    query = _res_query()
    if query is None:
        return b""
    answer = ctypes.create_string_buffer(_ANSWER_SIZE)
    size = query(name.encode(), IN, SRV, answer, _ANSWER_SIZE)
    return answer.raw[: max(size, 0)]


def _res_query() -> Callable[..., int] | None:
    for library in _LIBRARIES:
        try:
            loaded = ctypes.CDLL(library)
        except OSError:
            continue
        for name in _NAMES:
            if hasattr(loaded, name):
                found: Callable[..., int] = getattr(loaded, name)
                return found
    return None
