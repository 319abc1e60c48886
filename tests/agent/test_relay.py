"""A device and an operator that let each other see only relayed addresses, over a real coturn.

The device has its credentials from an issuer, by the broker; the operator has them in a file.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest

from edgeice.sansio import Entropy
from edgeice.signaling import Party, PrivateKey
from edgeice.signaling.broker import BrokerConfig, MqttConnected
from edgeice.signaling.relay import RelayCredentials, sign_relay
from edgeice.turn import rest_credentials
from tests.agent.kit import FLEET, AgentProcess, Device, Operator, edgeice
from tests.support.brokers import Mosquitto
from tests.support.coturn import COTURN, Coturn, coturn
from tests.support.mqtt_clients import running

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(COTURN is None, reason="coturn is not installed"),
]

ISSUER, STRANGER = (PrivateKey.generate(Entropy.seeded(number)) for number in (1, 2))
NAME = "relayed"


@attrs.frozen
class Meeting:
    """A broker, a relay, a device that has no credentials yet, and an operator that has."""

    broker: Mosquitto
    relay: Coturn
    device: Device
    operator: Operator

    @property
    def uri(self) -> str:
        return f"turn:127.0.0.1:{self.relay.address.port}"

    async def hand_out(self, key: PrivateKey, *, iat: float | None = None, to: str = NAME) -> None:
        """Publish credentials for the device, as its issuer does, or somebody who would like to be it."""
        now = time.time() if iat is None else iat
        login = rest_credentials(self.relay.secret, expires_at=int(now) + 600, user=to)
        relay = RelayCredentials(
            iss="relays",
            iat=int(now),
            exp=int(now) + 600,
            urls=(self.uri,),
            username=login.username,
            credential=login.password,
        )
        payload = sign_relay(Party.device(FLEET, to), relay, key)
        config = BrokerConfig(host="127.0.0.1", port=self.broker.port, client_id="issuer", keepalive=60)
        async with running(config) as issuer:
            await issuer.next(MqttConnected)
            await issuer.client.publish(self.device.topic("turn"), payload, retain=True)


def only_relayed(config: Path, section: str) -> None:
    """Tell no address of this host, and use relays."""
    text = config.read_text()
    config.write_text(
        text.replace("interfaces = false\n", f'interfaces = false\npolicy = "relay"\n[turn]\n{section}\n')
    )


@pytest.fixture
async def meeting(broker: Mosquitto, tmp_path: Path) -> AsyncIterator[Meeting]:
    url = f"mqtt://127.0.0.1:{broker.port}"
    async with coturn(tmp_path) as relay:
        device, operator = Device(tmp_path / "pi", url, NAME), Operator(tmp_path / "alice", url)
        device.trust(operator)
        operator.pin(device)
        login = rest_credentials(relay.secret, expires_at=int(time.time()) + 600, user="alice")
        (operator.folder / "relay.password").write_text(login.password)
        (operator.folder / "relay.password").chmod(0o600)
        met = Meeting(broker, relay, device, operator)
        only_relayed(
            operator.config,
            f'urls = ["{met.uri}"]\nusername = "{login.username}"\npassword_file = "relay.password"',
        )
        only_relayed(device.config, f'issuer = "{ISSUER.public.openssh()}"')
        yield met


async def test_a_session_over_relays_with_credentials_that_an_issuer_handed_out(meeting: Meeting) -> None:
    await meeting.hand_out(ISSUER)
    with AgentProcess(meeting.device) as agent:
        await agent.wait_log(r"^relay-credentials issuer=relays ")
        await agent.wait_log("^announced ")
        done = await edgeice(meeting.operator, "ping", "--json", "-c", "3", "-i", "0.02", NAME)
        assert (done.code, done.stderr) == (0, "")
        *pings, _summary = done.lines()
        assert [bool(re.match(r"relay 127\.0\.0\.1:\d+ -> relay ", line["path"])) for line in pings] == [True] * 3
        done = await edgeice(meeting.operator, "exec", NAME, "--", "sh", "-c", "cat", stdin=b"x" * 300_000)
        assert (done.code, len(done.stdout), done.stderr) == (0, 300_000, "")
    log = meeting.relay.log()
    # Each side by its own name.  The device had one allocation for both sessions; nobody left one behind.
    assert re.search(rf"username=<\d+:{NAME}>", log)
    assert re.search(r"username=<\d+:alice>", log)
    assert len(re.findall(r"lifetime=0\b", log)) == 3
    assert meeting.relay.secret not in agent.log()


async def test_host_25_only_the_issuer_hands_out_relays(meeting: Meeting) -> None:
    with AgentProcess(meeting.device) as agent:
        await agent.wait_log("^announced ")
        await meeting.hand_out(STRANGER)
        await agent.wait_log(r"^relay-credentials-refused reason=.*jws-key")
        await meeting.hand_out(ISSUER, to="another")
        await agent.wait_log(r"^relay-credentials-refused reason=.*audience")
        await meeting.hand_out(ISSUER)
        await agent.wait_log(r"^relay-credentials issuer=relays ")
        await meeting.hand_out(ISSUER, iat=time.time() - 300)
        await agent.wait_log(r"^relay-credentials-refused reason=.*stale")
        done = await edgeice(meeting.operator, "ping", "--json", "-c", "1", NAME)
        assert (done.code, done.stderr) == (0, "")


@pytest.fixture
def issuer(meeting: Meeting) -> list[str]:
    """The options of `edgeice relay issue` that say who hands out what."""
    folder = meeting.operator.folder
    for name, content in (("secret", f"{meeting.relay.secret}\n".encode()), ("key", ISSUER.openssh_bytes())):
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(content)
    return ["--secret", str(folder / "secret"), "--key", str(folder / "key"), "--url", meeting.uri]


async def test_credentials_that_a_command_handed_out_open_a_relay(meeting: Meeting, issuer: list[str]) -> None:
    done = await edgeice(meeting.operator, "relay", "issue", "--json", "--lifetime", "600", *issuer, f"d/{NAME}")
    assert (done.code, done.stderr) == (0, "")
    (line,) = done.lines()
    assert line["party"] == f"{FLEET}/d/{NAME}"
    assert line["username"] == f"{line['until']}:{NAME}"
    assert 590 < line["until"] - time.time() <= 600
    with AgentProcess(meeting.device) as agent:
        await agent.wait_log(r"^relay-credentials issuer=home/o/alice ")
        await agent.wait_log("^announced ")
        done = await edgeice(meeting.operator, "ping", "--json", "-c", "1", NAME)
        assert (done.code, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["pi17"], 2, "'pi17': expected d/DEVICE or o/OPERATOR"),
        (["d/a/b"], 2, "'d/a/b': expected d/DEVICE or o/OPERATOR"),
        (["--url", "stun:relay.example", "d/pi17"], 2, "turn: 'stun:relay.example': expected turn:HOST"),
        (["--lifetime", "5", "d/pi17"], 2, "'--lifetime': 5 is not in the range"),
        (["--secret", "/nowhere", "d/pi17"], 2, "/nowhere"),
        ([], 2, "Missing argument"),
    ],
)
async def test_what_no_credentials_are_handed_out_for(
    meeting: Meeting, issuer: list[str], more: list[str], code: int, said: str
) -> None:
    done = await edgeice(meeting.operator, "relay", "issue", *issuer, *more)
    assert (done.code, done.stdout) == (code, b"")
    assert said in done.stderr


async def test_a_secret_that_others_can_read_is_refused(meeting: Meeting, issuer: list[str]) -> None:
    (meeting.operator.folder / "secret").chmod(0o644)
    done = await edgeice(meeting.operator, "relay", "issue", *issuer, "d/pi17")
    assert (done.code, done.stdout) == (2, b"")
    assert "the relay's shared secret" in done.stderr
