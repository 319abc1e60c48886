"""`edgeice-agent`: the device's command.  It imports nothing that only operators need."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeice import __version__
from edgeice.cli.groups import first_of
from edgeice.errors import ConfigError

__all__ = ["main"]

_EXAMPLES = """\
examples:
  edgeice-agent init --fleet home --device pi17 --broker mqtts://broker.example
  edgeice-agent trust add --operator alice --can shell,exec alice.pub
  edgeice-agent check
  edgeice-agent run
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run `edgeice-agent`; exits 0 done, 1 failure, 2 usage or configuration."""
    arguments = _parser().parse_args(argv)
    act: Callable[[argparse.Namespace], int] = arguments.act
    try:
        sys.exit(act(arguments))
    except ConfigError as error:
        print(f"edgeice-agent: {error}", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeice-agent",
        description="Makes this device reachable for its operators, peer to peer.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgeice-agent {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="serve in the foreground until SIGTERM")
    run.add_argument("--log-json", action="store_true", help="JSON lines instead of key=value")
    run.set_defaults(act=_run)

    init = commands.add_parser("init", help="write a key and a commented configuration")
    for name in ("fleet", "device"):
        init.add_argument(f"--{name}", required=True, help=f"name of the {name}")
    init.add_argument("--broker", required=True, help="mqtts://HOST[:PORT]")
    init.set_defaults(act=_init)

    check = commands.add_parser("check", help="validate the configuration and say what it would do")
    check.add_argument("--json", action="store_true", help="print JSON for programs")
    check.set_defaults(act=_check)

    trust = commands.add_parser("trust", help="operators' keys").add_subparsers(required=True, metavar="COMMAND")
    add = trust.add_parser("add", help="trust an operator's key")
    add.add_argument("--operator", required=True, help="the operator's name")
    add.add_argument("--can", required=True, metavar="LIST", help="capabilities, such as shell,exec; * for all")
    add.add_argument("--expires", metavar="DATE", help="last day + 1 (YYYY-MM-DD): trust ends at 00:00 UTC")
    add.add_argument("keyfile", help="OpenSSH public key file, - for standard input")
    add.set_defaults(act=_trust_add)
    listing = trust.add_parser("list", help="show what is trusted")
    listing.set_defaults(act=_trust_list)

    status = commands.add_parser("status", help="ask the running agent")
    status.add_argument("--json", action="store_true", help="print JSON for programs")
    status.set_defaults(act=_status)

    for each in (run, check, add, listing, status, init):
        each.add_argument("--config", type=Path, default=Path("/etc/edgeice/agent.toml"), metavar="FILE")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    import trio  # noqa: PLC0415  # the other commands start without it

    from edgeice.agent.config import load_config  # noqa: PLC0415
    from edgeice.agent.log import Log, goes_to_journal  # noqa: PLC0415
    from edgeice.agent.service import Agent  # noqa: PLC0415

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
    if not trust.lines:
        warnings.append(f"{config.trust}: no operator is trusted; add one with `edgeice-agent trust add`")
    facts: dict[str, object] = {
        "device": str(party),
        "key": key.public.fingerprint,
        "broker": f"{broker.host}:{broker.port}",
        "tls": broker.tls is not None,
        "user": broker.username,
        "services": [name for name in ("shell", "exec", "ping") if getattr(config.services, name)],
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
                shown = " ".join(f"{k}={v}" for k, v in item.items()) if isinstance(item, dict) else item
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
