"""The broker of signaling/mqtt/README.md, as that page describes it, with a device and an operator that it knows."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import paho.mqtt.publish
import pytest
import trio
from paho.mqtt import MQTTException

import edgeice.signaling.mqtt as page
from edgeice.sansio import Entropy
from edgeice.signaling.broker import BrokerConfig, Message, MqttConnected, MqttRefusedError, TlsConfig
from edgeice.signaling.mqtt import MqttClient
from tests.agent.kit import FLEET, PATIENCE, ROOT, AgentProcess, Device, Operator, edgeice
from tests.support.brokers import MOSQUITTO, Authority, free_port, given_mosquitto_sync

pytestmark = pytest.mark.slow

PAGE = (Path(page.__file__).parent / "README.md").read_text()
PASSWORD = "secret"
ETC = "/etc/mosquitto"


def block(language: str) -> str:
    """The page's only block in a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


@attrs.frozen
class Documented:
    """The broker of the page."""

    port: int
    websocket_port: int
    authority: Authority

    def device(self, folder: Path, name: str) -> Device:
        """A device with the password that it has there."""
        url = f"mqtts://localhost:{self.port}"
        return Device(folder / name, url, name, password=PASSWORD, ca=self.authority.cafile)

    def operator(self, folder: Path, name: str) -> Operator:
        """An operator likewise."""
        url = f"mqtts://localhost:{self.port}"
        return Operator(folder / name, url, name, password=PASSWORD, ca=self.authority.cafile)

    @asynccontextmanager
    async def client(self, user: str) -> AsyncIterator[MqttClient]:
        """A client with the name and password of a party, that may try what it likes."""
        config = BrokerConfig(
            host="localhost",
            port=self.port,
            client_id=f"{user} again",
            username=user,
            password=PASSWORD,
            tls=TlsConfig(self.authority.cafile),
            persistent=False,
        )
        client = MqttClient(config, will=lambda: None, entropy=Entropy.seeded(1))
        with trio.fail_after(PATIENCE):
            async with client.events, trio.open_nursery() as nursery:
                nursery.start_soon(client.run)
                assert isinstance(await client.events.receive(), MqttConnected)
                yield client
                await client.disconnect()
                nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Documented]:
    """The page's files, after its commands, in a folder of the test's own and on ports that are free."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    folder = tmp_path_factory.mktemp("etc")
    authority = Authority.create(folder / "certs")
    shutil.copy(authority.certfile, folder / "certs" / "edgeice.pem")
    shutil.copy(authority.keyfile, folder / "certs" / "edgeice.key")
    (folder / "edgeice.acl").write_text(block("acl"))
    # A user who types, and no system to change; then one more party, for which nobody has written a block.
    answers = f"mosquitto_passwd() {{ printf '{PASSWORD}\\n{PASSWORD}\\n' | command mosquitto_passwd \"$@\"; }}\n"
    nothing = "chown() { :; }\nsystemctl() { :; }\n"
    more = f"mosquitto_passwd {ETC}/edgeice.passwords {FLEET}/d/stray\n"
    script = (answers + nothing + block("sh") + more).replace(ETC, str(folder))
    subprocess.run(["sh", "-euc", script], check=True, capture_output=True)
    conf = block("conf").replace(ETC, str(folder))
    ports = {8883: free_port(), 8884: free_port()}
    for written, port in ports.items():
        conf, count = re.subn(rf"^listener {written}$", f"listener {port} 127.0.0.1", conf, flags=re.MULTILINE)
        assert count == 1
    with given_mosquitto_sync(folder, conf, list(ports.values())):
        yield Documented(ports[8883], ports[8884], authority)


async def test_device_and_operator_meet_under_the_rules(documented: Documented, tmp_path: Path) -> None:
    device, operator = documented.device(tmp_path, "pi17"), documented.operator(tmp_path, "alice")
    device.trust(operator)
    operator.pin(device)
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        done = await edgeice(operator, "exec", "pi17", "--", "echo", "here")
        assert (done.code, done.stdout, done.stderr) == (0, b"here\n", "")
    assert "-refused " not in agent.log()


async def test_a_device_without_a_block_says_once_what_it_may_not(documented: Documented, tmp_path: Path) -> None:
    device, operator = documented.device(tmp_path, "stray"), documented.operator(tmp_path, "alice")
    device.trust(operator)
    operator.pin(device)
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        done = await edgeice(operator, "exec", "--timeout", "2", "stray", "--", "true")
        assert done.code == 3
        (line,) = done.stderr.splitlines()
        assert line.startswith("edgeice: stray did not answer")
    # Its answer and candidates were refused, and again what answered the offer's copies.
    topic = f"{ROOT}/{FLEET}/o/alice/rx/stray"
    said = f'publish-refused topic={topic} reason="the broker refuses the message: Not authorized"'
    assert [line for line in agent.log().splitlines() if "-refused " in line] == [said]


MAY = [
    ("d/pi17", "d/pi17/status"),
    ("d/pi17", "d/pi17/info"),
    ("d/pi17", "d/pi17/audit"),
    ("d/pi17", "o/alice/rx/pi17"),
    ("d/pi17", "o/bob/rx/pi17"),
    ("o/alice", "d/pi17/rx/alice"),
    ("o/alice", "d/pi18/rx/alice"),
]
MAY_NOT = [
    ("d/pi17", "d/pi18/status"),
    ("d/pi17", "d/pi18/info"),
    ("d/pi17", "d/pi17/rx/alice"),
    ("d/pi17", "d/pi18/rx/pi17"),
    ("d/pi17", "o/alice/rx/pi18"),
    ("d/pi17", "o/alice/rx"),
    ("d/pi17", "revoked"),
    ("o/alice", "d/pi17/status"),
    ("o/alice", "d/pi17/info"),
    ("o/alice", "d/pi17/rx/bob"),
    ("o/alice", "o/bob/rx/alice"),
    ("o/alice", "d/pi17/turn"),
]


@pytest.mark.parametrize("user", ["d/pi17", "o/alice"])
async def test_who_may_write_what(documented: Documented, user: str) -> None:
    written: dict[str, bool] = {}
    async with documented.client(f"{FLEET}/{user}") as client:
        for topic in [topic for party, topic in MAY + MAY_NOT if party == user]:
            try:
                await client.publish(f"{ROOT}/{FLEET}/{topic}", b"")
            except MqttRefusedError:
                written[topic] = False
            else:
                written[topic] = True
    assert written == {
        **{topic: True for party, topic in MAY if party == user},
        **{topic: False for party, topic in MAY_NOT if party == user},
    }


#: Who hears what is said on these topics.
READERS = {
    "d/pi17": ["d/pi17/info", "d/pi17/rx/alice"],
    "o/alice": ["d/pi17/info", "o/alice/rx/pi17"],
    "d/stray": [],
}


async def test_who_may_read_what(documented: Documented) -> None:
    read: dict[str, list[str]] = {}
    async with AsyncExitStack() as clients:
        of = {user: await clients.enter_async_context(documented.client(f"{FLEET}/{user}")) for user in READERS}
        for client in of.values():
            assert not (await client.subscribe("#")).refused
        for writer, topic in (("d/pi17", "d/pi17/info"), ("o/alice", "d/pi17/rx/alice"), ("d/pi17", "o/alice/rx/pi17")):
            await of[writer].publish(f"{ROOT}/{FLEET}/{topic}", b"said")
        for user, client in of.items():
            await client.publish(f"{ROOT}/{FLEET}/{user}/status", b"the end")
            read[user] = []
            async for event in client.events:
                assert isinstance(event, Message)
                if event.payload == b"said":
                    read[user].append(event.topic.removeprefix(f"{ROOT}/{FLEET}/"))
                elif event.topic == f"{ROOT}/{FLEET}/{user}/status" and event.payload == b"the end":
                    break
    assert read == READERS


async def test_browsers_come_by_websockets(documented: Documented) -> None:
    topic = f"{ROOT}/{FLEET}/d/pi17/rx/alice"

    def publish(password: str) -> None:
        paho.mqtt.publish.single(
            topic,
            b"from a browser",
            qos=1,
            hostname="localhost",
            port=documented.websocket_port,
            auth={"username": f"{FLEET}/o/alice", "password": password},
            tls={"ca_certs": str(documented.authority.cafile)},
            transport="websockets",
        )

    async with documented.client(f"{FLEET}/d/pi17") as client:
        await client.subscribe(topic)
        await trio.to_thread.run_sync(publish, PASSWORD)
        assert await client.events.receive() == Message(topic, b"from a browser", retained=False)
    with pytest.raises(MQTTException, match="Not authorized"):
        await trio.to_thread.run_sync(publish, "guessed")
