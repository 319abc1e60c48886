"""Traces of both ends: every step as JSON lines, pseudonyms where asked for, and never a secret."""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from edgeice.agent.log import Log
from edgeice.agent.service import Agent
from edgeice.operator.config import load_config
from edgeice.operator.session import Session, open_session
from edgeice.services import PING_PROTOCOL, PingClient
from edgeice.signaling import Party, PrivateKey, PublicKey
from edgeice.trace import Record, Tracer, entry_of
from tests.agent.conftest import Fleet
from tests.agent.kit import AgentProcess, Device, Operator, edgeice, edgeice_agent
from tests.support.brokers import Mosquitto

pytestmark = pytest.mark.slow

ADDRESS = re.compile(r"127\.0\.0\.\d")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_an_operators_trace_has_every_step_of_a_session(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    done = await edgeice(fleet.operator, "ping", "-c", "1", "--trace", str(path), "pi")
    assert (done.code, done.stderr) == (0, "")
    assert path.stat().st_mode & 0o777 == 0o600
    found = lines(path)
    names = [f"{entry['layer']}.{entry['name']}" for entry in found]
    for name in (
        "session.broker",
        "net.base_opened",
        "peer.local_candidate",
        "signaling.AnswerReceived",
        "peer.remote_candidate",
        "ice.pair_formed",
        "ice.check_sent",
        "ice.check_succeeded",
        "ice.pair_changed",
        "peer.PairNominated",
        "peer.state",
        "session.connected",
        "session.verdict",
        "net.base_closed",
    ):
        assert name in names, name
    assert names[0] == "trace.began"
    assert [entry["at"] for entry in found[1:]] == sorted(entry["at"] for entry in found[1:])
    (verdict,) = [entry for entry in found if entry["name"] == "verdict"]
    assert (verdict["outcome"], verdict["step"], verdict["reason"]) == ("ended", "closed", "closed here")
    assert verdict["path"]["local"].startswith("host 127.0.0.1:")
    assert list(verdict["phases"]) == ["broker", "device", "offer", "checking", "securing", "connected"]


async def test_a_trace_that_is_redacted_has_no_address_and_tells_them_apart(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    done = await edgeice(fleet.operator, "ping", "-v", "--json", "-c", "1", "--redact", "--trace", str(path), "pi")
    assert done.code == 0
    for text in (path.read_text(), done.stdout.decode(), done.stderr):
        assert not ADDRESS.search(text)
    (formed,) = [entry for entry in lines(path) if entry["name"] == "pair_formed"]
    assert re.fullmatch(r"ip4-loopback-1:\d+->ip4-loopback-1:\d+", formed["path"])
    ping = done.lines()[0]
    assert ping["path"] == re.sub("->", " -> host ", f"host {formed['path']}")


async def test_what_failed_can_be_given_away_without_addresses(fleet: Fleet) -> None:
    for form in ("--json", "--quiet"):
        done = await edgeice(fleet.operator, "exec", "--redact", form, "--timeout", "0.3", "nobody", "--", "true")
        assert done.code == 3
        assert not ADDRESS.search(done.stdout.decode() + done.stderr)
    plain = await edgeice(fleet.operator, "exec", "--json", "--timeout", "0.3", "nobody", "--", "true")
    assert ADDRESS.search(plain.stdout.decode())


async def test_a_trace_needs_a_session_of_its_own(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    assert (await edgeice(fleet.operator, "session", "--background", "pi")).code == 0
    try:
        shared = await edgeice(fleet.operator, "exec", "-v", "pi", "--", "true")
        assert "using the session that process" in shared.stderr
        ping = await edgeice(fleet.operator, "ping", "--redact", "-c", "1", "pi")
        assert ping.stdout.startswith(b"path: host ip4-loopback-1:")
        own = await edgeice(fleet.operator, "exec", "-v", "--trace", str(path), "pi", "--", "true")
        assert "using the session that process" not in own.stderr
        assert (shared.code, own.code) == (0, 0)
    finally:
        await edgeice(fleet.operator, "session", "--stop", "pi")
    assert len([entry for entry in lines(path) if entry["name"] == "verdict"]) == 1


async def test_a_place_where_no_trace_can_be_written_is_said_before_anything_is_tried(fleet: Fleet) -> None:
    done = await edgeice(fleet.operator, "ping", "-c", "1", "--trace", "/no/such/folder", "pi")
    assert done.code == 2
    assert done.stderr == "edgeice: /no/such/folder: cannot be written: No such file or directory\n"


@pytest.fixture
def traced(broker: Mosquitto, tmp_path: Path) -> Iterator[tuple[AgentProcess, Operator]]:
    """A device that traces, with pseudonyms."""
    url = f"mqtt://127.0.0.1:{broker.port}"
    device = Device(tmp_path / "pi", url, "traced", extra='[trace]\nfile = "trace"\nredact = true\n')
    operator = Operator(tmp_path / "alice", url)
    device.trust(operator)
    operator.pin(device)
    with AgentProcess(device) as agent:
        agent.wait_log_sync("^announced ")
        yield agent, operator


async def test_a_devices_trace_says_whose_each_session_was_and_what_became_of_it(
    traced: tuple[AgentProcess, Operator],
) -> None:
    agent, operator = traced
    for _ in range(2):
        assert (await edgeice(operator, "exec", "traced", "--", "true")).code == 0
    await agent.wait_log("(?s)^ended .*^ended ")
    path = agent.device.folder / "trace"
    found = lines(path)
    assert path.stat().st_mode & 0o777 == 0o600
    offered = [entry for entry in found if entry["name"] == "offered"]
    verdicts = [entry for entry in found if entry["name"] == "verdict"]
    assert [entry["operator"] for entry in offered] == ["alice"] * 2
    assert [entry["session"] for entry in offered] == [entry["session"] for entry in verdicts] == [1, 2]
    assert [entry["outcome"] for entry in verdicts] == ["ended"] * 2
    assert all(entry["path"]["local"].startswith("host ip4-loopback-1:") for entry in verdicts)
    for number in (1, 2):
        names = [entry["name"] for entry in found if entry.get("session") == number]
        assert {"offered", "local_candidate", "pair_formed", "state"} <= set(names)
    assert not ADDRESS.search(path.read_text())
    assert "trace.jsonl" not in agent.log()
    assert ADDRESS.search(agent.log())  # the journal is the device's own


async def test_check_says_where_no_trace_can_be_written(tmp_path: Path) -> None:
    for file, said in (("none/trace", "cannot be written"), (".", "it is a folder")):
        device = Device(tmp_path / said.replace(" ", "-"), "mqtt://127.0.0.1:1", extra=f'[trace]\nfile = "{file}"\n')
        done = await edgeice_agent(device, "check")
        assert done.code == 2
        assert said in done.stderr


# Secrets


@asynccontextmanager
async def both_ends(broker: Mosquitto, folder: Path, tracer: Tracer) -> AsyncIterator[tuple[Agent, Session, list[str]]]:
    """A device and an operator in this process that are traced, and all secrets of both."""
    url, password = f"mqtt://127.0.0.1:{broker.port}", "hush-the-broker"
    device = Device(folder / "pi", url, "secretive", password=password)
    operator = Operator(folder / "alice", url, password=password)
    device.trust(operator)
    agent = Agent.load(device.config, Log(stream=io.StringIO(), wall=lambda: 0.0))
    agent._tracer = tracer
    config = load_config(operator.config)
    key = PrivateKey.load(config.key.read_bytes(), source="operator.key")

    async def confirm(_device: Party, _key: PublicKey) -> bool:
        return True

    secrets = [password, device.key.d, operator.key.d, device.key.seed.hex(), operator.key.seed.hex()]
    async with trio.open_nursery() as nursery:
        await nursery.start(agent.run)
        async with open_session(
            config,
            key,
            "secretive",
            pinned=None,
            want=(),
            confirm=confirm,
            watch=lambda _step: None,
            trace=tracer,
        ) as session:
            yield agent, session, secrets
        await agent._sessions.wait_idle()
        nursery.cancel_scope.cancel()


async def test_no_secret_of_either_end_is_in_any_trace(broker: Mosquitto, tmp_path: Path) -> None:
    records: list[Record] = []
    restarted = trio.Event()

    def keep(record: Record) -> None:
        records.append(record)
        if record.name == "RestartSucceeded":
            restarted.set()

    async with both_ends(broker, tmp_path, keep) as (agent, session, secrets):
        await PingClient(await session.open(PING_PROTOCOL)).round_trip(8)

        def note() -> None:
            (running,) = agent._sessions._sessions.values()
            for peer in (session.peer, running.signaled.peer):
                ice = peer._connection._link.ice
                secrets.extend(generation.local.pwd for generation in ice._slots.all())
                secrets.extend(generation.local.key.hex() for generation in ice._slots.all())

        note()
        assert session._signaled is not None
        session._signaled.restart()
        with trio.fail_after(5):
            await restarted.wait()
        note()
    text = json.dumps([entry_of(record) for record in records])
    assert {record.name for record in records} >= {"verdict", "pair_formed", "local_candidate", "RestartSucceeded"}
    assert len(set(secrets)) >= 11
    for secret in secrets:
        assert secret not in text
    assert "ice-pwd" not in text
