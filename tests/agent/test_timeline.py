"""A connection that fails says step by step what was tried."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from edgeice.addresses import Path as Route
from edgeice.agent.log import Log
from edgeice.agent.service import Agent
from tests.agent.kit import Device, Operator, edgeice
from tests.support.brokers import Mosquitto

pytestmark = pytest.mark.slow


def drop(data: bytes, path: Route) -> None:
    """Lose a datagram."""


@pytest.fixture
async def deaf(broker: Mosquitto, tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Operator]:
    """An operator, and a device that answers by the broker and gets no datagram, as behind a firewall."""
    url = f"mqtt://127.0.0.1:{broker.port}"
    device, operator = Device(tmp_path / "pi", url, "deaf"), Operator(tmp_path / "alice", url)
    device.trust(operator)
    operator.pin(device)
    agent = Agent.load(device.config, Log(stream=io.StringIO(), wall=lambda: 0.0))
    await nursery.start(agent.run)
    agent._node._driver._deliver = drop  # type: ignore[method-assign]
    yield operator
    with trio.CancelScope(shield=True):
        await agent._presence.leave()


async def test_json_holds_the_whole_timeline(deaf: Operator) -> None:
    done = await edgeice(deaf, "exec", "--json", "--timeout", "1.5", "deaf", "--", "true")
    assert (done.code, done.stderr) == (3, "")
    failure = done.json()
    assert failure["step"] == "checks"
    timeline = failure["tried"]["timeline"]
    assert [entry["at"] for entry in timeline] == sorted(entry["at"] for entry in timeline)
    steps = [entry["name"] for entry in timeline if entry["layer"] == "session"]
    assert steps == ["broker", "device", "offer", "checks"]
    names = [f"{entry['layer']}.{entry['name']}" for entry in timeline]
    for name in ("net.base_opened", "signaling.AnswerReceived", "connection.StateChanged"):
        assert name in names
    checks = [entry["path"] for entry in timeline if entry["name"] == "check_sent"]
    assert checks
    assert all(path.startswith("127.0.0.1:") for path in checks)
    assert names.index("signaling.AnswerReceived") < names.index("ice.check_sent")
    assert "ice-pwd" not in done.stdout.decode()


async def test_json_holds_the_whole_verdict(deaf: Operator) -> None:
    done = await edgeice(deaf, "exec", "--json", "--timeout", "1.5", "deaf", "--", "true")
    verdict = done.json()["verdict"]
    assert {name: verdict[name] for name in ("outcome", "step", "state", "reason", "path", "role", "generation")} == {
        "outcome": "failed",
        "step": "checks",
        "state": "checking",
        "reason": "no candidate pair answered (waited 1.5 s)",
        "path": None,
        "role": "controlling",
        "generation": 0,
    }
    assert list(verdict["phases"]) == ["broker", "device", "offer", "checking"]
    (pair,) = verdict["pairs"]
    assert pair["local"].startswith("host 127.0.0.1:")
    assert (pair["state"], pair["responses_received"]) == ("in_progress", 0)
    assert pair["requests_sent"] >= 2
    assert [base["address"] for base in verdict["bases"]] == [pair["local"].removeprefix("host ")]
    assert verdict["servers"] == verdict["left_out"] == []
    assert verdict["local_candidates"] == verdict["remote_candidates"] == {"host": 1}


async def test_people_are_shown_the_timeline_under_the_failure(deaf: Operator) -> None:
    done = await edgeice(deaf, "exec", "--timeout", "1.5", "deaf", "--", "true")
    assert done.code == 3
    failure, why, tried, time, *lines = done.stderr.splitlines()
    assert why.startswith("  checks of the device came, but no answer to one from here: ")
    assert failure == "edgeice: no candidate pair answered (waited 1.5 s)"
    # The device gets nothing, and sends its own.
    silent = "no answer to [2-4] checks, though the device's own came"
    assert re.fullmatch(rf"  tried host 127\.0\.0\.1:\d+ -> host 127\.0\.0\.1:\d+: {silent}", tried)
    assert re.fullmatch(r"  time: broker \d\.\d\d s, device \d\.\d\d s, offer \d\.\d\d s, checking [01]\.\d\d s", time)
    assert any("s session.offer" in line for line in lines)
    assert any("s ice.check_sent session=1 path=" in line for line in lines)
    assert all(line.startswith("  ") for line in lines)


async def test_verbose_says_each_step_when_it_is_taken(deaf: Operator) -> None:
    done = await edgeice(deaf, "exec", "-v", "--timeout", "1.5", "deaf", "--", "true")
    looked, *steps, failure, why, tried, time = done.stderr.splitlines()
    assert looked.startswith("edgeice: no session is shared: there is no ")
    assert (why[:9], tried[:8], time[:8]) == ("  checks ", "  tried ", "  time: ")
    assert failure == "edgeice: no candidate pair answered (waited 1.5 s)"  # the steps are above it already
    assert "session.broker" in steps[0]
    assert any("ice.check_sent" in line for line in steps)


async def test_a_failure_before_any_path_is_one_line(deaf: Operator) -> None:
    done = await edgeice(deaf, "exec", "--timeout", "0.3", "nobody", "--", "true")
    assert done.code == 3
    assert not any(line.startswith(" ") for line in done.stderr.splitlines())
    done = await edgeice(deaf, "exec", "--json", "--timeout", "0.3", "nobody", "--", "true")
    timeline = done.json()["tried"]["timeline"]
    assert [entry["name"] for entry in timeline if entry["layer"] == "session"] == ["broker", "device"]
