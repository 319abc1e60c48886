"""README's examples run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(("index", "output"), [(0, "b'hello'\n"), (1, "chat hello\n")])
def test_example_prints_what_was_sent(index: int, output: str) -> None:
    command = [sys.executable, "-c", EXAMPLES[index]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (0, output), done.stderr


def test_there_are_two_examples_of_about_ten_lines() -> None:
    lines = [len([line for line in example.splitlines() if line.strip()]) for example in EXAMPLES]
    assert len(lines) == 2
    assert max(lines) <= 16
