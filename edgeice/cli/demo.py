"""`edgeice demo`: broker, device and operator on this machine, and a session that survives a change of address."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import attrs
import click
import trio

from edgeice.cli.connecting import load_operator_key
from edgeice.cli.demo_echo import EchoStream
from edgeice.cli.demo_fleet import (
    ADDRESSES,
    DEVICE,
    Child,
    DemoError,
    Fleet,
    start_broker,
    start_device,
)
from edgeice.cli.groups import first_of
from edgeice.cli.options import timeout_option
from edgeice.errors import EdgeIceError
from edgeice.operator.interface import Move, Step
from edgeice.operator.session import Session, open_session
from edgeice.services import EXEC_PROTOCOL, PING_PROTOCOL, STDOUT, ServiceError, open_exec
from edgeice.signaling import Party, PublicKey

__all__ = ["command"]

#: How long everything up to the end of the tour may take by default, seconds; ending the processes comes on top.
_TOUR_TIME: Final = 26.0
#: Echoes before and after the switch, one every 10 ms.
_ECHOES: Final = 60
#: How long the last echoes may take, seconds.
_SETTLE_TIME: Final = 3.0
#: How long the last echoes and the session's end may take, seconds.
_END_TIME: Final = 5.0
#: Seconds between updates of the live line.
_REFRESH: Final = 0.25
_CLEAR: Final = "\r\x1b[K"
_COMMAND: Final = ("uname", "-a")

#: Failures that are told in one line; all others are defects.
_EXPECTED: Final = (DemoError, EdgeIceError, ServiceError, trio.BrokenResourceError, trio.EndOfChannel, OSError)


@attrs.define
class _Result:
    """What the demo measured."""

    connect_ms: float | None = None
    pair: str | None = None
    new_pair: str | None = None
    restart_gap_ms: float | None = None
    cause: str | None = None
    messages_sent: int = 0
    messages_lost: int | None = None


@click.command(
    "demo",
    epilog="""\b
Examples:
  edgeice demo                   until Ctrl-C; a second terminal can use the device meanwhile
  edgeice demo --once            end after the tour
  edgeice demo --once --json     the same for programs

\b
The JSON object: ok, connect_ms (offer sent to usable channels), pair (before the switch), new_pair (after
it), restart_gap_ms (longest silence of the echo around the switch), cause (what moved the session,
as `edgeice ping` tells it), messages_sent, messages_lost; where it failed also step, error and the end of
the device's log.""",
)
@click.option("--once", is_flag=True, help="End by itself when everything was shown.")
@click.option("--json", "as_json", is_flag=True, help="Print nothing but one JSON object at the end.")
@timeout_option(_TOUR_TIME, "Seconds that the tour may take.")
def command(*, once: bool, as_json: bool, timeout: float) -> None:
    """Start a broker, a device and an operator on this machine, connect them, and take the address they use away.

    The device is the agent as it is installed on a Raspberry Pi, in a process of its own.  Nothing leaves this
    machine, no root is needed, and everything is gone afterwards.
    """
    demo = _Demo(once=once, as_json=as_json, patience=timeout)
    trio.run(demo.run)
    demo.finish()


class _Demo:
    def __init__(self, *, once: bool, as_json: bool, patience: float) -> None:
        self._once = once
        self._as_json = as_json
        self._patience = patience
        self._step = "broker"
        self._result = _Result()
        self._error: DemoError | None = None
        self._interrupted = False
        #: The tour is over, and it echoes until a signal comes.
        self._endless = False
        #: A line on the terminal is written over and over.
        self._live = False
        self._stop = trio.Event()
        self._done = False
        self._device: Child | None = None
        self._up = trio.Event()
        self._offered_at = 0.0
        self._paths: list[str] = []
        self._moves: list[Move] = []
        self._moved = trio.Event()

    async def run(self) -> None:
        """The whole demo; what failed is kept for `finish`."""
        try:
            # The receiver is outermost, so that no signal leaves something behind.
            with (
                trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals,
                tempfile.TemporaryDirectory(prefix="edgeice-demo-") as folder,
            ):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._obey, signals, nursery.cancel_scope)
                    await self._bounded_tour(nursery, Path(folder))
                    nursery.cancel_scope.cancel()
        except _EXPECTED as error:
            self._keep(error)
        except BaseExceptionGroup as group:
            first = first_of(group, *_EXPECTED)
            if first is None:
                raise
            self._keep(first)

    def finish(self) -> None:
        """Say how it went, and exit."""
        ok = self._error is None and self._done and self._result.messages_lost == 0
        if self._as_json:
            print(json.dumps({"ok": ok, **attrs.asdict(self._result), **self._trouble()}), flush=True)
        elif self._error is not None:
            print(f"edgeice: the demo failed at the step {self._step}: {self._error}", file=sys.stderr)
            for line in self._log_tail():
                print(f"  device: {line}", file=sys.stderr)
        elif self._once and ok:
            self._advise(None)
        if self._interrupted and not self._done:
            sys.exit(130)
        sys.exit(0 if ok else 1)

    # Steps

    async def _bounded_tour(self, nursery: trio.Nursery, folder: Path) -> None:
        """Run the tour within its time, and without `--once` echo until a signal comes."""
        with trio.move_on_after(self._patience) as tour:
            port = await self._start_broker(nursery, folder)
            fleet = await self._start_device(nursery, folder, port)
            async with self._session(fleet) as session:
                await self._run_command(session)
                async with self._echo(session) as echo:
                    await self._switch(echo, fleet)
                    if not self._once:
                        self._advise(fleet)
                        self._endless = True
                        tour.deadline = math.inf
                        await self._keep_echoing(echo)
                        tour.deadline = trio.current_time() + _END_TIME
                    await self._settle(echo)
                    self._done = True
        if tour.cancelled_caught and not self._done:
            raise DemoError(self._step, f"not done within the {self._patience:g} s of the whole demo")

    async def _start_broker(self, nursery: trio.Nursery, folder: Path) -> int:
        self._begin("broker")
        broker, port = await start_broker(nursery, folder)
        nursery.start_soon(_watch_process, broker, "broker", "the broker")
        self._say("broker", f"amqtt listens on 127.0.0.1:{port}, a process of its own")
        return port

    async def _start_device(self, nursery: trio.Nursery, folder: Path, port: int) -> Fleet:
        self._begin("device")
        fleet = Fleet.create(folder, port)
        self._device = await start_device(nursery, fleet, self._hear)
        nursery.start_soon(_watch_process, self._device, "device", "the agent")
        await self._up.wait()
        self._say("device", f"edgeice-agent runs as {DEVICE}, key {fleet.device_key.fingerprint}")
        return fleet

    @asynccontextmanager
    async def _session(self, fleet: Fleet) -> AsyncIterator[Session]:
        self._begin("session")
        config = fleet.operator_config()
        async with open_session(
            config,
            load_operator_key(config),
            DEVICE,
            pinned=fleet.device_key,
            want=("exec",),
            confirm=_refuse,
            watch=self._watch,
        ) as session:
            self._say("operator", f"connected in {self._result.connect_ms:g} ms, both ends authenticated")
            yield session

    async def _run_command(self, session: Session) -> None:
        self._begin("command")
        output = bytearray()
        async with open_exec(await session.open(EXEC_PROTOCOL), _COMMAND) as process:
            with suppress(trio.BrokenResourceError):  # the command may be quicker
                await process.send_eof()
            while (item := await process.read()) is not None:
                stream, data = item
                if stream == STDOUT:
                    output += data
            status = await process.wait()
        if status.as_code() != 0:
            raise DemoError("command", f"`{' '.join(_COMMAND)}` ended with {status.as_code()}")
        self._say("command", f"$ {' '.join(_COMMAND)}")
        self._say("command", output.decode("utf-8", "replace").rstrip())

    @asynccontextmanager
    async def _echo(self, session: Session) -> AsyncIterator[EchoStream]:
        self._begin("echo")
        echo = EchoStream(await session.open(PING_PROTOCOL))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo.receive)
            nursery.start_soon(echo.send)
            yield echo
            self._count(echo)
            nursery.cancel_scope.cancel()

    async def _switch(self, echo: EchoStream, fleet: Fleet) -> None:
        await echo.wait_returned(_ECHOES)
        self._say("echo", f"{echo.returned} numbered messages came back, round trip {echo.round_trip * 1000:.2f} ms")
        self._begin("switch")
        assert self._device is not None
        self._result.pair = self._paths[-1]
        gone = next(each for each in ADDRESSES if f"-> host {each}:" in self._paths[-1])
        self._say("switch", f"the device's address {gone}, which the session uses, goes away")
        await trio.to_thread.run_sync(fleet.take_address, gone)
        self._moves.clear()
        self._moved = trio.Event()
        echo.watch_silence()
        self._device.hang_up()
        await self._moved.wait()
        # What was sent by now has crossed the gap once it is back; then some more of a steady stream.
        await echo.wait_returned(echo.sent + _ECHOES)
        self._result.restart_gap_ms = round(echo.longest_silence * 1000, 1)
        self._result.new_pair = self._paths[-1]
        self._result.cause = self._moves[0].cause
        self._count(echo)
        self._say(
            "switch", f"silence of {self._result.restart_gap_ms:g} ms, then the echo went on by the other address"
        )

    async def _settle(self, echo: EchoStream) -> None:
        """Wait for the last echoes, and count."""
        self._begin("echo")
        echo.stop_sending()
        with trio.move_on_after(_SETTLE_TIME):
            await echo.wait_returned(echo.sent)
        self._count(echo)
        if echo.lost:
            raise DemoError("echo", f"{echo.lost} of {echo.sent} messages never came back")
        self._say("echo", f"{echo.sent} messages sent, {echo.lost} lost")

    async def _keep_echoing(self, echo: EchoStream) -> None:
        """Show the running echo until a signal comes."""
        self._live = sys.stdout.isatty() and not self._as_json
        while not self._stop.is_set():
            if self._live:
                facts = f"{echo.returned} back, round trip {echo.round_trip * 1000:.2f} ms, {self._paths[-1]}"
                print(f"{_CLEAR}{'echo':10} {facts} ", end="", flush=True)
            with trio.move_on_after(_REFRESH):
                await self._stop.wait()
        if self._live:
            print(_CLEAR, end="", flush=True)
        self._live = False

    # What is heard

    def _hear(self, record: Mapping[str, object]) -> None:
        """An event of the device's log."""
        match record:
            case {"event": "started"}:
                self._up.set()
            case {"event": "net.base_opened", "address": address}:
                self._say("device", f"candidate: host {address}")
            case {"event": "net.base_closed", "address": address}:
                self._say("device", f"socket {address} closed")
            case {"event": "path", "cause": "base_gone", "path": path, "pause_ms": pause}:
                self._say("device", f"goes on by {path}: heard you again after {pause} ms")
            case {"event": "restart", "why": why}:
                self._say("device", f"offers an ICE restart ({why})")
            case {"event": "ice.check_sent", "path": path}:
                self._say("device", f"check sent: {path}")
            case {"event": "ice.check_succeeded", "path": path, "rtt": float(rtt)}:
                self._say("device", f"check succeeded: {path}, {rtt * 1000:.2f} ms")
            case {"event": "broker-unreachable", "kind": "unanswered"}:
                self._say("device", "the broker does not know MQTT 5: goes on with 3.1.1")
            case {"level": "error" | "warning", "event": event, **facts}:
                self._say("device", f"{event}: {facts.get('reason', '')}")
            case _:
                pass

    def _watch(self, step: Step) -> None:
        """A step of the operator's session."""
        if step.name == "path":
            if step.text in self._paths[-1:]:
                return
            self._paths.append(step.text)
            self._result.pair = self._result.pair or step.text
            self._say("operator", f"selected pair: {step.text}" if "->" in step.text else step.text)
            return
        if step.move is not None:
            self._moves.append(step.move)
            self._moved.set()
            self._say("operator", f"moved: {step.move.line}")
            return
        if step.name == "offer":
            self._offered_at = trio.current_time()
        elif step.name == "connected":
            self._result.connect_ms = round((trio.current_time() - self._offered_at) * 1000, 1)
            return
        self._say("operator", step.text)

    async def _obey(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for _ in signals:
            if self._endless and not self._stop.is_set():
                self._stop.set()  # the ordinary end: the last echoes are waited for
            else:
                self._interrupted = True
                scope.cancel()

    # What is said

    def _begin(self, step: str) -> None:
        self._step = step

    def _say(self, who: str, text: str) -> None:
        if not self._as_json:
            if self._live:
                print(_CLEAR, end="")
            click.echo(f"{click.style(f'{who:10}', fg='cyan')} {text}")

    def _count(self, echo: EchoStream) -> None:
        self._result.messages_sent, self._result.messages_lost = echo.sent, echo.lost

    def _advise(self, fleet: Fleet | None) -> None:
        """Say what to try next; with the demo's fleet while it is there."""
        if self._as_json:
            return
        operator, agent = _programs()
        click.echo("\nWhat to try next:")
        if fleet is not None:
            click.echo("  in a second terminal, while this runs (Ctrl-C ends it):")
            for line in (f"shell {DEVICE}", f"exec {DEVICE} -- ls -l /", f"ping {DEVICE}", "devices"):
                click.echo(f"    EDGEICE_HOME={fleet.home} {operator} {line}")
        click.echo("  with a broker and a device of your own:")
        click.echo(f"    {agent} init --help    on the device: its key and its configuration")
        click.echo(f"    {operator} keys init --help     here: your key and your configuration\n")

    def _keep(self, error: BaseException) -> None:
        if self._interrupted:
            return  # a process that was told to end, or a channel that ended with it
        if isinstance(error, DemoError):
            self._step, self._error = error.step, error
        else:
            self._error = DemoError(self._step, str(error) or type(error).__name__)

    def _trouble(self) -> dict[str, object]:
        if self._error is None:
            return {"step": self._step, "error": "interrupted"} if self._interrupted and not self._done else {}
        return {"step": self._step, "error": str(self._error), "agent_log": self._log_tail()}

    def _log_tail(self) -> list[str]:
        return list(self._device.tail) if self._device is not None else []


async def _watch_process(child: Child, step: str, name: str) -> None:
    await child.process.wait()
    last = f": {child.tail[-1]}" if child.tail else ""
    raise DemoError(step, f"{name} ended with {child.process.returncode}{last}")


async def _refuse(_device: Party, _key: PublicKey) -> bool:
    """The device's key is pinned, so nobody is ever asked."""
    return False


def _programs() -> tuple[str, str]:
    """How to call `edgeice` and `edgeice-agent` the way this was called: a virtual environment may not be on PATH."""
    here = Path(sys.argv[0])
    if here.name != "edgeice":
        python = shlex.quote(sys.executable)
        return f"{python} -m edgeice.cli.main", f"{python} -m edgeice.cli.agent_main"
    if shutil.which("edgeice"):
        return "edgeice", "edgeice-agent"
    here = here.absolute()
    return shlex.quote(str(here)), shlex.quote(str(here.with_name("edgeice-agent")))
