"""What the operator's commands share: configuration, keys, errors, the live line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import attrs
import click
import trio

from edgeice.cli.ending import ended_at_once_by_signals, ended_by_signals
from edgeice.cli.groups import first_of
from edgeice.cli.options import timeout_option
from edgeice.cli.stdio import read_input
from edgeice.errors import ConfigError, EdgeIceError
from edgeice.files import read_secret, read_trusted, replace_file
from edgeice.operator.config import OperatorConfig, config_folder, load_config
from edgeice.operator.errors import OperatorError, RefusedError
from edgeice.operator.session import Session, Step, open_session
from edgeice.operator.timeline import describe, entry_of
from edgeice.services import ServiceError
from edgeice.signaling import KnownDevices, Party, PrivateKey, PublicKey
from edgeice.trace import Record, ignore

__all__ = [
    "Options",
    "SessionCommand",
    "device_session",
    "fail",
    "load_known",
    "load_operator_key",
    "load_options",
    "reporting",
    "run",
    "session_options",
]

#: Steps at which something was tried that a timeline explains.
_PATH_STEPS = frozenset({"checks", "securing", "ice", "dtls", "sctp"})
#: Errors of whoever takes what is written, not of this program.
_UNWRITABLE = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
#: Entries of a timeline that a failure shows to people.
_SHOWN = 60
#: Most of a line that answers a question, bytes.
_ANSWER = 1024


@attrs.frozen
class Options:
    """Options that every command which reaches a device has."""

    config: OperatorConfig
    as_json: bool
    timeout: float
    accept_key: str | None
    quiet: bool
    verbose: bool


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


def session_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that reach a device; the command gets one `Options`."""

    def wrapper(
        *,
        config: str | None,
        as_json: bool,
        timeout: float,
        accept_key: str | None,
        quiet: bool,
        verbose: bool,
        **rest: object,
    ) -> None:
        with reporting(as_json=as_json, verbose=verbose):
            options = Options(load_options(config), as_json, timeout, accept_key, quiet, verbose)
            function(options, **rest)

    for decorate in (
        click.option("--config", metavar="FILE", help="operator.toml to use instead of the one in ~/.config/edgeice."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON for programs."),
        timeout_option(10.0, "Seconds to reach the device."),
        click.option(
            "--accept-key",
            metavar="[SHA256:…]",
            help="At first contact accept the key that is shown, or only the one given (write --accept-key=SHA256:…).",
        ),
        click.option("-q", "--quiet", is_flag=True, help="No progress on standard error."),
        click.option("-v", "--verbose", is_flag=True, help="Everything that is tried, on standard error."),
    ):
        wrapper = decorate(wrapper)
    wrapper.__name__ = function.__name__
    wrapper.__doc__ = function.__doc__
    return wrapper


@contextlib.contextmanager
def reporting(*, as_json: bool, verbose: bool = False) -> Iterator[None]:
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
        fail(error, as_json=as_json, verbose=verbose)
    except BaseExceptionGroup as group:
        first = first_of(group, EdgeIceError, KeyboardInterrupt, OSError)
        if first is None or _is_defect(first):
            raise
        fail(first, as_json=as_json, verbose=verbose)


def _is_defect(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno not in _UNWRITABLE


def fail(error: BaseException, *, as_json: bool, verbose: bool = False) -> NoReturn:
    """Say what went wrong and exit with its code."""
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
    facts: dict[str, object] = {"error": str(error)}
    if isinstance(error, OperatorError):
        code = error.exit_code
        facts |= {"step": error.step, "tried": error.detail}
    elif isinstance(error, ServiceError):
        code = RefusedError.exit_code if error.code == "unauthorized" else 1
        facts |= {"step": "service", "code": str(error.code)}
    elif isinstance(error, ConfigError):
        code = 2
        facts |= {"step": "configuration"}
    if as_json:
        print(json.dumps(facts), flush=True)
    else:
        print(f"edgeice: {error}", file=sys.stderr)
        if isinstance(error, OperatorError):
            for line in _tried(error, timeline=not verbose):
                print(f"  {line}", file=sys.stderr)
    sys.exit(code)


def _tried(error: OperatorError, *, timeline: bool) -> Iterator[str]:
    """The pairs that were tried, and where paths were, everything that led there."""
    for pair in error.detail.get("pairs", ()):
        yield f"tried {pair['local']} -> {pair['remote']}: {pair['result'] or pair['state']}"
    if timeline and error.step in _PATH_STEPS:
        entries = error.detail.get("timeline", ())
        if len(entries) > _SHOWN:
            yield f"… {len(entries) - _SHOWN} earlier steps: --json has them"
        yield from map(describe, entries[-_SHOWN:])


def run(function: Callable[[], Awaitable[int]]) -> NoReturn:
    """Run an asynchronous command and exit with what it returns."""
    sys.exit(trio.run(function))


def load_operator_key(config: OperatorConfig) -> PrivateKey:
    """Read the operator's key, asking for its passphrase where it has one."""

    def ask() -> bytes:
        with ended_at_once_by_signals():
            return str(click.prompt(f"Passphrase for {config.key}", hide_input=True, err=True)).encode()

    passphrase = ask if _has_terminal() else None
    return PrivateKey.load(read_secret(config.key, "your key"), source=str(config.key), passphrase=passphrase)


def _has_terminal() -> bool:
    """Whether a person can be asked for a secret; standard input may be something else, as in `tar c | edgeice …`."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


class _LiveLine:
    """One line on a terminal that shows how far connecting is."""

    def __init__(self, *, on: bool) -> None:
        self._on = on and sys.stderr.isatty()
        self._connected = False

    def __call__(self, step: Step) -> None:
        if step.name == "notice":
            self.clear()
            print(f"edgeice: {step.text}", file=sys.stderr)
        elif self._on and not self._connected:
            print(f"\r\x1b[K{step.text} …", end="", file=sys.stderr, flush=True)
        if step.name == "connected":
            self._connected = True
            self.clear()

    def clear(self) -> None:
        if self._on:
            with contextlib.suppress(OSError):  # the terminal is gone
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@asynccontextmanager
async def device_session(
    options: Options, device: str, want: tuple[str, ...], watch: Callable[[Step], None] | None = None
) -> AsyncIterator[Session]:
    """A session with a device, with the live line, first contact and pinning."""
    config = options.config
    key = load_operator_key(config)
    known = load_known(config.known_devices)
    party = Party.device(config.fleet, device)
    line = _LiveLine(on=not (options.quiet or options.as_json or options.verbose))

    async def confirm(_device: Party, shown: PublicKey) -> bool:
        line.clear()
        accepted = _is_accepted(options, party, shown)
        if accepted is None:
            accepted = await _ask(party, shown)
        if accepted:
            known.pin(party, shown)
            config.known_devices.parent.mkdir(parents=True, exist_ok=True)
            replace_file(config.known_devices, known.text().encode(), 0o644)
        return accepted

    def on_step(step: Step) -> None:
        line(step)
        if watch is not None:
            watch(step)

    try:
        async with (
            ended_by_signals(),
            open_session(
                config,
                key,
                device,
                pinned=known.get(party),
                want=want,
                confirm=confirm,
                watch=on_step,
                timeout=options.timeout,
                trace=_say_record if options.verbose else ignore,
            ) as session,
        ):
            try:
                yield session
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                # A service lost its channel, and the session knows why.
                raise session.ended_error() from None
    finally:
        line.clear()


def _say_record(record: Record) -> None:
    print(describe(entry_of(record)), file=sys.stderr)


def load_known(path: Path) -> KnownDevices:
    """Read the accepted device keys; a file that does not exist holds none.  Raises ConfigError."""
    return KnownDevices(read_trusted(path, "which devices you know"), source=str(path))


def _is_accepted(options: Options, device: Party, shown: PublicKey) -> bool | None:
    """What --accept-key says; None asks the person."""
    if options.accept_key == "":
        return True
    if options.accept_key is not None:
        if options.accept_key != shown.fingerprint:
            raise RefusedError("device", f"{device} shows the key {shown.fingerprint}, not {options.accept_key}")
        return True
    if not sys.stdin.isatty():
        raise RefusedError(
            "device",
            f"first contact with {device}: its key is {shown.fingerprint}. Compare it on the device"
            f" (`edgeice-agent check`), then add --accept-key={shown.fingerprint}",
        )
    return None


async def _ask(device: Party, shown: PublicKey) -> bool:
    """Ask the person; the session goes on meanwhile, and signals end it."""
    print(f"First contact with {device}.\nIts Ed25519 key fingerprint is {shown.fingerprint}.", file=sys.stderr)
    while True:
        print("Is that the device's key? [y/N]: ", end="", file=sys.stderr, flush=True)
        answer = (await read_input(_ANSWER)).decode("utf-8", "replace")
        if (word := answer.strip().lower()) in ("y", "yes"):
            return True
        if word in ("", "n", "no"):
            return False
        print("Please answer y or n.", file=sys.stderr)
