"""How a command opens a session of its own: the key, first contact, the live line."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import click
import trio

from edgeice.cli.common import LOST, Options
from edgeice.cli.ending import ended_at_once_by_signals, ended_by_signals
from edgeice.cli.stdio import read_input, say_aside
from edgeice.files import read_secret, read_trusted, replace_file
from edgeice.operator.config import OperatorConfig
from edgeice.operator.errors import RefusedError
from edgeice.operator.interface import Step, Watcher
from edgeice.operator.session import Session, open_session
from edgeice.operator.timeline import describe
from edgeice.operator.verdict import verdict_lines
from edgeice.redaction import Pseudonyms
from edgeice.signaling import KnownDevices, Party, PrivateKey, PublicKey
from edgeice.trace import Record, Tracer, entry_of, ignore
from edgeice.trace_file import TraceFile

__all__ = ["load_known", "load_operator_key", "own_session"]

#: Most of a line that answers a question, bytes.
_ANSWER = 1024


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
            self._say(step.text)
        elif self._on and not self._connected:
            print(f"\r\x1b[K{step.text} …", end="", file=sys.stderr, flush=True)
        if step.name == "connected":
            self._connected = True
            self.clear()

    def _say(self, text: str) -> None:
        if self._connected:
            say_aside(text)
        else:
            self.clear()
            print(f"edgeice: {text}", file=sys.stderr)

    def clear(self) -> None:
        if self._on:
            with contextlib.suppress(OSError):  # the terminal is gone
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@asynccontextmanager
async def own_session(
    options: Options, device: str, want: tuple[str, ...], watch: Watcher | None = None, *, key: PrivateKey | None = None
) -> AsyncIterator[Session]:
    """A session with a device, with the live line, first contact and pinning.

    Args:
        options: As given to the command.
        device: The device's name.
        want: Capabilities that will be used.
        watch: Hears the steps, and path changes afterwards.
        key: The operator's key, where it was loaded before.

    Raises:
        OperatorError: The device could not be reached, or the session ended.
        ConfigError: A file cannot be used.
    """
    config = options.config
    key = key or load_operator_key(config)
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
        step = options.shown(step)
        line(step)
        if watch is not None:
            watch(step)

    try:
        async with (
            ended_by_signals(),
            _tracing(options) as trace,
            open_session(
                config,
                key,
                device,
                pinned=known.get(party),
                want=want,
                confirm=confirm,
                watch=on_step,
                timeout=options.timeout,
                trace=trace,
            ) as session,
        ):
            try:
                yield session
            except* LOST:
                # A service lost its channel, and the session knows why.
                raise session.ended_error() from None
    finally:
        line.clear()


@asynccontextmanager
async def _tracing(options: Options) -> AsyncIterator[Tracer]:
    """What hears everything that is tried: a file, standard error, or both."""
    pseudonyms, began_at = options.pseudonyms, trio.current_time()
    if options.trace is None:
        yield partial(_say_record, pseudonyms) if options.verbose else ignore
        return

    def failed(error: OSError) -> None:
        say_aside(f"{options.trace}: the trace ends here: {error.strerror}")

    def clock() -> float:
        return trio.current_time() - began_at

    with TraceFile(options.trace, wall=time.time, clock=clock, pseudonyms=pseudonyms, on_failure=failed) as file:

        def both(record: Record) -> None:
            file.write(record)
            _say_record(pseudonyms, record)

        yield both if options.verbose else file.write


def _say_record(pseudonyms: Pseudonyms | None, record: Record) -> None:
    entry = entry_of(record)
    for line in verdict_lines(entry) if record.name == "verdict" else [describe(entry)]:
        print(line if pseudonyms is None else pseudonyms.text(line), file=sys.stderr)


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
