"""A broker, an agent that is running, and an operator that it trusts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.agent.kit import AgentProcess, Device, Operator
from tests.support.brokers import MOSQUITTO, Mosquitto, mosquitto_sync


@attrs.frozen
class Fleet:
    """One broker, one device that runs, and one operator that it trusts and that knows its key."""

    broker: Mosquitto
    device: Device
    agent: AgentProcess
    operator: Operator
    folder: Path

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.broker.port}"


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A broker that all tests share which do not harm it."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    with mosquitto_sync(tmp_path_factory.mktemp("broker"), websockets=True) as running:
        yield running


@pytest.fixture(scope="session")
def fleet(broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A device and an operator that all tests share which leave them as they are."""
    folder = tmp_path_factory.mktemp("fleet")
    url = f"mqtt://127.0.0.1:{broker.port}"
    device = Device(folder / "pi", url)
    operator = Operator(folder / "alice", url)
    device.trust(operator)
    operator.pin(device)
    with AgentProcess(device) as agent:
        agent.wait_log_sync("^announced ")
        yield Fleet(broker, device, agent, operator, folder)
