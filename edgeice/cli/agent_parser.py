"""`edgeice-agent`'s command line: what it takes, and its help."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TypeAlias, TypedDict

from edgeice import __version__

__all__ = ["parse", "parsers"]

_ADD_EXAMPLE = "  edgeice-agent trust add --operator alice --can shell,exec alice.pub\n"

_EXAMPLES = """\
  edgeice-agent init --fleet home --device pi17 --broker mqtts://broker.example
  edgeice-agent trust add --operator alice --can shell,exec alice.pub
  edgeice-agent check
  edgeice-agent run

exit codes: 0 done, 1 failure, 2 usage or configuration
completion: eval "$(_EDGEICE_AGENT_COMPLETE=bash_source edgeice-agent)"
"""

_Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001  # its only name
#: Command -> its parser.
_Commands: TypeAlias = dict[tuple[str, ...], argparse.ArgumentParser]


class _Described(TypedDict):
    """What every parser's help has beside its own."""

    epilog: str
    formatter_class: type[argparse.HelpFormatter]


def parse(argv: Sequence[str] | None) -> tuple[str, SimpleNamespace]:
    """The command, as `trust add`, and its arguments; nothing of argparse is in them.

    Exits 0 after `--help` and `--version`, 2 with a message for what is no command line of this program.
    """
    values = vars(parsers()[0].parse_args(argv))
    return values.pop("act"), SimpleNamespace(**values)


def _described(examples: str) -> _Described:
    return {"epilog": f"examples:\n{examples}", "formatter_class": argparse.RawDescriptionHelpFormatter}


def parsers() -> tuple[argparse.ArgumentParser, Mapping[tuple[str, ...], argparse.ArgumentParser]]:
    """The whole command line's parser, and each command's."""
    parser = argparse.ArgumentParser(
        prog="edgeice-agent",
        description="Makes this device reachable for its operators, peer to peer.",
        **_described(_EXAMPLES),
    )
    parser.add_argument("--version", action="version", version=f"edgeice-agent {__version__}")
    commands: _Commands = {}
    top = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_commands(top, commands)
    trust = top.add_parser(
        "trust",
        help="operators' keys",
        description="Says whose keys the device accepts.",
        **_described(f"{_ADD_EXAMPLE}  edgeice-agent trust list\n"),
    )
    _add_trust_commands(trust.add_subparsers(required=True, metavar="COMMAND"), commands)
    for each in commands.values():
        each.add_argument(
            "--config",
            type=Path,
            default=Path("/etc/edgeice/agent.toml"),
            metavar="FILE",
            help="configuration, %(default)s by default",
        )
    return parser, commands


def _add_commands(top: _Subparsers, commands: _Commands) -> None:
    run = commands["run",] = top.add_parser(
        "run",
        help="serve in the foreground until SIGTERM",
        description="Serves in the foreground until SIGTERM; SIGHUP takes over the trust file and the addresses.",
        **_described("  edgeice-agent run\n  edgeice-agent run --log-json --config ./agent.toml\n"),
    )
    run.add_argument("--log-json", action="store_true", help="JSON lines instead of key=value")
    run.set_defaults(act="run")

    init = commands["init",] = top.add_parser(
        "init",
        help="write a key and a commented configuration",
        description="Writes a key and a commented configuration; nothing that is there is overwritten.",
        **_described("  edgeice-agent init --fleet home --device pi17 --broker mqtts://broker.example\n"),
    )
    for name in ("fleet", "device"):
        init.add_argument(f"--{name}", required=True, help=f"name of the {name}")
    init.add_argument("--broker", required=True, help="mqtts://HOST[:PORT]")
    init.set_defaults(act="init")

    check = commands["check",] = top.add_parser(
        "check",
        help="validate the configuration and say what it would do",
        description="Validates configuration, key and trust file, and says what the agent would do.",
        **_described("  edgeice-agent check\n  edgeice-agent check --json --config ./agent.toml\n"),
    )
    check.add_argument("--json", action="store_true", help="print JSON for programs")
    check.set_defaults(act="check")

    status = commands["status",] = top.add_parser(
        "status",
        help="ask the running agent",
        description="Asks the running agent for its sessions, paths and counters.",
        **_described("  edgeice-agent status\n  edgeice-agent status --json\n"),
    )
    status.add_argument("--json", action="store_true", help="print JSON for programs")
    status.set_defaults(act="status")


def _add_trust_commands(trust: _Subparsers, commands: _Commands) -> None:
    add = commands["trust", "add"] = trust.add_parser(
        "add",
        help="trust an operator's key",
        description="Trusts an operator's key, and shows its fingerprint to compare.",
        **_described(
            f"{_ADD_EXAMPLE}  edgeice-agent trust add --operator bob --can exec --expires 2030-01-01 - < bob.pub\n"
        ),
    )
    add.add_argument("--operator", required=True, help="the operator's name")
    add.add_argument(
        "--can", required=True, metavar="LIST", help="capabilities, separated by commas: shell, exec, forward:HOST:PORT"
    )
    add.add_argument("--expires", metavar="DATE", help="trust ends at 00:00 UTC of this day, YYYY-MM-DD")
    add.add_argument("keyfile", metavar="KEYFILE", help="OpenSSH public key file, - for standard input")
    add.set_defaults(act="trust add")
    listing = commands["trust", "list"] = trust.add_parser(
        "list",
        help="show what is trusted",
        description="Shows whose keys the device accepts and for what, and lines that are refused.",
        **_described("  edgeice-agent trust list\n"),
    )
    listing.set_defaults(act="trust list")
