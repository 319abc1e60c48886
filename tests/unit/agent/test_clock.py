"""Whether the clock is known to be right."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import pytest

from edgeice.agent.clock import kernel_says_synchronized, synchronized, wall_clock

#: ntp_gettime(3)'s answer where the clock is not synchronized.
TIME_ERROR = 5


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("marker", [True, False])
def test_either_sign_is_enough(tmp_path: Path, *, kernel: bool, marker: bool) -> None:
    path = tmp_path / "synchronized"
    if marker:
        path.touch()
    assert synchronized(path, lambda: kernel) is (kernel or marker)


def test_the_kernel_is_read_as_the_c_library_reads_it() -> None:
    state = ctypes.CDLL(None).ntp_gettime(ctypes.create_string_buffer(512))
    assert kernel_says_synchronized() is (0 <= state < TIME_ERROR)


def test_the_clock_is_told_only_where_it_is_known_to_be_right() -> None:
    told = wall_clock()
    assert (told is not None) is synchronized()
    assert told is None or abs(told - time.time()) < 2
