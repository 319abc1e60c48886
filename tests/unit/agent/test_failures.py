from __future__ import annotations

import io
import json

import pytest
import trio
import trio.testing

from edgeice.agent.failures import Failures
from edgeice.agent.log import Log


def raised(error: Exception) -> Exception:
    try:
        raise error  # noqa: TRY301  # to be caught here
    except Exception as caught:  # noqa: BLE001  # for its traceback
        return caught


class Written:
    def __init__(self, *, as_json: bool = True) -> None:
        self.stream = io.StringIO()
        self.failures = Failures(Log(as_json=as_json, stream=self.stream, wall=lambda: 0.0))

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


async def test_a_defect_is_one_line_with_its_traceback() -> None:
    written = Written()
    written.failures.note("session", raised(ValueError("no\nway")), sid="s1")
    (line,) = written.lines()
    assert (line["event"], line["sid"], line["error"]) == ("session-failed", "s1", "ValueError: no\nway")
    text = str(line["traceback"])
    assert text.startswith("Traceback (most recent call last):\n")
    assert "in raised\n" in text
    assert "unwritten" not in {name for name, value in line.items() if value is not None}
    assert written.failures.snapshot() == {"session": 1}


async def test_of_a_group_with_one_member_the_member_is_shown() -> None:
    written = Written()
    inner = ExceptionGroup("inner", [raised(KeyError("x"))])
    written.failures.note("channel", raised(ExceptionGroup("outer", [inner])))
    written.failures.note("channel", raised(ExceptionGroup("two", [ValueError("a"), TypeError("b")])))
    one, two = written.lines()
    assert one["error"] == "KeyError: 'x'"
    assert "ExceptionGroup" not in str(one["traceback"])
    assert "ValueError: a" in str(two["traceback"])
    assert "TypeError: b" in str(two["traceback"])


@pytest.mark.parametrize("as_json", [True, False])
async def test_of_a_long_traceback_the_end_is_written(*, as_json: bool) -> None:
    written = Written(as_json=as_json)
    written.failures.note("session", raised(ValueError("x" * 20_000 + " the end")))
    line = written.stream.getvalue()
    assert line.count("\n") == 1
    assert "xx the end" in line
    assert len(line) < (30_000 if as_json else 9_000)


async def test_twenty_a_minute_are_written_and_all_counted(autojump_clock: trio.testing.MockClock) -> None:
    written = Written()
    for _ in range(50):
        written.failures.note("signaling", raised(ValueError("again")))
    assert len(written.lines()) == 20
    assert written.failures.snapshot() == {"signaling": 50}
    await trio.sleep(60)
    written.failures.note("signaling", raised(ValueError("again")))
    assert len(written.lines()) == 21
    assert written.lines()[-1]["unwritten"] == 30
