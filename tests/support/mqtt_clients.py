"""Running MQTT clients in tests, with their events sorted."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import trio

from edgeice.sansio import Entropy
from edgeice.signaling.broker import (
    BrokerConfig,
    Message,
    MqttConnected,
    MqttConnectFailed,
    MqttDisconnected,
    MqttEvent,
    Will,
)
from edgeice.signaling.mqtt import MqttClient
from edgeice.signaling.versions import VersionMemory

__all__ = ["Party", "running"]

E = TypeVar("E", MqttConnected, MqttDisconnected, MqttConnectFailed, Message)


class Party:
    """A client that runs, and a reader of its events."""

    def __init__(self, client: MqttClient, scope: trio.CancelScope) -> None:
        self.client = client
        self._scope = scope
        #: All events that were read.
        self.seen: list[MqttEvent] = []

    async def next(self, kind: type[E]) -> E:
        """Read events up to the first one of this kind."""
        async for event in self.client.events:
            self.seen.append(event)
            if isinstance(event, kind):
                return event
        raise AssertionError(f"the client ended before {kind.__name__}; seen: {self.seen}")

    def crash(self) -> None:
        """Cancel the client: its socket closes without a DISCONNECT."""
        self._scope.cancel()


@contextlib.asynccontextmanager
async def running(
    config: BrokerConfig,
    *,
    will: Callable[[], Will | None] = lambda: None,
    versions: VersionMemory | None = None,
    patience: float = 20,
) -> AsyncIterator[Party]:
    """A running client; canceled at the end, and everything under it after `patience` seconds."""
    client = MqttClient(config, will=will, entropy=Entropy.seeded(7), versions=versions)
    with trio.fail_after(patience):
        async with client.events, trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def run(*, task_status: trio.TaskStatus[None]) -> None:
                with scope:
                    await client.run(task_status=task_status)

            await nursery.start(run)
            yield Party(client, scope)
            nursery.cancel_scope.cancel()
