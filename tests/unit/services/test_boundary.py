"""How the broker is found that forwards do not go to: names are resolved by the tests, in virtual time."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from edgeice.services import boundary as boundary_module
from edgeice.services.boundary import Boundary


class Resolver:
    """Resolves the broker's name as the test says, and counts how often."""

    def __init__(self) -> None:
        self.addresses = ["192.0.2.7"]
        self.delay = 0.1
        self.asked = 0

    async def look_up(
        self, host: str, port: int, limiter: trio.CapacityLimiter
    ) -> list[tuple[int, tuple[object, ...]]]:
        assert host == "broker.example"
        assert limiter.total_tokens == 2  # not what operators' names have in common
        self.asked += 1
        await trio.sleep(self.delay)
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, (address, port)) for address in self.addresses]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    resolver = Resolver()
    monkeypatch.setattr(boundary_module, "look_up", resolver.look_up)
    return resolver


@pytest.fixture
def boundary() -> Boundary:
    return Boundary(("broker.example", 8883))


async def test_a_rush_asks_once(resolver: Resolver, boundary: Boundary, autojump_clock: trio.testing.MockClock) -> None:
    barred: list[bool] = []

    async def ask(ip: str) -> None:
        barred.append(await boundary.bars(ip, 80, ()))

    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(ask, f"192.0.2.{number % 10}")
    assert (barred.count(True), len(barred)) == (100, 1000)
    assert resolver.asked == 1
    assert trio.current_time() == pytest.approx(0.1)


async def test_it_is_asked_again_after_five_seconds(
    resolver: Resolver, boundary: Boundary, autojump_clock: trio.testing.MockClock
) -> None:
    assert await boundary.bars("192.0.2.7", 80, ())
    resolver.addresses = ["192.0.2.8"]
    await trio.sleep(4.9)
    assert await boundary.bars("192.0.2.7", 80, ())
    await trio.sleep(0.2)
    assert not await boundary.bars("192.0.2.7", 80, ())
    assert await boundary.bars("192.0.2.8", 80, ())
    assert resolver.asked == 2


async def test_a_name_server_that_does_not_answer_costs_two_seconds_and_not_the_forward(
    resolver: Resolver, boundary: Boundary, autojump_clock: trio.testing.MockClock
) -> None:
    """Who repairs its configuration by a forward is let through; the broker's port is barred everywhere."""
    resolver.delay = 60
    assert not await boundary.bars("192.0.2.1", 22, ())
    assert trio.current_time() == 2
    assert await boundary.bars("192.0.2.1", 8883, ())
    assert (resolver.asked, trio.current_time()) == (1, 2)


async def test_who_gives_up_while_asking_leaves_the_question_to_the_next(
    resolver: Resolver, boundary: Boundary, autojump_clock: trio.testing.MockClock
) -> None:
    with trio.move_on_after(0.05):
        await boundary.bars("192.0.2.7", 80, ())
    assert await boundary.bars("192.0.2.7", 80, ())
    assert resolver.asked == 2


async def test_a_name_that_leads_nowhere_is_not_asked_for_each_time(
    resolver: Resolver, boundary: Boundary, autojump_clock: trio.testing.MockClock
) -> None:
    resolver.addresses = []
    assert not await boundary.bars("192.0.2.1", 22, ())
    assert await boundary.bars("192.0.2.1", 8883, ())
    assert resolver.asked == 1
