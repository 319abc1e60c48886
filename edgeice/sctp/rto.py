"""Round-trip time and retransmission timeout (RFC 9260 §6.3.1)."""

from __future__ import annotations

__all__ = ["RttEstimator"]

_ALPHA = 1 / 8
_BETA = 1 / 4


class RttEstimator:
    """Smoothed round-trip time, its variation, and the timeout that follows from them, in seconds."""

    __slots__ = ("_initial", "_max", "_min", "rto", "srtt", "variation")

    def __init__(self, *, initial: float, minimum: float, maximum: float) -> None:
        self._initial = initial
        self._min = minimum
        self._max = maximum
        self.reset()

    def reset(self) -> None:
        """Forget all measurements: the path is another one."""
        self.rto = self._initial
        #: None until the first measurement.
        self.srtt: float | None = None
        self.variation = 0.0

    def sample(self, rtt: float) -> None:
        """Take one measurement of a packet that was sent once (RFC 9260 §6.3.1 C2, C3)."""
        if self.srtt is None:
            self.srtt = rtt
            self.variation = rtt / 2
        else:
            self.variation += _BETA * (abs(self.srtt - rtt) - self.variation)
            self.srtt += _ALPHA * (rtt - self.srtt)
        self.rto = min(max(self.srtt + 4 * self.variation, self._min), self._max)

    def back_off(self) -> None:
        """Double the timeout up to its maximum (RFC 9260 §6.3.3 E2)."""
        self.rto = min(self.rto * 2, self._max)
