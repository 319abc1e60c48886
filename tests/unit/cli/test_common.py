"""What the operator's commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeice.cli.common import load_known
from edgeice.errors import ConfigError


def test_known_devices_that_others_may_write_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "known_devices"
    assert len(load_known(path)) == 0
    path.touch(mode=0o644)
    assert len(load_known(path)) == 0
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="others may write which devices you know"):
        load_known(path)
