"""What holds for all tests."""

from __future__ import annotations

import signal

import hypothesis

# A shell starts what it puts in the background with SIGINT ignored, and programs that the tests start would inherit
# that: tests of ^C must not depend on how the tests were started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in each run, and none of them judged by how busy the machine is.
hypothesis.settings.register_profile("edgeice", deadline=None, derandomize=True)
hypothesis.settings.load_profile("edgeice")
