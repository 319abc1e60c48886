"""Devices whose agent sees other files than the machine has: a mount namespace of its own, which only root can make."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.agent.kit import Device

__all__ = ["ONE_TERMINAL", "MountedDevice", "in_place_of"]

#: A devpts that has one terminal.
ONE_TERMINAL = (
    "mount -t devpts -o newinstance,max=1,ptmxmode=0666 devpts /dev/pts && mount --bind /dev/pts/ptmx /dev/ptmx"
)


def in_place_of(path: str, own: Path) -> str:
    """What shows `own` at `path`."""
    return f"mount --bind {own} {path}"


class MountedDevice(Device):
    """A device whose agent runs after a shell has mounted something for it alone.

    Skips the test where that is not allowed.
    """

    def __init__(self, folder: Path, url: str, name: str, *mounts: str, **options: Any) -> None:
        super().__init__(folder, url, name, **options)
        if shutil.which("unshare") is None:
            pytest.skip("needs unshare(1)")
        self._prefix = ["unshare", "-m", "sh", "-c", " && ".join((*mounts, 'exec "$@"')), "sh"]
        probe = subprocess.run([*self._prefix, "true"], capture_output=True, check=False)
        if probe.returncode:
            pytest.skip(f"no mounts of its own here: {probe.stderr.decode()}")

    def command(self, *arguments: str) -> list[str]:
        """The same there."""
        return [*self._prefix, *super().command(*arguments)]
