"""Congestion control behind a seam: what a sender tells, and the window that it asks for.

`Rfc9260` is the standard's window (RFC 9260 §7.2): slow start, congestion avoidance, halving on loss.  Another
control only needs to satisfy `CongestionControl`; it is told the round-trip times and the bytes in flight that a
model of the path is built from.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["CongestionControl", "Rfc9260"]


class CongestionControl(Protocol):
    """Decides how many bytes of user data may be in flight."""

    #: Bytes of user data that may be in flight now.
    window: int

    def on_sent(self, size: int, in_flight: int, *, now: float) -> None:
        """`size` bytes left; `in_flight` counts them."""

    def on_acknowledged(
        self, size: int, in_flight: int, *, rtt: float | None, advanced: bool, outstanding: bool, now: float
    ) -> None:
        """An acknowledgment covered `size` more bytes.

        Args:
            size: Bytes that it newly covers, in gaps or below them.
            in_flight: Bytes in flight when data was last sent, before this and others that came with it.
            rtt: Round-trip time that it measured, None where it measured none.
            advanced: The cumulative acknowledgment moved.
            outstanding: Data still waits for acknowledgment.
            now: Present time.
        """

    def on_loss(self, *, now: float) -> None:
        """Missing reports show a loss; called once for each loss episode (fast recovery)."""

    def on_recovered(self, *, now: float) -> None:
        """All that was in flight when the loss showed is acknowledged."""

    def on_timeout(self, *, now: float) -> None:
        """The retransmission timer ran out."""

    def on_idle(self, periods: int, *, now: float) -> None:
        """Nothing was sent for so many retransmission timeouts."""

    def on_path_changed(self, *, now: float) -> None:
        """Another path is in use: forget what was learned."""


class Rfc9260:
    """RFC 9260 §7.2: one window, grown by acknowledgments, halved by losses."""

    __slots__ = ("_grown", "_initial", "_mtu", "_partial", "_recovering", "ssthresh", "window")

    def __init__(self, *, mtu: int, initial_packets: int) -> None:
        self._mtu = mtu
        self._initial = initial_packets * mtu
        self._reset()

    def _reset(self) -> None:
        self.window = self._initial
        #: Slow start below, congestion avoidance above; arbitrarily high at first (RFC 9260 §7.2.1).
        self.ssthresh = 1 << 30
        self._partial = 0
        self._recovering = False
        #: What slow start added since data was last sent.
        self._grown = 0

    def on_sent(self, size: int, in_flight: int, *, now: float) -> None:  # noqa: ARG002 - the seam's signature
        """The window that acknowledgments will find used up or not is the present one."""
        self._grown = 0

    def on_acknowledged(
        self,
        size: int,
        in_flight: int,
        *,
        rtt: float | None,  # noqa: ARG002 - for controls that model the path
        advanced: bool,
        outstanding: bool,
        now: float,  # noqa: ARG002 - as above
    ) -> None:
        """Grow the window where it was in use (RFC 9260 §7.2.1, §7.2.2)."""
        window = self.window
        if window <= self.ssthresh:
            # RFC 9260 §7.2.1: only if the cumulative point moved, the window was used up, and not in fast recovery.
            if advanced and not self._recovering and in_flight + self._mtu > window - self._grown:
                # The factor L, which may be above 1: a SACK for many packets counts as one for every second (§6.2).
                more = min(size, max(self._mtu, size // 2))
                self._grown += more
                self.window = window + more
            return
        # RFC 9260 §7.2.2
        if advanced:
            self._partial += size
            if self._partial >= window:
                if in_flight + self._mtu > window:
                    self._partial -= window
                    self.window = window + self._mtu
                else:
                    self._partial = window
            if not outstanding:
                self._partial = 0

    def on_loss(self, *, now: float) -> None:  # noqa: ARG002 - the seam's signature
        """Halve, not below four packets (RFC 9260 §7.2.3, §7.2.4)."""
        self.ssthresh = max(self.window // 2, 4 * self._mtu)
        self.window = self.ssthresh
        self._partial = 0
        self._recovering = True

    def on_recovered(self, *, now: float) -> None:  # noqa: ARG002 - the seam's signature
        """Leave fast recovery (RFC 9260 §7.2.4)."""
        self._recovering = False

    def on_timeout(self, *, now: float) -> None:  # noqa: ARG002 - the seam's signature
        """One packet (RFC 9260 §7.2.3)."""
        self.ssthresh = max(self.window // 2, 4 * self._mtu)
        self.window = self._mtu
        self._partial = 0
        self._recovering = False

    def on_idle(self, periods: int, *, now: float) -> None:  # noqa: ARG002 - the seam's signature
        """Halve for each period, not below the initial window; an unused window says nothing (RFC 9260 §7.2.1)."""
        if self.window > self._initial:
            self.window = max(self.window >> min(periods, 16), self._initial)

    def on_path_changed(self, *, now: float) -> None:  # noqa: ARG002 - the seam's signature
        """Start over."""
        self._reset()
