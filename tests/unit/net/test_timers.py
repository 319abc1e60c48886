"""The driver's timers in virtual time: exact moments, exact numbers of wake-ups."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from edgeice.net import Driver
from edgeice.sansio import Event
from tests.support.toy_machines import Noted, Toy, ToyRouter


def nothing(_event: Event) -> None:
    """Hears no event."""


async def start(nursery: trio.Nursery, router: ToyRouter, *sessions: Toy) -> Driver:
    driver = Driver(router, on_router_event=nothing)
    await nursery.start(driver.run)
    for session in sessions:
        driver.attach(session, nothing)
    return driver


async def test_each_deadline_wakes_once_and_on_time(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    router, one, two = ToyRouter(), Toy(), Toy()
    t0 = trio.current_time()
    router.deadlines, one.deadlines, two.deadlines = [t0 + 5], [t0 + 1, t0 + 3], [t0 + 2]
    driver = await start(nursery, router, one, two)
    await trio.sleep(100)
    assert (router.fired, one.fired, two.fired) == ([t0 + 5], [t0 + 1, t0 + 3], [t0 + 2])
    assert driver.wakeups == 4
    assert driver.counters.total == 0


async def test_machines_due_at_one_moment_share_a_wakeup(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    t0 = trio.current_time()
    machines = [ToyRouter(), Toy(), Toy()]
    for machine in machines:
        machine.deadlines = [t0 + 1]
    router = machines[0]
    assert isinstance(router, ToyRouter)
    driver = await start(nursery, router, *machines[1:])
    await trio.sleep(10)
    assert [machine.fired for machine in machines] == [[t0 + 1]] * 3
    assert driver.wakeups == 1


async def test_nothing_due_never_wakes(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    driver = await start(nursery, ToyRouter(), Toy())
    await trio.sleep(80_000)
    assert driver.wakeups == 0


async def test_deadline_that_moves_away_again_and_again_wakes_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A consent timer that every answer puts off must not wake the device at the old moment."""
    t0 = trio.current_time()
    session = Toy()
    driver = await start(nursery, ToyRouter(), session)
    for step in range(50):
        session.deadlines = [t0 + step + 5]
        driver.touch(session)
        await trio.sleep(1)
    await trio.sleep(100)
    assert session.fired == [t0 + 54]
    assert driver.wakeups == 1


async def test_earlier_deadline_is_kept(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    t0 = trio.current_time()
    session = Toy()
    session.deadlines = [t0 + 100]
    driver = await start(nursery, ToyRouter(), session)
    await trio.sleep(1)
    session.deadlines = [t0 + 2, t0 + 100]
    driver.touch(session)
    await trio.sleep(200)
    assert session.fired == [t0 + 2, t0 + 100]
    assert driver.wakeups == 2


async def test_deadline_in_the_past_fires_at_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    session = Toy()
    driver = await start(nursery, ToyRouter(), session)
    await trio.sleep(7)
    session.deadlines = [trio.current_time() - 3]
    driver.touch(session)
    await trio.testing.wait_all_tasks_blocked()
    assert session.fired == [trio.current_time()]
    assert driver.wakeups == 1


async def test_detached_session_never_fires(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    session = Toy()
    session.deadlines = [trio.current_time() + 1]
    driver = await start(nursery, ToyRouter(), session)
    driver.detach(session)
    driver.detach(session)
    await trio.sleep(10)
    assert (session.fired, driver.wakeups) == ([], 0)


async def test_session_detached_by_another_ones_timer_does_not_fire(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    t0 = trio.current_time()
    first, second = Toy(), Toy()
    first.deadlines, second.deadlines = [t0 + 1], [t0 + 1]
    first.events.append(Noted("dropped below"))
    driver = await start(nursery, ToyRouter())
    driver.attach(first, nothing)
    driver.attach(second, nothing)
    fire = first.handle_timeout

    def handle_timeout(*, now: float) -> None:
        fire(now=now)
        driver.detach(second)

    first.handle_timeout = handle_timeout  # type: ignore[method-assign]  # this toy has an owner that is quick to act
    await trio.sleep(10)
    assert (first.fired, second.fired, driver.wakeups) == ([t0 + 1], [], 1)


class Stuck(Toy):
    """A machine with the bug that handle_timeout leaves its deadline standing."""

    def handle_timeout(self, *, now: float) -> None:
        self.fired.append(now)


async def test_machine_that_leaves_its_deadline_standing_does_not_spin(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    session = Stuck()
    session.deadlines = [trio.current_time() + 1]
    driver = await start(nursery, ToyRouter(), session)
    await trio.sleep(1.1)
    assert 90 <= len(session.fired) <= 101
    assert driver.counters["timer_stalled"] == len(session.fired) == driver.wakeups


async def test_session_touched_by_the_router_is_drained_and_rearmed(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    router, session = ToyRouter(), Toy()
    driver = await start(nursery, router, session)
    session.deadlines = [trio.current_time() + 1]
    router.touched.append(session)
    driver.touch(router)
    await trio.sleep(10)
    assert len(session.fired) == 1


@pytest.mark.parametrize("who", ["router", "session"])
async def test_handler_may_call_back_without_recursion(
    autojump_clock: MockClock, nursery: trio.Nursery, who: str
) -> None:
    """An event handler that commands machines and touches them: all is drained before the outermost touch returns."""
    depth = 0
    heard: list[str] = []
    router, session = ToyRouter(), Toy()

    def hear(other: Callable[[], Toy]) -> Callable[[Event], None]:
        def handler(event: Event) -> None:
            nonlocal depth
            depth += 1
            assert depth == 1, "a handler was called from within a handler"
            assert isinstance(event, Noted)
            heard.append(event.what)
            if len(heard) < 6:
                other().events.append(Noted(f"answer {len(heard)}"))
                driver.touch(other())
            depth -= 1

        return handler

    driver = Driver(router, on_router_event=hear(lambda: session))
    await nursery.start(driver.run)
    driver.attach(session, hear(lambda: router))
    first: Toy = router if who == "router" else session
    first.events.append(Noted("question"))
    driver.touch(first)
    assert heard == ["question", *(f"answer {n}" for n in range(1, 6))]


async def test_what_a_machine_raises_ends_the_run(autojump_clock: MockClock) -> None:
    class Broken(Toy):
        def handle_timeout(self, *, now: float) -> None:
            raise ZeroDivisionError(now)

    session = Broken()
    session.deadlines = [trio.current_time() + 1]
    with pytest.RaisesGroup(pytest.RaisesGroup(ZeroDivisionError)):
        async with trio.open_nursery() as nursery:
            await start(nursery, ToyRouter(), session)
