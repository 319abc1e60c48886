"""`edgeice forward`: TCP ports here that lead to where the device can connect to."""

from __future__ import annotations

import json
import socket
import sys
from functools import partial

import click
import trio

from edgeice.cli.common import Options, SessionCommand, device_session, run, session_options
from edgeice.cli.options import device_argument
from edgeice.cli.targets import Forward, parse_forward
from edgeice.errors import ConfigError
from edgeice.operator.interface import DeviceSession, SessionChannel, Step
from edgeice.services import (
    FORWARD_PROTOCOL,
    ForwardTarget,
    ServiceError,
    StreamBrokenError,
    TcpStream,
    forward_stream,
)
from edgeice.services.tcp import format_endpoint

__all__ = ["command"]

#: Connections carried at once, over all ports, and the part of the device's channels that this may be.
_AT_ONCE, _PART = 48, 3 / 4
#: Seconds between two lines about the same failure.
_SPACING = 1.0


@click.command(
    "forward",
    cls=SessionCommand,
    epilog="""\b
Examples:
  edgeice forward pi17 8080:localhost:80
  edgeice forward pi17 5432:db.lan:5432 8443:192.168.1.1:443
  edgeice forward pi17 0.0.0.0:8080:localhost:80    let others use it too
  edgeice forward pi17 0:localhost:80               a free port, which is said

\b
The device has to allow it: edgeice-agent trust add --can forward:localhost:80 …
(a host or a port may be *).  At most 48 connections are carried at once, fewer
where the device takes fewer; others wait for their turn.  Connections that fail in the same way are said once a second,
with their number.""",
)
@device_argument
@click.argument("forwards", nargs=-1, required=True, metavar="[BIND:]PORT:HOST:PORT…")
@session_options
def command(options: Options, device: str, forwards: tuple[str, ...]) -> None:
    """Listen on PORT here and connect from DEVICE to HOST:PORT for each connection, until interrupted."""
    wanted = [parse_forward(text) for text in forwards]

    async def main() -> int:
        # Before the device is reached: a port that is taken is to be said at once.
        listeners = [(forward, await _listen(forward)) for forward in wanted]
        want = tuple(dict.fromkeys(forward.target.capability for forward in wanted))
        watch = partial(_say_move, options)
        async with device_session(options, device, want, watch) as session, trio.open_nursery() as nursery:
            at_once = max(1, min(_AT_ONCE, int(session.max_channels * _PART)))
            turns, failures = _Turns(options, at_once), _Failures(options, nursery)
            for forward, opened in listeners:
                for listener in opened:
                    _say_listening(options, device, forward, listener)
                gates = [_Gate(listener, turns) for listener in opened]
                carry = partial(_carry, session, forward, turns, failures)
                nursery.start_soon(trio.serve_listeners, carry, gates)
            await session.wait_ended()

    run(main)


async def _listen(forward: Forward) -> list[trio.SocketListener]:
    host = "localhost" if forward.bind is None else None if forward.bind == "*" else forward.bind
    try:
        # As many as the kernel lets wait (net.core.somaxconn): a connection that finds no room tries again after 1 s.
        return list(await trio.open_tcp_listeners(forward.port, host=host))
    except OSError as error:
        where = f"{forward.bind or 'localhost'}:{forward.port}"
        raise ConfigError(f"cannot listen on {where}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    """The cause beneath what Trio says of several addresses."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
        inner = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else None
        cause = inner or cause.__cause__
    return str(cause.strerror) if isinstance(cause, OSError) else str(error)


def _say_listening(options: Options, device: str, forward: Forward, listener: trio.SocketListener) -> None:
    ip, port = listener.socket.getsockname()[:2]
    target = forward.target
    if options.as_json:
        facts = {"event": "listening", "address": ip, "port": port, "host": target.host, "target_port": target.port}
        print(json.dumps(facts), flush=True)
    elif not options.quiet:
        there = format_endpoint(target.host, target.port)
        print(f"edgeice: {format_endpoint(ip, port)} leads to {there} from {device}", file=sys.stderr)


def _say_move(options: Options, step: Step) -> None:
    if step.move is None:
        return
    if options.as_json:
        print(json.dumps({"event": "move", **step.move.as_dict()}), flush=True)
    elif not options.quiet:
        print(f"edgeice: path: {step.move.line}", file=sys.stderr)


class _Turns:
    """How many connections may be carried at once."""

    def __init__(self, options: Options, at_once: int) -> None:
        self._options = options
        self._at_once = at_once
        self._free = trio.Semaphore(at_once)
        self._told = False

    async def take(self) -> None:
        """Wait for a turn; says once that it has to."""
        if not self._free.value and not self._told:
            self._told = True
            _say_full(self._options, self._at_once)
        await self._free.acquire()

    def give_back(self) -> None:
        """Let the next one have it."""
        self._free.release()


class _Gate(trio.abc.Listener[trio.SocketStream]):
    """Accepts only what can be carried; further connections wait in the kernel's queue, and then their clients."""

    def __init__(self, listener: trio.SocketListener, turns: _Turns) -> None:
        self._listener = listener
        self._turns = turns

    async def accept(self) -> trio.SocketStream:
        """The next connection, once there is room for it; a turn is taken only when somebody is there."""
        await trio.lowlevel.wait_readable(self._listener.socket)
        await self._turns.take()
        try:
            return await self._listener.accept()
        except BaseException:
            self._turns.give_back()
            raise

    async def aclose(self) -> None:
        """Stop listening."""
        await self._listener.aclose()


class _Failures:
    """Says what failed: the first of a kind at once, those that follow together, once a second.

    A kind is a target and a code, so that there are few, whatever the clients here do.
    """

    def __init__(self, options: Options, nursery: trio.Nursery) -> None:
        self._options = options
        self._nursery = nursery
        #: By kind, how many were not said yet, and the last reason.
        self._held: dict[tuple[str, str], tuple[int, str]] = {}

    def add(self, target: ForwardTarget, error: Exception) -> None:
        """Note the failure of one connection."""
        code = str(error.code) if isinstance(error, ServiceError) else "lost"
        kind = (format_endpoint(target.host, target.port), code)
        reason = str(error) or "the session is gone"
        if kind in self._held:
            self._held[kind] = self._held[kind][0] + 1, reason
        else:
            self._held[kind] = 0, reason
            self._say(*kind, reason, 1)
            self._nursery.start_soon(self._release, kind)

    async def _release(self, kind: tuple[str, str]) -> None:
        try:
            while True:
                await trio.sleep(_SPACING)
                if not self._held[kind][0]:
                    return
                self._flush(kind)
        finally:
            self._flush(kind)
            del self._held[kind]

    def _flush(self, kind: tuple[str, str]) -> None:
        count, reason = self._held[kind]
        if count:
            self._held[kind] = 0, reason
            self._say(*kind, reason, count)

    def _say(self, where: str, code: str, reason: str, count: int) -> None:
        if self._options.as_json:
            facts = {"event": "failed", "target": where, "code": code, "error": reason, "connections": count}
            print(json.dumps(facts), flush=True)
        else:
            more = f" ({count} connections)" if count > 1 else ""
            print(f"edgeice: {where}: {reason}{more}", file=sys.stderr)


async def _carry(
    session: DeviceSession, forward: Forward, turns: _Turns, failures: _Failures, stream: trio.SocketStream
) -> None:
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    carried = TcpStream(stream)
    channel: SessionChannel | None = None
    try:
        channel = await session.open(FORWARD_PROTOCOL)
        await forward_stream(channel, forward.target, carried)
        await carried.aclose()
    except StreamBrokenError:
        pass  # both ends of the connection see it
    except (ServiceError, trio.BrokenResourceError, trio.EndOfChannel) as error:
        failures.add(forward.target, error)
    finally:
        carried.reset()  # does nothing where it was closed in order
        try:
            if channel is not None:
                await channel.wait_closed()  # the next one is to find a place at the device
        finally:
            turns.give_back()


def _say_full(options: Options, at_once: int) -> None:
    if options.as_json:
        print(json.dumps({"event": "full", "connections": at_once}), flush=True)
    elif not options.quiet:
        print(f"edgeice: {at_once} connections are open; others wait until one of them ends", file=sys.stderr)
