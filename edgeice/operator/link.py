"""An operator at its broker: one connection for one command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from edgeice.operator.config import OperatorConfig
from edgeice.operator.errors import RefusedError, UnreachableError
from edgeice.sansio import Entropy
from edgeice.signaling import Party, Topics
from edgeice.signaling.broker import (
    FailureKind,
    Message,
    MqttConnected,
    MqttConnectFailed,
    MqttDisconnected,
    MqttError,
)
from edgeice.signaling.mqtt import MqttClient
from edgeice.signaling.versions import VersionMemory
from edgeice.transport import NetworkChange, broker_config, ways_to_broker

__all__ = ["BrokerLink", "open_broker"]

_REFUSALS = (FailureKind.BAD_CREDENTIALS, FailureKind.NOT_AUTHORIZED)
#: Another attempt may help: the broker restarts, or speaks the other version.
_PASSING = (FailureKind.UNSUPPORTED_VERSION, FailureKind.CLOSED, FailureKind.UNANSWERED)
#: What this process learned of its brokers: each session connects anew.
_VERSIONS = VersionMemory()


class BrokerLink:
    """A connection to the broker that subscribes again whenever it is re-made.  Made by `open_broker`."""

    def __init__(self, client: MqttClient, topics: Topics, party: Party, filters: tuple[str, ...]) -> None:
        self.client = client
        self.topics = topics
        self.party = party
        self._filters = filters
        self._messages_send, self.messages = trio.open_memory_channel[Message](256)
        #: Messages that nobody read in time.
        self.dropped = 0
        self._ready = trio.Event()
        self._failure: MqttConnectFailed | None = None
        self._refused: dict[str, str] = {}

    @staticmethod
    def topics_of(config: OperatorConfig) -> Topics:
        """The topics of the configured fleet."""
        return Topics(config.fleet, config.broker.root)

    async def run(self) -> None:
        """Keep subscribed and hand messages on, until the client ends."""
        async with trio.open_nursery() as nursery:
            await self._hear(nursery)
            nursery.cancel_scope.cancel()

    def network_changed(self, change: NetworkChange) -> None:
        """Let the connection follow this host's interfaces."""
        self.client.network_changed(ways_to_broker(change.usable, change.host_addresses))

    async def _hear(self, nursery: trio.Nursery) -> None:
        async for event in self.client.events:
            match event:
                case MqttConnected():
                    # Beside what comes: the broker kept the session, and with it what was said meanwhile.
                    nursery.start_soon(self._subscribe)
                case MqttConnectFailed():
                    # A first attempt that fails ends the command; afterwards the session lives without a broker.
                    if not self._ready.is_set() and event.kind not in _PASSING:
                        self._failure = event
                        self._ready.set()
                case MqttDisconnected():
                    pass
                case Message():
                    try:
                        self._messages_send.send_nowait(event)
                    except trio.WouldBlock:
                        self.dropped += 1

    async def wait_ready(self) -> None:
        """Wait for the first subscription; raises UnreachableError or RefusedError."""
        await self._ready.wait()
        if self._failure is not None:
            error = RefusedError if self._failure.kind in _REFUSALS else UnreachableError
            raise error("broker", self._failure.message, {"kind": str(self._failure.kind)})
        if self._refused:
            topic, reason = next(iter(self._refused.items()))
            raise RefusedError("broker", f"the broker refuses to let {self.party} read {topic}: {reason}")

    async def _subscribe(self) -> None:
        try:
            result = await self.client.subscribe(*self._filters)
        except MqttError:
            return  # the connection is gone again; the next one subscribes anew
        self._refused = dict(result.refused)
        self._ready.set()


@asynccontextmanager
async def open_broker(
    config: OperatorConfig, entropy: Entropy, filters: tuple[str, ...], patience: float
) -> AsyncIterator[BrokerLink]:
    """Connect and subscribe within `patience` seconds; raises UnreachableError or RefusedError."""
    party = Party.operator(config.fleet, config.operator)
    broker = broker_config(config.broker, party, client_suffix=entropy.token_bytes(6).hex())
    client = MqttClient(broker, will=lambda: None, entropy=entropy, versions=_VERSIONS)
    link = BrokerLink(client, BrokerLink.topics_of(config), party, filters)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        nursery.start_soon(link.run)
        try:
            with trio.move_on_after(patience) as scope:
                await link.wait_ready()
            if scope.cancelled_caught:
                raise UnreachableError(
                    "broker", f"the broker {broker.host}:{broker.port} did not answer in {patience:g} s"
                )
            yield link
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
                await client.disconnect()
            nursery.cancel_scope.cancel()
