"""`edgeice shell`: a terminal on a device."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import attrs
import click
import trio

from edgeice.cli.common import Options, SessionCommand, device_session, run, session_options
from edgeice.cli.options import device_argument
from edgeice.cli.path_notes import PathNotes, has_title
from edgeice.cli.stdio import raw_terminal, read_input, terminal_size, write_output
from edgeice.operator.interface import DeviceSession, Step
from edgeice.services import SHELL_PROTOCOL, ExitStatus, KeptEntry, ServiceError, ShellClient, list_shells, open_shell

__all__ = ["EscapeFilter", "command"]

_CHUNK = 4096
#: What ssh exits with where the connection ended and not the shell.
_DISCONNECTED = 255
#: Keys after `~` that let the shell go on.
_WISHES: Final = {ord("?"): "help", 0x1A: "suspend"}
#: Those that end it, and what a kept shell has besides.
_LEAVING: Final = {ord("."): "disconnect"}
_LEAVING_KEPT: Final = _LEAVING | {ord("d"): "detach"}
_HELP: Final = "~.   disconnect\r\n~^Z  suspend edgeice\r\n~~   send a tilde\r\n~?   this list\r"
_HELP_KEPT: Final = "~d   leave the shell running\r\n"
#: Puts a terminal into its usual state, whatever the program that fills the screen there made of this one: the main
#: screen, a visible cursor, usual keys, no reports of the mouse, no bracketed paste, no color.
_CALM: Final = "\x1b[?1047l\x1b[?25h\x1b[?1l\x1b>\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[m"
#: How often the end of input is repeated, seconds.
_EOF_INTERVAL = 0.5


class EscapeFilter:
    """Finds `~.` and its kin at the start of a line, as ssh does.

    `feed` gives what goes to the device and what the person asked for: "disconnect", "detach", "suspend", "help" or
    nothing.

    Args:
        on: Whether there is a person.
        kept: Whether the shell goes on without one, so that there is something to detach from.
    """

    def __init__(self, *, on: bool, kept: bool = False) -> None:
        self._on = on
        self._leaving = _LEAVING_KEPT if kept else _LEAVING
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
                if byte in self._leaving:
                    return bytes(out), self._leaving[byte]
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


@attrs.frozen
class _Wish:
    """Which shell is wanted."""

    keep: bool
    #: Name of the kept one to come back to, "" for the one left last; None for a new one.
    attach: str | None


@attrs.frozen
class _Outcome:
    """How a shell was left."""

    #: None where it was not the shell that ended.
    status: ExitStatus | None
    #: The last byte that it wrote.
    last: bytes
    #: Name of the kept shell that goes on, "" where none does.
    kept: str = ""
    #: The person left a kept shell on purpose.
    detached: bool = False

    def as_code(self) -> int:
        """What the command exits with."""
        if self.status is not None:
            return self.status.as_code()
        return 0 if self.detached else _DISCONNECTED


class _ShellCommand(SessionCommand):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # As with --accept-key: click would take the next word, the device, for the name.
        return super().parse_args(ctx, ["--attach=" if word == "--attach" else word for word in args])


@click.command(
    "shell",
    cls=_ShellCommand,
    epilog="""\b
Examples:
  edgeice shell pi17
  echo 'uptime; exit' | edgeice shell pi17
  edgeice shell --keep pi17        leave it with ~d, or just close the lid
  edgeice shell --attach pi17      come back to it, from anywhere with your key
  edgeice shell --show-path pi17   say when data goes another way

\b
Escapes, at the start of a line:
  ~.  disconnect, exit status 255     ~^Z  suspend edgeice
  ~~  send a tilde                    ~?   this list
  ~d  leave a kept shell running, exit status 0

\b
A kept shell goes on at the device when you leave it or lose the session, for as long as the device
allows (some hours, see limits.kept_time there); its newest output is shown when you come back.
Attaching takes it over from wherever you were attached before.

\b
With --show-path each move to another path is said, as in [wlan0 direct -> wwan0 relay, 180 ms]: in a
dim line where the shell writes line after line and pauses, else for some seconds in the terminal's title.

\b
Exit status: the shell's own, 128 + N where signal N ended it; 1, with a message, where there is no
shell to be had, such as on a device whose terminals are all in use; 255 after ~. .

\b
With --json the last line of the output is an object: exit, exit_signal, whether ~. disconnected, and
for a kept shell that goes on its name as kept.  --list --json prints a list of objects.""",
)
@device_argument
@click.option("--keep", is_flag=True, help="Have the shell go on when you leave it or lose the session.")
@click.option(
    "--attach", metavar="[=NAME]", help="Come back to a kept shell, the one left last or (--attach=NAME) this one."
)
@click.option("--list", "listing", is_flag=True, help="List your kept shells.")
@click.option("--show-path", is_flag=True, help="Say when data goes another way, where that disturbs nothing.")
@session_options
def command(options: Options, *, device: str, keep: bool, attach: str | None, listing: bool, show_path: bool) -> None:
    """Open a login shell on DEVICE; its exit status is yours."""
    if keep + (attach is not None) + listing > 1:
        raise click.UsageError("--keep, --attach and --list exclude each other.")

    screen = _Screen(on=show_path)

    async def main() -> int:
        async with device_session(options, device, ("shell",), screen.watch) as session:
            if listing:
                _print_list(await list_shells(await session.open(SHELL_PROTOCOL)), device, as_json=options.as_json)
                return 0
            outcome = await _run(session, _Wish(keep, attach), screen)
        if options.as_json:
            status = outcome.status
            facts: dict[str, object] = {"exit": status and status.code, "exit_signal": status and status.signal}
            facts["disconnected"] = status is None and not outcome.detached
            if outcome.kept:
                facts["kept"] = outcome.kept
            print("" if outcome.last == b"\n" else "\n", json.dumps(facts), sep="")
        return outcome.as_code()

    run(main)


def _print_list(entries: list[KeptEntry], device: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([attrs.asdict(entry) for entry in entries]))
        return
    if not entries:
        print(f"no shell of yours is kept on {device}; `edgeice shell --keep {device}` begins one")
        return
    table = [("NAME", "RUNNING", "BEGUN", "LEFT")]
    for entry in entries:
        left = "attached" if entry.left is None else f"{_duration(entry.left)} ago"
        table.append((entry.name, entry.running or "-", f"{_duration(entry.seconds)} ago", left))
    widths = [max(len(line[index]) for line in table) for index in range(4)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _duration(seconds: int) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


class _Screen:
    """Where the shell's output goes, and now and then a note about the path.

    Args:
        on: Whether there are notes.
    """

    def __init__(self, *, on: bool) -> None:
        self._on = on
        self._notes = PathNotes(title=has_title(os.environ.get("TERM", "")))
        self._changed = trio.Event()
        self._lock = trio.Lock()

    def watch(self, step: Step) -> None:
        """Hear a step of the session."""
        if self._on and step.move is not None:
            if sys.stdout.isatty():
                self._notes.note(step.text)
                self._changed.set()
            else:
                print(f"[{step.text}]", file=sys.stderr)

    async def write(self, data: bytes) -> None:
        """Write what the shell does."""
        async with self._lock:
            if self._on:
                self._notes.output(data, now=trio.current_time())
                self._changed.set()
            await write_output(data)

    async def run(self) -> None:
        """Write the notes, until canceled."""
        while True:
            self._changed = trio.Event()
            with trio.move_on_at(self._notes.next_at()):
                await self._changed.wait()
            async with self._lock:
                if note := self._notes.due(now=trio.current_time()):
                    await write_output(note)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """While the shell is on the terminal; afterwards nothing of a note is left."""
        try:
            yield
        finally:
            if (end := self._notes.end()) and select.select((), (1,), (), 0)[1]:
                with suppress(OSError):  # the terminal is gone
                    os.write(1, end)


async def _run(session: DeviceSession, wish: _Wish, screen: _Screen) -> _Outcome:
    """Be on the shell until it ends or the person leaves it."""
    columns, rows = terminal_size()
    last = b"\n"
    channel = await session.open(SHELL_PROTOCOL)
    ways: list[str] = []
    shell = None
    try:
        async with open_shell(
            channel, os.environ.get("TERM", "dumb"), columns, rows, keep=wish.keep, attach=wish.attach
        ) as shell:
            if shell.lost:
                lost = f"{shell.lost / 1024:.0f} KiB of output that you may not have seen are no longer held"
                print(f"edgeice: {lost}", file=sys.stderr)
            with raw_terminal() as suspend, screen.shown():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(screen.run)
                    nursery.start_soon(_type, shell, ways.append, nursery.cancel_scope, suspend)
                    nursery.start_soon(_follow_size, shell)
                    while data := await shell.read():
                        await screen.write(data)
                        last = data[-1:]
                    nursery.cancel_scope.cancel()
            if not ways:
                return _Outcome(await shell.wait(), last)
    except BaseException:
        # Not where the shell is known to have ended, or to be another session's now.
        if shell is not None and shell.kept and not shell.ended:
            _say_kept(session.name, shell.kept, "goes on")
        raise
    if ways == ["detach"]:
        _say_kept(session.name, shell.kept, "is left running")
        return _Outcome(None, last, shell.kept, detached=True)
    print(f"\nedgeice: disconnected from {session.name}", file=sys.stderr)
    if shell.kept:
        _say_kept(session.name, shell.kept, "goes on")
    return _Outcome(None, last, shell.kept)


def _say_kept(device: str, name: str, what: str) -> None:
    """Say how to come back, where there is room to: a terminal that is stopped or gone holds up no end."""
    calm = _CALM if sys.stdout.isatty() and sys.stderr.isatty() else ""
    back = f"edgeice shell --attach={name} {device}"
    with suppress(OSError):
        if select.select((), (2,), (), 0)[1]:
            print(f"{calm}\r\nedgeice: shell {name} on {device} {what}; come back with: {back}", file=sys.stderr)


async def _type(
    shell: ShellClient, leave: Callable[[str], None], scope: trio.CancelScope, suspend: Callable[[], None]
) -> None:
    escapes = EscapeFilter(on=sys.stdin.isatty(), kept=bool(shell.kept))
    # A shell that ended takes no more keys; whoever reads its output is told why.
    with suppress(trio.BrokenResourceError, ServiceError):
        last = b"\n"
        while data := await read_input(_CHUNK):
            last = data[-1:]
            keys, wish = escapes.feed(data)
            if keys:
                await shell.write(keys)
            if wish in ("disconnect", "detach"):
                leave(wish)
                scope.cancel()
                return
            if wish == "help":
                print(f"\r\n{_HELP_KEPT if shell.kept else ''}{_HELP}", file=sys.stderr)
            if wish == "suspend":
                suspend()
                await shell.resize(*terminal_size())
        if shell.kept:  # nobody types any more; it goes on
            leave("detach")
            scope.cancel()
            return
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
