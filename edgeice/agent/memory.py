"""What sessions took of the device's memory goes back to it when they end.

glibc keeps what is freed: only the top of its heap returns to the system, and one small allocation that lives on holds
back all that lies below.  Buffers of sessions are freed in any order, so an agent would stay as large as its busiest
minute was.
"""

from __future__ import annotations

import ctypes
from collections.abc import Awaitable, Callable
from typing import Final

import trio

__all__ = ["release_memory", "release_memory_after"]

#: Seconds from the end of a session until its memory is looked for: what ends with it has ended, and when several end
#: one after another they are one case.
_REST: Final = 5.0


def release_memory() -> None:
    """Give pages that nothing lives in back to the system; milliseconds.

    It does nothing where the C library is not glibc: others return what is freed by themselves, or have no such call.
    """
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
