"""A few hundred inputs for everything that takes bytes from elsewhere; `python tests/property/fuzz.py` tries more."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.property.mutation import mutate
from tests.property.target import TAKEN, Target
from tests.property.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_honest_inputs_are_taken(target: Target) -> None:
    outcomes = {target.check(seed) for seed in target.seeds()}
    assert TAKEN in outcomes


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_host_01_any_input_is_taken_or_refused(target: Target) -> None:
    def inputs(dice: Random) -> bytes:
        return mutate(dice, target.seeds(), target.tokens)

    changed = st.randoms(use_true_random=False).map(inputs)

    @settings(max_examples=target.examples, suppress_health_check=list(HealthCheck))
    @given(data=st.one_of(changed, changed, changed, changed, st.binary(max_size=200)))
    def holds(data: bytes) -> None:
        target.check(data)

    holds()
