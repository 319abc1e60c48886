"""Whether the path that carries data still does, judged while something waits to be acknowledged.

A path may die without a word: a filter, a NAT that forgot, a modem without service.  Consent notices after 30 s
(RFC 7675 §5.1); a person at a terminal after one.  So while data is outstanding and nothing of the peer is heard on the
path for a retransmission timeout, requests are sent on it, as consent sends them, and on the pairs that could take
over.  A path is *suspect* once it has been silent for 0.9 s and three timeouts, and too many requests went unanswered
for chance.  It is *silent* if meanwhile another one answered.

False alarms are what this must not give:

* Timeouts come from the path's own round trips, those of seconds too; before the first is measured, five are assumed.
* How many requests must be missing follows from how many were answered before.  On a clean path nine are enough; where
  every other one is lost it takes twenty: a chance of one in a million, as there.
* Another path's answers count only if they were prompt, and the judgment waits for one more timeout after the first of
  them.  A peer that stood still answers everything when it wakes, on all paths, and one of them must come first.
* Time in which this side did not listen is no time: where it was not woken when it asked to be, its clock stands still.
* With nothing outstanding nothing is sent, and nothing is judged.

What it costs: a request has about 100 bytes, an answer 80.  They are paced like all of ICE's (RFC 8445 §14.2) and go 20
times a second at most, less often where round trips are longer, until the path is suspect, which takes 50 at most; then
ever more seldom, down to one each 2 s.  So in the 30 s until consent ends at most 75 go on the path that is silent, and
at most 40 on each of the others.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

__all__ = ["Judgment", "Liveness", "Pulse"]

#: Lower bound of the timeout, seconds: a peer may delay an acknowledgment for that long (RFC 9260 §6.2).
_MIN_TIMEOUT: Final = 0.2
#: The timeout of a path whose round trip is not known.
_UNKNOWN_TIMEOUT: Final = 5.0
#: Silence before the first request, seconds, where the timeout is shorter.
_PATIENCE: Final = 0.25
#: Silence that makes a path suspect, in seconds and in timeouts, whichever is longer.
_SILENCE: Final = 0.9
_SILENT_TIMEOUTS: Final = 3
#: A missing answer is chance with this probability, as its negative decimal logarithm.
_EVIDENCE: Final = 6.0
#: Bounds of the share of requests that are taken to be answered promptly.  A path is never trusted so much that few
#: missing answers speak against it, nor so little that nothing ever does.
_BEST: Final = 0.8
_WORST: Final = 0.3
#: Weight of the latest request in that share.
_WEIGHT: Final = 1 / 16
#: Requests go this often in a timeout, within these seconds of each other: as many as a good path needs are missing
#: after three timeouts.
_PER_TIMEOUT: Final = 9
_SHORTEST: Final = 0.05
_LONGEST: Final = 0.5
#: On a suspect path each interval is longer than the one before by this factor, up to so many seconds.
_GROWTH: Final = 1.5
_SELDOM: Final = 2.0
#: The others are asked with each fourth request, and with each once the path is suspect.
_EACH: Final = 4
#: Requests whose answer is waited for; consent ends long before it takes more.
_MAX_UNANSWERED: Final = 128
#: Waking later than this was not for want of precision, seconds.
_SLACK: Final = 0.1


class Pulse:
    """What is known of one path's answers: how long they take, how many come, and when one came last.

    Times are those of a `Liveness`, which alone changes it.
    """

    __slots__ = ("_variation", "answered_at", "heard_at", "share", "srtt", "timeout", "unanswered")

    def __init__(self) -> None:
        #: Smoothed round trip in seconds, None before the first.
        self.srtt: float | None = None
        self._variation = 0.0
        #: After how many seconds an answer is missing (RFC 9260 §6.3.1 has the formula).
        self.timeout = _UNKNOWN_TIMEOUT
        #: The share of requests that are answered within the timeout, of late.
        self.share = _BEST
        #: When anything of the peer came last.
        self.heard_at = -math.inf
        #: When a prompt answer came last.
        self.answered_at = -math.inf
        #: When the requests were sent that wait for an answer, oldest first.
        self.unanswered: deque[float] = deque(maxlen=_MAX_UNANSWERED)

    @property
    def needed(self) -> int:
        """How many requests in a row must be missing an answer for that to be no chance."""
        share = min(max(self.share, _WORST), _BEST)
        return math.ceil(_EVIDENCE / -math.log10(1 - share))

    def measure(self, rtt: float) -> None:
        """Take the round trip of a request that was sent once."""
        if self.srtt is None:
            self.srtt, self._variation = rtt, rtt / 2
        else:
            self._variation += (abs(self.srtt - rtt) - self._variation) / 4
            self.srtt += (rtt - self.srtt) / 8
        self.timeout = max(self.srtt + 4 * self._variation, _MIN_TIMEOUT)

    def missing(self, at: float) -> int:
        """How many requests should have been answered by then."""
        before = at - self.timeout
        return sum(sent_at <= before for sent_at in self.unanswered)

    def hear(self, at: float) -> None:
        """The path works: what is missing was lost by itself."""
        self.heard_at = at
        for _ in range(self.missing(at)):
            self.unanswered.popleft()
            self._count(0.0)

    def answer(self, sent_at: float, at: float) -> None:
        """The request of that time is answered."""
        prompt = at - sent_at <= self.timeout
        waits = sent_at in self.unanswered
        if waits:
            self.unanswered.remove(sent_at)
        self.hear(at)
        if waits:
            self._count(float(prompt))
        if prompt:
            self.answered_at = at
        self.measure(at - sent_at)

    def _count(self, answered: float) -> None:
        self.share += (answered - self.share) * _WEIGHT


@attrs.frozen
class Judgment:
    """What is to be done about the path."""

    #: Paths on which a request is to be sent now.
    ask: tuple[Pulse, ...] = ()
    #: Data is to leave the path: it is suspect, and another one works.
    silent: bool = False


_NOTHING: Final = Judgment()


class Liveness:
    """Watches the path that carries one session's data.

    Attributes:
        suspect: It was silent for long, by no chance; until the peer is heard on it again.
    """

    __slots__ = ("_alive_at", "_ask_at", "_asked", "_deaf", "_interval", "_outstanding", "_pulse", "_since", "suspect")

    def __init__(self) -> None:
        self.suspect = False
        self._pulse: Pulse | None = None
        self._outstanding = False
        #: Since when silence would mean something: data goes this way, and waits to be acknowledged.
        self._since = -math.inf
        #: How long this side did not listen, altogether; the difference between its clock and the caller's.
        self._deaf = 0.0
        #: When the next request is due, None before the first of a silence.
        self._ask_at: float | None = None
        self._interval = 0.0
        #: Requests in this silence.
        self._asked = 0
        #: When it was first seen in this silence that another path answers.
        self._alive_at: float | None = None

    # Inputs

    def follow(self, pulse: Pulse | None, *, now: float) -> None:
        """Data goes by this path from now on, or by none."""
        if pulse is not self._pulse:
            self._since = self._listen(now)
            self._pulse = pulse
            self._end_silence()

    def note_outstanding(self, outstanding: bool, *, now: float) -> None:
        """Something waits to be acknowledged from now on, or nothing does."""
        if outstanding is not self._outstanding:
            self._since = self._listen(now)
            self._outstanding = outstanding
            self._ask_at = None

    def hear(self, *, now: float) -> None:
        """Something that only the peer can have sent came by the path that carries data."""
        if self._pulse is not None:
            self._pulse.hear(self._listen(now))
            self._end_silence()

    def ask(self, pulse: Pulse, *, now: float) -> float:
        """A request leaves; gives the time to tell of its answer."""
        at = self._listen(now)
        pulse.unanswered.append(at)
        return at

    def answer(self, pulse: Pulse, asked_at: float, *, now: float) -> None:
        """The request that `ask` gave this time for is answered."""
        pulse.answer(asked_at, self._listen(now))
        if pulse is self._pulse:
            self._end_silence()

    def _listen(self, now: float) -> float:
        """The time by this side's own clock, which stands still while nobody listens."""
        due_at = self.next_timeout()
        if due_at is not None and now - due_at > _SLACK:
            self._deaf += now - due_at
        return now - self._deaf

    def _end_silence(self) -> None:
        self.suspect = False
        self._ask_at = self._alive_at = None
        self._asked = 0

    # Outputs

    def next_timeout(self) -> float | None:
        """When to call `judge` at the latest; None while nothing is to be judged."""
        pulse = self._pulse
        if pulse is None or not self._outstanding:
            return None
        if self._ask_at is not None:
            return self._ask_at + self._deaf
        return self._silent_since(pulse) + max(_PATIENCE, pulse.timeout) + self._deaf

    def judge(self, others: Sequence[Pulse], *, now: float) -> Judgment:
        """Say what is to be done; nothing before the time.

        Args:
            others: The paths that data could take instead.
            now: Present time.
        """
        at = self._listen(now)
        due_at = self.next_timeout()
        pulse = self._pulse
        if pulse is None or due_at is None or now < due_at:
            return _NOTHING
        since = self._silent_since(pulse)
        self._note_alive(others, since, at)
        long = at >= since + max(_SILENCE, _SILENT_TIMEOUTS * pulse.timeout)
        self.suspect = self.suspect or (long and pulse.missing(at) >= pulse.needed)
        alive = self._alive_at is not None and at >= self._alive_at + pulse.timeout
        return Judgment(self._choose(pulse, others, at), self.suspect and alive)

    def _silent_since(self, pulse: Pulse) -> float:
        return max(pulse.heard_at, self._since)

    def _note_alive(self, others: Iterable[Pulse], since: float, at: float) -> None:
        if not any(other.answered_at > since for other in others):
            self._alive_at = None
        elif self._alive_at is None:
            self._alive_at = at

    def _choose(self, pulse: Pulse, others: Sequence[Pulse], at: float) -> tuple[Pulse, ...]:
        """Whom to ask now."""
        if not self.suspect or not self._asked:
            self._interval = min(max(pulse.timeout / _PER_TIMEOUT, _SHORTEST), _LONGEST)
        else:
            self._interval = min(self._interval * _GROWTH, _SELDOM)
        self._ask_at = at + self._interval
        all_of_them = self.suspect or self._asked % _EACH == 0
        self._asked += 1
        return (pulse, *others) if all_of_them else (pulse,)
