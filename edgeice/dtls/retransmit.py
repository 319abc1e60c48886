"""OpenSSL's retransmission timer, the one place where a clock other than the caller's counts.

OpenSSL keeps the flights of a handshake, and its own clock to decide when to send one again: 1 s after the first
attempt, doubled each time, 60 s at most (RFC 6347 §4.2.4.1), giving up after twelve.  Sending cached datagrams again
in its place does not do: OpenSSL would take them for replays, and a lost last flight would never be repaired.  So
this module translates OpenSSL's "seconds from now" into deadlines of the caller's clock, and back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL

__all__ = ["RetransmissionTimer"]

#: Where the two clocks disagree at a deadline, ask again this many seconds later, rather than at once for ever.
_SMALLEST_WAIT = 0.005


class RetransmissionTimer:
    """When OpenSSL wants to repeat a flight, in the caller's time."""

    __slots__ = ("_at", "_ssl")

    def __init__(self, ssl: SSL.Connection) -> None:
        self._ssl = ssl
        self._at: float | None = None

    @property
    def at(self) -> float | None:
        """The deadline, None while OpenSSL waits for nothing."""
        return self._at

    def rearm(self, now: float) -> None:
        """Read OpenSSL's timer; call it after whatever may have started, moved or stopped that."""
        remaining = _get_timeout(self._ssl)
        self._at = None if remaining is None else now + max(remaining, _SMALLEST_WAIT)

    def cancel(self) -> None:
        """Forget the deadline; the connection has ended."""
        self._at = None

    def expire(self, now: float) -> bool:
        """Let OpenSSL repeat its flight if `now` has reached the deadline; False before it.

        Raises SSL.Error when OpenSSL gives up.  The flight then stands in the BIO.
        """
        if self._at is None or now < self._at:
            return False
        try:
            _handle_timeout(self._ssl)
        finally:
            self.rearm(now)
        return True


def _get_timeout_from_library(ssl: Any) -> float | None:  # noqa: ANN401  (its private fields are used)
    seconds, microseconds = ffi.new("time_t *"), ffi.new("long *")
    if not lib.Cryptography_DTLSv1_get_timeout(ssl._ssl, seconds, microseconds):  # noqa: SLF001  (no public way)
        return None
    return float(seconds[0] + microseconds[0] / 1_000_000)


def _handle_timeout_in_library(ssl: Any) -> None:  # noqa: ANN401  (its private fields are used)
    result = lib.DTLSv1_handle_timeout(ssl._ssl)  # noqa: SLF001  (no public way)
    if result < 0:
        ssl._raise_ssl_error(ssl._ssl, result)  # noqa: SLF001  (what its own methods do)


_get_timeout: Callable[[SSL.Connection], float | None]
_handle_timeout: Callable[[SSL.Connection], object]

if hasattr(SSL.Connection, "DTLSv1_get_timeout"):
    _get_timeout = SSL.Connection.DTLSv1_get_timeout
    _handle_timeout = SSL.Connection.DTLSv1_handle_timeout
else:  # pyOpenSSL before 23.1 (Debian 12 has 23.0) has the functions, but no methods for them
    from OpenSSL._util import ffi, lib

    _get_timeout = _get_timeout_from_library
    _handle_timeout = _handle_timeout_in_library
