"""What users and strangers can get wrong, and the one line that each hears."""

from __future__ import annotations

import base64
import json
import signal
from pathlib import Path

import pytest
import trio

from edgeice.sansio import Entropy
from edgeice.signaling.broker import BrokerConfig, MqttConnected
from edgeice.signaling.mqtt import MqttClient
from tests.agent.conftest import Fleet
from tests.agent.kit import FLEET, ROOT, AgentProcess, Device, Finished, Key, Operator, edgeice, edgeice_agent
from tests.support.brokers import Authority, Mosquitto, free_port, mosquitto

pytestmark = pytest.mark.slow

UNSEEN = "is its name right, and may you read its topics there?"


def one_line(done: Finished) -> str:
    """What a command that failed said, which is one line."""
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture
def newcomer(fleet: Fleet, tmp_path: Path) -> Operator:
    """An operator that the device trusts and that has not met it: alice on another machine."""
    return Operator(tmp_path / "alice", fleet.url)


async def exec_true(operator: Operator, *options: str) -> Finished:
    return await edgeice(operator, "exec", *options, "pi", "--", "true")


# The device's key


async def test_first_contact_without_a_terminal_shows_the_key_and_refuses(fleet: Fleet, newcomer: Operator) -> None:
    done = await exec_true(newcomer)
    assert done.code == 4
    line = one_line(done)
    assert line.startswith(f"edgeice: first contact with home/d/pi: its key is {fleet.device.key.fingerprint}.")
    assert f"--accept-key={fleet.device.key.fingerprint}" in line
    assert not (newcomer.folder / "known_devices").exists()


async def test_accept_key_pins_what_is_shown(fleet: Fleet, newcomer: Operator) -> None:
    done = await exec_true(newcomer, "--accept-key")
    assert (done.code, done.stderr) == (0, "")
    assert (newcomer.folder / "known_devices").read_text() == f"home/d/pi {fleet.device.key.openssh}\n"
    again = await exec_true(newcomer)
    assert (again.code, again.stderr) == (0, "")


async def test_accept_key_with_the_right_fingerprint(fleet: Fleet, newcomer: Operator) -> None:
    done = await exec_true(newcomer, f"--accept-key={fleet.device.key.fingerprint}")
    assert (done.code, done.stderr) == (0, "")


async def test_accept_key_with_another_fingerprint(fleet: Fleet, newcomer: Operator) -> None:
    wrong = Key("somebody else").fingerprint
    done = await exec_true(newcomer, f"--accept-key={wrong}")
    assert done.code == 4
    assert one_line(done) == f"edgeice: home/d/pi shows the key {fleet.device.key.fingerprint}, not {wrong}"
    assert not (newcomer.folder / "known_devices").exists()


@pytest.mark.parametrize("accept", [(), ("--accept-key",)], ids=["plain", "accept-key"])
async def test_a_changed_device_key_is_refused(fleet: Fleet, newcomer: Operator, accept: tuple[str, ...]) -> None:
    newcomer.pin(fleet.device, Key("the device before"))
    done = await exec_true(newcomer, *accept)
    assert done.code == 4
    line = one_line(done)
    assert line.startswith(f"edgeice: the key of home/d/pi has changed: it now shows {fleet.device.key.fingerprint}.")
    assert "known_devices" in line


# The operator's key and what it may do


async def test_a_key_that_the_device_does_not_know(fleet: Fleet, tmp_path: Path) -> None:
    stranger = Operator(tmp_path / "mallory", fleet.url, "mallory")
    stranger.pin(fleet.device)
    done = await exec_true(stranger, "--timeout", "6")
    assert done.code == 3
    notice, failure = done.stderr.splitlines()
    assert notice.startswith("edgeice: nothing heard for 5 s: pi may be away, or may not know your key")
    for line in (notice, failure):
        assert stranger.key.fingerprint in line
        assert "edgeice-agent trust add" in line


async def test_a_key_of_another_name_is_not_known_either(fleet: Fleet, tmp_path: Path) -> None:
    impostor = Operator(tmp_path / "alice", fleet.url, key=Key("not alice's"))
    impostor.pin(fleet.device)
    done = await exec_true(impostor, "--timeout", "1", "--json")
    assert (done.code, done.stderr) == (3, "")
    assert done.json()["step"] == "offer"
    assert impostor.key.fingerprint in done.json()["error"]


async def test_a_capability_that_is_not_allowed(fleet: Fleet, tmp_path: Path) -> None:
    device = Device(tmp_path / "pi2", fleet.url, "pi2")
    device.trust(fleet.operator, can="shell")
    operator = Operator(tmp_path / "alice", fleet.url)
    operator.pin(device)
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        done = await edgeice(operator, "exec", "pi2", "--", "true")
        assert done.code == 4
        assert one_line(done).startswith("edgeice: pi2 refused: unauthorized")
        assert "exec" in one_line(done)
        await agent.wait_log("^refused operator=alice code=unauthorized")
        allowed = await edgeice(operator, "shell", "pi2", stdin=b"exit 5\n")
        assert allowed.code == 5


async def test_a_service_that_is_switched_off(fleet: Fleet, tmp_path: Path) -> None:
    device = Device(tmp_path / "pi3", fleet.url, "pi3", extra="[services]\nexec = false\n")
    operator = Operator(tmp_path / "alice", fleet.url)
    device.trust(operator)
    operator.pin(device)
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        done = await edgeice(operator, "exec", "pi3", "--", "true")
    assert done.code == 1
    assert one_line(done).startswith("edgeice: unsupported")


# Devices that are not there


@pytest.mark.parametrize(("end", "state"), [(signal.SIGTERM, "off"), (signal.SIGKILL, "lost")])
async def test_a_device_that_is_away_is_said_at_once_and_tried(
    fleet: Fleet, tmp_path: Path, end: signal.Signals, state: str
) -> None:
    device = Device(tmp_path / "pi4", fleet.url, "pi4")
    device.trust(fleet.operator)
    operator = Operator(tmp_path / "alice", fleet.url)
    operator.pin(device)
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        agent.send(end)
        await agent.wait_exit()
    done = await edgeice(operator, "exec", "--timeout", "2", "pi4", "--", "true")
    assert done.code == 3
    notice, failure = done.stderr.splitlines()
    assert notice == f"edgeice: pi4 says it is {state}; trying anyway"
    assert failure.startswith("edgeice: pi4 did not answer")
    rows = (await edgeice(operator, "devices", "--json")).json()
    assert [row["state"] for row in rows if row["name"] == "pi4"] == [state]


async def test_a_device_that_was_off_is_reached_when_it_comes(fleet: Fleet, tmp_path: Path) -> None:
    device = Device(tmp_path / "pi5", fleet.url, "pi5")
    device.trust(fleet.operator)
    operator = Operator(tmp_path / "alice", fleet.url)
    operator.pin(device)
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        agent.send(signal.SIGKILL)
        await agent.wait_exit()
    results: list[Finished] = []
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            results.append(await edgeice(operator, "exec", "--timeout", "15", "pi5", "--", "echo", "here"))

        nursery.start_soon(run)
        with AgentProcess(device) as agent:
            await agent.wait_log("^ended ", start=len(agent.log()))
    assert (results[0].code, results[0].stdout) == (0, b"here\n")


async def test_a_name_that_nobody_has(fleet: Fleet) -> None:
    done = await edgeice(fleet.operator, "exec", "--timeout", "3600", "pl", "--", "true")  # it gives up before
    assert done.code == 3
    notice, failure = done.stderr.splitlines()
    assert notice == f"edgeice: nothing is known of home/d/pl at the broker yet: {UNSEEN}"
    assert failure == f"edgeice: nothing is known of home/d/pl at the broker: {UNSEEN}"


# The broker


async def refused_by_broker(tmp_path: Path, url: str, **access: object) -> tuple[Finished, str]:
    """What an operator hears, and what an agent writes in its second attempt."""
    operator = Operator(tmp_path / "alice", url, **access)  # type: ignore[arg-type]
    device = Device(tmp_path / "pi", url, **access)  # type: ignore[arg-type]
    operator.pin(device)
    with AgentProcess(device) as agent:
        first = await agent.wait_log("^broker-unreachable .*$")
        done = await exec_true(operator)
        second = await agent.wait_log("^broker-unreachable .*$", start=first.end())
    return done, second[0]


async def test_nothing_listens_at_the_broker(tmp_path: Path) -> None:
    port = free_port()
    done, log = await refused_by_broker(tmp_path, f"mqtt://127.0.0.1:{port}")
    assert done.code == 3
    assert one_line(done).startswith(f"edgeice: 127.0.0.1:{port} refuses connections")
    assert "kind=connection-refused" in log


async def test_wrong_password(tmp_path: Path) -> None:
    users = {f"{FLEET}/o/alice": "right", f"{FLEET}/d/pi": "right"}
    async with mosquitto(tmp_path, users=users) as broker:
        done, log = await refused_by_broker(tmp_path, f"mqtt://127.0.0.1:{broker.port}", password="wrong")
    assert done.code == 4
    assert one_line(done).startswith("edgeice: the broker refuses this user name and password")
    assert "kind=not-authorized" in log
    assert "wrong" not in log


async def test_right_password_and_certificate(tmp_path: Path) -> None:
    users = {f"{FLEET}/o/alice": "right", f"{FLEET}/d/pi": "right"}
    async with mosquitto(tmp_path, users=users, tls=True) as broker:
        assert broker.authority is not None
        url, ca = f"mqtts://localhost:{broker.tls_port}", broker.authority.cafile
        operator = Operator(tmp_path / "alice", url, password="right", ca=ca)
        device = Device(tmp_path / "pi", url, password="right", ca=ca)
        device.trust(operator)
        operator.pin(device)
        with AgentProcess(device) as agent:
            await agent.wait_log("^announced ")
            done = await exec_true(operator)
    assert (done.code, done.stderr) == (0, "")


async def test_a_certificate_of_an_authority_that_is_not_ours(tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other")
    async with mosquitto(tmp_path, tls=True) as broker:
        done, log = await refused_by_broker(tmp_path, f"mqtts://localhost:{broker.tls_port}", ca=other.cafile)
    assert done.code == 3
    assert one_line(done).startswith(f"edgeice: the certificate of localhost:{broker.tls_port} does not hold")
    assert "kind=tls-certificate" in log


async def test_a_broker_name_that_cannot_be_resolved(tmp_path: Path) -> None:
    done, log = await refused_by_broker(tmp_path, "mqtt://broker.invalid")
    assert done.code == 3
    assert one_line(done).startswith("edgeice: the broker's name 'broker.invalid' cannot be resolved")
    assert "kind=name-not-resolved" in log


# Configuration


def edited(device: Device, old: str, new: str) -> None:
    text = device.config.read_text()
    assert old in text
    device.config.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param("[ice]", "[ice]\nstunn = []", "unknown key ice.stunn; did you mean ice.stun?", id="unknown"),
        pytest.param("device =", "devise =", "unknown key devise; did you mean device?", id="mistyped"),
        pytest.param(
            "interfaces = false", "interfaces = 0", "ice.interfaces: expected true or false, not 0", id="type"
        ),
        pytest.param("[ice]", "[ice", "not valid TOML", id="toml"),
        pytest.param("mqtt://", "http://", "should be mqtts://HOST[:PORT]", id="url"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check"])
async def test_a_wrong_configuration(tmp_path: Path, command: str, old: str, new: str, said: str) -> None:
    device = Device(tmp_path / "pi", "mqtt://127.0.0.1:1")
    edited(device, old, new)
    done = await edgeice_agent(device, command)
    assert done.code == 2
    line = one_line(done)
    assert line.startswith("edgeice-agent: ")
    assert said in line
    assert str(device.config) in line
    if said == "not valid TOML":
        number = 1 + device.config.read_text().splitlines().index("[ice")
        assert f"line {number}" in line


async def test_a_key_that_others_may_read(tmp_path: Path) -> None:
    device = Device(tmp_path / "pi", "mqtt://127.0.0.1:1")
    path = device.folder / "device.key"
    path.chmod(0o644)
    for command in ("run", "check"):
        done = await edgeice_agent(device, command)
        assert done.code == 2
        said = f"edgeice-agent: {path}: others may read the device's key (mode 0644); run: chmod 600 {path}"
        assert one_line(done) == said


async def test_an_operators_wrong_configuration(tmp_path: Path) -> None:
    operator = Operator(tmp_path / "alice", "mqtt://127.0.0.1:1")
    operator.config.write_text(operator.config.read_text().replace("operator =", "operater ="))
    done = await exec_true(operator)
    assert done.code == 2
    assert one_line(done) == f"edgeice: {operator.config}: unknown key operater; did you mean operator?"


async def test_an_operators_key_that_others_may_read(tmp_path: Path) -> None:
    operator = Operator(tmp_path / "alice", "mqtt://127.0.0.1:1")
    path = operator.folder / "operator.key"
    path.chmod(0o640)
    done = await exec_true(operator)
    assert done.code == 2
    assert one_line(done) == f"edgeice: {path}: others may read your key (mode 0640); run: chmod 600 {path}"


async def test_an_operator_without_configuration(tmp_path: Path) -> None:
    operator = Operator(tmp_path / "alice", "mqtt://127.0.0.1:1")
    operator.config.unlink()
    done = await exec_true(operator)
    assert done.code == 2
    assert one_line(done) == f"edgeice: {operator.config}: no such file; `edgeice keys init` writes one"


# Garbage


async def publish(broker: Mosquitto, messages: list[tuple[str, bytes, bool]]) -> None:
    """Publish what anybody may whom the broker lets in: topic, payload, retained."""
    config = BrokerConfig(host="127.0.0.1", port=broker.port, client_id="vandal", persistent=False)
    client = MqttClient(config, will=lambda: None, entropy=Entropy.seeded(1))
    with trio.fail_after(10):
        async with client.events, trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            async for event in client.events:
                if isinstance(event, MqttConnected):
                    break
            for topic, payload, retain in messages:
                await client.publish(topic, payload, retain=retain)
            await client.disconnect()


def forged(claims: object) -> bytes:
    """A message that looks right up to its signature."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    header = {"alg": "EdDSA", "typ": "edgeice+jws", "kid": "x" * 43}
    return b".".join((part(json.dumps(header).encode()), part(json.dumps(claims).encode()), part(b"s" * 64)))


async def test_garbage_on_every_topic_is_counted_and_nobody_dies(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker:
        url = f"mqtt://127.0.0.1:{broker.port}"
        device = Device(tmp_path / "pi", url)
        operator = Operator(tmp_path / "alice", url)
        device.trust(operator)
        operator.pin(device)
        with AgentProcess(device) as agent:
            await agent.wait_log("^announced ")
            rx = device.topic("rx/alice")
            garbage = [b"", b"\xff\xfe", b"{}", b"a.b.c", b"[" * 30000, bytes(32 * 1024), forged({}), forged([])]
            await publish(broker, [(rx, each, False) for each in garbage])
            await publish(broker, [(device.topic("info"), each, True) for each in garbage[1:]])
            await publish(broker, [(device.topic("status"), each, True) for each in garbage[1:]])
            await publish(
                broker, [(device.topic(f"rx/{'x' * 65}"), b"long", False), (device.topic("rx/ü"), b"", False)]
            )
            expected = {
                "signaling.jws-form": 6,
                "signaling.unknown-key": 2,
                "presence.jws-form": 5,
                "presence.jwk": 1,
                "presence.claims": 1,
                "presence.status": 7,
                "presence.topic": 2,
            }
            with trio.fail_after(10):
                while (await agent.status())["drops"] != expected:
                    pass  # each question takes a process, so this does not spin
            # What stands in the device's name is put right, and the device can be reached.
            await agent.wait_log("^status-repaired ", patience=15)
            await agent.wait_log("^info-repaired", patience=15)
            done = await exec_true(operator)
            assert (done.code, done.stderr) == (0, "")
            rows = (await edgeice(operator, "devices", "--json")).json()
            assert [row["state"] for row in rows] == ["ready"]


async def test_garbage_as_the_operator_sees_it(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker:
        url = f"mqtt://127.0.0.1:{broker.port}"
        operator = Operator(tmp_path / "alice", url)
        device = Device(tmp_path / "pi", url)
        operator.pin(device)
        garbage = [b"\xff", b"{}", b"[" * 9000, forged({"v": 1})]
        for kind in ("info", "status"):
            for each in garbage:
                await publish(broker, [(device.topic(kind), each, True)])
        devices = await edgeice(operator, "devices", "--json")
        assert (devices.code, devices.stderr, devices.json()) == (0, "", [])
        done = await exec_true(operator)
        assert done.code == 3
        assert done.stderr.splitlines()[-1].startswith("edgeice: nothing is known of home/d/pi at the broker:")


# The end


async def test_sigterm_says_goodbye_and_publishes_off(fleet: Fleet, tmp_path: Path) -> None:
    device = Device(tmp_path / "pi6", fleet.url, "pi6")
    operator = Operator(tmp_path / "alice", fleet.url)
    device.trust(operator)
    operator.pin(device)
    results: list[Finished] = []
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                results.append(await edgeice(operator, "exec", "pi6", "--", "sh", "-c", "echo begun; sleep 60"))

            nursery.start_soon(run)
            await agent.wait_log("^opened ")
            agent.terminate()
            assert await agent.wait_exit() == 0
            assert "\nstopped\n" in agent.log()
    (done,) = results
    assert done.code == 3
    assert one_line(done) == "edgeice: the session with pi6 ended: shutdown: the agent stops"
    rows = (await edgeice(operator, "devices", "--json")).json()
    assert [row["state"] for row in rows if row["name"] == "pi6"] == ["off"]


async def test_a_second_agent_of_the_same_device_is_refused(fleet: Fleet) -> None:
    done = await edgeice_agent(fleet.device, "run")
    assert done.code == 2
    assert "another agent runs here" in done.stderr


async def test_status_where_no_agent_runs(tmp_path: Path) -> None:
    device = Device(tmp_path / "pi", "mqtt://127.0.0.1:1")
    done = await edgeice_agent(device, "status")
    assert done.code == 2
    assert "no agent answers there" in one_line(done)
    assert ROOT not in done.stderr
