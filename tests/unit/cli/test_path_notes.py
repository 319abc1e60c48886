"""Notes about the path on a terminal that a remote program has."""

from __future__ import annotations

import math

import pytest

from edgeice.cli.path_notes import PathNotes, has_title

NOTE = "wlan0 direct -> wwan0 relay, 180 ms"
LINE = b"\x1b[2m[" + NOTE.encode() + b"]\x1b[m\r\n"
TITLE = b"\x1b[22;2t\x1b]2;[" + NOTE.encode() + b"]\x1b\\"


@pytest.fixture
def notes() -> PathNotes:
    return PathNotes(title=True)


def test_nothing_is_written_without_a_note(notes: PathNotes) -> None:
    notes.output(b"one\r\ntwo\r\n", now=1.0)
    assert (notes.next_at(), notes.due(now=100.0), notes.end()) == (math.inf, b"", b"")


def test_where_a_program_writes_line_after_line_it_is_a_dim_line_at_a_moment_of_no_output(notes: PathNotes) -> None:
    notes.output(b"one\r\n", now=1.0)
    notes.note(NOTE)
    notes.output(b"two\r\n", now=1.2)
    assert notes.next_at() == 1.5
    assert notes.due(now=1.4) == b""
    assert notes.due(now=1.5) == LINE
    assert (notes.next_at(), notes.due(now=9.0), notes.end()) == (math.inf, b"", b"")


@pytest.mark.parametrize(
    "output",
    [
        b"$ ",
        b"\x1b[?2004hpi:~$ ",
        b"\x1b[?1049h\x1b[2Jvi\r\n\r\n\r\n",
        b"\x1b[H\x1b[2J\r\n",
        b"a\r\nb\r\nc\r\n\x1b[3;1H",
        b"a\r\nb\r\n\x1b[2Aup\r\n",
        b"a\r\nb\r\n\x1bM\r\n",
    ],
)
def test_otherwise_it_is_the_title_for_some_seconds(notes: PathNotes, output: bytes) -> None:
    notes.note(NOTE)
    notes.output(output, now=1.0)
    assert notes.due(now=1.3) == TITLE
    assert (notes.next_at(), notes.due(now=9.2)) == (9.3, b"")
    assert notes.due(now=9.3) == b"\x1b[23;2t"
    assert (notes.next_at(), notes.end()) == (math.inf, b"")


def test_a_second_note_replaces_a_title_and_pushes_none(notes: PathNotes) -> None:
    notes.output(b"$ ", now=1.0)
    notes.note("a")
    assert notes.due(now=2.0) == b"\x1b[22;2t\x1b]2;[a]\x1b\\"
    notes.note("b")
    assert notes.due(now=3.0) == b"\x1b]2;[b]\x1b\\"
    assert notes.next_at() == 11.0
    assert notes.end() == b"\x1b[23;2t"
    assert notes.end() == b""


def test_a_terminal_without_a_title_waits_for_a_line_s_end_and_says_the_newest() -> None:
    notes = PathNotes(title=False)
    notes.output(b"$ ", now=1.0)
    notes.note("old")
    assert (notes.next_at(), notes.due(now=5.0)) == (math.inf, b"")
    notes.note(NOTE)
    notes.output(b"ls\r\na\r\n", now=6.0)
    assert notes.due(now=6.3) == LINE


def test_lines_count_again_once_a_program_left_the_screen_alone(notes: PathNotes) -> None:
    notes.output(b"\x1b[?1049h\x1b[2J\x1b[Hvi", now=1.0)
    notes.output(b"\x1b[?1049l$ exit\r\none\r\n", now=2.0)
    notes.note(NOTE)
    assert notes.due(now=2.3) == LINE


def test_a_sequence_that_comes_in_pieces_is_seen(notes: PathNotes) -> None:
    for index, piece in enumerate((b"a\r\nb\r\n\x1b", b"[?10", b"49", b"hvi\r\n\r\n\r\n")):
        notes.output(piece, now=1.0 + index)
    notes.note(NOTE)
    assert notes.due(now=10.0) == TITLE


def test_a_sequence_without_an_end_is_not_kept(notes: PathNotes) -> None:
    notes.output(b"\x1b[" + b"1;" * 10_000, now=1.0)
    assert notes._begun == b""


@pytest.mark.parametrize(("term", "titled"), [("xterm-256color", True), ("tmux", True), ("linux", False), ("", False)])
def test_kinds_of_terminals(term: str, titled: bool) -> None:
    assert has_title(term) is titled
