"""Text from elsewhere, made safe to show."""

from __future__ import annotations

__all__ = ["duration", "printable"]


def duration(seconds: float) -> str:
    """So long, as a person says it: `0.4 s`, `45 s`, `10 min`, `1 h 5 min`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours} h {minutes} min" if hours and minutes else f"{hours} h" if hours else f"{minutes} min"


def printable(text: str, limit: int | None = 256) -> str:
    """Text that forges no line and moves no cursor: at most `limit` characters, what is not printable as `?`.

    Args:
        text: What a peer, another process or a driver chose.
        limit: Most characters that are kept; None for text whose length is bounded elsewhere.
    """
    text = text[:limit]
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
