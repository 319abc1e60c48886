"""Kept shells: real shells that outlive the channels to them."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from edgeice.services import (
    SHELL_PROTOCOL,
    ErrorCode,
    ExitStatus,
    ServiceError,
    ShellClient,
    bridge,
    list_shells,
    open_shell,
)
from edgeice.services.kept import RING_SIZE, Ring
from tests.support.channels import channel_pair, drain
from tests.support.device import Device, alive, kept_shells
from tests.unit.services.test_shell import Screen, read_all

#: What is sent before anybody grants more, bytes.
INITIAL = 256 * 1024
#: More than ring and credit hold together.
FLOOD = "i=0; while [ $i -lt 6000 ]; do printf '%0127d\\n' $i; i=$((i+1)); done"


@asynccontextmanager
async def kept(device: Device, name: str | None = None) -> AsyncIterator[ShellClient]:
    """Keep a new shell, or attach to the one of this name ("" for any)."""
    how: dict[str, object] = {"keep": True} if name is None else {"attach": name}
    async with open_shell(device.open(SHELL_PROTOCOL), "vt100", 80, 24, **how) as shell:  # type: ignore[arg-type]
        yield shell


async def begun(shell: ShellClient, script: str = "PS1=; stty -echo") -> Screen:
    """Give a new shell no prompt and no echo."""
    screen = Screen(shell)
    await shell.write(f"{script}; echo u''p\n".encode())
    await screen.until(r"\bup\r\n")
    return screen


async def refused(device: Device, name: str | None = None) -> tuple[ErrorCode, str]:
    with pytest.raises(ServiceError) as caught:
        async with kept(device, name):
            pytest.fail("entered")
    return caught.value.code, caught.value.reason


@pytest.mark.parametrize("how", ["left", "broken", "canceled"])
async def test_a_kept_shell_goes_on_and_its_operator_comes_back(
    device: Device, nursery: trio.Nursery, how: str
) -> None:
    with trio.fail_after(10):
        channel = device.open(SHELL_PROTOCOL)
        with pytest.raises(trio.BrokenResourceError) if how != "left" else trio.CancelScope():
            async with open_shell(channel, "vt100", 80, 24, keep=True) as shell:
                assert (shell.user, shell.kept, shell.replay, shell.lost) == ("tester", "1", 0, 0)
                await begun(shell)
                await shell.write(b"secret=42; echo sho''wn\n")
                await Screen(shell).until(r"shown\r\n")
                if how == "broken":
                    channel.break_session()
                    await shell.wait()
                if how == "canceled":
                    device.cancel()
                    await shell.wait()
        await device.idle()
        # From another session of the same operator.
        again = Device(nursery, kept=device.kept)
        async with open_shell(again.open(SHELL_PROTOCOL), "vt100", 90, 30, attach="") as shell:
            assert shell.kept == "1"
            assert shell.lost == 0
            screen = Screen(shell)
            await screen.until(r"shown\r\n")  # once more
            await shell.write(b'echo "<$secret|$(stty size)>"; exit 7\n')
            assert await screen.until(r"<(.*)>\r\n") == "42|30 90"
            await read_all(shell)
            assert await shell.wait() == ExitStatus(code=7)
        await again.idle()
        assert (await refused(again, ""))[0] is ErrorCode.NOT_FOUND
    assert device.told == [
        ("kept", "1", ""),
        ("attached", "1", ""),
        ("detached", "1", ""),
        ("attached", "1", ""),
        ("ended", "1", "exit 7"),
    ]


async def test_output_while_nobody_looks_is_held_up_to_a_bound_and_the_rest_is_said(device: Device, home: Path) -> None:
    with trio.fail_after(20):
        async with kept(device) as shell:
            await begun(shell)
            await shell.write(f"read x; {FLOOD}; touch done; read x\n".encode())
            # Gone before it begins: with whatever was shown up to here.
            await shell.write(b"go\n")
        while not (home / "done").exists():  # noqa: ASYNC110  # a process's file has no event
            await trio.sleep(0.01)
        (running,) = device.kept.running()
        assert len(running.ring.read(running.ring.start, 1 << 30)) <= RING_SIZE + 16 * 1024
        async with kept(device, "1") as shell:
            total = 6000 * 129
            assert RING_SIZE - 129 <= shell.replay <= RING_SIZE
            assert total - RING_SIZE - 32 * 1024 <= shell.lost <= total - RING_SIZE + 1024
            data = b""
            while len(data) < shell.replay:
                data += await shell.read()
            lines = data.split(b"\r\n")
            assert lines[-1] == b""
            assert [int(line) for line in lines[:-1]] == list(range(6000 - len(lines) + 1, 6000))
            assert len(lines) > 2000
            await shell.write(b"x\nexit\n")
            assert await shell.wait() == ExitStatus(code=0)


async def test_a_shell_that_is_not_read_stops_loses_nothing_and_goes_on_when_it_is_left(
    device: Device, home: Path
) -> None:
    with trio.fail_after(20):
        async with kept(device) as shell:
            await begun(shell)
            await shell.write(f"{FLOOD}; touch done; echo\n".encode())
            while shell._link.receiving.available > 0:  # noqa: ASYNC110  # the amount has no event
                await trio.sleep(0.001)
            (running,) = device.kept.running()
            while running.ring.end - INITIAL < RING_SIZE:  # noqa: ASYNC110  # likewise
                await trio.sleep(0.001)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not (home / "done").exists()
            assert RING_SIZE <= running.ring.end - INITIAL < RING_SIZE + 16 * 1024
            assert 0 <= 256 * 1024 - shell._inbox.size < 256  # the rest is what was read above
            data = b""
            while len(data) < 400_000:
                data += await shell.read()
            lines = data.split(b"\r\n")[:-1]
            assert [int(line) for line in lines] == list(range(len(lines)))
        while not (home / "done").exists():  # noqa: ASYNC110  # a process's file has no event
            await trio.sleep(0.01)


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_second_attach_takes_over_and_the_first_is_told(
    device: Device, nursery: trio.Nursery, stalled: bool
) -> None:
    other = Device(nursery, kept=device.kept)
    with trio.fail_after(20):
        async with kept(device) as first:
            screen = await begun(first)
            if stalled:  # as where the network is gone: nobody takes what is sent
                await first.write(b"yes\n")
                while first._link.receiving.available > 0:  # noqa: ASYNC110  # the amount has no event
                    await trio.sleep(0.001)
            async with kept(other, "1") as second:
                if stalled:
                    await second.write(b"\3")
                else:
                    with pytest.raises(ServiceError, match="taken over: you attached") as caught:
                        await screen.until("never")
                    assert caught.value.code is ErrorCode.REFUSED
                await second.write(b"echo mi''ne\n")
                await Screen(second).until(r"mine\r\n")
                async with kept(device, "1") as third:
                    with pytest.raises(ServiceError, match="taken over"):
                        await read_all(second)
                    await third.write(b"exit 3\n")
                    await read_all(third)
                    assert await third.wait() == ExitStatus(code=3)


@pytest.mark.parametrize(("operator", "kid"), [("bob", "kid"), ("alice", "another"), ("bob", "another")])
async def test_nobody_else_sees_or_reaches_a_kept_shell(
    device: Device, nursery: trio.Nursery, operator: str, kid: str
) -> None:
    stranger = Device(nursery, kept=device.kept, operator=operator, kid=kid)
    with trio.fail_after(10):
        async with kept(device):
            pass
        for name in ("", "1"):
            assert await refused(stranger, name) == (
                ErrorCode.NOT_FOUND,
                "no shell of yours is kept here; `edgeice shell --keep` begins one",
            )
        assert await list_shells(stranger.open(SHELL_PROTOCOL)) == []
        assert len(await list_shells(device.open(SHELL_PROTOCOL))) == 1


async def test_how_many_are_kept_is_bounded_and_names_are_free_again(device: Device, nursery: trio.Nursery) -> None:
    bob = Device(nursery, kept=device.kept, operator="bob")
    with trio.fail_after(10):
        async with kept(device) as one, kept(device) as two:
            assert (one.kept, two.kept) == ("1", "2")
            assert await refused(device) == (
                ErrorCode.LIMIT,
                "you keep 2 shells already; attach to one and end it",
            )
            async with kept(bob) as his:
                assert his.kept == "1"
            await bob.idle()
            assert await refused(bob) == (ErrorCode.LIMIT, "3 shells are kept already, some of other operators")
            await one.write(b"exit\n")
            assert await one.wait() == ExitStatus(code=0)
        await device.idle()
        while len(device.kept.running()) > 2:  # noqa: ASYNC110  # its end has no event here
            await trio.sleep(0.001)
        async with kept(device) as again:
            assert again.kept == "1"
        code, reason = await refused(device, "7")
        assert code is ErrorCode.NOT_FOUND
        assert reason == "no kept shell has this name; yours are 2, 1"


async def test_the_list_says_what_runs_and_who_is_there(device: Device) -> None:
    begun_at = trio.current_time()
    with trio.fail_after(10):
        async with kept(device) as first:
            await begun(first)
            await first.write(b"exec sleep 60\n")
            while (await list_shells(device.open(SHELL_PROTOCOL)))[0].running != "sleep":
                pass
            async with kept(device):
                pass
            await device.idle(left=1)
            entries = await list_shells(device.open(SHELL_PROTOCOL))
    assert [(entry.name, entry.running) for entry in entries] == [("1", "sleep"), ("2", "sh")]
    first_one, second_one = entries
    assert first_one.left is None
    assert second_one.left is not None
    assert 0 <= second_one.left <= second_one.seconds <= first_one.seconds <= trio.current_time() - begun_at


async def test_the_one_that_was_left_last_is_what_a_plain_attach_comes_back_to(device: Device) -> None:
    with trio.fail_after(10):
        async with kept(device):
            async with kept(device):
                pass
            await device.idle(left=1)
            async with kept(device, "") as shell:
                assert shell.kept == "2"
        await device.idle()
        async with kept(device, "1"):
            pass
        await device.idle()
        async with kept(device, "") as shell:
            assert shell.kept == "1"


async def test_a_shell_to_which_nobody_comes_back_ends_in_time_and_costs_nothing_until_then(
    home: Path, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    told: list[tuple[str, str, str]] = []
    device = Device(nursery, kept=kept_shells(nursery, told, time=3600))
    async with kept(device) as shell:
        pid = device.kept.running()[0].process.pid  # type: ignore[attr-defined]  # of a local process
        await shell.write(b"\n")
        mock_clock.jump(10_000)  # somebody is attached
        await trio.testing.wait_all_tasks_blocked()
        assert len(device.kept.running()) == 1
    await device.idle()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == pytest.approx(3600)
    mock_clock.jump(3599)
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert alive(str(pid))
    mock_clock.jump(1.5)
    while device.kept.running() or alive(str(pid)):
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(0.01)
    assert told[-1] == ("ended", "1", "nobody came back")


async def test_the_end_of_the_agent_ends_them_all_however_stubborn(home: Path) -> None:
    told: list[tuple[str, str, str]] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as agent, trio.open_nursery() as sessions:
            device = Device(sessions, kept=kept_shells(agent, told, grace=0.2))
            async with kept(device) as shell:
                await begun(shell, "trap '' HUP TERM; set -m; sleep 60 & echo $! $$ > pids")
            await device.idle()
            agent.cancel_scope.cancel()
    assert told[-1] == ("ended", "1", "the agent stops")
    pids = (home / "pids").read_text().split()
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


async def test_who_is_attached_is_told_that_the_device_ended_the_shell(device: Device) -> None:
    with trio.fail_after(10):
        async with kept(device) as shell:
            device.kept.running()[0].end("its operator may not use it any more")
            with pytest.raises(ServiceError, match="the device ended the shell: its operator may not use it any more"):
                await read_all(shell)


async def test_who_waits_to_take_over_is_told_so_too(device: Device, nursery: trio.Nursery) -> None:
    with trio.fail_after(10):
        async with kept(device):
            pass
        await device.idle()
        (shell,) = device.kept.running()
        outcomes: list[str] = []

        async def take_over() -> None:
            try:
                async with shell.attach(lambda: 0):
                    outcomes.append("attached")
            except ServiceError as error:
                outcomes.append(str(error))

        async with shell.attach(lambda: 0):
            nursery.start_soon(take_over)
            await trio.testing.wait_all_tasks_blocked()
            shell.end("enough")
            while device.kept.running():
                await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
    assert outcomes == ["not-found: the device ended the shell: enough"]


@pytest.mark.parametrize("reads", [True, False])
async def test_what_is_typed_last_is_still_typed(
    device: Device, home: Path, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = 60.0 if reads else 0.2
    monkeypatch.setattr(bridge, "LAST_PATIENCE", patience)
    with trio.fail_after(10):
        async with kept(device) as shell:
            await begun(shell)
            if not reads:
                os.mkfifo(home / "never")
                await shell.write(b"read -r go <never\n")
            # More than a terminal holds, so that some of it waits.
            await shell.write(b"cat >typed; exit\n" + b"x" * 79 + b"\n" * 100_000 + b"\4")
        await device.idle()
        if not reads:
            assert device.kept.running()  # it was left alone with what it does not read
        else:
            while device.kept.running():  # noqa: ASYNC110  # its end has no event here
                await trio.sleep(0.001)
            assert (home / "typed").read_text() == "x" * 79 + "\n" * 100_000


async def test_the_rest_of_the_output_comes_before_the_status_however_slowly_it_is_read(device: Device) -> None:
    with trio.fail_after(20):
        async with kept(device) as shell:
            await begun(shell)
            await shell.write(f"{FLOOD}; exit 4\n".encode())
            data = await read_all(shell)
            assert await shell.wait() == ExitStatus(code=4)
    assert [int(line) for line in data.split(b"\r\n")[:-1]] == list(range(6000))


@pytest.mark.parametrize(
    "members",
    [
        {"keep": 1},
        {"keep": "yes"},
        {"attach": 1},
        {"list": "all"},
        {"keep": True, "attach": True},
        {"attach": "1", "list": True},
    ],
)
async def test_malformed_wishes(device: Device, members: dict[str, object]) -> None:
    channel = device.open(SHELL_PROTOCOL)
    await channel.send(json.dumps({"open": {"term": "vt100", "cols": 80, "rows": 24, **members}}))
    (message,) = await drain(channel)
    assert isinstance(message, str)
    assert json.loads(message)["error"]["code"] == "malformed"
    assert device.kept.running() == []


@pytest.mark.parametrize("how", [{"keep": True}, {"attach": ""}, {"attach": "1"}])
async def test_an_older_device_is_noticed(nursery: trio.Nursery, how: dict[str, object]) -> None:
    near, far = channel_pair(SHELL_PROTOCOL)
    await far.send('{"opened":{"user":"pi"}}')  # it ignores what it does not know
    with pytest.raises(ServiceError, match="older") as caught:
        async with open_shell(near, "vt100", 80, 24, **how):  # type: ignore[arg-type]
            pytest.fail("entered")
    assert caught.value.code is ErrorCode.UNSUPPORTED
    assert json.loads(str(await far.receive()))["open"]["term"] == "vt100"
    with pytest.raises(trio.EndOfChannel):  # and ends the shell that it opened
        await far.receive()


@pytest.mark.parametrize("name", ["", "$(reboot)", "-x", "a b", "x" * 65, 1, None])
async def test_a_device_that_gives_a_name_which_nobody_should_paste(nursery: trio.Nursery, name: object) -> None:
    near, far = channel_pair(SHELL_PROTOCOL)
    await far.send(json.dumps({"opened": {"user": "pi", "kept": name}}))
    with pytest.raises(ServiceError) as caught:
        async with open_shell(near, "vt100", 80, 24, keep=True):
            pytest.fail("entered")
    assert caught.value.code is ErrorCode.MALFORMED


async def test_an_older_device_is_noticed_when_listing() -> None:
    near, far = channel_pair(SHELL_PROTOCOL)
    await far.send('{"error":{"code":"malformed","reason":"control-type: term is not a string"}}')
    with pytest.raises(ServiceError, match="older") as caught:
        await list_shells(near)
    assert caught.value.code is ErrorCode.UNSUPPORTED


@pytest.mark.parametrize(
    "shells",
    ["1", '[{"name":1}]', '[{"name":"1","seconds":-1}]', '[{"name":"1","seconds":0,"left":"x"}]', "[[]]"],
)
async def test_a_broken_list(shells: str) -> None:
    near, far = channel_pair(SHELL_PROTOCOL)
    await far.send(f'{{"shells":{shells}}}')
    with pytest.raises(ServiceError):
        await list_shells(near)


def test_a_ring_holds_the_newest_and_shows_whole_lines() -> None:
    ring = Ring(100)
    ring.append(b"abc\n")
    assert (ring.start, ring.end, ring.replay_from(100)) == (0, 4, 0)
    assert ring.replay_from(3) == 4  # what begins in a line is cut
    ring.append(b"x" * 200)
    assert (ring.start, ring.end) == (0, 204)
    assert ring.replay_from(100) == 104  # no line ends there
    for number in range(3000):
        ring.append(b"%9d\n" % number)
    assert ring.end == 204 + 30_000
    assert ring.end - ring.start == 100 + 16 * 1024
    position = ring.replay_from(100)
    assert ring.read(position, 10) == b"%9d\n" % 2991
    assert ring.read(position, 1 << 20) == b"".join(b"%9d\n" % number for number in range(2991, 3000))
    assert ring.read(ring.end, 10) == b""
