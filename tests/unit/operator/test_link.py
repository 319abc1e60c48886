"""An operator's connection to its broker, across a move."""

from __future__ import annotations

import pytest
import trio

from edgeice.net import UsableAddress
from edgeice.operator.link import BrokerLink
from edgeice.signaling import Party, Topics
from edgeice.transport import NetworkChange
from tests.support.mqtt_clients import running
from tests.support.scripted_broker import (
    CONNECT,
    PUBLISH,
    SUBSCRIBE,
    ScriptedBroker,
    connack,
    publish,
    suback,
)

FILTERS = ("edgeice/1/home/o/alice/rx/pi",)


def change(*usable: UsableAddress) -> NetworkChange:
    return NetworkChange(reasons=(), usable=usable, host_addresses=usable)


@pytest.mark.parametrize("moves", [1, 3])
async def test_after_a_move_nothing_waits_for_the_subscription(moves: int) -> None:
    here = UsableAddress("127.0.0.1", "lo")
    async with ScriptedBroker() as broker, running(broker.config()) as party, trio.open_nursery() as nursery:
        link = BrokerLink(party.client, Topics("home"), Party.operator("home", "alice"), FILTERS)
        nursery.start_soon(link.run)
        session = await broker.accept()
        await session.welcome()
        asked = await session.expect(SUBSCRIBE)
        await session.send(suback(asked.packet_id, b"\1"))
        await link.wait_ready()
        for number in range(moves):
            link.network_changed(change(here))
            link.network_changed(change())
            party.client.post("edgeice/1/home/d/pi/rx/alice", b"restart", expiry=30)
            while await session.receive() is not None:
                pass
            session = await broker.accept()
            await session.expect(CONNECT)
            # The broker kept the session, and has the device's answer; it never answers the subscription.
            answer = publish(FILTERS[0], b"answer %d" % number, qos=1, packet_id=7)
            await session.send(connack(session_present=True) + answer)
            assert (await session.expect(PUBLISH)).body.endswith(b"restart")
            with trio.fail_after(2):
                assert (await link.messages.receive()).payload == b"answer %d" % number
        nursery.cancel_scope.cancel()
