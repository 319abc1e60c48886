"""An agent on a host whose interfaces change, and what it says of that."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.kit import AgentProcess, Device, environment
from tests.support.flapping import flapping
from tests.support.namespace import fresh_network_namespace

pytestmark = [pytest.mark.root, pytest.mark.slow]


def batch(*commands: str) -> None:
    """Configure the present namespace with several of iproute2's commands."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    """One with eth0 and wwan0, whose broker cannot be reached."""
    device = Device(tmp_path / "pi", "mqtt://127.0.0.1:1")
    links = "links.wired = ['eth*', 'lan*']\nlinks.cellular = ['wwan*']\nexclude = ['far-*']"
    text = device.config.read_text().replace("interfaces = false", f"interfaces = true\n{links}")
    text = text.replace('loopback = ["127.0.0.1"]', "loopback = []")
    device.config.write_text(text)
    with fresh_network_namespace():
        batch("link set lo up")
        for name, network, metric in (("eth0", "192.0.2", 100), ("wwan0", "198.51.100", 700)):
            batch(
                f"link add {name} type veth peer name far-{name}",
                f"link set {name} addrgenmode none up",
                f"link set far-{name} addrgenmode none up",
                f"addr add {network}.7/24 dev {name}",
                f"route add default via {network}.1 metric {metric}",
            )
        with AgentProcess(device) as agent:
            agent.wait_log_sync("^started ")
            yield agent


def interfaces(agent: AgentProcess) -> dict[str, dict[str, Any]]:
    """What `edgeice-agent status` says of them, without their bytes."""
    command = agent.device.command("status", "--json")
    done = subprocess.run(command, capture_output=True, check=True, env=environment())
    found = json.loads(done.stdout)["interfaces"]
    return {each.pop("interface"): {k: v for k, v in each.items() if k not in {"sent", "received"}} for each in found}


def settled(agent: AgentProcess, *names: str) -> int:
    """Wait until these interfaces have sockets and no others, and say how many files are open then."""
    deadline = time.monotonic() + 10
    while {name for name, each in interfaces(agent).items() if each["addresses"]} != set(names):
        assert time.monotonic() < deadline, interfaces(agent)
    return sum(descriptor.startswith("socket:") for descriptor in agent.descriptors())


def cpu(agent: AgentProcess) -> float:
    """Seconds that its process has used."""
    fields = Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_it_says_what_links_are_and_where_the_default_route_leads(agent: AgentProcess) -> None:
    ethernet = {"link": "wired", "metered": False, "default_route": [4], "addresses": ["192.0.2.7"]}
    cellular = {"link": "cellular", "metered": True, "default_route": [], "addresses": ["198.51.100.7"]}
    found = interfaces(agent)
    assert (found["eth0"], found["wwan0"]) == (ethernet, cellular)
    batch("link set far-eth0 down")
    agent.wait_log_sync('^network change="carrier lost on eth0"$')
    agent.wait_log_sync('^network change="default route moved from eth0 to wwan0"$')
    assert interfaces(agent)["wwan0"] == {**cellular, "default_route": [4]}
    batch("link set far-wwan0 down")
    agent.wait_log_sync('^network change="no address is left that sessions may use"$')
    batch("link set far-eth0 up")
    agent.wait_log_sync('^network change="carrier found on eth0"$')
    settled(agent, "eth0")
    assert interfaces(agent)["eth0"] == ethernet


@pytest.mark.parametrize("fault", ["address", "carrier", "down"])
def test_an_interface_that_flaps_and_is_renamed_does_it_no_harm(agent: AgentProcess, fault: str) -> None:
    sockets = settled(agent, "eth0", "wwan0")
    with flapping(fault):
        agent.wait_log_sync('^network change=".*eth0 held back for 8 s: went away 5 times within 30 s"$')
        used, since = cpu(agent), time.monotonic()
        time.sleep(2)  # of the kernel's time, which is none of ours to move
        assert cpu(agent) - used < 0.05 * (time.monotonic() - since) + 0.02
    assert settled(agent, "wwan0") == sockets - 1
    batch("link set eth0 down", "link set eth0 name lan0", "link set lan0 up", "link set far-eth0 up")
    batch("addr replace 192.0.2.7/24 dev lan0")
    assert settled(agent, "lan0", "wwan0") == sockets  # another name, another chance
    lines = re.findall("^network .*$", agent.log(), re.MULTILINE)
    # What is held back firmly is not told of, and that is what it mostly was before.
    assert 'network change="eth0 renamed to lan0"' in lines or fault != "address"
    assert len(lines) <= 60
