"""The driver: receive, feed, drain, sleep until the next deadline.

One driver owns one *router* (the endpoint, which knows to whom a datagram belongs) and any number of *sessions*.
All are sans-IO machines; see `edgeice.sansio` for the contract that the driver keeps.

Three things give it its shape:

- Sockets are raw and non-blocking.  One `wait_readable` is followed by a synchronous read of up to `BATCH` datagrams,
  each fed at once; then the machines that got any act on all of them, and deadlines are looked at.  What they send to
  one path meanwhile leaves as one run (see `UdpSocket`).
- The timer task sleeps in a cancel scope whose deadline *is* the earliest deadline of all machines.  Moving the
  deadline does not wake the task, so the device wakes only when a machine has something to do.
- Everything that touches machines is synchronous, so no machine ever sees two inputs at once.  A handler that calls
  back into the driver only marks a machine; the outermost call settles all of them.
"""

from __future__ import annotations

import errno
import math
import os
import ssl
from collections.abc import Callable, Iterable

import trio

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.errors import LocalProtocolError
from edgeice.net.bases import open_udp
from edgeice.net.flow import FlowTable
from edgeice.net.resolve import Resolver
from edgeice.net.router import FlowAnswers, Router, Session
from edgeice.net.traffic import TrafficTable
from edgeice.net.udp import UdpSocket
from edgeice.sansio import (
    Action,
    CloseFlow,
    DropCounter,
    Event,
    Machine,
    OpenFlow,
    Resolve,
    SendStream,
    Transmit,
    drain,
)
from edgeice.trace import Record, Tracer, ignore

__all__ = ["Driver"]

#: Datagrams read from one socket before other tasks get their turn.
BATCH = 64
#: Seconds until a machine is asked again that left a due deadline standing: a bug, which must not spin the CPU.
STALL_DELAY = 0.001
#: Seconds that flows may take, once the driver ends, to write what is left.
PARTING_TIMEOUT = 0.5


class _Entry:
    """A machine, who hears its events, and its deadline as of the last time it was drained."""

    __slots__ = ("deadline", "machine", "on_event", "on_failure")

    def __init__(
        self,
        machine: Machine,
        on_event: Callable[[Event], None],
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        self.machine = machine
        self.on_event = on_event
        self.on_failure = on_failure
        self.deadline = math.inf


class Driver:
    """Moves bytes and time between the network and sans-IO machines.

    What machines want to say before they go is their owner's to command (close them, then `touch`) before it cancels
    `run`: sending is synchronous, so it is out when `touch` returns.

    Args:
        router: The machine that owns bases, flows and names.
        on_router_event: Hears the router's events.
        tracer: Hears of sockets opened and closed, and of those that could not be pinned.
        tls_context: Trust for TLS flows; None trusts the system's authorities.

    Attributes:
        counters: What was dropped or refused, by reason: those of `UdpSocket`, `FlowTable` and `Resolver`, and
            `no_base` (sent from a base that is closed), `unattached` (for a session that is detached), `unpinned`
            (a socket that the kernel would not pin), `session_failed` (a session detached over a bug),
            `timer_stalled` (a machine left a due deadline standing), `not_running` (a flow or name asked for while
            `run` is not under way).
        traffic: Bytes by interface.
        wakeups: How often the timer task woke.
    """

    def __init__(
        self,
        router: Router,
        *,
        on_router_event: Callable[[Event], None],
        tracer: Tracer = ignore,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        self.counters = DropCounter()
        self.traffic = TrafficTable()
        self.wakeups = 0
        self._router = router
        self._tracer = tracer
        self._tls_context = tls_context
        self._router_entry = _Entry(router, on_router_event)
        # By identity: a machine need not be hashable.
        self._entries: dict[int, _Entry] = {id(router): self._router_entry}
        self._dirty: dict[int, _Entry] = {}
        #: Sessions that got datagrams of the batch under way.
        self._fed: dict[int, Session] = {}
        self._errors: dict[Path, int] = {}
        self._sockets: dict[TransportAddress, UdpSocket] = {}
        #: Those that hold datagrams back until the machines are settled.
        self._unpushed: dict[TransportAddress, UdpSocket] = {}
        self._busy = False
        self._now = -math.inf
        self._sleep: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None
        self._flows: FlowTable
        self._resolver: Resolver

    # Owner's side

    def attach(
        self,
        session: Session,
        on_event: Callable[[Event], None],
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        """Drive a session from now on.

        Args:
            session: The machine.
            on_event: Hears its events.
            on_failure: Told what the machine or `on_event` raised, which is a bug; the session is detached then, and
                the others go on.  Without it, such a bug ends `run`.
        """
        if id(session) in self._entries:
            raise LocalProtocolError("the session is attached already")
        self._entries[id(session)] = _Entry(session, on_event, on_failure)
        self.touch(session)

    def detach(self, session: Session) -> None:
        """Stop driving a session, and forget its paths; nothing happens if it is not attached."""
        if self._entries.get(id(session)) is not self._router_entry:
            self._entries.pop(id(session), None)
            self._dirty.pop(id(session), None)
            for udp in self._sockets.values():
                udp.forget_paths()
            self._rearm()

    def touch(self, machine: Machine) -> None:
        """Take what a command to `machine` brought about: send, tell, and re-arm its timer.

        Called from within an event handler it only marks the machine, which is drained before the outermost call
        returns.
        """
        self._mark(machine)
        if not self._busy:
            self._now = self._clock()
            self._settle_all()

    def open_base(self, ip: str, interface: str = "", port: int | Iterable[int] = 0, cost: int = 0) -> Base:
        """Open a socket on an address of this host and tell the router of it; raises what `open_udp` does."""
        if self._nursery is None:
            raise LocalProtocolError("the driver does not run")
        if not isinstance(port, int):
            taken = {address.port for address in self._sockets if address.ip == ip}
            port = [each for each in port if each not in taken]
        sock, base, pin = open_udp(ip, interface, port, cost)
        if base.address in self._sockets:
            # Two networks may give this host the same address, and the kernel keeps devices apart, but not bases.
            sock.close()
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        udp = UdpSocket(
            sock, base, self.counters, self._start_flush, self._note_error, traffic=self.traffic.of(interface)
        )
        self._sockets[base.address] = udp
        self._nursery.start_soon(self._receive, udp)
        if interface and pin != "device":
            self.counters.count("unpinned")
        self._trace("base_opened", address=str(base.address), interface=interface, pin=pin)
        self._router.base_added(base, now=self._clock())
        self.touch(self._router)
        return base

    def close_base(self, address: TransportAddress) -> None:
        """Close a base's socket, then tell the router; nothing happens if there is no such base."""
        udp = self._sockets.pop(address, None)
        if udp is None:
            return
        self._close(udp)
        self._router.base_removed(address, now=self._clock())
        self.touch(self._router)

    @property
    def bases(self) -> list[Base]:
        """All open bases, in the order in which they were opened."""
        return [udp.base for udp in self._sockets.values()]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive until canceled; then every socket and flow is closed.

        Bases can be opened once it has started (`await nursery.start(driver.run)`).  What a machine or handler
        raises is a bug and ends the run, unless the session has an `on_failure`.
        """
        if self._nursery is not None:
            raise LocalProtocolError("the driver runs already")
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self._run_flows)
                self._resolver = Resolver(
                    nursery, self._resolved, self.counters, bases=lambda: self.bases, on_located=self._located
                )
                nursery.start_soon(self._run_timers)
                task_status.started()
        finally:
            self._router.close(now=self._clock())
            self.touch(self._router)
            self._nursery = None
            for udp in self._sockets.values():
                self._close(udp)
            self._sockets.clear()

    async def _run_flows(self, *, task_status: trio.TaskStatus[None]) -> None:
        started, ended = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hold_flows, started, ended)
            try:
                await started.wait()
                task_status.started()
                await trio.sleep_forever()
            finally:
                ended.set()

    async def _hold_flows(self, started: trio.Event, ended: trio.Event) -> None:
        """Keep flows until all else has ended, and for as long as it takes to write what servers are told last."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                answers = FlowAnswers(self._router, self.touch, self._clock)
                self._flows = FlowTable(nursery, answers, self.counters, self._tls_context, self.traffic)
                started.set()
                await ended.wait()
                if len(self._flows):
                    self._router.close(now=self._clock())
                    self.touch(self._router)
                    self._flows.close_all()
                nursery.cancel_scope.deadline = trio.current_time() + PARTING_TIMEOUT

    # Time

    def _clock(self) -> float:
        """The present, which never goes back."""
        return max(self._now, trio.current_time())

    def _earliest(self) -> float:
        return min([entry.deadline for entry in self._entries.values()])

    def _rearm(self) -> None:
        if self._sleep is not None and self._sleep.deadline != (earliest := self._earliest()):
            self._sleep.deadline = earliest

    async def _run_timers(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._earliest()) as self._sleep:
                await trio.sleep_forever()
            self._sleep = None
            self.wakeups += 1
            self._fire()

    def _fire(self) -> None:
        now = self._now = self._clock()
        due = sorted((e for e in self._entries.values() if e.deadline <= now), key=lambda entry: entry.deadline)
        self._busy = True
        try:
            for entry in due:
                machine = entry.machine
                if self._entries.get(id(machine)) is entry:  # not detached by what an earlier one set off
                    try:
                        machine.handle_timeout(now=now)
                        drain(machine, self._act, entry.on_event)
                    except Exception as error:  # noqa: BLE001  # a bug of one session is not to end the others
                        self._contain(entry, error)
                    else:
                        self._dirty[id(machine)] = entry
            self._settle()
        finally:
            self._busy = False
        for entry in due:
            if entry.deadline <= now and id(entry.machine) in self._entries:
                self.counters.count("timer_stalled")
                entry.deadline = now + STALL_DELAY

    def _contain(self, entry: _Entry, error: Exception) -> None:
        """Let go of a session that raised; raises `error` where nobody would hear of it."""
        if entry.on_failure is None:
            raise error
        self.counters.count("session_failed")
        self._entries.pop(id(entry.machine), None)
        self._dirty.pop(id(entry.machine), None)
        entry.on_failure(error)

    # Datagrams

    async def _receive(self, udp: UdpSocket) -> None:
        while not udp.closed:
            try:
                await trio.lowlevel.wait_readable(udp.sock)
            except trio.ClosedResourceError:
                return
            self._now = self._clock()
            self._busy = True
            try:
                udp.receive(BATCH, self._deliver)
                self._end_batch()
                self._settle()
            finally:
                self._busy = False
            self._rearm()

    def _deliver(self, data: bytes, path: Path) -> None:
        session = self._router.receive_datagram(data, path, now=self._now)
        if session is not None:
            self._feed(session, data, path)

    def _feed(self, session: Session, data: bytes, path: Path) -> None:
        entry = self._entries.get(id(session))
        if entry is None:
            self.counters.count("unattached")
            return
        try:
            session.receive_datagram(data, path, now=self._now)
        except Exception as error:  # noqa: BLE001  # as in `_fire`
            self._contain(entry, error)
        else:
            self._fed[id(session)] = session

    def _end_batch(self) -> None:
        """Let the sessions that got datagrams act on them."""
        fed, self._fed = self._fed, {}
        for session in fed.values():
            entry = self._entries.get(id(session))
            if entry is None:
                continue
            try:
                session.batch_received(now=self._now)
            except Exception as error:  # noqa: BLE001  # as in `_fire`
                self._contain(entry, error)
            else:
                self._dirty[id(session)] = entry

    def _act(self, action: Action) -> None:
        match action:
            case Transmit():
                self._transmit(action.path, action.data)
            case _ if self._nursery is None:
                self.counters.count("not_running")
            case OpenFlow():
                self._flows.open(action)
            case SendStream():
                self._flows.send(action.flow_id, action.data)
            case CloseFlow():
                self._flows.close(action.flow_id)
            case Resolve():
                self._resolver.resolve(action.name, multicast=action.multicast, service=action.service)

    def _transmit(self, path: Path, data: bytes) -> None:
        udp = self._sockets.get(path.local)
        if udp is None:
            if not self._router.send_relayed(path, data, now=self._now):
                self.counters.count("no_base")
            return
        udp.send(path, data)
        self._unpushed[path.local] = udp

    def _push(self) -> None:
        """Send what the sockets hold back for the runs of `UdpSocket`."""
        unpushed, self._unpushed = self._unpushed, {}
        for udp in unpushed.values():
            if not udp.closed:
                udp.push()

    def _note_error(self, path: Path, code: int) -> None:
        # Told when the machines are settled, and once per path and turn: a machine that answered an error with
        # another datagram would otherwise never let go.
        self._errors.setdefault(path, code)

    def _start_flush(self, udp: UdpSocket) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._flush, udp)

    async def _flush(self, udp: UdpSocket) -> None:
        while udp.congested:
            try:
                await trio.lowlevel.wait_writable(udp.sock)
            except trio.ClosedResourceError:
                return
            udp.flush()
            if self._errors:
                self.touch(self._router)
        udp.flushing = False

    def _close(self, udp: UdpSocket) -> None:
        if not udp.closed:
            trio.lowlevel.notify_closing(udp.sock)
            udp.close()
            self._trace("base_closed", address=str(udp.base.address), interface=udp.base.interface)

    # Draining

    def _mark(self, machine: Machine) -> None:
        entry = self._entries.get(id(machine))
        if entry is not None:
            self._dirty[id(machine)] = entry

    def _settle_all(self) -> None:
        self._busy = True
        try:
            self._settle()
        finally:
            self._busy = False
        self._rearm()

    def _settle(self) -> None:
        """Drain the router and every marked machine until nothing is left, and read their deadlines."""
        router, dirty = self._router_entry, self._dirty
        told: set[Path] = set()
        while True:
            drain(router.machine, self._act, router.on_event)
            while (delivery := self._router.poll_delivery()) is not None:
                self._feed(delivery.session, delivery.data, delivery.path)
            self._end_batch()
            while (touched := self._router.poll_touched()) is not None:
                self._mark(touched)
            if self._errors:
                self._tell_errors(told)
            elif dirty:
                _, entry = dirty.popitem()
                try:
                    drain(entry.machine, self._act, entry.on_event)
                    at = entry.machine.next_timeout()
                except Exception as error:  # noqa: BLE001  # as in `_fire`
                    self._contain(entry, error)
                else:
                    entry.deadline = math.inf if at is None else at
            elif self._unpushed:
                self._push()
            else:
                break
        at = self._router.next_timeout()
        router.deadline = math.inf if at is None else at

    def _tell_errors(self, told: set[Path]) -> None:
        errors, self._errors = self._errors, {}
        for path, code in errors.items():
            if path not in told:
                told.add(path)
                self._router.socket_error(path, code, now=self._now)

    # Answers from tasks

    def _resolved(self, name: str, addresses: list[str]) -> None:
        self._router.resolved(name, addresses, now=self._clock())
        self.touch(self._router)

    def _located(self, name: str, service: str, servers: list[tuple[str, int | None]]) -> None:
        self._router.located(name, service, servers, now=self._clock())
        self.touch(self._router)

    def _trace(self, name: str, **fields: object) -> None:
        self._tracer(Record(self._clock(), "net", name, fields))
