"""Tail loss probes (as TCP has them, RFC 8985 §7): what is lost last is sent again after two round trips.

Missing reports (RFC 9260 §7.2.4) need later packets that arrive.  After a key that somebody pressed there are none, and
T3-rtx would be waited for: 400 ms at least, for which a person sees nothing on a line that loses one packet in a
hundred.  So the last chunk is sent again, once, and its acknowledgment shows what else is missing.
"""

from __future__ import annotations

import math

from edgeice.sctp.rto import RttEstimator

__all__ = ["TailProbe"]

_NEVER = math.inf
#: Beyond two round trips, seconds: what a busy peer may take to answer.
_MARGIN = 0.02
#: Seconds that a peer may wait for a second packet before it acknowledges one (RFC 9260 §6.2).
_SACK_DELAY = 0.2


class TailProbe:
    """When the last chunk sent is sent again."""

    __slots__ = ("_alone", "_delay", "_judged_by", "at", "tsn")

    def __init__(self) -> None:
        #: How long the peer may delay the acknowledgment of what was sent last.
        self._delay = 0.0
        #: Deadline, infinity while there is none.
        self.at = _NEVER
        #: TSN of the chunk that was sent again, until it is acknowledged or the timer T3-rtx has run out.
        self.tsn: int | None = None
        #: Nothing else was in flight then: that it was lost says nothing about the window.
        self._alone = False
        #: A TSN sent after a probe was answered: with its acknowledgment it is known whether the probe came twice.
        self._judged_by: int | None = None

    def arm(self, rtt: RttEstimator, *, asked: bool, now: float) -> None:
        """A new chunk was sent, and an immediate acknowledgment asked for or not."""
        self._delay = 0.0 if asked else _SACK_DELAY
        self.put_off(rtt, now=now)

    def put_off(self, rtt: RttEstimator, *, now: float) -> None:
        """Something was sent or acknowledged, and more is outstanding: wait anew, unless a probe is under way."""
        if self.tsn is None and rtt.srtt is not None:
            self.at = now + 2 * rtt.srtt + self._delay + _MARGIN

    def latest_answer(self, rtt: RttEstimator) -> float:
        """Seconds after the last chunk was sent at which it is acknowledged at the latest, if it arrived."""
        return rtt.latest + self._delay + _MARGIN

    def disarm(self) -> None:
        """Nothing is outstanding, or T3-rtx took over."""
        self.at = _NEVER
        self.tsn = None

    def sent(self, tsn: int, *, alone: bool) -> None:
        """The chunk goes out again."""
        self.at = _NEVER
        self.tsn = tsn
        self._alone = alone

    def answered(self, next_tsn: int) -> None:
        """The chunk is acknowledged; `next_tsn` is the next to be sent."""
        self.tsn = None
        self._judged_by = None if self._alone else next_tsn

    def repaired(self, cum: int, duplicates: int) -> bool:
        """Whether it is now clear that the chunk was lost, which is a loss as any other (RFC 8985 §7.4).

        Args:
            cum: Cumulative TSN that is acknowledged.
            duplicates: How many TSNs the same SACK says came twice: then it was late, not lost.
        """
        if self._judged_by is None or not (duplicates or cum >= self._judged_by):
            return False
        self._judged_by = None
        return not duplicates
