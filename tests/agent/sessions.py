"""Sessions of the operator's library, in the test's own process, with real agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from edgeice.operator.config import load_config
from edgeice.operator.interface import Step, Watcher
from edgeice.operator.session import Session, open_session
from edgeice.signaling import Party, PrivateKey, PublicKey
from tests.agent.kit import Device, Operator

__all__ = ["session_with"]


def _unwatched(_step: Step) -> None:
    """Hear nothing."""


@asynccontextmanager
async def session_with(
    device: Device,
    operator: Operator,
    *want: str,
    watch: Watcher = _unwatched,
    timeout: float = 10.0,  # noqa: ASYNC109  # as `open_session`
    patience: float = 600.0,
) -> AsyncIterator[Session]:
    """A session with a device whose key is pinned."""

    async def confirm(_device: Party, _key: PublicKey) -> bool:
        raise AssertionError("the key is pinned")

    config = attrs.evolve(load_config(operator.config), patience=patience)
    key = PrivateKey.load(config.key.read_bytes(), source="operator.key")
    pinned = PublicKey(device.key.raw)
    async with open_session(
        config, key, device.name, pinned=pinned, want=want, confirm=confirm, watch=watch, timeout=timeout
    ) as session:
        yield session
