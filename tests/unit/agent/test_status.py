"""The agent's local socket."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from edgeice.agent.status import ask_status, open_status_socket, serve_status
from edgeice.errors import ConfigError


def snapshot() -> dict[str, object]:
    return {"sessions": []}


@pytest.mark.parametrize("name", ["short", "n" * 120], ids=["short", "longer-than-sun_path"])
async def test_status_is_answered_in_folders_of_any_length(tmp_path: Path, name: str, nursery: trio.Nursery) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = folder / "agent.sock"
    with open_status_socket(path) as listener:
        nursery.start_soon(serve_status, listener, snapshot)
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
