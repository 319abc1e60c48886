"""What the operator's commands share."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import trio

from edgeice.cli.common import reporting
from edgeice.cli.connecting import load_known
from edgeice.errors import ConfigError

FULL = OSError(errno.ENOSPC, "No space left on device")


async def from_a_nursery(error: BaseException) -> None:
    """Raise an error as a task of a session does."""

    async def fail() -> None:
        raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)


def leave() -> None:
    click.echo("x")
    sys.exit(0)


@pytest.mark.parametrize(
    "body",
    [lambda: sys.stdout.write("x"), lambda: click.echo("x"), leave, lambda: trio.run(from_a_nursery, FULL)],
    ids=["at the end", "at once", "at an exit", "in a task"],
)
def test_output_that_a_full_disk_does_not_take_is_one_line(
    body: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended, reporting(as_json=False):
            body()
    assert ended.value.code == 1
    assert capfd.readouterr().err == "edgeice: the output cannot be written: No space left on device\n"


def test_output_that_nobody_reads_is_no_matter(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        with pytest.raises(SystemExit) as ended, reporting(as_json=False):
            trio.run(from_a_nursery, BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert (ended.value.code, capfd.readouterr().err) == (1, "")


def test_other_errors_are_defects_and_are_seen_whole() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"), reporting(as_json=False):
        raise OSError(errno.EBADF, "Bad file descriptor")
    with pytest.raises(ExceptionGroup), reporting(as_json=False):
        trio.run(from_a_nursery, OSError(errno.EBADF, "Bad file descriptor"))


def test_known_devices_that_others_may_write_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "known_devices"
    assert len(load_known(path)) == 0
    path.touch(mode=0o644)
    assert len(load_known(path)) == 0
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="others may write which devices you know"):
        load_known(path)
