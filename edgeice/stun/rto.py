"""How long to wait for a server's answer, learned from its answers (RFC 8489 §6.2.1, RFC 6298)."""

from __future__ import annotations

import math
from typing import Final

import attrs

__all__ = ["RtoCache"]

#: RFC 8489 §6.2.1: what starts without an estimate, and the floor, since links here may be mobile.
MINIMUM_RTO: Final = 0.5
#: RFC 6298 §2.5.
MAXIMUM_RTO: Final = 60.0
#: RFC 8489 §6.2.1: an estimate that was not used for so many seconds is stale.
STALE_AFTER: Final = 600.0
_GRANULARITY: Final = 0.001
_SERVERS: Final = 64


@attrs.define
class _Estimate:
    srtt: float
    rttvar: float
    used_at: float


class RtoCache:
    """Estimates by a server's IP address; at most 64, of which the one unused for longest makes room."""

    __slots__ = ("_estimates",)

    def __init__(self) -> None:
        self._estimates: dict[str, _Estimate] = {}

    def rto(self, ip: str, *, now: float) -> float:
        """First interval for the next transaction with this server, in seconds, on whole milliseconds."""
        estimate = self._estimates.get(ip)
        if estimate is None or now - estimate.used_at >= STALE_AFTER:
            return MINIMUM_RTO
        rto = estimate.srtt + max(_GRANULARITY, 4 * estimate.rttvar)
        # Rounding to microseconds first keeps 0.600 from becoming 0.601.
        return min(max(math.ceil(round(rto * 1000, 3)) / 1000, MINIMUM_RTO), MAXIMUM_RTO)

    def record(self, ip: str, rtt: float | None, *, now: float) -> None:
        """Note that a transaction with this server ended.

        `rtt` is what its outcome says: None after a retransmission or a failure, which keeps an estimate fresh but
        changes nothing (Karn's algorithm).
        """
        estimate = self._estimates.pop(ip, None)
        if estimate is not None and now - estimate.used_at >= STALE_AFTER:
            estimate = None
        if rtt is None:
            if estimate is None:
                return
        elif estimate is None:
            estimate = _Estimate(rtt, rtt / 2, now)  # RFC 6298 §2.2
        else:
            # RFC 6298 §2.3, in this order.
            estimate.rttvar += (abs(estimate.srtt - rtt) - estimate.rttvar) / 4
            estimate.srtt += (rtt - estimate.srtt) / 8
        estimate.used_at = now
        # Reinserted at the end: the first key is the one unused for longest.
        self._estimates[ip] = estimate
        if len(self._estimates) > _SERVERS:
            del self._estimates[next(iter(self._estimates))]
