"""One session: candidate pairs, DTLS and SCTP under one roof.  It only composes."""

from __future__ import annotations

from enum import Enum, auto

import attrs

from edgeice import sctp
from edgeice.addresses import Path
from edgeice.dtls import Certificate, DtlsClosed, DtlsConnection, DtlsFailed, HandshakeCompleted
from edgeice.errors import LocalProtocolError
from edgeice.peer.config import ConnectionConfig
from edgeice.peer.demux import Kind, classify
from edgeice.peer.events import ConnectionEnded, ConnectionState
from edgeice.peer.link import IceLink
from edgeice.peer.negotiation import DtlsRole, Negotiation
from edgeice.peer.session import PeerSession
from edgeice.sansio import DropCounter, Entropy, Event, TimerTable

__all__ = ["Connection"]

#: A DTLS client leaves the first INIT to the server, which finishes the handshake half a round trip earlier; only a
#: peer that never sends one is asked after this many seconds.  Both may (RFC 8841 §9.3), but one saves a collision.
_CLIENT_INIT_DELAY = 0.1
#: Bulk data comes in many batches a second; by so many seconds a silence may seem longer than it is.
_HEARD_INTERVAL = 0.02


class _Timer(Enum):
    ASSOCIATE = auto()


class Connection(PeerSession):
    """A session with data channels.

    Offer and answer go by `create_offer`, `accept_offer`, `accept_answer`, `restart` and `rollback`; candidates by
    `add_remote_candidate` and `end_of_candidates` one way and by the events CandidateGathered and CandidatesEnded
    the other.  Text from the peer raises DecodeError when it is broken, RemoteProtocolError when it asks for what a
    running session must refuse.

    Args:
        session_id: The session's key in the Endpoint.
        link: Its ICE session and routes.
        certificate: This side's DTLS certificate.
        config: Sizes and limits.
        entropy: Source of randomness.
        now: Present time.
    """

    def __init__(
        self,
        session_id: int,
        link: IceLink,
        certificate: Certificate,
        config: ConnectionConfig,
        entropy: Entropy,
        *,
        now: float,
    ) -> None:
        super().__init__(session_id, link, now=now)
        self.drops = DropCounter()
        self._certificate = certificate
        self._config = config
        self._entropy = entropy
        self._negotiation = Negotiation(link, self._pathways, certificate.fingerprint, config.sctp, entropy)
        self._dtls: DtlsConnection | None = None
        self._channels: sctp.DataChannels | None = None
        self._timers: TimerTable[_Timer] = TimerTable()
        self._associated = False
        #: The path that the latest datagrams came on, and how many were the peer's by then.
        self._came_by: Path | None = None
        self._heard_dtls = 0
        #: Of which path ICE was told so last, and when.
        self._noted: Path | None = None
        self._noted_at = 0.0
        #: Whether ICE was told that data waits to be acknowledged.
        self._outstanding = False

    # What it knows

    @property
    def remote_fingerprints(self) -> tuple[tuple[str, str], ...]:
        """The peer's DTLS fingerprints, empty before its description."""
        remote = self._negotiation.remote
        return remote.fingerprints if remote else ()

    @property
    def awaits_answer(self) -> bool:
        """Whether an offer is out."""
        return self._negotiation.awaits_answer

    def drop_counts(self) -> dict[str, int]:
        """Input that was dropped anywhere in the session, by layer and reason."""
        counters = {"peer": self.drops, "link": self._link.drops, "ice": self._link.ice.drops}
        if self._dtls is not None:
            counters["dtls"] = self._dtls.drops
        if self._channels is not None:
            counters["sctp"] = self._channels.drops
        return {
            f"{layer}.{reason}": count
            for layer, counter in counters.items()
            for reason, count in counter.snapshot().items()
        }

    @property
    def ufrag(self) -> str:
        """The local ufrag of the newest generation."""
        return self._link.ice.local_credentials.ufrag

    # Offer and answer

    def create_offer(self, *, now: float) -> str:
        """The description that opens the session; later ones are those of `restart`.

        So no offer is made once ICE has completed: none needs `a=remote-candidates` (RFC 8839 §5.2).
        """
        self._check_open()
        if self._negotiation.remote is not None:
            raise LocalProtocolError("the session is open: restart makes another offer")
        self._pump(now)
        return self._negotiation.create_offer()

    def accept_offer(self, text: str, *, now: float) -> str:
        """Take the peer's offer, the first or one that restarts ICE, and give the answer."""
        self._check_open()
        self._pump(now)
        answer = self._negotiation.accept_offer(text, now=now)
        self._begin_dtls(self._negotiation.role, now)
        self._pump(now)
        return answer

    def accept_answer(self, text: str, *, now: float) -> None:
        """Take the peer's answer to the offer that is out."""
        self._check_open()
        self._negotiation.accept_answer(text, now=now)
        self._begin_dtls(self._negotiation.role, now)
        self._pump(now)

    def restart(self, *, now: float) -> str:
        """Open a new ICE generation beside the working one and give the offer for it."""
        self._check_open()
        self._pump(now)
        self._link.restart(now=now)
        self._pump(now)
        return self._negotiation.create_offer()

    def rollback(self, *, now: float) -> None:
        """Take back the offer that is out (RFC 8445 §9 with glare); the present generation goes on."""
        self._negotiation.rollback(now=now)
        self._link.rebind()
        self._pump(now)

    # Data channels

    @property
    def channels(self) -> sctp.DataChannels:
        """The session's data channels; call `flush` after a command.  Raises LocalProtocolError before CONNECTED.

        What is opened and sent before the association is up goes with its third packet (RFC 9260 §5.1), a round trip
        earlier than if it waited.
        """
        if self._channels is None:
            raise LocalProtocolError(f"no data channels while {self._state.value}")
        return self._channels

    def flush(self, *, now: float) -> None:
        """Bring out what commands to `channels` caused."""
        self._pump(now)

    # Inputs

    def receive_datagram(self, data: bytes, path: Path, *, now: float) -> None:
        """Take a datagram that the endpoint routed here."""
        if self._link.receive(data, path, now=now):
            if path is not self._came_by:
                self._note_heard(now)
                self._came_by = path
            self._receive_dtls(data, now)

    def batch_received(self, *, now: float) -> None:
        """Act on the datagrams that came."""
        self._note_heard(now)
        super().batch_received(now=now)

    def _note_heard(self, now: float) -> None:
        """Tell ICE on which path the peer's data came, at most so often for each."""
        path, dtls = self._came_by, self._dtls
        if path is None or dtls is None or dtls.authenticated == self._heard_dtls:
            return
        self._heard_dtls = dtls.authenticated
        if path is not self._noted or now >= self._noted_at + _HEARD_INTERVAL:
            self._noted, self._noted_at = path, now
            self._link.ice.note_heard(path, now=now)

    def handle_timeout(self, *, now: float) -> None:
        """Act on every deadline that has come."""
        if self._state is ConnectionState.CLOSED:
            return
        if self._link.is_traced:
            self._trace_timers(now)
        if self._dtls is not None:
            self._dtls.handle_timeout(now=now)
        if self._channels is not None:
            if self._timers.pop_due(now) is _Timer.ASSOCIATE:
                self._channels.start(now=now)
            self._channels.handle_timeout(now=now)
        super().handle_timeout(now=now)

    def _trace_timers(self, now: float) -> None:
        """Say which of the timers above ICE has fired."""
        timers = {
            "dtls": self._dtls.next_timeout() if self._dtls is not None else None,
            "sctp": self._channels.next_timeout() if self._channels is not None else None,
            "association": self._timers.next(),
        }
        for name, at in timers.items():
            if at is not None and at <= now:
                self._link.trace(now, "timer", timer=name, late=now - at)

    # Outputs

    def next_timeout(self) -> float | None:
        """The earliest deadline of all parts."""
        if self._state is ConnectionState.CLOSED:
            return None
        times = [super().next_timeout(), self._timers.next()]
        if self._dtls is not None:
            times.append(self._dtls.next_timeout())
        if self._channels is not None:
            times.append(self._channels.next_timeout())
        return min((at for at in times if at is not None), default=None)

    def poll_event(self) -> Event | None:
        """The next thing that the owner should know."""
        if self._channels is not None and (event := self._channels.poll_event()) is not None:
            return event
        return super().poll_event()

    # Inside

    @property
    def _authenticated(self) -> int:
        return super()._authenticated + (self._dtls.authenticated if self._dtls is not None else 0)

    def _check_open(self) -> None:
        if self._state is ConnectionState.CLOSED:
            raise LocalProtocolError("the session is closed")

    def _receive_dtls(self, data: bytes, now: float) -> None:
        dtls = self._dtls
        if dtls is None:
            if classify(data) is not Kind.DTLS or not self._negotiation.awaits_answer:
                self.drops.count("early-data")
                return
            # The peer's ClientHello outran its answer: an offerer of actpass is then the server (RFC 8842 §5.4).
            self._begin_dtls("server", now)
            dtls = self._dtls
        elif classify(data) is not Kind.DTLS:
            self.drops.count("not-dtls")
            return
        if dtls is not None:
            dtls.receive_datagram(data, now=now)

    def _begin_dtls(self, role: DtlsRole, now: float) -> None:
        if self._dtls is None:
            self._dtls = DtlsConnection(self._certificate, role, self._config.mtu)
            if role == "server":
                self._dtls.start(now=now)
        remote = self._negotiation.remote
        if remote is not None and not self._negotiation.fingerprints_settled:
            self._negotiation.fingerprints_settled = True
            self._dtls.set_remote_fingerprints(remote.fingerprints, now=now)

    def _pump(self, now: float) -> None:
        """Move what each part has for the others until nothing moves."""
        self._pathways.take_events(now=now)
        if (broke := self._pathways.take_move()) is not None:
            self._path_changed(now, broke=broke)
        if self._pathways.failure is not None and not self._associated:
            self._end(self._pathways.failure, now)
        dtls = self._dtls
        if dtls is not None:
            self._pump_dtls(dtls, now)
        self._settle_state(now)

    def _path_changed(self, now: float, *, broke: bool) -> None:
        self._link.release()
        if self._link.ice.send_path is not None and self._dtls is not None and self._dtls.state.name == "NEW":
            self._dtls.start(now=now)
        if self._channels is not None:
            self._follow_path(self._channels, now, broke=broke)

    def _follow_path(self, channels: sctp.DataChannels, now: float, *, broke: bool = False) -> None:
        """Tell the association which path it is on, or that its timers stand still until there is one."""
        if self._link.ice.send_path is None:
            channels.path_gone()
        else:
            channels.path_changed(lost=broke, rtt=self._pathways.current.rtt, now=now)

    def _pump_dtls(self, dtls: DtlsConnection, now: float) -> None:
        while (event := dtls.poll_event()) is not None:
            self._receive_data(dtls, now)
            self._take_dtls_event(event, dtls, now)
        self._receive_data(dtls, now)
        channels = self._channels
        if channels is not None:
            while (packet := channels.poll_transmit()) is not None:
                dtls.send(packet, now=now)
            if (outstanding := channels.outstanding) is not self._outstanding:
                self._outstanding = outstanding
                self._link.ice.note_outstanding(outstanding, now=now)
            if channels.established is not self._associated:
                self._associated = channels.established
                self._link.trace(now, "association", established=self._associated)
        self._send_datagrams(dtls)

    def _receive_data(self, dtls: DtlsConnection, now: float) -> None:
        """What DTLS has decrypted comes before what it has to say: data and close_notify may share a datagram."""
        channels = self._channels
        if channels is None:
            return
        packets = list(iter(dtls.poll_data, None))
        if packets:
            channels.receive_packets(packets, now=now)
        if channels.ended is not None:
            reason, broken = channels.ended
            self._end(ConnectionEnded("sctp" if broken else "closed", reason), now)

    def _send_datagrams(self, dtls: DtlsConnection) -> None:
        send = self._link.send
        while (datagram := dtls.poll_transmit()) is not None:
            send(datagram)

    def _take_dtls_event(self, event: Event, dtls: DtlsConnection, now: float) -> None:
        match event:
            case HandshakeCompleted():
                remote = self._negotiation.remote
                assert remote is not None  # its fingerprints were matched
                self._link.trace(now, "secured", role=dtls.role)
                config = attrs.evolve(self._config.sctp, mtu=dtls.max_payload, remote_port=remote.sctp_port)
                self._channels = sctp.DataChannels(dtls.role, config, self._entropy)
                self._channels.set_remote_max_message_size(remote.max_message_size)
                self._follow_path(self._channels, now)
                if dtls.role == "server":
                    self._channels.start(now=now)
                else:
                    self._timers.set(_Timer.ASSOCIATE, now + _CLIENT_INIT_DELAY)
            case DtlsClosed():
                self._end(ConnectionEnded("closed", "closed by the peer"), now)
            case DtlsFailed():
                self._end(ConnectionEnded("dtls", f"{event.reason}: {event.detail}".rstrip(": ")), now)

    def _end(self, ended: ConnectionEnded, now: float) -> None:
        if self._state is ConnectionState.CLOSED:
            return
        if self._channels is not None:
            self._channels.abort(ended.reason, broken=ended.broken, now=now)
        if self._dtls is not None:
            self._say_goodbye(self._dtls, ended, now)
        self._timers.clear()
        super()._end(ended, now)

    def _say_goodbye(self, dtls: DtlsConnection, ended: ConnectionEnded, now: float) -> None:
        """Send SCTP's last packets and close_notify.

        An orderly end is told by either, whichever comes first.  Of a broken one only SCTP tells, so close_notify must
        not overtake it: both go in one datagram.
        """
        while self._channels is not None and (packet := self._channels.poll_transmit()) is not None:
            self._send_datagrams(dtls)
            dtls.send(packet, now=now)
        if not ended.broken:
            self._send_datagrams(dtls)
        dtls.close(now=now)
        self._send_datagrams(dtls)

    def _settle_state(self, now: float) -> None:
        if self._state is ConnectionState.CLOSED:
            return
        has_path = self._link.ice.send_path is not None
        if self._channels is not None:
            self._set_state(ConnectionState.CONNECTED if has_path else ConnectionState.INTERRUPTED, now)
        elif has_path:
            self._set_state(ConnectionState.SECURING, now)
        elif self._negotiation.remote is not None:
            self._set_state(ConnectionState.CHECKING, now)
