from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import contextlib, os, pty, select, sys, tty
from edgeice.cli.stdio import say_aside
reading, writing = pty.openpty() if "terminal" in sys.argv else os.pipe()
if "terminal" in sys.argv:
    tty.setraw(writing)
if "full" in sys.argv:
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    if "nearly" in sys.argv:
        os.read(reading, 4)
        assert select.select((), (writing,), (), 1)[1]
    os.set_blocking(writing, True)
if "gone" in sys.argv:
    os.close(reading)
os.dup2(writing, 2)
say_aside("pi17: no answer" * (1000 if "nearly" in sys.argv else 1))
print(repr(os.read(reading, 100)) if not {"gone", "full"} & set(sys.argv) else "went on")
os.dup2(1, 2)  # so that nothing is left to be flushed there
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("pipe", r"b'edgeice: pi17: no answer\n'"),
        ("terminal", r"b'\r\nedgeice: pi17: no answer\r\n'"),
        ("pipe full", "went on"),
        ("terminal full", "went on"),
        ("terminal nearly full", "went on"),
        ("terminal gone", "went on"),
    ],
)
def test_what_is_said_beside_a_service_never_waits(how: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *how.split()], capture_output=True, text=True, check=False, timeout=10
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{said}\n", "")
