"""`edgeice telemetry`: what a device measures, as it comes."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable

import attrs
import click
import trio
from click.shell_completion import CompletionItem

from edgeice.cli.common import Options, SessionCommand, device_session, run, session_options
from edgeice.cli.options import Seconds, device_argument
from edgeice.cli.stdio import terminal_size, write_output
from edgeice.cli.telemetry_table import Table, format_gap, format_name, format_value
from edgeice.operator.interface import DeviceSession, Step
from edgeice.services import ErrorCode, ServiceError
from edgeice.services.telemetry import TELEMETRY_PROTOCOL
from edgeice.services.telemetry.client import Gap, Row, Samples, TelemetryClient, open_telemetry
from edgeice.services.telemetry.wire import MAX_INTERVAL, MIN_INTERVAL
from edgeice.text import printable

__all__ = ["command"]

#: Seconds after the first rows that --once waits for streams that have told nothing.
_ONCE_PATIENCE = 2.0
#: Seconds between two drawings of the table at least, and at most: ages grow.
_DRAW_PAUSE, _DRAW_PERIOD = 0.1, 1.0


@attrs.frozen
class _Asked:
    streams: tuple[str, ...]
    interval: float | None
    count: int | None
    once: bool


def _complete_stream(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in ("local", "system") if name.startswith(incomplete)]


@click.command(
    "telemetry",
    cls=SessionCommand,
    epilog="""\b
Examples:
  edgeice telemetry pi17
  edgeice telemetry pi17 system --interval 10
  edgeice telemetry pi17 --once
  edgeice telemetry pi17 local --json | jq 'select(.name == "door.open")'

\b
Streams: system is what the kernel tells; local is what processes of the device write, one JSON object
a line, to the datagram socket telemetry.sock beside the agent's configuration, while somebody listens:
  {"name": "door.open", "value": true, "tags": {"door": "shed"}}

\b
The device has to allow it: edgeice-agent trust add --can telemetry:* …
(or --can telemetry:system; then name that stream).""",
)
@device_argument
@click.argument("streams", nargs=-1, metavar="[STREAM…]", shell_complete=_complete_stream)
@click.option(
    "-i",
    "--interval",
    type=Seconds(MIN_INTERVAL, MAX_INTERVAL),
    help="Seconds between samples; without it, the device's choice, and what processes write at once.",
)
@click.option("-c", "--count", type=click.IntRange(1), help="Stop after so many samples; without it, at Ctrl-C.")
@click.option("--once", is_flag=True, help="Stop when each stream has told something.")
@session_options
def command(
    options: Options, device: str, *, streams: tuple[str, ...], interval: float | None, count: int | None, once: bool
) -> None:
    """Show what DEVICE measures: all streams that it has, or those named.

    On a terminal, a table that is kept up to date, without counters of nothing and alarms that are off; otherwise, a
    line for each value.  What is lost on the way, because it is slow or nobody reads here, is said.
    """
    if once and count is not None:
        raise click.UsageError("--once and --count exclude each other.")
    asked = _Asked(streams or ("*",), interval, count, once)
    screen = _screen(options, device)

    def watch(step: Step) -> None:
        if step.name == "path":
            screen.path(step.text)

    async def main() -> int:
        async with device_session(
            options, device, tuple(f"telemetry:{stream}" for stream in asked.streams), watch
        ) as session:
            return await _follow(session, options, asked, screen)

    run(main)


async def _follow(session: DeviceSession, options: Options, asked: _Asked, screen: _Screen) -> int:
    channel = await session.open(TELEMETRY_PROTOCOL)
    with trio.open_signal_receiver(signal.SIGINT) as interrupts:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                async for _ in interrupts:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            nursery.start_soon(screen.keep)
            async with open_telemetry(channel, asked.streams, interval=asked.interval) as client:
                if asked.once:
                    await _take_once(client, screen, options.timeout)
                else:
                    await _take_all(client, screen, asked.count)
            nursery.cancel_scope.cancel()
    await screen.finish()
    return 0


async def _take_all(client: TelemetryClient, screen: _Screen, count: int | None) -> None:
    left = count
    async for told in client:
        await screen.show(told)
        if left is not None and isinstance(told, Samples) and told.rows and not told.more:
            left -= 1
            if left == 0:
                return


async def _take_once(client: TelemetryClient, screen: _Screen, patience: float) -> None:
    """Until each stream that began has told something; those that do not are waited for in vain for a moment."""
    begun, heard = set[str](), set[str]()
    with trio.move_on_after(patience) as waiting:
        async for told in client:
            await screen.show(told)
            if not isinstance(told, Samples):
                continue
            begun.add(told.stream)
            if told.rows and not told.more:
                if not heard:
                    waiting.deadline = trio.current_time() + _ONCE_PATIENCE
                heard.add(told.stream)
                if heard == begun:
                    return
    if not heard:
        names = printable(", ".join(sorted(begun))) or "the device"
        raise ServiceError(ErrorCode.TIMEOUT, f"nothing came from {names} within {patience:g} s")


# How it is shown


class _Screen:
    """Shows what is told, a line for each value."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._path = ""

    async def show(self, told: Samples | Gap) -> None:
        """Show samples or a gap; where the output waits, so does this, and the device's gaps tell what that costs."""
        if isinstance(told, Gap):
            self.note(format_gap(told))
            return
        await _write("".join(f"{self._line(told.stream, row)}\n" for row in told.rows))

    def note(self, text: str) -> None:
        """Say something that is no value."""
        if not self._quiet:
            print(f"edgeice: {text}", file=sys.stderr, flush=True)

    def path(self, text: str) -> None:
        """Say which candidate pair carries the session, where that changes."""
        if self._path:
            self.note(f"path: {text}")
        self._path = text

    async def keep(self) -> None:
        """Do what has to be done meanwhile."""

    async def finish(self) -> None:
        """Show the last."""

    def _line(self, _stream: str, row: Row) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(row.t))
        return f"{clock}  {format_name(row.name, row.tags)}  {format_value(row.name, row.value)}"


class _JsonScreen(_Screen):
    """The same for programs: an object for each value, and for each gap one with `lost`."""

    async def show(self, told: Samples | Gap) -> None:
        if isinstance(told, Gap):
            await _write(f"{json.dumps({'stream': told.stream, 'lost': told.lost})}\n")
        else:
            await super().show(told)

    def note(self, text: str) -> None:
        pass

    def _line(self, stream: str, row: Row) -> str:
        facts: dict[str, object] = {"stream": stream, "t": row.t, "name": row.name, "value": row.value}
        if row.tags:
            facts["tags"] = dict(row.tags)
        return json.dumps(facts)


class _TableScreen(_Screen):
    """A table on a terminal, drawn anew in its place."""

    def __init__(self, device: str, size: Callable[[], tuple[int, int]]) -> None:
        super().__init__(quiet=False)
        self._device = device
        self._table = Table(device)
        self._size = size
        self._changed = trio.Event()
        #: Lines that were drawn, which the next drawing replaces.
        self._drawn = 0
        self._told = False

    async def show(self, told: Samples | Gap) -> None:
        if isinstance(told, Gap):
            self._table.note(format_gap(told))
        else:
            self._table.take(told, trio.current_time())
        self._told = True
        self._changed.set()
        await trio.lowlevel.checkpoint()

    def note(self, text: str) -> None:
        self._table.note(text)

    def path(self, text: str) -> None:
        self._table.title = f"{self._device}  {text}"

    async def keep(self) -> None:
        while True:
            with trio.move_on_after(_DRAW_PERIOD):
                await self._changed.wait()
            self._changed = trio.Event()
            if self._told:
                await self._draw()
            await trio.sleep(_DRAW_PAUSE)

    async def finish(self) -> None:
        if self._told:
            await self._draw()

    async def _draw(self) -> None:
        columns, rows = self._size()
        lines = self._table.lines(columns, rows, trio.current_time())
        up = f"\r\x1b[{self._drawn}A" if self._drawn else "\r"
        self._drawn = len(lines)
        await _write(up + "".join(f"{line}\x1b[K\r\n" for line in lines) + "\x1b[J")


async def _write(text: str) -> None:
    await write_output(text.encode(sys.stdout.encoding, "replace"))


def _screen(options: Options, device: str) -> _Screen:
    if options.as_json:
        return _JsonScreen(quiet=True)
    if sys.stdout.isatty():
        return _TableScreen(device, terminal_size)
    return _Screen(quiet=options.quiet)
