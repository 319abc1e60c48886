"""What the broker's access rules forbid is said in a line, and nothing hangs; and sessions over IPv6."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from edgeice.operator.config import load_config
from edgeice.operator.session import open_session
from edgeice.services import PING_PROTOCOL, PingClient
from edgeice.signaling import Party, PrivateKey, PublicKey
from tests.agent.conftest import Fleet
from tests.agent.kit import FLEET, ROOT, AgentProcess, Device, Finished, Operator, edgeice
from tests.support.brokers import free_port, mosquitto
from tests.support.scripted_broker import SUBSCRIBE, ScriptedBroker, suback

pytestmark = pytest.mark.slow

ALICE, PI = f"{FLEET}/o/alice", f"{FLEET}/d/pi"
USERS = {ALICE: "secret", PI: "secret"}

#: What each may do: user, kind of access, topic.
RULES = (
    (ALICE, "read", f"{ROOT}/{FLEET}/d/+/status"),
    (ALICE, "read", f"{ROOT}/{FLEET}/d/+/info"),
    (ALICE, "read", f"{ROOT}/{FLEET}/o/alice/#"),
    (ALICE, "write", f"{ROOT}/{FLEET}/d/pi/rx/alice"),
    (PI, "readwrite", f"{ROOT}/{FLEET}/d/pi/status"),
    (PI, "readwrite", f"{ROOT}/{FLEET}/d/pi/info"),
    (PI, "write", f"{ROOT}/{FLEET}/d/pi/audit"),
    (PI, "read", f"{ROOT}/{FLEET}/d/pi/rx/+"),
    (PI, "write", f"{ROOT}/{FLEET}/o/alice/rx/pi"),
)

#: What is refused is said when it is refused: nothing ends because such a time has passed.
LONG = ("--timeout", "3600")


def rules_without(*left_out: tuple[str, str]) -> str:
    """An ACL file that lacks the rules of these users for topics that end so."""
    kept = [rule for rule in RULES if not any(rule[0] == user and rule[2].endswith(end) for user, end in left_out)]
    assert len(RULES) - len(kept) == len(left_out)
    return "".join(
        f"user {user}\n" + "".join(f"topic {access} {topic}\n" for name, access, topic in kept if name == user)
        for user in USERS
    )


async def tried(tmp_path: Path, acl: str, log: str, *options: str) -> tuple[Finished, str]:
    """What an operator hears once this stands in the agent's log, and the log."""
    async with mosquitto(tmp_path, users=USERS, acl=acl) as broker:
        url = f"mqtt://127.0.0.1:{broker.port}"
        device, operator = (
            Device(tmp_path / "pi", url, password="secret"),
            Operator(tmp_path / "alice", url, password="secret"),
        )
        device.trust(operator)
        operator.pin(device)
        with AgentProcess(device) as agent:
            await agent.wait_log(log)
            done = await edgeice(operator, "exec", *options, "pi", "--", "true")
            return done, agent.log()


async def test_these_rules_are_enough(tmp_path: Path) -> None:
    done, log = await tried(tmp_path, rules_without(), "^announced ")
    assert (done.code, done.stderr) == (0, "")
    assert "-refused " not in log


async def test_the_operator_may_not_write_to_the_device(tmp_path: Path) -> None:
    done, _log = await tried(tmp_path, rules_without((ALICE, "/rx/alice")), "^announced ", *LONG)
    assert done.code == 4
    said = f"edgeice: the broker does not let {ALICE} write {ROOT}/{PI}/rx/alice: the broker refuses the message: "
    assert done.stderr == f"{said}Not authorized\n"


async def test_the_operator_may_not_read_of_the_device(tmp_path: Path) -> None:
    done, _log = await tried(tmp_path, rules_without((ALICE, "/info"), (ALICE, "/status")), "^announced ", *LONG)
    assert done.code == 3
    # mosquitto grants every subscription and then delivers nothing.
    failure = done.stderr.splitlines()[-1]
    assert failure == (
        f"edgeice: nothing is known of {PI} at the broker: is its name right, and may you read its topics there?"
    )


async def test_the_operator_may_not_read_what_is_for_it(tmp_path: Path) -> None:
    done, log = await tried(tmp_path, rules_without((ALICE, "/o/alice/#")), "^announced ", "--timeout", "1")
    assert done.code == 3
    assert done.stderr.startswith("edgeice: pi did not answer")
    assert len(done.stderr.splitlines()) == 1
    assert "\noffered operator=alice" in log


async def test_the_device_may_not_answer(tmp_path: Path) -> None:
    done, log = await tried(tmp_path, rules_without((PI, "/rx/pi")), "^announced ", "--timeout", "1")
    assert done.code == 3
    assert done.stderr.startswith("edgeice: pi did not answer")
    assert len(done.stderr.splitlines()) == 1
    assert "\noffered operator=alice" in log


async def test_the_device_may_not_publish_itself(tmp_path: Path) -> None:
    acl = rules_without((PI, "/info"))
    done, _log = await tried(tmp_path, acl, "^publish-(failed|refused) .*Not authorized", "--timeout", "6")
    assert done.code == 3
    assert done.stderr.splitlines()[-1].startswith(f"edgeice: nothing is known of {PI} at the broker: ")


async def test_a_broker_that_refuses_the_operators_subscription(tmp_path: Path) -> None:
    results: list[Finished] = []
    async with ScriptedBroker() as broker:
        operator = Operator(tmp_path / "alice", f"mqtt://127.0.0.1:{broker.port}")
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                results.append(await edgeice(operator, "exec", *LONG, "pi", "--", "true"))

            nursery.start_soon(run)
            session = await broker.accept()
            await session.welcome()
            subscribe = await session.expect(SUBSCRIBE)
            await session.send(suback(int.from_bytes(subscribe.body[:2]), b"\x87\1\1"))
    (done,) = results
    assert done.code == 4
    said = f"edgeice: the broker refuses to let {ALICE} read {ROOT}/{ALICE}/rx/pi: Not authorized\n"
    assert done.stderr == said


async def test_everything_over_ipv6(tmp_path: Path) -> None:
    port = free_port()
    async with mosquitto(tmp_path, extra=f"listener {port} ::1"):
        url = f"mqtt://[::1]:{port}"
        device, operator = Device(tmp_path / "pi", url), Operator(tmp_path / "alice", url)
        for config in (device.config, operator.config):
            config.write_text(config.read_text().replace('"127.0.0.1"', '"::1"'))
        device.trust(operator)
        operator.pin(device)
        with AgentProcess(device) as agent:
            await agent.wait_log("^announced ")
            done = await edgeice(operator, "ping", "--json", "-c", "2", "-i", "0.02", "pi")
    assert (done.code, done.stderr) == (0, "")
    first, _second, summary = done.lines()
    assert first["path"].startswith("host [::1]:")
    assert " -> host [::1]:" in first["path"]
    assert (summary["sent"], summary["received"]) == (2, 2)


@pytest.fixture
def mock_clock() -> trio.testing.MockClock:
    """Time runs, as broker and device are at real sockets; a person's time is jumped over."""
    return trio.testing.MockClock(rate=1.0)


async def test_a_person_may_take_longer_than_the_timeout(
    fleet: Fleet, tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    config = load_config(Operator(tmp_path / "alice", fleet.url).config)
    key = PrivateKey.load(config.key.read_bytes(), source="operator.key")

    async def compare(_device: Party, shown: PublicKey) -> bool:
        mock_clock.jump(45)
        await trio.testing.wait_all_tasks_blocked()
        return shown.fingerprint == fleet.device.key.fingerprint

    async with open_session(
        config, key, "pi", pinned=None, want=(), confirm=compare, watch=lambda _step: None, timeout=5
    ) as session:
        assert await PingClient(await session.open(PING_PROTOCOL)).round_trip() > 0
