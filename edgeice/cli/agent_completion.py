"""Completion of `edgeice-agent` in bash, asked for as click does it for `edgeice`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["answer_shell", "completions"]

_BASH: Final = """\
_edgeice_agent_completion() {
    local IFS=$'\\n'
    COMPREPLY=($(_EDGEICE_AGENT_COMPLETE=bash_complete COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD "$1"))
}
complete -o default -F _edgeice_agent_completion edgeice-agent
"""


def answer_shell(wanted: str, environment: Mapping[str, str], usages: Mapping[tuple[str, ...], str]) -> int:
    """Print what the shell wants; the exit status.

    Args:
        wanted: `bash_source` for the function to define, `bash_complete` for an answer.
        environment: For an answer COMP_WORDS, a word a line, and COMP_CWORD.
        usages: The usage line of each command, which names its options.
    """
    if wanted == "bash_source":
        print(_BASH, end="")
        return 0
    words = environment.get("COMP_WORDS", "").split("\n")
    at = environment.get("COMP_CWORD", "")
    if wanted != "bash_complete" or not at.isdecimal() or not 0 < int(at) < len(words):
        return 2
    for word in completions(words[1 : int(at)], words[int(at)], usages):
        print(word)
    return 0


def completions(before: list[str], word: str, usages: Mapping[tuple[str, ...], str]) -> list[str]:
    """What a word may become; where nothing is offered, the shell offers files.

    Args:
        before: The words between the program's name and the one in question.
        word: What stands there of it.
        usages: As in `answer_shell`.
    """
    command: tuple[str, ...] = ()
    for each in before:
        if any(known[: len(command) + 1] == (*command, each) for known in usages):
            command = (*command, each)
    if command in usages:
        offers = {*re.findall(r"--[a-z-]+", usages[command]), "--help"}
    else:
        offers = {known[len(command)] for known in usages if known[: len(command)] == command} | {"--help"}
    return sorted(offer for offer in offers if offer.startswith(word))
