"""Signals by name, and how a process ended."""

from __future__ import annotations

import signal

import attrs

__all__ = ["ExitStatus", "signal_name", "signal_number"]

#: What a peer may send: the names of RFC 4254 §6.10, and job control.
_SENDABLE = frozenset(
    {"ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2"}
    | {"CONT", "STOP", "TSTP", "WINCH"}
)


def signal_number(name: str) -> int | None:
    """The number of a signal that may be sent by `name` (`TERM`, without `SIG`), None if there is no such signal."""
    return signal.Signals[f"SIG{name}"].value if name in _SENDABLE else None


def signal_name(number: int) -> str:
    """The name of any signal without `SIG`; real-time signals are `RTMIN+n`."""
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"RTMIN+{number - signal.SIGRTMIN}"
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return f"SIG{number}"


@attrs.frozen
class ExitStatus:
    """How a process ended: by itself with `code`, or by the signal called `signal`.  Exactly one is set."""

    code: int | None = None
    signal: str | None = None

    def as_code(self) -> int:
        """The status as a shell reports it: 128 + N for signal N, 255 for a signal that has no number here."""
        if self.code is not None:
            return self.code
        numbers = (number for number in range(1, signal.NSIG) if signal_name(number) == self.signal)
        return 128 + next(numbers, 127)
