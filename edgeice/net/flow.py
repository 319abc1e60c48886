"""TCP and TLS connections, and UDP sockets of their own, that machines ask for by OpenFlow, SendStream and CloseFlow.

Each flow is one task that connects, then reads and writes side by side.  A SendStream is written whole or dropped
whole, so that a full buffer loses messages but never their framing.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections import deque
from typing import Protocol

import trio

from edgeice.addresses import TransportAddress
from edgeice.net.bases import pin_socket
from edgeice.net.traffic import Traffic, TrafficTable
from edgeice.sansio import DropCounter, OpenFlow

__all__ = ["FlowSink", "FlowTable"]

#: Flows that may be open or opening; a further one fails.
FLOW_LIMIT = 64
#: Bytes that may wait in one flow; what does not fit is dropped and counted.
SEND_BUFFER_LIMIT = 256 << 10
#: Seconds for the TCP connection and the TLS handshake together.
CONNECT_TIMEOUT = 10.0
#: Seconds that a closed flow may take to write what it still holds.
LINGER_TIMEOUT = 2.0
#: Bytes read at once.
READ_SIZE = 64 << 10


class FlowSink(Protocol):
    """Who hears what happens to flows; called from the flow's task, never from within a call to the table."""

    def flow_opened(self, flow_id: int, local: TransportAddress) -> None:
        """The flow is connected from `local`, and verified if it is TLS."""

    def flow_failed(self, flow_id: int, reason: str) -> None:
        """The flow could not be opened; it is gone."""

    def flow_closed(self, flow_id: int) -> None:
        """The other end closed the flow or it broke; it is gone."""

    def receive_stream(self, flow_id: int, data: bytes) -> None:
        """Bytes came in."""


class _Flow:
    __slots__ = ("action", "buffer", "buffered", "closing", "scope", "traffic", "wakeup")

    def __init__(self, action: OpenFlow, traffic: Traffic) -> None:
        self.action = action
        self.traffic = traffic
        self.buffer: deque[bytes] = deque()
        #: Bytes not yet given to the kernel, those being written included.
        self.buffered = 0
        self.closing = False
        self.scope = trio.CancelScope()
        self.wakeup = trio.Event()


class FlowTable:
    """All flows of a driver.

    Args:
        nursery: Where the flows run; canceling it closes them all at once.
        sink: Hears of each flow: `flow_opened` or `flow_failed`, then `receive_stream`, then `flow_closed`; nothing
            after `close`.
        counters: Counts `flow_buffer` (a message dropped) and `flow_unknown` (a message for no open flow).
        tls_context: Trust for TLS flows; None trusts the system's authorities.
        traffic: Where to count bytes; None for nowhere.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        sink: FlowSink,
        counters: DropCounter,
        tls_context: ssl.SSLContext | None = None,
        traffic: TrafficTable | None = None,
    ) -> None:
        self._nursery = nursery
        self._sink = sink
        self._counters = counters
        self._tls_context = tls_context
        self._traffic = traffic or TrafficTable()
        self._flows: dict[int, _Flow] = {}

    def open(self, action: OpenFlow) -> None:
        """Start to connect."""
        if action.flow_id in self._flows or len(self._flows) >= FLOW_LIMIT:
            self._nursery.start_soon(self._refuse, action.flow_id)
            return
        flow = self._flows[action.flow_id] = _Flow(action, self._traffic.of(action.interface or ""))
        self._nursery.start_soon(self._run, flow)

    def send(self, flow_id: int, data: bytes) -> None:
        """Queue bytes for a flow that is open or opening."""
        flow = self._flows.get(flow_id)
        if flow is None or flow.closing:
            self._counters.count("flow_unknown")
        elif flow.buffered + len(data) > SEND_BUFFER_LIMIT:
            self._counters.count("flow_buffer")
        else:
            flow.buffer.append(data)
            flow.buffered += len(data)
            flow.wakeup.set()

    def close(self, flow_id: int) -> None:
        """Close a flow after writing what is queued; nothing happens if there is none."""
        flow = self._flows.pop(flow_id, None)
        if flow is not None:
            flow.closing = True
            flow.scope.deadline = trio.current_time() + (LINGER_TIMEOUT if flow.buffered else 0)
            flow.wakeup.set()

    def close_all(self) -> None:
        """Close all flows so."""
        for flow_id in list(self._flows):
            self.close(flow_id)

    def __len__(self) -> int:
        return len(self._flows)

    async def _refuse(self, flow_id: int) -> None:
        await trio.lowlevel.checkpoint()
        self._sink.flow_failed(flow_id, "too many flows, or the id is in use")

    async def _run(self, flow: _Flow) -> None:
        with flow.scope:
            try:
                with trio.fail_after(CONNECT_TIMEOUT):
                    stream, local = await self._connect(flow.action)
            except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                self._end(flow, _why(error))
                return
            try:
                if not flow.closing:
                    self._sink.flow_opened(flow.action.flow_id, local)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, flow, stream, nursery.cancel_scope)
                    nursery.start_soon(self._read, flow, stream, nursery.cancel_scope)
            finally:
                await trio.aclose_forcefully(stream)
        self._end(flow, None)

    def _end(self, flow: _Flow, failure: str | None) -> None:
        if flow.closing:
            return
        flow_id = flow.action.flow_id
        del self._flows[flow_id]
        if failure is None:
            self._sink.flow_closed(flow_id)
        else:
            self._sink.flow_failed(flow_id, failure)

    async def _connect(self, action: OpenFlow) -> tuple[trio.abc.Stream, TransportAddress]:
        remote = action.remote
        family = socket.AF_INET6 if remote.family == 6 else socket.AF_INET
        sock = trio.socket.from_stdlib_socket(_fresh_socket(family, action))
        try:
            scope_id = socket.if_nametoindex(remote.scope) if remote.scope else 0
            await sock.connect(
                (remote.ip, remote.port, 0, scope_id) if remote.family == 6 else (remote.ip, remote.port)
            )
            own = sock.getsockname()
            local = TransportAddress.parse(own[0], own[1], "udp" if action.datagrams else "tcp", remote.scope)
            if action.datagrams:
                return _Datagrams(sock), local
            stream: trio.abc.Stream = trio.SocketStream(sock)
            if action.tls_name is not None:
                # Servers may close without close_notify; message framing tells a cut message from a whole one.
                tls = trio.SSLStream(stream, self._context(), server_hostname=action.tls_name, https_compatible=True)
                await tls.do_handshake()
                stream = tls
        except BaseException:
            sock.close()
            raise
        return stream, local

    def _context(self) -> ssl.SSLContext:
        if self._tls_context is None:  # loading the system's authorities takes time and memory: only when needed
            # It offers forward secrecy first and no compression (RFC 8489 §6.2.3).
            self._tls_context = ssl.create_default_context()
            # RFC 8489 §6.2.3: a DNS-ID, never a name in the subject.
            self._tls_context.hostname_checks_common_name = False
        return self._tls_context

    async def _read(self, flow: _Flow, stream: trio.abc.Stream, done: trio.CancelScope) -> None:
        try:
            while data := await stream.receive_some(READ_SIZE):
                flow.traffic.received += len(data)
                if not flow.closing:
                    self._sink.receive_stream(flow.action.flow_id, bytes(data))
        except trio.BrokenResourceError:
            pass
        done.cancel()

    async def _write(self, flow: _Flow, stream: trio.abc.Stream, done: trio.CancelScope) -> None:
        try:
            while True:
                while flow.buffer:
                    if flow.action.datagrams:
                        data = flow.buffer.popleft()
                    else:
                        data = b"".join(flow.buffer)
                        flow.buffer.clear()
                    await stream.send_all(data)
                    flow.buffered -= len(data)
                    flow.traffic.sent += len(data)
                if flow.closing:
                    break
                flow.wakeup = trio.Event()
                await flow.wakeup.wait()
        except trio.BrokenResourceError:
            pass
        done.cancel()


class _Datagrams(trio.abc.Stream):
    """A connected UDP socket: each call moves one datagram, and what the network says of one ends nothing."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._sock = sock

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send a datagram, or lose it."""
        try:
            await self._sock.send(data)
        except trio.ClosedResourceError as error:
            raise trio.BrokenResourceError from error
        except OSError:  # an ICMP error for one before it, or no way at the moment
            await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """Nothing waits long for a UDP socket."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The next datagram that is not empty."""
        while True:
            try:
                data = await self._sock.recv(max_bytes or READ_SIZE)
            except trio.ClosedResourceError as error:
                raise trio.BrokenResourceError from error
            except OSError:  # as above; told once for each
                await trio.lowlevel.checkpoint()
            else:
                if data:
                    return data

    async def aclose(self) -> None:
        """Close the socket."""
        self._sock.close()
        await trio.lowlevel.checkpoint()


def _fresh_socket(family: int, action: OpenFlow) -> socket.socket:
    kind = socket.SOCK_DGRAM if action.datagrams else socket.SOCK_STREAM
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if action.interface:
            pin_socket(sock, action.interface)
    except BaseException:
        sock.close()
        raise
    return sock


def _why(error: Exception) -> str:
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {CONNECT_TIMEOUT:g} s"
    cause = error.__cause__ or error  # trio wraps what TLS says
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate refused: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {cause.reason or cause.strerror}"
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno)  # not its text, in which trio repeats the address
    return "connection lost"
