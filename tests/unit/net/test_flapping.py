"""What comes and goes too often is held back, for longer each time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.net import Held
from edgeice.net.flapping import FlapGuard

WHY = "8 s: went away 5 times within 30 s"


def held(guard: FlapGuard, now: float) -> dict[tuple[str, str], Held]:
    return guard.held(now=now)


def flap(guard: FlapGuard, start: float, times: int = 5, ip: str = "", every: float = 1.0) -> float:
    """Lose wlan0, or an address of it, some times; when it was lost last."""
    for number in range(times):
        guard.lost("wlan0", ip, now=start + number * every)
    return start + (times - 1) * every


def test_what_goes_now_and_then_is_not_held_back() -> None:
    guard = FlapGuard()
    for number in range(100):
        guard.lost("wlan0", now=number * 7.6)
        assert held(guard, number * 7.6) == {}
    assert guard.next_timeout(now=800.0) == math.inf


def test_the_fifth_loss_within_half_a_minute_holds_it_back() -> None:
    guard = FlapGuard()
    last = flap(guard, 0.0, 4)
    assert held(guard, last) == {}
    guard.lost("wlan0", now=29.9)
    assert held(guard, 29.9) == {("wlan0", ""): Held(WHY, is_firm=True)}


def test_it_is_let_go_after_it_stayed_for_so_long() -> None:
    guard = FlapGuard()
    last = flap(guard, 0.0)
    guard.lost("wlan0", now=last + 7.0)  # begins anew
    assert guard.next_timeout(now=last + 7.0) == last + 8.0
    assert held(guard, last + 7.9) == {("wlan0", ""): Held(WHY, is_firm=True)}
    assert held(guard, last + 8.0) == {("wlan0", ""): Held(WHY)}
    assert guard.next_timeout(now=last + 8.0) == last + 15.0
    assert held(guard, last + 14.9) == {("wlan0", ""): Held(WHY)}
    assert held(guard, last + 15.0) == {}
    assert guard.next_timeout(now=last + 15.0) == math.inf


def test_each_time_is_longer_than_the_one_before_up_to_a_limit() -> None:
    guard, now, seconds = FlapGuard(), 0.0, []
    for _ in range(5):
        now = flap(guard, now)
        (found,) = held(guard, now).values()
        seconds.append(float(found.why.partition(" ")[0]))
        now += seconds[-1]
        assert held(guard, now) == {}
        now += 30.0
    assert seconds == [8.0, 16.0, 32.0, 64.0, 64.0]


def test_a_single_loss_right_after_it_was_let_go_counts_with_those_before() -> None:
    guard = FlapGuard()
    last = flap(guard, 0.0)
    guard.lost("wlan0", now=last + 8.0)
    assert held(guard, last + 8.0)["wlan0", ""].why.startswith("16 s")


def test_five_quiet_minutes_wipe_the_slate() -> None:
    guard = FlapGuard()
    last = flap(guard, 0.0)
    flap(guard, last + 301.0)
    assert held(guard, last + 306.0) == {("wlan0", ""): Held(WHY)}


def test_addresses_are_held_back_apart_and_not_named_where_the_interface_is() -> None:
    guard = FlapGuard()
    last = flap(guard, 0.0, ip="192.0.2.7")
    assert held(guard, last) == {("wlan0", "192.0.2.7"): Held(WHY, is_firm=True)}
    last = flap(guard, last)
    assert held(guard, last) == {("wlan0", ""): Held(WHY, is_firm=True)}


def test_at_the_limit_what_went_longest_ago_is_forgotten() -> None:
    guard = FlapGuard()
    flap(guard, 0.0)
    for number in range(255):
        guard.lost(f"veth{number}", now=5.0)
    assert ("wlan0", "") in held(guard, 5.0)
    guard.lost("veth255", now=5.0)
    assert held(guard, 5.0) == {}


@pytest.mark.parametrize("every", [0.01, 0.5])
def test_while_it_flaps_on_nothing_but_the_time_moves(every: float) -> None:
    guard = FlapGuard()
    last = flap(guard, 0.0, times=1000, every=every)
    assert held(guard, last) == {("wlan0", ""): Held(WHY, is_firm=True)}
    assert held(guard, last + 8.0) == {}


@given(st.lists(st.tuples(st.sampled_from(["", "192.0.2.7"]), st.floats(0, 40)), max_size=80))
def test_what_is_held_back_is_let_go_within_its_time_whatever_happens(losses: list[tuple[str, float]]) -> None:
    guard, now = FlapGuard(), 0.0
    for ip, pause in losses:
        now += pause
        guard.lost("wlan0", ip, now=now)
    steps = 0
    while (at := guard.next_timeout(now=now)) != math.inf:
        assert now < at <= now + 64.0
        now, steps = at, steps + 1
    assert steps <= 4
    assert held(guard, now) == {}
