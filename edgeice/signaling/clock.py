"""What a device believes about time (contract §5, "Clock").

`wall` is Unix seconds, or None while the device does not know its clock to be synchronized.  Then session messages
are not checked against time at all, and trust lines only against a floor: the build date.  No operator's claim moves
the floor.
"""

from __future__ import annotations

from edgeice.errors import DecodeError

__all__ = ["BUILD_DATE", "LEEWAY", "MAX_LIFETIME", "check_times", "is_expired", "issue_time"]

#: 2026-11-24 00:00 UTC: no clock that shows less than this release's day is right.
BUILD_DATE = 1_795_478_400
#: Seconds by which two synchronized clocks may differ.
LEEWAY = 60
#: Most seconds between `iat` and `exp` of a session message.
MAX_LIFETIME = 60


def check_times(iat: int, exp: int, *, wall: int | None) -> None:
    """Check a session message's `iat` and `exp`; raises DecodeError("expired").  Holds while `wall` is None."""
    if wall is None:
        return
    if exp > iat + MAX_LIFETIME:
        raise DecodeError("expired", f"valid for more than {MAX_LIFETIME} s")
    if iat > wall + LEEWAY:
        raise DecodeError("expired", "issued in the future: compare the clocks")
    if exp <= wall - LEEWAY:
        raise DecodeError("expired", "too old: compare the clocks")


def is_expired(expires: int | None, *, wall: int | None, floor: int = BUILD_DATE) -> bool:
    """Whether a trust line whose validity ends at `expires` (None: never) has ended."""
    if expires is None:
        return False
    return expires <= (floor if wall is None else max(wall, floor))


def issue_time(wall: int | None, floor: int = BUILD_DATE) -> int:
    """What to write into `iat`: the time, or the floor while it is not known."""
    return floor if wall is None else wall
