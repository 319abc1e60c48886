"""A device's signaling: who may begin a session, and which sessions there are (contract §5).

`DeviceSignaling` is one machine for all sessions: the owner feeds it what comes on the device's `rx` topics and on
the sessions' signal channels, and drains one queue of actions and one of events.  Commands on a session are called on
the `SignalingSession` that `session` returns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import attrs

from edgeice.errors import DecodeError
from edgeice.sansio import DropCounter, Entropy, Event
from edgeice.signaling.admission import Admission, Admitted, Refused, SdpCheck
from edgeice.signaling.capabilities import first_uncovered
from edgeice.signaling.clock import BUILD_DATE, check_times
from edgeice.signaling.early import EarlyMessages
from edgeice.signaling.events import (
    OfferRefused,
    PublishInfo,
    SendSignal,
    SessionEnded,
    SessionFailed,
    SessionId,
    SignalAction,
)
from edgeice.signaling.jws import VerifiedJws, decode, verify
from edgeice.signaling.keys import PrivateKey
from edgeice.signaling.limits import RejectLimiter
from edgeice.signaling.messages import ByeCode, Candidates, Envelope, Reject, RejectCode, Route, decode_body
from edgeice.signaling.names import Party, Role
from edgeice.signaling.sender import OFFER_EXPIRY, MessageSigner
from edgeice.signaling.session import SignalingSession
from edgeice.signaling.slots import Slots
from edgeice.signaling.trust import AuthorizedOperators, OperatorLine
from edgeice.signaling.waiting import Waiting, WaitingOffers

__all__ = ["DeviceSignaling"]


@attrs.define
class _Held:
    session: SignalingSession
    want: tuple[str, ...]


class DeviceSignaling:
    """All signaling of one device.  A machine as in `edgeice.sansio`, with `SignalAction`s for actions."""

    def __init__(
        self,
        *,
        me: Party,
        key: PrivateKey,
        trust: AuthorizedOperators,
        check_sdp: SdpCheck,
        max_sessions: int,
        entropy: Entropy,
        floor: int = BUILD_DATE,
    ) -> None:
        """Make one for the device `me`.

        Args:
            me: The device's party.
            key: Its key.
            trust: The operators' keys that it knows.
            check_sdp: Looks at a first offer's description, see `SdpCheck`.
            max_sessions: Most sessions at once.
            entropy: For nonces.
            floor: Unix seconds before which the time cannot be.
        """
        self.drops = DropCounter()
        self._me = me
        self._key = key
        self._trust = trust
        self._floor = floor
        self._slots = Slots(max_sessions)
        self._admission = Admission(entropy=entropy, slots=self._slots, check_sdp=check_sdp, floor=floor)
        self._rejects = RejectLimiter()
        self._early = EarlyMessages()
        self._waiting = WaitingOffers()
        #: The published `info` says that no session is free.
        self._told_full = False
        self._sessions: dict[SessionId, _Held] = {}
        self._actions: deque[SignalAction] = deque()
        self._events: deque[Event] = deque()
        #: When the first trust line of a running session expires.
        self._review_at: float | None = None

    # What the owner asks

    @property
    def nonce(self) -> str:
        """The nonce to publish in `info`."""
        return self._admission.nonces.current

    @property
    def sessions(self) -> tuple[SessionId, ...]:
        """The sessions that have not ended."""
        return tuple(self._sessions)

    def session(self, session: SessionId) -> SignalingSession | None:
        """The machine of a session, None where it ended."""
        held = self._sessions.get(session)
        return held.session if held else None

    # What the owner tells

    def connected(self, *, now: float) -> None:
        """A new connection to the broker is up: take a new nonce, before `info` is published."""
        self._admission.nonces.change(now=now)

    def set_draining(self, draining: bool) -> None:
        """Refuse new sessions, or take them again."""
        self._admission.draining = draining

    def first_pair(self, session: SessionId, *, now: float) -> None:
        """The session's ICE has its first valid pair."""
        self._slots.first_pair(session, now=now)

    def proved(self, session: SessionId) -> None:
        """The session's DTLS handshake is complete: the peer holds the key that it signed."""
        self._slots.proved(session)
        self._waiting.slot_freed()

    def trust_changed(self, trust: AuthorizedOperators, *, now: float, wall: int | None) -> None:
        """Use another trust file from now on; sessions that it does not cover end with `revoked`."""
        self._trust = trust
        self.review_trust(now=now, wall=wall)

    def granted(self, session: SessionId, *, wall: int | None) -> tuple[str, ...]:
        """All capabilities that the trust file gives the session's operator now, whether it asked for them or not."""
        lines = self._trust.lines_for(session.kid, session.peer.name)
        return tuple(can for line in lines if line.holds(wall=wall, floor=self._floor) for can in line.can)

    def review_trust(self, *, now: float, wall: int | None) -> None:
        """End the sessions whose trust has expired; to be called when the clock becomes synchronized, too."""
        ends: list[int] = []
        for session, held in list(self._sessions.items()):
            lines = self._trust.lines_for(session.kid, session.peer.name)
            lines = tuple(line for line in lines if line.holds(wall=wall, floor=self._floor))
            can = (capability for line in lines for capability in line.can)
            if not lines or first_uncovered(can, held.want) is not None:
                self._end(session, ByeCode.REVOKED, "the device no longer trusts the key with this", wall=wall)
            else:
                ends.extend(line.expires for line in lines if line.expires is not None)
        self._review_at = now + min(ends) - wall if ends and wall is not None else None

    def fail(self, session: SessionId, *, wall: int | None) -> None:
        """End a session over a defect on this side: its peer hears `error`, its slot is free."""
        held = self._sessions.get(session)
        if held is not None:
            # The defect may well be in what signs the `bye`.
            with suppress(Exception):
                held.session.bye(ByeCode.ERROR, "the agent failed; see its log", wall=wall)
            self._forget(session)

    # Inputs

    def receive(self, sender: Party, payload: bytes, *, now: float, wall: int | None) -> None:
        """Take what came on the device's `rx` topic whose last level names `sender`."""
        try:
            unverified = decode(payload)
            key = self._trust.key(unverified.kid)
            if key is None:
                raise DecodeError("unknown-key")  # noqa: TRY301 - counted like every other reason
            self._receive(sender, verify(unverified, key), now=now, wall=wall)
        except DecodeError as error:
            self.drops.count(error.reason)

    def receive_channel(self, session: SessionId, text: str, *, now: float, wall: int | None) -> None:
        """Take what came on a session's signal channel (§8)."""
        held = self._sessions.get(session)
        if held is None:
            self.drops.count("session-ended")
        else:
            with self._guard(held.session, wall=wall):
                held.session.receive_jws(text, "channel", now=now, wall=wall)

    def handle_timeout(self, *, now: float, wall: int | None) -> None:
        """Do what is due."""
        while (session := self._slots.pop_due(now=now)) is not None:
            self._end(session, ByeCode.UNPROVEN, "no DTLS handshake in time", wall=wall)
        for held in list(self._sessions.values()):
            with self._guard(held.session, wall=wall):
                held.session.handle_timeout(now=now, wall=wall)
        for waiting_session, waiting in self._waiting.due(now=now):
            try:
                self._look_again(waiting_session, waiting, now=now, wall=wall)
            except DecodeError as error:
                self.drops.count(error.reason)
        expired = self._early.expire(now=now)
        if expired:
            self.drops.count("held-expired", expired)
        if self._review_at is not None and self._review_at <= now:
            self.review_trust(now=now, wall=wall)

    def next_timeout(self) -> float | None:
        """The earliest deadline."""
        ends = [self._slots.next_timeout(), self._early.next_timeout(), self._waiting.next_timeout(), self._review_at]
        ends.extend(held.session.next_timeout() for held in self._sessions.values())
        return min((at for at in ends if at is not None), default=None)

    def poll_action(self) -> SignalAction | None:
        """Next thing to send or publish."""
        return self._actions.popleft() if self._actions else None

    def poll_event(self) -> Event | None:
        """Next thing to know."""
        return self._events.popleft() if self._events else None

    # Inside

    def _receive(self, sender: Party, message: VerifiedJws, *, now: float, wall: int | None) -> None:
        route = Route.decode(message.claims)
        if route.iss != sender or route.aud != self._me:
            raise DecodeError("foreign-party")
        lines = self._trust.lines_for(message.key.kid, route.iss.name)
        if route.iss.role is not Role.OPERATOR or route.iss.fleet != self._me.fleet or not lines:
            raise DecodeError("foreign-operator")
        session = SessionId(route.iss, message.key.kid, route.sid)
        held = self._sessions.get(session)
        if held is not None:
            with self._guard(held.session, wall=wall):
                held.session.receive(message, "mqtt", now=now, wall=wall)
            return
        if session in self._waiting:
            self._follow(message, session, route, now=now)
        elif route.type == "offer" and route.gen == 0:
            self._receive_first(message, session, lines, now=now, wall=wall)
        elif route.type == "offer":
            self._disown(message, session, now=now, wall=wall)
        elif self._admission.nonces.knows(session.kid, session.sid):
            return  # the session is over: what was under way at its end, its goodbye above all, is late and no harm
        elif route.type in ("candidates", "bye"):
            self._hold(message, session, now=now)
        else:
            raise DecodeError("no-session")

    def _receive_first(
        self,
        message: VerifiedJws,
        session: SessionId,
        lines: Sequence[OperatorLine],
        *,
        now: float,
        wall: int | None,
    ) -> None:
        verdict = self._admission.judge(message, session, lines, now=now, wall=wall)
        if isinstance(verdict, Admitted):
            self._admit(message, session, verdict, now=now, wall=wall)
        elif verdict.reject.code != RejectCode.BUSY or not self._waiting.hold(session, message, now=now):
            self._refuse(message, session, verdict, now=now, wall=wall)

    def _follow(self, message: VerifiedJws, session: SessionId, route: Route, *, now: float) -> None:
        """Take what belongs to an offer that waits; its copies say nothing new."""
        if route.type == "bye":
            waiting = self._waiting.take(session)
            nonce = Envelope.decode(waiting.offer.claims).nonce if waiting else None
            if nonce is not None:
                self._use(nonce, session, now=now)  # a late copy of the offer begins nothing
        elif route.type == "candidates" and not self._waiting.follow(session, message):
            raise DecodeError("held-full")

    def _look_again(self, session: SessionId, waiting: Waiting, *, now: float, wall: int | None) -> None:
        """Let a waiting offer in where there is a slot now; refuse it where it has waited long enough."""
        offer = waiting.offer
        lines = self._trust.lines_for(session.kid, session.peer.name)
        if not lines or now >= waiting.forget_at:
            self._waiting.take(session)
            raise DecodeError("waited-in-vain")
        try:
            verdict = self._admission.judge(offer, session, lines, now=now, wall=wall)
            if isinstance(verdict, Refused) and verdict.reject.code == RejectCode.BUSY and now < waiting.refuse_at:
                return
            if isinstance(verdict, Refused):
                self._refuse(offer, session, verdict, now=now, wall=wall)
        except DecodeError as error:
            if error.reason == "reject-rate":
                waiting.postpone(now=now)
                return
            self._waiting.take(session)
            raise
        self._waiting.take(session)
        if isinstance(verdict, Admitted):
            self._admit(offer, session, verdict, now=now, wall=wall, following=waiting.following)

    def _hold(self, message: VerifiedJws, session: SessionId, *, now: float) -> None:
        envelope = Envelope.decode(message.claims)
        body = decode_body(envelope)
        size = body.size if isinstance(body, Candidates) else 1
        if not self._early.hold(session, envelope.seq, message, size=size, now=now):
            raise DecodeError("held-full")

    def _admit(
        self,
        message: VerifiedJws,
        session: SessionId,
        verdict: Admitted,
        *,
        now: float,
        wall: int | None,
        following: Sequence[VerifiedJws] = (),
    ) -> None:
        assert verdict.envelope.nonce is not None
        machine = SignalingSession(
            me=self._me,
            key=self._key,
            session=session,
            peer_key=message.key,
            floor=self._floor,
            rejects=self._rejects,
            actions=self._actions,
            events=self._events,
            drops=self.drops,
            on_end=self._forget,
        )
        self._sessions[session] = _Held(machine, verdict.offer.want)
        self._slots.take(session, now=now)
        self._use(verdict.envelope.nonce, session, now=now)
        machine.accept_first(message, verdict.envelope, verdict.offer, now=now)
        for early in (*self._early.take(session), *following):
            machine.receive(early, "mqtt", now=now, wall=wall)
        self.review_trust(now=now, wall=wall)

    def _refuse(
        self, message: VerifiedJws, session: SessionId, verdict: Refused, *, now: float, wall: int | None
    ) -> None:
        if not self._rejects.allow(session.kid, now=now):
            # The offer is not remembered, so its next copy is judged again.
            raise DecodeError("reject-rate")
        said_full = verdict.reject.code == RejectCode.BUSY and self._slots.is_full
        if verdict.reject.code == RejectCode.STALE_NONCE or (said_full and not self._told_full):
            # Of those who wait for a session, only one a second hears of it by a reject.
            self._told_full |= said_full
            self._actions.append(PublishInfo())
        if verdict.nonce is not None:
            self._use(verdict.nonce, session, now=now)
        self._reject(message, session, verdict.reject, 0, wall=wall)
        self._events.append(OfferRefused(session, str(verdict.reject.code), verdict.reject.reason, verdict.want))

    def _disown(self, message: VerifiedJws, session: SessionId, *, now: float, wall: int | None) -> None:
        """Answer a restart of a session that is none: its operator would try for minutes."""
        envelope = Envelope.decode(message.claims)
        check_times(envelope.iat, envelope.exp, wall=wall)
        if not self._rejects.allow(session.kid, now=now):
            raise DecodeError("reject-rate")  # the next copy may be answered
        is_over = self._admission.nonces.knows(session.kid, session.sid)
        if not is_over:
            self.drops.count("no-session")
        reason = "the session is over" if is_over else "the device has restarted, or ended the session long ago"
        self._reject(message, session, Reject(RejectCode.NO_SESSION, reason), envelope.route.gen, wall=wall)

    def _reject(self, message: VerifiedJws, session: SessionId, reject: Reject, gen: int, *, wall: int | None) -> None:
        signer = MessageSigner(me=self._me, key=self._key, session=session, floor=self._floor)
        jws = signer.sign(reject, gen, wall=wall, re=message.digest)
        self._actions.append(SendSignal(session, "mqtt", jws, OFFER_EXPIRY))

    def _use(self, nonce: str, session: SessionId, *, now: float) -> None:
        if self._admission.nonces.use(nonce, session.kid, session.sid, now=now):
            self._actions.append(PublishInfo())

    def _end(self, session: SessionId, code: ByeCode, reason: str, *, wall: int | None) -> None:
        held = self._sessions.get(session)
        if held is not None:
            held.session.bye(code, reason, wall=wall)
            self._events.append(SessionEnded(session, code, reason))

    @contextmanager
    def _guard(self, machine: SignalingSession, *, wall: int | None) -> Iterator[None]:
        """Contain a defect: a session whose machine raises ends, and no other does."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # whatever it is, the other sessions have no part in it
            self._events.append(SessionFailed(machine.id, error))
            self.fail(machine.id, wall=wall)

    def _forget(self, session: SessionId) -> None:
        self._sessions.pop(session, None)
        self._slots.release(session)
        self._told_full = False
        self._waiting.slot_freed()
