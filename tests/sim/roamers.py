"""The ends of a session with data channels that moves: what joins it to its signaling, restarts it and uses it."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import Final

from edgeice import sctp
from edgeice.addresses import Base
from edgeice.errors import LocalProtocolError
from edgeice.ice import Role
from edgeice.peer import (
    CandidateGathered,
    CandidatesEnded,
    CandidateWithdrawn,
    ConnectionEnded,
    ConnectionState,
    PathChanged,
    RestartEnded,
    StateChanged,
)
from edgeice.sansio import Entropy, Event
from edgeice.signaling import (
    AnswerReceived,
    ByeReceived,
    CandidatesReceived,
    EndOfCandidatesReceived,
    LocalOfferCanceled,
    OfferExpired,
    OfferReceived,
    OfferRejected,
    Party,
    PrivateKey,
    Road,
    SendSignal,
    SignalingSession,
)
from edgeice.signaling.events import SessionId
from edgeice.signaling.jws import decode, verify
from edgeice.signaling.messages import Envelope, Offer, decode_body
from tests.sim.agents import Agent
from tests.sim.plain import connect_plain
from tests.sim.recovery import Recovery
from tests.sim.roads import Broker
from tests.sim.signaling import CandidateSaid, CandidatesEndedSaid, Description
from tests.sim.streams import Stream

__all__ = ["Roamer", "join"]

_OPERATOR: Final = Party.operator("lab", "alice")
_DEVICE: Final = Party.device("lab", "pi17")
_KEYS: Final = {
    party: PrivateKey.generate(Entropy(token_bytes=lambda n, seed=number: bytes([seed]) * n))  # type: ignore[misc]
    for number, party in enumerate((_OPERATOR, _DEVICE), 1)
}
_SID: Final = "A" * 22
_SIGNAL: Final = "edgeice.signal.1"
_WALL: Final = 1_800_000_000

_LINE: Final = re.compile(r"^a=(ice-ufrag|ice-pwd|candidate|ice-pacing|end-of-candidates):?(.*?)\r?$", re.MULTILINE)


class Roamer:
    """One end of a session.

    Args:
        agent: Whose session it is.
        is_operator: Makes the first offer and nominates.
        broker: One road of its signaling; the other one is a channel of its own.
        stream: What it sends and hears.
    """

    def __init__(self, agent: Agent, *, is_operator: bool, broker: Broker, stream: Stream) -> None:
        self.agent = agent
        self.offers = is_operator
        self.stream = stream
        self.peer: Roamer
        self.path = PathChanged(None)
        self.ended: ConnectionEnded | None = None
        #: When it offered restarts.
        self.restarts: list[float] = []
        role = Role.CONTROLLING if is_operator else Role.CONTROLLED
        self.connection = connect_plain(agent.endpoint, role, agent.name, now=agent.now)
        me, peer = (_OPERATOR, _DEVICE) if is_operator else (_DEVICE, _OPERATOR)
        self.signaling = SignalingSession(
            me=me,
            key=_KEYS[me],
            session=SessionId(peer, _KEYS[peer].public.kid, _SID),
            peer_key=_KEYS[peer].public,
        )
        self.recovery = Recovery(self, self._restart, self._give_up, order_apart=not is_operator)
        self._broker = broker
        self._generations: dict[str, int] = {}
        self._signal_channel: int | None = None
        self._armed_at = math.inf
        self._used = False
        self._restarting = False
        self._accepted = False
        #: What came before the first offer.
        self._early: list[bytes | str] = []
        agent.parties.append(self)

    # What others ask

    @property
    def name(self) -> str:
        """Of its host."""
        return self.agent.name

    @property
    def is_connected(self) -> bool:
        """Whether a nominated pair carries data."""
        return self.connection.state is ConnectionState.CONNECTED and self.path.nominated

    @property
    def is_settled(self) -> bool:
        """Connected, and no restart is under way."""
        return self.is_connected and not self._restarting

    @property
    def bases(self) -> tuple[Base, ...]:
        """The host's addresses."""
        return tuple(
            Base(address, interface.plan.name, cost=interface.plan.cost)
            for address, interface in self.agent.bases.items()
        )

    @property
    def knows_mobility(self) -> bool:
        """Both ends move by themselves."""
        return self.connection._link.ice._slots.current.is_mobile

    # Beginning and end

    def begin(self) -> None:
        """Make the first offer."""
        sdp = self.connection.create_offer(now=self.agent.now)
        self._said(sdp, 0, is_offer=True)
        self.signaling.offer(sdp, now=self.agent.now, wall=_WALL, nonce="nonce")
        self.settle_signaling()

    def close(self) -> None:
        """End the session."""
        self.connection.close(now=self.agent.now)
        self.agent.settle()

    def _release(self) -> None:
        self.agent.parties.remove(self)
        self.agent.endpoint.release(self.connection, now=self.agent.now)
        self.signaling.bye("closed", wall=_WALL)
        self.agent.settle()

    # Restarts

    def network_changed(self) -> None:
        """The host's interfaces changed."""
        if self.ended is None:
            self.recovery.look(self.agent.now)
            self._later()

    def _give_up(self) -> None:
        self.close()

    def _restart(self) -> None:
        """Offer a restart; an own offer that is out gives way to it."""
        now = self.agent.now
        if self.ended is not None or self.signaling.ended:
            return
        if self.connection.awaits_answer:
            self.connection.rollback(now=now)
        gen = self.signaling.next_gen
        sdp = self.connection.restart(now=now)
        self._restarting = True
        self.restarts.append(now)
        self._said(sdp, gen, is_offer=True)
        self.signaling.offer(sdp, now=now, wall=_WALL)
        self.settle_signaling()
        self.agent.settle()

    # The session's events

    def take(self, event: Event) -> None:
        """Hear what the session tells."""
        self.agent.watch.told(self, event)
        self._take_candidate(event)
        now = self.agent.now
        match event:
            case PathChanged():
                self.path = event
                self.recovery.path_changed(event, now)
                self._later()
            case RestartEnded():
                self._restarting = False
                if event.succeeded:
                    self.recovery.policy.began()
                else:
                    self.recovery.policy.failed()
                self._later()
            case StateChanged(state=ConnectionState.CONNECTED) if not self._used:
                self._connected(now)
            case sctp.ChannelOpened():
                self._channel_opened(event)
            case sctp.MessageReceived():
                self._message(event)
            case ConnectionEnded():
                self.ended = event
                self.agent.network.clock.after(0.0, self._release)
            case _:
                pass

    def _take_candidate(self, event: Event) -> None:
        match event:
            case CandidateGathered():
                self.agent.watch.said(self, CandidateSaid(event.candidate, event.ufrag))
                self._send_candidates(event.ufrag, (event.candidate,), end=False)
            case CandidatesEnded():
                self.agent.watch.said(self, CandidatesEndedSaid(event.ufrag))
                self._send_candidates(event.ufrag, (), end=True)
            case CandidateWithdrawn():
                self._send_candidates(event.ufrag, (), removed=(event.candidate,), end=False)
            case _:
                pass

    def _connected(self, now: float) -> None:
        self._used = True
        if self.offers:
            self._signal_channel = self.connection.channels.open("signal", _SIGNAL, now=now)
            self.stream.open(self.connection.channels.open("stream", now=now))
            self.connection.flush(now=now)

    def _channel_opened(self, event: sctp.ChannelOpened) -> None:
        if event.label == "stream":
            self.stream.open(event.channel_id)
        else:
            self._signal_channel = event.channel_id
            self.signaling.channel_open = True

    def _message(self, event: sctp.MessageReceived) -> None:
        if event.channel_id == self._signal_channel:
            data = event.data
            self.agent.network.clock.after(0.0, lambda: self._receive(data, "channel"))
        elif isinstance(event.data, bytes):
            self.stream.receive(event.data, self.agent.now)
        if self.connection.channels.consumed(event.charge, now=self.agent.now):
            self.connection.flush(now=self.agent.now)

    def _later(self) -> None:
        """Let the recovery think, after the machine that speaks is done."""
        self.agent.network.clock.after(0.0, self._recover)

    def _recover(self) -> None:
        if self.ended is None and self._used:
            self.recovery.act(self.agent.now)
            self._arm()

    # Signaling

    def _send_candidates(self, ufrag: str, lines: tuple[str, ...], *, removed: tuple[str, ...] = (), end: bool) -> None:
        gen = self._generations.get(ufrag)
        if gen is not None:
            self.signaling.send_candidates(gen, ufrag, lines, end=end, removed=removed, now=self.agent.now, wall=_WALL)
            self._later_signaling()

    def _later_signaling(self) -> None:
        self.agent.network.clock.after(0.0, self.settle_signaling)

    def settle_signaling(self) -> None:
        """Send what there is to say, act on what was heard, arm the timer."""
        while True:
            while (action := self.signaling.poll_action()) is not None:
                if isinstance(action, SendSignal):
                    self._send(action)
            event = self.signaling.poll_event()
            if event is None:
                break
            self._heard(event)
        self.agent.settle()
        self._arm()

    def _send(self, action: SendSignal) -> None:
        peer = self.peer
        if action.road != "channel":
            self._broker.publish(self.name, peer.name, action.expiry, lambda: peer._receive(action.jws, "mqtt"))
        if action.road != "mqtt" and self._signal_channel is not None and self.ended is None:
            with suppress(LocalProtocolError):  # it is over, or full
                self.connection.channels.send(self._signal_channel, action.jws.decode(), now=self.agent.now)
                self.connection.flush(now=self.agent.now)

    def _receive(self, jws: bytes | str, road: Road) -> None:
        if self.ended is not None:
            return
        now = self.agent.now
        if not self.offers and not self._accepted:
            self._accept_first(jws, now)
        else:
            self.signaling.receive_jws(jws, road, now=now, wall=_WALL)
        self.settle_signaling()

    def _accept_first(self, jws: bytes | str, now: float) -> None:
        """What a device's admission does."""
        verified = verify(decode(jws if isinstance(jws, bytes) else jws.encode()), _KEYS[_OPERATOR].public)
        envelope = Envelope.decode(verified.claims)
        offer = decode_body(envelope)
        if not isinstance(offer, Offer):
            self._early.append(jws)
            return
        self._accepted = True
        self.signaling.accept_first(verified, envelope, offer, now=now)
        for early in self._early:
            self.signaling.receive_jws(early, "mqtt", now=now, wall=_WALL)

    def _heard(self, event: Event) -> None:
        now, connection = self.agent.now, self.connection
        if self.ended is not None:
            return
        match event:
            case OfferReceived():
                self._take_offer(event)
            case AnswerReceived():
                self._take_answer(event)
            case CandidatesReceived():
                self._take_candidates(event)
            case EndOfCandidatesReceived():
                connection.end_of_candidates(event.ufrag, now=now)
            case LocalOfferCanceled() | OfferExpired() | OfferRejected():
                if event.gen > 0 and connection.awaits_answer:
                    connection.rollback(now=now)
                    self._restarting = False
                self.recovery.policy.failed()
            case ByeReceived():
                connection.close(now=now)
            case _:
                raise AssertionError(event)

    def _take_answer(self, event: AnswerReceived) -> None:
        description = _describe(event.sdp, event.gen, is_offer=False)
        self.agent.watch.heard(self, description)
        self.agent.watch.taken(self, description)
        self.recovery.policy.checking(now=self.agent.now)
        self.connection.accept_answer(event.sdp, now=self.agent.now)

    def _take_candidates(self, event: CandidatesReceived) -> None:
        now = self.agent.now
        for line in event.removed:
            self.agent.watch.withdrawn(self, line)
            self.connection.remove_remote_candidate(line, event.ufrag, now=now)
        for line in event.candidates:
            self.agent.watch.heard(self, CandidateSaid(line, event.ufrag))
            self.connection.add_remote_candidate(line, event.ufrag, now=now)

    def _take_offer(self, event: OfferReceived) -> None:
        now, connection = self.agent.now, self.connection
        if event.rolled_back or (connection.awaits_answer and event.gen):
            connection.rollback(now=now)
        description = _describe(event.sdp, event.gen, is_offer=True)
        self.agent.watch.heard(self, description)
        self.agent.watch.taken(self, description)
        sdp = connection.accept_offer(event.sdp, now=now)
        self._restarting = event.gen > 0
        self.recovery.policy.checking(now=now)
        self._said(sdp, event.gen, is_offer=False)
        self.signaling.answer(event.gen, sdp, wall=_WALL)

    def _said(self, sdp: str, gen: int, *, is_offer: bool) -> None:
        description = _describe(sdp, gen, is_offer=is_offer)
        self._generations[description.ufrag] = gen
        self.agent.watch.said(self, description)

    # Time

    def _arm(self) -> None:
        at = self.signaling.next_timeout()
        at = math.inf if at is None else at
        if self._used:
            at = min(at, self.recovery.next_at(self.agent.now))
        if at < self._armed_at:
            self._armed_at = at
            self.agent.network.clock.at(at, lambda: self._wake(at))

    def _wake(self, at: float) -> None:
        if at != self._armed_at:
            return
        self._armed_at = math.inf
        if self.ended is not None:
            return
        now = self.agent.now
        self.signaling.handle_timeout(now=now, wall=_WALL)
        self._recover()
        self.settle_signaling()

    # Use

    def send_next(self) -> None:
        """Send the next piece of the stream, unless much is under way already."""
        if self.ended is None and self.stream.channel is not None and self.stream.has_room:
            with suppress(LocalProtocolError):
                self.connection.channels.send(self.stream.channel, self.stream.next(), now=self.agent.now)
                self.connection.flush(now=self.agent.now)
                self.agent.settle()

    def probe(self, data: bytes) -> None:
        """Send a datagram beside the stream on the path that carries data."""
        self.connection._link.send(data)
        self.agent.settle()


def join(one: Roamer, other: Roamer) -> None:
    """Make two ends one session."""
    one.peer, other.peer = other, one
    one.stream.peer, other.stream.peer = other.stream, one.stream


def _describe(sdp: str, generation: int, *, is_offer: bool) -> Description:
    """What the monitor wants to know of a description."""
    found: dict[str, list[str]] = {}
    for match in _LINE.finditer(sdp):
        found.setdefault(match[1], []).append(match[2])
    pacing = found.get("ice-pacing")
    return Description(
        is_offer=is_offer,
        generation=generation,
        ufrag=found["ice-ufrag"][0],
        pwd=found["ice-pwd"][0],
        candidates=tuple(f"candidate:{line}" for line in found.get("candidate", ())),
        ended="end-of-candidates" in found,
        pacing=int(pacing[0]) / 1000 if pacing else None,
    )
