from __future__ import annotations

import contextlib
import os
import pwd
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from edgeice.services import (
    SHELL_PROTOCOL,
    ErrorCode,
    ExitStatus,
    LimitedSpawner,
    LocalSpawner,
    Process,
    ServiceError,
    Terminal,
    open_shell,
)
from edgeice.services.account import Account
from edgeice.services.lookup import look_up
from edgeice.services.process import in_thread
from tests.support.device import Device, alive

TERMINAL = Terminal("vt100", 80, 24)


async def output(process: Process) -> str:
    data = b""
    while chunk := await process.read(1, 4096):
        data += chunk
    return data.decode()


@pytest.fixture
def ignored_interrupts() -> Iterator[None]:
    """What a script does to the agent that it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("terminal", [None, TERMINAL])
async def test_no_signal_is_ignored_or_blocked_from_the_start(
    home: Path, ignored_interrupts: None, terminal: Terminal | None
) -> None:
    with trio.fail_after(5):
        async with LocalSpawner().spawn(["cat", "/proc/self/status"], {}, terminal) as process:
            status = dict(line.split(":", 1) for line in (await output(process)).splitlines())
            assert await process.wait() == ExitStatus(code=0)
    assert int(status["SigIgn"], 16) == 0
    assert int(status["SigBlk"], 16) == 0


async def test_a_process_leads_its_own_session_and_group(home: Path) -> None:
    for terminal in (None, TERMINAL):
        async with LocalSpawner().spawn(["cat", "/proc/self/stat"], {}, terminal) as process:
            pid, _name, _state, parent, group, session, tty = (await output(process)).split()[:7]
            assert (group, session, parent) == (pid, pid, str(os.getpid()))
            assert (tty != "0") == (terminal is not None)


async def test_the_real_account_is_the_agents_own(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.getpwuid(os.geteuid())
    async with LocalSpawner(lang="C").spawn(["env"], {}, None) as process:
        assert process.user == entry.pw_name
        lines = (await output(process)).splitlines()
    assert {f"HOME={entry.pw_dir}", f"SHELL={entry.pw_shell}", "LANG=C"} <= set(lines)
    assert len(lines) == 6

    def nameless(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nameless)
    async with LocalSpawner().spawn(["pwd"], {}, None) as process:
        assert process.user == str(os.geteuid())
        assert await output(process) == "/\n"


async def test_a_missing_home_is_no_missing_command(monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account(name="tester", home="/no/such/home", shell="/bin/sh", uid=os.geteuid(), gid=os.getegid())
    monkeypatch.setattr(Account, "of", lambda _user: account)
    async with LocalSpawner().spawn(["pwd"], {}, None) as process:
        assert await output(process) == "/\n"


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [None, TERMINAL])
async def test_running_out_of_descriptors_is_limit_and_leaks_nothing(home: Path, terminal: Terminal | None) -> None:
    """Whichever descriptor is the one too many; a process that did start is ended nevertheless."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    spawner = LocalSpawner(grace=0.05)
    async with spawner.spawn(["true"], {}, None):  # whatever is opened only once is open now
        pass
    full: list[int] = []
    outcomes: list[str] = []
    pids: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                full.append(os.dup(0))
        for _ in range(14):
            try:
                with trio.fail_after(5):
                    async with spawner.spawn(
                        ["sh", "-c", "trap '' TERM HUP; sleep 60 & wait"], {}, terminal
                    ) as process:
                        outcomes.append("started")
                        pids.append(process.pid)  # type: ignore[attr-defined]  # of a local process
            except ServiceError as error:
                outcomes.append(error.code)
            os.close(full.pop())
    finally:
        for fd in full:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    refused = outcomes.count(ErrorCode.LIMIT)
    assert refused >= 4
    assert outcomes == [ErrorCode.LIMIT] * refused + ["started"] * (14 - refused)
    assert refused < 14
    assert not any(alive(str(pid)) for pid in pids)


async def test_a_login_shell_that_is_not_there_is_named(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    account = Account(name="tester", home=str(tmp_path), shell="/no/such/shell", uid=os.geteuid(), gid=os.getegid())
    monkeypatch.setattr(Account, "of", lambda _user: account)
    device = Device(nursery)
    for keep in (False, True):
        with pytest.raises(ServiceError) as caught:
            async with open_shell(device.open(SHELL_PROTOCOL), "vt100", 80, 24, keep=keep):
                pytest.fail("entered")
        assert caught.value.code is ErrorCode.NOT_FOUND
        assert caught.value.reason == "the login shell is not there: /no/such/shell"
    assert device.kept.running() == []


async def test_limits_count_what_runs(home: Path) -> None:
    spawner = LimitedSpawner(LocalSpawner(), 1)
    async with spawner.spawn(["cat"], {}, None):
        with pytest.raises(ServiceError, match="1 processes"):
            async with spawner.spawn(["cat"], {}, None):
                pytest.fail("started")
    with pytest.raises(ServiceError, match="not-found"):
        async with spawner.spawn(["no-such-command"], {}, None):
            pytest.fail("started")
    assert spawner.running == 0


async def test_writing_to_a_process_that_is_gone(home: Path) -> None:
    async with LocalSpawner().spawn(["true"], {}, None) as process:
        await process.wait()
        with pytest.raises(trio.BrokenResourceError):
            await process.write(b"x")
        process.close_input()
        with pytest.raises(trio.BrokenResourceError):
            await process.write(b"x")
        process.signal("TERM")
        process.resize(1, 1)


async def test_threads_that_others_wait_in_keep_no_process_from_its_start_and_end() -> None:
    """Names that no server answers for hold all the threads there are for others."""
    others = trio.to_thread.current_default_thread_limiter()
    holders = [object() for _ in range(int(others.total_tokens))]
    for holder in holders:
        await others.acquire_on_behalf_of(holder)
    try:
        with trio.fail_after(5):
            assert await in_thread(lambda: 7) == 7
            assert await look_up("localhost", 80)
    finally:
        for holder in holders:
            others.release_on_behalf_of(holder)
