"""`edgeice keys`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeice.cli.commands import cli
from tests.agent.kit import Operator


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the operator's files lie; nothing is there yet."""
    folder = tmp_path / "home"
    monkeypatch.setenv("EDGEICE_HOME", str(folder))
    return folder


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["keys", *arguments])


def test_show_prints_the_key_alone_on_standard_output(home: Path) -> None:
    key = Operator(home, "mqtt://127.0.0.1:1").key
    shown = keys("show")
    assert (shown.exit_code, shown.stdout) == (0, f"{key.openssh} home/o/alice\n")
    assert shown.stderr == f"{key.fingerprint}\n"
