"""The agent's local socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from edgeice.agent.status import ask_status, open_status_socket, serve_status
from edgeice.errors import ConfigError
from edgeice.sansio import DropCounter


def snapshot() -> dict[str, object]:
    return {"sessions": []}


@pytest.mark.parametrize("name", ["short", "n" * 120], ids=["short", "longer-than-sun_path"])
async def test_status_is_answered_in_folders_of_any_length(tmp_path: Path, name: str, nursery: trio.Nursery) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = folder / "agent.sock"
    with open_status_socket(path) as listener:
        nursery.start_soon(serve_status, listener, snapshot, DropCounter())
        assert await ask_status(path) == {"sessions": []}
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(ConfigError, match="another agent runs here"):
            open_status_socket(path)
        nursery.cancel_scope.cancel()


def test_a_socket_that_nobody_serves_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    open_status_socket(path).close()
    open_status_socket(path).close()


@pytest.mark.parametrize("name", ["missing/agent.sock", f"{'n' * 120}/agent.sock"])
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"agent\.sock: cannot listen there: No such file or directory"):
        open_status_socket(tmp_path / name)


@asynccontextmanager
async def served(folder: Path, answer: dict[str, object]) -> AsyncIterator[tuple[Path, DropCounter]]:
    path, drops = folder / "agent.sock", DropCounter()
    with open_status_socket(path) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_status, listener, lambda: answer, drops)
            yield path, drops
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("garbage", [b"\n", b"GET / HTTP/1.1\r\n\r\n", bytes(1 << 20)], ids=["short", "http", "long"])
async def test_who_says_something_is_answered_and_counted(tmp_path: Path, garbage: bytes) -> None:
    async with served(tmp_path, snapshot()) as (path, drops):
        async with await trio.open_unix_socket(path) as stream, trio.open_nursery() as nursery:

            async def say() -> None:
                with suppress(trio.BrokenResourceError):  # it closes without reading all of it
                    await stream.send_all(garbage)

            nursery.start_soon(say)
            assert await stream.receive_some() == b'{"sessions": []}\n'
        assert await ask_status(path) == snapshot()
        assert drops.snapshot() == {"unasked": 1}


async def test_clients_that_stay_hold_the_others_up_for_a_moment_only(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with served(tmp_path, snapshot()) as (path, drops), AsyncExitStack() as staying:
        for _ in range(64):
            await staying.enter_async_context(await trio.open_unix_socket(path))
        began = trio.current_time()
        assert await ask_status(path) == snapshot()
        assert trio.current_time() - began == 4  # 64 of them, 16 at a time, for a second each
        assert drops.total == 0


async def test_a_client_that_reads_nothing_is_left(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with served(tmp_path, {"sessions": ["x" * (1 << 22)]}) as (path, _drops):
        async with await trio.open_unix_socket(path) as stream:
            await trio.sleep(6)
            data = b"".join([chunk async for chunk in stream])
        assert 0 < len(data) < 1 << 22
