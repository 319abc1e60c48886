"""The connection to a real mosquitto while the host moves between networks.

The client and the node that tells it of the network run in the host's namespace; a subscriber sits beside the broker.
Links are emulated, so that a round trip takes as long as in life; neighbors know each other before, as on a link that
is in use.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import attrs
import pytest
import trio

from edgeice.sansio import Entropy
from edgeice.signaling import Info, open_info
from edgeice.signaling.broker import BrokerConfig, MqttConnected, MqttDisconnected, TlsConfig
from edgeice.transport import NetworkChange, NodeConfig, open_node, ways_to_broker
from tests.agent.kit import Device, environment
from tests.lab.lab import Host, Impairment, Lab, missing_for_routers
from tests.lab.nat import EIM_APDF
from tests.lab.services import SERVER_NAME, Broker, mosquitto
from tests.support.brokers import MOSQUITTO
from tests.support.mqtt_clients import Party, running

_MISSING = missing_for_routers() or (None if MOSQUITTO else "needs mosquitto")

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING)),
]

#: One way on each link of the host, seconds.
_DELAY = 0.03
_ROUND_TRIP = 2 * _DELAY
#: What processes and schedulers of a loaded machine take.
_SLACK = 0.2

_WATCHER = """
import json, sys, time
import paho.mqtt.client as paho
def message(client, userdata, message):
    print(json.dumps([time.monotonic(), message.topic, message.payload.decode(), message.retain]), flush=True)
def subscribed(*_):
    print("ready", flush=True)
client = paho.Client(paho.CallbackAPIVersion.VERSION2)
client.on_message, client.on_subscribe = message, subscribed
client.connect(sys.argv[1])
client.subscribe(sys.argv[2], 1)
client.loop_forever()
"""


@attrs.frozen
class Heard:
    """A message at the broker's subscriber."""

    #: By the monotonic clock.
    at: float
    topic: str
    payload: str
    retained: bool


class Watcher:
    """A subscriber on the broker's host."""

    def __init__(self, host: Host, broker: Broker, topics: str) -> None:
        self._process = subprocess.Popen(
            host.command(sys.executable, "-c", _WATCHER, broker.address, topics), stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self._lines = self._process.stdout
        assert self._lines.readline() == "ready\n"

    async def next(self) -> Heard:
        """The next message."""
        line = await trio.to_thread.run_sync(self._lines.readline, abandon_on_cancel=True)
        return Heard(*json.loads(line))

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._lines.close()


@attrs.frozen
class Roamer:
    """A host with Wi-Fi and a modem, and a broker on the internet."""

    lab: Lab
    host: Host
    server: Host
    broker: Broker
    watcher: Watcher

    def config(self, *, tls: bool = False) -> BrokerConfig:
        found = BrokerConfig(host=self.broker.address, port=1883, client_id="edgeice:f:d:a")
        if tls:
            trust = TlsConfig(cafile=self.broker.authority.cafile, server_name=SERVER_NAME)
            found = attrs.evolve(found, port=8883, tls=trust)
        return found


@pytest.fixture
def roamer(tmp_path: Path) -> Iterator[Roamer]:
    with Lab() as lab:
        server, host = lab.public_host("server"), lab.host("pi")
        for number, (device, metric) in enumerate((("wlan0", 600), ("wwan0", 700))):
            router = lab.router(device, nat=EIM_APDF, lan=f"192.168.{number}.0/24")
            lab.connect(host, router, device, metric=metric, emulated=True)
        lab.settle()
        with mosquitto(server, tmp_path) as broker:
            for device, uplink in host.uplinks.items():
                uplink.impair(Impairment(delay=_DELAY))
                with host.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
                    sock.sendto(b"", (broker.address, 9))
            watcher = Watcher(server, broker, "#")
            try:
                yield Roamer(lab, host, server, broker, watcher)
            finally:
                watcher.close()


@contextlib.asynccontextmanager
async def station(roamer: Roamer, *, tls: bool = False) -> AsyncIterator[Party]:
    """Run a connected client in the host's namespace that follows its node."""
    with roamer.host.inside():
        async with running(roamer.config(tls=tls), patience=30) as party:

            def changed(change: NetworkChange) -> None:
                party.client.network_changed(ways_to_broker(change.usable, change.host_addresses))

            async with open_node(NodeConfig(), Entropy.seeded(3), on_network=changed) as node:
                party.client.network_changed(ways_to_broker(node.usable, node.host_addresses))
                await party.next(MqttConnected)
                await party.client.subscribe("rx")
                yield party


@attrs.frozen
class Move:
    """How a move went."""

    #: Why the connection ended.
    reason: str
    #: Seconds from then to CONNACK, and to when a message that waited for it was at the subscriber.
    connected: float
    heard: float
    #: What the connection goes by.
    interface: str


async def move(roamer: Roamer, party: Party, event: Callable[[], None]) -> Move:
    """Let something happen, publish, and see when it is at the subscriber."""
    await trio.to_thread.run_sync(event)
    lost = await party.next(MqttDisconnected)
    begun = time.monotonic()
    assert lost.retry_in == 0.0
    party.client.post("t/candidates", b"x", expiry=30)
    connected = await party.next(MqttConnected)
    assert connected.session_present
    connected_at = time.monotonic()
    heard = await roamer.watcher.next()
    assert (heard.topic, heard.payload) == ("t/candidates", "x")
    return Move(lost.reason, connected_at - begun, heard.at - begun, connected.interface)


FAULTS: dict[str, Callable[[Host], None]] = {
    "admin down": lambda host: host.uplinks["wlan0"].down(),
    "carrier lost, unmanaged": lambda host: host.uplinks["wlan0"].unplug(),
    "carrier lost, managed": lambda host: host.uplinks["wlan0"].unplug(managed=True),
    "address changed": lambda host: host.uplinks["wlan0"].readdress("192.168.0.77"),
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("fault", list(FAULTS))
async def test_the_connection_is_remade_at_once_when_its_address_or_interface_is_gone(
    roamer: Roamer, fault: str, *, tls: bool
) -> None:
    async with station(roamer, tls=tls) as party:
        took = await move(roamer, party, lambda: FAULTS[fault](roamer.host))
        assert "is gone" in took.reason
        # For a moment after the address went there is none, and no route by its interface.
        assert took.interface in ({"wlan0", "wwan0"} if fault == "address changed" else {"wwan0"})
        # TCP, TLS 1.3 and CONNECT.
        assert took.connected < (3 if tls else 2) * _ROUND_TRIP + _SLACK
        # The message follows CONNACK without waiting for anything.
        assert took.heard < took.connected + _DELAY + _SLACK


async def test_a_connection_stays_on_its_interface_when_a_better_one_appears(roamer: Roamer) -> None:
    wlan0 = roamer.host.uplinks["wlan0"]
    async with station(roamer) as party:
        await move(roamer, party, wlan0.down)
        # Packets of a socket that is not pinned would leave by the better route now, with the other's address.
        await trio.to_thread.run_sync(wlan0.up)
        for number in range(3):
            await party.client.publish("t/stays", b"%d" % number)
            assert (await roamer.watcher.next()).payload == str(number)
        assert sum(isinstance(event, MqttDisconnected) for event in party.seen) == 1


async def test_a_black_hole_is_left_by_the_other_interface_once_the_broker_is_probed(roamer: Roamer) -> None:
    async with station(roamer) as party:
        roamer.host.uplinks["wlan0"].blackhole()
        # Nothing is told; the session that falls silent asks.
        begun = time.monotonic()
        party.client.post("t/early", b"1", expiry=30)
        party.client.probe()
        lost = await party.next(MqttDisconnected)
        silence = time.monotonic() - begun
        assert (lost.reason, lost.retry_in) == ("the broker fell silent", 0.0)
        assert 1.0 <= silence < 1.0 + _SLACK
        assert (await party.next(MqttConnected)).session_present
        # By the other interface at once: no head start for the one where it was silent.
        assert time.monotonic() - begun < silence + 2 * _ROUND_TRIP + _SLACK
        assert (await roamer.watcher.next()).topic == "t/early"


async def test_a_broker_that_is_heard_keeps_its_connection_when_it_is_probed(roamer: Roamer) -> None:
    async with station(roamer) as party:
        for _ in range(3):
            party.client.probe()
        await party.client.publish("t/stays", b"x")
        await trio.sleep(1.0 + _SLACK)  # its patience, as real time passes
        assert party.client.connected
        assert not any(isinstance(event, MqttDisconnected) for event in party.seen)


async def test_what_was_not_acknowledged_comes_again_in_its_order_and_nothing_is_lost(roamer: Roamer) -> None:
    wlan0 = roamer.host.uplinks["wlan0"]
    async with station(roamer) as party:
        for number in range(10):
            party.client.post("t/n", b"%d" % number, expiry=30)
        wlan0.blackhole()
        for number in range(10, 20):
            party.client.post("t/n", b"%d" % number, expiry=30)
        await trio.to_thread.run_sync(wlan0.down)
        await party.next(MqttConnected)
        heard = []
        while "19" not in heard:
            heard.append((await roamer.watcher.next()).payload)
    # What was acknowledged too late may come twice (QoS 1), and begins anew in its order.
    assert list(dict.fromkeys(heard)) == [str(number) for number in range(20)]
    again = heard.index("0", 1) if heard.count("0") > 1 else None
    assert heard == sorted(heard, key=int) or again is not None


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_broker_that_is_away_during_the_move_is_found_when_it_is_back(roamer: Roamer, *, tls: bool) -> None:
    server = roamer.server.uplinks["eth0"]
    async with station(roamer, tls=tls) as party:
        server.blackhole()
        await trio.to_thread.run_sync(roamer.host.uplinks["wlan0"].down)
        await party.next(MqttDisconnected)
        party.client.post("t/candidates", b"x", expiry=30)
        await trio.sleep(1.5)  # the broker's outage, as real time passes
        back = time.monotonic()
        server.blackhole(on=False)
        assert (await party.next(MqttConnected)).session_present
        # TCP asks again after 1, 3 and 7 s.
        assert time.monotonic() - back < 4.0 + _SLACK
        assert (await roamer.watcher.next()).payload == "x"


# Presence: what a subscriber sees of a device that moves


@contextlib.contextmanager
def agent(roamer: Roamer, folder: Path, broker: str) -> Iterator[Device]:
    """Run a device on the roaming host, with such lines about the broker."""
    device = Device(folder, roamer.broker.url)
    text = device.config.read_text().replace("will_delay = 0", broker)
    device.config.write_text(text.replace('loopback = ["127.0.0.1"]\ninterfaces = false\n', ""))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            roamer.host.command(*device.command("run")),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(),
        )
    try:
        yield device
    finally:
        process.terminate()
        process.wait(10)
        assert "Traceback" not in (folder / "log").read_text()


async def next_info(roamer: Roamer, device: Device) -> Info:
    heard = await roamer.watcher.next()
    assert heard.topic == device.topic("info")
    return open_info(heard.payload.encode()).info


async def next_status(roamer: Roamer, device: Device) -> dict[str, object]:
    heard = await roamer.watcher.next()
    assert heard.topic == device.topic("status")
    status: dict[str, object] = json.loads(heard.payload)
    return status


async def test_a_move_shorter_than_the_will_delay_shows_only_the_new_epoch(roamer: Roamer, tmp_path: Path) -> None:
    with trio.fail_after(40), agent(roamer, tmp_path / "pi", "will_delay = 30") as device:
        before = await next_info(roamer, device)
        assert await next_status(roamer, device) == {"s": "ready", "epoch": before.epoch}
        await trio.to_thread.run_sync(roamer.host.uplinks["wlan0"].down)
        # As on every connect: the epoch grows by one, and the nonce is another one.
        after = await next_info(roamer, device)
        assert (after.epoch, after.nonce == before.nonce) == (before.epoch + 1, False)
        assert await next_status(roamer, device) == {"s": "ready", "epoch": after.epoch}
        # No Will follows, and a better link that appears changes nothing.
        await trio.to_thread.run_sync(roamer.host.uplinks["wlan0"].up)
        with trio.move_on_after(2.0) as quiet:
            await roamer.watcher.next()
        assert quiet.cancelled_caught


async def test_a_move_longer_than_the_will_delay_shows_the_device_as_lost_and_then_ready(
    roamer: Roamer, tmp_path: Path
) -> None:
    uplinks = roamer.host.uplinks.values()
    # The broker gives a client up that it has not heard for one and a half times the keepalive.
    with trio.fail_after(40), agent(roamer, tmp_path / "pi", "will_delay = 1\nkeepalive = 5") as device:
        before = await next_info(roamer, device)
        assert await next_status(roamer, device) == {"s": "ready", "epoch": before.epoch}
        for uplink in uplinks:
            await trio.to_thread.run_sync(uplink.down)
        assert await next_status(roamer, device) == {"s": "lost", "epoch": before.epoch}
        for uplink in uplinks:
            await trio.to_thread.run_sync(uplink.up)
        after = await next_info(roamer, device)
        assert after.epoch == before.epoch + 1
        assert await next_status(roamer, device) == {"s": "ready", "epoch": after.epoch}
