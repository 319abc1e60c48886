"""`edgeice exec`: one command on a device."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import attrs
import click
import trio

from edgeice.cli.common import Options, SessionCommand, device_session, fail, run, session_options
from edgeice.cli.ending import heeded_signals
from edgeice.cli.options import device_argument
from edgeice.cli.stdio import read_input, say_aside, write_output
from edgeice.operator.interface import DeviceSession
from edgeice.services import EXEC_PROTOCOL, STDERR, ErrorCode, ExecClient, ExitStatus, ServiceError, open_exec

__all__ = ["command"]

_CHUNK: Final = 16 * 1024 - 1
#: Seconds that the command has after a signal before the next one comes; the device's own figure for its end.
_GRACE: Final = 3.0
#: Seconds that the device has to report the end of a killed one.
_REPORT: Final = 2.0
#: What the device says of a command that it cannot start -> what a shell exits with then (POSIX.1, sh §2.8.2).
_NOT_STARTED: Final = {ErrorCode.NOT_FOUND: 127, ErrorCode.REFUSED: 126}


@click.command(
    "exec",
    cls=SessionCommand,
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  edgeice exec pi17 -- uname -a
  tar c data | edgeice exec pi17 -- tar x -C /tmp
  edgeice exec pi17 --json -- systemctl is-active nginx

\b
Ctrl-C goes to the command, which may end in its own way. If it goes on for 3 s it
gets SIGTERM, and SIGKILL after 3 s more (exit status 137), and you are told. A
second Ctrl-C leaves at once (130); the device then does the same by itself.
SIGTERM and SIGHUP are passed on likewise.

\b
Exit codes: the command's, 128 + N where signal N ended it, 127 where DEVICE has no
such command, 126 where it has but cannot run it; else as `edgeice --help` lists.""",
)
@device_argument
@click.argument("argv", nargs=-1, required=True, metavar="-- COMMAND [ARG]…")
@session_options
def command(options: Options, device: str, argv: tuple[str, ...]) -> None:
    """Run a command on DEVICE: its input, output and errors are yours, its exit status too."""

    async def main() -> int:
        async with device_session(options, device, ("exec",)) as session:
            outcome = await _run(session, argv, collect=options.as_json)
        if outcome.refusal is not None:
            fail(outcome.refusal, as_json=options.as_json, service_code=_NOT_STARTED[outcome.refusal.code])
        if options.as_json:
            status = outcome.status or ExitStatus()
            print(json.dumps({"exit": status.code, "exit_signal": status.signal, **outcome.output}))
        return outcome.as_code()

    run(main)


@attrs.frozen
class _Outcome:
    """How a command ended."""

    #: None where the device did not report it.
    status: ExitStatus | None
    #: The signal that was to end it, 0 for none.
    number: int
    #: By stream, where that was wanted.
    output: dict[str, str]
    #: Why it was not started, None where it was.
    refusal: ServiceError | None = None

    def as_code(self) -> int:
        """What this command exits with."""
        return 128 + self.number if self.status is None else self.status.as_code()


async def _run(session: DeviceSession, argv: tuple[str, ...], *, collect: bool) -> _Outcome:
    collected = {"stdout": bytearray(), "stderr": bytearray()}
    channel = await session.open(EXEC_PROTOCOL)
    signals: list[int] = []
    status: ExitStatus | None = None
    refusal: ServiceError | None = None
    try:
        async with open_exec(channel, argv) as process, trio.open_nursery() as nursery:
            nursery.start_soon(_feed, process)
            nursery.start_soon(_insist, process, session.name, signals.append, nursery.cancel_scope)
            try:
                while (item := await process.read()) is not None:
                    stream, data = item
                    if collect:
                        collected["stderr" if stream == STDERR else "stdout"] += data
                    else:
                        await write_output(data, error=stream == STDERR)
                status = await process.wait()
            except ServiceError as error:
                if error.code not in _NOT_STARTED:
                    raise
                refusal = error
            nursery.cancel_scope.cancel()
    except BaseException:
        if signals and _cancelled():
            say_aside(f"left; {session.name} gives the command {_GRACE:g} s to end, then kills it")
        raise
    output = {name: data.decode("utf-8", "replace") for name, data in collected.items()}
    return _Outcome(status, signals[0] if signals else 0, output, refusal)


def _cancelled() -> bool:
    return trio.current_effective_deadline() <= trio.current_time()


async def _insist(process: ExecClient, device: str, note: Callable[[int], None], everything: trio.CancelScope) -> None:
    """Pass the first signal that is to end this command on to the one there, and insist that it ends.

    The second is not received here: it cancels everything.
    """
    with trio.open_signal_receiver(*heeded_signals()) as numbers:
        number = await anext(aiter(numbers))
    note(number)
    # An interrupt may be what a command has to clean up for, or may be ignored; SIGTERM means the same to all.
    names = list(dict.fromkeys((signal.Signals(number).name, "SIGTERM", "SIGKILL")))
    for name, following in zip(names, [*names[1:], None], strict=True):
        patience = _GRACE if following else _REPORT
        with trio.move_on_after(patience):
            # Where the channel is over, whoever reads the output is told why.
            with suppress(trio.BrokenResourceError, ServiceError):
                await process.signal(name.removeprefix("SIG"))
            await trio.sleep_forever()
        if following:
            say_aside(f"the command goes on {patience:g} s after {name}: sending {following}")
        else:
            say_aside(f"{device} has not reported the command's end {patience:g} s after {name}: leaving it there")
    everything.cancel()


async def _feed(process: ExecClient) -> None:
    # A process that ended needs no more input; whoever reads its output is told why.
    with suppress(trio.BrokenResourceError, ServiceError):
        while data := await read_input(_CHUNK):
            await process.write(data)
        await process.send_eof()
