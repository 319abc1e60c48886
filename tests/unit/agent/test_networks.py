"""What the log says of the device's interfaces."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from trio.testing import MockClock

from edgeice.agent.log import Log
from edgeice.agent.networks import NetworkLog
from edgeice.agent.service import Agent
from edgeice.net import DefaultRoute, Interface, Snapshot, UsableAddress
from edgeice.transport import NetworkChange
from tests.agent.kit import Device

ETH = UsableAddress("192.0.2.7", "eth0")


class Written:
    """A log of networks, and its lines, in journald's form."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self._log = NetworkLog(Log("info", stream=self._stream, prefix=True, wall=lambda: 0.0))

    def note(self, *reasons: str, usable: tuple[UsableAddress, ...] = (ETH,)) -> list[str]:
        begin = len(self._stream.getvalue())
        self._log.note(NetworkChange(reasons=reasons, usable=usable, host_addresses=usable))
        return self._stream.getvalue()[begin:].splitlines()


async def test_each_reason_is_a_line_and_what_is_held_back_a_warning() -> None:
    written = Written()
    assert written.note("carrier lost on wlan0", "wlan0 held back for 8 s: went away 5 times within 30 s") == [
        '<6>network change="carrier lost on wlan0"',
        '<4>network change="wlan0 held back for 8 s: went away 5 times within 30 s"',
    ]
    assert written.note() == []


async def test_that_nothing_is_left_is_said_once() -> None:
    written = Written()
    last = '<4>network change="no address is left that sessions may use"'
    assert written.note("carrier lost on eth0", usable=())[1:] == [last]
    assert written.note("wlan0 set down", usable=()) == ['<6>network change="wlan0 set down"']
    assert written.note("carrier found on eth0") == ['<6>network change="carrier found on eth0"']
    assert written.note("carrier lost on eth0", usable=())[1:] == [last]


async def test_a_link_that_changes_all_the_time_does_not_fill_the_log(autojump_clock: MockClock) -> None:
    written = Written()
    lines = [line for _ in range(500) for line in written.note("carrier lost on wlan0", "carrier found on wlan0")]
    assert len(lines) == 40
    autojump_clock.jump(60.0)
    assert written.note("carrier lost on wlan0") == ['<6>network change="carrier lost on wlan0" unwritten=960']
    assert written.note("carrier found on wlan0") == ['<6>network change="carrier found on wlan0"']


@pytest.mark.parametrize(
    ("configured", "link", "metered"),
    [("", "cellular", True), ("unmetered = ['wwan0']", "cellular", False), ("wifi = ['wwan0']", "wifi", False)],
)
async def test_operators_are_told_what_the_default_route_leads_by(
    tmp_path: Path, configured: str, link: str, *, metered: bool
) -> None:
    device = Device(tmp_path / "pi", "mqtt://127.0.0.1:1", extra=f"[ice.links]\n{configured}\n")
    agent = Agent.load(device.config, Log("error", stream=io.StringIO(), wall=lambda: 0.0))
    agent.check()
    info = agent._info(1)
    assert (info.link, info.metered) == ("other", False)  # there is none
    wwan0 = Interface(3, "wwan0", 0x10041, link_class="cellular")
    agent._node._snapshot = Snapshot({3: wwan0}, frozenset({DefaultRoute(3, 6, 1024)}))
    info = agent._info(1)
    assert (info.link, info.metered) == (link, metered)


async def test_what_operators_are_told_is_published_anew_when_the_network_changes(tmp_path: Path) -> None:
    device = Device(tmp_path / "pi", "mqtt://127.0.0.1:1")
    agent = Agent.load(device.config, Log("error", stream=io.StringIO(), wall=lambda: 0.0))
    agent.check()
    agent._network_changed(NetworkChange(reasons=(), usable=(ETH,), host_addresses=(ETH,)))
    assert agent._presence._info_stale.is_set()
