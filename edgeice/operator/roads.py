"""What a session's messages and datagrams travel on: the connection to the broker, the sockets, the relays."""

from __future__ import annotations

import attrs
import trio

from edgeice.errors import DecodeError
from edgeice.operator.config import OperatorConfig
from edgeice.operator.link import BrokerLink, open_broker
from edgeice.sansio import Entropy
from edgeice.settings import broker_address
from edgeice.signaling import Party, TopicKind
from edgeice.trace import Record, Tracer
from edgeice.transport import Node, NodeConfig, RelaySource, open_node, ways_to_broker

__all__ = ["Roads", "keep_roads"]


@attrs.frozen
class Roads:
    """Both roads of a session."""

    link: BrokerLink
    node: Node
    _relays: RelaySource
    _tracer: Tracer

    def take_relay(self, payload: bytes, *, wall: float) -> None:
        """Use the relays that the issuer handed out; what is not its word is traced and dropped."""
        try:
            relay = self._relays.take(payload, wall=wall)
        except DecodeError as error:
            self._tracer(Record(trio.current_time(), "relay", "credentials_refused", {"reason": str(error)}))
            return
        self._tracer(Record(trio.current_time(), "relay", "credentials", {"issuer": relay.iss, "until": relay.exp}))
        self.node.set_turn_servers(self._relays.servers)


async def keep_roads(
    config: OperatorConfig,
    entropy: Entropy,
    filters: tuple[str, ...],
    *,
    patience: float,
    tracer: Tracer,
    over: trio.Event,
    task_status: trio.TaskStatus[Roads],
) -> None:
    """Hold broker and sockets until `over`: what cancels the session must leave it the roads to say goodbye on."""
    me = Party.operator(config.fleet, config.operator)
    relays = RelaySource(config.turn, me)
    if relays.has_issuer:
        filters += (BrokerLink.topics_of(config).of(TopicKind.TURN, me),)
    broker = broker_address(config.broker.url)[:2]
    with trio.CancelScope() as scope:
        async with (
            open_broker(config, entropy, filters, patience) as link,
            open_node(
                NodeConfig.from_section(config.ice, relays, broker=broker), entropy, tracer, link.network_changed
            ) as node,
        ):
            scope.shield = True
            link.client.network_changed(ways_to_broker(node.usable, node.host_addresses))
            task_status.started(Roads(link, node, relays, tracer))
            await over.wait()
