"""What holds for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import hypothesis
import pytest

# A shell starts what it puts in the background with SIGINT ignored, and programs that the tests start would inherit
# that: tests of ^C must not depend on how the tests were started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in each run, and none of them judged by how busy the machine is.
hypothesis.settings.register_profile("edgeice", deadline=None, derandomize=True)
hypothesis.settings.load_profile("edgeice")

#: Set by tests/run where it has installed everything: a test that is left out then is a defect, be it the machine's.
ALL_TESTS = bool(os.environ.get("EDGEICE_ALL_TESTS"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail what is skipped where nothing may be."""
    report = yield
    if ALL_TESTS and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}\nEDGEICE_ALL_TESTS is set, so no test may be left out; empty it to allow that."
    return report
