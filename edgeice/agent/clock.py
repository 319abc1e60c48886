"""The wall clock, and whether it is known to be right."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["kernel_says_synchronized", "synchronized", "wall_clock"]

#: systemd-timesyncd touches this once it has set the clock from the network.
_SYNCHRONIZED: Final = Path("/run/systemd/timesync/synchronized")
#: <linux/timex.h>: nobody keeps the clock right, which the kernel says too when nobody did for some hours.
_STA_UNSYNC: Final = 0x0040
#: Room for struct timex of any architecture, bytes.
_TIMEX_SIZE: Final = 512


class _Timex(ctypes.Structure):
    """The beginning of struct timex, adjtimex(2); nothing is set where `modes` is 0."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("maximum_error", ctypes.c_long),
        ("estimated_error", ctypes.c_long),
        ("status", ctypes.c_int),
    )


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def kernel_says_synchronized() -> bool:
    """Whether some time service keeps the kernel's clock right: chrony, ntpd and timesyncd all tell it.

    False where the kernel does not answer, as in some containers.
    """
    buffer = ctypes.create_string_buffer(_TIMEX_SIZE)
    state: int = _libc().adjtimex(buffer)
    return state >= 0 and not _Timex.from_buffer(buffer).status & _STA_UNSYNC


def synchronized(marker: Path = _SYNCHRONIZED, kernel: Callable[[], bool] = kernel_says_synchronized) -> bool:
    """Whether the clock is known to be right.

    Args:
        marker: A file that is there once the clock was set.
        kernel: What the kernel says.
    """
    return kernel() or marker.exists()


def wall_clock() -> int | None:
    """Unix seconds, or None while the clock is not known to be synchronized.

    A Raspberry Pi has no clock of its own: after a power cut it starts where it stopped, and only a time service
    makes it right.
    """
    return int(time.time()) if synchronized() else None
