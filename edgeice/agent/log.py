"""Logs: one event a line, `key=value` for people and journald, JSON for machines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Final, Literal, TextIO, TypeAlias

from edgeice.trace import Record, Tracer, entry_of, ignore, without_secrets

__all__ = ["LEVELS", "Level", "Log", "goes_to_journal", "trace_to"]

Level: TypeAlias = Literal["debug", "info", "warning", "error"]

LEVELS: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3}

#: Longest value written; what a peer can choose must not fill the journal.
_VALUE_LIMIT = 500
#: Longest traceback written: its end, where the innermost calls and the exception stand.
_TRACEBACK_LIMIT = 8000


def goes_to_journal(environment: Mapping[str, str], descriptor: int = 2) -> bool:
    """Whether what is written to a descriptor, standard error by default, reaches journald, which reads levels there.

    systemd names the stream's device and inode in JOURNAL_STREAM; a child whose output goes elsewhere inherits it too.
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class Log:
    """Writes events to a stream.

    Args:
        level: Least level written.
        as_json: JSON lines instead of `key=value`.
        stream: Where to; standard error by default.
        prefix: Start each line with journald's `<N>` level, as systemd reads it.
        wall: Seconds since 1970, for JSON lines; journald and terminals know the time themselves.
    """

    def __init__(
        self,
        level: Level = "info",
        *,
        as_json: bool = False,
        stream: TextIO | None = None,
        prefix: bool = False,
        wall: Callable[[], float],
    ) -> None:
        self._threshold = LEVELS[level]
        self._as_json = as_json
        self._stream = sys.stderr if stream is None else stream
        self._prefix = prefix
        self._wall = wall

    def writes(self, level: Level) -> bool:
        """Whether events of a level are written."""
        return LEVELS[level] <= self._threshold

    def debug(self, event: str, /, **fields: object) -> None:
        """What only someone who looks for a fault wants."""
        self._write("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """What happened."""
        self._write("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """What somebody should look at."""
        self._write("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """What keeps the agent from its work."""
        self._write("error", event, fields)

    def _write(self, level: Level, event: str, fields: dict[str, object]) -> None:
        if not self.writes(level):
            return
        if "traceback" in fields:
            fields = {**fields, "traceback": str(fields["traceback"])[-_TRACEBACK_LIMIT:]}
        if self._as_json:
            line = json.dumps({"time": round(self._wall(), 3), "level": level, "event": event, **fields}, default=str)
        else:
            words = [event, *(f"{name}={_shown(name, value)}" for name, value in fields.items() if value is not None)]
            line = " ".join(words)
        prefix = f"<{LEVELS[level]}>" if self._prefix else ""
        self._stream.write(f"{prefix}{line}\n")
        self._stream.flush()


def trace_to(log: Log) -> Tracer:
    """What writes trace records at level debug, without secrets; nothing where that level is not written.

    Addresses stay: whoever looks for a path needs them, and the journal is the device's own.
    """
    if not log.writes("debug"):
        return ignore

    def write(record: Record) -> None:
        entry = entry_of(without_secrets(record))
        del entry["at"], entry["layer"], entry["name"]
        event = f"{record.layer}.{record.name}"
        log.debug(event, **entry)

    return write


def _shown(name: str, value: object) -> str:
    """A value as one word: quoted where it holds what could end it or forge another line."""
    if isinstance(value, list | dict):
        value = json.dumps(value, default=str, separators=(",", ":"))
    text = str(value) if name == "traceback" else str(value)[:_VALUE_LIMIT]
    if text and text.isprintable() and not any(char in text for char in ' "=\\'):
        return text
    return json.dumps(text)
