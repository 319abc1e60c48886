"""Defects that were contained: each is written with its traceback, and counted."""

from __future__ import annotations

import traceback
from typing import Final, Literal, TypeAlias

import trio

from edgeice.agent.log import Log
from edgeice.sansio import DropCounter

__all__ = ["FailureScope", "Failures"]

#: What a defect ended: one data channel, one session, one kept shell, or the handling of one message.
FailureScope: TypeAlias = Literal["channel", "session", "shell", "signaling"]

#: Defects written within `_WINDOW` seconds; whoever can provoke one must not fill the journal.
_WRITTEN: Final = 20
_WINDOW: Final = 60.0


class Failures:
    """Exceptions that no code should let through, caught where they end as little as possible.

    Args:
        log: Where each is written, on one line with its traceback.  At most 20 a minute are; what was left out is
            said with the next that is written.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._counts = DropCounter()
        self._window_from = 0.0
        self._written = 0
        self._unwritten = 0

    def snapshot(self) -> dict[str, int]:
        """How many there were, by what they ended."""
        return self._counts.snapshot()

    def note(self, scope: FailureScope, error: Exception, **fields: object) -> None:
        """Write and count one.

        Args:
            scope: What it ended.
            error: The exception; of a group with one member that member is shown.
            **fields: Whose it was.
        """
        self._counts.count(scope)
        now = trio.current_time()
        if self._written == 0 or now - self._window_from >= _WINDOW:
            self._window_from, self._written = now, 0
        if self._written >= _WRITTEN:
            self._unwritten += 1
            return
        self._written += 1
        shown: BaseException = error
        while isinstance(shown, BaseExceptionGroup) and len(shown.exceptions) == 1:
            shown = shown.exceptions[0]
        self._log.error(
            f"{scope}-failed",
            **fields,
            error=f"{type(shown).__name__}: {shown}",
            unwritten=self._unwritten or None,
            traceback="".join(traceback.format_exception(shown)),
        )
        self._unwritten = 0
