"""`edgeice-agent`: the device's command.  It imports nothing that only operators need."""

from __future__ import annotations

import json
import linecache
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Final

from edgeice.cli.groups import first_of
from edgeice.errors import ConfigError
from edgeice.late import loaded_late, unload

__all__ = ["main"]

#: Set by the shell that wants to complete a command line.
_COMPLETE = "_EDGEICE_AGENT_COMPLETE"


def main(argv: Sequence[str] | None = None) -> None:
    """Run `edgeice-agent`; exits 0 done, 1 failure, 2 usage or configuration."""
    from edgeice.cli.agent_parser import parse, parsers  # noqa: PLC0415  # it is forgotten

    if _COMPLETE in os.environ:
        from edgeice.cli.agent_completion import answer_shell  # noqa: PLC0415

        options = {command: each.format_usage() for command, each in parsers()[1].items()}
        sys.exit(answer_shell(os.environ[_COMPLETE], os.environ, options))
    command, arguments = parse(argv)
    del parse, parsers  # see `_run`
    try:
        sys.exit(_ACTS[command](arguments))
    except ConfigError as error:
        print(f"edgeice-agent: {error}", file=sys.stderr)
        sys.exit(2)


def _run(arguments: SimpleNamespace) -> int:
    unload("edgeice.cli.agent_parser", "argparse", "gettext")  # before others come, who then take their place
    # trio wants them for names that are not ASCII, and to look for libraries without `ldconfig`.
    with loaded_late("idna", "tempfile"):
        import trio  # noqa: PLC0415  # the other commands start without it

    linecache.clearcache()  # attrs keeps the source of each method there that it wrote, 4 KiB a class
    from edgeice.agent.config import load_config  # noqa: PLC0415
    from edgeice.agent.log import Log, goes_to_journal  # noqa: PLC0415
    from edgeice.agent.memory import set_aside, share_one_heap  # noqa: PLC0415
    from edgeice.agent.service import Agent  # noqa: PLC0415

    linecache.clearcache()
    share_one_heap()
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


def _init(arguments: SimpleNamespace) -> int:
    from edgeice.cli.agent_init import init  # noqa: PLC0415

    init(arguments.config, arguments.fleet, arguments.device, arguments.broker)
    return 0


def _check(arguments: SimpleNamespace) -> int:
    from edgeice.cli.agent_check import check  # noqa: PLC0415

    check(arguments.config, as_json=arguments.json)
    return 0


def _trust_add(arguments: SimpleNamespace) -> int:
    from edgeice.cli.agent_trust import add  # noqa: PLC0415

    add(arguments.config, arguments.keyfile, arguments.operator, arguments.can, arguments.expires)
    return 0


def _trust_list(arguments: SimpleNamespace) -> int:
    from edgeice.cli.agent_trust import show  # noqa: PLC0415

    show(arguments.config)
    return 0


def _status(arguments: SimpleNamespace) -> int:
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
                words = ((k, ",".join(map(str, v)) if isinstance(v, list) else v) for k, v in item.items())
                print("  " + " ".join(f"{k}={v}" for k, v in words if v not in ({}, "", None)))
        elif isinstance(value, dict):
            print(f"{name}: " + (" ".join(f"{k}={v}" for k, v in value.items()) or "none"))
        else:
            print(f"{name}: {value}")
    return 0


_ACTS: Final[Mapping[str, Callable[[SimpleNamespace], int]]] = {
    "run": _run,
    "init": _init,
    "check": _check,
    "status": _status,
    "trust add": _trust_add,
    "trust list": _trust_list,
}


if __name__ == "__main__":
    main()
