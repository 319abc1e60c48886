"""SIGHUP: what is wrong changes nothing, what cannot change under way is named."""

from __future__ import annotations

import io
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from edgeice.agent.log import Log
from edgeice.agent.service import Agent
from tests.agent.kit import Device, Operator

NOWHERE = "mqtt://127.0.0.1:1"


def free_port() -> int:
    """One that nothing on loopback has at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@attrs.frozen
class Running:
    """An agent in this process, without a broker."""

    device: Device
    agent: Agent
    log: io.StringIO

    def reload(self, *changes: tuple[str, str]) -> list[str]:
        """Change the configuration file and reload; the lines of the log."""
        text = self.device.config.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.device.config.write_text(text)
        begin = len(self.log.getvalue())
        self.agent._reload()
        return self.log.getvalue()[begin:].splitlines()

    def bases(self) -> list[str]:
        """The addresses that it has sockets on."""
        return [base.address.ip for base in self.agent._node.bases]


@asynccontextmanager
async def running(folder: Path, extra: str = "") -> AsyncIterator[Running]:
    device = Device(folder / "pi", NOWHERE, extra=extra)
    stream = io.StringIO()
    agent = Agent.load(device.config, Log("info", stream=stream, wall=lambda: 0.0))
    async with trio.open_nursery() as nursery:
        await nursery.start(agent.run)
        yield Running(device, agent, stream)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (('loopback = ["127.0.0.1"]', 'loopback = ["banana"]'), "ice.loopback[0]: expected a loopback address"),
        (("[ice]", '[ice]\nstun = ["nonsense"]'), "ice.stun[0]: expected stun:HOST[:PORT]"),
        (("[ice]", "[ice"), "not valid TOML"),
    ],
)
async def test_a_wrong_value_changes_nothing(tmp_path: Path, change: tuple[str, str], reason: str) -> None:
    async with running(tmp_path) as it:
        (line,) = it.reload(change)
        assert line.startswith("reload-failed ")
        assert reason in line
        assert it.bases() == ["127.0.0.1"]


async def test_other_addresses_are_used_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        assert it.bases() == ["127.0.0.1"]
        assert it.reload(('["127.0.0.1"]', '["127.0.0.2", "127.0.0.3"]')) == ["reloaded"]
        assert it.bases() == ["127.0.0.2", "127.0.0.3"]
        assert it.reload(('["127.0.0.2", ', '["127.0.0.2", "127.0.0.2", ')) == ["reloaded"]
        assert it.bases() == ["127.0.0.2", "127.0.0.3"]


async def test_what_is_said_of_candidates_needs_a_restart_and_filters_do_not(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        begin = free_port()
        filters = f'[ice]\nexclude = ["wwan*"]\nonly = ["eth*"]\nnetworks = ["127.0.0.0/8"]\nports = "{begin}-{begin}"'
        assert it.reload(("[ice]", filters)) == ["reloaded"]
        assert [base.address.port for base in it.agent._node.bases] == [begin]
        assert it.agent._config.ice.only == ("eth*",)
        said = "restart-needed keys=ice.public,ice.policy,ice.resolve_names"
        change = '[ice]\nresolve_names = true\npolicy = "no-host"\npublic = {"10.0.0.5" = "198.51.100.5"}'
        assert it.reload(("[ice]", change)) == [said, "reloaded"]


async def test_status_says_what_is_left_out_and_why(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with running(tmp_path) as it:
            assert it.agent.status()["left_out"] == []
            assert it.reload(("[ice]", f'[ice]\nports = "{port}-{port}"')) == ["reloaded"]
            why = "its socket cannot be opened: Address already in use"
            assert it.agent.status()["left_out"] == [{"interface": "", "address": "127.0.0.1", "why": why}]


async def test_what_needs_a_restart_is_named_each_time(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        changes = ("[ice]", '[ice]\nstun = ["stun:192.0.2.1"]'), ("mqtt://127.0.0.1:1", "mqtt://127.0.0.1:2")
        said = ["restart-needed keys=broker.url,ice.stun", "reloaded"]
        user = "[labels]", '[services]\nuser = "nobody"\n[labels]'
        assert it.reload(user) == ["restart-needed keys=services.user", "reloaded"]
        assert it.reload((user[1], user[0])) == ["reloaded"]
        assert it.reload(*changes) == said
        assert it.reload(("roof", "cellar")) == ["restart-needed keys=broker.url,ice.stun,labels", "reloaded"]
        assert it.reload(*((new, old) for old, new in changes), ("cellar", "roof")) == ["reloaded"]


async def test_loopback_where_there_was_none_needs_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        assert it.reload(('["127.0.0.1"]', "[]")) == ["restart-needed keys=ice.loopback", "reloaded"]
        assert it.bases() == ["127.0.0.1"]


async def test_another_trust_file_is_taken_over(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        alice = Operator(tmp_path / "alice", NOWHERE)
        (it.device.folder / "others").write_text(f'operator="alice",can="shell" {alice.key.openssh}\n')
        assert it.reload(("[broker]", 'trust = "others"\n[broker]')) == ["reloaded"]
        assert it.agent._config.trust == it.device.folder / "others"


async def test_a_trust_file_that_others_may_write_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        it.device.trust(Operator(tmp_path / "alice", NOWHERE))
        (it.device.folder / "authorized_operators").chmod(0o622)
        (line,) = it.reload()
        assert line.startswith("reload-failed ")
        assert "others may write whom the device trusts" in line
