"""Trace records as JSON lines in a file of bounded size."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from edgeice import __version__
from edgeice.errors import ConfigError
from edgeice.redaction import Pseudonyms
from edgeice.trace import Record, entry_of, without_secrets

__all__ = ["SIZE", "TraceFile"]

#: Bytes at which a file begins anew.
SIZE: Final = 16 << 20


class TraceFile:
    """Appends records to a file that only its owner may read, a JSON object a line.

    A file that reaches `size` is renamed to `NAME.1`, which replaces the one before it; so it takes twice that at most.
    What is no regular file, such as /dev/stderr, is written to without end.  What cannot be written any more, as on a
    full disk, ends the trace: `on_failure` is told once, and nothing else is disturbed.

    Args:
        path: The file.
        wall: Seconds since 1970, for the first line: all others have the machine's time, whose origin is arbitrary.
        clock: The machine's time, seconds.
        pseudonyms: Stand for addresses, where these are not to be shown.
        size: Bytes at which the file begins anew.
        on_failure: Told why nothing is written any more.

    Raises:
        ConfigError: The file cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        *,
        wall: Callable[[], float],
        clock: Callable[[], float],
        pseudonyms: Pseudonyms | None = None,
        size: int = SIZE,
        on_failure: Callable[[OSError], None] = lambda _error: None,
    ) -> None:
        self._path = path
        self._wall = wall
        self._clock = clock
        self._pseudonyms = pseudonyms
        self._size = size
        self._on_failure = on_failure
        self._file: TextIOWrapper | None = None
        try:
            self._open()
        except OSError as error:
            self._discard()
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def write(self, record: Record) -> None:
        """Append one record, without secrets."""
        if self._file is None:
            return
        try:
            self._append(record)
            if self._is_regular and self._written >= self._size:
                self._file.close()
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                self._open()
        except OSError as error:
            self._discard()
            self._on_failure(error)

    def close(self) -> None:
        """Write nothing any more."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError as error:  # what was left to write
                self._on_failure(error)

    def _discard(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        status = os.fstat(descriptor)
        self._is_regular = stat.S_ISREG(status.st_mode)
        self._written = status.st_size if self._is_regular else 0
        self._file = os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace")
        began = {"version": __version__, "time": round(self._wall(), 3)}
        self._append(Record(self._clock(), "trace", "began", began))

    def _append(self, record: Record) -> None:
        assert self._file is not None
        entry: object = entry_of(without_secrets(record))
        if self._pseudonyms is not None:
            entry = self._pseudonyms.value(entry)
        self._written += self._file.write(json.dumps(entry, separators=(",", ":")) + "\n")
        self._file.flush()
