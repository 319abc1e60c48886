"""`edgeice devices`, `edgeice ping`, and what `edgeice-agent` says of itself, end to end."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from edgeice import __version__
from edgeice.agent.log import Log
from edgeice.agent.service import Agent
from edgeice.net import InterfaceMonitor, InterfacePolicy
from edgeice.operator.config import load_config
from edgeice.operator.session import open_session
from edgeice.signaling import Party, PrivateKey, PublicKey
from edgeice.transport.uplinks import uplink
from tests.agent.conftest import Fleet
from tests.agent.kit import PATIENCE, WARNED_OF_ROOT, Device, Operator, edgeice, edgeice_agent, environment
from tests.support.brokers import Mosquitto

pytestmark = pytest.mark.slow


async def test_ping_says_round_trips_and_the_path(fleet: Fleet) -> None:
    done = await edgeice(fleet.operator, "ping", "--json", "-c", "5", "-i", "0.02", "pi")
    assert (done.code, done.stderr) == (0, "")
    *pings, summary = done.lines()
    assert [line["seq"] for line in pings] == [1, 2, 3, 4, 5]
    assert all(0 < line["ms"] < 1000 for line in pings)
    assert all(line["path"].startswith("host 127.0.0.1:") for line in pings)
    assert (summary["sent"], summary["received"]) == (5, 5)
    assert 0 < summary["min_ms"] <= summary["median_ms"] <= summary["max_ms"]
    verdict = summary["verdict"]
    assert (verdict["outcome"], verdict["state"]) == ("open", "connected")
    assert f"{verdict['path']['local']} -> {verdict['path']['remote']}" == pings[-1]["path"]


async def test_ping_for_people(fleet: Fleet) -> None:
    done = await edgeice(fleet.operator, "ping", "-c", "2", "-i", "0.02", "pi")
    assert (done.code, done.stderr) == (0, "")
    first, *_pings, summary = done.stdout.decode().splitlines()
    assert first.startswith("path: host 127.0.0.1:")
    assert " -> host 127.0.0.1:" in first
    assert summary.startswith("pi: 2 sent, 2 received, min/median/max ")


async def test_a_path_is_said_once_by_each_side(fleet: Fleet) -> None:
    start = len(fleet.agent.log())
    done = await edgeice(fleet.operator, "ping", "-c", "3", "-i", "0.02", "pi")
    assert done.code == 0
    assert [line for line in done.stdout.decode().splitlines() if line.startswith("path: ")] == [
        done.stdout.decode().splitlines()[0]
    ]
    await fleet.agent.wait_log("^ended ", start=start)
    lines = [line for line in fleet.agent.log()[start:].splitlines() if line.startswith("path ")]
    assert [line.rpartition(" path=")[2][:6] for line in lines] == ['"host ']


async def test_ping_until_interrupted(fleet: Fleet) -> None:
    command = [sys.executable, "-m", "edgeice.cli.main", "ping", "-i", "0.02", "pi"]
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment(fleet.operator.folder)
        )
        assert process.stdout is not None
        async with process.stdout:
            output = b""
            while b"seq=2 " not in output:
                output += await process.stdout.receive_some()
            process.send_signal(signal.SIGINT)
            async for data in process.stdout:
                output += data
            assert await process.wait() == 0
    assert " received, min/median/max " in output.decode().splitlines()[-1]


async def test_devices_as_json(fleet: Fleet) -> None:
    with InterfaceMonitor() as monitor:
        link = uplink(monitor.read(), InterfacePolicy())
    done = await edgeice(fleet.operator, "devices", "--json")
    assert (done.code, done.stderr) == (0, "")
    (row,) = [row for row in done.json() if row["name"] == "pi"]
    # Published some time after it changed, by whatever test ran then; see the test of it below.
    assert re.fullmatch(r"[0-8]/8", row.pop("sessions"))
    assert row == {
        "name": "pi",
        "state": "ready",
        "version": __version__,
        "key": fleet.device.key.fingerprint,
        "trust": "pinned",
        "link": link.kind,  # the same host
        "services": [f"edgeice.{name}.1" for name in ("exec", "forward", "ping", "shell", "telemetry", "signal")],
        "labels": {"site": "roof"},
    }


async def test_devices_say_how_many_sessions_there_are(
    broker: Mosquitto, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeice.agent.presence._REFRESH_DELAY", 0.05)
    url = f"mqtt://127.0.0.1:{broker.port}"
    device, operator = Device(tmp_path / "busy", url, "busy"), Operator(tmp_path / "alice", url)
    device.trust(operator)
    agent = Agent.load(device.config, Log("error", wall=lambda: 0.0))
    await nursery.start(agent.run)
    config = load_config(operator.config)
    key = PrivateKey.load(config.key.read_bytes(), source="operator.key")

    async def confirm(_device: Party, _key: PublicKey) -> bool:
        return True

    async def shown() -> str:
        rows = (await edgeice(operator, "devices", "--json")).json()
        (row,) = [row for row in rows if row["name"] == "busy"]
        return str(row["sessions"])

    with trio.fail_after(PATIENCE):
        async with open_session(config, key, "busy", pinned=None, want=(), confirm=confirm, watch=lambda _step: None):
            while await shown() != "1/8":
                pass  # each question takes a process, so this does not spin
        while await shown() != "0/8":
            pass
        with trio.CancelScope(shield=True):
            await agent._presence.leave()


async def test_devices_as_a_table(fleet: Fleet) -> None:
    done = await edgeice(fleet.operator, "devices")
    assert (done.code, done.stderr) == (0, "")
    head, *rows = done.stdout.decode().splitlines()
    assert head.split() == ["NAME", "STATE", "TRUST", "VERSION", "SESSIONS", "LABELS"]
    (row,) = [row for row in rows if row.startswith("pi ")]
    *known, sessions, labels = row.split()
    assert (known, labels) == (["pi", "ready", "pinned", __version__], "site=roof")
    assert re.fullmatch(r"[0-8]/8", sessions)


async def test_a_device_never_met_is_new(fleet: Fleet) -> None:
    stranger = Operator(fleet.folder / "stranger", fleet.url, "stranger")
    done = await edgeice(stranger, "devices", "--json")
    (row,) = [row for row in done.json() if row["name"] == "pi"]
    assert row["trust"] == "new"


async def test_status_of_the_agent(fleet: Fleet) -> None:
    status = await fleet.agent.status()
    assert status["version"] == __version__
    assert status["device"] == "home/d/pi"
    assert status["key"] == fleet.device.key.fingerprint
    assert status["broker"] == {"connected": True, "announced": True}
    assert [base["address"].rsplit(":", 1)[0] for base in status["bases"]] == ["127.0.0.1"]


async def test_status_says_what_passed_by_which_interface(fleet: Fleet) -> None:
    async def loopback() -> dict[str, Any]:
        (found,) = [each for each in (await fleet.agent.status())["interfaces"] if each["interface"] == "lo"]
        return {**found}

    before = await loopback()
    assert (before["link"], before["metered"], before["addresses"]) == ("other", False, ["127.0.0.1"])
    assert (await edgeice(fleet.operator, "ping", "--json", "-c", "3", "-i", "0.02", "pi")).code == 0
    after = await loopback()
    # Checks, a DTLS handshake with certificates, SCTP and three pings, each way.
    assert 1000 < after["sent"] - before["sent"] < 50_000
    assert 1000 < after["received"] - before["received"] < 50_000
    shown = (await edgeice_agent(fleet.device, "status")).stdout.decode()
    _, _, interfaces = shown.partition("\ninterfaces:\n")
    line = next(line for line in interfaces.splitlines() if line.startswith("  interface=lo "))
    assert re.search(r" link=other metered=False .*addresses=127\.0\.0\.1 sent=\d+ received=\d+$", line)


async def test_check_says_what_the_agent_would_do(fleet: Fleet) -> None:
    done = await edgeice_agent(fleet.device, "check", "--json")
    facts = done.json()
    assert (done.code, done.stderr) == (0, "")
    assert facts["device"] == "home/d/pi"
    assert facts["key"] == fleet.device.key.fingerprint
    assert facts["services"] == ["shell", "exec", "forward", "telemetry", "ping"]
    assert facts["operators"] == [
        {"operator": "alice", "key": fleet.operator.key.fingerprint, "can": ["shell", "exec"]}
    ]
    assert facts["warnings"] == WARNED_OF_ROOT
