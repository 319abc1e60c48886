"""`edgeice ping`: the round trip to a device over the data path."""

from __future__ import annotations

import json
import statistics

import attrs
import click
import trio

from edgeice.cli.common import Options, SessionCommand, device_session, run, session_options
from edgeice.cli.options import SECONDS, device_argument
from edgeice.operator.interface import DeviceSession, JudgedSession, Step
from edgeice.services import PING_PROTOCOL, PingClient

__all__ = ["command"]


@click.command(
    "ping",
    cls=SessionCommand,
    epilog="""\b
Examples:
  edgeice ping pi17
  edgeice ping -c 100 -i 0.2 --json pi17

\b
Each time that data goes another way a line says from where to where, as seen from here, with the round
trip of the new path and how long the device was not heard:
  path: wlan0 direct -> wwan0 relay, 180 ms; pause 212 ms, the interface was lost; host … -> relay …
With --json that is an object: move, with from, to, path, cause, pause_ms and rtt_ms.""",
)
@device_argument
@click.option("-c", "--count", type=click.IntRange(1), help="Stop after so many; without it, at Ctrl-C.")
@click.option("-i", "--interval", type=SECONDS, default=1.0, show_default=True, help="Seconds between.")
@click.option("-s", "--size", type=click.IntRange(8, 16384), default=56, show_default=True, help="Bytes of each.")
@session_options
def command(options: Options, device: str, count: int | None, interval: float, size: int) -> None:
    """Measure the round trip to DEVICE, and show which candidate pair carries it."""
    route = _Route(options)

    async def main() -> int:
        async with device_session(options, device, (), route.watch) as session:
            route.begin()
            return await _ping(session, options, route, (count, interval, size))

    run(main)


@attrs.define
class _Route:
    """The path in use, and what is said of it."""

    options: Options
    path: str | None = None
    #: Nothing is said of how the first one was found.
    begun: bool = False

    def begin(self) -> None:
        """Say what there is; from here on changes are said."""
        self.begun = True
        if not self.options.as_json:
            click.echo(f"path: {self.path or 'none'}")

    def watch(self, step: Step) -> None:
        """Hear a step of the session."""
        if step.name == "path":
            self.path = step.text
            if self.begun and not self.options.as_json and "->" not in step.text:
                click.echo(f"path: {step.text}")
        elif step.move is not None and self.begun:
            _tell(self.options, {"move": step.move.as_dict()}, f"path: {step.move.line}")


async def _ping(session: DeviceSession, options: Options, route: _Route, how: tuple[int | None, float, int]) -> int:
    count, interval, size = how
    client = PingClient(await session.open(PING_PROTOCOL))
    times: list[float] = []
    sent = 0
    with trio.open_signal_receiver(2) as interrupts:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                async for _ in interrupts:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            while count is None or sent < count:
                begun = trio.current_time()
                sent += 1
                with trio.move_on_after(max(interval, 1.0)) as late:
                    milliseconds = await client.round_trip(size) * 1000
                if late.cancelled_caught:
                    _tell(options, {"seq": sent, "lost": True}, f"seq={sent} no answer yet")
                else:
                    times.append(milliseconds)
                    facts: dict[str, object] = {
                        "seq": sent,
                        "ms": round(milliseconds, 3),
                        "path": route.path,
                    }
                    _tell(
                        options,
                        facts,
                        f"{size} bytes from {session.name}: seq={sent} time={milliseconds:.2f} ms",
                    )
                if count is None or sent < count:
                    await trio.sleep_until(begun + interval)
            nursery.cancel_scope.cancel()
    _summarize(options, session, sent, times)
    return 0 if times else 1


def _tell(options: Options, facts: dict[str, object], line: str) -> None:
    click.echo(json.dumps(facts) if options.as_json else line)


def _summarize(options: Options, session: DeviceSession, sent: int, times: list[float]) -> None:
    facts: dict[str, object] = {"sent": sent, "received": len(times)}
    line = f"\n{session.name}: {sent} sent, {len(times)} received"
    if times:
        low, median, high = min(times), statistics.median(times), max(times)
        facts |= {"min_ms": round(low, 3), "median_ms": round(median, 3), "max_ms": round(high, 3)}
        line += f", min/median/max {low:.2f}/{median:.2f}/{high:.2f} ms"
    if isinstance(session, JudgedSession):
        verdict = session.verdict()
        facts["verdict"] = verdict if options.pseudonyms is None else options.pseudonyms.value(verdict)
    _tell(options, facts, line)
