"""`edgeice session`: one session that several commands share."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import attrs
import click
import trio

from edgeice.cli.common import Options, SessionCommand, connection_options, run
from edgeice.cli.ending import ended_by_signals, heeded_signals
from edgeice.cli.groups import first_of
from edgeice.cli.options import SECONDS, device_argument
from edgeice.errors import ConfigError
from edgeice.local_socket import AlreadyServedError
from edgeice.operator.config import OperatorConfig
from edgeice.operator.errors import AlreadyOpenError, RefusedError, UnreachableError
from edgeice.operator.interface import OwnSession, Step
from edgeice.operator.shared_client import NotSharedError, ask_shared
from edgeice.operator.shared_path import make_folder, shared_socket
from edgeice.services.control import Control

__all__ = ["command"]

#: What is asked for unless the device refuses it.
_USUAL: Final = ("shell", "exec", "forward:localhost:22", "telemetry:*")
#: How the device says which want it refuses (it names one at a time).
_REFUSED: Final = "not allowed: "
#: A device answers one refused offer a second and key (contract §5).
_REFUSAL_PAUSE: Final = 1.1
#: Seconds that a process which was told to stop may take.
_STOP_PATIENCE: Final = 5.0


@click.command(
    "session",
    cls=SessionCommand,
    epilog=f"""\b
Examples:
  edgeice session pi17                           until Ctrl-C
  edgeice session --background --idle 600 pi17   come back when it is up
  edgeice session --check pi17
  edgeice session --stop pi17
  edgeice session --want forward:db.lan:5432 pi17

\b
While it is there, commands that reach the device begin at once: they use it for
all that it asked for, and open a session of their own for anything else, or
with --no-share, or where operator.toml says share = false. It asks for
{", ".join(_USUAL[:-1])} and {_USUAL[-1]}
as far as the device allows your key.

\b
Exit codes: 0 ended by --stop or --idle, or up with --background; 3 none is there,
or it was lost; 5 one is there already; others as `edgeice --help` says.""",
)
@device_argument
@click.option("--check", is_flag=True, help="Say whether one is open, and what it is used for.")
@click.option("--stop", is_flag=True, help="End the one that is open.")
@click.option("--background", is_flag=True, help="Come back to the prompt when it is up.")
@click.option("--idle", type=SECONDS, metavar="SECONDS", help="End it when nobody used it for so long.")
@click.option("--want", "wants", metavar="CAPABILITY", multiple=True, help="Ask for this too; may be repeated.")
@connection_options
def command(
    options: Options,
    *,
    device: str,
    check: bool,
    stop: bool,
    background: bool,
    idle: float | None,
    wants: tuple[str, ...],
) -> None:
    """Keep a session with DEVICE open for other commands of yours."""
    path = shared_socket(options.config, device, os.environ)
    if check + stop + (background or idle is not None or bool(wants)) > 1:
        raise click.UsageError("--check, --stop and the options for a new session exclude each other.")
    if check or stop:
        run(lambda: _ask(options, device, path, "status" if check else "stop"))
    make_folder(path)
    ready = None
    if background:
        path, options = path.absolute(), attrs.evolve(options, config=_rooted(options.config))
        ready = _in_background()
    run(_Keeper(options, device, path, idle=idle, wants=wants, ready=ready).run)


# Asking the one that is there


async def _ask(options: Options, device: str, path: Path, question: str) -> int:
    try:
        facts, frames = await ask_shared(path, question)
    except NotSharedError as error:
        raise UnreachableError(
            "session", f"no session with {device} is kept open ({error}); `edgeice session {device}` opens one"
        ) from None
    try:
        if question == "stop":
            with trio.fail_after(_STOP_PATIENCE):
                await frames.receive()
    except trio.TooSlowError:
        raise UnreachableError("session", f"process {facts.get('pid')} was told to stop and does not") from None
    finally:
        frames.close()
    if options.as_json:
        print(json.dumps(facts))
    elif question == "status":
        print(_describe(facts))
    elif not options.quiet:
        print(f"edgeice: the session with {device} is ended", file=sys.stderr)
    return 0


def _describe(facts: Control) -> str:
    since = facts.get("since")
    want = facts.get("want")
    silent = facts.get("silent")
    is_open = "open" if silent is None else f"open, but no answer for {silent} s"
    shown = {
        "state": is_open if facts.get("open") else "being opened",
        "process": facts.get("pid"),
        "since": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since if isinstance(since, int) else 0)),
        "path": facts.get("path") or "none",
        "for": ", ".join(map(str, want)) if isinstance(want, list) else "",
        "clients": facts.get("clients"),
        "channels": f"{facts.get('channels')} of {facts.get('max_channels')}, {facts.get('waiting')} waiting",
        "socket": facts.get("socket"),
    }
    return "\n".join(f"{name + ':':<10}{value}" for name, value in shown.items())


# Keeping one


def _rooted(config: OperatorConfig) -> OperatorConfig:
    """The configuration with paths that mean the same in another folder."""
    broker = config.broker
    return attrs.evolve(
        config,
        key=config.key.absolute(),
        known_devices=config.known_devices.absolute(),
        broker=attrs.evolve(
            broker,
            ca=broker.ca and broker.ca.absolute(),
            password_file=broker.password_file and broker.password_file.absolute(),
        ),
        turn=attrs.evolve(
            config.turn,
            ca=config.turn.ca and config.turn.ca.absolute(),
            password_file=config.turn.password_file and config.turn.password_file.absolute(),
        ),
    )


def _in_background() -> Callable[[], None]:
    """Go on in a child, which may still ask for a passphrase; gives what lets the parent, and the terminal, go."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        _await_child(reading, child)
    writing = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, 3)
    # Whoever started it may wait until all ends of a pipe or a lock are closed.
    os.closerange(3, writing)
    os.closerange(writing + 1, os.sysconf("SC_OPEN_MAX"))

    def ready() -> None:
        os.setsid()
        os.chdir("/")  # a file system that it stands in could not be unmounted
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
        os.write(writing, b"\0")
        os.close(writing)

    return ready


def _await_child(reading: int, child: int) -> NoReturn:
    """Exit with 0 when the session is up, with the child's status when it ends before; signals are for the child."""

    def pass_on(number: int, _frame: object) -> None:
        if number != signal.SIGINT:  # which the terminal sends to both
            os.kill(child, number)

    for number in heeded_signals():
        signal.signal(number, pass_on)
    up = os.read(reading, 1)
    code = 0 if up else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(code if code >= 0 else 128 - code)


class _Keeper:
    """Runs the session until its end."""

    def __init__(
        self,
        options: Options,
        device: str,
        path: Path,
        *,
        idle: float | None,
        wants: tuple[str, ...],
        ready: Callable[[], None] | None,
    ) -> None:
        from edgeice.operator.shared_master import SharedMaster  # noqa: PLC0415  # --check and --stop answer at once

        self._options = options
        self._device = device
        self._path = path
        self._asked = wants
        self._ready = ready
        self._up = False
        self._master = SharedMaster(device, path, idle=idle)

    async def run(self) -> int:
        """Serve until the session ends; the exit status."""
        from edgeice.operator.shared_master import listen_shared  # noqa: PLC0415  # as above

        try:
            listener = listen_shared(self._path)
        except AlreadyServedError:
            raise AlreadyOpenError(
                "session",
                f"a session with {self._device} is kept open already; `edgeice session --stop {self._device}` ends it",
            ) from None
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot listen there: {error.strerror}") from None
        try:
            async with ended_by_signals(), self._master.serve(listener):
                return await self._keep()
        except BaseExceptionGroup as group:
            ended = first_of(group, SystemExit)  # which a signal leaves while there is no session yet
            if ended is None:
                raise
            raise ended from None

    async def _keep(self) -> int:
        from edgeice.cli.connecting import load_operator_key, own_session  # noqa: PLC0415  # as above

        key = load_operator_key(self._options.config)
        want = list(dict.fromkeys((*_USUAL, *self._asked)))
        while True:
            try:
                async with own_session(self._options, self._device, tuple(want), self._watch, key=key) as session:
                    return await self._hold(session, tuple(want))
            except (RefusedError, BaseExceptionGroup) as error:
                refused = None if self._up else _refused_want(error)
                if refused is None or refused in self._asked or refused not in want:
                    raise
            want.remove(refused)
            self._say("left-out", {"want": refused}, f"{self._device} does not allow {refused}: left out")
            await trio.sleep(_REFUSAL_PAUSE)

    async def _hold(self, session: OwnSession, want: tuple[str, ...]) -> int:
        self._up = True
        ended_by: list[int] = []
        with trio.open_signal_receiver(*heeded_signals()) as numbers:
            async with trio.open_nursery() as nursery:

                async def heed() -> None:
                    async for number in numbers:
                        ended_by.append(number)
                        self._master.end("it was interrupted where it was started")

                nursery.start_soon(heed)
                self._say(
                    "open",
                    {"socket": str(self._path), "pid": os.getpid(), "want": list(want)},
                    f"session with {self._device} is open for {', '.join(want) or 'ping only'} ({self._path})",
                )
                if self._ready is not None:
                    self._ready()
                await self._master.hold(session, want)
                nursery.cancel_scope.cancel()
        return 128 + ended_by[0] if ended_by else 0

    def _watch(self, step: Step) -> None:
        self._master.watch(step)
        if step.name == "path":
            self._say("path", {"path": step.text}, f"path: {step.text}")
        elif step.move is not None:
            self._say("move", step.move.as_dict(), f"path: {step.move.line}")

    def _say(self, event: str, facts: dict[str, object], line: str) -> None:
        if self._options.as_json:
            print(json.dumps({"event": event, **facts}), flush=True)
        elif not self._options.quiet:
            print(f"edgeice: {line}", file=sys.stderr)


def _refused_want(error: BaseException) -> str | None:
    """The want that the device names as not allowed; None where something else failed."""
    refused = first_of(error, RefusedError) if isinstance(error, BaseExceptionGroup) else error
    reason = refused.detail.get("reason") if isinstance(refused, RefusedError) else None
    return reason.removeprefix(_REFUSED) if isinstance(reason, str) and reason.startswith(_REFUSED) else None
