"""The fuzzer itself: what it changes, finds and makes small."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from edgeice.errors import DecodeError
from tests.property import fuzz
from tests.property.faults import damaged, example_scripts, faults_of
from tests.property.mutation import LIMIT, minimize, mutate
from tests.property.target import TAKEN, Target, decoder


def test_equal_dice_make_equal_inputs_of_bounded_size() -> None:
    seeds = (b"honest 1", b"", bytes(LIMIT))
    made = [[mutate(Random(number), seeds, (b"token",)) for number in range(300)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 200
    assert max(map(len, made[0])) <= LIMIT


def test_the_least_input_is_what_the_failure_needs() -> None:
    assert minimize(b"abcXdefghYijk" * 3, lambda data: b"X" in data and b"Y" in data) == b"XY"
    assert minimize(b"abc", lambda data: len(data) == 3) == b"\0\0\0"
    assert minimize(b"x" * 1000, lambda _data: True) == b""
    asked = itertools.count()
    minimize(b"x" * 1000, lambda _data: next(asked) < 0, tries=20)
    assert next(asked) == 20


def test_any_bytes_are_a_script() -> None:
    for script in (*example_scripts(), b"x" * 7, bytes(8 * 1000)):
        numbers = [number for number, _ in faults_of(script)]
        assert len(numbers) == min(len(script) // 8, 256)
        assert numbers == sorted(numbers)
        for _, fault in faults_of(script):
            for data in (b"", b"x", bytes(100)):
                damaged(data, fault, [data])


def _check(data: bytes) -> str:
    if b"!" in data:
        raise ValueError(f"a bug shows in {data!r}")
    if data[:1] == b"a":
        raise DecodeError("letter")
    return TAKEN


@pytest.mark.slow
def test_a_finding_is_told_once_with_its_least_input() -> None:
    target = Target(name="planted", seeds=lambda: (b"good!", b"good", b"all"), check=_check)
    tally = fuzz.run((target,), 0.01, 7)["planted"]
    assert tally.inputs == tally.outcomes.total() > 0
    assert [finding.reproducer for finding in tally.findings if "ValueError" in finding.error] == [b"!"]
    assert len(tally.findings) == 2  # a DecodeError that leaves a check is one too
    assert str(tally.findings[0]).splitlines()[1].split() == ["--replay", "planted", tally.findings[0].reproducer.hex()]


def test_a_decoder_may_refuse_in_one_way_alone() -> None:
    target = decoder("d", lambda: (b"x",), _check)
    assert [target.check(data) for data in (b"x", b"a")] == [TAKEN, "letter"]
    assert isinstance(fuzz.attempt(target, b"!"), fuzz.Finding)


@pytest.mark.slow
def test_the_command_gives_its_result_as_an_object() -> None:
    command = [
        sys.executable,
        str(Path(fuzz.__file__)),
        "--minutes",
        "0.01",
        "--seed",
        "3",
        "--only",
        "topic",
        "--json",
    ]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert (result["seed"], result["findings"], result["found"]) == (3, 0, [])
    assert result["inputs"] == result["targets"]["topic"]["inputs"] > 0
    replayed = subprocess.run(
        [sys.executable, str(Path(fuzz.__file__)), "--replay", "topic", b"x/y".hex()],
        check=True,
        capture_output=True,
        text=True,
    )
    assert replayed.stdout == "topic\n"
