"""Memory that goes back to the device."""

from __future__ import annotations

import gc
import platform
import random
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from edgeice.agent.memory import release_memory, release_memory_after, set_aside

_MIB = 1 << 20


def resident() -> int:
    """Bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed")
def test_what_was_freed_between_what_lives_on_goes_back() -> None:
    dice = random.Random(1)
    taken, living = list[bytes](), list[bytes]()
    for _ in range(2_000):
        # Below what glibc takes from the system piece by piece, above what Python allocates itself.
        taken.append(bytes([1]) * dice.randint(5_000, 60_000))
        living.append(bytes([1]) * 600)
    size, most = sum(map(len, taken)), resident()
    assert size > 50 * _MIB
    taken.clear()
    before = resident()
    assert most - before < size / 10
    release_memory()
    assert before - resident() > size / 2
    assert len(living) == 2_000


async def test_each_end_releases_once_it_has_settled(autojump_clock: MockClock) -> None:
    ended, released = trio.lowlevel.ParkingLot(), list[float]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(release_memory_after, ended.park, lambda: released.append(trio.current_time()))
        begun = trio.current_time()
        for at in (1.0, 2.0, 3.0, 60.0):
            await trio.sleep_until(begun + at)
            ended.unpark_all()
        await trio.sleep_until(begun + 100)
        nursery.cancel_scope.cancel()
    assert [at - begun for at in released] == [6.0, 65.0]


def test_what_only_refers_to_itself_is_freed() -> None:
    class Cycle:
        pass

    cycle = Cycle()
    cycle.me = cycle  # type: ignore[attr-defined]  # what makes it one
    gone = weakref.ref(cycle)
    was_on = gc.isenabled()
    gc.disable()
    try:
        del cycle
        assert gone() is not None
        release_memory()
        assert gone() is None
    finally:
        if was_on:
            gc.enable()


def test_what_is_set_aside_is_not_looked_at() -> None:
    try:
        set_aside()
        assert gc.get_freeze_count() > 10_000
        assert len(gc.get_objects()) < 1_000
    finally:
        gc.unfreeze()


_BY_A_THREAD = """
import sys, threading
from edgeice.agent.memory import share_one_heap
if sys.argv[1] == "shared":
    share_one_heap()
def work():
    global taken
    taken = bytes([1]) * 100_000  # below what comes from the system by itself
thread = threading.Thread(target=work)
thread.start()
thread.join()
(heap,) = (line.split()[0] for line in open("/proc/self/maps") if line.endswith("[heap]\\n"))
first, last = (int(end, 16) for end in heap.split("-"))
print(first <= id(taken) < last)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives threads heaps of their own")
@pytest.mark.parametrize(("way", "inside"), [("shared", "True"), ("as ever", "False")])
def test_threads_allocate_in_the_one_heap(way: str, inside: str) -> None:
    command = [sys.executable, "-c", _BY_A_THREAD, way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == inside
