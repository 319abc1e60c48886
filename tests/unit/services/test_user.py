"""Processes of another user than the agent's: what they are, what they may not do, and that they end.

These are real ones, which only root can start.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from edgeice.services import (
    SHELL_PROTOCOL,
    ErrorCode,
    ExitStatus,
    LocalSpawner,
    Process,
    ServiceError,
    Terminal,
    open_shell,
    privileges,
)
from edgeice.services.account import Account
from edgeice.services.privileges import why_not_run_as
from tests.support.device import Device, alive
from tests.unit.services.test_shell import Screen
from tests.unit.services.test_spawner import output

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of other users")
TERMINAL = Terminal("vt100", 80, 24)
UID, GID, GROUPS = 54321, 54322, (54322, 54323, 54324)
LIMITS = "/proc/self/limits"
REMEDY = "give it" if os.geteuid() == 0 else "run it as root, or give it"


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """The user that processes run as; its home is one that it may enter, below folders that all may."""
    home = Path(tempfile.mkdtemp())
    os.chown(home, UID, GID)
    account = Account(name="tester", home=str(home), shell="/bin/sh", uid=UID, gid=GID, groups=GROUPS)
    monkeypatch.setattr(Account, "of", lambda _user: account)
    yield account
    shutil.rmtree(home)


async def run(*argv: str, terminal: Terminal | None = None) -> tuple[str, ExitStatus]:
    with trio.fail_after(5):
        async with LocalSpawner(grace=0.1).spawn(list(argv), {}, terminal) as process:
            return (await output(process)).replace("\r\n", "\n"), await process.wait()


async def pids(process: Process, count: int) -> list[str]:
    """The first lines of its output."""
    said = ""
    while said.count("\n") < count:
        said += (await process.read(1, 4096)).decode()
    return said.split()


@ROOT
@pytest.mark.parametrize("terminal", [None, TERMINAL])
async def test_user_groups_and_no_capabilities(account: Account, terminal: Terminal | None) -> None:
    said, _ = await run("cat", "/proc/self/status", terminal=terminal)
    status = {name: value.split() for name, _, value in (line.partition(":") for line in said.splitlines())}
    assert status["Uid"] == [str(UID)] * 4  # real, effective, saved, of the file system
    assert status["Gid"] == [str(GID)] * 4
    assert status["Groups"] == [str(group) for group in GROUPS]
    assert {name: int(status[name][0], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {
        "CapInh": 0,
        "CapPrm": 0,
        "CapEff": 0,
        "CapAmb": 0,
    }
    assert status["Umask"] == ["0022"]


@ROOT
async def test_environment_and_folder_are_a_logins(account: Account) -> None:
    said, _ = await run("env")
    assert dict(line.split("=", 1) for line in said.splitlines()) == {
        "HOME": account.home,
        "USER": "tester",
        "LOGNAME": "tester",
        "SHELL": "/bin/sh",
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games",
        "LANG": "C.UTF-8",
    }
    assert await run("sh", "-c", "pwd; touch mine; stat -c '%u %g' mine") == (
        f"{account.home}\n{UID} {GID}\n",
        ExitStatus(code=0),
    )


@ROOT
@pytest.mark.parametrize("terminal", [None, TERMINAL])
async def test_limits_are_unchanged_and_nothing_open_is_handed_on(account: Account, terminal: Terminal | None) -> None:
    inherited = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    try:
        said, _ = await run("sh", "-c", f"cat {LIMITS}; echo; ls /proc/$$/fd", terminal=terminal)
    finally:
        os.close(inherited)
    limits, _, descriptors = said.rpartition("\n\n")
    limits += "\n"
    assert limits == await trio.Path(LIMITS).read_text()
    # dash keeps one of its own for a terminal.
    assert set(descriptors.split()) - {"10"} == {"0", "1", "2"}


@ROOT
async def test_the_terminal_is_the_users_own(account: Account) -> None:
    script = 'stat -c "%u %G %a" "$(tty)"; echo again >"$(tty)"; echo there >/dev/tty'
    said, status = await run("sh", "-c", script, terminal=TERMINAL)
    assert (said, status) == (f"{UID} tty 620\nagain\nthere\n", ExitStatus(code=0))


@ROOT
async def test_a_terminal_without_a_group_tty_is_nobody_elses(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr("grp.getgrnam", none)
    said, _ = await run("sh", "-c", 'stat -c "%u %g %a" "$(tty)"', terminal=TERMINAL)
    assert said == f"{UID} {GID} 600\n"


@ROOT
async def test_a_terminal_that_cannot_be_given_away_is_said(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(ServiceError) as caught:
        await run("true", terminal=TERMINAL)
    assert caught.value.code is ErrorCode.INTERNAL
    assert caught.value.reason == "its terminal cannot be given to tester: Operation not permitted"


@ROOT
async def test_its_pipes_can_be_opened_again(account: Account) -> None:
    said, status = await run("sh", "-c", "echo one | tee /dev/stderr 2>&1 >/dev/null; echo two >/dev/stdout")
    assert (said, status) == ("one\ntwo\n", ExitStatus(code=0))


@ROOT
@pytest.mark.parametrize("terminal", [None, TERMINAL])
async def test_its_processes_end_with_the_scope_also_those_that_ignore_it(
    account: Account, terminal: Terminal | None
) -> None:
    script = "trap '' TERM HUP INT; sh -c 'echo $$; exec sleep 99' & echo $$; wait; sleep 99"
    with trio.fail_after(5):
        async with LocalSpawner(grace=0.1).spawn(["sh", "-c", script], {}, terminal) as process:
            both = await pids(process, 2)
            assert [(await trio.Path("/proc", pid).stat()).st_uid for pid in both] == [UID, UID]
    assert not any(alive(pid) for pid in both)


@ROOT
@pytest.mark.parametrize("terminal", [None, TERMINAL])
async def test_its_processes_get_signals(account: Account, terminal: Terminal | None) -> None:
    with trio.fail_after(5):
        async with LocalSpawner().spawn(["sh", "-c", "echo $$; exec sleep 99"], {}, terminal) as process:
            await pids(process, 1)
            process.signal("INT")
            assert await process.wait() == ExitStatus(signal="INT")


@ROOT
async def test_a_kept_shell_is_the_users_and_ends(account: Account, nursery: trio.Nursery) -> None:
    device = Device(nursery)
    with trio.fail_after(10):
        async with open_shell(device.open(SHELL_PROTOCOL), "vt100", 80, 24, keep=True) as shell:
            assert shell.user == "tester"
            await shell.write(b"trap '' TERM HUP; echo \"<$(id -u) $PWD $$>\"\n")
            uid, where, pid = (await Screen(shell).until(r"<(\d.*)>\r\n")).split()
            assert (uid, where) == (str(UID), account.home)
        await device.idle()
        (kept,) = device.kept.running()
        assert alive(pid)
        kept.end("enough")
        while device.kept.running() or alive(pid):  # noqa: ASYNC110  # a process has no event
            await trio.sleep(0.01)


@ROOT
async def test_a_shell_reaches_neither_the_agents_files_nor_the_agent(account: Account, tmp_path: Path) -> None:
    secret = Path(account.home) / "device.key"  # even in a folder that it may enter
    secret.touch(mode=0o600)
    secret.write_text("PRIVATE")
    os.chown(secret, 0, 0)
    agent = os.getpid()
    script = (
        f"cat {secret}; cat /proc/{agent}/environ; ls /proc/{agent}/fd/; cat /proc/{agent}/mem; kill -0 {agent}; "
        f"ls {tmp_path}; echo over"
    )
    with trio.fail_after(5):
        async with LocalSpawner().spawn(["sh", "-c", script], {}, None) as process:
            assert await output(process) == "over\n"
            errors = b""
            while data := await process.read(2, 4096):
                errors += data
    assert errors.count(b"ermission denied") + errors.count(b"not permitted") == 6


@ROOT
@pytest.mark.parametrize(
    ("kind", "ends"), [("missing", False), ("closed", False), ("below-closed", False), ("own", True)]
)
async def test_a_home_that_the_user_cannot_enter(
    account: Account, monkeypatch: pytest.MonkeyPatch, kind: str, ends: bool
) -> None:
    home = Path(account.home) / "home"
    if kind != "missing":
        home.mkdir(mode=0o700)
        os.chown(home, UID if kind == "own" else 0, 0)
    if kind == "below-closed":
        home /= "below"
        home.mkdir(mode=0o755)
    moved = Account(name="tester", home=str(home), shell="/bin/sh", uid=UID, gid=GID, groups=GROUPS)
    monkeypatch.setattr(Account, "of", lambda _user: moved)
    said, _ = await run("sh", "-c", 'pwd; echo "$HOME"')
    assert said == f"{home if ends else '/'}\n{home}\n"


@pytest.mark.parametrize(
    ("owner", "group", "mode", "may"),
    [
        (UID, 0, 0o100, True),
        (UID, GID, 0o011, False),
        (0, GID, 0o010, True),
        (0, GROUPS[-1], 0o010, True),
        (0, GID, 0o001, False),
        (0, 0, 0o001, True),
        (0, 0, 0o770, False),
    ],
)
@ROOT
def test_who_may_enter_a_folder(tmp_path: Path, owner: int, group: int, mode: int, may: bool) -> None:
    account = Account(name="tester", home="/", shell="/bin/sh", uid=UID, gid=GID, groups=GROUPS)
    os.chown(tmp_path, owner, group)
    tmp_path.chmod(mode)
    assert account._may_enter(tmp_path) is may


def test_the_users_of_this_machine() -> None:
    own = pwd.getpwuid(os.geteuid())
    assert Account.of(None) == Account.of(own.pw_name)
    assert Account.of(own.pw_name).identity() == {}
    entry = pwd.getpwnam("nobody")
    nobody = Account.of("nobody")
    assert (nobody.name, nobody.uid, nobody.home) == ("nobody", entry.pw_uid, entry.pw_dir)
    assert nobody.identity() == {
        "user": entry.pw_uid,
        "group": entry.pw_gid,
        "extra_groups": tuple(os.getgrouplist("nobody", entry.pw_gid)),
    }


async def test_a_user_who_is_gone_is_said() -> None:
    with pytest.raises(ServiceError) as caught:
        async with LocalSpawner("nobody-of-this-name").spawn(["true"], {}, None):
            pytest.fail("started")
    assert caught.value.code is ErrorCode.INTERNAL
    assert caught.value.reason == "the device has no user nobody-of-this-name any more"


# What the agent may


def test_why_processes_cannot_run_as_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    own = pwd.getpwuid(os.geteuid()).pw_name
    capabilities = 0
    monkeypatch.setattr(privileges, "_capabilities", lambda _name: capabilities)
    assert why_not_run_as(own) is None
    said = f"the agent runs as {own} and may not run processes as nobody: {REMEDY} "
    assert why_not_run_as("nobody") == f"{said}CAP_CHOWN, CAP_KILL, CAP_SETGID, CAP_SETUID"
    capabilities = 1 << 0 | 1 << 6 | 1 << 7
    assert why_not_run_as("nobody") == f"{said}CAP_KILL"
    capabilities |= 1 << 5
    assert why_not_run_as("nobody") is None
    assert why_not_run_as("no-such") == "this device has no user 'no-such'; `getent passwd` lists those that there are"


@ROOT
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
@pytest.mark.parametrize("cleared", [False, True])
def test_capabilities_that_a_service_manager_set_are_not_handed_on(cleared: bool) -> None:
    """Under a user that is not root, what is ambient would survive the change to another one."""
    program = (
        "import json, os, subprocess; from edgeice.services import privileges as p; names = 'CapEff CapInh CapAmb'\n"
        f"{'p.keep_capabilities_from_children()' if cleared else ''}\n"
        "own = [p._capabilities(name) for name in names.split()]\n"
        "child = 'import json; from edgeice.services import privileges as p;"
        ' print(json.dumps([p._capabilities(name) for name in "CapPrm CapInh CapAmb".split()]))\'\n'
        "said = subprocess.run(['python', '-c', child], executable=__import__('sys').executable, capture_output=True,"
        " check=True).stdout\n"
        "print(json.dumps([own, json.loads(said)]))"
    )
    # Root without root's privileges stands for a user who can read this interpreter's files.
    command = ["setpriv", "--securebits", "+noroot", "--inh-caps=+net_raw", "--ambient-caps=+net_raw", sys.executable]
    done = subprocess.run([*command, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    own, child = json.loads(done.stdout)
    net_raw = 1 << 13
    assert own == ([net_raw, 0, 0] if cleared else [net_raw] * 3)
    assert child == ([0, 0, 0] if cleared else [net_raw] * 3)


_FOUR = "-all,+chown,+kill,+setgid,+setuid"
#: Root without root's privileges stands for a user who can read this interpreter's files.
_CAPABLE = ["setpriv", "--securebits", "+noroot,+no_setuid_fixup", f"--inh-caps={_FOUR}", f"--ambient-caps={_FOUR}"]
_SERVE = """
import json, trio
from edgeice.services import LocalSpawner
from edgeice.services.privileges import keep_capabilities_from_children, why_not_run_as
from tests.support.device import alive
from tests.unit.services.test_spawner import output
assert why_not_run_as("nobody") is None
keep_capabilities_from_children()
async def main():
    spawner = LocalSpawner("nobody", grace=0.1)
    async with spawner.spawn(["grep", "-E", "^(Uid|Cap)", "/proc/self/status"], {}, None) as process:
        said = await output(process)
    async with spawner.spawn(["sh", "-c", "trap '' TERM HUP; echo $$; sleep 99; sleep 99"], {}, None) as process:
        pid = (await process.read(1, 100)).decode()
        assert alive(pid)
    print(json.dumps([dict(line.split(":") for line in said.splitlines()), alive(pid)]))
trio.run(main)
"""


@ROOT
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_an_agent_with_no_more_than_the_capabilities_that_it_takes() -> None:
    command = [*_CAPABLE, f"--bounding-set={_FOUR}", sys.executable, "-c", _SERVE]
    done = subprocess.run(command, capture_output=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr.decode()
    status, lives = json.loads(done.stdout)
    assert status["Uid"].split() == [str(pwd.getpwnam("nobody").pw_uid)] * 4
    assert [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0] * 4
    assert not lives
