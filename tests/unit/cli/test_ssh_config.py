"""The block for ssh; a real ssh uses it in tests/agent/test_ssh.py."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from edgeice.cli.ssh_config import command


def test_percent_signs_and_quotes_survive_ssh_and_the_shell() -> None:
    done = CliRunner().invoke(command, ["--suffix", "lab", "--config", "/a b/50%.toml"])
    quoted = """--config '"'"'/a b/50%%.toml'"'"'"""
    assert done.output.splitlines() == [
        "Host *.lab",
        f'    ProxyCommand sh -c \'exec edgeice proxy --quiet {quoted} "${{1%%.lab}}" "$2"\' sh %h %p',
    ]


@pytest.mark.parametrize("option", ["--user", "--suffix"])
@pytest.mark.parametrize("value", ["a b", "", "x\ny", "$(x)", "a" * 65])
def test_what_ssh_could_not_read_is_refused(option: str, value: str) -> None:
    done = CliRunner().invoke(command, [option, value])
    assert done.exit_code == 2
    assert "letters, digits" in done.output
