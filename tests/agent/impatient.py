"""`python -m tests.agent.impatient ARG…`: as tests.agent.controlling, but a second without an answer is silence."""

from __future__ import annotations

import fcntl
import termios

from edgeice.cli.main import main
from edgeice.operator import path, silence

if __name__ == "__main__":
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    silence.SILENCE = path.SILENCE = 1.0  # type: ignore[misc,attr-defined]  # for nobody else
    main()
