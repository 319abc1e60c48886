"""`edgeice exec`: one command on a device."""

from __future__ import annotations

import json
from contextlib import suppress

import click
import trio

from edgeice.cli.common import Options, SessionCommand, device_session, run, session_options
from edgeice.cli.options import device_argument
from edgeice.cli.stdio import read_input, write_output
from edgeice.operator.interface import DeviceSession
from edgeice.services import EXEC_PROTOCOL, STDERR, ExecClient, ExitStatus, ServiceError, open_exec

__all__ = ["command"]

_CHUNK = 16 * 1024 - 1


@click.command(
    "exec",
    cls=SessionCommand,
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  edgeice exec pi17 -- uname -a
  tar c data | edgeice exec pi17 -- tar x -C /tmp
  edgeice exec pi17 --json -- systemctl is-active nginx""",
)
@device_argument
@click.argument("argv", nargs=-1, required=True, metavar="-- COMMAND [ARG]…")
@session_options
def command(options: Options, device: str, argv: tuple[str, ...]) -> None:
    """Run a command on DEVICE: its input, output and errors are yours, its exit status too."""

    async def main() -> int:
        async with device_session(options, device, ("exec",)) as session:
            status, output = await _run(session, argv, collect=options.as_json)
        if options.as_json:
            print(json.dumps({"exit": status.code, "exit_signal": status.signal, **output}))
        return status.as_code()

    run(main)


async def _run(session: DeviceSession, argv: tuple[str, ...], *, collect: bool) -> tuple[ExitStatus, dict[str, str]]:
    collected = {"stdout": bytearray(), "stderr": bytearray()}
    channel = await session.open(EXEC_PROTOCOL)
    async with open_exec(channel, argv) as process, trio.open_nursery() as nursery:
        nursery.start_soon(_feed, process)
        while (item := await process.read()) is not None:
            stream, data = item
            if collect:
                collected["stderr" if stream == STDERR else "stdout"] += data
            else:
                await write_output(data, error=stream == STDERR)
        status = await process.wait()
        nursery.cancel_scope.cancel()
    return status, {name: data.decode("utf-8", "replace") for name, data in collected.items()}


async def _feed(process: ExecClient) -> None:
    # A process that ended needs no more input; whoever reads its output is told why.
    with suppress(trio.BrokenResourceError, ServiceError):
        while data := await read_input(_CHUNK):
            await process.write(data)
        await process.send_eof()
