"""An operator's way to a device: `info`, its key, the offer, and what can go wrong (contract §3, §5).

One `Connector` makes one session with one device, and carries that session's signaling for its whole life.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.sansio import DropCounter, Entropy, Event, TimerTable
from edgeice.signaling.clock import BUILD_DATE
from edgeice.signaling.documents import Info, SignedInfo, open_info
from edgeice.signaling.encoding import b64url_encode
from edgeice.signaling.events import (
    AnswerReceived,
    ByeReceived,
    DeviceBusy,
    DeviceKeyPresented,
    DeviceNotSeen,
    DeviceSaidAway,
    FailureKind,
    NothingHeard,
    OfferExpired,
    OfferNeeded,
    OfferRejected,
    OperatorFailed,
    SessionId,
    SignalAction,
)
from edgeice.signaling.keys import PrivateKey, PublicKey
from edgeice.signaling.messages import ByeCode, RejectCode
from edgeice.signaling.names import Party
from edgeice.signaling.presence import State, Status, seen_state
from edgeice.signaling.session import ANSWER_TIMEOUT, SignalingSession

__all__ = ["INFO_TIME", "SILENCE_TIME", "UNSEEN_TIME", "Connector", "ConnectorState"]

#: Seconds to wait for a retained `info`, or for one with another nonce.
INFO_TIME = 5.0
#: Seconds without an `info`, or without a status of its epoch, after which the person is told: with the start of the
#: program and the way to the broker no more than two.
UNSEEN_TIME = 1.0
#: Seconds of silence after which the person is told.
SILENCE_TIME = 5.0
#: What a busy device is given at least before it is asked again, seconds, and by how much of it at most this is later,
#: so that those who were refused together do not come back together.
_RETRY_TIME = 1.0
_RETRY_SPREAD = 0.5


class ConnectorState(Enum):
    """Where an attempt stands."""

    WAITING_FOR_INFO = auto()
    #: The person compares the key's fingerprint.
    CONFIRMING_KEY = auto()
    #: The caller makes a description.
    PREPARING_OFFER = auto()
    OFFERED = auto()
    #: The nonce was stale; the device publishes another one.
    WAITING_FOR_NONCE = auto()
    #: The device was busy; it is asked again in a moment.
    WAITING_FOR_ROOM = auto()
    ESTABLISHED = auto()
    OVER = auto()


_S = ConnectorState
_NEXT: dict[ConnectorState, frozenset[ConnectorState]] = {
    _S.WAITING_FOR_INFO: frozenset({_S.CONFIRMING_KEY, _S.PREPARING_OFFER, _S.OVER}),
    _S.CONFIRMING_KEY: frozenset({_S.PREPARING_OFFER, _S.OVER}),
    _S.PREPARING_OFFER: frozenset({_S.OFFERED, _S.OVER}),
    _S.OFFERED: frozenset({_S.ESTABLISHED, _S.WAITING_FOR_NONCE, _S.WAITING_FOR_ROOM, _S.OVER}),
    _S.WAITING_FOR_ROOM: frozenset({_S.PREPARING_OFFER, _S.OVER}),
    _S.WAITING_FOR_NONCE: frozenset({_S.PREPARING_OFFER, _S.OVER}),
    _S.ESTABLISHED: frozenset({_S.OVER}),
    _S.OVER: frozenset(),
}


class _Timer(Enum):
    INFO = auto()
    UNSEEN = auto()
    SILENCE = auto()
    ROOM = auto()


class Connector:
    """One attempt to reach a device, and the session that comes of it.

    A machine as in `edgeice.sansio`, with `SignalAction`s for actions.  Before `start` the owner subscribes to the
    device's `status` and `info` and to the operator's `rx` topic of this device.
    """

    def __init__(
        self,
        *,
        me: Party,
        key: PrivateKey,
        device: Party,
        pinned: PublicKey | None,
        want: tuple[str, ...],
        entropy: Entropy,
        timeout: float = ANSWER_TIMEOUT,
        floor: int = BUILD_DATE,
    ) -> None:
        """Prepare an attempt.

        Args:
            me: The operator's party.
            key: Its key.
            device: Whom to reach.
            pinned: The device's key in `known_devices`, None at first contact.
            want: The capabilities that the session will use.
            entropy: For the `sid`.
            timeout: Seconds after which an unanswered offer is given up, and a busy device is not asked again.
            floor: What stands in `iat` where no time is given.
        """
        self.drops = DropCounter()
        self.state = ConnectorState.WAITING_FOR_INFO
        #: The device's newest accepted `info`.
        self.info: Info | None = None
        #: The session's machine, once there is an offer to make.
        self.session: SignalingSession | None = None
        #: Why the device took no session when it was asked last; empty where it did not say so.
        self.busy = ""
        self._me = me
        self._key = key
        self._device = device
        self._device_key = pinned
        self._want = want
        self._entropy = entropy
        self._timeout = timeout
        self._floor = floor
        self._status: Status | None = None
        self._said_away = False
        self._presented: Info | None = None
        #: The nonce of the first offer, once it was rejected as stale.
        self._stale_nonce: str | None = None
        self._used_nonce = ""
        #: When the attempt is over, from the first offer on.
        self._give_up_at: float | None = None
        self._timers: TimerTable[_Timer] = TimerTable()
        self._actions: deque[SignalAction] = deque()
        self._events: deque[Event] = deque()
        self._session_events: deque[Event] = deque()

    # Commands

    def start(self, *, now: float) -> None:
        """Begin to wait for the retained `info`; 5 s later the attempt fails without one."""
        self._timers.set(_Timer.UNSEEN, now + UNSEEN_TIME)
        self._timers.set(_Timer.INFO, now + INFO_TIME)

    def accept_key(self, key: PublicKey) -> None:
        """The person accepts the key that was presented; the caller pins it."""
        if self.state is not ConnectorState.CONFIRMING_KEY or self._presented is None or self._presented.key != key:
            raise LocalProtocolError("this key was not presented")
        self._device_key = key
        self._use_info(self._presented)
        self._prepare_offer(retry=False)

    def offer(self, sdp: str, *, now: float, wall: int | None) -> None:
        """Send the description that `OfferNeeded` asked for."""
        if self.state is not ConnectorState.PREPARING_OFFER or self.session is None or self.info is None:
            raise LocalProtocolError("no offer is needed")
        self._go(ConnectorState.OFFERED)
        self._used_nonce = self.info.nonce
        if self._give_up_at is None:
            self._give_up_at = now + self._timeout
        self.session.offer(sdp, now=now, wall=wall, want=self._want, nonce=self._used_nonce)
        if seen_state(self._status, self.info.epoch) is State.UNKNOWN:
            self._timers.set(_Timer.UNSEEN, now + UNSEEN_TIME)
        if self._timeout > SILENCE_TIME:
            self._timers.set(_Timer.SILENCE, now + SILENCE_TIME)

    def close(self, code: str, reason: str = "", *, wall: int | None) -> None:
        """Give up, or end the session: the device is told with `bye` if it may have heard of it."""
        if self.state is ConnectorState.OVER:
            return
        if self.session is not None and self.session.next_gen > 0:
            self.session.bye(code, reason, wall=wall)
        self._finish()

    # Inputs

    def receive_info(self, payload: bytes) -> None:
        """Take what came on the device's `info` topic."""
        try:
            signed = open_info(payload)
            self._receive_info(signed)
        except DecodeError as error:
            self.drops.count(error.reason)

    def receive_status(self, payload: bytes) -> None:
        """Take what came on the device's `status` topic: a hint that stops nothing."""
        try:
            self._status = Status.decode(payload)
        except DecodeError as error:
            self.drops.count(error.reason)
        self._say_away()

    def receive(self, sender: Party, payload: bytes, *, now: float, wall: int | None) -> None:
        """Take what came on the operator's `rx` topic whose last level names `sender`."""
        if sender != self._device or self.session is None or self.state is ConnectorState.OVER:
            self.drops.count("foreign-party")
            return
        self.session.receive_jws(payload, "mqtt", now=now, wall=wall)
        self._pump(now=now, wall=wall)

    def receive_channel(self, text: str, *, now: float, wall: int | None) -> None:
        """Take what came on the session's signal channel (§8)."""
        if self.session is None or self.state is ConnectorState.OVER:
            self.drops.count("foreign-session")
            return
        self.session.receive_jws(text, "channel", now=now, wall=wall)
        self._pump(now=now, wall=wall)

    def handle_timeout(self, *, now: float, wall: int | None) -> None:
        """Do what is due."""
        while (timer := self._timers.pop_due(now)) is not None:
            if timer is _Timer.SILENCE:
                self._events.append(NothingHeard(self._key.public.fingerprint))
            elif timer is _Timer.UNSEEN:
                self._say_unseen()
            elif timer is _Timer.ROOM:
                self._prepare_offer(retry=True)
            elif self.state is ConnectorState.WAITING_FOR_NONCE:
                self._fail("rejected", RejectCode.STALE_NONCE, "the device published no other nonce")
            else:
                self._fail("no-info", reason="nothing is known of this device at the broker")
        if self.session is not None and self.state is not ConnectorState.OVER:
            self.session.handle_timeout(now=now, wall=wall)
            self._pump(now=now, wall=wall)

    def next_timeout(self) -> float | None:
        """The earliest deadline."""
        if self.state is ConnectorState.OVER:
            return None
        ends = (self._timers.next(), self.session.next_timeout() if self.session else None)
        return min((at for at in ends if at is not None), default=None)

    def poll_action(self) -> SignalAction | None:
        """Next thing to send."""
        return self._actions.popleft() if self._actions else None

    def poll_event(self) -> Event | None:
        """Next thing to know."""
        return self._events.popleft() if self._events else None

    # Inside

    def _receive_info(self, signed: SignedInfo) -> None:
        info = signed.info
        if signed.device != self._device:
            raise DecodeError("foreign-party")
        if self._device_key is None:
            self._present(info)
        elif info.key != self._device_key:
            # Once the right key has shown itself, a forged document is only noise.
            if self.state is not ConnectorState.WAITING_FOR_INFO:
                raise DecodeError("changed-key")
            self._fail("changed-key", reason="the device's key is not the pinned one", key=info.key)
        elif self.info is not None and info.epoch < self.info.epoch:
            raise DecodeError("lower-epoch")
        else:
            self._use_info(info)
            if self.state is ConnectorState.WAITING_FOR_INFO:
                self._prepare_offer(retry=False)
            elif self.state is ConnectorState.WAITING_FOR_NONCE and info.nonce != self._stale_nonce:
                self._prepare_offer(retry=True)

    def _present(self, info: Info) -> None:
        if self.state is ConnectorState.WAITING_FOR_INFO:
            self._timers.clear()
            self._go(ConnectorState.CONFIRMING_KEY)
            self._presented = info
            self._events.append(DeviceKeyPresented(self._device, info.key))
        elif self._presented is not None and info.key == self._presented.key and info.epoch >= self._presented.epoch:
            self._presented = info
        else:
            raise DecodeError("changed-key")

    def _use_info(self, info: Info) -> None:
        self.info = info
        self._say_away()

    def _prepare_offer(self, *, retry: bool) -> None:
        assert self._device_key is not None
        self._timers.clear()
        self._go(ConnectorState.PREPARING_OFFER)
        sid = b64url_encode(self._entropy.token_bytes(16))
        self.session = SignalingSession(
            me=self._me,
            key=self._key,
            session=SessionId(self._device, self._device_key.kid, sid),
            peer_key=self._device_key,
            floor=self._floor,
            answer_timeout=self._timeout,
            actions=self._actions,
            events=self._session_events,
            drops=self.drops,
        )
        self._events.append(OfferNeeded(self.session.id, retry))

    def _say_away(self) -> None:
        # Once it answered, a broker that lost it means nothing to the session.
        if self.info is None or self._said_away or self.state in (_S.ESTABLISHED, _S.OVER):
            return
        state = seen_state(self._status, self.info.epoch)
        if state in (State.OFF, State.LOST):
            self._said_away = True
            self._events.append(DeviceSaidAway(state))

    def _say_unseen(self) -> None:
        if self.info is None:
            self._events.append(DeviceNotSeen())
        elif not self._said_away and seen_state(self._status, self.info.epoch) is State.UNKNOWN:
            self._said_away = True
            self._events.append(DeviceSaidAway(State.UNKNOWN))

    def _pump(self, *, now: float, wall: int | None) -> None:
        """Pass the session's events on, and act on those about the first offer."""
        while self._session_events:
            event = self._session_events.popleft()
            match event:
                case AnswerReceived(gen=0):
                    self._timers.clear()
                    self._go(ConnectorState.ESTABLISHED)
                    self._events.append(event)
                case OfferRejected(gen=0):
                    self._on_rejected(event, now=now)
                case OfferExpired(gen=0):
                    # The device may hold a slot for an answer that got lost.
                    assert self.session is not None
                    self.session.bye(ByeCode.ERROR, "no answer in time", wall=wall)
                    self._fail("no-answer", reason="the device did not answer")
                case ByeReceived():
                    self._events.append(event)
                    self._finish()
                case _:
                    self._events.append(event)

    def _on_rejected(self, event: OfferRejected, *, now: float) -> None:
        assert self.info is not None
        self._timers.cancel(_Timer.SILENCE)
        if event.code == RejectCode.BUSY:
            self.busy = event.reason or "no session is free"
            again_in = max(event.retry_after or 0, _RETRY_TIME) * (1 + _RETRY_SPREAD * self._dice())
            if self._give_up_at is not None and now + again_in < self._give_up_at:
                self._go(ConnectorState.WAITING_FOR_ROOM)
                self._timers.set(_Timer.ROOM, now + again_in)
                self._events.append(DeviceBusy(self.busy, again_in))
                return
        if event.code != RejectCode.STALE_NONCE or self._stale_nonce is not None:
            self._fail("rejected", event.code, event.reason, event.retry_after)
            return
        self._stale_nonce = self._used_nonce
        self._go(ConnectorState.WAITING_FOR_NONCE)
        if self.info.nonce != self._stale_nonce:
            # The device publishes before it rejects, so the new `info` is often here first.
            self._prepare_offer(retry=True)
        else:
            self._timers.set(_Timer.INFO, now + INFO_TIME)

    def _dice(self) -> float:
        """A number from 0 to 1."""
        return self._entropy.token_bytes(1)[0] / 255

    def _fail(
        self,
        kind: FailureKind,
        code: str = "",
        reason: str = "",
        retry_after: int | None = None,
        key: PublicKey | None = None,
    ) -> None:
        self._events.append(OperatorFailed(kind, str(code), reason, retry_after, key))
        self._finish()

    def _finish(self) -> None:
        self._timers.clear()
        if self.state is not ConnectorState.OVER:
            self._go(ConnectorState.OVER)

    def _go(self, state: ConnectorState) -> None:
        assert state in _NEXT[self.state], (self.state, state)
        self.state = state
