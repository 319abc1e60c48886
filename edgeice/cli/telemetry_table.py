"""The table that `edgeice telemetry` shows on a terminal: what is known of each value, and the lines that say it."""

from __future__ import annotations

import math
import time
import unicodedata
from collections import deque
from collections.abc import Mapping
from typing import Final

import attrs

from edgeice.services.telemetry.client import Gap, Row, Samples
from edgeice.text import printable

__all__ = ["Table", "fit", "format_gap", "format_name", "format_value"]

#: Values that the table keeps; beyond that those that were told longest ago are forgotten.
MOST_SERIES: Final = 500
_TREND: Final = 20
_BARS: Final = "▁▂▃▄▅▆▇█"
#: Columns of a cell at most: a process may tell names and texts of any length.
_WIDEST: Final = (48, 32, 16, 16, 16, _TREND)
_HEADER: Final = ("NAME", "VALUE", "MIN", "MAX", "AGE", "TREND")
_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_UNITS: Final = {"_percent": "%", "_celsius": "°C", "_dbm": "dBm"}

Value = float | int | str | bool


def format_name(name: str, tags: Mapping[str, str]) -> str:
    """A name with what tells it from others of that name: `net.rx_bytes eth0`; safe to show, as all that follows."""
    return printable(" ".join((name, *tags.values())), None)


def format_value(name: str, value: Value) -> str:
    """A value with the unit that its name ends with."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return printable(value, None)
    if name.endswith("_bytes"):
        return _bytes(value)
    if name.endswith("_seconds"):
        return _duration(value)
    for suffix, unit in _UNITS.items():
        if name.endswith(suffix):
            return f"{value:g} {unit}"
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def format_gap(gap: Gap) -> str:
    """What a gap is, in words, after its stream."""
    stream = printable(gap.stream)
    what = "sample" if gap.stream == "system" else "row"
    if gap.lost is None:
        return f"{stream}: {what}s were lost, nobody knows how many"
    return f"{stream}: {gap.lost} {what}{'' if gap.lost == 1 else 's'} lost"


def _bytes(value: float) -> str:
    size = float(value)
    for unit in _BINARY:
        if abs(size) < 1024 or unit == _BINARY[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError  # the last unit takes everything


def _duration(seconds: float) -> str:
    if not 0 <= seconds < 1e11:
        return f"{seconds:g} s"
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {left} s"
    return f"{seconds:.3g} s"


@attrs.define
class _Series:
    """One value over time."""

    name: str
    counts: bool
    value: Value
    t: float
    heard_at: float
    #: What the columns after the value are about: the value, or how fast it grows where it counts.
    measure: float | None = None
    low: float = math.inf
    high: float = -math.inf
    history: deque[float] = attrs.field(factory=lambda: deque(maxlen=_TREND))

    def take(self, row: Row, now: float, *, first: bool) -> None:
        measure: float | None = None
        if isinstance(row.value, int | float) and not isinstance(row.value, bool):
            measure = float(row.value)
            if self.counts:
                measure = None if first else self._rate(measure, row.t)
        if measure is not None and not math.isfinite(measure):
            measure = None
        self.value, self.t, self.heard_at, self.measure = row.value, row.t, now, measure
        if measure is not None:
            self.low, self.high = min(self.low, measure), max(self.high, measure)
            self.history.append(measure)

    def _rate(self, value: float, t: float) -> float | None:
        if not isinstance(self.value, int | float) or t <= self.t or value < self.value:
            return None  # it began anew
        return (value - self.value) / (t - self.t)

    def cells(self, now: float) -> tuple[str, ...]:
        value = format_value(self.name, self.value)
        if self.counts and self.measure is not None:
            value = f"{self._show(self.measure)}/s  {value}"
        low, high = (self._show(self.low), self._show(self.high)) if self.history else ("", "")
        return (value, low, high, _duration(int(max(now - self.heard_at, 0))), _spark(self.history))

    def _show(self, number: float) -> str:
        return format_value(self.name, round(number, 2) if self.counts else number)


def _spark(history: deque[float]) -> str:
    if len(history) < 2:
        return ""
    halves = [value / 2 for value in history]  # whose differences are all finite
    low, span = min(halves), max(halves) - min(halves)
    if span == 0:
        return _BARS[0] * len(halves)
    return "".join(_BARS[round((half - low) / span * (len(_BARS) - 1))] for half in halves)


class Table:
    """All values, in the order in which they were first told.

    Args:
        title: Its first line.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._series: dict[tuple[str, str, tuple[tuple[str, str], ...]], _Series] = {}
        self._forgotten = 0
        self._notes: deque[str] = deque(maxlen=3)

    def take(self, samples: Samples, now: float) -> None:
        """Note rows that were told at `now`, monotonic seconds."""
        for row in samples.rows:
            key = (samples.stream, row.name, tuple(sorted(row.tags.items())))
            series = self._series.get(key)
            if series is None:
                self._make_room()
                counts = samples.stream == "system" and row.name.startswith("net.")
                series = self._series[key] = _Series(row.name, counts, row.value, row.t, now)
                series.take(row, now, first=True)
            else:
                series.take(row, now, first=False)

    def note(self, text: str) -> None:
        """Say something below the table; the last three stay."""
        self._notes.append(f"{time.strftime('%H:%M:%S')} {text}")

    def _make_room(self) -> None:
        if len(self._series) >= MOST_SERIES:
            del self._series[min(self._series, key=lambda key: self._series[key].heard_at)]
            self._forgotten += 1

    def lines(self, columns: int, rows: int, now: float) -> list[str]:
        """The table for a terminal of that size, at most one line less than it has."""
        table: list[tuple[str, ...]] = [_HEADER]
        for (stream, name, tags), series in self._series.items():
            if stream == "system" and (series.value is False or (series.counts and series.value == 0)):
                continue  # an interface that is down has eight counters, a Pi that is well eight alarms
            cells = (format_name(name, dict(tags)), *series.cells(now))
            table.append(tuple(fit(cell, widest) for cell, widest in zip(cells, _WIDEST, strict=True)))
        notes = list(self._notes)
        if self._forgotten:
            notes.insert(0, f"more than {MOST_SERIES} values: {self._forgotten} were forgotten; --json has them all")
        room = max(rows - 2 - len(notes), 2)
        if len(table) > room:
            hidden = len(table) - room + 1
            table = table[: room - 1]
            notes.insert(0, f"… {hidden} more; make the window higher, or use --json")
        widths = [max(_width(line[index]) for line in table) for index in range(len(_HEADER))]
        shown = [
            "  ".join(
                _pad(cell, width, right=0 < index < 5)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in table
        ]
        return [fit(line.rstrip(), columns) for line in (self.title, *shown, *notes)]


def _width(text: str) -> int:
    """Columns on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _pad(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def fit(text: str, columns: int) -> str:
    """The part of a line that a terminal shows in one."""
    if _width(text) <= columns:
        return text
    kept, width = "", 0
    for char in text:
        width += _columns(char)
        if width > columns - 1:
            break
        kept += char
    return f"{kept}…"
