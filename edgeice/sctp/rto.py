"""Round-trip time and retransmission timeout (RFC 9260 §6.3.1)."""

from __future__ import annotations

__all__ = ["RttEstimator"]

_ALPHA = 1 / 8
_BETA = 1 / 4
#: What a busy peer may take to answer, seconds.
_MARGIN = 0.02


class RttEstimator:
    """Smoothed round-trip time, its variation, and the timeout that follows from them, in seconds."""

    __slots__ = ("_initial", "_max", "_min", "rto", "srtt", "variation")

    def __init__(self, *, initial: float, minimum: float, maximum: float) -> None:
        self._initial = initial
        self._min = minimum
        self._max = maximum
        self.reset()

    def reset(self, rtt: float | None = None) -> None:
        """Forget all measurements: the path is another one, whose round trip somebody else has measured or nobody."""
        self.rto = self._initial
        #: None until the first measurement.
        self.srtt: float | None = None
        self.variation = 0.0
        if rtt is not None:
            self.sample(rtt)

    def sample(self, rtt: float) -> None:
        """Take one measurement of a packet that was sent once (RFC 9260 §6.3.1 C2, C3)."""
        if self.srtt is None:
            self.srtt = rtt
            self.variation = rtt / 2
        else:
            self.variation += _BETA * (abs(self.srtt - rtt) - self.variation)
            self.srtt += _ALPHA * (rtt - self.srtt)
        self._compute(self.srtt)

    def _compute(self, srtt: float) -> None:
        self.rto = min(max(srtt + 4 * self.variation, self._min), self._max)

    def confirm(self, elapsed: float) -> None:
        """A repeat was answered after so many seconds: where answers take that long, the path is lossy, not slower.

        Which copy was answered nobody knows (RFC 9260 §6.3.1 C5), so this is no measurement.  But if the timeout stayed
        as backed off as it is until one is made, on a bad line every loss would take longer than the one before.
        """
        if self.srtt is not None and self.srtt / 2 <= elapsed <= 2 * self.srtt + _MARGIN:
            self._compute(self.srtt)

    @property
    def latest(self) -> float:
        """How long an answer takes at most that is not delayed by the peer: the timeout without its lower bound."""
        return self.rto if self.srtt is None else max(self.srtt + 4 * self.variation, 2 * self.srtt)

    def back_off(self) -> None:
        """Double the timeout up to its maximum (RFC 9260 §6.3.3 E2)."""
        self.rto = min(self.rto * 2, self._max)
