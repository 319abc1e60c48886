"""Text that is made safe to show."""

from __future__ import annotations

from edgeice.text import printable


def test_what_moves_a_cursor_or_forges_a_line_is_replaced() -> None:
    assert printable("a\x1b[31mb\n\u202ec\ud800") == "a?[31mb??c?"


def test_what_is_printable_stays_as_it_is() -> None:
    text = "Tür 3 öffnet — 門"
    assert printable(text) == text


def test_long_text_ends_at_the_limit() -> None:
    assert printable("x" * 1000) == "x" * 256
    assert printable("\n" * 4, 3) == "???"
    assert printable("x" * 1000, None) == "x" * 1000
