"""A device that falls silent is noticed and said, and so are its return and the end of waiting for it."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from edgeice.operator import path as path_module
from edgeice.operator import silence as silence_module
from edgeice.operator.interface import Step
from edgeice.services import SHELL_PROTOCOL, open_shell
from edgeice.transport import NodeConfig
from tests.agent.conftest import Fleet
from tests.agent.kit import PATIENCE, AgentProcess, Device, Operator
from tests.agent.sessions import session_with
from tests.agent.terminal import on_terminal

pytestmark = pytest.mark.slow

_PATH = r"\(path host 127\.0\.0\.1:\d+ -> host 127\.0\.0\.1:\d+\)"


@pytest.fixture
def pair(fleet: Fleet, tmp_path: Path) -> tuple[Device, Operator]:
    """A device of the test's own, and its operator."""
    device, operator = Device(tmp_path / "pi", fleet.url, "silent"), Operator(tmp_path / "alice", fleet.url)
    device.trust(operator)
    operator.pin(device)
    return device, operator


async def test_a_device_that_stops_and_comes_back(pair: tuple[Device, Operator]) -> None:
    """When that is said is a matter of `tests/unit/operator/test_silence.py`; here silence begins sooner."""
    device, operator = pair
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        async with on_terminal(operator, "shell", "silent", starter="tests.agent.impatient") as terminal:
            await terminal.type("PS1=; echo rea''dy\n")
            await terminal.expect("ready\r")
            agent.send(signal.SIGSTOP)
            try:
                await terminal.type("echo la''te\n")
                await terminal.expect(rf"\r\nedgeice: silent: no answer for 1 s, trying again {_PATH}\r\n")
            finally:
                agent.send(signal.SIGCONT)
            back = r"\r\nedgeice: silent: back after \d+ s\r\n"
            first = await terminal.expect(rf"{back}|late\r")
            await terminal.expect(back if first[0] == b"late\r" else "late\r")
            await terminal.type("exit 5\n")
            assert await terminal.end() == 5


async def test_a_device_that_is_gone_for_good(pair: tuple[Device, Operator], monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed; the limits that the session has of its own are shorter here, and everything else is as it is."""
    device, operator = pair
    of_section = NodeConfig.from_section

    def impatient(*arguments: Any, **named: Any) -> NodeConfig:
        config = of_section(*arguments, **named)
        return attrs.evolve(config, ice=attrs.evolve(config.ice, consent_expiry=2.0))

    monkeypatch.setattr(NodeConfig, "from_section", staticmethod(impatient))
    for module in (path_module, silence_module):
        monkeypatch.setattr(module, "SILENCE", 0.5)
    said: list[Step] = []
    with AgentProcess(device) as agent, trio.fail_after(PATIENCE):
        await agent.wait_log("^announced ")
        async with session_with(device, operator, "shell", watch=said.append, patience=1.0) as session:
            async with open_shell(await session.open(SHELL_PROTOCOL), "vt100", 80, 24) as shell:
                agent.send(signal.SIGKILL)
                with pytest.raises(trio.BrokenResourceError):
                    await shell.wait()
            assert str(session.ended_error()) == "the session with silent ended: lost: no path for 1 s"
            assert session.ended_error().exit_code == 3
            assert session.verdict()["recovery"]["offered"] > 0  # type: ignore[index]  # a dict
    last = [step.text for step in said if step.name == "notice"][-1]
    assert re.fullmatch(rf"silent: no answer for 0\.5 s, trying again {_PATH}", last)


async def test_a_device_that_was_killed_and_started_again_knows_no_session_of_before(
    pair: tuple[Device, Operator],
) -> None:
    device, operator = pair
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        async with on_terminal(operator, "shell", "silent", starter="tests.agent.impatient") as terminal:
            await terminal.type("PS1=; echo rea''dy\n")
            await terminal.expect("ready\r")
            agent.send(signal.SIGKILL)
            await agent.wait_exit()
            with AgentProcess(device):
                assert await terminal.end() == 3
                said = b"no-session: the device has restarted, or ended the session long ago"
                assert b"edgeice: the session with silent ended: " + said in terminal.screen
