"""Question and answer by way of mosquitto, which leaves Nagle's algorithm on."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from edgeice.signaling.broker import BrokerConfig, Message, MqttConnected
from tests.support.brokers import MOSQUITTO, Mosquitto, mosquitto
from tests.support.mqtt_clients import Party, running

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]

#: What Linux delays an acknowledgment by at least (TCP_DELACK_MIN), seconds.
DELAYED_ACK = 0.040


def config_for(broker: Mosquitto, name: str) -> BrokerConfig:
    return BrokerConfig(host="127.0.0.1", port=broker.port, client_id=f"edgeice:f:d:{name}")


async def subscribe(party: Party, topic: str) -> None:
    await party.next(MqttConnected)
    assert not (await party.client.subscribe(topic)).refused


async def answer_all(party: Party) -> None:
    while True:
        message = await party.next(Message)
        party.client.post("asker", message.payload)


async def test_an_answer_does_not_wait_for_a_delayed_acknowledgment(tmp_path: Path) -> None:
    times: list[float] = []
    async with (
        mosquitto(tmp_path) as broker,
        running(config_for(broker, "a")) as asker,
        running(config_for(broker, "b")) as answerer,
        trio.open_nursery() as nursery,
    ):
        await subscribe(asker, "asker")
        await subscribe(answerer, "answerer")
        nursery.start_soon(answer_all, answerer)
        for number in range(10):
            begun = trio.current_time()
            asker.client.post("answerer", b"%d" % number)
            assert (await asker.next(Message)).payload == b"%d" % number
            times.append(trio.current_time() - begun)
        nursery.cancel_scope.cancel()
    assert sorted(times)[2] < DELAYED_ACK / 2, times
