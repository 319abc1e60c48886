from __future__ import annotations

import pytest

from edgeice.sansio import Entropy
from edgeice.signaling.backoff import Backoff


def test_delays_double_up_to_a_minute() -> None:
    backoffs = [Backoff(Entropy.seeded(seed)) for seed in range(200)]
    rounds = [[backoff.next_delay() for backoff in backoffs] for _ in range(9)]
    for bound, delays in zip([1, 2, 4, 8, 16, 32, 60, 60, 60], rounds, strict=True):
        assert 0.5 * bound <= min(delays)
        assert max(delays) <= bound
        # Spread, or a whole fleet comes back at one moment.
        assert len(set(delays)) > 100


def test_a_stable_connection_begins_anew() -> None:
    backoff = Backoff(Entropy.seeded(1))
    for _ in range(5):
        backoff.next_delay()
    backoff.connection_lasted(30.0)
    assert backoff.next_delay() <= 1


def test_a_short_connection_does_not() -> None:
    backoff = Backoff(Entropy.seeded(1))
    for _ in range(5):
        backoff.next_delay()
    backoff.connection_lasted(29.9)
    assert backoff.next_delay() >= 16


@pytest.mark.parametrize("attempts", [0, 3, 2000])
def test_reset(attempts: int) -> None:
    backoff = Backoff(Entropy.seeded(1))
    for _ in range(attempts):
        backoff.next_delay()
    backoff.reset()
    assert 0.5 <= backoff.next_delay() <= 1
