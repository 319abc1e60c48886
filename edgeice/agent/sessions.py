"""The device's sessions: from an admitted offer to the last channel."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final

import attrs
import trio

from edgeice import dtls, sdp
from edgeice.agent.config import LimitsSection
from edgeice.agent.failures import Failures
from edgeice.agent.log import Log
from edgeice.errors import DecodeError
from edgeice.peer import ConnectionState, StateChanged
from edgeice.sansio import DropCounter, Event
from edgeice.services import Channel, ChannelServer, ServiceRegistry, Spawner
from edgeice.signaling import (
    Audit,
    AuthorizedOperators,
    ByeCode,
    ByeReceived,
    DeviceSignaling,
    OfferReceived,
    OfferRefused,
    Reject,
    RejectCode,
    SessionEnded,
    SessionFailed,
    SessionId,
)
from edgeice.text import duration
from edgeice.trace import Record, Tracer, ignore
from edgeice.transport import (
    SIGNAL_PROTOCOL,
    ConnectionFailedError,
    DataChannel,
    Node,
    Progress,
    SignaledConnection,
    SignalPump,
    WallClock,
)

if TYPE_CHECKING:
    from edgeice.agent.paths import SessionPath
    from edgeice.services.kept import KeptShell, KeptShells, OwnedShells

__all__ = ["AuditSink", "Sessions", "check_description"]

#: Tells the fleet what happened.
AuditSink = Callable[[Audit], None]

#: How long a session's channels may take to end once the session is over, seconds.
_END_TIME: Final = 5.0
#: How long a peer may take to close a session once it was told why, seconds: cut off at once, it would not read that.
_FAREWELL_TIME: Final = 1.0


def check_description(text: str) -> Reject | None:
    """Why an offer's description cannot be answered; None if it can."""
    try:
        sdp.parse(text)
    except DecodeError as error:
        return Reject(RejectCode.MALFORMED, str(error)[:200])
    return None


@attrs.define(eq=False)
class _Session:
    id: SessionId
    want: tuple[str, ...]
    signaled: SignaledConnection
    path: SessionPath
    opened_at: float
    proved: bool = False
    #: Ends its tasks.
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    #: A defect ended it.
    failed: bool = False
    #: What was said at its end, by either side.
    bye: str = ""


class Sessions:
    """Runs the sessions that the device's signaling admits.

    A session is a boundary: an exception that nobody expected, in its tasks or in what its events set off, ends it
    with `bye` (`error`), and nothing else.

    Args:
        signaling: The device's signaling machine.
        pump: What drives it.
        node: Sockets and peer connections.
        registry: The services.
        spawner: Starts processes.
        limits: Bounds on what one session takes, and for how long.
        wall: The wall clock.
        log: Where events go.
        failures: Where defects go.
        audit: Where the fleet is told.
        tracer: Hears whose each session is, and the verdict on it.
        probe: Finds out whether the broker is still heard.
    """

    def __init__(
        self,
        *,
        signaling: DeviceSignaling,
        node: Node,
        registry: ServiceRegistry,
        spawner: Spawner,
        limits: LimitsSection,
        wall: WallClock,
        log: Log,
        failures: Failures,
        audit: AuditSink,
        tracer: Tracer,
        probe: Callable[[], None],
    ) -> None:
        self._signaling = signaling
        self._node = node
        self._registry = registry
        self._spawner = spawner
        self._limits = limits
        self._wall = wall
        self._log = log
        self._failures = failures
        self._audit = audit
        self._tracer = tracer
        self._probe = probe
        self._sessions: dict[SessionId, _Session] = {}
        self._nursery: trio.Nursery | None = None
        self._pump: SignalPump | None = None
        self._idle = trio.lowlevel.ParkingLot()
        self._ended = trio.lowlevel.ParkingLot()
        #: None until the first one is asked for: most devices never load what keeps them.
        self._kept: KeptShells | None = None
        #: Input dropped by sessions that are over, by layer and reason, and channels that ended with an error.
        self.drops = DropCounter()

    def use(self, pump: SignalPump, nursery: trio.Nursery) -> None:
        """Set what drives the signaling, and where sessions run."""
        self._pump, self._nursery = pump, nursery

    def report(self) -> list[dict[str, object]]:
        """The running sessions, for status."""
        now = trio.current_time()
        return [
            {
                "operator": session.id.peer.name,
                "sid": session.id.sid,
                "state": session.signaled.peer.state.value,
                "path": session.path.describe(),
                "want": list(session.want),
                "seconds": round(now - session.opened_at, 1),
                "drops": session.signaled.drops(),
            }
            for session in self._sessions.values()
        ]

    def report_kept(self) -> list[dict[str, object]]:
        """The kept shells, for status."""
        now = trio.current_time()
        return [
            {
                **_whose(shell),
                "running": shell.process.foreground(),
                "seconds": round(now - shell.begun_at, 1),
                "attached": shell.left_at is None,
            }
            for shell in ([] if self._kept is None else self._kept.running())
        ]

    def end_kept(self, trust: AuthorizedOperators) -> None:
        """End the kept shells of operators whom the device does not trust with shells any more."""
        for shell in [] if self._kept is None else self._kept.running():
            lines = trust.lines_for(shell.owner.kid, shell.owner.party.name)
            if not any("shell" in line.can and line.holds(wall=self._wall(), floor=0) for line in lines):
                shell.end("its operator may not use it any more")

    def take(self, event: Event) -> None:
        """Act on an event of the device's signaling."""
        try:
            self._take(event)
        except Exception as error:  # noqa: BLE001  # a session's defect is not to end the others
            self.fail(event.session, error)  # type: ignore[attr-defined]  # all of them are a session's

    def fail(self, session: SessionId, error: Exception) -> None:
        """A defect came to light while something was done for a session: end it, unless that is under way."""
        running = self._sessions.get(session)
        if running is not None and running.failed:
            return
        self._failures.note("session", error, operator=session.peer.name, sid=session.sid)
        if running is None:
            self._signaling.fail(session, wall=self._wall())
            self._flush()
            return
        running.failed = True
        # Its own task does the rest: this may be in the middle of an input.
        running.scope.cancel()

    async def end_all(self, code: ByeCode, reason: str) -> None:
        """Say goodbye to every peer and end every session, at the latest when the peers had a moment to do so."""
        sessions = list(self._sessions.values())
        for session in sessions:
            session.bye = f"{code}: {reason}"
            session.signaled.session.bye(code, reason, wall=self._wall())
        self._flush()
        with trio.move_on_after(_FAREWELL_TIME):
            for session in sessions:
                await session.signaled.peer.wait_closed()
        for session in sessions:
            session.signaled.peer.abort()

    async def wait_idle(self) -> None:
        """Wait until no session is left."""
        while self._sessions:
            await self._idle.park()

    async def wait_ended(self) -> None:
        """Wait until the next session ends."""
        await self._ended.park()

    @property
    def active(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    def send_on_channel(self, session: SessionId, jws: bytes) -> None:
        """Send a message by a session's second road, if it is open."""
        found = self._sessions.get(session)
        if found is not None:
            found.signaled.send_on_channel(jws)

    # Inside

    @cached_property
    def _certificate(self) -> dtls.Certificate:
        """The DTLS certificate of this boot: made for the first session, and with it OpenSSL's part of DTLS loaded."""
        return dtls.Certificate.generate()

    def _take(self, event: Event) -> None:
        match event:
            case SessionFailed():
                self.fail(event.session, event.error)
            case OfferRefused():
                self._log.warning("refused", operator=event.session.peer.name, code=event.code, reason=event.reason)
                self._tell("refused", event.session, why=f"{event.code}: {event.reason}", want=event.want)
            case OfferReceived() if event.session not in self._sessions:
                self._open(event)
            case ByeReceived() | SessionEnded():
                session = self._sessions.get(event.session)
                if session is not None:
                    self._log.info("bye", operator=event.session.peer.name, code=event.code, reason=event.reason)
                    session.bye = f"{event.code}: {event.reason}".rstrip(": ")
                    session.signaled.peer.abort()
            case _:
                session = self._sessions.get(event.session)  # type: ignore[attr-defined]  # all others are a session's
                if session is not None:
                    session.signaled.take(event)
                    session.path.take(event)

    def _tell(self, event: str, session: SessionId, why: str = "", want: tuple[str, ...] = ()) -> None:
        self._audit(
            Audit(event=event, operator=session.peer.name, kid=session.kid, sid=session.sid, why=why, want=want)
        )

    def _flush(self) -> None:
        if self._pump is not None:
            self._pump.touch()

    def _open(self, event: OfferReceived) -> None:
        machine = self._signaling.session(event.session)
        if machine is None or self._nursery is None:
            return
        signaled = SignaledConnection(machine, self._wall, self._flush, self._probe)

        def first_pair() -> None:
            self._signaling.first_pair(event.session, now=trio.current_time())

        from edgeice.agent.paths import SessionPath  # noqa: PLC0415  # with all that keeps a session's path

        path = SessionPath(
            signaled,
            self._node,
            self._log,
            operator=event.session.peer.name,
            sid=event.session.sid,
            patience=self._limits.lost_time,
            on_first=first_pair,
        )
        session = _Session(event.session, event.want, signaled, path, trio.current_time())

        def watch(progress: Progress) -> None:
            self._watch(session, progress)

        def failed(error: Exception) -> None:
            self.fail(event.session, error)

        signaled.attach(self._node.connection(self._certificate, watch, on_failure=failed))
        self._sessions[event.session] = session
        self._trace("offered", session, operator=event.session.peer.name, sid=event.session.sid, want=event.want)
        self._nursery.start_soon(self._run, session)
        try:
            signaled.answer_first(event)
        except DecodeError as error:
            # The description was looked at before the session was admitted, so this is for what only ICE refuses.
            machine.reject(
                event.gen, Reject(RejectCode.MALFORMED, error.reason), now=trio.current_time(), wall=self._wall()
            )
            signaled.peer.abort()
            return
        self._log.info("offered", operator=event.session.peer.name, sid=event.session.sid, want=",".join(event.want))

    def _trace(self, name: str, session: _Session, **facts: object) -> None:
        fields = {"session": session.signaled.peer.session_id, **facts}
        self._tracer(Record(trio.current_time(), "session", name, fields))

    def _watch(self, session: _Session, progress: Progress) -> None:
        try:
            self._hear(session, progress)
        except Exception as error:  # noqa: BLE001  # as in `take`
            self.fail(session.id, error)

    def _hear(self, session: _Session, progress: Progress) -> None:
        session.signaled.watch(progress)
        match progress:
            case StateChanged() if progress.state is ConnectionState.CONNECTED and not session.proved:
                session.proved = True
                self._signaling.proved(session.id)
                self._flush()  # an offer may have waited for that
                self._log.info("opened", operator=session.id.peer.name, sid=session.id.sid)
                self._tell("opened", session.id, want=session.want)
            case _:
                pass
        session.path.watch(progress)

    async def _keep_path(self, session: _Session) -> None:
        try:
            await session.signaled.peer.wait_connected()
        except ConnectionFailedError:
            return
        await session.path.run()
        await self._end(session, ByeCode.LOST, f"no path for {duration(self._limits.lost_time)}")

    async def _end_when_idle(self, session: _Session, server: ChannelServer) -> None:
        while True:
            await server.wait_idle()
            with trio.move_on_after(self._limits.idle_time) as scope:
                await server.wait_busy()
            if scope.cancelled_caught:
                await self._end(session, ByeCode.IDLE, f"nothing was open for {self._limits.idle_time} s")
                return

    async def _end_in_time(self, session: _Session) -> None:
        await trio.sleep_until(session.opened_at + self._limits.session_time)
        await self._end(session, ByeCode.LIMIT, f"a session may last {self._limits.session_time} s")

    async def _end(self, session: _Session, code: ByeCode, reason: str) -> None:
        session.bye = f"{code}: {reason}"
        session.signaled.session.bye(code, reason, wall=self._wall())
        self._flush()
        with trio.move_on_after(_FAREWELL_TIME):
            await session.signaled.peer.wait_closed()
        session.signaled.peer.abort()

    async def _run(self, session: _Session) -> None:
        try:
            with session.scope:
                try:
                    await self._serve(session)
                except* Exception as group:  # noqa: BLE001  # as in `take`; what cancels the agent passes
                    self.fail(session.id, group)
            if session.failed:
                self._signaling.fail(session.id, wall=self._wall())
                self._flush()
                with trio.move_on_after(_FAREWELL_TIME):
                    await session.signaled.peer.wait_closed()
        finally:
            self._finish(session)

    async def _serve(self, session: _Session) -> None:
        def failed(channel: Channel, error: Exception) -> None:
            self._failures.note(
                "channel",
                error,
                operator=session.id.peer.name,
                sid=session.id.sid,
                protocol=channel.protocol,
            )

        server = ChannelServer(
            self._registry,
            session.want,
            self._spawner,
            max_channels=self._limits.channels,
            max_processes=self._limits.processes,
            idle_time=self._limits.channel_idle_time,
            channel_time=self._limits.channel_time,
            granted=lambda: self._signaling.granted(session.id, wall=self._wall()),
            kept=partial(self._kept_of, session.id),
            drops=self.drops,
            on_failure=failed,
        )
        async with trio.open_nursery() as keeper:
            keeper.start_soon(self._keep_path, session)
            if self._limits.idle_time:
                keeper.start_soon(self._end_when_idle, session, server)
            if self._limits.session_time:
                keeper.start_soon(self._end_in_time, session)
            async with trio.open_nursery() as nursery:
                async for channel in session.signaled.peer.incoming:
                    if channel.protocol == SIGNAL_PROTOCOL:
                        nursery.start_soon(self._run_signal_channel, session, channel)
                    else:
                        nursery.start_soon(server.serve, channel)
                nursery.cancel_scope.deadline = trio.current_time() + _END_TIME
            keeper.cancel_scope.cancel()

    def _kept_of(self, session: SessionId) -> OwnedShells:
        from edgeice.services.kept import KeepLimits, KeptShells, Owner  # noqa: PLC0415  # see `_kept`

        if self._kept is None:
            assert self._nursery is not None
            limits = KeepLimits(
                total=self._limits.kept_shells,
                per_operator=self._limits.kept_shells_per_operator,
                time=self._limits.kept_time,
            )
            self._kept = KeptShells(
                self._nursery, self._spawner, limits, tell=self._log_kept, fail=partial(self._failures.note, "shell")
            )
        return self._kept.of(Owner(session.peer, session.kid))

    def _log_kept(self, event: str, shell: KeptShell, why: str) -> None:
        more = {"why": why} if why else {}
        self._log.info(f"shell-{event}", **_whose(shell), **more)

    async def _run_signal_channel(self, session: _Session, channel: DataChannel) -> None:
        def receive(text: str) -> None:
            self._signaling.receive_channel(session.id, text, now=trio.current_time(), wall=self._wall())

        await session.signaled.run_channel(channel, receive)

    def _finish(self, session: _Session) -> None:
        try:
            self._close(session)
        except Exception as error:  # noqa: BLE001  # as in `take`
            self.fail(session.id, error)
            self._signaling.fail(session.id, wall=self._wall())
        finally:
            self._sessions.pop(session.id, None)
            self._ended.unpark_all()
            if not self._sessions:
                self._idle.unpark_all()

    def _close(self, session: _Session) -> None:
        peer = session.signaled.peer
        peer.abort()
        ended = peer.ended
        why = session.bye or (f"{ended.step}: {ended.reason}" if ended is not None else "")
        code = ByeCode.DONE if ended is not None and ended.step == "closed" else ByeCode.LOST
        session.signaled.session.bye(code, why, wall=self._wall())
        self._flush()
        for reason, count in session.signaled.drops().items():
            self.drops.count(reason, count)
        seconds = round(trio.current_time() - session.opened_at, 1)
        path = session.path.describe(used=True)
        self._log.info("ended", operator=session.id.peer.name, sid=session.id.sid, why=why, path=path, seconds=seconds)
        if self._tracer is not ignore:
            self._trace("verdict", session, **self._node.verdict(peer), recovery=session.path.report())
        self._tell("ended", session.id, why=why)


def _whose(shell: KeptShell) -> dict[str, object]:
    return {"operator": shell.owner.party.name, "shell": shell.name}
