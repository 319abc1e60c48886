"""`edgeice-agent trust`: exactly the key that was asked for gets into the trust file."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from edgeice.agent.service import load_trust
from edgeice.cli.agent_main import main
from tests.agent.kit import Device, Key

ALICE, MALLORY = Key("operator alice"), Key("operator mallory")
OPTIONS = ("--operator", "alice", "--can", "shell")


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path / "pi", "mqtt://127.0.0.1:1")


class Command:
    """`edgeice-agent` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, device: Device, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), errors="surrogateescape"))
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--config", str(device.config)])
        assert isinstance(ended.value.code, int)
        return ended.value.code, *self._capsys.readouterr()


@pytest.fixture
def agent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


def trust_file(device: Device) -> Path:
    return device.folder / "authorized_operators"


@pytest.mark.parametrize(
    "text",
    [
        f"{ALICE.openssh}\n",
        f"{ALICE.openssh} alice@desk",
        f"\n# a comment\n\n  {ALICE.openssh} alice@desk  \r\n\n",
    ],
)
def test_one_key_is_one_line(device: Device, agent: Command, text: str) -> None:
    code, said, wrong = agent(device, "trust", "add", *OPTIONS, "-", stdin=text.encode())
    assert (code, wrong) == (0, "")
    assert ALICE.fingerprint in said
    comment = " alice@desk" if "@" in text else ""
    assert trust_file(device).read_text() == f'operator="alice",can="shell" {ALICE.openssh}{comment}\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f'{ALICE.openssh}\noperator="mallory",can="shell,exec" {MALLORY.openssh}\n', "found 2 lines"),
        (f"{ALICE.openssh}\n{MALLORY.openssh}\n", "found 2 lines"),
        (f"{ALICE.openssh}\n{ALICE.fingerprint}\n", "found 2 lines"),
        (f'operator="mallory",can="admin" {MALLORY.openssh}\n', "expected a line 'ssh-ed25519 AAAA…'"),
        (f'{ALICE.openssh} x\x0boperator="mallory",can="exec" {MALLORY.openssh}', "found 2 lines"),
        (f'{ALICE.openssh} x\u2028operator="mallory",can="exec" {MALLORY.openssh}', "found 2 lines"),
        (f"{ALICE.openssh} x\x1b[2J", "control character"),
        ("\n# nothing\n", "found 0 lines"),
        ("", "found 0 lines"),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "expected a line"),
    ],
)
def test_anything_but_one_key_line_is_refused(device: Device, agent: Command, text: str, reason: str) -> None:
    trust_file(device).write_text(f'operator="bob" {MALLORY.openssh}')
    code, said, wrong = agent(device, "trust", "add", *OPTIONS, "-", stdin=text.encode())
    assert (code, said) == (2, "")
    assert wrong.startswith("edgeice-agent: standard input: ")
    assert reason in wrong
    assert len(wrong.splitlines()) == 1
    assert trust_file(device).read_text() == f'operator="bob" {MALLORY.openssh}'


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--operator", 'a",can="admin', "--can", "shell"), "operator 'a\",can=\"admin'"),
        (("--operator", "alice\n", "--can", "shell"), "operator 'alice"),
        (("--operator", "alice", "--can", "shell\nexec"), "unknown capability"),
        (("--operator", "alice", "--can", "*"), "unknown capability '*'"),
        (("--operator", "alice", "--can", "shell", "--expires", "2027-01-01\n"), "is no date"),
    ],
)
def test_no_option_reaches_beyond_its_place(
    device: Device, agent: Command, options: tuple[str, ...], reason: str
) -> None:
    code, said, wrong = agent(device, "trust", "add", *options, "-", stdin=ALICE.openssh.encode())
    assert (code, said) == (2, "")
    assert reason in wrong
    assert not trust_file(device).exists()


def test_lines_are_added_to_what_stands_there(device: Device, agent: Command, tmp_path: Path) -> None:
    public = tmp_path / "alice.pub"
    public.write_text(f"{ALICE.openssh} alice@desk\n")
    trust_file(device).write_text(f'# ours\noperator="bob" {MALLORY.openssh}')
    assert agent(device, "trust", "add", *OPTIONS, "--expires", "2099-01-31", str(public))[0] == 0
    assert trust_file(device).read_text() == (
        f'# ours\noperator="bob" {MALLORY.openssh}\n'
        f'operator="alice",can="shell",expires="2099-01-31" {ALICE.openssh} alice@desk\n'
    )
    assert len(load_trust(trust_file(device)).lines) == 2


def test_a_trust_file_that_cannot_be_written(device: Device, agent: Command) -> None:
    text = device.config.read_text()
    device.config.write_text(text.replace("[broker]", 'trust = "missing/authorized_operators"\n[broker]'))
    code, said, wrong = agent(device, "trust", "add", *OPTIONS, "-", stdin=ALICE.openssh.encode())
    assert (code, said) == (2, "")
    place = device.folder / "missing" / "authorized_operators"
    assert wrong == f"edgeice-agent: {place}: cannot be written: No such file or directory\n"


@pytest.mark.parametrize("command", [("add", *OPTIONS, "-"), ("list",)])
def test_a_trust_file_that_is_no_text(device: Device, agent: Command, command: tuple[str, ...]) -> None:
    trust_file(device).write_bytes(b"# ours\n\xff\xfe\n")
    code, said, wrong = agent(device, "trust", *command, stdin=ALICE.openssh.encode())
    assert (code, said) == (2, "")
    assert wrong == f"edgeice-agent: {trust_file(device)}:2: not UTF-8 text\n"
    assert trust_file(device).read_bytes() == b"# ours\n\xff\xfe\n"
