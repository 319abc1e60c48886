from __future__ import annotations

import signal

import pytest

from edgeice.services.signals import ExitStatus, signal_name, signal_number


def test_names_and_numbers() -> None:
    assert signal_number("TERM") == 15
    assert signal_number("INT") == 2
    for unknown in ("SIGTERM", "term", "", "CHLD", "RTMIN", "__class__"):
        assert signal_number(unknown) is None
    assert signal_name(15) == "TERM"
    assert signal_name(signal.SIGRTMIN + 3) == "RTMIN+3"
    assert signal_name(120) == "SIG120"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (ExitStatus(code=0), 0),
        (ExitStatus(code=255), 255),
        (ExitStatus(signal="KILL"), 137),
        (ExitStatus(signal="BUS"), 128 + signal.SIGBUS),
        (ExitStatus(signal="RTMIN+3"), 128 + signal.SIGRTMIN + 3),
        (ExitStatus(signal="NONSENSE"), 255),
    ],
)
def test_a_status_as_a_shell_gives_it(status: ExitStatus, code: int) -> None:
    assert status.as_code() == code
