"""Options and arguments that several of the operator's commands have."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeice.cli.commands import cli
from tests.agent.kit import Device, Operator

NOWHERE = "mqtt://127.0.0.1:1"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an operator that knows three devices of its fleet, and one of another."""
    alice = Operator(tmp_path / "alice", NOWHERE)
    for name in ("pi17", "pi18", "camera"):
        alice.pin(Device(tmp_path / name, NOWHERE, name))
    known = alice.folder / "known_devices"
    known.write_text(known.read_text() + known.read_text().splitlines()[0].replace("home/d/pi17", "away/d/pi19") + "\n")
    monkeypatch.setenv("EDGEICE_HOME", str(alice.folder))
    return alice.folder


@pytest.mark.parametrize("value", ["nan", "-1", "0", "-0.0", "inf", "1e300", "86400.1", "ten", ""])
@pytest.mark.parametrize(
    "command", [("devices",), ("exec", "pi17", "true"), ("shell", "pi17"), ("ping", "pi17"), ("demo",)]
)
def test_a_time_that_is_none_is_wrong_usage(home: Path, command: tuple[str, ...], value: str) -> None:
    done = CliRunner().invoke(cli, [command[0], "--timeout", value, *command[1:]])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Invalid value for '--timeout': " in done.stderr


@pytest.mark.parametrize("value", ["nan", "0", "-1", "inf"])
def test_an_interval_that_is_none_is_wrong_usage(home: Path, value: str) -> None:
    done = CliRunner().invoke(cli, ["ping", "--interval", value, "pi17"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Invalid value for '-i' / '--interval'" in done.stderr


def completed(*words: str) -> list[str]:
    """What bash offers for the last word."""
    env = {"_EDGEICE_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = CliRunner(env=env).invoke(cli, prog_name="edgeice")
    assert done.exit_code == 0
    return [line.partition(",")[2] for line in done.stdout.split()]


def test_the_shell_completes_commands_options_and_names_of_known_devices(home: Path) -> None:
    assert completed("edgeice", "sh") == ["shell"]
    assert completed("edgeice", "exec", "--acc") == ["--accept-key"]
    assert completed("edgeice", "exec", "--no") == ["--no-share"]
    assert completed("edgeice", "session", "--no") == []
    assert completed("edgeice", "ses") == ["session"]
    assert completed("edgeice", "session", "--st") == ["--stop"]
    for command in ("exec", "ping", "session", "shell"):
        assert completed("edgeice", command, "pi") == ["pi17", "pi18"]
        assert completed("edgeice", command, "pi19") == []
        assert completed("edgeice", command, "c") == ["camera"]


def test_completion_uses_the_configuration_that_was_named(home: Path, tmp_path: Path) -> None:
    other = Operator(tmp_path / "other", NOWHERE)
    other.pin(Device(tmp_path / "pi5", NOWHERE, "pi5"))
    assert completed("edgeice", "shell", "--config", str(other.config), "pi") == ["pi5"]


def test_completion_is_silent_where_nothing_can_be_read(home: Path) -> None:
    (home / "known_devices").chmod(0o666)
    assert completed("edgeice", "shell", "pi") == []
    (home / "operator.toml").unlink()
    assert completed("edgeice", "shell", "pi") == []
