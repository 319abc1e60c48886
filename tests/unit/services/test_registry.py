from __future__ import annotations

import json

import pytest
import trio
import trio.testing

from edgeice.sansio import DropCounter
from edgeice.services import (
    Channel,
    ChannelServer,
    LocalSpawner,
    Service,
    ServiceContext,
    ServiceRegistry,
    standard_services,
)
from edgeice.trace import Record
from tests.support.channels import MemoryChannel, channel_pair


async def _hold(channel: Channel, _context: ServiceContext) -> None:
    await channel.receive()


async def _crash(channel: Channel, _context: ServiceContext) -> None:
    async with trio.open_nursery():
        raise RuntimeError("a bug")


EXTRA = (Service("hold", None, _hold), Service("crash", None, _crash), Service("shut", "files:read:*", _hold))


class Session:
    def __init__(self, nursery: trio.Nursery, wants: frozenset[str] = frozenset()) -> None:
        self.drops = DropCounter()
        self.records: list[Record] = []
        self.failures: list[tuple[str, Exception]] = []
        #: Lets the services of "linger" end.
        self.ending = trio.Event()
        linger = Service("linger", None, self._linger)
        registry = ServiceRegistry((*standard_services(("127.0.0.1", 1)), *EXTRA, linger))
        self.server = ChannelServer(
            registry,
            wants,
            LocalSpawner(),
            max_channels=3,
            drops=self.drops,
            tracer=self.records.append,
            on_failure=lambda channel, error: self.failures.append((channel.protocol, error)),
        )
        self.nursery = nursery

    async def _linger(self, _channel: Channel, _context: ServiceContext) -> None:
        await self.ending.wait()

    def open(self, protocol: str) -> MemoryChannel:
        operator, device = channel_pair(protocol, log=True)
        self.nursery.start_soon(self.server.serve, device)
        return operator


async def refusal(channel: Channel) -> str:
    message = await channel.receive()
    assert isinstance(message, str)
    with pytest.raises(trio.EndOfChannel):
        await channel.receive()
    code = json.loads(message)["error"]["code"]
    assert isinstance(code, str)
    return code


@pytest.mark.parametrize(
    ("protocol", "wants", "code"),
    [
        ("edgeice.shell.1", "", "unauthorized"),
        ("edgeice.exec.1", "shell", "unauthorized"),
        ("edgeice.shell.1", "exec admin", "unauthorized"),
        ("shut", "files:read:*.txt", "unauthorized"),
        ("edgeice.shell.2", "shell exec", "unsupported"),
        ("", "shell", "unsupported"),
        ("crash", "", "internal"),
    ],
)
async def test_refusals(nursery: trio.Nursery, protocol: str, wants: str, code: str) -> None:
    session = Session(nursery, frozenset(wants.split()))
    assert await refusal(session.open(protocol)) == code
    assert session.drops.snapshot() == {f"channel-{code}": 1}


async def test_ping_needs_no_capability(nursery: trio.Nursery) -> None:
    channel = Session(nursery).open("edgeice.ping.1")
    await channel.send("x")
    assert await channel.receive() == "x"


def test_protocols_are_listed_in_order() -> None:
    assert ServiceRegistry(standard_services(("127.0.0.1", 1))).protocols == (
        "edgeice.exec.1",
        "edgeice.forward.1",
        "edgeice.ping.1",
        "edgeice.shell.1",
        "edgeice.telemetry.1",
    )


async def test_channels_are_limited_and_come_back(nursery: trio.Nursery) -> None:
    session = Session(nursery)
    held = [session.open("hold") for _ in range(3)]
    await trio.testing.wait_all_tasks_blocked()
    assert await refusal(session.open("hold")) == "limit"
    await held[0].send("done")
    with pytest.raises(trio.EndOfChannel):
        await held[0].receive()
    await trio.testing.wait_all_tasks_blocked()
    last = session.open("hold")
    await last.send("done")
    with pytest.raises(trio.EndOfChannel):
        await last.receive()
    await trio.testing.wait_all_tasks_blocked()
    assert session.server.channels == 2


class _Deaf:
    """A channel whose peer takes nothing."""

    label, protocol = "deaf", "unknown"

    def __init__(self) -> None:
        self.aborted = False

    @property
    def closed(self) -> bool:
        return self.aborted

    async def send(self, _data: bytes | str, /) -> None:
        await trio.sleep_forever()

    async def receive(self) -> bytes | str:
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        await trio.sleep_forever()

    def abort(self) -> None:
        self.aborted = True


async def test_a_peer_that_reads_no_errors_costs_a_bounded_number_of_channels_for_a_bounded_time(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    session = Session(nursery)
    channels = [_Deaf() for _ in range(10)]
    for channel in channels:
        nursery.start_soon(session.server.serve, channel)
    await trio.testing.wait_all_tasks_blocked()
    assert session.server.channels == 3
    assert session.drops.snapshot() == {"channel-unsupported": 3, "channel-limit": 3, "channel-flood": 4}
    assert sum(channel.aborted for channel in channels) == 4
    await trio.sleep(5.001)
    assert session.server.channels == 0
    assert all(channel.aborted for channel in channels)


async def test_what_happens_is_traced(nursery: trio.Nursery) -> None:
    session = Session(nursery)
    await refusal(session.open("crash"))
    assert [record.name for record in session.records] == ["channel-opened", "channel-closed"]
    assert session.records[-1].fields == {"protocol": "crash", "code": "internal", "reason": "the service failed"}
    assert "a bug" not in str(session.records[-1])


async def test_a_defect_is_told_whole_and_nothing_else_is(nursery: trio.Nursery) -> None:
    session = Session(nursery)
    await refusal(session.open("crash"))
    await refusal(session.open("unknown"))
    ((protocol, error),) = session.failures
    assert protocol == "crash"
    assert pytest.RaisesGroup(RuntimeError).matches(error)


async def test_a_channel_that_the_peer_closed_takes_no_place_of_another(nursery: trio.Nursery) -> None:
    session = Session(nursery)
    for _ in range(3):
        session.open("linger").abort()
    await trio.testing.wait_all_tasks_blocked()
    assert session.server.channels == 3
    held = [session.open("hold") for _ in range(3)]
    await trio.testing.wait_all_tasks_blocked()
    assert session.server.channels == 6
    assert await refusal(session.open("hold")) == "limit"
    # As many as may be open may still end, and no more.
    held[0].abort()
    await trio.testing.wait_all_tasks_blocked()
    session.open("linger").abort()
    await trio.testing.wait_all_tasks_blocked()
    held[1].abort()
    await trio.testing.wait_all_tasks_blocked()
    session.open("linger").abort()
    await trio.testing.wait_all_tasks_blocked()
    assert session.server.channels == 6
    assert await refusal(session.open("hold")) == "limit"
    session.ending.set()
    await trio.testing.wait_all_tasks_blocked()
    assert session.server.channels == 1
