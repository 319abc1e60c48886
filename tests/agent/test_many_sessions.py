"""Sessions that one operator opens all at once, as parallel ssh does."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from edgeice.operator.errors import OperatorError
from edgeice.operator.interface import Step
from tests.agent.conftest import Fleet
from tests.agent.kit import PATIENCE, AgentProcess, Device, Operator
from tests.agent.sessions import session_with

pytestmark = pytest.mark.slow

_AT_ONCE = 20


class _Crowd:
    """Opens sessions at once, and keeps those that are up until all are up or were refused."""

    def __init__(self, device: Device, operator: Operator, timeout: float) -> None:
        self._device, self._operator, self._timeout = device, operator, timeout
        self.up = 0
        self.errors: list[OperatorError] = []
        self.notices: set[str] = set()
        self._all = trio.Event()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(_AT_ONCE):
                nursery.start_soon(self._one)

    async def _one(self) -> None:
        try:
            async with session_with(
                self._device, self._operator, "exec", watch=self._watch, timeout=self._timeout
            ) as session:
                assert session.peer.ended is None
                self.up += 1
                self._look()
                await self._all.wait()
        except* OperatorError as group:
            (error,) = group.exceptions
            assert isinstance(error, OperatorError)
            self.errors.append(error)
            self._look()

    def _look(self) -> None:
        if self.up + len(self.errors) == _AT_ONCE:
            self._all.set()

    def _watch(self, step: Step) -> None:
        if step.name == "notice":
            self.notices.add(step.text)


async def _crowd(fleet: Fleet, folder: Path, sessions: int, patience: float) -> _Crowd:
    device = Device(folder / "crowded", fleet.url, "crowded", extra=f"[limits]\nsessions = {sessions}\n")
    operator = Operator(folder / "alice", fleet.url)
    device.trust(operator)
    operator.pin(device)
    crowd = _Crowd(device, operator, patience)
    with AgentProcess(device) as agent, trio.fail_after(2 * PATIENCE):
        await agent.wait_log("^announced ")
        await crowd.run()
    return crowd


async def test_twenty_sessions_at_once_all_come_up(fleet: Fleet, tmp_path: Path) -> None:
    crowd = await _crowd(fleet, tmp_path, 24, PATIENCE)
    assert (crowd.up, crowd.errors) == (_AT_ONCE, [])


async def test_those_for_which_there_is_no_session_are_told_so_when_their_time_is_over(
    fleet: Fleet, tmp_path: Path
) -> None:
    crowd = await _crowd(fleet, tmp_path, 8, 8.0)
    assert crowd.up == 8
    busy = "crowded refused: busy: no session is free, 8 are in use"
    unanswered = "crowded did not answer, and said last that all of its 8 sessions are in use"
    said = {str(error) for error in crowd.errors}
    # A device rejects once a second; those whose turn does not come know it from its document.
    assert said <= {busy, f"{busy} (tried for 8 s)", unanswered, f"{unanswered} (waited 8 s)"}
    assert any(each.startswith(busy) for each in said)
    assert {error.exit_code for error in crowd.errors} == {3}
    assert "crowded is busy: no session is free, 8 are in use; trying again" in crowd.notices
