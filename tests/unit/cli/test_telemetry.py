"""How `edgeice telemetry` shows things."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeice.cli.commands import cli
from edgeice.cli.telemetry import _JsonScreen, _Screen
from edgeice.cli.telemetry_table import MOST_SERIES, Table, fit, format_gap, format_name, format_value
from edgeice.services.telemetry.client import Gap, Row, Samples


def samples(*rows: tuple[float, str, float | str | bool], stream: str = "system", tag: str = "") -> Samples:
    tags = {"interface": tag} if tag else {}
    return Samples(stream, "c", tuple(Row(t, name, value, tags) for t, name, value in rows))


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("a_bytes", 0, "0 B"),
        ("a_bytes", 1023, "1023 B"),
        ("a_bytes", 1536, "1.5 KiB"),
        ("a_bytes", 3 * 2**30, "3.0 GiB"),
        ("a_bytes", 2**75, "32768.0 EiB"),
        ("a_percent", 12.5, "12.5 %"),
        ("a_celsius", 48.0, "48 °C"),
        ("a_dbm", -52.0, "-52 dBm"),
        ("a_seconds", 0.25, "0.25 s"),
        ("a_seconds", 61, "1 min 1 s"),
        ("a_seconds", 7300, "2 h 1 min"),
        ("a_seconds", 90000.5, "1 d 1 h"),
        ("a_seconds", -5, "-5 s"),
        ("a_seconds", 1e300, "1e+300 s"),
        ("a", 5, "5"),
        ("a", 1 / 3, "0.333333"),
        ("a", True, "yes"),
        ("a_bytes", False, "no"),
        ("a", "text", "text"),
    ],
)
def test_values_have_the_unit_of_their_name(name: str, value: float | str | bool, shown: str) -> None:
    assert format_value(name, value) == shown


def test_names_and_gaps() -> None:
    assert format_name("net.rx_bytes", {"interface": "eth0"}) == "net.rx_bytes eth0"
    assert format_gap(Gap("system", 1)) == "system: 1 sample lost"
    assert format_gap(Gap("local", 12)) == "local: 12 rows lost"
    assert format_gap(Gap("local", None)) == "local: rows were lost, nobody knows how many"


#: What a device may tell: it clears a screen, forges a line and rings a bell.
HOSTILE = Samples("\x9b", "c", (Row(1.0, "\x1b[2J", "line1\nline2\tTab", {"\r": "\x07"}),))


def test_text_in_a_table_is_safe_for_a_terminal() -> None:
    table = Table("pi")
    table.take(HOSTILE, now=0)
    table.note(format_gap(Gap("\x9b", 2)))
    lines = table.lines(80, 24, now=0)
    assert lines[2].split() == ["?[2J", "?", "line1?line2?Tab", "0", "s"]
    assert lines[3].endswith(" ?: 2 rows lost")
    assert all(line.isprintable() for line in lines)


async def test_text_in_lines_is_safe_for_a_terminal(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    screen = _Screen(quiet=False)
    await screen.show(HOSTILE)
    await screen.show(Gap("\x9b", 2))
    shown = capfdbinary.readouterr()
    assert shown.out.endswith(b"  ?[2J ?  line1?line2?Tab\n")
    assert shown.out.count(b"\n") == 1
    assert shown.err == b"edgeice: ?: 2 rows lost\n"


async def test_json_carries_text_whole_and_in_printable_letters(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    screen = _JsonScreen(quiet=True)
    await screen.show(HOSTILE)
    await screen.show(Gap("\x9b", 2))
    out = capfdbinary.readouterr().out.decode("ascii")
    samples, gap = out.splitlines()
    assert samples.isprintable()
    assert gap.isprintable()
    row = {"t": 1.0, "name": "\x1b[2J", "value": "line1\nline2\tTab", "tags": {"\r": "\x07"}}
    assert json.loads(samples) == {"stream": "\x9b", **row}
    assert json.loads(gap) == {"stream": "\x9b", "lost": 2}


def test_a_table_has_least_most_age_and_trend() -> None:
    table = Table("pi")
    for t, value in enumerate((10.0, 30.0, 20.0)):
        table.take(samples((t, "cpu.busy_percent", value), (t, "power.throttled", True)), now=100 + t)
    assert table.lines(80, 24, now=105.0) == [
        "pi",
        "NAME              VALUE   MIN   MAX  AGE  TREND",
        "cpu.busy_percent   20 %  10 %  30 %  3 s  ▁█▅",
        "power.throttled     yes              3 s",
    ]


def test_alarms_that_are_off_are_not_in_the_table() -> None:
    table = Table("pi")
    table.take(samples((0, "power.throttled", False), (0, "power.under_voltage", True)), now=0)
    table.take(samples((0, "door.open", False), stream="local"), now=0)
    assert [line.split()[:2] for line in table.lines(80, 24, now=0)[2:]] == [
        ["power.under_voltage", "yes"],
        ["door.open", "no"],
    ]


def test_numbers_at_the_end_of_what_there_is() -> None:
    table = Table("pi")
    for t, value in enumerate((-1.7e308, 1.7e308, 0.0, 5e-324)):
        table.take(samples((t, "n", value), stream="local"), now=0)
        table.take(samples((t * 1e-300, "net.rx_bytes", abs(value) + t)), now=0)
    assert table.lines(200, 24, now=0)[2].split()[-1] == "▁█▅▅"
    assert len(table.lines(80, 24, now=0)) == 4


def test_counters_show_how_fast_they_grow_and_none_that_is_zero() -> None:
    table = Table("pi")
    for t, value in ((0, 1000), (2, 3048), (3, 3048), (4, 5), (5, 6)):  # it began anew at 4
        table.take(samples((t, "net.rx_bytes", value), (t, "net.rx_errors", 0), tag="eth0"), now=t)
    (line,) = table.lines(80, 24, now=5.0)[2:]
    assert line.split("  ") == ["net.rx_bytes eth0", "1 B/s", "6 B", "0 B", "1.0 KiB", "0 s", "█▁▁"]


def test_a_table_is_cut_to_the_terminal() -> None:
    table = Table("pi")
    table.take(samples(*((0, f"value {number}", number) for number in range(50))), now=0)
    table.note("local: 3 rows lost")
    lines = table.lines(20, 10, now=0)
    assert len(lines) == 9
    assert all(len(line) <= 20 for line in lines)
    assert lines[-2].startswith("… 45 more; make the"[:19])
    assert lines[-1].endswith("…")
    assert len(table.lines(1, 1, now=0)) <= 5


def test_long_names_and_texts_leave_room_for_the_others() -> None:
    table = Table("pi")
    table.take(samples((0, "n" * 128, "x" * 1024), (0, "a", 5), stream="local"), now=0)
    long, short = table.lines(200, 24, now=0)[2:]
    assert long == f"{'n' * 47}…  {'x' * 31}…            0 s"
    assert short == f"a{' ' * 47}  {' ' * 31}5    5    5  0 s"


def test_only_the_last_notes_stay() -> None:
    table = Table("pi")
    for number in range(5):
        table.note(str(number))
    assert [line[9:] for line in table.lines(80, 24, now=0)[2:]] == ["2", "3", "4"]


def test_a_table_is_bounded() -> None:
    table = Table("pi")
    for number in range(MOST_SERIES + 20):
        table.take(samples((0, f"n{number}", 1), stream="local"), now=number)
    lines = table.lines(200, 10000, now=0)
    assert len(lines) == 2 + MOST_SERIES + 1
    assert lines[2].startswith("n20 ")
    assert lines[-1] == f"more than {MOST_SERIES} values: 20 were forgotten; --json has them all"


def test_wide_letters_take_two_columns() -> None:
    assert fit("温度温度", 5) == "温度…"
    assert fit("温度温度", 8) == "温度温度"
    table = Table("pi")
    table.take(samples((0, "温度", 1), (0, "abcd", 2), (0, "e\u0301", 3), stream="local"), now=0)
    assert [line.index(value) for line, value in zip(table.lines(80, 24, now=0)[2:], "123", strict=True)] == [8, 10, 11]


def test_once_and_count_exclude_each_other(tmp_path: Path) -> None:
    config = tmp_path / "operator.toml"
    config.write_text('fleet = "home"\noperator = "a"\n[broker]\nurl = "mqtt://127.0.0.1:1"\n')
    done = CliRunner().invoke(cli, ["telemetry", "pi", "--once", "-c", "2", "--config", str(config)])
    assert done.exit_code == 2
    assert "--once and --count exclude each other." in done.output


def test_the_shell_completes_streams() -> None:
    asked = {"_EDGEICE_COMPLETE": "bash_complete", "COMP_WORDS": "edgeice telemetry pi s", "COMP_CWORD": "3"}
    done = CliRunner().invoke(cli, [], prog_name="edgeice", env=asked)
    assert done.output == "plain,system\n"


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x"])
def test_intervals_that_are_none(value: str) -> None:
    done = CliRunner().invoke(cli, ["telemetry", "pi", "--interval", value])
    assert done.exit_code == 2
    assert "--interval" in done.output


@pytest.mark.parametrize("value", ["0.01", "0.0999", "3600.1", "5000"])
def test_intervals_that_no_device_keeps(value: str) -> None:
    done = CliRunner().invoke(cli, ["telemetry", "pi", "--interval", value])
    assert done.exit_code == 2
    assert f"Invalid value for '-i' / '--interval': {float(value)} is not in the range 0.1<=x<=3600." in done.output
