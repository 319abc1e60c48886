"""What an input costs, as numbers that are the same on any machine: lines of code that run, and memory held at once."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

__all__ = ["bytes_for", "lines_for"]

_CODE: Final = str(Path(__file__).parents[2] / "edgeice")


def lines_for(action: Callable[[], object]) -> int:
    """How many lines of this package run."""
    count = 0

    def trace_line(_frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace_line

    def trace_call(frame: FrameType, _event: str, _arg: Any) -> Any:
        return trace_line if frame.f_code.co_filename.startswith(_CODE) else None

    before = sys.gettrace()
    sys.settrace(trace_call)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def bytes_for(action: Callable[[], object]) -> int:
    """How much memory is taken at the most, beside what was taken before, bytes."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
