"""`python -m tests.agent.job ARG…`: `edgeice ARG…` as a shell's job that is resumed whenever it stops.

Says "job started", and "stopped, canonical: True" or False with the terminal's mode when it stops; waits for a line
before it resumes the job, and ends with its status.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import termios


def give_terminal_to(group: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    os.tcsetpgrp(0, group)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTTOU})


if __name__ == "__main__":
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        give_terminal_to(os.getpgrp())
        os.execv(sys.executable, [sys.executable, "-m", "edgeice.cli.main", *sys.argv[1:]])
    sys.stdout.write("job started\n")
    while True:
        _pid, status = os.waitpid(child, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            sys.exit(os.waitstatus_to_exitcode(status))
        give_terminal_to(os.getpgrp())
        canonical = bool(termios.tcgetattr(0)[3] & termios.ICANON)
        sys.stdout.write(f"stopped, canonical: {canonical}\n")
        sys.stdout.flush()
        sys.stdin.readline()
        give_terminal_to(child)
        os.killpg(child, signal.SIGCONT)
