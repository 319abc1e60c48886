"""From nothing to a first command, as the commands themselves tell it; and a change of trust under way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.agent.conftest import Fleet
from tests.agent.kit import PATIENCE, AgentProcess, Device, Operator, edgeice, edgeice_agent, environment
from tests.agent.terminal import on_terminal
from tests.support.brokers import Mosquitto

pytestmark = pytest.mark.slow

_LOOPBACK = '[ice]\nloopback = ["127.0.0.1"]\ninterfaces = false'


def on_loopback(config: Path) -> None:
    text = config.read_text()
    assert "[ice]" in text
    config.write_text(text.replace("[ice]", _LOOPBACK))


async def test_init_trust_run_exec(broker: Mosquitto, tmp_path: Path) -> None:
    url = f"mqtt://127.0.0.1:{broker.port}"
    device, operator = Device(tmp_path / "d", url, "new"), Operator(tmp_path / "o", url, "bob")
    for path in (device.config, device.folder / "device.key", operator.config, operator.folder / "operator.key"):
        path.unlink()

    made = await edgeice_agent(device, "init", "--fleet", "home", "--device", "new", "--broker", url)
    assert (made.code, made.stderr) == (0, "")
    assert (device.folder / "device.key").stat().st_mode & 0o777 == 0o600
    on_loopback(device.config)
    fingerprint = (await edgeice_agent(device, "check", "--json")).json()["key"]
    assert fingerprint in made.stdout.decode()

    keys = await edgeice(operator, "keys", "init", "--fleet", "home", "--operator", "bob", "--broker", url)
    assert (keys.code, keys.stderr) == (0, "")
    on_loopback(operator.config)
    shown = (await edgeice(operator, "keys", "show", "--json")).json()
    assert shown["fingerprint"] in keys.stdout.decode()

    added = await edgeice_agent(
        device, "trust", "add", "--operator", "bob", "--can", "exec", "-", stdin=shown["key"].encode()
    )
    assert (added.code, added.stderr) == (0, "")
    assert shown["fingerprint"] in added.stdout.decode()
    assert shown["fingerprint"] in (await edgeice_agent(device, "trust", "list")).stdout.decode()

    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        done = await edgeice(operator, "exec", f"--accept-key={fingerprint}", "new", "--", "echo", "hello")
    assert (done.code, done.stdout, done.stderr) == (0, b"hello\n", "")


async def test_init_overwrites_nothing(tmp_path: Path) -> None:
    device = Device(tmp_path / "d", "mqtt://127.0.0.1:1")
    operator = Operator(tmp_path / "o", "mqtt://127.0.0.1:1")
    before = [path.read_bytes() for path in (device.config, operator.config)]
    names = ("--fleet", "other", "--broker", "mqtt://x")
    made = await edgeice_agent(device, "init", "--device", "a", *names)
    keys = await edgeice(operator, "keys", "init", "--operator", "b", *names)
    assert (made.code, made.stderr) == (2, f"edgeice-agent: {device.config}: exists already; edit or remove it\n")
    assert (keys.code, keys.stderr) == (2, f"edgeice: {operator.config}: exists already; edit or remove it\n")
    assert [path.read_bytes() for path in (device.config, operator.config)] == before


async def encrypted(operator: Operator) -> Path:
    key = operator.folder / "operator.key"
    await trio.run_process(["ssh-keygen", "-q", "-p", "-N", "secret", "-P", "", "-f", str(key)], capture_stdout=True)
    return key


async def test_an_encrypted_openssh_key_asks_for_its_passphrase(fleet: Fleet, tmp_path: Path) -> None:
    operator = Operator(tmp_path / "o", fleet.url)
    operator.pin(fleet.device)
    key = await encrypted(operator)
    async with on_terminal(operator, "exec", "pi", "--", "echo", "hello") as terminal:
        await terminal.expect(f"Passphrase for {key}: ")
        await terminal.type("secret\n")
        await terminal.expect("hello")
        assert await terminal.end() == 0
        assert b"secret" not in terminal.screen
    async with on_terminal(operator, "keys", "show") as terminal:
        await terminal.expect("Passphrase")
        await terminal.type("guess\n")
        assert await terminal.end() == 2
        assert b"the passphrase is wrong" in terminal.screen


async def test_an_encrypted_key_where_nobody_can_be_asked(fleet: Fleet, tmp_path: Path) -> None:
    operator = Operator(tmp_path / "o", fleet.url)
    key = await encrypted(operator)
    command = [sys.executable, "-m", "edgeice.cli.main", "exec", "pi", "--", "true"]
    # A session of its own has no terminal, also where the tests are run on one.
    done = await trio.run_process(
        command, start_new_session=True, capture_stderr=True, check=False, env=environment(operator.folder)
    )
    assert done.returncode == 2
    assert done.stderr.decode().startswith(f"edgeice: {key}: the key is encrypted, and nobody can be asked")
    assert done.stderr.count(b"\n") == 1


async def test_sighup_ends_sessions_of_a_key_that_is_trusted_no_more(fleet: Fleet, tmp_path: Path) -> None:
    device, operator = Device(tmp_path / "pi8", fleet.url, "pi8"), Operator(tmp_path / "alice", fleet.url)
    device.trust(operator)
    operator.pin(device)
    with AgentProcess(device) as agent, trio.fail_after(PATIENCE):
        await agent.wait_log("^announced ")
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "edgeice.cli.main", "exec", "pi8", "--", "cat"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(operator.folder),
        )
        assert process.stderr is not None
        await agent.wait_log("^opened ")
        (device.folder / "authorized_operators").write_text("")
        agent.hang_up()
        assert await process.wait() == 3
        async with process.stderr:
            said = await process.stderr.receive_some()
        await agent.wait_log("^reloaded")
        await agent.wait_log("^ended ")
    assert said.startswith(b"edgeice: the session with pi8 ended: revoked")


async def test_a_broken_file_at_sighup_changes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    device, operator = Device(tmp_path / "pi9", fleet.url, "pi9"), Operator(tmp_path / "alice", fleet.url)
    device.trust(operator)
    operator.pin(device)
    with AgentProcess(device) as agent:
        await agent.wait_log("^announced ")
        text = device.config.read_text()
        device.config.write_text("[broken")
        agent.hang_up()
        await agent.wait_log("^reload-failed ")
        device.config.write_text(text)
        done = await edgeice(operator, "exec", "pi9", "--", "true")
        assert (done.code, done.stderr) == (0, "")


async def test_log_lines_as_json(fleet: Fleet, tmp_path: Path) -> None:
    device = Device(tmp_path / "pi10", fleet.url, "pi10", extra="json = true\n")
    with AgentProcess(device) as agent:
        await agent.wait_log('"event": "announced"')
    lines = [json.loads(line) for line in agent.log().splitlines()]
    assert [line["event"] for line in lines if line["level"] == "info"] == [
        "started",
        "broker-connected",
        "announced",
        "stopping",
        "stopped",
    ]
    assert all(line["time"] > 0 for line in lines)
