"""Signals that end a command: it says goodbye first, and exits with 128 + N."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Final

import trio

from edgeice.cli.groups import first_of
from edgeice.errors import EdgeIceError

__all__ = ["ended_at_once_by_signals", "ended_by_signals", "heeded_signals"]

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def heeded_signals() -> list[signal.Signals]:
    """Those that our parent does not want ignored, as nohup does SIGHUP, and a shell SIGINT in the background."""
    return [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]


@asynccontextmanager
async def ended_by_signals() -> AsyncIterator[None]:
    """Cancel the scope's body at a signal that ends a command, and raise SystemExit with 128 + N afterwards.

    A body may receive a signal itself meanwhile: the innermost receiver gets it.
    """
    received: list[int] = []
    try:
        with trio.open_signal_receiver(*heeded_signals()) as numbers:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    async for number in numbers:
                        received.append(number)
                        nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                yield
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # What was going on may fail for being ended; a defect is still to be seen.
        expected = first_of(group, EdgeIceError, trio.BrokenResourceError, trio.ClosedResourceError, BrokenPipeError)
        if not received or expected is None:
            raise
    if received:
        sys.exit(128 + received[0])


@contextmanager
def ended_at_once_by_signals() -> Iterator[None]:
    """Raise SystemExit with 128 + N at a signal that ends a command, wherever the body is.

    For a blocking call with nothing beside it that has to be undone with, such as a terminal's echo.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in heeded_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
