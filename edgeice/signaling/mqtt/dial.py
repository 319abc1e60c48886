"""From the broker's name to a connected socket, with TLS where that is configured.

paho would look names up, connect and do the TLS handshake in blocking calls, one address after the other, by the way
that the kernel takes.  Here each way to each address gets its turn: one begins when those before it have failed, or
have made no progress for a moment, and the first that completes its handshakes wins.  Nothing of MQTT is sent before:
a CONNECT would take over the client id of another one.

Only looking a name up blocks, and runs in a thread, which cannot be interrupted and is left to itself where nobody
waits for it any more.  The answer is kept: in a move between networks the name servers may be away longer than the
broker.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import ssl
from functools import partial
from typing import Any, TypeAlias

import attrs
import trio

from edgeice.signaling.broker import BrokerConfig, FailureKind
from edgeice.signaling.failures import ConnectError, from_error, not_resolved
from edgeice.signaling.ways import Footing, Network, Way

__all__ = ["Dial", "Dialed", "Names"]

#: Addresses of one name that are tried.
_MAX_ADDRESSES = 6
#: How long a way that makes no progress is waited for before the next one gets its turn beside it, seconds.
_HEAD_START = 0.25
#: Longest and shortest time without an acknowledgement from the other end's kernel, seconds.
_USER_TIMEOUT = (15, 30)

#: Address family, and address as sockets take it.
_Target: TypeAlias = tuple[int, tuple[Any, ...]]

_WORTH_TELLING = (FailureKind.TLS, FailureKind.TLS_CERTIFICATE, FailureKind.CONNECTION_REFUSED)


@attrs.frozen
class Dialed:
    """A connected socket, not blocking, and what it stands on."""

    sock: socket.socket
    footing: Footing
    #: Seconds from the first of the attempt that led to it.
    seconds: float


@attrs.define(eq=False)
class _Attempt:
    """A way that is being tried."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    #: Once it has an own address.
    footing: Footing | None = None


class Names:
    """The broker's addresses as last looked up."""

    def __init__(self, config: BrokerConfig) -> None:
        self._config = config
        # Threads that were given up may hang in a look-up for a while: no more than this many.
        self._threads = trio.CapacityLimiter(4)
        #: By the address's text, in the order to try.
        self.targets: dict[str, _Target] = _numeric(config.host, config.port)
        #: The host is an address: there is nothing to look up.
        self.is_fixed = bool(self.targets)

    async def look_up(self) -> None:
        """Ask anew; raises ConnectError, and keeps what was known."""
        try:
            found = await trio.to_thread.run_sync(self._ask, abandon_on_cancel=True, limiter=self._threads)
        except socket.gaierror as error:
            raise not_resolved(self._config, error.strerror or "unknown reason") from None
        except UnicodeError:
            raise not_resolved(self._config, "it is no valid name") from None
        self.targets = {_literal(address): (family, address) for family, *_, address in found[:_MAX_ADDRESSES]}

    def worked(self, address: str) -> None:
        """Try this address first from now on."""
        target = self.targets.pop(address, None)
        if target is not None:
            self.targets = {address: target, **self.targets}

    def _ask(self) -> list[Any]:
        return socket.getaddrinfo(self._config.host, self._config.port, type=socket.SOCK_STREAM)


class Dial:
    """One search for a connection to the broker."""

    def __init__(self, config: BrokerConfig, context: ssl.SSLContext | None, network: Network, names: Names) -> None:
        self._config = config
        self._context = context
        self._network = network
        self._names = names
        self._running: dict[Way, _Attempt] = {}
        self._failed: set[Way] = set()
        self._failure: ConnectError | None = None
        self._looked_up = names.is_fixed
        self._looking_up = False
        self._next_at = -math.inf
        self._wake = trio.Event()
        self._dialed: Dialed | None = None
        #: What did not happen if time runs out now.
        self.step = "was not found by name"

    async def run(self) -> Dialed:
        """Connect; raises ConnectError.  Whoever gets the socket closes it."""
        try:
            async with trio.open_nursery() as nursery:
                while self._dialed is None:
                    self._wake = trio.Event()
                    if self._go_on(nursery):
                        break
                    with trio.move_on_at(self._next_at):
                        await self._wake.wait()
                nursery.cancel_scope.cancel()
        except BaseException:
            if self._dialed is not None:
                self._dialed.sock.close()
            raise
        if self._dialed is not None:
            return self._dialed
        assert self._failure is not None
        raise self._failure

    def reconsider(self) -> None:
        """The usable addresses are others: leave the ways that are gone, and try new ones at once."""
        self._next_at = -math.inf
        self._wake.set()

    # Inside

    def _go_on(self, nursery: trio.Nursery) -> bool:
        """Start what is due; True when nothing is left."""
        ways = self._ways()
        for attempt in self._running.values():
            if attempt.footing is not None and attempt.footing.is_lost():
                attempt.scope.cancel()
        self._failed.intersection_update(ways)  # one that comes back gets another chance
        now = trio.current_time()
        if self._running and now < self._next_at:
            return False
        fresh = [way for way in ways if way not in self._running and way not in self._failed]
        if fresh:
            self._next_at = now + _HEAD_START
            attempt = self._running[fresh[0]] = _Attempt()
            nursery.start_soon(self._try, fresh[0], self._names.targets[fresh[0].address], attempt)
            return False
        self._next_at = math.inf
        if not self._looked_up:
            self._looked_up = self._looking_up = True
            nursery.start_soon(self._look_up)
        if self._failure is None and not (self._running or self._looking_up):
            nowhere = OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
            self._failure = from_error(nowhere, self._config)
        return not (self._running or self._looking_up)

    def _ways(self) -> list[Way]:
        """All ways to all addresses: the first one to each, then the second one, and so on."""
        found = [
            (rank, way)
            for address, target in self._names.targets.items()
            for rank, way in enumerate(self._network.ways(address, _source(target)))
        ]
        return [way for _rank, way in sorted(found, key=lambda each: each[0])]

    async def _look_up(self) -> None:
        try:
            await self._names.look_up()
        except ConnectError as error:
            if not self._names.targets:  # else it is their silence that counts
                self._note(error)
        self._looking_up = False
        self._next_at = -math.inf
        self._wake.set()

    async def _try(self, way: Way, target: _Target, attempt: _Attempt) -> None:
        began = trio.current_time()
        family, address = target
        sock: socket.socket | None = None
        try:
            with attempt.scope:
                sock = self._make_socket(family, way)
                self.step = "did not answer"
                begins = _begin(sock, address)
                local = str(sock.getsockname()[0])
                footing = attempt.footing = Footing(self._network, way, local, partial(_source, target))
                if begins:
                    await _complete(sock)
                if self._context is not None:
                    self.step = "did not finish the TLS handshake"
                    self._next_at = trio.current_time() + _HEAD_START  # it makes progress
                    sock = await self._secure(sock)
                if self._dialed is None:
                    self._dialed = Dialed(sock, footing, trio.current_time() - began)
        except (OSError, ConnectError) as error:
            self._note(error if isinstance(error, ConnectError) else from_error(error, self._config))
            self._failed.add(way)
            if isinstance(error, ssl.SSLError):
                # It is the broker, or who poses as it on this network, and would say the same at its other addresses.
                self._failed.update(each for each in self._ways() if each.interface == way.interface)
            self._next_at = -math.inf
        finally:
            del self._running[way]
            if sock is not None and (self._dialed is None or self._dialed.sock is not sock):
                sock.close()
            self._wake.set()

    def _make_socket(self, family: int, way: Way) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if way.interface:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, way.interface.encode())
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # The broker gives us up after one and a half times the keepalive, which is half of it after a ping that it
            # did not get: a connection whose output is not acknowledged for that long is of no use to anybody, and TCP
            # would hang on to it for a quarter of an hour.  But round trips of 5 s occur, and a packet may get lost.
            shortest, longest = _USER_TIMEOUT
            timeout = min(max(self._config.keepalive // 2, shortest), longest)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout * 1000)
        except BaseException:
            sock.close()
            raise
        return sock

    async def _secure(self, sock: socket.socket) -> ssl.SSLSocket:
        assert self._context is not None
        assert self._config.tls is not None
        name = self._config.tls.server_name or self._config.host
        try:
            wrapped = self._context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
        except ValueError as error:
            sock.close()
            raise ConnectError(FailureKind.TLS, f"no certificate can carry this server name: {error}") from None
        try:
            while True:
                try:
                    wrapped.do_handshake()
                except ssl.SSLWantReadError:
                    await trio.lowlevel.wait_readable(wrapped)
                except ssl.SSLWantWriteError:
                    await trio.lowlevel.wait_writable(wrapped)
                else:
                    return wrapped
        except BaseException:
            wrapped.close()
            raise

    def _note(self, failure: ConnectError) -> None:
        """Keep the failure that says most: what the broker itself said comes before its silence."""
        if self._failure is None or failure.kind in _WORTH_TELLING or self._failure.kind not in _WORTH_TELLING:
            self._failure = failure


def _begin(sock: socket.socket, address: tuple[Any, ...]) -> bool:
    """Begin to connect, which gives the socket its own address; whether that is to be waited for."""
    try:
        sock.connect(address)
    except BlockingIOError:
        return True
    return False


async def _complete(sock: socket.socket) -> None:
    await trio.lowlevel.wait_writable(sock)
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _source(target: _Target) -> str | None:
    """The own address that the kernel would take now; asking sends nothing."""
    family, address = target
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _numeric(host: str, port: int) -> dict[str, _Target]:
    """The address that a host is written as; nothing for a name."""
    for family, rest in ((socket.AF_INET, ()), (socket.AF_INET6, (0, 0))):
        try:
            text = socket.inet_ntop(family, socket.inet_pton(family, host))
        except (OSError, ValueError):
            continue
        return {text: (family, (text, port, *rest))}
    return {}


def _literal(address: tuple[Any, ...]) -> str:
    scope = address[3] if len(address) == 4 else 0
    return f"{address[0]}%{scope}" if scope else str(address[0])
