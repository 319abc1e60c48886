"""Whether a path still carries data: what alarms, when, at what cost, and what does not."""

from __future__ import annotations

import heapq
import itertools
import math
from random import Random

import attrs
import pytest

from edgeice.ice.liveness import Judgment, Liveness, Pulse


@attrs.define
class Line:
    """A path: round trip in seconds, its spread, and what it loses each way."""

    rtt: float = 0.04
    spread: float = 0.0
    loss: tuple[float, float] = (0.0, 0.0)
    works: bool = True
    pulse: Pulse = attrs.field(factory=Pulse)
    asked: int = 0


class World:
    """One machine on the first line, with others to go to; answers come as the lines bring them."""

    def __init__(self, *lines: Line, seed: int = 1, measured: bool = True, outstanding: bool = True) -> None:
        self.now = 1000.0
        self.lines = lines
        self.dice = Random(seed)
        self.liveness = Liveness()
        self.asked: list[tuple[float, int]] = []
        self.silent_at: list[float] = []
        self.suspect_at: list[float] = []
        self.stalls: list[tuple[float, float]] = []
        #: The peer keeps what it gets, while it stands still.
        self.held: list[tuple[int, float]] = []
        self.holds = False
        self._answers: list[tuple[float, int, int, float]] = []
        self._order = itertools.count()
        self.liveness.follow(lines[0].pulse, now=self.now)
        if measured:
            for line in lines:
                for _ in range(8):
                    line.pulse.measure(line.rtt + self.dice.random() * line.spread)
        self.liveness.note_outstanding(outstanding, now=self.now)

    def ask(self, number: int) -> None:
        """A request leaves."""
        line = self.lines[number]
        self.asked.append((self.now, number))
        asked_at = self.liveness.ask(line.pulse, now=self.now)
        if self.holds:
            self.held.append((number, asked_at))
        elif line.works and self.dice.random() >= line.loss[0] and self.dice.random() >= line.loss[1]:
            self.answer(number, asked_at, self.now + line.rtt + self.dice.random() * line.spread)

    def answer(self, number: int, asked_at: float, at: float) -> None:
        """A request is answered, later."""
        heapq.heappush(self._answers, (at, next(self._order), number, asked_at))

    def run(self, seconds: float, *, until_silent: bool = False) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            due = self.liveness.next_timeout()
            answer = self._answers[0][0] if self._answers else math.inf
            at = self._awake(min(answer, math.inf if due is None else due))
            if at > end:
                break
            self.now = max(self.now, at)
            while self._answers and self._answers[0][0] <= self.now:
                _, _, number, asked_at = heapq.heappop(self._answers)
                self.liveness.answer(self.lines[number].pulse, asked_at, now=self.now)
            self._act(self.liveness.judge([line.pulse for line in self.lines[1:]], now=self.now))
            if until_silent and self.silent_at:
                return
        self.now = end

    def _awake(self, at: float) -> float:
        return next((end for begin, end in self.stalls if begin <= at < end), at)

    def _act(self, judgment: Judgment) -> None:
        if self.liveness.suspect:
            self.suspect_at.append(self.now)
        if judgment.silent:
            self.silent_at.append(self.now)
        for pulse in judgment.ask:
            self.ask(next(number for number, line in enumerate(self.lines) if line.pulse is pulse))

    def count(self, number: int) -> int:
        """Requests on a line."""
        return sum(each == number for _, each in self.asked)


@pytest.mark.parametrize(("rtt", "spread"), [(0.02, 0.0), (0.04, 0.01), (0.08, 0.0), (0.06, 0.02)])
def test_a_path_that_dies_without_a_word_is_left_after_less_than_1_1_seconds(rtt: float, spread: float) -> None:
    world = World(Line(rtt, spread), Line(0.06))
    world.liveness.hear(now=world.now)
    died = world.now
    world.lines[0].works = False
    world.run(5.0, until_silent=True)
    assert 0.9 <= world.silent_at[0] - died < 1.1
    # 50 ms apart from 0.25 s on, each fourth on the other path too.
    assert world.asked[0] == (died + 0.25, 0)
    assert world.count(0) <= 17
    assert world.count(1) <= 5


@pytest.mark.parametrize("rtt", [0.5, 2.0, 5.0])
def test_a_slow_path_has_three_of_its_timeouts(rtt: float) -> None:
    world = World(Line(rtt), Line(0.06))
    world.liveness.hear(now=world.now)
    timeout = world.lines[0].pulse.timeout
    assert rtt < timeout < 1.4 * rtt
    died = world.now
    world.lines[0].works = False
    world.run(60.0, until_silent=True)
    assert 3 * timeout <= world.silent_at[0] - died < 3 * timeout + 0.5
    assert world.count(0) <= 30


def test_with_nothing_outstanding_nothing_is_asked() -> None:
    world = World(Line(), Line(), outstanding=False)
    world.lines[0].works = False
    assert world.liveness.next_timeout() is None
    world.run(120.0)
    assert world.asked == []
    assert not world.liveness.suspect


def test_what_is_acknowledged_ends_the_asking() -> None:
    world = World(Line(works=False), Line())
    world.run(0.5)
    asked = len(world.asked)
    assert asked > 5
    world.liveness.note_outstanding(False, now=world.now)
    world.run(60.0)
    assert len(world.asked) == asked
    assert world.silent_at == []
    # The next silence is counted from when something waits again.
    world.liveness.note_outstanding(True, now=world.now)
    begun = world.now
    world.run(5.0, until_silent=True)
    assert world.silent_at[0] - begun >= 0.9


def test_a_path_that_answers_is_never_asked_twice_in_a_row_for_nothing() -> None:
    world = World(Line(0.04), Line())
    for _ in range(1200):
        world.run(0.1)
        world.liveness.hear(now=world.now)
    assert world.asked == []


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "line",
    [
        Line(5.0),
        Line(0.06, loss=(0.3, 0.3)),
        Line(5.0, loss=(0.3, 0.3)),
        Line(0.06, loss=(0.0, 0.5)),
        Line(0.06, spread=0.3, loss=(0.3, 0.3)),
        Line(0.6, spread=2.0),
    ],
    ids=["slow", "lossy", "both", "acks", "jittery", "wild"],
)
@pytest.mark.parametrize("measured", [True, False])
def test_120_seconds_on_a_bad_path_raise_no_alarm(line: Line, seed: int, measured: bool) -> None:
    """Though a perfect one is at hand, and nothing but the answers is heard."""
    line = attrs.evolve(line, pulse=Pulse())
    world = World(line, Line(0.02), seed=seed, measured=measured)
    world.run(120.0)
    assert world.silent_at == []
    assert world.count(0) > 10


def test_a_lossy_path_that_dies_is_left_all_the_same() -> None:
    world = World(Line(0.06, loss=(0.3, 0.3)), Line(0.02))
    world.run(60.0)
    assert 0.25 < world.lines[0].pulse.share < 0.75
    world.lines[0].works = False
    died = world.now
    world.run(10.0, until_silent=True)
    assert 0.9 < world.silent_at[0] - died < 3.0


def test_where_nothing_else_answers_the_path_is_suspect_and_kept() -> None:
    world = World(Line(works=False), Line(works=False))
    begun = world.now
    world.run(30.0)
    assert 0.9 <= world.suspect_at[0] - begun < 1.1
    assert world.silent_at == []
    # The bounds that the module states.
    assert world.count(0) <= 75
    assert world.count(1) <= 40
    world.lines[0].works = True
    world.run(3.0)
    assert not world.liveness.suspect


def test_without_any_other_path_too() -> None:
    world = World(Line(works=False))
    world.run(5.0)
    assert world.liveness.suspect
    assert world.silent_at == []
    world.liveness.hear(now=world.now)
    assert not world.liveness.suspect


def test_another_path_that_comes_later_is_taken_later() -> None:
    world = World(Line(works=False), Line(0.04, works=False))
    world.run(3.0)
    world.lines[1].works = True
    back = world.now
    world.run(10.0, until_silent=True)
    assert back < world.silent_at[0] < back + 4.5


def test_the_bounds_hold_where_a_path_that_lost_much_dies() -> None:
    world = World(Line(0.06, loss=(0.45, 0.45)), Line(works=False))
    world.run(60.0)
    world.asked.clear()
    world.lines[0].works = False
    world.run(30.0)
    assert world.liveness.suspect
    assert world.count(0) <= 75
    assert world.count(1) <= 40


@pytest.mark.parametrize("begins", [0.01, 0.2, 0.26, 0.5, 0.88])
def test_a_pause_of_this_process_is_no_silence(begins: float) -> None:
    """3 s in which nothing was read and no deadline kept, in whatever moment."""
    world = World(Line(0.04), Line(0.04))
    world.liveness.hear(now=world.now)
    world.lines[0].works = False
    world.run(begins)
    world.lines[0].works = True  # its answers come, and are not read
    world.stalls.append((world.now, world.now + 3.0))
    world.run(3.5)
    assert world.silent_at == []
    assert not world.suspect_at
    # It is no excuse either, though what was lost before has cost some trust.
    world.lines[0].works = False
    died = world.now
    world.run(5.0, until_silent=True)
    assert world.silent_at[0] - died < 1.8


def test_a_path_that_dies_during_a_pause_is_left_after_it() -> None:
    world = World(Line(0.04), Line(0.04))
    world.liveness.hear(now=world.now)
    world.lines[0].works = False
    world.stalls.append((world.now + 0.1, world.now + 3.1))
    world.run(10.0, until_silent=True)
    # What passed between the beginning of the pause and the next deadline cannot be told from time spent listening.
    assert 3.1 + 0.9 - 0.25 < world.silent_at[0] - 1000.0 < 3.1 + 1.2


@pytest.mark.parametrize("pause", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("lead", [0.0, 0.005, 0.03])
def test_a_pause_of_the_peer_is_no_death_of_one_path(pause: float, lead: float) -> None:
    """It answers everything when it wakes, and what it answers on the other path may come first."""
    world = World(Line(0.06), Line(0.06 - lead))
    world.liveness.hear(now=world.now)
    world.holds = True
    world.run(pause)
    assert world.silent_at == []
    world.holds = False
    for number, at in world.held:
        world.answer(number, at, world.now + world.lines[number].rtt / 2)
    world.run(30.0)
    assert world.silent_at == []
    assert not world.liveness.suspect


def test_an_answer_that_comes_too_late_makes_no_other_path_alive() -> None:
    world = World(Line(works=False), Line(0.04))
    world.lines[1].rtt = 0.5  # since then
    begun = world.now
    world.run(10.0, until_silent=True)
    # Its first answer came after 0.75 s, the second one after 0.95 s: by what the first one taught it is prompt.
    assert world.suspect_at[0] - begun < 1.0
    assert world.silent_at[0] - begun >= 1.1


def test_a_new_path_starts_without_suspicion() -> None:
    world = World(Line(works=False), Line())
    world.run(5.0, until_silent=True)
    world.liveness.follow(world.lines[1].pulse, now=world.now)
    assert not world.liveness.suspect
    assert world.liveness.next_timeout() == pytest.approx(world.now + 0.25)
    world.liveness.follow(None, now=world.now)
    assert world.liveness.next_timeout() is None
    assert world.liveness.judge([], now=world.now + 9) == Judgment()


def test_nothing_is_judged_before_the_time() -> None:
    world = World(Line(works=False), Line())
    due = world.liveness.next_timeout()
    assert due is not None
    assert world.liveness.judge([], now=due - 0.001) == Judgment()
    assert world.liveness.next_timeout() == due
    assert len(world.liveness.judge([], now=due).ask) == 1


def test_how_many_answers_must_be_missing_follows_from_how_many_came() -> None:
    pulse = Pulse()
    assert pulse.needed == 9
    for share, needed in ((1.0, 9), (0.8, 9), (0.49, 21), (0.3, 39), (0.0, 39)):
        pulse.share = share
        assert pulse.needed == needed


def test_a_round_trip_is_measured_as_sctp_does() -> None:
    pulse = Pulse()
    assert pulse.timeout == 5.0
    pulse.measure(0.1)
    assert pulse.timeout == pytest.approx(0.3)  # RFC 9260 §6.3.1 C2
    pulse.measure(0.1)
    assert pulse.timeout == pytest.approx(0.1 + 4 * 0.0375)
    for _ in range(20):
        pulse.measure(0.1)
    assert pulse.timeout == 0.2


def test_requests_of_long_ago_are_forgotten() -> None:
    liveness, pulse = Liveness(), Pulse()
    for number in range(1000):
        liveness.ask(pulse, now=float(number))
    assert len(pulse.unanswered) == 128
