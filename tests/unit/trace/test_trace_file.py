"""Traces in a file: a JSON object a line, bounded, and never in the way."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from edgeice import __version__
from edgeice.errors import ConfigError
from edgeice.redaction import Pseudonyms
from edgeice.trace import Record
from edgeice.trace_file import TraceFile

BEGAN = {"at": 5.0, "layer": "trace", "name": "began", "version": __version__, "time": 1000.0}


def make(path: Path, **options: object) -> TraceFile:
    return TraceFile(path, wall=lambda: 1000.0, clock=lambda: 5.0, **options)  # type: ignore[arg-type]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(number: int = 0) -> Record:
    return Record(6.0, "ice", "check_sent", {"session": 1, "path": "8.8.8.8:1->10.0.0.1:2", "number": number})


def test_a_line_for_each_record_behind_one_that_tells_the_time(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with make(path) as file:
        file.write(check())
        file.write(Record(7.0, "ice", "x", {"pwd": "hush", "text": "ü\n\ud800"}))
    assert lines(path) == [
        BEGAN,
        {"at": 6.0, "layer": "ice", "name": "check_sent", "session": 1, "path": "8.8.8.8:1->10.0.0.1:2", "number": 0},
        {"at": 7.0, "layer": "ice", "name": "x", "pwd": "[secret]", "text": "ü\n\ud800"},
    ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_addresses_are_redacted_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    pseudonyms = Pseudonyms()
    with make(path, pseudonyms=pseudonyms) as file:
        file.write(check())
    assert lines(path)[1]["path"] == "ip4-global-1:1->ip4-private-1:2"
    assert pseudonyms.text("10.0.0.1") == "ip4-private-1"  # as elsewhere in this run


def test_another_run_appends(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    for _ in range(2):
        with make(path) as file:
            file.write(check())
    assert [line["name"] for line in lines(path)] == ["began", "check_sent"] * 2


def test_a_full_file_makes_room_and_keeps_the_one_before_it(tmp_path: Path) -> None:
    path, older = tmp_path / "trace", tmp_path / "trace.1"
    with make(path, size=1000) as file:
        for number in range(100):
            file.write(check(number))
            assert path.stat().st_size < 1000
        assert 1000 <= older.stat().st_size < 1200
    newest = [line["number"] for line in [*lines(older), *lines(path)] if "number" in line]
    assert newest == list(range(100 - len(newest), 100))
    assert lines(older)[0] == lines(path)[0] == BEGAN
    assert sorted(each.name for each in tmp_path.iterdir()) == ["trace", "trace.1"]


def test_what_is_no_file_of_its_own_is_only_written_to(tmp_path: Path) -> None:
    with make(Path("/dev/null"), size=1) as file:
        file.write(check())
        file.write(check())
    assert Path("/dev/null").is_char_device()


def test_a_full_disk_ends_the_trace_and_nothing_else() -> None:
    said: list[OSError] = []
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
        make(Path("/dev/full"))
    assert said == []


def test_a_file_that_cannot_be_moved_ends_the_trace_and_says_so_once(tmp_path: Path) -> None:
    said: list[OSError] = []
    path = tmp_path / "trace"
    (tmp_path / "trace.1").mkdir()  # in the way
    with make(path, size=300, on_failure=said.append) as file:
        for _ in range(10):
            file.write(check())
    assert [error.errno for error in said] == [errno.EISDIR]
    assert lines(path)[0] == BEGAN


def test_a_place_where_nothing_can_be_written_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/none/trace: cannot be written: No such file or directory"):
        make(tmp_path / "none" / "trace")
