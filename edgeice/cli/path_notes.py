"""Notes about the path while a remote program has the terminal: said where they cannot disturb what it shows.

Of those that carry a terminal, mosh keeps a copy of the screen and draws over its first line, and ssh says nothing, as
it has no copy and so cannot put back what it overwrites.  There is none here either, so a note goes one of two ways:

- As a dim line of its own, where the program writes line after line: the newest byte ended a line, nothing came for a
  moment, and nothing that moves the cursor was seen for some lines, nor the other screen, which editors use.
- Otherwise, where the terminal can, as its title for some seconds.  The title before is put back by the terminal
  itself, which has a stack of them (XTWINOPS 22 and 23).  A prompt that sets the title of its own takes it earlier.

A note that could be said neither way waits for a line's end; a newer one takes its place.
"""

from __future__ import annotations

import math
import re
from typing import Final

__all__ = ["PathNotes", "has_title"]

#: Seconds without output after which it is a moment of none.
_QUIET: Final = 0.3
#: Seconds that a title stays.
_SHOWN: Final = 8.0
#: Lines without a move of the cursor after which a program is taken for one that writes line after line.
_LINES: Final = 2
#: Most bytes of an escape sequence that is not complete yet.
_LONGEST: Final = 64
#: What an output has of interest: the other screen, moves of the cursor and what erases or scrolls, ends of lines.
_TOKEN: Final = re.compile(
    rb"(?P<screen>\x1b\[\?(?:47|1047|1049)(?P<on>[hl]))"
    rb"|(?P<moves>\x1b\[[0-9;?]*[ABEFGHLMSTdfrJ]|\x1b[78DM])"
    rb"|(?P<line>\n)"
)
#: A sequence that the next output completes.
_BEGUN: Final = re.compile(rb"\x1b(?:\[[0-9;?]*)?\Z")
_PUSH: Final = b"\x1b[22;2t"
_POP: Final = b"\x1b[23;2t"
#: Kinds of terminals without a title.
_UNTITLED: Final = frozenset({"", "dumb", "linux", "vt52", "vt100", "vt102", "vt220", "ansi"})


def has_title(term: str) -> bool:
    """Whether a terminal of this kind (TERM) has a title."""
    return term not in _UNTITLED


class PathNotes:
    """Decides when and how a note is written.

    A machine: `output` and `note` are what happens, `next_at` when `due` has something to write.

    Args:
        title: Whether the terminal has a title.
    """

    def __init__(self, *, title: bool) -> None:
        self._title = title
        self._note = ""
        self._quiet_at = -math.inf
        self._at_line_start = True
        self._other_screen = False
        #: Lines since the cursor was moved.
        self._lines = _LINES
        self._begun = b""
        #: Until when a title of ours stands, None where none does.
        self._titled_until: float | None = None

    def output(self, data: bytes, *, now: float) -> None:
        """The program wrote this."""
        text = self._begun + data
        for token in _TOKEN.finditer(text):
            if token["screen"]:
                self._other_screen = token["on"] == b"h"
            elif token["moves"]:
                self._lines = 0
            else:
                self._lines = min(self._lines + 1, _LINES)
        begun = _BEGUN.search(text)
        self._begun = begun[0] if begun is not None and len(begun[0]) <= _LONGEST else b""
        self._at_line_start = data.endswith(b"\n")
        self._quiet_at = now + _QUIET

    def note(self, text: str) -> None:
        """Say this when it can be."""
        self._note = text

    def next_at(self) -> float:
        """When there is something to write at the earliest, `math.inf` for not before something happens."""
        at = math.inf if self._titled_until is None else self._titled_until
        if self._note and (self._title or self._may_write_line):
            at = min(at, self._quiet_at)
        return at

    def due(self, *, now: float) -> bytes:
        """What is to be written now."""
        if self._note and now >= self._quiet_at:
            if self._may_write_line:
                note, self._note = self._note, ""
                return f"\x1b[2m[{note}]\x1b[m\r\n".encode()
            if self._title:
                note, self._note = self._note, ""
                push = b"" if self._titled_until is not None else _PUSH
                self._titled_until = now + _SHOWN
                return push + f"\x1b]2;[{note}]\x1b\\".encode()
        if self._titled_until is not None and now >= self._titled_until:
            return self.end()
        return b""

    def end(self) -> bytes:
        """What is to be written at the end: nothing of this stays."""
        titled, self._titled_until = self._titled_until, None
        return b"" if titled is None else _POP

    # Inside

    @property
    def _may_write_line(self) -> bool:
        return self._at_line_start and not self._other_screen and self._lines >= _LINES
