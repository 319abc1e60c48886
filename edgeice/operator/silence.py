"""Notices that a device has fallen silent, long before its session is given up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

__all__ = ["SILENCE", "SilenceWatch"]

#: Seconds without a datagram that are called silence.  Checks of consent leave each end every 4 to 6 s and are answered
#: (RFC 7675 §5.1), so that in a shorter time nothing may have been due; in this one, at least two were.
SILENCE: Final = 7.0
#: How soon the end of a silence is seen, seconds.
_LOOK: Final = 0.25


class SilenceWatch:
    """Watches when a peer was last heard.

    Wakes once in `SILENCE` seconds while the peer is heard.

    Args:
        heard_at: When that was.
        on_silent: Told once silence has begun.
        on_back: Told, at its end, how many seconds it lasted.
    """

    def __init__(
        self, heard_at: Callable[[], float], on_silent: Callable[[], None], on_back: Callable[[float], None]
    ) -> None:
        self._heard_at = heard_at
        self._on_silent = on_silent
        self._on_back = on_back

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            last = self._heard_at()
            await trio.sleep_until(last + SILENCE)
            if self._heard_at() != last:
                continue
            self._on_silent()
            while self._heard_at() == last:  # noqa: ASYNC110  # silence has no event, and its end need not have one
                await trio.sleep(_LOOK)
            self._on_back(self._heard_at() - last)
