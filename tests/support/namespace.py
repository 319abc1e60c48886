"""A network namespace of the test's own, for what only root can set up."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

_CLONE_NEWNET = 0x40000000


def ip(*arguments: str) -> None:
    """Configure the present namespace with iproute2."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def fresh_network_namespace() -> Iterator[None]:
    """Put the calling thread into an empty network namespace; it is gone with the last socket inside.

    Skips the test where that is not allowed.  Worker threads started inside would stay inside: use none.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root to make a network namespace")
    if shutil.which("ip") is None:
        pytest.skip("needs ip(8) of iproute2")
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(_CLONE_NEWNET) != 0:
            pytest.skip(f"the kernel makes no network namespace: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            assert libc.setns(home, _CLONE_NEWNET) == 0
    finally:
        os.close(home)
