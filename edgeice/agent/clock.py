"""The wall clock, and whether the kernel knows it to be right."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["wall_clock"]

#: systemd-timesyncd and others touch this once the clock was set from the network.
_SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")


def wall_clock() -> int | None:
    """Unix seconds, or None while the clock is not known to be synchronized.

    A Raspberry Pi has no clock of its own: after a power cut it starts where it stopped, and only a time service
    makes it right.
    """
    return int(time.time()) if _SYNCHRONIZED.exists() else None
