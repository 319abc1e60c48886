"""Another path is in use: what goes again, what does not, and how soon (RFC 8831 §5)."""

from __future__ import annotations

import heapq
from random import Random

import attrs
import pytest

from edgeice.sctp import SctpConfig
from edgeice.sctp.chunks import ChunkType, decode_sack
from edgeice.sctp.lifecycle import Timer
from edgeice.sctp.streams import BEHIND, IN_FLIGHT, LOST
from tests.unit.sctp.link import Link, forge, kinds, values


@attrs.define
class Way:
    """One path: its delay one way, what it loses each way, and whether it carries anything."""

    delay: float = 0.01
    loss: tuple[float, float] = (0.0, 0.0)
    jitter: float = 0.0
    works: bool = True

    @property
    def rtt(self) -> float:
        return 2 * self.delay


class Roaming(Link):
    """A link of several paths; each end sends by the one that it last moved to."""

    def __init__(self, *ways: Way, seed: int = 1, config: SctpConfig | None = None) -> None:
        super().__init__(config, seed=seed)
        self.ways = list(ways)
        self.used: list[Way | None] = [ways[0], ways[0]]
        self.dice = Random(seed + 7)

    def _carry(self, side: int, packet: bytes) -> None:
        way = self.used[side]
        assert way is not None, "a packet without a path"
        self.sent[side].append(packet)
        if not way.works or self.dice.random() < way.loss[side]:
            return
        self._serial += 1
        arrives = self.now + way.delay + self.dice.random() * way.jitter
        heapq.heappush(self._flying, (arrives, self._serial, 1 - side, packet))

    def move(self, side: int, way: Way, *, lost: bool, measured: bool = True) -> None:
        """An end goes another way from now on."""
        self.used[side] = way
        self.ends[side].path_changed(lost=lost, rtt=way.rtt if measured else None, now=self.now)
        self.drain()

    def strand(self, side: int) -> None:
        """An end has no path."""
        self.used[side] = None
        self.ends[side].path_gone()
        self.drain()

    def opened(self) -> int:
        """Connect and open a channel; what was sent so far is forgotten."""
        self.connect()
        channel = self.client.open("l", now=self.now)
        self.run(1.0)
        for sent in self.sent:
            sent.clear()
        return channel

    def data(self, side: int) -> int:
        """How many DATA chunks an end sent."""
        return sum(kinds(packet).count(ChunkType.DATA) for packet in self.sent[side])


def stream(link: Roaming, channel: int, seconds: float, *, size: int = 40, both: bool = True) -> list[list[bytes]]:
    """A message each 10 ms from both ends, or the client alone, for so long; gives what each sent."""
    said: list[list[bytes]] = [[], []]
    for number in range(round(seconds * 100)):
        for side in range(1 + both):
            data = f"{side}:{number}:".encode().ljust(size, b".")
            link.ends[side].send(channel, data, now=link.now)
            said[side].append(data)
        link.run(0.01)
    return said


# --- a path that is lost


def test_sctp_20_after_a_silent_path_data_goes_again_at_the_moment_of_the_move() -> None:
    wifi, mobile = Way(0.01), Way(0.03)
    link = Roaming(wifi, mobile)
    channel = link.opened()
    wifi.works = False
    said = stream(link, channel, 1.2, both=False)[0]
    sender = link.client._association.sender
    assert sender.rtt.rto == 0.8  # T3 is backed off by now
    assert link.messages(1) == []
    link.sent[0].clear()
    link.move(0, mobile, lost=True)
    at_once = link.data(0)
    assert at_once == len(sender.outstanding) > 30
    assert sender.t3_at == pytest.approx(link.now + 0.4)  # 3 round trips, and not less than the minimum
    assert sender.congestion.window == 12_000
    link.move(1, mobile, lost=True)
    link.run(0.1)  # one round trip for each initial window
    assert link.messages(1) == said
    assert link.client._association.liveness.errors == 0


def test_sctp_20_the_first_timer_on_the_new_path_comes_from_its_measured_round_trip() -> None:
    slow, other = Way(0.01), Way(0.3)
    link = Roaming(slow, other)
    channel = link.opened()
    slow.works = False
    link.client.send(channel, b"x", now=link.now)
    link.run(5.0)
    other.works = False
    link.move(0, other, lost=True)
    assert link.client._association.sender.t3_at == pytest.approx(link.now + 1.8)  # RFC 9260 §6.3.1 C2: R + 4 R/2
    # A tail probe may go before, as its round trip is known too: two of them.
    assert link.client._association.sender.rtt.srtt == pytest.approx(0.6)


def test_sctp_20_without_a_measurement_the_timer_is_that_of_the_start() -> None:
    first, second = Way(0.01), Way(0.02)
    link = Roaming(first, second)
    channel = link.opened()
    first.works = second.works = False
    link.client.send(channel, b"x", now=link.now)
    link.run(5.0)
    link.move(0, second, lost=True, measured=False)
    assert link.client._association.sender.t3_at == pytest.approx(link.now + 0.5)


def test_sctp_20_a_full_window_goes_again_within_two_round_trips() -> None:
    wifi, mobile = Way(0.01), Way(0.03)
    link = Roaming(wifi, mobile)
    channel = link.opened()
    data = [Random(3).randbytes(1172) for _ in range(40)]
    sender = link.client._association.sender
    sender.congestion.window = 60_000
    wifi.works = False
    for each in data:
        link.client.send(channel, each, now=link.now)
    link.run(0.3)
    for side in (0, 1):
        link.move(side, mobile, lost=True)
    link.run(0.2)
    assert link.messages(1) == data


# --- a path that is left while it works


def test_sctp_20_nothing_is_sent_twice_when_a_working_path_is_left_for_a_faster_one() -> None:
    """What was sent later overtakes what was sent before, by far more than three packets."""
    mobile, wifi = Way(0.1), Way(0.005)
    link = Roaming(mobile, wifi)
    channel = link.opened()
    said = stream(link, channel, 1.0)
    for side in (0, 1):
        link.move(side, wifi, lost=False)
    more = stream(link, channel, 1.0)
    link.run(1.0)
    assert link.messages(1) == said[0] + more[0]
    assert link.messages(0) == said[1] + more[1]
    assert link.data(0) == link.data(1) == 200
    for end in link.ends:
        assert end.drops["duplicate-tsn"] == 0


@pytest.mark.parametrize("slower", [False, True])
@pytest.mark.parametrize("size", [1172, 16_384])
def test_sctp_20_bulk_in_flight_is_not_sent_twice_either(slower: bool, size: int) -> None:
    ways = [Way(0.1), Way(0.005)]
    old, new = reversed(ways) if slower else ways
    link = Roaming(old, new)
    channel = link.opened()
    data = [Random(number).randbytes(size) for number in range(3_000_000 // size)]
    for each in data:
        link.client.send(channel, each, now=link.now)
    link.run(0.06 if slower else 0.45)
    assert link.client._association.sender.flight > 30_000
    for side in (0, 1):
        link.move(side, new, lost=False)
    sender = link.client._association.sender
    assert sender.congestion.window == 12_000
    assert sender.behind > 30_000
    assert sender.flight > 10_000  # the new path has its own window, which the old one's data takes nothing of
    link.run(60.0)
    assert link.messages(1) == data
    assert link.server.drops["duplicate-tsn"] == 0
    assert (sender.flight, sender.behind, sender.idle) == (0, 0, True)


def test_sctp_20_the_peers_window_counts_what_is_behind() -> None:
    mobile, wifi = Way(0.1), Way(0.005)
    link = Roaming(mobile, wifi)
    channel = link.opened()
    sender = link.client._association.sender
    for _ in range(20):
        link.client.send(channel, bytes(1172), now=link.now)
    link.drain()
    behind = sender.flight
    assert behind > 12_000
    sender.peer_rwnd = 18_000
    link.move(0, wifi, lost=False)
    assert sender.behind == behind
    assert behind + sender.flight <= 18_000


def test_sctp_20_growth_on_the_new_path_is_by_its_own_acknowledgments() -> None:
    mobile, wifi = Way(0.1), Way(0.005)
    link = Roaming(mobile, wifi)
    channel = link.opened()
    for _ in range(10):
        link.client.send(channel, bytes(1172), now=link.now)
    link.drain()
    sender = link.client._association.sender
    link.move(0, wifi, lost=False)
    link.run(0.5)
    assert link.client.outstanding is False
    assert sender.congestion.window == 12_000
    assert sender.rtt.srtt == pytest.approx(wifi.rtt)  # no sample of what went the old way


def test_sctp_20_acknowledgments_of_what_is_behind_open_no_window() -> None:
    mobile, wifi = Way(0.1), Way(0.005)
    link = Roaming(mobile, wifi)
    channel = link.opened()
    sender = link.client._association.sender
    sender.congestion.window = 30_000
    link.client.send(channel, bytes(60_000), now=link.now)
    link.run(0.001)
    wifi.works = False
    link.move(0, wifi, lost=False)
    assert (sender.flight > 10_000, sender.behind > 10_000) == (True, True)
    link.run(0.25)
    assert sender.behind == 0
    assert sender.congestion.window == 12_000
    assert sender.flight < 12_000 + 1172


def test_sctp_20_once_all_has_come_nothing_wakes() -> None:
    mobile, wifi = Way(0.1), Way(0.005)
    link = Roaming(mobile, wifi)
    channel = link.opened()
    link.client.send(channel, b"old", now=link.now)
    link.drain()
    for side in (0, 1):
        link.move(side, wifi, lost=False)
    link.run(0.09)
    link.client.send(channel, b"new", now=link.now)
    link.run(0.02)
    assert link.messages(1) == [b"old", b"new"]
    assert link.client._association.next_timer() is Timer.HEARTBEAT


def test_sctp_20_what_a_working_path_lost_is_missed_when_it_should_have_come() -> None:
    """And not before: the holes that newer data makes speak of overtaking only."""
    mobile, wifi = Way(0.05), Way(0.005)
    link = Roaming(mobile, wifi)
    channel = link.opened()
    mobile.loss = (1.0, 0.0)
    link.client.send(channel, b"lost", now=link.now)
    link.drain()
    left = link.now
    for side in (0, 1):
        link.move(side, wifi, lost=False)
    sender = link.client._association.sender
    due = sender.settles_at
    assert left + 0.1 < due < left + 0.4
    assert link.client._association.next_timer() is Timer.SETTLED
    stream(link, channel, 0.08, both=False)
    assert link.data(0) == 1 + 8  # ten round trips of the new path, eight reports
    link.run(due - link.now + 0.011)
    assert link.messages(1)[0] == b"lost"
    assert link.data(0) == 1 + 8 + 1
    assert sender.congestion.window == 12_000  # which says nothing about the new path


def test_sctp_20_an_idle_application_does_not_wait_for_the_timer_either() -> None:
    mobile, wifi = Way(0.05), Way(0.005)
    link = Roaming(mobile, wifi)
    channel = link.opened()
    mobile.works = False
    data = [b"%d" % number for number in range(6)]
    for each in data:
        link.client.send(channel, each, now=link.now)
    link.drain()
    for side in (0, 1):
        link.move(side, wifi, lost=False)
    sender = link.client._association.sender
    due = sender.settles_at
    link.run(due - link.now + 0.03)
    # The last one asked what is missing, and one round trip later it was all sent again.
    assert link.messages(1) == data
    assert link.data(0) == 6 + 6
    assert link.now < sender.rtt.rto + due


def test_sctp_20_what_only_comes_late_is_not_all_sent_again() -> None:
    mobile, wifi = Way(0.05), Way(0.005)
    link = Roaming(mobile, wifi)
    channel = link.opened()
    mobile.delay = 0.5
    data = [b"%d" % number for number in range(6)]
    for each in data:
        link.client.send(channel, each, now=link.now)
    link.drain()
    for side in (0, 1):
        link.move(side, wifi, lost=False)
    # The last one asks, and its answer says that the others are missing; without an answer nothing would be lost.
    wifi.works = False
    link.run(link.client._association.sender.settles_at - link.now + 0.001)
    assert link.data(0) == 6 + 1


def test_sctp_20_of_what_is_behind_only_what_is_missing_goes_again() -> None:
    mobile, wifi = Way(0.05), Way(0.005)
    link = Roaming(mobile, wifi)
    channel = link.opened()
    data = [b"%d" % number for number in range(6)]
    for number, each in enumerate(data):
        mobile.works = number != 1
        link.client.send(channel, each, now=link.now)
        link.drain()
    for side in (0, 1):
        link.move(side, wifi, lost=False)
    link.run(0.08)
    assert link.client._association.sender.behind == 1
    link.client.send(channel, b"new", now=link.now)
    link.run(0.5)
    assert link.messages(1) == [*data, b"new"]
    assert link.data(0) == 7 + 1


def test_sctp_20_a_path_on_which_the_timer_ran_out_is_lost_whatever_is_said_of_it() -> None:
    wifi, mobile = Way(0.01), Way(0.03)
    link = Roaming(wifi, mobile)
    channel = link.opened()
    wifi.works = False
    said = stream(link, channel, 1.25, both=False)[0]  # it ran out the last time 50 ms ago
    sender = link.client._association.sender
    link.sent[0].clear()
    link.move(0, mobile, lost=False)
    assert link.data(0) == len(sender.outstanding)
    assert sender.behind == 0
    link.move(1, mobile, lost=False)
    link.run(0.1)
    assert link.messages(1) == said


def test_sctp_20_a_slow_old_path_is_not_held_to_the_new_ones_timer() -> None:
    satellite, wifi = Way(1.0), Way(0.005)
    link = Roaming(satellite, wifi)
    for side in (0, 1):
        link.move(side, satellite, lost=True)  # by which the round trip is known before the first packet
    link.server.start(now=link.now)
    link.run(20.0)
    assert len(link.sent[0]) == len(link.sent[1]) == 2
    channel = link.client.open("l", now=link.now)
    link.run(20.0)
    link.sent[0].clear()
    said = stream(link, channel, 0.5, both=False)[0]
    for side in (0, 1):
        link.move(side, wifi, lost=False)
    more = stream(link, channel, 0.5, both=False)[0]
    link.run(10.0)
    assert link.messages(1) == said + more
    assert link.data(0) == 100
    assert link.server.drops["duplicate-tsn"] == 0


def test_sctp_20_packets_stay_as_small_as_at_the_start() -> None:
    link = Roaming(Way(0.01), Way(0.03))
    channel = link.opened()
    link.client.send(channel, bytes(60_000), now=link.now)
    link.run(0.02)
    link.move(0, link.ways[1], lost=True)
    link.run(3.0)
    assert max(map(len, link.sent[0])) == 1200


def test_sctp_20_two_moves_at_once_leave_nothing_behind() -> None:
    ways = [Way(0.1), Way(0.05), Way(0.01)]
    link = Roaming(*ways)
    channel = link.opened()
    said = stream(link, channel, 0.3)
    for way in ways[1:]:
        for side in (0, 1):
            link.move(side, way, lost=False)
        for side, each in enumerate(stream(link, channel, 0.03)):
            said[side] += each
    link.run(1.0)
    assert [link.messages(1), link.messages(0)] == said
    assert link.data(0) == link.data(1) == 36
    assert [end._association.sender.settles_at for end in link.ends] == [float("inf")] * 2


def test_partial_reliability_is_kept_across_a_move() -> None:
    mobile, wifi = Way(0.05), Way(0.005)
    link = Roaming(mobile, wifi)
    link.connect()
    channel = link.client.open("l", now=link.now, max_retransmits=0)
    link.run(1.0)
    mobile.works = False
    for number in range(5):
        link.client.send(channel, b"gone %d" % number, now=link.now)
    link.drain()
    for side in (0, 1):
        link.move(side, wifi, lost=False)
    link.client.send(channel, b"new", now=link.now)
    link.run(2.0)
    assert link.messages(1) == [b"new"]  # each was sent once, as was asked
    sender = link.client._association.sender
    assert (sender.idle, sender.flight, sender.behind, sender.forward.abandoned) == (True, 0, 0, 0)


def test_a_message_that_expires_half_sent_is_not_counted_behind() -> None:
    mobile, wifi = Way(0.1), Way(0.005)
    link = Roaming(mobile, wifi)
    link.connect()
    channel = link.client.open("l", now=link.now, max_lifetime=50)
    link.run(1.0)
    link.client.send(channel, bytes(60_000), now=link.now)
    link.drain()
    wifi.works = False
    link.move(0, wifi, lost=False)
    sender = link.client._association.sender
    assert sender.behind > 10_000
    link.run(0.06)
    sender.congestion.window = 60_000
    link.client.send(channel, b"new", now=link.now)
    assert (sender.behind, sender.flight) == (0, 3)


def test_the_first_move_before_any_measurement_waits_for_a_whole_timeout() -> None:
    ways = Way(0.3), Way(0.005)
    link = Roaming(*ways)
    channel = link.opened()
    link.move(0, ways[0], lost=True, measured=False)
    link.client.send(channel, b"x", now=link.now)
    link.drain()
    link.move(0, ways[1], lost=False)
    assert link.client._association.sender.settles_at == pytest.approx(link.now + 0.5 + 0.02)


def test_each_path_gets_its_attempts_to_set_up() -> None:
    ways = Way(works=False), Way(works=False)
    link = Roaming(*ways, config=SctpConfig(max_init_retransmits=3))
    link.client.start(now=link.now)
    for number in range(9):
        link.run(2.0)
        link.move(0, ways[number % 2], lost=True)
    for way in ways:
        way.works = True
    for side in (0, 1):
        link.move(side, ways[0], lost=True)
    link.run(0.1)
    assert link.client.established


def test_states_of_chunks_on_a_path_that_was_left() -> None:
    mobile, wifi = Way(0.1), Way(0.005)
    link = Roaming(mobile, wifi)
    channel = link.opened()
    for _ in range(3):
        link.client.send(channel, b"x", now=link.now)
    sender = link.client._association.sender
    link.move(0, wifi, lost=False)
    link.client.send(channel, b"y", now=link.now)
    assert [chunk.state for chunk in sender.outstanding.values()] == [BEHIND] * 3 + [IN_FLIGHT]
    assert (sender.behind, sender.flight) == (3, 1)
    wifi.works = False
    sender.lose_all(now=link.now)
    assert [chunk.state for chunk in sender.outstanding.values()] == [LOST] * 4
    assert (sender.behind, sender.flight) == (0, 0)


# --- no path at all


@pytest.mark.parametrize("shuts", [False, True])
def test_ten_minutes_without_a_path_count_for_nothing(shuts: bool) -> None:
    wifi, mobile = Way(0.01), Way(0.03)
    link = Roaming(wifi, mobile)
    channel = link.opened()
    said = stream(link, channel, 0.3)
    if shuts:
        link.client.shutdown(now=link.now)
    for side in (0, 1):
        link.strand(side)
    lost = [len(sent) for sent in link.sent]
    assert [end.next_timeout() for end in link.ends] == [None, None]
    if not shuts:
        for number in range(20):
            link.client.send(channel, b"%d" % number, now=link.now)
            said[0].append(b"%d" % number)
    held = link.client.buffered_amount(channel)
    assert held == (0 if shuts else 30)  # nothing is sent into the void
    link.run(300.0)
    for end in link.ends:
        end.handle_timeout(now=link.now)  # other parts of a session have timers too
    link.drain()
    link.run(300.0)
    assert [len(sent) for sent in link.sent] == lost
    assert [end.ended for end in link.ends] == [None, None]
    for side in (0, 1):
        # Whatever is said of the path before, it carried nothing.
        link.move(side, mobile, lost=False)
        sender = link.ends[side]._association.sender
        assert (sender.behind, sender._lost) == (0, [])
    link.run(0.5)
    assert [link.messages(1), link.messages(0)] == said
    if shuts:
        assert [end.ended for end in link.ends] == [("shut down", False)] * 2
    else:
        assert [end._association.liveness.errors for end in link.ends] == [0, 0]


def test_failures_start_at_none_on_each_path() -> None:
    wifi, mobile = Way(0.01), Way(0.03)
    link = Roaming(wifi, mobile, config=SctpConfig(max_retransmits=3))
    channel = link.opened()
    link.client.send(channel, b"x", now=link.now)
    for number in range(12):
        way = link.ways[number % 2]
        way.works = False
        link.move(0, way, lost=True)
        link.run(3.0)
        assert 0 < link.client._association.liveness.errors <= 3
    wifi.works = True
    for side in (0, 1):
        link.move(side, wifi, lost=True)
    link.run(0.1)
    assert link.messages(1) == [b"x"]


def test_what_comes_while_there_is_no_path_back_is_taken_and_piles_nothing_up() -> None:
    link = Roaming(Way())
    channel = link.opened()
    link.strand(1)
    for number in range(200):
        link.client.send(channel, b"%d" % number, now=link.now)
    link.run(0.3)
    assert len(link.messages(1)) >= 10
    outbox = link.server._association._outbox
    assert (len(outbox._packets), outbox.control) == (0, [])
    assert link.sent[1] == []
    link.move(1, link.ways[0], lost=True)
    assert decode_sack(values(link.sent[1][0], ChunkType.SACK)[0])[0] == link.server._association._receiver.cum % 2**32
    link.run(3.0)
    assert len(link.messages(1)) == 200


def test_a_heartbeat_that_comes_without_a_path_is_not_kept() -> None:
    link = Roaming(Way())
    link.opened()
    link.strand(1)
    beat = link.client._association.liveness.make(now=link.now)
    for _ in range(1000):
        link.server.receive_packets([forge(link.server, beat)], now=link.now)
    link.drain()
    assert link.server._association._outbox.control == []


# --- whatever happens


class _Journey:
    """Both ends move at random among bad paths, and talk."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = Random(seed)
        self.ways = [Way(dice.choice((0.002, 0.01, 0.05, 0.3))) for _ in range(3)]
        self.link = Roaming(*self.ways, seed=seed)
        self.channel = self.link.opened()
        self.said: list[list[bytes]] = [[], []]
        self.moves = 0
        for way in self.ways:
            way.loss = dice.choice((0.0, 0.02, 0.3)), dice.choice((0.0, 0.02, 0.3))
            way.jitter = dice.choice((0.0, 0.005, 0.1))

    def go(self) -> None:
        """One step: something said, something done."""
        dice, link = self.dice, self.link
        for side, end in enumerate(link.ends):
            if dice.random() < 0.7:
                data = b"%d:" % len(self.said[side])
                data = data.ljust(dice.choice((10, 300, 5000, 20_000)), b"-")
                end.send(self.channel, data, now=link.now)
                self.said[side].append(data)
        deed, side, way = dice.random(), dice.randrange(2), dice.choice(self.ways)
        if deed < 0.3:
            self._move(side, way, lost=dice.random() < 0.5)
        elif deed < 0.4:
            for each in (0, 1):
                self._move(each, way, lost=True)
        elif deed < 0.5:
            way.works = not way.works
        elif deed < 0.55:
            link.strand(side)
            link.run(dice.choice((0.1, 30.0)))
            self._move(side, way, lost=False)
        link.run(dice.choice((0.0, 0.01, 0.1, 0.5)))

    def _move(self, side: int, way: Way, *, lost: bool) -> None:
        self.moves += 1
        self.link.move(side, way, lost=lost, measured=self.dice.random() < 0.7)

    def arrive(self) -> None:
        """All is well again: everything arrives, once and in order, and nothing is left over."""
        for way in self.ways:
            way.works, way.loss = True, (0.0, 0.0)
        link = self.link
        link.run(60.0)
        assert [link.messages(1), link.messages(0)] == self.said
        for end in link.ends:
            sender = end._association.sender
            assert (sender.idle, sender.flight, sender.behind) == (True, 0, 0)
            assert sender.settles_at == sender.t3_at == float("inf")
            assert end.ended is None
            assert end._association._receiver.used == 0


@pytest.mark.slow
def test_sctp_20_random_moves_lose_nothing_and_repeat_nothing() -> None:
    moves = messages = 0
    for seed in range(40):
        journey = _Journey(seed)
        for _ in range(60):
            journey.go()
        journey.arrive()
        moves += journey.moves
        messages += sum(map(len, journey.said))
    assert (moves, messages) == (1280, 3278)
