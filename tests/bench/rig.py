"""What benchmarks of sessions stand on: a mosquitto, a real agent, operators that it trusts, their sessions."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import attrs

from edgeice.operator.config import load_config
from edgeice.operator.session import Session, open_session
from edgeice.signaling import Party, PrivateKey, PublicKey
from tests.agent.kit import PATIENCE, AgentProcess, Device, Operator
from tests.support.brokers import MOSQUITTO, mosquitto_sync

__all__ = ["Rig"]


@attrs.frozen
class Rig:
    """One broker, one device whose agent runs, and operators that it trusts."""

    folder: Path
    device: Device
    agent: AgentProcess
    operators: tuple[Operator, ...]

    @classmethod
    @contextlib.contextmanager
    def running(cls, *, can: str, names: Sequence[str] = ("alice",)) -> Iterator[Rig]:
        """Start all of it.

        Args:
            can: What each operator may, as `trust add` takes it.
            names: The operators'.
        """
        if MOSQUITTO is None:
            raise SystemExit("this benchmark needs mosquitto: apt-get install mosquitto")
        with tempfile.TemporaryDirectory(prefix="edgeice-bench-") as name:
            folder = Path(name)
            with mosquitto_sync(folder) as broker:
                url = f"mqtt://127.0.0.1:{broker.port}"
                device = Device(folder / "pi", url)
                operators = tuple(Operator(folder / name, url, name) for name in names)
                # As a device in service logs.
                device.config.write_text(device.config.read_text().replace('level = "debug"', 'level = "info"'))
                for operator in operators:
                    device.trust(operator, can=can)
                    operator.pin(device)
                with AgentProcess(device) as agent:
                    agent.wait_log_sync("announced ")
                    yield cls(folder, device, agent, operators)

    @property
    def pid(self) -> int:
        """The agent's."""
        assert self.agent._process is not None
        return self.agent._process.pid

    @contextlib.asynccontextmanager
    async def session(self, operator: Operator, *want: str) -> AsyncIterator[Session]:
        """A session of an operator's in this process."""
        config = load_config(operator.config)
        key = PrivateKey.load(config.key.read_bytes(), source=str(config.key))

        async def confirm(_device: Party, _key: PublicKey) -> bool:
            raise AssertionError("the device's key is pinned")

        async with open_session(
            config,
            key,
            self.device.name,
            pinned=PublicKey(self.device.key.raw),
            want=want,
            confirm=confirm,
            watch=lambda _step: None,
            timeout=PATIENCE,
        ) as session:
            yield session
