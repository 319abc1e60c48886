"""Fixtures of the services' tests, and the check that none of them leaks a descriptor or a child."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from edgeice.services.account import Account
from tests.support.device import Device

# Python 3.12 warns where a process with threads forks; spawner.py says why that is safe there.
FORK_WARNING = "ignore:.*multi-threaded.*fork:DeprecationWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.filterwarnings(FORK_WARNING))


def _children() -> set[str]:
    """The children of this process, zombies included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                found.add(stat.parent.name)
    return found


def _fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Every test ends with no descriptor more than it began with, and with the same children.

    Fewer there may be: what an earlier test of the process left to the garbage collector.
    """
    fds, children = _fds(), _children()
    yield
    assert _fds() <= fds
    assert _children() == children


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the user that processes run as, whose shell is /bin/sh: no start-up file of a real user runs."""
    account = Account(name="tester", home=str(tmp_path), shell="/bin/sh", uid=os.geteuid(), gid=os.getegid())
    monkeypatch.setattr(Account, "of", lambda _user: account)
    return tmp_path


@pytest.fixture
def device(home: Path, nursery: trio.Nursery) -> Device:
    return Device(nursery)
