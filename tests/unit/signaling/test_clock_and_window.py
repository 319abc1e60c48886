from __future__ import annotations

import datetime as dt
import random

import pytest

from edgeice.errors import DecodeError
from edgeice.signaling.clock import BUILD_DATE, check_times, is_expired, issue_time
from edgeice.signaling.window import SequenceWindow

WALL = 1_800_000_000


@pytest.mark.parametrize(
    ("iat", "exp", "good"),
    [
        (WALL, WALL + 60, True),
        (WALL, WALL + 61, False),
        (WALL + 60, WALL + 120, True),
        (WALL + 61, WALL + 120, False),
        (WALL - 119, WALL - 59, True),
        (WALL - 120, WALL - 60, False),
        (WALL, WALL, True),
        (0, 0, False),
    ],
)
def test_times_of_session_messages(iat: int, exp: int, good: bool) -> None:
    check_times(iat, exp, wall=None)  # never, while the clock is not known
    if good:
        check_times(iat, exp, wall=WALL)
    else:
        with pytest.raises(DecodeError) as caught:
            check_times(iat, exp, wall=WALL)
        assert caught.value.reason == "expired"


@pytest.mark.parametrize(
    ("expires", "wall", "expired"),
    [
        (None, WALL, False),
        (None, None, False),
        (WALL, WALL - 1, False),
        (WALL, WALL, True),
        (BUILD_DATE + 1, None, False),
        (BUILD_DATE, None, True),
        # A clock that calls itself synchronized and is before the release is wrong all the same.
        (BUILD_DATE, 0, True),
    ],
)
def test_expiry_of_trust(expires: int | None, wall: int | None, expired: bool) -> None:
    assert is_expired(expires, wall=wall) is expired


def test_the_time_of_issue_is_the_floor_while_unknown() -> None:
    assert issue_time(WALL) == WALL
    assert issue_time(None) == BUILD_DATE
    assert dt.datetime.fromtimestamp(BUILD_DATE, dt.UTC).time() == dt.time(0, 0)


def test_trk_02_each_seq_is_new_once() -> None:
    window = SequenceWindow()
    for seq in (0, 2, 1, 63, 64):
        assert window.is_new(seq)
        window.mark(seq)
        assert not window.is_new(seq)
    assert [seq for seq in range(65) if window.is_new(seq)] == list(range(3, 63))


@pytest.mark.parametrize(("highest", "seq", "new"), [(100, 37, True), (100, 36, False), (63, 0, True), (64, 0, False)])
def test_the_window_is_64_wide(highest: int, seq: int, new: bool) -> None:
    window = SequenceWindow()
    window.mark(highest)
    assert window.is_new(seq) is new


def test_a_far_jump_forgets_all_before() -> None:
    window = SequenceWindow()
    window.mark(0)
    window.mark(2**53 - 1)
    assert not window.is_new(0)
    assert window.is_new(2**53 - 2)


def test_the_window_agrees_with_a_plain_set() -> None:
    dice = random.Random(5)
    for _ in range(50):
        window, seen, highest = SequenceWindow(), set[int](), -1
        for _ in range(200):
            seq = max(0, highest + dice.randint(-80, 20))
            expected = seq not in seen and seq > highest - 64
            assert window.is_new(seq) is expected
            if expected:
                window.mark(seq)
                seen.add(seq)
                highest = max(highest, seq)
            below = highest - dice.randint(0, 70)
            assert window.all_below(below) is all(s in seen for s in range(max(0, highest - 63), below))
