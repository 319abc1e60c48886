"""`edgeice keys`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeice.cli.commands import cli
from edgeice.operator.config import load_config
from tests.agent.kit import Key, Operator

NAMES = ("--fleet", "home", "--operator", "alice", "--broker", "mqtts://broker.example")


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


def test_init_writes_the_public_key_beside_the_private_one_and_says_where(home: Path) -> None:
    made = keys("init", *NAMES)
    assert (made.exit_code, made.stderr) == (0, "")
    public = home / "operator.key.pub"
    assert public.read_text() == keys("show").stdout
    lines = made.stdout.splitlines()
    assert lines[:3] == [str(home / "operator.toml"), str(home / "operator.key"), str(public)]
    assert lines[3] == keys("show").stderr.strip()
    assert f"  scp {public} DEVICE:alice.pub" in lines
    assert "  edgeice-agent trust add --operator alice --can shell,exec alice.pub" in lines
    assert [path.stat().st_mode & 0o777 for path in (home / "operator.key", public)] == [0o600, 0o644]


def test_init_for_programs(home: Path) -> None:
    made = keys("init", *NAMES, "--json")
    assert (made.exit_code, made.stderr) == (0, "")
    assert json.loads(made.stdout) == {
        **json.loads(keys("show", "--json").stdout),
        "public_file": str(home / "operator.key.pub"),
        "config": str(home / "operator.toml"),
    }


def test_init_with_a_key_of_ones_own_writes_nothing_beside_it(home: Path, tmp_path: Path) -> None:
    own = tmp_path / 'id "own" \\ \x7f\x1b'
    own.mkdir()
    key = Key("own")
    key.write(own / "key")
    made = keys("init", *NAMES, "--key", str(own / "key"))
    assert (made.exit_code, made.stderr) == (0, "")
    assert "  edgeice keys show > alice.pub" in made.stdout.splitlines()
    assert load_config(home / "operator.toml").key == own / "key"
    assert keys("show").stderr == f"{key.fingerprint}\n"
    assert [path.name for path in own.iterdir()] == ["key"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--operator", "a/b"), "operator 'a/b': 1 to 64"),
        (("--fleet", 'x"\ny'), "fleet 'x\"\\ny': 1 to 64"),
        (("--broker", "broker.example"), "broker 'broker.example' should be mqtts://HOST[:PORT]"),
        (("--broker", 'mqtts://x"y'), "should be mqtts://HOST[:PORT]"),
        (("--broker", "mqtts://me:secret@x"), "user name and password belong in broker.username"),
        (("--key", "missing"), "missing: no such file"),
    ],
)
def test_after_a_mistake_the_corrected_command_works(home: Path, changed: tuple[str, str], said: str) -> None:
    refused = keys("init", *NAMES, *changed)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert said in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert keys("init", *NAMES).exit_code == 0


def test_a_key_whose_name_is_no_text_cannot_stand_in_a_configuration(home: Path, tmp_path: Path) -> None:
    own = tmp_path / "\udc80"
    Key("own").write(own)
    refused = keys("init", *NAMES, "--key", str(own))
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr.endswith("\\udc80': not UTF-8 text\n")
    assert not (home / "operator.toml").exists()


def test_init_where_nothing_can_be_written(home: Path) -> None:
    home.write_text("a file")
    refused = keys("init", *NAMES)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == f"edgeice: {home}: cannot be written: File exists\n"
