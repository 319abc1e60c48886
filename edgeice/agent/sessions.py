"""The device's sessions: from an admitted offer to the last channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import trio

from edgeice import sdp
from edgeice.agent.log import Log
from edgeice.dtls import Certificate
from edgeice.errors import DecodeError
from edgeice.peer import ConnectionState, PathChanged, StateChanged
from edgeice.sansio import DropCounter, Event
from edgeice.services import ChannelServer, ServiceRegistry, Spawner
from edgeice.signaling import (
    Audit,
    ByeCode,
    ByeReceived,
    DeviceSignaling,
    OfferReceived,
    OfferRefused,
    Reject,
    RejectCode,
    SessionEnded,
    SessionId,
)
from edgeice.transport import (
    SIGNAL_PROTOCOL,
    DataChannel,
    Node,
    PeerConnection,
    Progress,
    SignaledConnection,
    SignalPump,
    WallClock,
)

__all__ = ["AuditSink", "Sessions", "check_description"]

#: Tells the fleet what happened.
AuditSink = Callable[[Audit], None]

#: How long a session's channels may take to end once the session is over, seconds.
_END_TIME: Final = 5.0


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
    opened_at: float
    proved: bool = False
    has_path: bool = False


class Sessions:
    """Runs the sessions that the device's signaling admits.

    Args:
        signaling: The device's signaling machine.
        pump: What drives it.
        node: Sockets and peer connections.
        certificate: DTLS certificate of this boot.
        registry: The services.
        spawner: Starts processes.
        limits: Channels and processes of one session.
        wall: The wall clock.
        log: Where events go.
        audit: Where the fleet is told.
    """

    def __init__(
        self,
        *,
        signaling: DeviceSignaling,
        node: Node,
        certificate: Certificate,
        registry: ServiceRegistry,
        spawner: Spawner,
        limits: tuple[int, int],
        wall: WallClock,
        log: Log,
        audit: AuditSink,
    ) -> None:
        self._signaling = signaling
        self._node = node
        self._certificate = certificate
        self._registry = registry
        self._spawner = spawner
        self._limits = limits
        self._wall = wall
        self._log = log
        self._audit = audit
        self._sessions: dict[SessionId, _Session] = {}
        self._nursery: trio.Nursery | None = None
        self._pump: SignalPump | None = None
        self._idle = trio.lowlevel.ParkingLot()
        #: Input dropped by sessions that are over, by layer and reason.
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
                "path": describe_path(session.signaled.peer.path),
                "want": list(session.want),
                "seconds": round(now - session.opened_at, 1),
                "drops": session.signaled.peer.drops(),
            }
            for session in self._sessions.values()
        ]

    def take(self, event: Event) -> None:
        """Act on an event of the device's signaling."""
        match event:
            case OfferRefused():
                self._log.warning("refused", operator=event.session.peer.name, code=event.code, reason=event.reason)
                self._tell("refused", event.session, why=f"{event.code}: {event.reason}", want=event.want)
            case OfferReceived() if event.session not in self._sessions:
                self._open(event)
            case ByeReceived() | SessionEnded():
                session = self._sessions.get(event.session)
                if session is not None:
                    self._log.info("bye", operator=event.session.peer.name, code=event.code, reason=event.reason)
                    session.signaled.peer.abort()
            case _:
                session = self._sessions.get(event.session)  # type: ignore[attr-defined]  # all others are a session's
                if session is not None:
                    session.signaled.take(event)

    def end_all(self, code: ByeCode, reason: str) -> None:
        """Say goodbye to every peer and end every session."""
        for session in list(self._sessions.values()):
            session.signaled.session.bye(code, reason, wall=self._wall())
        self._flush()
        for session in list(self._sessions.values()):
            session.signaled.peer.abort()

    async def wait_idle(self) -> None:
        """Wait until no session is left."""
        while self._sessions:
            await self._idle.park()

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
        signaled = SignaledConnection(machine, self._wall, self._flush)
        session = _Session(event.session, event.want, signaled, trio.current_time())

        def watch(progress: Progress) -> None:
            self._watch(session, progress)

        signaled.attach(self._node.connection(self._certificate, watch))
        self._sessions[event.session] = session
        try:
            signaled.answer_first(event)
        except DecodeError as error:
            # The description was looked at before the session was admitted, so this is for what only ICE refuses.
            machine.reject(
                event.gen, Reject(RejectCode.MALFORMED, error.reason), now=trio.current_time(), wall=self._wall()
            )
            signaled.peer.abort()
            del self._sessions[event.session]
            return
        self._log.info("offered", operator=event.session.peer.name, sid=event.session.sid, want=",".join(event.want))
        self._nursery.start_soon(self._run, session)

    def _watch(self, session: _Session, progress: Progress) -> None:
        session.signaled.watch(progress)
        match progress:
            case StateChanged() if progress.state is ConnectionState.CONNECTED and not session.proved:
                session.proved = True
                self._signaling.proved(session.id)
                self._log.info("opened", operator=session.id.peer.name, sid=session.id.sid)
                self._tell("opened", session.id, want=session.want)
            case PathChanged():
                self._path_changed(session, progress)
            case _:
                pass

    def _path_changed(self, session: _Session, path: PathChanged) -> None:
        self._log.info("path", operator=session.id.peer.name, sid=session.id.sid, path=describe_path(path))
        if path.path is not None and not session.has_path:
            session.has_path = True
            self._signaling.first_pair(session.id, now=trio.current_time())
        elif path.path is None and session.proved and self._nursery is not None:
            # Not from within the event that told of it: the connection is in the middle of an input.
            self._nursery.start_soon(self._restart, session)

    async def _restart(self, session: _Session) -> None:
        await trio.lowlevel.checkpoint()
        if session.signaled.peer.path.path is None:
            self._log.info("restart", operator=session.id.peer.name, sid=session.id.sid)
            session.signaled.restart()

    async def _run(self, session: _Session) -> None:
        peer = session.signaled.peer
        channels, processes = self._limits
        server = ChannelServer(
            self._registry, session.want, self._spawner, max_channels=channels, max_processes=processes
        )
        try:
            async with trio.open_nursery() as nursery:
                async for channel in peer.incoming:
                    if channel.protocol == SIGNAL_PROTOCOL:
                        nursery.start_soon(self._run_signal_channel, session, channel)
                    else:
                        nursery.start_soon(server.serve, channel)
                nursery.cancel_scope.deadline = trio.current_time() + _END_TIME
        finally:
            self._finish(session, peer)

    async def _run_signal_channel(self, session: _Session, channel: DataChannel) -> None:
        def receive(text: str) -> None:
            self._signaling.receive_channel(session.id, text, now=trio.current_time(), wall=self._wall())

        await session.signaled.run_channel(channel, receive)

    def _finish(self, session: _Session, peer: PeerConnection) -> None:
        self._sessions.pop(session.id, None)
        peer.abort()
        ended = peer.ended
        why = f"{ended.step}: {ended.reason}" if ended is not None else ""
        code = ByeCode.DONE if ended is not None and ended.step == "closed" else ByeCode.LOST
        session.signaled.session.bye(code, why, wall=self._wall())
        self._flush()
        for reason, count in peer.drops().items():
            self.drops.count(reason, count)
        seconds = round(trio.current_time() - session.opened_at, 1)
        self._log.info("ended", operator=session.id.peer.name, sid=session.id.sid, why=why, seconds=seconds)
        self._tell("ended", session.id, why=why)
        if not self._sessions:
            self._idle.unpark_all()


def describe_path(path: PathChanged) -> str | None:
    """A candidate pair in a few words: `host 192.0.2.1:4000 -> srflx 198.51.100.2:5000`."""
    if path.path is None:
        return None
    return f"{path.local_type} {path.path.local} -> {path.remote_type} {path.path.remote}"
