from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from edgeice.agent.log import Log, goes_to_journal, trace_to
from edgeice.trace import Record


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
        ({"pairs": [{"rtt": None}], "phases": {}}, 'opened pairs="[{\\"rtt\\":null}]" phases={}\n'),
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


def test_levels_are_for_the_journal_alone(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w") as stream, (tmp_path / "file").open("w") as other:
        status = (tmp_path / "journal").stat()
        environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert goes_to_journal(environment, stream.fileno())
        # Redirected by somebody who inherited the variable.
        assert not goes_to_journal(environment, other.fileno())
        assert not goes_to_journal({}, stream.fileno())
        closed = other.fileno()
    assert not goes_to_journal(environment, closed)


def test_traces_hold_addresses_but_no_secrets() -> None:
    log, stream = make(level="debug")
    fields = {"event": "x", "pwd": "hush", "path": "192.0.2.1:5"}
    trace_to(log)(Record(1.0, "ice", "checked", fields))
    assert stream.getvalue() == "ice.checked event=x pwd=[secret] path=192.0.2.1:5\n"
