"""Trio's exception groups, for commands that say one thing and exit."""

from __future__ import annotations

__all__ = ["first_of"]


def first_of(group: BaseExceptionGroup[BaseException], *kinds: type[BaseException]) -> BaseException | None:
    """The first exception of a group, None if any in it is of another kind: that is a defect, to be seen whole.

    Not `except*`: what is raised there, SystemExit for one, comes out in a group again.
    """
    expected, others = group.split(kinds)
    if others is not None or expected is None:
        return None
    error: BaseException = expected
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
