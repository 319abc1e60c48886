"""`python -m tests.agent.controlling ARG…`: `edgeice ARG…` with standard input for its controlling terminal."""

from __future__ import annotations

import fcntl
import os
import sys
import termios

if __name__ == "__main__":
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.execv(sys.executable, [sys.executable, "-m", "edgeice.cli.main", *sys.argv[1:]])
