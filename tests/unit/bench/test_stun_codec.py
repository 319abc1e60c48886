"""The STUN benchmark runs and prints what it promises; its figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "bench" / "stun_codec.py"


def run(*arguments: str) -> list[str]:
    command = [sys.executable, str(SCRIPT), "--rounds", "1", "--calls", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()


def test_the_last_line_is_one_json_object() -> None:
    *lines, last = run("--json")
    assert len(lines) == 2
    figures = json.loads(last)
    assert set(figures) == {"parse_verify_us", "build_us", "aioice_parse_verify_us", "aioice_build_us"}
    assert all(value > 0 for value in figures.values())


def test_without_json_there_are_only_lines_for_people() -> None:
    lines = run()
    assert [line.split("  ")[0] for line in lines] == ["build", "parse + verify"]
    assert all("aioice" in line for line in lines)
