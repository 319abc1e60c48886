"""The device's half: who may subscribe to what, exact times and counts, gaps, and what nobody subscribed costs."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edgeice.services.telemetry import TELEMETRY_PROTOCOL
from edgeice.services.telemetry.device import MAX_CHANNELS, WINDOW
from edgeice.services.telemetry.local import RING_ROWS
from tests.support.device import Device
from tests.support.telemetry import EPOCH, NOW, Heard, make_telemetry, write_local

BOTH = ("telemetry:local", "telemetry:system")


@pytest.fixture
def heard(nursery: trio.Nursery, tmp_path: Path) -> Heard:
    device = Device(nursery, wants=BOTH, telemetry=make_telemetry(tmp_path))
    return Heard(device.open(TELEMETRY_PROTOCOL))


def empty(stream: str, number: int = 0, epoch: str = EPOCH) -> dict[str, Any]:
    return {"samples": {"stream": stream, "cursor": f"{stream}:{epoch}:{number}", "rows": []}}


UP = {"t": NOW, "name": "uptime_seconds", "value": 12.5}


# system


async def test_system_comes_soon_and_then_at_its_interval(autojump_clock: MockClock, heard: Heard) -> None:
    begun = trio.current_time()
    await heard.say(subscribe={"streams": ["system"], "interval": 3})
    assert await heard.next() == empty("system")
    for number, at in ((1, 0.5), (2, 3.5), (3, 6.5)):
        assert await heard.samples() == {"stream": "system", "cursor": f"system:{EPOCH}:{number}", "rows": [UP]}
        assert trio.current_time() - begun == pytest.approx(at)


@pytest.mark.parametrize(
    ("interval", "first", "then"),
    [
        (None, 0.5, 2.0),
        (0.2, 0.2, 0.2),
        (0.001, 0.1, 0.1),
        pytest.param(10**400, 0.5, 3600.0, id="huge"),
        (1e300, 0.5, 3600.0),
    ],
)
async def test_intervals_are_kept_within_bounds(
    autojump_clock: MockClock, heard: Heard, interval: float | None, first: float, then: float
) -> None:
    begun = trio.current_time()
    await heard.say(subscribe={"streams": ["system"], "interval": interval})
    times = []
    for _ in range(3):
        await heard.next()
        times.append(trio.current_time() - begun)
    assert times == pytest.approx([0, first, first + then])


async def test_another_subscribe_takes_the_place_of_the_one_before(autojump_clock: MockClock, heard: Heard) -> None:
    begun = trio.current_time()
    for interval in (100, 50, 0.25):
        await heard.say(subscribe={"streams": ["system"], "interval": interval})
    await wait_all_tasks_blocked()
    times: list[float] = []
    while len(times) < 3:
        if (await heard.samples())["rows"]:
            times.append(trio.current_time() - begun)
    assert times == pytest.approx([0.25, 0.5, 0.75])


async def test_intervals_are_each_subscribers_own(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    telemetry = make_telemetry(tmp_path)
    times: dict[float, list[float]] = {}
    for interval in (0.5, 0.75):
        channel = Heard(Device(nursery, wants=BOTH, telemetry=telemetry).open(TELEMETRY_PROTOCOL))
        await channel.say(subscribe={"streams": ["system"], "interval": interval})
        times[interval] = []
        begun = trio.current_time()

        async def listen(channel: Heard, to: list[float], begun: float) -> None:
            while True:
                if (await channel.samples())["rows"]:
                    to.append(round(trio.current_time() - begun, 3))

        nursery.start_soon(listen, channel, times[interval], begun)
    await trio.sleep(2.1)
    assert times == {0.5: [0.5, 1.0, 1.5, 2.0], 0.75: [0.5, 1.25, 2.0]}


async def test_samples_that_a_slow_subscriber_misses_are_counted(autojump_clock: MockClock, heard: Heard) -> None:
    await heard.say(subscribe={"streams": ["system"], "interval": 1})
    assert await heard.next() == empty("system")
    await heard.say(ack=f"system:{EPOCH}:0")  # who acknowledges is held to it
    await trio.sleep(100.2)
    for number in range(1, WINDOW + 1):
        assert (await heard.samples())["cursor"] == f"system:{EPOCH}:{number}"
    await heard.say(ack=f"system:{EPOCH}:{WINDOW}")
    # Due at 0.5, 1.5, …: number 17 was due at 16.5, and is taken at 100.2.
    assert await heard.next() == {"gap": {"stream": "system", "lost": 83}}
    assert (await heard.samples())["cursor"] == f"system:{EPOCH}:{17 + 83}"
    assert trio.current_time() == pytest.approx(100.2)
    assert (await heard.samples())["cursor"] == f"system:{EPOCH}:101"
    assert trio.current_time() == pytest.approx(100.5)


async def test_who_never_acknowledges_is_bounded_by_the_channel(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    device = Device(nursery, wants=BOTH, telemetry=make_telemetry(tmp_path))
    channel = device.open(TELEMETRY_PROTOCOL)
    heard = Heard(channel)
    await heard.say(subscribe={"streams": ["system"], "interval": 0.1})
    await trio.sleep(3600)
    assert channel.high_water <= 64 * 1024
    numbers, lost = [], 0
    while not lost:
        message = await heard.next()
        if "gap" in message:
            lost = message["gap"]["lost"]
        else:
            numbers.append(int(message["samples"]["cursor"].rpartition(":")[2]))
    assert numbers == list(range(len(numbers)))
    # With the one that waited in the channel: all that were due are there or counted.
    assert len(numbers) + lost == pytest.approx(3600 * 10, abs=1)


async def test_a_large_sample_takes_several_messages_of_one_cursor(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    lines = "".join(f"eth{number}: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n" for number in range(60))
    telemetry = make_telemetry(tmp_path, {"proc/net/dev": f"\n\n{lines}"})
    heard = Heard(Device(nursery, wants=BOTH, telemetry=telemetry).open(TELEMETRY_PROTOCOL))
    await heard.say(subscribe={"streams": ["system"], "interval": 5})
    await heard.next()
    parts = []
    with trio.move_on_after(1):
        while True:
            text = await heard.channel.receive()
            assert len(text) <= 16 * 1024
            parts.append(json.loads(text)["samples"])
    assert len(parts) == 3
    assert {part["cursor"] for part in parts} == {f"system:{EPOCH}:1"}
    assert [part.get("more") for part in parts] == [True, True, None]
    assert sum(len(part["rows"]) for part in parts) == 60 * 8


# local


async def test_lines_of_local_processes_come_at_once(autojump_clock: MockClock, heard: Heard, tmp_path: Path) -> None:
    await heard.say(subscribe={"streams": ["local"]})
    assert await heard.next() == empty("local")
    begun = trio.current_time()
    write_local(tmp_path, {"name": "a", "value": 1}, {"name": "b", "value": "x", "t": 5, "tags": {"k": "é"}})
    assert await heard.samples() == {
        "stream": "local",
        "cursor": f"local:{EPOCH}:2",
        "rows": [{"t": NOW, "name": "a", "value": 1}, {"t": 5, "name": "b", "value": "x", "tags": {"k": "é"}}],
    }
    assert trio.current_time() == begun


async def test_lines_are_gathered_over_an_interval(autojump_clock: MockClock, heard: Heard, tmp_path: Path) -> None:
    await heard.say(subscribe={"streams": ["local"], "interval": 10})
    await heard.next()
    seen = []
    for number in range(4):
        write_local(tmp_path, {"name": "n", "value": number})
        await trio.sleep(4)
    for _ in range(3):
        seen.append([row["value"] for row in (await heard.samples())["rows"]])
        if len(seen) == 2:
            write_local(tmp_path, {"name": "n", "value": 9})
    assert seen == [[0], [1, 2], [3, 9]]


async def test_rows_that_a_slow_subscriber_misses_are_counted(
    autojump_clock: MockClock, heard: Heard, tmp_path: Path
) -> None:
    await heard.say(subscribe={"streams": ["local"]})
    await heard.next()
    await heard.say(ack=f"local:{EPOCH}:0")
    total = WINDOW + RING_ROWS + 300
    for number in range(1, total + 1):
        write_local(tmp_path, {"name": "n", "value": number})
        await wait_all_tasks_blocked()
    for number in range(1, WINDOW + 1):
        assert [row["value"] for row in (await heard.samples())["rows"]] == [number]
    await heard.say(ack=f"local:{EPOCH}:{WINDOW}")
    assert await heard.next() == {"gap": {"stream": "local", "lost": 300}}
    values: list[int] = []
    while len(values) < RING_ROWS:
        values += [row["value"] for row in (await heard.samples())["rows"]]
    assert values == list(range(WINDOW + 301, total + 1))


async def test_a_subscriber_that_lags_hurts_no_other(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    telemetry = make_telemetry(tmp_path)
    slow, fast = (Heard(Device(nursery, wants=BOTH, telemetry=telemetry).open(TELEMETRY_PROTOCOL)) for _ in range(2))
    for each in (slow, fast):
        await each.say(subscribe={"streams": ["local"]})
        await each.next()
        await each.say(ack=f"local:{EPOCH}:0")
    for number in range(1, 101):
        write_local(tmp_path, {"name": "n", "value": number})
        assert (await fast.samples())["rows"][0]["value"] == number
        await fast.say(ack=f"local:{EPOCH}:{number}")
    for number in range(1, WINDOW + 1):
        assert (await slow.samples())["rows"][0]["value"] == number


async def test_the_reader_hands_over_when_it_leaves(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    telemetry = make_telemetry(tmp_path)
    first, second = (Heard(Device(nursery, wants=BOTH, telemetry=telemetry).open(TELEMETRY_PROTOCOL)) for _ in range(2))
    for each in (first, second):
        await each.say(subscribe={"streams": ["local"]})
        await each.next()
    await first.channel.aclose()
    await wait_all_tasks_blocked()
    write_local(tmp_path, {"name": "n", "value": 1})
    assert (await second.samples())["cursor"] == f"local:{EPOCH}:1"
    await second.say(unsubscribe=["local"])
    await wait_all_tasks_blocked()
    assert not (tmp_path / "telemetry.sock").exists()


# Resuming


async def test_local_is_resumed_where_it_was(nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path) -> None:
    telemetry = make_telemetry(tmp_path)
    lost, stays, again = (
        Heard(Device(nursery, wants=BOTH, telemetry=telemetry).open(TELEMETRY_PROTOCOL)) for _ in range(3)
    )
    for each in (lost, stays):
        await each.say(subscribe={"streams": ["local"]})
        await each.next()
    write_local(tmp_path, {"name": "n", "value": 1}, {"name": "n", "value": 2})
    cursor = (await lost.samples())["cursor"]
    await lost.channel.aclose()
    write_local(tmp_path, {"name": "n", "value": 3})
    await stays.samples()
    assert (await stays.samples())["cursor"] == f"local:{EPOCH}:3"
    await again.say(subscribe={"streams": ["local"], "since": cursor})
    assert await again.next() == empty("local", 2)
    assert [row["value"] for row in (await again.samples())["rows"]] == [3]


async def test_a_change_of_interval_loses_nothing(autojump_clock: MockClock, heard: Heard, tmp_path: Path) -> None:
    await heard.say(subscribe={"streams": ["local"]})
    await heard.next()
    write_local(tmp_path, {"name": "n", "value": 1})
    cursor = (await heard.samples())["cursor"]
    await heard.say(subscribe={"streams": ["local"], "interval": 1, "since": cursor})
    assert await heard.next() == empty("local", 1)
    write_local(tmp_path, {"name": "n", "value": 2})
    assert (await heard.samples())["cursor"] == f"local:{EPOCH}:2"


@pytest.mark.parametrize(
    "since",
    ["local:ffffffff:5", f"local:{EPOCH}:5", "somebody else's", "", f"local:{EPOCH}:-1", f"local:{EPOCH}:٣"],
)
async def test_a_cursor_that_is_not_known_is_a_gap_of_unknown_size(
    autojump_clock: MockClock, heard: Heard, since: str
) -> None:
    await heard.say(subscribe={"streams": ["local"], "since": since})
    assert await heard.next() == {"gap": {"stream": "local", "lost": None}}
    assert await heard.next() == empty("local")


async def test_a_cursor_is_of_one_stream(autojump_clock: MockClock, heard: Heard) -> None:
    await heard.say(subscribe={"streams": ["local", "system"], "since": f"system:{EPOCH}:5"})
    messages = [await heard.next() for _ in range(3)]
    assert [message["gap"] for message in messages if "gap" in message] == [{"stream": "system", "lost": None}]


# Who may


async def test_all_streams_are_those_that_the_session_may_have(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    for wants, expected in (
        (("telemetry:*",), {"local", "system"}),
        (("telemetry:system",), {"system"}),
        (("telemetry:local", "telemetry:other"), {"local"}),
    ):
        heard = Heard(Device(nursery, wants=wants, telemetry=make_telemetry(tmp_path)).open(TELEMETRY_PROTOCOL))
        await heard.say(subscribe={"streams": ["*"], "interval": 100})
        with trio.move_on_after(0.1):
            found = set()
            while True:
                found.add((await heard.samples())["stream"])
        assert found == expected
        await heard.channel.aclose()
        await wait_all_tasks_blocked()


async def error_of(heard: Heard) -> tuple[str, str]:
    while "error" not in (message := await heard.next()):
        pass
    return message["error"]["code"], message["error"]["reason"]


@pytest.mark.parametrize(
    ("wants", "streams", "error"),
    [
        (BOTH, ["nope"], ("not-found", "no such stream; there are local, system")),
        (BOTH, ["system", "nope"], ("not-found", "no such stream; there are local, system")),
        (("telemetry:system",), ["local"], ("unauthorized", "the session did not ask for telemetry:local")),
        (("telemetry:system",), ["system", "local"], ("unauthorized", "the session did not ask for telemetry:local")),
        (("telemetry:other",), ["*"], ("unauthorized", "the session did not ask for any stream")),
        ((), ["*"], ("unauthorized", "the session did not ask for any stream")),
    ],
)
async def test_streams_that_may_not_be_had(  # noqa: PLR0917  # fixtures and parameters
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    tmp_path: Path,
    wants: tuple[str, ...],
    streams: list[str],
    error: tuple[str, str],
) -> None:
    device = Device(nursery, wants=wants, telemetry=make_telemetry(tmp_path))
    heard = Heard(device.open(TELEMETRY_PROTOCOL))
    await heard.say(subscribe={"streams": streams})
    assert await error_of(heard) == error
    await heard.channel.aclose()
    await device.idle()
    assert device.drops.snapshot() == {f"channel-{error[0]}": 1}
    assert not (tmp_path / "telemetry.sock").exists()


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        ({"subscribe": []}, "malformed", "control-type: subscribe is not an object"),
        ({"subscribe": {}}, "malformed", "control-type: subscribe.streams is not a list"),
        ({"subscribe": {"streams": []}}, "malformed", "control-range: subscribe.streams is empty"),
        ({"subscribe": {"streams": [1]}}, "malformed", "control-type: a name in subscribe.streams is not a string"),
        (
            {"subscribe": {"streams": ["x" * 65]}},
            "malformed",
            "control-range: a name in subscribe.streams is longer than 64 characters",
        ),
        ({"subscribe": {"streams": ["system"] * 17}}, "limit", "subscribe.streams has more than 16 names"),
        ({"unsubscribe": ["system"] * 1000}, "limit", "unsubscribe has more than 16 names"),
        ({"unsubscribe": "system"}, "malformed", "control-type: unsubscribe is not a list"),
        (
            {"subscribe": {"streams": ["system"], "since": 5}},
            "malformed",
            "control-type: subscribe.since is not a string",
        ),
        (
            {"subscribe": {"streams": ["system"], "since": "x" * 129}},
            "malformed",
            "control-range: subscribe.since is longer than 128 characters",
        ),
        ({"ack": 5}, "malformed", "control-type: ack is not a string"),
        ({"something": 5}, "malformed", "control-command: no known command"),
        *(
            (
                {"subscribe": {"streams": ["system"], "interval": value}},
                "malformed",
                f"control-{kind}: subscribe.interval is not {what}",
            )
            for value, kind, what in [
                (0, "range", "above 0"),
                (-1, "range", "above 0"),
                (-1e-300, "range", "above 0"),
                (True, "type", "a number"),
                ("1", "type", "a number"),
                ([], "type", "a number"),
            ]
        ),
    ],
)
async def test_requests_that_are_wrong(
    autojump_clock: MockClock, heard: Heard, message: dict[str, Any], code: str, reason: str
) -> None:
    await heard.say(**message)
    assert await error_of(heard) == (code, reason)


@pytest.mark.parametrize("interval", ["NaN", "Infinity", "1e999"])
async def test_intervals_that_are_no_json(autojump_clock: MockClock, heard: Heard, interval: str) -> None:
    await heard.channel.send(f'{{"subscribe":{{"streams":["system"],"interval":{interval}}}}}')
    assert (await error_of(heard))[0] == "malformed"


async def test_binary_messages_are_malformed(autojump_clock: MockClock, heard: Heard) -> None:
    await heard.channel.send(b"x")
    assert await error_of(heard) == ("malformed", "telemetry has no binary messages")


async def test_an_error_of_the_operator_is_not_answered(autojump_clock: MockClock, heard: Heard) -> None:
    await heard.say(error={"code": "internal", "reason": ""})
    with pytest.raises(trio.EndOfChannel):
        await heard.next()


async def test_acks_that_mean_nothing_are_passed_over(autojump_clock: MockClock, heard: Heard) -> None:
    await heard.say(subscribe={"streams": ["system"], "interval": 1})
    for cursor in ("", "x", "local:00000000:1", "system:00000000:9", f"system:{EPOCH}:999999", "nope:00000000:1"):
        await heard.say(ack=cursor)
    await heard.say(unsubscribe=["nope", "local"])
    assert [len((await heard.samples())["rows"]) for _ in range(3)] == [0, 1, 1]


async def test_a_storm_of_subscriptions_leaves_one_of_each(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    device = Device(nursery, wants=BOTH, telemetry=make_telemetry(tmp_path))
    heard = Heard(device.open(TELEMETRY_PROTOCOL))

    async def storm() -> None:
        for _ in range(1000):
            await heard.say(subscribe={"streams": ["*"], "interval": 60})

    before = trio.lowlevel.current_statistics().tasks_living
    nursery.start_soon(storm)
    streams = []
    with trio.move_on_after(30):
        while True:
            samples = await heard.samples()
            streams += [samples["stream"]] if samples["rows"] else []
    assert streams == ["system"]
    # Subscriptions to both streams, and the reader of the socket.
    assert trio.lowlevel.current_statistics().tasks_living == before + 3


async def test_channels_are_bounded_over_all_sessions(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    telemetry = make_telemetry(tmp_path)
    channels = [Device(nursery, telemetry=telemetry).open(TELEMETRY_PROTOCOL) for _ in range(MAX_CHANNELS)]
    await wait_all_tasks_blocked()
    late = Heard(Device(nursery, telemetry=telemetry).open(TELEMETRY_PROTOCOL))
    assert await error_of(late) == ("limit", f"{MAX_CHANNELS} telemetry channels are open already")
    await channels[0].aclose()
    await wait_all_tasks_blocked()
    again = Heard(Device(nursery, telemetry=telemetry, wants=BOTH).open(TELEMETRY_PROTOCOL))
    await again.say(subscribe={"streams": ["system"]})
    assert await again.next() == empty("system")


# The socket


async def test_the_socket_is_there_while_somebody_listens(
    autojump_clock: MockClock, heard: Heard, tmp_path: Path
) -> None:
    path = tmp_path / "telemetry.sock"
    with pytest.raises(FileNotFoundError):
        write_local(tmp_path, {"name": "a", "value": 1})
    await heard.say(subscribe={"streams": ["local"]})
    await heard.next()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    write_local(tmp_path, {"name": "a", "value": 1})
    await heard.samples()
    await heard.say(unsubscribe=["*"])
    await wait_all_tasks_blocked()
    with pytest.raises(FileNotFoundError):
        write_local(tmp_path, {"name": "a", "value": 1})


@pytest.mark.parametrize(("wants", "streams"), [(BOTH, ["local"]), (BOTH[:1], ["*"]), (BOTH, ["*"])])
async def test_a_socket_that_cannot_be_made(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path, wants: tuple[str, ...], streams: list[str]
) -> None:
    (tmp_path / "telemetry.sock").write_text("something else")
    telemetry = make_telemetry(tmp_path)
    heard = Heard(Device(nursery, wants=wants, telemetry=telemetry).open(TELEMETRY_PROTOCOL))
    await heard.say(subscribe={"streams": streams})
    if (wants, streams) != (BOTH, ["*"]):
        reason = "the device cannot make its socket: Address already in use"
        assert await error_of(heard) == ("unreachable", reason)
    else:
        assert await heard.next() == empty("system")
    assert telemetry.drops.snapshot() == {"no-socket": 1}
    assert (tmp_path / "telemetry.sock").read_text() == "something else"


async def test_another_agents_socket_is_left_alone(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    first, second = (
        Heard(Device(nursery, wants=BOTH, telemetry=make_telemetry(tmp_path)).open(TELEMETRY_PROTOCOL))
        for _ in range(2)
    )
    await first.say(subscribe={"streams": ["local"]})
    assert await first.next() == empty("local")
    await second.say(subscribe={"streams": ["local"]})
    assert await error_of(second) == (
        "unreachable",
        "the device cannot make its socket: another agent reads there",
    )
    write_local(tmp_path, {"name": "a", "value": 1})
    assert (await first.samples())["rows"][0]["name"] == "a"


async def test_without_a_socket_there_is_no_such_stream(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    telemetry = make_telemetry(tmp_path, local=False)
    heard = Heard(Device(nursery, wants=("telemetry:*",), telemetry=telemetry).open(TELEMETRY_PROTOCOL))
    await heard.say(subscribe={"streams": ["local"]})
    assert await error_of(heard) == ("not-found", "no such stream; there are system")


# What it costs


class _Wakeups(trio.abc.Instrument):
    """Counts how often any task runs, but the test's own."""

    def __init__(self) -> None:
        self.count = 0
        self._own = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is not self._own:
            self.count += 1


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def wakeups(seconds: float) -> int:
    await wait_all_tasks_blocked()
    counter = _Wakeups()
    trio.lowlevel.add_instrument(counter)
    await trio.sleep(seconds)
    trio.lowlevel.remove_instrument(counter)
    return counter.count


async def test_nobody_subscribed_costs_nothing(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    telemetry = make_telemetry(tmp_path)
    device = Device(nursery, wants=BOTH, telemetry=telemetry)
    await wait_all_tasks_blocked()
    tasks, open_before = trio.lowlevel.current_statistics().tasks_living, descriptors()
    # With the device's clock moving at each jump, this is the cost of the test's own sleep.
    assert await wakeups(3600) == (idle := await wakeups(3600))
    heard = Heard(device.open(TELEMETRY_PROTOCOL))
    await heard.say(subscribe={"streams": ["*"], "interval": 10})
    assert {(await heard.samples())["stream"], (await heard.samples())["stream"]} == {"system", "local"}
    await heard.samples()
    assert await wakeups(100) > idle
    assert descriptors() == open_before + 1
    await heard.say(unsubscribe=["*"])
    assert await wakeups(3600) == idle
    assert descriptors() == open_before
    # Of the channel, the server's task and the subscriber's nursery, which is the same task.
    assert trio.lowlevel.current_statistics().tasks_living == tasks + 1
    await heard.channel.aclose()
    await device.idle()
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert not (tmp_path / "telemetry.sock").exists()


async def test_a_sample_costs_one_wakeup_each_interval(autojump_clock: MockClock, heard: Heard) -> None:
    idle = await wakeups(100)
    await heard.say(subscribe={"streams": ["system"], "interval": 10})
    await heard.next()
    await heard.next()
    assert await wakeups(100.1) - idle == 10 * 2  # the timer's, and the checkpoint of the channel's `send`


async def test_the_end_of_a_session_closes_everything(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    device = Device(nursery, wants=BOTH, telemetry=make_telemetry(tmp_path))
    open_before = descriptors()
    heard = Heard(device.open(TELEMETRY_PROTOCOL))
    await heard.say(subscribe={"streams": ["*"]})
    await heard.next()
    device.cancel()
    await device.idle()
    assert descriptors() == open_before
    assert not (tmp_path / "telemetry.sock").exists()


# Idle channels


async def said_at_the_end(heard: Heard) -> tuple[float, dict[str, str]]:
    """When the device ended the channel, and with which error; what comes before is read and not acknowledged."""
    while "error" not in (message := await heard.next()):
        pass
    at = trio.current_time()
    with pytest.raises(trio.EndOfChannel):
        await heard.channel.receive()
    error = message["error"]
    assert isinstance(error, dict)
    return at, error


@pytest.fixture
def limited(nursery: trio.Nursery, tmp_path: Path) -> Heard:
    """A channel that may be idle for 100 s."""
    device = Device(nursery, wants=BOTH, telemetry=make_telemetry(tmp_path), idle_time=100)
    return Heard(device.open(TELEMETRY_PROTOCOL))


async def test_a_channel_without_a_subscription_is_idle(autojump_clock: MockClock, limited: Heard) -> None:
    begun = trio.current_time()
    await trio.sleep(90)
    await limited.say(subscribe={"streams": ["local"]})
    await limited.next()
    # One on which nothing happens is of use all the same: it is there for what will happen.
    await trio.sleep(1000)
    await limited.say(unsubscribe=["local"])
    at, error = await said_at_the_end(limited)
    assert at - begun == pytest.approx(90 + 1000 + 100)
    assert error == {"code": "timeout", "reason": "nothing was subscribed to for 100 s"}


async def test_a_subscriber_who_acknowledges_nothing_is_idle(autojump_clock: MockClock, limited: Heard) -> None:
    begun = trio.current_time()
    await limited.say(subscribe={"streams": ["system"], "interval": 10})
    at, error = await said_at_the_end(limited)
    # The sixteenth sample is the first with which too much is unacknowledged.
    assert at - begun == pytest.approx(0.5 + (WINDOW - 1) * 10 + 100)
    assert error == {"code": "timeout", "reason": "nothing was acknowledged for 100 s"}


async def test_who_acknowledges_now_and_then_is_not_idle_until_he_stops(
    autojump_clock: MockClock, limited: Heard
) -> None:
    begun = trio.current_time()
    await limited.say(subscribe={"streams": ["system"], "interval": 90})
    await limited.next()
    for number in range(1, 41):
        samples = await limited.samples()
        if number % WINDOW == 0:
            await limited.say(ack=samples["cursor"])
    at, error = await said_at_the_end(limited)
    full_at = 0.5 + (2 * WINDOW + WINDOW - 1) * 90
    assert at - begun == pytest.approx(full_at + 100)
    assert error["reason"] == "nothing was acknowledged for 100 s"
