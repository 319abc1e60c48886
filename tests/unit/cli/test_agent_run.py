"""`edgeice-agent run`, as far as it gets where it cannot serve."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeice.cli.agent_main import main
from tests.agent.kit import Device


@pytest.mark.parametrize(("journal", "prefix"), [(True, "<3>"), (False, "")])
def test_the_journal_is_told_each_lines_level(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    *,
    journal: bool,
    prefix: str,
) -> None:
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + (not journal)}")
    device = Device(tmp_path / "pi", "mqtt://127.0.0.1:1")
    device.config.write_text('socket = "missing/agent.sock"\n' + device.config.read_text())
    (device.folder / "authorized_operators").write_text("no key\n")
    with pytest.raises(SystemExit) as ended:
        main(["run", "--config", str(device.config)])
    assert ended.value.code == 2
    refused, failure = capfd.readouterr().err.splitlines()
    assert refused.startswith(f"{prefix}trust-line-refused reason=")
    assert failure.startswith(f"edgeice-agent: {device.folder / 'missing' / 'agent.sock'}: ")
