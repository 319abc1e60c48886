"""Named network namespaces: made, entered, listed and removed with iproute2.

A name says whose it is, `edgeice-PID-SERIAL-LABEL`, so that what a killed process left can be found and removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = [
    "LabError",
    "add",
    "collect_garbage",
    "configure",
    "delete",
    "inside",
    "ip",
    "name_addresses",
    "namespaces_of",
    "nft",
]

_FOLDER = Path("/run/netns")
_SETTINGS = Path("/proc/sys")
#: What ip-netns(8) puts in place of the files of /etc, by namespace.
_FILES = Path("/etc/netns")
_NAME = re.compile(r"edgeice-(?P<pid>\d+)-\d+-.+")
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


class LabError(RuntimeError):
    """The kernel or a program refused what the laboratory needs."""


def ip(*arguments: str, batch: str | None = None) -> str:
    """Run iproute2's program, with further command lines on its input where there is a batch; returns its output.

    Raises LabError with what it says.
    """
    command = ["ip", *arguments, *(["-batch", "-"] if batch is not None else [])]
    return _run(command, batch)


def nft(name: str, rules: str) -> None:
    """Load rules into a namespace, all or none; raises LabError with what the program says of them."""
    _run(["ip", "netns", "exec", name, "nft", "-f", "-"], rules)


def _run(command: list[str], text: str | None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}\n{text or ''}".rstrip())
    return done.stdout


def configure(name: str, settings: Mapping[str, int]) -> None:
    """Write kernel settings of a namespace, by their path below /proc/sys."""
    with inside(name):  # what is opened below /proc/sys/net is the opener's namespace's
        for key, value in settings.items():
            (_SETTINGS / key).write_text(str(value))


def add(pid: int, serial: int, label: str) -> str:
    """Make a namespace whose only device, lo, is up, and that knows no IPv6; returns its name."""
    name = f"edgeice-{pid}-{serial}-{label}"
    ip("netns", "add", name)
    configure(name, {f"net/ipv6/conf/{scope}/disable_ipv6": 1 for scope in ("all", "default")})
    ip("-n", name, "link", "set", "lo", "up")
    return name


def name_addresses(name: str, addresses: Mapping[str, str]) -> None:
    """Let the commands of a namespace that are started from now on know names; `addresses` has the IP by name."""
    folder = _FILES / name
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{ip} {host}\n" for host, ip in {"localhost": "127.0.0.1", **addresses}.items()]
    (folder / "hosts").write_text("".join(lines))


def delete(name: str) -> None:
    """End what runs inside with SIGKILL, and remove the namespace; does nothing where it is gone."""
    with contextlib.suppress(LabError):
        for pid in ip("netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        ip("netns", "delete", name)
    shutil.rmtree(_FILES / name, ignore_errors=True)


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Put the calling thread into a namespace; sockets and TAP devices made inside stay there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(_FOLDER / name, os.O_RDONLY)
        try:
            _set(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _set(home)
    finally:
        os.close(home)


def _set(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise LabError(f"setns: {os.strerror(number)}")


def _labs() -> Iterator[tuple[str, int]]:
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(_FOLDER.iterdir()):
            if found := _NAME.fullmatch(path.name):
                yield path.name, int(found["pid"])


def namespaces_of(pid: int) -> list[str]:
    """The names of those that a process made."""
    return [name for name, owner in _labs() if owner == pid]


def collect_garbage() -> list[str]:
    """Remove the namespaces of processes that are gone, with all that runs inside; returns their names."""
    left = [name for name, owner in _labs() if not Path(f"/proc/{owner}").exists()]
    for name in left:
        delete(name)
    return left
