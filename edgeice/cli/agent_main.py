"""`edgeice-agent`: the device's command.  It imports nothing that only operators need."""

from __future__ import annotations

import argparse
import json
import linecache
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict

from edgeice import __version__
from edgeice.cli.groups import first_of
from edgeice.errors import ConfigError
from edgeice.late import loaded_late

__all__ = ["main", "parsers"]

#: Set by the shell that wants to complete a command line.
_COMPLETE = "_EDGEICE_AGENT_COMPLETE"

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


def main(argv: Sequence[str] | None = None) -> None:
    """Run `edgeice-agent`; exits 0 done, 1 failure, 2 usage or configuration."""
    parser, commands = parsers()
    if _COMPLETE in os.environ:
        from edgeice.cli.agent_completion import answer_shell  # noqa: PLC0415  # a running agent needs none of it

        options = {command: each.format_usage() for command, each in commands.items()}
        sys.exit(answer_shell(os.environ[_COMPLETE], os.environ, options))
    arguments = parser.parse_args(argv)
    act: Callable[[argparse.Namespace], int] = arguments.act
    try:
        sys.exit(act(arguments))
    except ConfigError as error:
        print(f"edgeice-agent: {error}", file=sys.stderr)
        sys.exit(2)


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
    run.set_defaults(act=_run)

    init = commands["init",] = top.add_parser(
        "init",
        help="write a key and a commented configuration",
        description="Writes a key and a commented configuration; nothing that is there is overwritten.",
        **_described("  edgeice-agent init --fleet home --device pi17 --broker mqtts://broker.example\n"),
    )
    for name in ("fleet", "device"):
        init.add_argument(f"--{name}", required=True, help=f"name of the {name}")
    init.add_argument("--broker", required=True, help="mqtts://HOST[:PORT]")
    init.set_defaults(act=_init)

    check = commands["check",] = top.add_parser(
        "check",
        help="validate the configuration and say what it would do",
        description="Validates configuration, key and trust file, and says what the agent would do.",
        **_described("  edgeice-agent check\n  edgeice-agent check --json --config ./agent.toml\n"),
    )
    check.add_argument("--json", action="store_true", help="print JSON for programs")
    check.set_defaults(act=_check)

    status = commands["status",] = top.add_parser(
        "status",
        help="ask the running agent",
        description="Asks the running agent for its sessions, paths and counters.",
        **_described("  edgeice-agent status\n  edgeice-agent status --json\n"),
    )
    status.add_argument("--json", action="store_true", help="print JSON for programs")
    status.set_defaults(act=_status)


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
    add.set_defaults(act=_trust_add)
    listing = commands["trust", "list"] = trust.add_parser(
        "list",
        help="show what is trusted",
        description="Shows whose keys the device accepts and for what, and lines that are refused.",
        **_described("  edgeice-agent trust list\n"),
    )
    listing.set_defaults(act=_trust_list)


def _run(arguments: argparse.Namespace) -> int:
    # trio wants them for names that are not ASCII, and to look for libraries without `ldconfig`.
    with loaded_late("idna", "tempfile"):
        import trio  # noqa: PLC0415  # the other commands start without it

    linecache.clearcache()  # attrs keeps the source of each method there that it wrote, 4 KiB a class
    from edgeice.agent.config import load_config  # noqa: PLC0415
    from edgeice.agent.log import Log, goes_to_journal  # noqa: PLC0415
    from edgeice.agent.memory import set_aside  # noqa: PLC0415
    from edgeice.agent.service import Agent  # noqa: PLC0415

    linecache.clearcache()
    set_aside()
    config = load_config(arguments.config)
    as_json = arguments.log_json or config.log.json
    log = Log(config.log.level, as_json=as_json, prefix=goes_to_journal(os.environ), wall=time.time)

    async def serve() -> None:
        await Agent.load(arguments.config, log).run()

    try:
        trio.run(serve)
    except BaseExceptionGroup as group:
        raise first_of(group, ConfigError) or group from None
    return 0


def _init(arguments: argparse.Namespace) -> int:
    from edgeice.cli.agent_init import init  # noqa: PLC0415

    init(arguments.config, arguments.fleet, arguments.device, arguments.broker)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    import trio  # noqa: PLC0415  # the other commands start without it

    from edgeice.agent.config import load_config  # noqa: PLC0415
    from edgeice.agent.log import Log  # noqa: PLC0415
    from edgeice.agent.service import Agent, load_key, load_trust  # noqa: PLC0415
    from edgeice.agent.status import check_status_socket  # noqa: PLC0415
    from edgeice.sansio import Entropy  # noqa: PLC0415
    from edgeice.signaling import Party  # noqa: PLC0415
    from edgeice.transport import broker_config, is_plain_and_remote  # noqa: PLC0415

    config = load_config(arguments.config)
    key = load_key(config.key)
    trust = load_trust(config.trust)
    log = Log("error", wall=time.time)

    async def check() -> None:
        Agent(config, arguments.config, key=key, trust=trust, log=log, entropy=Entropy()).check()

    trio.run(check)
    party = Party.device(config.fleet, config.device)
    broker = broker_config(config.broker, party)
    warnings = [str(refused) for refused in trust.refused]
    if is_plain_and_remote(config.broker):
        warnings.append(f"broker.url: {config.broker.url} is not encrypted; use mqtts:// outside of loopback")
    if config.services.telemetry:
        try:
            check_status_socket(config.telemetry_socket)
        except ConfigError as error:
            warnings.append(f"the stream local of telemetry will not be there: {error}")
    if not trust.lines:
        warnings.append(f"{config.trust}: no operator is trusted; add one with `edgeice-agent trust add`")
    facts: dict[str, object] = {
        "device": str(party),
        "key": key.public.fingerprint,
        "broker": f"{broker.host}:{broker.port}",
        "tls": broker.tls is not None,
        "user": broker.username,
        "services": list(config.services.offered),
        "stun": list(config.ice.stun),
        "sessions": config.limits.sessions,
        "operators": [
            {"operator": line.operator, "key": line.key.fingerprint, "can": list(line.can)} for line in trust.lines
        ],
        "warnings": warnings,
    }
    if arguments.json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            for item in value if isinstance(value, list) else [value]:
                words = item.items() if isinstance(item, dict) else ()
                shown = " ".join(f"{k}={','.join(v) if isinstance(v, list) else v}" for k, v in words) or item
                print(f"{name:10} {shown}")
    return 0


def _trust_add(arguments: argparse.Namespace) -> int:
    from edgeice.cli.agent_trust import add  # noqa: PLC0415

    add(arguments.config, arguments.keyfile, arguments.operator, arguments.can, arguments.expires)
    return 0


def _trust_list(arguments: argparse.Namespace) -> int:
    from edgeice.cli.agent_trust import show  # noqa: PLC0415

    show(arguments.config)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    import trio  # noqa: PLC0415  # the other commands start without it

    from edgeice.agent.config import load_config  # noqa: PLC0415
    from edgeice.agent.status import ask_status  # noqa: PLC0415

    answer = trio.run(ask_status, load_config(arguments.config).socket)
    if arguments.json:
        print(json.dumps(answer))
        return 0
    for name, value in answer.items():
        if isinstance(value, list):
            print(f"{name}:")
            for item in value:
                print("  " + " ".join(f"{k}={v}" for k, v in item.items() if v not in ({}, None)))
        elif isinstance(value, dict):
            print(f"{name}: " + (" ".join(f"{k}={v}" for k, v in value.items()) or "none"))
        else:
            print(f"{name}: {value}")
    return 0


if __name__ == "__main__":
    main()
