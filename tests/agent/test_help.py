"""What the commands say of themselves is so: every help has examples, and every example is a command."""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
import shutil
import subprocess
from contextlib import suppress

import click
import pytest

from edgeice.cli.agent_completion import answer_shell, completions
from edgeice.cli.agent_main import main
from edgeice.cli.agent_parser import parsers
from edgeice.cli.commands import cli

OPERATOR_COMMANDS = [(), ("keys",), ("keys", "init"), ("keys", "show"), ("relay",), ("relay", "issue")] + [
    (name,)
    for name in (
        "devices",
        "exec",
        "shell",
        "forward",
        "proxy",
        "session",
        "ssh-config",
        "telemetry",
        "ping",
        "demo",
    )
]
AGENT_COMMANDS = [(), ("trust",), *parsers()[1]]
USAGES = {command: parser.format_usage() for command, parser in parsers()[1].items()}


def examples(text: str, program: str) -> list[list[str]]:
    """The command lines of a program among a help's examples, without its name."""
    (_before, shown) = re.split(r"^\s*[Ee]xamples:$", text, flags=re.MULTILINE)
    found = []
    for line in shown.strip().partition("\n\n")[0].splitlines():
        # Three spaces stand before what it is for; other programs and files may stand beside it.
        words = shlex.split(re.split(r"\s{3,}", line.strip())[0])
        parts = [
            list(part)
            for is_plain, part in itertools.groupby(words, lambda word: word not in ("|", "<", ">"))
            if is_plain
        ]
        (own,) = (part for part in parts if part[0] == program)
        found.append(own[1:])
    return found


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that a command line of `edgeice` runs, and its arguments."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words:
        name, *words = words
        found = command.get_command(click.Context(command), name)
        assert found is not None, name
        command = found
    return command, words


@pytest.mark.parametrize("command", OPERATOR_COMMANDS, ids=" ".join)
def test_examples_of_edgeice_are_commands(command: tuple[str, ...]) -> None:
    asked, _rest = resolve([*command])
    found = examples(asked.get_help(click.Context(asked, info_name="edgeice")), "edgeice")
    assert found
    for words in found:
        assert tuple(words[: len(command)]) == command
        last, rest = resolve(words)
        with suppress(click.exceptions.Exit):  # that is how --help ends; wrong usage is another exception
            last.make_context(last.name, rest)


@pytest.mark.parametrize("command", AGENT_COMMANDS, ids=" ".join)
def test_examples_of_edgeice_agent_are_commands(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    found = examples(capsys.readouterr().out, "edgeice-agent")
    assert found
    for words in found:
        assert tuple(words[: len(command)]) == command
        assert isinstance(parsers()[0].parse_args(words), argparse.Namespace)


def test_all_commands_are_looked_at() -> None:
    context = click.Context(cli)
    groups = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    every = {(name,) for name in groups} | {
        (name, each) for name, group in groups.items() if isinstance(group, click.Group) for each in group.commands
    }
    assert every == set(OPERATOR_COMMANDS) - {()}


@pytest.mark.parametrize(
    ("before", "word", "offered"),
    [
        ([], "", ["--help", "check", "init", "run", "status", "trust"]),
        ([], "st", ["status"]),
        (["trust"], "", ["--help", "add", "list"]),
        (["trust", "add"], "--o", ["--operator"]),
        (["trust", "add", "--operator", "run"], "--c", ["--can", "--config"]),
        (["check"], "--", ["--config", "--help", "--json"]),
        (["trust", "add"], "al", []),
        (["nonsense"], "ru", ["run"]),
    ],
)
def test_words_that_the_shell_completes(before: list[str], word: str, offered: list[str]) -> None:
    assert completions(before, word, USAGES) == offered


@pytest.mark.parametrize(
    ("wanted", "words", "at"),
    [
        ("bash_complete", "edgeice-agent\nch", "7"),
        ("bash_complete", "", ""),
        ("bash_complete", "x", "-1"),
        ("?", "", ""),
    ],
)
def test_what_no_shell_asks_for_is_wrong_usage(wanted: str, words: str, at: str) -> None:
    assert answer_shell(wanted, {"COMP_WORDS": words, "COMP_CWORD": at}, USAGES) == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_with_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_EDGEICE_AGENT_COMPLETE", "bash_source")
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    script = capsys.readouterr().out + (
        # In place of the command: what it was asked.
        'edgeice-agent() { printf "%s\\n" "$_EDGEICE_AGENT_COMPLETE $COMP_CWORD" "$COMP_WORDS"; }\n'
        "complete -p edgeice-agent\n"
        "COMP_WORDS=(edgeice-agent trust 'a d') COMP_CWORD=2\n"
        "_edgeice_agent_completion edgeice-agent\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    shown = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == [
        "complete -o default -F _edgeice_agent_completion edgeice-agent",
        "bash_complete 2",
        "edgeice-agent",
        "trust",
        "a d",
    ]
