from __future__ import annotations

import pytest
import trio
import trio.testing

from edgeice.operator.silence import SILENCE, SilenceWatch


class Peer:
    """A peer that is heard when the test says so, and what was told of it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.began = self.at = trio.current_time()
        self.told: list[tuple[float, str]] = []
        watch = SilenceWatch(
            lambda: self.at, lambda: self._tell("silent"), lambda seconds: self._tell(f"back after {seconds:g}")
        )
        nursery.start_soon(watch.run)

    def _tell(self, what: str) -> None:
        self.told.append((round(trio.current_time() - self.began, 2), what))

    async def heard(self, after: float) -> None:
        """Be heard after so many seconds."""
        await trio.sleep(after)
        self.at = trio.current_time()


async def test_a_peer_that_is_heard_often_enough_is_not_silent(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    peer = Peer(nursery)
    for _ in range(100):
        await peer.heard(6.9)
    assert peer.told == []


async def test_silence_is_told_once_and_its_end_with_its_length(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    peer = Peer(nursery)
    await peer.heard(5)
    await peer.heard(60)
    await peer.heard(1)
    await peer.heard(6.5)
    await peer.heard(20)
    await trio.sleep(1)
    assert SILENCE == 7
    (first, silent), (second, back), (third, again), (fourth, late) = peer.told
    assert (silent, back, again, late) == ("silent", "back after 60", "silent", "back after 20")
    assert first == pytest.approx(12)
    assert 65 <= second <= 65.25
    assert third == pytest.approx(72.5 + 7)
    assert 92.5 <= fourth <= 92.75


async def test_it_wakes_no_more_than_once_in_a_silence_while_the_peer_is_heard(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    asked = 0
    began = trio.current_time()

    def heard_at() -> float:
        nonlocal asked
        asked += 1
        return trio.current_time() - 1

    def never(*_arguments: object) -> None:
        raise AssertionError

    nursery.start_soon(SilenceWatch(heard_at, never, never).run)
    await trio.sleep_until(began + 600)
    assert asked <= 2 * (600 // 6 + 2)
