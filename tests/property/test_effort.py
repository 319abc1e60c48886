"""What an input costs grows no faster than the input, whatever it repeats."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeice.ice import decode_candidate
from tests.property.effort import bytes_for, lines_for
from tests.property.target import Target
from tests.property.targets import DECODERS

#: Lines of code for any input, and for each of its bytes; bytes of memory likewise.
_LINES = (1000, 20)
_MEMORY = (100_000, 100)
_SIZES = (1000, 10_000, 30_000)


def _grown(dice: Random, target: Target) -> bytes:
    """An honest input with a piece of it, or a token, repeated over and over."""
    seed = dice.choice(target.seeds())
    at = dice.randrange(len(seed) + 1)
    piece = dice.choice((seed[at : at + 1 + dice.randrange(60)], *target.tokens)) or b"x"
    return seed[:at] + piece * (dice.choice(_SIZES) // len(piece)) + dice.choice((b"", seed[at:]))


@pytest.mark.parametrize("target", DECODERS, ids=lambda target: target.name)
def test_host_03_effort_is_linear(target: Target) -> None:
    for seed in target.seeds():
        target.check(seed)  # what is loaded or made once does not count

    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    @given(data=st.randoms(use_true_random=False).map(lambda dice: _grown(dice, target)))
    def holds(data: bytes) -> None:
        assert lines_for(lambda: target.check(data)) <= _LINES[0] + _LINES[1] * len(data)
        assert bytes_for(lambda: target.check(data)) <= _MEMORY[0] + _MEMORY[1] * len(data)

    holds()


def test_effort_counts_the_lines_of_this_package_and_all_memory() -> None:
    line = "candidate:1 1 udp 5 192.0.2.1 9 typ host"
    lines = [lines_for(partial(decode_candidate, line + extensions)) for extensions in ("", " x y", " x y" * 200)]
    assert lines[0] == lines[1] == lines[2] > 5
    assert lines_for(lambda: [len(bytes(at)) for at in range(100)]) == 0
    assert bytes_for(lambda: bytes(1_000_000)) >= 1_000_000
