"""`edgeice shell`: a terminal on a device."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

import click
import trio

from edgeice.cli.common import Options, SessionCommand, device_session, run, session_options
from edgeice.cli.options import device_argument
from edgeice.cli.stdio import raw_terminal, read_input, terminal_size, write_output
from edgeice.operator.session import Session
from edgeice.services import SHELL_PROTOCOL, ExitStatus, ServiceError, ShellClient, open_shell

__all__ = ["EscapeFilter", "command"]

_CHUNK = 4096
#: What ssh exits with where the connection ended and not the shell.
_DISCONNECTED = 255
#: Keys after `~` that let the shell go on.
_WISHES = {ord("?"): "help", 0x1A: "suspend"}
_HELP = "\r\n~.   disconnect\r\n~^Z  suspend edgeice\r\n~~   send a tilde\r\n~?   this list\r"
#: How often the end of input is repeated, seconds.
_EOF_INTERVAL = 0.5


class EscapeFilter:
    """Finds `~.` and its kin at the start of a line, as ssh does.

    `feed` gives what goes to the device and what the person asked for: "disconnect", "suspend", "help" or nothing.
    """

    def __init__(self, *, on: bool) -> None:
        self._on = on
        self._line_start = True
        self._tilde = False

    def feed(self, data: bytes) -> tuple[bytes, str]:
        """Take keystrokes."""
        if not self._on:
            return data, ""
        out = bytearray()
        wish = ""
        for byte in data:
            if self._tilde:
                self._tilde = False
                if byte == ord("."):
                    return bytes(out), "disconnect"
                if byte in _WISHES:
                    wish = _WISHES[byte]
                    continue
                if byte != ord("~"):
                    out.append(ord("~"))
                out.append(byte)
            elif self._line_start and byte == ord("~"):
                self._tilde = True
                continue
            else:
                out.append(byte)
            self._line_start = byte in b"\r\n"
        return bytes(out), wish


@click.command(
    "shell",
    cls=SessionCommand,
    epilog="""\b
Examples:
  edgeice shell pi17
  echo 'uptime; exit' | edgeice shell pi17

\b
Escapes, at the start of a line:
  ~.  disconnect, exit status 255     ~^Z  suspend edgeice
  ~~  send a tilde                    ~?   this list

\b
With --json the last line of the output is an object: exit, exit_signal, and whether ~. disconnected.""",
)
@device_argument
@session_options
def command(options: Options, device: str) -> None:
    """Open a login shell on DEVICE; its exit status is yours."""

    async def main() -> int:
        async with device_session(options, device, ("shell",)) as session:
            status, last = await _run(session)
        if options.as_json:
            facts = {"exit": status and status.code, "exit_signal": status and status.signal}
            print("" if last == b"\n" else "\n", json.dumps(facts | {"disconnected": status is None}), sep="")
        return _DISCONNECTED if status is None else status.as_code()

    run(main)


async def _run(session: Session) -> tuple[ExitStatus | None, bytes]:
    """How the shell ended, None where the person left it, and the last byte that it wrote."""
    columns, rows = terminal_size()
    last = b"\n"
    channel = await session.open(SHELL_PROTOCOL)
    left = trio.Event()
    async with open_shell(channel, os.environ.get("TERM", "dumb"), columns, rows) as shell:
        with raw_terminal() as suspend:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_type, shell, left, nursery.cancel_scope, suspend)
                nursery.start_soon(_follow_size, shell)
                while data := await shell.read():
                    await write_output(data)
                    last = data[-1:]
                nursery.cancel_scope.cancel()
        if not left.is_set():
            return await shell.wait(), last
    print(f"\nedgeice: disconnected from {session.device.name}", file=sys.stderr)
    return None, last


async def _type(shell: ShellClient, left: trio.Event, scope: trio.CancelScope, suspend: Callable[[], None]) -> None:
    escapes = EscapeFilter(on=sys.stdin.isatty())
    # A shell that ended takes no more keys; whoever reads its output is told why.
    with suppress(trio.BrokenResourceError, ServiceError):
        last = b"\n"
        while data := await read_input(_CHUNK):
            last = data[-1:]
            keys, wish = escapes.feed(data)
            if keys:
                await shell.write(keys)
            if wish == "disconnect":
                left.set()
                scope.cancel()
                return
            if wish == "help":
                print(_HELP, file=sys.stderr)
            if wish == "suspend":
                suspend()
                await shell.resize(*terminal_size())
        await _end_input(shell, last)


async def _end_input(shell: ShellClient, last: bytes) -> None:
    """Tell the terminal that no more keys come: Ctrl-D ends its input, on a fresh line.

    Repeated until the shell ends, because a Ctrl-D gets lost while a program changes the terminal's mode, as
    shells do at their start, and because each reader of the terminal needs one.
    """
    if last not in (b"\n", b"\r"):
        await shell.write(b"\n")
    while True:
        await shell.write(b"\x04")
        await trio.sleep(_EOF_INTERVAL)


async def _follow_size(shell: ShellClient) -> None:
    with trio.open_signal_receiver(signal.SIGWINCH) as changes, suppress(trio.BrokenResourceError, ServiceError):
        async for _ in changes:
            await shell.resize(*terminal_size())
