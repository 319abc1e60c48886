"""What the operator's commands share: options, a session with the device, errors.

A command that finds a shared session (`edgeice session`) is to begin at once, so nothing here loads what only opening
a session needs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import attrs
import click
import trio

from edgeice.cli.ending import ended_by_signals
from edgeice.cli.groups import first_of
from edgeice.cli.options import Seconds, timeout_option
from edgeice.cli.stdio import say_aside
from edgeice.errors import ConfigError, EdgeIceError
from edgeice.operator.config import PATIENCE, OperatorConfig, config_folder, load_config
from edgeice.operator.errors import OperatorError, RefusedError
from edgeice.operator.interface import DeviceSession, Step, Watcher
from edgeice.operator.shared_client import NotSharedError, SharedSession, SilentSessionError, join_shared
from edgeice.operator.shared_path import shared_socket
from edgeice.services import ServiceError

if TYPE_CHECKING:
    from edgeice.redaction import Pseudonyms

__all__ = [
    "LOST",
    "Options",
    "SessionCommand",
    "connection_options",
    "device_session",
    "fail",
    "load_options",
    "reporting",
    "run",
    "session_options",
]

#: What a service raises that lost its channel.
LOST: Final = (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel)
#: Steps at which something was tried that a timeline explains.
_PATH_STEPS = frozenset({"checks", "securing", "ice", "dtls", "sctp"})
#: Errors of whoever takes what is written, not of this program.
_UNWRITABLE = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
#: Entries of a timeline that a failure shows to people.
_SHOWN = 60


@attrs.frozen
class Options:
    """Options that every command which reaches a device has."""

    config: OperatorConfig
    as_json: bool
    timeout: float
    accept_key: str | None
    quiet: bool
    verbose: bool
    #: Use a session that `edgeice session` keeps open, where there is one.
    share: bool
    #: File that everything that is tried is appended to.
    trace: Path | None = None
    #: Stand for IP addresses in all that is shown of the way to the device, and in the trace.
    pseudonyms: Pseudonyms | None = None

    def shown(self, step: Step) -> Step:
        """A step as it is to be shown."""
        if self.pseudonyms is None:
            return step
        move = step.move and attrs.evolve(step.move, path=self.pseudonyms.text(step.move.path))
        return Step(step.name, self.pseudonyms.text(step.text), move)


def load_options(path: str | None) -> OperatorConfig:
    """The configuration in `path`, or in the operator's folder; raises ConfigError."""
    return load_config(Path(path) if path else config_folder(os.environ) / "operator.toml")


class SessionCommand(click.Command):
    """A command with `session_options`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take a bare `--accept-key` for what it is: click would take the next word, the device, for its value."""
        end = args.index("--") if "--" in args else len(args)
        own = ["--accept-key=" if word == "--accept-key" else word for word in args[:end]]
        return super().parse_args(ctx, own + args[end:])


def connection_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that reach a device; the command gets one `Options`."""

    def wrapper(
        *,
        config: str | None,
        as_json: bool,
        timeout: float,
        accept_key: str | None,
        quiet: bool,
        verbose: bool,
        trace: str | None,
        redact: bool,
        patience: float | None,
        no_share: bool = False,
        **rest: object,
    ) -> None:
        pseudonyms = _pseudonyms() if redact else None
        with reporting(as_json=as_json, verbose=verbose, pseudonyms=pseudonyms):
            loaded = load_options(config)
            if patience is not None:
                loaded = attrs.evolve(loaded, patience=patience)
            share = loaded.share and not no_share and trace is None and patience is None
            file = Path(trace).absolute() if trace else None
            options = Options(loaded, as_json, timeout, accept_key, quiet, verbose, share, file, pseudonyms)
            function(options, **rest)

    for decorate in (
        click.option("--config", metavar="FILE", help="operator.toml to use instead of the one in ~/.config/edgeice."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON for programs."),
        timeout_option(10.0, "Seconds to reach the device."),
        click.option(
            "--patience",
            type=Seconds(*PATIENCE),
            metavar="SECONDS",
            help="End a session of its own after so long without a path or a network (10 minutes, or as configured).",
        ),
        click.option(
            "--accept-key",
            metavar="[SHA256:…]",
            help="At first contact accept the key that is shown, or only the one given (write --accept-key=SHA256:…).",
        ),
        click.option("-q", "--quiet", is_flag=True, help="No progress on standard error."),
        click.option("-v", "--verbose", is_flag=True, help="Everything that is tried, on standard error."),
        click.option(
            "--trace",
            metavar="FILE",
            help="Append everything that is tried to FILE, as JSON lines, in a session of its own.",
        ),
        click.option(
            "--redact",
            is_flag=True,
            help="Show pseudonyms instead of IP addresses, also in the trace, to give it away.",
        ),
    ):
        wrapper = decorate(wrapper)
    wrapper.__name__ = function.__name__
    wrapper.__doc__ = function.__doc__
    return wrapper


def _pseudonyms() -> Pseudonyms:
    from edgeice.redaction import Pseudonyms  # noqa: PLC0415  # see above

    return Pseudonyms()


def session_options(function: Callable[..., None]) -> Callable[..., None]:
    """The same for a command that may also use a session which `edgeice session` keeps open."""
    return click.option(
        "--no-share", is_flag=True, help="Open a session of its own, also where `edgeice session` keeps one open."
    )(connection_options(function))


@contextlib.contextmanager
def reporting(*, as_json: bool, verbose: bool = False, pseudonyms: Pseudonyms | None = None) -> Iterator[None]:
    """Turn what is raised into one message and the right exit code; with `verbose` the timeline was shown already."""
    try:
        try:
            yield
        finally:
            # What cannot be written is to be told here: at the interpreter's end it would be too late.
            sys.stdout.flush()
    except (EdgeIceError, KeyboardInterrupt, OSError) as error:
        if _is_defect(error):
            raise
        fail(error, as_json=as_json, verbose=verbose, pseudonyms=pseudonyms)
    except BaseExceptionGroup as group:
        first = first_of(group, EdgeIceError, KeyboardInterrupt, OSError)
        if first is None or _is_defect(first):
            raise
        fail(first, as_json=as_json, verbose=verbose, pseudonyms=pseudonyms)


def _is_defect(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno not in _UNWRITABLE


def fail(
    error: BaseException,
    *,
    as_json: bool,
    verbose: bool = False,
    service_code: int = 1,
    pseudonyms: Pseudonyms | None = None,
) -> NoReturn:
    """Say what went wrong and exit with its code.

    Args:
        error: What was raised.
        as_json: Say it to a program.
        verbose: The timeline was shown already.
        service_code: For what a service refused, if not by authority.
        pseudonyms: Stand for IP addresses.
    """
    if isinstance(error, KeyboardInterrupt):
        sys.exit(130)
    if isinstance(error, OSError):
        # Nothing is left to flush.  Where nobody reads any more, as in `… | head -1`, there is nothing to say either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            what = error.filename or "the output"
            print(f"edgeice: {what} cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    code = 1
    verdict: dict[str, Any] = {}
    facts: dict[str, object] = {"error": str(error)}
    if isinstance(error, OperatorError):
        code = error.exit_code
        verdict = error.detail.pop("verdict", {})
        facts |= {"step": error.step, "tried": error.detail}
        facts["verdict"] = {"outcome": "failed", **verdict, "step": error.step, "reason": str(error)}
    elif isinstance(error, ServiceError):
        code = RefusedError.exit_code if error.code == "unauthorized" else service_code
        facts |= {"step": "service", "code": str(error.code)}
    elif isinstance(error, ConfigError):
        code = 2
        facts |= {"step": "configuration"}
    if as_json:
        print(json.dumps(facts if pseudonyms is None else pseudonyms.value(facts)), flush=True)
    else:
        lines = [f"edgeice: {error}"]
        if isinstance(error, OperatorError):
            lines += (f"  {line}" for line in _tried(error, verdict, timeline=not verbose))
        for line in lines:
            print(line if pseudonyms is None else pseudonyms.text(line), file=sys.stderr)
    sys.exit(code)


def _tried(error: OperatorError, verdict: dict[str, Any], *, timeline: bool) -> Iterator[str]:
    """Where paths were tried, the verdict in words and everything that led there."""
    gave_up = verdict.get("recovery") and verdict.get("state") == "interrupted"
    if gave_up or _PATH_STEPS & {error.step, verdict.get("step")}:
        from edgeice.operator.verdict import verdict_lines  # noqa: PLC0415  # see above

        yield from verdict_lines(verdict)
    if timeline and error.step in _PATH_STEPS:
        from edgeice.operator.timeline import describe  # noqa: PLC0415  # see above

        entries = error.detail.get("timeline", ())
        if len(entries) > _SHOWN:
            yield f"… {len(entries) - _SHOWN} earlier steps: --json has them"
        yield from map(describe, entries[-_SHOWN:])


def run(function: Callable[[], Awaitable[int]]) -> NoReturn:
    """Run an asynchronous command and exit with what it returns."""
    sys.exit(trio.run(function))


@asynccontextmanager
async def device_session(
    options: Options, device: str, want: tuple[str, ...], watch: Watcher | None = None
) -> AsyncIterator[DeviceSession]:
    """A session with a device: the one that `edgeice session` keeps open, where there is one that has the wants.

    One whose device has been silent for long is left alone, and one's own takes its place.

    Args:
        options: As given to the command.
        device: The device's name.
        want: Capabilities that will be used.
        watch: Hears the steps, and path changes afterwards.

    Raises:
        OperatorError: The device could not be reached, or the session ended.
        ConfigError: A file cannot be used.
    """
    shared = await _join(options, device, want) if options.share else None
    if shared is not None:

        def on_step(step: Step) -> None:
            step = options.shown(step)
            if step.name == "notice":
                say_aside(step.text)
            if watch is not None:
                watch(step)

        async with ended_by_signals(), shared.kept(on_step, options.timeout):
            try:
                yield shared
            except* LOST:
                raise await shared.why_ended() from None
        return
    from edgeice.cli.connecting import own_session  # noqa: PLC0415  # see above

    async with own_session(options, device, want, watch) as session:
        yield session


async def _join(options: Options, device: str, want: tuple[str, ...]) -> SharedSession | None:
    """The session that is shared, None where a command needs its own."""
    try:
        shared = await join_shared(shared_socket(options.config, device, os.environ), device, want)
    except SilentSessionError as error:
        print(f"edgeice: {error}; opening one for this command", file=sys.stderr)
        return None
    except NotSharedError as error:
        if options.verbose:
            print(f"edgeice: no session is shared: {error}; opening one", file=sys.stderr)
        return None
    if options.verbose:
        print(f"edgeice: using the session that process {shared.pid} keeps open", file=sys.stderr)
    return shared
