"""Text from elsewhere, made safe to show."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str, limit: int | None = 256) -> str:
    """Text that forges no line and moves no cursor: at most `limit` characters, what is not printable as `?`.

    Args:
        text: What a peer, another process or a driver chose.
        limit: Most characters that are kept; None for text whose length is bounded elsewhere.
    """
    text = text[:limit]
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
