"""What an operator is told of a session's path."""

from __future__ import annotations

from typing import cast

import pytest
import trio
import trio.testing

from edgeice.addresses import Path, TransportAddress
from edgeice.operator.interface import Step
from edgeice.operator.path import SessionPath
from edgeice.peer import PathChanged, PathMoved
from edgeice.transport import SignaledConnection
from tests.unit.transport.test_recovery import WLAN, WWAN, Session, on

#: Told on the way to it, before there is one that is nominated.
FIRST = Step("path", "host 192.0.2.1:1 -> host 192.0.2.99:2")


class World(Session):
    """A session whose restarts are only written down, and what is said of its path."""

    def __init__(self) -> None:
        super().__init__(WLAN)
        self.said_steps: list[Step] = []
        self.kept = SessionPath(
            cast("SignaledConnection", self), self, self.said_steps.append, device="pi", patience=60.0
        )
        self.kept.watch(self.peer.path)

    def move(self, path: PathChanged) -> None:
        self.peer.path = path
        self.kept.watch(path)

    async def run(self) -> None:
        await self.kept.run()
        self.given_up.append(self.now)


@pytest.fixture
def world(nursery: trio.Nursery) -> World:
    world = World()
    nursery.start_soon(world.run)
    return world


async def test_without_a_network_that_is_what_is_said_and_not_silence(
    autojump_clock: trio.testing.MockClock, world: World
) -> None:
    await trio.sleep(1)
    world.have()
    world.move(on(None, "base_gone"))
    await trio.sleep(30)
    assert world.said_steps == [FIRST, Step("notice", "no network: waiting, up to 60 s")]
    world.have(WWAN)
    await trio.sleep(0.1)
    assert world.said_steps[2:] == [
        Step("notice", "the network is back after 30 s"),
        Step("path", "no path; restarting ICE"),
    ]
    world.move(on(WWAN, "restart"))
    assert world.said_steps[4:] == [Step("path", "host 198.51.100.1:1 -> host 192.0.2.99:2")]


async def test_patience_ends_without_a_network_too(autojump_clock: trio.testing.MockClock, world: World) -> None:
    await trio.sleep(1)
    world.have()
    world.move(on(None, "base_gone"))
    await trio.sleep(100)
    assert world.given_up == [61.0]
    assert world.kept.report() == {
        "offered": 0, "unanswered": 0, "refused": 0, "failed": 0, "no_network": 100.0,
    }  # fmt: skip


async def test_silence_is_said_and_its_end(autojump_clock: trio.testing.MockClock, world: World) -> None:
    await trio.sleep(10)
    (silent,) = world.said_steps[1:]
    assert silent.name == "notice"
    assert silent.text.startswith("pi: no answer for 7 s, trying again (path host 192.0.2.1:1 -> ")
    assert len(world.offers) == 1
    world.peer.heard_at = trio.current_time()
    await trio.sleep(1)
    assert world.said_steps[2].text.startswith("pi: back after ")


async def test_a_move_has_the_ways_the_round_trip_and_the_pause(world: World) -> None:
    relayed = Path(TransportAddress("203.0.113.9", 9), TransportAddress("192.0.2.99", 2))
    after = PathChanged(relayed, "relay", "host", nominated=True, interface="wwan0", rtt=0.1804, cause="base_gone")
    world.kept.watch(PathMoved(on(WLAN), after, "base_gone", 0.2124))
    (step,) = world.said_steps[1:]
    assert (step.name, step.text) == ("move", "wlan0 direct -> wwan0 relay, 180 ms")
    assert step.move is not None
    assert step.move.as_dict() == {
        "from": "wlan0 direct",
        "to": "wwan0 relay",
        "path": "relay 203.0.113.9:9 -> host 192.0.2.99:2",
        "cause": "base_gone",
        "pause_ms": 212.4,
        "rtt_ms": 180.4,
    }
