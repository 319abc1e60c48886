"""Tail loss probes, alone; what they do for a transfer is in test_transfer.py."""

from __future__ import annotations

import math

import pytest

from edgeice.sctp.probe import TailProbe
from edgeice.sctp.rto import RttEstimator


@pytest.fixture
def rtt() -> RttEstimator:
    found = RttEstimator(initial=0.5, minimum=0.4, maximum=10.0)
    found.sample(0.1)
    return found


def test_the_wait_is_two_round_trips_and_what_a_peer_may_delay(rtt: RttEstimator) -> None:
    probe = TailProbe()
    probe.arm(rtt, asked=True, now=1.0)
    assert probe.at == pytest.approx(1.22)
    probe.arm(rtt, asked=False, now=2.0)
    assert probe.at == pytest.approx(2.42)
    probe.put_off(rtt, now=3.0)
    assert probe.at == pytest.approx(3.42)


def test_nothing_is_probed_before_a_round_trip_was_measured() -> None:
    probe = TailProbe()
    probe.arm(RttEstimator(initial=0.5, minimum=0.4, maximum=10.0), asked=True, now=1.0)
    assert probe.at == math.inf


def test_one_probe_at_a_time(rtt: RttEstimator) -> None:
    probe = TailProbe()
    probe.sent(7, alone=True)
    probe.arm(rtt, asked=True, now=1.0)
    assert (probe.at, probe.tsn) == (math.inf, 7)
    probe.answered(8)
    probe.arm(rtt, asked=True, now=1.0)
    assert probe.at == pytest.approx(1.22)
    assert probe.tsn is None


def test_a_probe_counts_as_loss_once_something_sent_later_arrived() -> None:
    probe = TailProbe()
    probe.sent(7, alone=False)
    assert not probe.repaired(7, 0)
    probe.answered(20)
    assert [probe.repaired(cum, 0) for cum in (8, 19, 20, 21)] == [False, False, True, False]


@pytest.mark.parametrize("cum", [9, 25])
def test_a_probe_that_came_twice_was_no_loss(cum: int) -> None:
    probe = TailProbe()
    probe.sent(7, alone=False)
    probe.answered(20)
    assert not probe.repaired(cum, 1)
    assert not probe.repaired(30, 0)


def test_that_a_lone_packet_was_lost_says_nothing_about_the_window() -> None:
    probe = TailProbe()
    probe.sent(7, alone=True)
    probe.answered(8)
    assert not probe.repaired(9, 0)
