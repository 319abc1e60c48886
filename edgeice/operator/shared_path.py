"""Where the local socket of a shared session stands."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from edgeice.errors import ConfigError
from edgeice.operator.config import OperatorConfig

__all__ = ["make_folder", "shared_socket"]


def shared_socket(config: OperatorConfig, device: str, environment: Mapping[str, str]) -> Path:
    """The socket of the session with a device: in XDG_RUNTIME_DIR, else among the user's state.

    Its name holds a digest of what makes a session another one: broker, fleet, operator and key.
    """
    # A variable that was kept over `su` may name a folder that is no more.
    runtime = Path(environment.get("XDG_RUNTIME_DIR", ""))
    state = Path(environment.get("XDG_STATE_HOME", ""))
    if runtime.is_absolute() and runtime.is_dir():
        folder = runtime
    else:
        folder = state if state.is_absolute() else Path.home() / ".local" / "state"
    what = (config.broker.url, config.broker.root, config.fleet, config.operator, str(config.key.resolve()), device)
    digest = hashlib.sha256("\0".join(what).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    shown = re.sub(r"[^A-Za-z0-9._-]", "_", device)[:64]  # what is no name is refused elsewhere
    return folder / "edgeice" / f"{shown}-{digest}.sock"


def make_folder(path: Path) -> None:
    """Make the folder of a socket, for its user alone; raises ConfigError that says what is wrong."""
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigError(f"{folder}: should be a folder of yours; remove it")
    if found.st_mode & 0o077:
        raise ConfigError(f"{folder}: others may enter it; run: chmod 700 {folder}")
