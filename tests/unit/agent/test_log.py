from __future__ import annotations

import io
import json

import pytest

from edgeice.agent.log import Log


def make(**options: object) -> tuple[Log, io.StringIO]:
    stream = io.StringIO()
    return Log(stream=stream, wall=lambda: 12.3456, **options), stream  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "opened\n"),
        ({"path": "host", "n": 3, "none": None}, "opened path=host n=3\n"),
        ({"reason": "two words"}, 'opened reason="two words"\n'),
        ({"empty": ""}, 'opened empty=""\n'),
        ({"forged": "x\nevent=evil"}, 'opened forged="x\\nevent=evil"\n'),
        ({"quote": 'a"b'}, 'opened quote="a\\"b"\n'),
        ({"escape": "\x1b[2J"}, 'opened escape="\\u001b[2J"\n'),
    ],
)
def test_one_event_a_line_and_no_value_can_forge_another(fields: dict[str, object], line: str) -> None:
    log, stream = make()
    log.info("opened", **fields)
    assert stream.getvalue() == line


def test_long_values_are_cut() -> None:
    log, stream = make()
    log.info("x", value="y" * 10_000)
    assert stream.getvalue() == "x value=" + "y" * 500 + "\n"


def test_json_lines() -> None:
    log, stream = make(as_json=True)
    log.error("broke", why="a\nb")
    assert json.loads(stream.getvalue()) == {"time": 12.346, "level": "error", "event": "broke", "why": "a\nb"}
    assert stream.getvalue().count("\n") == 1


def test_levels_and_journald_prefix() -> None:
    log, stream = make(level="warning", prefix=True)
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert stream.getvalue() == "<4>c\n<3>d\n"
