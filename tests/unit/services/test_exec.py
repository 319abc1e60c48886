from __future__ import annotations

import contextlib
import hashlib
import json
import random
from pathlib import Path

import pytest
import trio
import trio.testing

from edgeice.services import (
    EXEC_PROTOCOL,
    STDERR,
    STDOUT,
    ErrorCode,
    ExecClient,
    ExitStatus,
    ServiceError,
    open_exec,
)
from tests.support.channels import channel_pair, drain
from tests.support.device import Device, alive

KIB = 1024
CREDIT = 256 * KIB


async def collect(client: ExecClient) -> tuple[bytes, bytes]:
    streams = {STDOUT: b"", STDERR: b""}
    while (item := await client.read()) is not None:
        streams[item[0]] += item[1]
    return streams[STDOUT], streams[STDERR]


async def run(device: Device, *argv: str, env: dict[str, str] | None = None) -> tuple[ExitStatus, bytes, bytes]:
    with trio.fail_after(5):
        async with open_exec(device.open(EXEC_PROTOCOL), argv, env) as client:
            out, err = await collect(client)
            return await client.wait(), out, err


async def until(device: Device, client: ExecClient, text: bytes) -> bytes:
    out = b""
    while text not in out:
        item = await client.read()
        assert item is not None, out
        out += item[1]
    return out


@pytest.mark.parametrize("code", [0, 3, 255])
async def test_exit_codes(device: Device, code: int) -> None:
    assert await run(device, "sh", "-c", f"exit {code}") == (ExitStatus(code=code), b"", b"")


async def test_exit_by_signal(device: Device) -> None:
    status, _, _ = await run(device, "sh", "-c", "kill -TERM $$")
    assert status == ExitStatus(signal="TERM")
    assert status.as_code() == 143


async def test_output_and_error_stay_apart(device: Device) -> None:
    assert await run(device, "sh", "-c", "echo out; echo err >&2") == (ExitStatus(code=0), b"out\n", b"err\n")


async def test_environment_is_a_logins_and_nothing_of_the_agents(
    device: Device, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", "secret")
    _, out, _ = await run(device, "sh", "-c", "pwd; umask; exec env", env={"EXTRA": "ü b", "LANG": "C"})
    lines = out.decode().splitlines()
    assert lines[:2] == [str(home), "0022"]
    names = {line.partition("=")[0]: line.partition("=")[2] for line in lines[2:]}
    path = names.pop("PATH")
    assert "/usr/bin" in path.split(":")
    assert names.pop("PWD") == str(home)  # dash's own
    assert names == {
        "HOME": str(home),
        "USER": "tester",
        "LOGNAME": "tester",
        "SHELL": "/bin/sh",
        "LANG": "C",
        "EXTRA": "ü b",
    }


async def test_no_descriptor_is_inherited(device: Device) -> None:
    _, out, _ = await run(device, "sh", "-c", "ls /proc/$$/fd")
    assert out.split() == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    ("command", "code"),
    [("no-such-command", "not-found"), ("./missing", "not-found"), ("./plain", "refused"), ("/tmp", "refused")],
)
async def test_a_command_that_cannot_be_started(device: Device, home: Path, command: str, code: str) -> None:
    (home / "plain").write_text("text")
    with pytest.raises(ServiceError) as caught:
        await run(device, command)
    assert caught.value.code == code
    await device.idle()
    assert device.drops.snapshot() == {f"channel-{code}": 1}


async def test_input_may_be_sent_at_once_and_ends(device: Device) -> None:
    channel = device.open(EXEC_PROTOCOL)
    await channel.send('{"open":{"argv":["cat"]}}')
    await channel.send(b"\0hello ")
    await channel.send(b"\0")
    await channel.send(b"\0world")
    await channel.send('{"eof":true}')
    messages = await drain(channel)
    assert messages[-1] == '{"exit":0}'
    assert b"".join(m[1:] for m in messages if isinstance(m, bytes)) == b"hello world"
    assert all(m[:1] == b"\1" for m in messages if isinstance(m, bytes))


async def test_a_mebibyte_through_cat_under_a_reader_that_stalls(device: Device) -> None:
    data = random.Random(3).randbytes(1024 * KIB)
    digest = hashlib.sha256()
    channel = device.open(EXEC_PROTOCOL, log=True)
    written = trio.Event()
    with trio.fail_after(10):
        async with open_exec(channel, ["cat"]) as client, trio.open_nursery() as nursery:

            async def write() -> None:
                await client.write(data)
                await client.send_eof()
                written.set()

            nursery.start_soon(write)
            # The device stops when its credit is spent, cat when its pipe is full, and then the writer.
            while client._link.receiving.available > 1:  # noqa: ASYNC110  # the amount has no event
                await trio.sleep(0.001)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert not written.is_set()
            sent = sum(len(message) for message in channel.sent or () if isinstance(message, bytes))
            # What stands on the way: 256 KiB each way, two pipes, and one chunk in each direction.
            assert sent <= 2 * CREDIT + 2 * 64 * KIB + 2 * 16 * KIB + 64 * KIB
            while (item := await client.read()) is not None:
                assert item[0] == STDOUT
                digest.update(item[1])
                assert client._inbox.size <= CREDIT
            assert await client.wait() == ExitStatus(code=0)
    assert digest.digest() == hashlib.sha256(data).digest()
    sizes = {len(message) for message in channel.sent or () if isinstance(message, bytes)}
    assert max(sizes) == 16 * KIB
    grants = [json.loads(message)["credit"] for message in channel.sent or () if '"credit"' in str(message)[:10]]
    assert all(32 * KIB <= grant < 64 * KIB for grant in grants)


async def test_a_command_that_does_not_read_stops_the_writer_and_can_still_be_ended(device: Device) -> None:
    with trio.fail_after(5):
        async with open_exec(device.open(EXEC_PROTOCOL), ["sh", "-c", "echo up; exec sleep 60"]) as client:
            await until(device, client, b"up")
            with trio.move_on_after(0.05) as scope:
                await client.write(bytes(1024 * KIB))
            assert scope.cancelled_caught
            await client.signal("TERM")
            assert await client.wait() == ExitStatus(signal="TERM")


async def test_a_command_that_closed_its_input_takes_no_more_and_stalls_nobody(device: Device) -> None:
    with trio.fail_after(5):
        script = "exec 0</dev/null; trap 'exit 4' USR1; echo up; while :; do sleep 0.01; done"
        async with open_exec(device.open(EXEC_PROTOCOL), ["sh", "-c", script]) as client:
            await until(device, client, b"up")
            await client.write(bytes(1024 * KIB))
            await client.signal("USR1")
            assert await client.wait() == ExitStatus(code=4)


async def test_signals_reach_the_group_and_unknown_ones_are_ignored(device: Device) -> None:
    with trio.fail_after(5):
        script = "trap 'exit 9' INT; sh -c 'trap \"echo child; exit\" INT; echo up; while :; do sleep 0.01; done'"
        async with open_exec(device.open(EXEC_PROTOCOL), ["sh", "-c", script]) as client:
            await until(device, client, b"up")
            await client.signal("NONSENSE")
            await client.signal("INT")
            out, _ = await collect(client)
            assert out == b"child\n"
            assert await client.wait() == ExitStatus(code=9)


async def test_what_the_command_leaves_in_the_background_does_not_hold_the_channel(device: Device, home: Path) -> None:
    status, out, _ = await run(device, "sh", "-c", "sleep 60 & echo $! > pid; echo done")
    assert (status, out) == (ExitStatus(code=0), b"done\n")
    await device.idle()
    assert not alive((home / "pid").read_text())


async def test_output_up_to_the_exit_is_complete_though_the_background_goes_on_writing(device: Device) -> None:
    script = "yes & head -c 40000 /dev/zero; exit 5"
    with trio.fail_after(5):
        status, out, _ = await run(device, "sh", "-c", script)
    assert status == ExitStatus(code=5)
    assert out.count(b"\0") == 40_000


STUBBORN = """trap '' HUP TERM INT
sh -c 'trap "" HUP TERM; echo $$ >> pids; exec sleep 60' &
sh -c 'trap "" HUP TERM; kill -STOP $$; exec sleep 60' & echo $! >> pids
while ! [ "$(wc -l < pids)" = 2 ]; do sleep 0.01; done
echo up; while :; do sleep 0.01; done"""


@pytest.mark.parametrize("how", ["broken", "closed", "canceled"])
async def test_losing_the_channel_ends_the_whole_tree_within_the_grace(device: Device, home: Path, how: str) -> None:
    (home / "pids").touch()
    channel = device.open(EXEC_PROTOCOL)
    with trio.fail_after(5):
        await channel.send(json.dumps({"open": {"argv": ["sh", "-c", STUBBORN]}}))
        assert await channel.receive() == b"\1up\n"
        started_at = trio.current_time()
        if how == "broken":
            channel.break_session()
        elif how == "closed":
            await channel.aclose()
        else:
            device.cancel()
        await device.idle()
        assert trio.current_time() - started_at >= 0.1
    pids = (home / "pids").read_text().split()
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("script", ["sleep 60 & echo up; wait", "sleep 60 & echo up; kill -STOP $$"])
async def test_a_tree_that_goes_when_asked_needs_no_grace(nursery: trio.Nursery, home: Path, script: str) -> None:
    device = Device(nursery, grace=60)
    channel = device.open(EXEC_PROTOCOL)
    with trio.fail_after(5):
        await channel.send(json.dumps({"open": {"argv": ["sh", "-c", script]}}))
        assert await channel.receive() == b"\1up\n"
        channel.break_session()
        await device.idle()


async def test_leaving_the_operators_scope_ends_the_command(device: Device, home: Path) -> None:
    with trio.fail_after(5):
        async with open_exec(device.open(EXEC_PROTOCOL), ["sh", "-c", "echo $$; exec sleep 60"]) as client:
            pid = (await until(device, client, b"\n")).decode()
            assert alive(pid)
        await device.idle()
    assert not alive(pid)


OPEN_CAT = '{"open":{"argv":["cat"]}}'


@pytest.mark.slow
async def test_the_bytes_before_the_data_are_granted_again_too(device: Device) -> None:
    channel = device.open(EXEC_PROTOCOL)
    await channel.send('{"open":{"argv":["sh","-c","cat >/dev/null"]}}')
    with trio.fail_after(5):
        for _ in range(16 * KIB):
            await channel.send(b"\0x")
        message = await channel.receive()
    assert isinstance(message, str)
    assert 32 * KIB <= json.loads(message)["credit"] < 64 * KIB


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (["garbage"], "malformed"),
        ([b"\0bytes first"], "malformed"),
        (['{"eof":true}'], "malformed"),
        (['{"open":[]}'], "malformed"),
        (['{"open":{}}'], "malformed"),
        (['{"open":{"argv":[]}}'], "malformed"),
        (['{"open":{"argv":[""]}}'], "malformed"),
        (['{"open":{"argv":["a",1]}}'], "malformed"),
        (['{"open":{"argv":["a\\u0000b"]}}'], "malformed"),
        (['{"open":{"argv":["env"],"env":{"A=B":"c"}}}'], "malformed"),
        (['{"open":{"argv":["env"],"env":{"A":1}}}'], "malformed"),
        (['{"open":{"argv":["cat"],"argv":["rm"]}}'], "malformed"),
        ([OPEN_CAT, OPEN_CAT], "malformed"),
        ([OPEN_CAT, '{"eof":1}'], "malformed"),
        ([OPEN_CAT, '{"signal":15}'], "malformed"),
        ([OPEN_CAT, '{"what":1}'], "malformed"),
        ([OPEN_CAT, "{"], "malformed"),
        ([OPEN_CAT, b""], "malformed"),
        ([OPEN_CAT, b"\1stdout"], "malformed"),
        ([OPEN_CAT, '{"eof":true}', b"\0late"], "malformed"),
        ([OPEN_CAT, bytes(16_385)], "limit"),
    ],
)
async def test_garbage_ends_its_channel_and_no_other(device: Device, messages: list[bytes | str], code: str) -> None:
    good = device.open(EXEC_PROTOCOL)
    await good.send(OPEN_CAT)
    channel = device.open(EXEC_PROTOCOL)
    for message in messages:
        await channel.send(message)
    last = (await drain(channel))[-1]
    assert isinstance(last, str)
    assert json.loads(last)["error"]["code"] == code
    assert device.drops.snapshot() == {f"channel-{code}": 1}
    await good.send('{"eof":true}')
    assert (await drain(good))[-1] == '{"exit":0}'


async def test_more_bytes_than_credit_is_limit(device: Device) -> None:
    channel = device.open(EXEC_PROTOCOL)
    await channel.send('{"open":{"argv":["sleep","60"]}}')
    with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
        # The pipe takes 64 KiB, which are granted again; one message more than all that breaks the rule.
        for _ in range(22):
            await channel.send(bytes(16 * KIB))
    last = (await drain(channel))[-1]
    assert isinstance(last, str)
    assert json.loads(last)["error"] == {"code": "limit", "reason": "more bytes than credit"}


async def test_a_session_runs_only_so_many_processes(device: Device) -> None:
    held = [device.open(EXEC_PROTOCOL) for _ in range(2)]
    for channel in held:
        await channel.send('{"open":{"argv":["sh","-c","echo up; cat"]}}')
        assert await channel.receive() == b"\1up\n"
    with pytest.raises(ServiceError, match="processes") as caught:
        await run(device, "true")
    assert caught.value.code is ErrorCode.LIMIT
    for channel in held:
        await channel.aclose()
    await device.idle()
    assert (await run(device, "true"))[0] == ExitStatus(code=0)


async def test_an_operator_gives_up_on_a_device_that_breaks_the_rules(nursery: trio.Nursery) -> None:
    for message in (
        b"\0for stdin",
        b"",
        "{",
        '{"exit":1.5}',
        '{"exit":256}',
        '{"exit_signal":"\\u001b[2J"}',
        '{"x":1}',
    ):
        near, far = channel_pair(EXEC_PROTOCOL)
        await far.send(message)
        with pytest.raises(ServiceError) as caught:
            async with open_exec(near, ["x"]) as client:
                await client.wait()
        assert caught.value.code is ErrorCode.MALFORMED
        assert await far.receive() == '{"open":{"argv":["x"]}}'
        with pytest.raises(trio.EndOfChannel):
            await far.receive()


async def test_an_operator_holds_no_more_than_its_credit_of_a_device_that_ignores_it(nursery: trio.Nursery) -> None:
    near, far = channel_pair(EXEC_PROTOCOL, limit=1 << 20)
    for _ in range(17):
        await far.send(b"\1" + bytes(16 * KIB - 1))
    with pytest.raises(ServiceError) as caught:
        async with open_exec(near, ["x"]) as client:
            await client.wait()
    assert caught.value.code is ErrorCode.LIMIT
    assert client._inbox.size == 16 * (16 * KIB - 1)


async def test_the_exit_wakes_who_waits_to_write(nursery: trio.Nursery) -> None:
    near, far = channel_pair(EXEC_PROTOCOL, limit=1 << 20)
    with trio.fail_after(5):
        async with open_exec(near, ["x"]) as client, trio.open_nursery() as writers:

            async def write() -> None:
                with pytest.raises(trio.BrokenResourceError, match="has ended"):
                    await client.write(bytes(CREDIT))

            writers.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            assert client._link.sending.available == 0
            await far.send('{"exit":0}')


async def test_an_operator_learns_that_the_session_broke(device: Device) -> None:
    channel = device.open(EXEC_PROTOCOL)
    async with open_exec(channel, ["sleep", "60"]) as client:
        channel.break_session()
        with pytest.raises(trio.BrokenResourceError):
            await client.read()


async def test_the_operator_closes_two_seconds_after_exit(autojump_clock: trio.testing.MockClock) -> None:
    near, far = channel_pair(EXEC_PROTOCOL)
    await far.send(b"\1rest")
    await far.send('{"exit":0}')
    async with open_exec(near, ["x"]) as client:
        assert await client.wait() == ExitStatus(code=0)
        started_at = trio.current_time()
        await far.receive()
        with pytest.raises(trio.EndOfChannel):
            await far.receive()
        assert trio.current_time() - started_at == pytest.approx(2)
        assert await client.read() == (STDOUT, b"rest")
        assert await client.read() is None
        with pytest.raises(trio.BrokenResourceError):
            await client.write(b"x")


async def test_the_bodys_own_exception_comes_out_as_it_is(device: Device) -> None:
    class OwnError(Exception):
        pass

    with pytest.raises(OwnError):
        async with open_exec(device.open(EXEC_PROTOCOL), ["cat"]):
            raise OwnError
