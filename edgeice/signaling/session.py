"""One session's signaling, on either side (contract §5 and §8).

Two machines of this kind face each other over two roads that may lose, repeat and reorder: the broker, and a data
channel of the session itself.  What comes in has a valid signature of the peer's key; what it says is judged here.

Generation 0 is offered by the operator.  A restart takes one more than the highest generation sent or received,
failed ones included, and either side may start one.  At most one own offer is pending.  When both offer the same
generation the operator's wins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.sansio import DropCounter, Event, TimerTable
from edgeice.signaling.clock import BUILD_DATE, check_times
from edgeice.signaling.description import Description, RestartGuard
from edgeice.signaling.events import (
    AnswerReceived,
    ByeReceived,
    LocalOfferCanceled,
    OfferExpired,
    OfferReceived,
    OfferRejected,
    Road,
    SendSignal,
    SessionId,
    SignalAction,
)
from edgeice.signaling.gatherer import LocalCandidates
from edgeice.signaling.jws import VerifiedJws, decode, verify
from edgeice.signaling.keys import PrivateKey, PublicKey
from edgeice.signaling.limits import RejectLimiter, TokenBucket
from edgeice.signaling.messages import (
    MAX_GENERATION,
    Answer,
    Bye,
    Candidates,
    Envelope,
    Offer,
    Reject,
    RejectCode,
    Route,
    SessionBody,
    check_version,
    decode_body,
)
from edgeice.signaling.names import Party, Role
from edgeice.signaling.offers import LocalOffer, OfferState, RemoteOffer, disowning_reject, pending_offer
from edgeice.signaling.receiver import RemoteCandidates
from edgeice.signaling.sender import CANDIDATES_EXPIRY, OFFER_EXPIRY, MessageSigner
from edgeice.signaling.window import SequenceWindow

__all__ = ["ANSWER_TIMEOUT", "SignalingSession"]

#: Seconds after which an unanswered offer is given up.
ANSWER_TIMEOUT = 10.0

#: Restart offers of a peer: so many at once, then one a second.
_RESTART_BURST = 5


class _Timer(Enum):
    REPEAT = auto()
    ANSWER = auto()


class SignalingSession:
    """Signaling of one session.  A machine as in `edgeice.sansio`, with `SignalAction`s for actions.

    `now` is monotonic seconds.  `wall` is Unix seconds, or None while the clock is not known to be synchronized.
    """

    def __init__(
        self,
        *,
        me: Party,
        key: PrivateKey,
        session: SessionId,
        peer_key: PublicKey,
        floor: int = BUILD_DATE,
        answer_timeout: float = ANSWER_TIMEOUT,
        rejects: RejectLimiter | None = None,
        actions: deque[SignalAction] | None = None,
        events: deque[Event] | None = None,
        drops: DropCounter | None = None,
        on_end: Callable[[SessionId], None] | None = None,
    ) -> None:
        """Make one for `me`.

        Args:
            me: The own party.
            key: The own key.
            session: The peer's party, its key's `kid`, and the `sid`.
            peer_key: The peer's key, trusted for this session.
            floor: What stands in `iat` while the clock is not known.
            answer_timeout: Seconds after which an unanswered offer is given up.
            rejects: The owner's limit on rejects, shared by the sessions of a key.
            actions: Where actions go, if the owner drains many sessions at once.
            events: The same for events.
            drops: The owner's counter.
            on_end: Called once when the session has ended, whoever ended it.
        """
        self.id = session
        self.drops = DropCounter() if drops is None else drops
        self.ended = False
        #: The session's signal channel (§8) is open; set by whoever opened it.
        self.channel_open = False
        self._me = me
        self._peer_key = peer_key
        self._on_end = on_end
        self._is_operator = me.role is Role.OPERATOR
        self._answer_timeout = answer_timeout
        self._rejects = RejectLimiter() if rejects is None else rejects
        self._actions: deque[SignalAction] = deque() if actions is None else actions
        self._events: deque[Event] = deque() if events is None else events
        self._signer = MessageSigner(me=me, key=key, session=session, floor=floor)
        self._window = SequenceWindow()
        self._timers: TimerTable[_Timer] = TimerTable()
        self._highest = -1
        self._local: LocalOffer | None = None
        self._remote: RemoteOffer | None = None
        self._outgoing = LocalCandidates()
        self._incoming = RemoteCandidates(session, self._window, self._events, self.drops)
        self._restarts = TokenBucket(_RESTART_BURST, 1.0)
        self._guard = RestartGuard()

    # Commands

    @property
    def next_gen(self) -> int:
        """The generation that the next own offer will have."""
        return self._highest + 1

    def offer(
        self, sdp: str, *, now: float, wall: int | None, want: tuple[str, ...] = (), nonce: str | None = None
    ) -> int:
        """Offer the next generation and return its number; an own pending offer is superseded.

        Args:
            sdp: The description, with the ufrag and password of the new generation.
            now: Monotonic seconds.
            wall: Unix seconds, None while unknown.
            want: The capabilities wanted; only at generation 0.
            nonce: The device's nonce; at generation 0 and only there.

        Raises:
            LocalProtocolError: The session ended, or the arguments do not fit the generation.
        """
        gen = self.next_gen
        first = gen == 0
        if self.ended or gen > MAX_GENERATION:
            raise LocalProtocolError("no offer is possible: the session ended, or its generations are used up")
        if first != (nonce is not None) or (first and not self._is_operator):
            raise LocalProtocolError("the operator's first offer holds the device's nonce, no other offer does")
        self._supersede_remote_offer()
        self._drop_local_offer()
        jws = self._signer.sign(Offer(sdp, want), gen, wall=wall, nonce=nonce)
        description = Description.read(sdp)
        self._highest = gen
        self._local = LocalOffer(gen, jws, now)
        self._arm_repeat(self._local)
        self._timers.set(_Timer.ANSWER, now + self._answer_timeout)
        self._send(jws, OFFER_EXPIRY, mqtt_only=first)
        self._describe(gen, description, wall)
        return gen

    def answer(self, gen: int, sdp: str, *, wall: int | None) -> bool:
        """Answer the peer's offer of `gen`; False where it is no longer the one to answer."""
        remote = self._remote
        if self.ended or remote is None or remote.gen != gen or not remote.is_open:
            return False
        remote.reply = self._signer.sign(Answer(sdp), gen, wall=wall, re=remote.digest)
        self._send(remote.reply, OFFER_EXPIRY)
        description = Description.read(sdp)
        self._guard.learn_own_answer(description)
        self._describe(gen, description, wall)
        self._settle(gen)
        return True

    def reject(self, gen: int, reject: Reject, *, now: float, wall: int | None) -> bool:
        """Refuse the peer's unanswered offer of `gen`; False where it is no longer the one to refuse.

        A refused restart leaves the session as it was; a refused first offer ends it.  Where the limit of one a
        second keeps the reject back, the next copy of the offer gets it.
        """
        remote = self._remote
        if self.ended or remote is None or remote.gen != gen or not remote.is_open:
            return False
        self._incoming.withdrawn(gen)
        remote.refusal = reject
        self._send_refusal(remote, now=now, wall=wall)
        return True

    def send_candidates(
        self,
        gen: int,
        ufrag: str,
        candidates: tuple[str, ...],
        *,
        end: bool,
        removed: tuple[str, ...] = (),
        now: float,
        wall: int | None,
    ) -> None:
        """Send own candidates of a generation (strings beginning `candidate:`); `end` says that no more will come.

        The first ones of a generation go at once, or with its description where that is not out yet; later ones
        gather for 50 ms.  Candidates of a generation or ufrag that is no longer used are ignored.

        Args:
            gen: Their generation, at most the next one.
            ufrag: The own one of that generation.
            candidates: The new ones.
            end: No more will come, but for what a move of the host brings where both peers allow that.
            removed: Those that are withdrawn, as they were told.
            now: Monotonic seconds.
            wall: Unix seconds, None while unknown.
        """
        if gen > self._highest + 1:
            raise LocalProtocolError(f"generation {gen} is not the next one")
        if self.ended:
            return
        to_come = gen > self._highest or (self._remote is not None and self._remote.gen == gen)
        for body in self._outgoing.add(gen, ufrag, candidates, removed=removed, end=end, to_come=to_come, now=now):
            self._send_candidates(gen, body, wall)

    def bye(self, code: str, reason: str = "", *, wall: int | None) -> None:
        """End the session and say so on both roads; nothing happens if it ended already."""
        if self.ended:
            return
        jws = self._signer.sign(Bye(code, reason), max(self._highest, 0), wall=wall)
        self._send(jws, OFFER_EXPIRY)
        self._end()

    # Inputs

    def receive_jws(self, data: bytes | str, road: Road, *, now: float, wall: int | None) -> None:
        """Take what came on a road; whatever is not a good message of this session is dropped and counted."""
        try:
            raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
            message = verify(decode(raw), self._peer_key)
        except DecodeError as error:
            self.drops.count(error.reason)
            return
        self.receive(message, road, now=now, wall=wall)

    def receive(self, message: VerifiedJws, road: Road, *, now: float, wall: int | None) -> None:
        """Take a message that the peer's key signed."""
        if self.ended:
            self.drops.count("session-ended")
            return
        try:
            self._receive(message, road, now=now, wall=wall)
        except DecodeError as error:
            self.drops.count(error.reason)

    def accept_first(self, message: VerifiedJws, envelope: Envelope, offer: Offer, *, now: float) -> None:
        """Begin a device's session with an offer of generation 0 that was admitted."""
        self._window.mark(envelope.seq)
        self._take_offer(message, envelope, offer, rolled_back=False, now=now)

    def handle_timeout(self, *, now: float, wall: int | None) -> None:
        """Repeat, give up, or send what gathered, where it is due."""
        while (timer := self._timers.pop_due(now)) is not None:
            if timer is _Timer.REPEAT:
                self._repeat_offer()
            else:
                self._expire_offer()
        for gen, body in self._outgoing.handle_timeout(now=now):
            self._send_candidates(gen, body, wall)
        self._incoming.handle_timeout(now=now)

    def next_timeout(self) -> float | None:
        """The earliest deadline."""
        ends = (self._timers.next(), self._incoming.next_timeout(), self._outgoing.next_timeout())
        return min((at for at in ends if at is not None), default=None)

    def poll_action(self) -> SignalAction | None:
        """Next thing to send; where an owner drains, its whole queue is meant."""
        return self._actions.popleft() if self._actions else None

    def poll_event(self) -> Event | None:
        """Next thing to know; where an owner drains, its whole queue is meant."""
        return self._events.popleft() if self._events else None

    # What comes in

    def _receive(self, message: VerifiedJws, road: Road, *, now: float, wall: int | None) -> None:
        check_version(message.claims)
        route = Route.decode(message.claims)
        if (route.iss, route.aud, route.sid) != (self.id.peer, self._me, self.id.sid) or message.key != self._peer_key:
            raise DecodeError("foreign-session")
        if road == "channel" and route.type == "offer" and route.gen == 0:
            raise DecodeError("first-offer-on-channel")
        if self._remote is not None and self._remote.jws == message.raw:
            self._repeat_reply(self._remote, road, now=now, wall=wall)
            return
        envelope = Envelope.decode(message.claims)
        if not self._is_operator:
            check_times(envelope.iat, envelope.exp, wall=wall)
        elif (reject := disowning_reject(envelope)) is not None:
            pending_offer(self._local, envelope)
            self._end()
            self._events.append(ByeReceived(self.id, reject.code, reject.reason))
            return
        if not self._window.is_new(envelope.seq):
            raise DecodeError("duplicate")
        body = decode_body(envelope)
        if isinstance(body, Offer):
            # Neither is marked as used: a later copy of an honest one is taken.
            if self._local is not None and not self._local.gen and self._local.state is OfferState.PENDING:
                raise DecodeError("early-restart")  # the first answer got lost, and will come again
            if not self._restarts.take(now=now):
                raise DecodeError("restart-rate")
        self._window.mark(envelope.seq)
        try:
            self._dispatch(message, envelope, body, now=now, wall=wall)
        finally:
            self._incoming.progressed(now=now)

    def _dispatch(
        self, message: VerifiedJws, envelope: Envelope, body: SessionBody, *, now: float, wall: int | None
    ) -> None:
        match body:
            case Offer():
                self._on_offer(message, envelope, body, now=now, wall=wall)
            case Answer():
                self._on_answer(envelope, body, now=now)
            case Candidates():
                self._incoming.receive(envelope.route.gen, envelope.seq, body, now=now)
            case Reject():
                self._on_reject(envelope, body)
            case Bye():
                self._end()
                self._events.append(ByeReceived(self.id, body.code, body.reason))

    def _on_offer(
        self, message: VerifiedJws, envelope: Envelope, offer: Offer, *, now: float, wall: int | None
    ) -> None:
        gen, local = envelope.route.gen, self._local
        rolled_back = False
        if gen < self._highest:
            raise DecodeError("lower-generation")
        if gen == self._highest:
            if local is None or local.gen != gen or local.state is OfferState.SETTLED:
                raise DecodeError("lower-generation")
            if self._is_operator:
                raise DecodeError("glare")
            rolled_back = self._drop_local_offer()
        elif self._drop_local_offer():
            assert local is not None
            self._events.append(LocalOfferCanceled(self.id, local.gen))
        # Its generation counts from here on, whatever becomes of it.
        if not self._guard.allows(Description.read(offer.sdp), offer=True):
            self._supersede_remote_offer()
            self._highest = gen
            self._remote = RemoteOffer(gen, message.raw, message.digest)
            self._remote.refusal = Reject(RejectCode.UNSUPPORTED, "a restart keeps the DTLS fingerprint and role")
            if rolled_back:
                self._events.append(LocalOfferCanceled(self.id, gen))
            self._send_refusal(self._remote, now=now, wall=wall)
            raise DecodeError("restart-changes-dtls")
        self._take_offer(message, envelope, offer, rolled_back=rolled_back, now=now)

    def _take_offer(
        self, message: VerifiedJws, envelope: Envelope, offer: Offer, *, rolled_back: bool, now: float
    ) -> None:
        gen = envelope.route.gen
        self._supersede_remote_offer()
        description = Description.read(offer.sdp)
        self._guard.learn_offer(description)
        self._highest = gen
        self._remote = RemoteOffer(gen, message.raw, message.digest)
        self._events.append(OfferReceived(self.id, gen, offer.sdp, offer.want, rolled_back))
        self._incoming.described(gen, envelope.seq, description, now=now)

    def _on_answer(self, envelope: Envelope, answer: Answer, *, now: float) -> None:
        gen = envelope.route.gen
        local = pending_offer(self._local, envelope)
        description = Description.read(answer.sdp)
        if not self._guard.allows(description, offer=False):
            # The offer stays unanswered and expires; the session goes on as it was.
            raise DecodeError("restart-changes-dtls")
        self._finish(local)
        self._remote = None
        self._guard.learn_answer(description)
        self._events.append(AnswerReceived(self.id, gen, answer.sdp))
        self._incoming.described(gen, envelope.seq, description, now=now)
        self._settle(gen)

    def _on_reject(self, envelope: Envelope, reject: Reject) -> None:
        local = pending_offer(self._local, envelope)
        self._finish(local)
        self._outgoing.withdrawn(local.gen)
        if local.gen == 0:
            self._end()
        self._events.append(OfferRejected(self.id, local.gen, reject.code, reject.reason, reject.retry_after))

    # What goes out

    def _send(self, jws: bytes, expiry: int, *, mqtt_only: bool = False) -> None:
        channel = self.channel_open and not mqtt_only
        self._actions.append(SendSignal(self.id, "both" if channel else "mqtt", jws, expiry))

    def _repeat_offer(self) -> None:
        local = self._local
        if local is None or local.state is not OfferState.PENDING:
            return
        self._send(local.jws, OFFER_EXPIRY, mqtt_only=local.gen == 0)
        local.repeats += 1
        self._arm_repeat(local)

    def _arm_repeat(self, local: LocalOffer) -> None:
        at = local.repeat_at()
        if at is not None:
            self._timers.set(_Timer.REPEAT, at)

    def _expire_offer(self) -> None:
        local = self._local
        if local is None or local.state is not OfferState.PENDING:
            return
        self._timers.cancel(_Timer.REPEAT)
        local.state = OfferState.EXPIRED
        self._outgoing.withdrawn(local.gen)
        self._events.append(OfferExpired(self.id, local.gen))

    def _repeat_reply(self, remote: RemoteOffer, road: Road, *, now: float, wall: int | None) -> None:
        if remote.reply is not None:
            # On the road that the copy took (§5).
            self._actions.append(SendSignal(self.id, road, remote.reply, OFFER_EXPIRY))
        elif remote.refusal is not None:
            self._send_refusal(remote, now=now, wall=wall)
        else:
            self.drops.count("duplicate")

    def _send_refusal(self, remote: RemoteOffer, *, now: float, wall: int | None) -> None:
        assert remote.refusal is not None
        if self._rejects.allow(self.id.kid, now=now):
            remote.reply = self._signer.sign(remote.refusal, remote.gen, wall=wall, re=remote.digest)
            self._send(remote.reply, OFFER_EXPIRY)
            if remote.gen == 0:
                self._end()
        else:
            self.drops.count("reject-rate")

    def _describe(self, gen: int, description: Description, wall: int | None) -> None:
        """The own description of `gen` is out: its candidates may follow."""
        for body in self._outgoing.described(gen, description):
            self._send_candidates(gen, body, wall)

    def _send_candidates(self, gen: int, body: Candidates, wall: int | None) -> None:
        self._send(self._signer.sign(body, gen, wall=wall), CANDIDATES_EXPIRY)

    # State

    def _drop_local_offer(self) -> bool:
        """The own offer gives way to another one; True if it was pending."""
        local = self._local
        if local is None or local.state is OfferState.SETTLED:
            return False
        was_pending = local.state is OfferState.PENDING
        self._finish(local)
        self._outgoing.withdrawn(local.gen)
        return was_pending

    def _supersede_remote_offer(self) -> None:
        """A peer's offer that was never answered gives way to a higher generation."""
        if self._remote is not None and self._remote.reply is None:
            self._incoming.withdrawn(self._remote.gen)
            self._remote = None

    def _finish(self, local: LocalOffer) -> None:
        local.state = OfferState.SETTLED
        self._timers.cancel(_Timer.REPEAT)
        self._timers.cancel(_Timer.ANSWER)

    def _settle(self, gen: int) -> None:
        """Offer and answer of `gen` are complete: nothing of lower generations is sent or taken any more."""
        self._incoming.settled(gen)
        self._outgoing.settled(gen)

    def _end(self) -> None:
        self.ended = True
        self._timers.clear()
        self._outgoing.clear()
        self._incoming.clear()
        if self._on_end is not None:
            self._on_end(self.id)
