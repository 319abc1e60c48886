"""What happens to the device's interfaces, in its log."""

from __future__ import annotations

from typing import Final

import trio

from edgeice.agent.log import Log
from edgeice.transport import NetworkChange

__all__ = ["NetworkLog"]

#: Reasons written, and in which time, seconds; an interface that does what it wants must not fill the journal.
_WRITTEN: Final = 40
_WINDOW: Final = 60.0


class NetworkLog:
    """Writes each change of the interfaces, at most 40 reasons a minute.

    What was left out is counted in the next line that is written.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._window_from = 0.0
        self._written = 0
        self._unwritten = 0
        self._had_any = True

    def note(self, change: NetworkChange) -> None:
        """Write a change; what is held back as a warning, as is that nothing is left to be used."""
        now = trio.current_time()
        if self._written == 0 or now - self._window_from >= _WINDOW:
            self._window_from, self._written = now, 0
        for reason in change.reasons:
            self._write(reason, is_warning=" held back for " in reason)
        if self._had_any and not change.usable:
            self._write("no address is left that sessions may use", is_warning=True)
        self._had_any = bool(change.usable)

    def _write(self, reason: str, *, is_warning: bool) -> None:
        if self._written >= _WRITTEN:
            self._unwritten += 1
            return
        self._written += 1
        write = self._log.warning if is_warning else self._log.info
        write("network", change=reason, unwritten=self._unwritten or None)
        self._unwritten = 0
