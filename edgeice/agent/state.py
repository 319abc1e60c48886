"""What has to outlive a restart of the agent."""

from __future__ import annotations

from pathlib import Path

from edgeice.errors import ConfigError
from edgeice.files import check_writable, replace_file

__all__ = ["EpochFile"]


class EpochFile:
    """The presence epoch, which grows with each connect and must never be reused."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "epoch"

    def load(self) -> int:
        """The last epoch that was saved; 0 for none, or for a file that does not hold one."""
        try:
            return int(self._path.read_text()[:20])
        except (OSError, ValueError):
            return 0

    def check(self) -> None:
        """Raise ConfigError where `save` would; nothing is written."""
        try:
            check_writable(self._path.parent)
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be written: {error.strerror}") from None

    def save(self, epoch: int) -> None:
        """Keep an epoch.  Raises ConfigError if it cannot be kept: an epoch that is reused would lie."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(self._path, f"{epoch}\n".encode(), 0o644)
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be written: {error.strerror}") from None
