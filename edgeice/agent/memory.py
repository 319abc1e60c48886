"""What sessions took of the device's memory goes back to it when they end.

glibc keeps what is freed: only the top of its heap returns to the system, and one small allocation that lives on holds
back all that lies below.  Buffers of sessions are freed in any order, so an agent would stay as large as its busiest
minute was.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Awaitable, Callable
from typing import Final

import trio

__all__ = ["release_memory", "release_memory_after", "set_aside", "share_one_heap"]

#: glibc's name of the option (mallopt(3)).
_M_ARENA_MAX: Final = -8
#: Seconds from the end of a session until its memory is looked for: what ends with it has ended, and when several end
#: one after another they are one case.
_REST: Final = 5.0


def share_one_heap() -> None:
    """Let threads allocate where the main one does; before the first of them starts.

    glibc would give each a heap of its own, whose free end `malloc_trim` leaves alone.  Python's table of names, 1.9
    MiB, is made anew by whatever thread meets one name too many, and left such an end behind each time.
    """
    limit = getattr(ctypes.CDLL(None), "mallopt", None)
    if limit is not None:
        limit(ctypes.c_int(_M_ARENA_MAX), ctypes.c_int(1))


def set_aside() -> None:
    """Let the garbage collector pass over what there is by now, for good: modules and what stays as long as they do.

    A collection then looks at what sessions made only, which takes a fifth of the time, and so it may be asked for.
    """
    gc.collect()
    gc.freeze()


def release_memory() -> None:
    """Free what only refers to itself, and give pages that nothing lives in back to the system; milliseconds.

    The pages stay where the C library is not glibc: others return what is freed by themselves, or have no such call.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


async def release_memory_after(
    wait_ended: Callable[[], Awaitable[None]], release: Callable[[], None] = release_memory
) -> None:
    """Release memory each time that something has ended, a moment later; runs until it is canceled.

    Args:
        wait_ended: Waits until the next of what takes memory ends.
        release: Releases it.
    """
    while True:
        await wait_ended()
        await trio.sleep(_REST)
        release()
