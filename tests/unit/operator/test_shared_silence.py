"""A shared session whose device is silent: what its clients are told, and how long they wait."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from edgeice.cli.groups import first_of
from edgeice.operator.errors import UnreachableError
from edgeice.operator.interface import Step
from edgeice.operator.shared_client import SharedSession, SilentSessionError, join_shared
from edgeice.operator.silence import SILENCE
from tests.unit.operator.test_shared import PROTOCOL, Shared

#: How far virtual time jumps, seconds.
STEP = 0.25


class World:
    """A shared session in virtual time."""

    def __init__(self, path: Path, clock: trio.testing.MockClock) -> None:
        self._clock = clock
        self.shared = Shared(path, max_channels=1)

    async def wait(self, seconds: float) -> None:
        """Let time pass, and what is under way on the socket arrive."""
        for _ in range(round(seconds / STEP)):
            await trio.testing.wait_all_tasks_blocked(0.001)
            self._clock.jump(STEP)
        await trio.testing.wait_all_tasks_blocked(0.001)

    def hear(self) -> None:
        """The device says something."""
        self.shared.session.heard_at = trio.current_time()

    @asynccontextmanager
    async def client(self, patience: float) -> AsyncIterator[SharedSession]:
        client = await join_shared(self.shared.path, "pi", ())
        async with client.kept(None, patience):
            yield client

    async def open(self, patience: float) -> None:
        """A client that opens a channel, and waits."""
        async with self.client(patience) as client:
            await client.open(PROTOCOL)
            await trio.sleep_forever()

    def silent(self) -> object:
        return self.shared.master.status()["silent"]


@pytest.fixture
async def world(tmp_path: Path, mock_clock: trio.testing.MockClock, nursery: trio.Nursery) -> World:
    world = World(tmp_path / "pi.sock", mock_clock)
    await nursery.start(world.shared.run)
    return world


class Outcome:
    """How a task ended."""

    def __init__(self) -> None:
        self.errors: list[UnreachableError] = []

    async def of(self, run: Callable[[float], Awaitable[None]], patience: float) -> None:
        try:
            await run(patience)
        except BaseExceptionGroup as group:
            error = first_of(group, UnreachableError)
            if not isinstance(error, UnreachableError):
                raise
            self.errors.append(error)


async def test_who_joins_a_silent_session_is_told_at_once(world: World, mock_clock: trio.testing.MockClock) -> None:
    assert mock_clock.rate == 0
    await world.wait(SILENCE - STEP)
    async with world.client(3.0):
        assert world.silent() is None
    world.shared.master.watch(Step("notice", "pi: no answer for 7 s, trying again"))
    await world.wait(5.25)
    with pytest.raises(SilentSessionError, match=r"^pi has not answered for 12 s in the session that is shared$"):
        await join_shared(world.shared.path, "pi", ())
    await world.wait(STEP)
    assert (world.silent(), world.shared.master.status()["clients"]) == (12, 0)
    world.hear()
    async with world.client(3.0):
        assert world.silent() is None


async def test_a_device_that_died_just_before_is_given_up_after_the_timeout(
    world: World, mock_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    assert mock_clock.rate == 0
    outcome = Outcome()
    nursery.start_soon(outcome.of, world.open, 3.0)
    await world.wait(2.75)
    assert outcome.errors == []
    await world.wait(STEP)
    (error,) = outcome.errors
    said = "pi did not answer in the shared session (waited 3 s)"
    assert (str(error), error.exit_code) == (said, 3)


async def test_a_device_that_answers_has_all_the_time_for_the_rest(
    world: World, mock_clock: trio.testing.MockClock
) -> None:
    assert mock_clock.rate == 0
    async with world.client(3.0) as client:
        await client.open(PROTOCOL)  # for a command that says nothing
        await world.wait(2.5)
        world.hear()
        await world.wait(20)
        assert world.silent() == 20


async def test_who_opens_nothing_for_long_is_not_given_up_over_a_moment(
    world: World, mock_clock: trio.testing.MockClock
) -> None:
    assert mock_clock.rate == 0
    async with world.client(3.0) as client:
        await world.wait(SILENCE + 1)
        await client.open(PROTOCOL)  # the notices of silence are told by now
        await world.wait(20)


@pytest.mark.parametrize(("patience", "until"), [(3.0, SILENCE), (20.0, 20.0)])
async def test_who_waits_for_a_channel_is_given_up_no_sooner_than_a_live_session_is_heard(
    world: World, mock_clock: trio.testing.MockClock, nursery: trio.Nursery, patience: float, until: float
) -> None:
    assert mock_clock.rate == 0
    async with world.client(math.inf) as other:
        await other.open(PROTOCOL)
        silent, answered = Outcome(), Outcome()
        nursery.start_soon(silent.of, world.open, patience)
        await world.wait(until - STEP)
        assert silent.errors == []
        await world.wait(STEP)
        assert len(silent.errors) == 1
        world.hear()
        async with trio.open_nursery() as waiting:
            waiting.start_soon(answered.of, world.open, patience)
            await world.wait(1)
            world.hear()
            await world.wait(until + 5)
            assert (answered.errors, world.shared.master.status()["waiting"]) == ([], 1)
            waiting.cancel_scope.cancel()
