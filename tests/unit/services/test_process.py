from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from edgeice.services.process import Descriptor


async def test_after_the_end_no_more_is_read_than_the_buffer_held(nursery: trio.Nursery) -> None:
    """A child in the background may hold the other end, and write for ever."""
    reading, writing = os.pipe()
    descriptor = Descriptor(reading)
    os.set_blocking(writing, False)
    capacity = os.write(writing, bytes(1 << 20))
    descriptor.finish()
    total = 0
    while data := await descriptor.read(4096):
        total += len(data)
        os.write(writing, data)
    assert total == capacity
    descriptor.close()
    os.close(writing)


@pytest.mark.parametrize("how", ["finish", "close"])
async def test_a_waiting_reader_is_woken(how: str) -> None:
    reading, writing = os.pipe()
    descriptor = Descriptor(reading)
    got: list[bytes] = []

    async def read() -> None:
        got.append(await descriptor.read(10))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            if how == "finish":
                os.write(writing, b"last")
            getattr(descriptor, how)()
    assert got == [b"last" if how == "finish" else b""]
    assert await descriptor.read(10) == b""
    descriptor.close()
    os.close(writing)
    assert descriptor.fd == -1
