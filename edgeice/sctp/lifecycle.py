"""How an association begins and ends (RFC 9260 §5, §9): everything that moves it between states.

`association` builds on this and adds the flow of data, the timers and the taking apart of packets.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum

import attrs

from edgeice.errors import DecodeError
from edgeice.sansio import DropCounter, Entropy, TimerTable
from edgeice.sctp.chunks import TSN, Cause, ChunkType, decode_causes, encode_cause, encode_chunk
from edgeice.sctp.config import SctpConfig
from edgeice.sctp.congestion import CongestionControl, Rfc9260
from edgeice.sctp.handshake import Handshake, PeerTerms
from edgeice.sctp.heartbeat import Liveness
from edgeice.sctp.outbox import Outbox
from edgeice.sctp.receiver import Receiver
from edgeice.sctp.reset import StreamReset
from edgeice.sctp.rto import RttEstimator
from edgeice.sctp.sender import Sender
from edgeice.sctp.serial import MASK32
from edgeice.sctp.states import CONNECTED, RECEIVING, TRANSITIONS, Input, State
from edgeice.sctp.streams import SendQueue

__all__ = ["Closed", "Established", "Lifecycle", "Timer"]

_NEVER = math.inf
#: What the peer is told where no cause of its own fits, such as its silence: anything but a user's wish.
_GIVEN_UP = encode_cause(Cause.PROTOCOL_VIOLATION)


class Timer(Enum):
    """Timers by their names in RFC 9260, so that a trace can say what woke the device."""

    T1 = "T1-init or T1-cookie"
    T2 = "T2-shutdown"
    T3 = "T3-rtx"
    PROBE = "tail loss probe"
    SETTLED = "path that was left"
    T5 = "T5-shutdown-guard"
    SACK = "delayed SACK"
    RECONFIG = "RE-CONFIG"
    HEARTBEAT = "heartbeat"
    HEARTBEAT_ANSWER = "heartbeat answer"


@attrs.frozen
class Established:
    """Notice: data can flow."""

    peer: PeerTerms


@attrs.frozen
class Closed:
    """Notice: the association ended."""

    reason: str
    #: Something failed; False after a shutdown, or where an end's user closed the association.
    broken: bool


class Lifecycle:
    """The state of an association, its parts, and the chunks that set it up and end it."""

    def __init__(self, config: SctpConfig, entropy: Entropy, congestion: CongestionControl | None = None) -> None:
        self._config = config
        self.state = State.CLOSED
        self.notices: deque[object] = deque()
        self.drops = DropCounter()
        self._handshake = Handshake(config, entropy)
        self._rtt = RttEstimator(initial=config.rto_initial, minimum=config.rto_min, maximum=config.rto_max)
        control = congestion or Rfc9260(mtu=config.mtu, initial_packets=config.initial_window)
        self.queue = SendQueue(config.buffered_amount_low)
        self.sender = Sender(self.queue, self._rtt, control, self._handshake.local_tsn)
        self.liveness = Liveness(config, entropy)
        self._timers: TimerTable[Timer] = TimerTable()
        self._outbox = Outbox(config)
        #: No path is there: nothing is sent and no timer runs.
        self._paused = False
        self._receiving = False
        self._peer: PeerTerms | None = None
        # Both are made anew when the peer's terms are known.
        self._receiver = Receiver(config, 0, self.notices, self.drops)
        self._reset = self._new_reset(0)
        self._cookie_echo = b""
        #: Answer to a peer that did not hear of the end (RFC 9260 §8.4).
        self._farewell = encode_chunk(ChunkType.ABORT)
        self._attempts = 0
        self._setup_sent_at = 0.0

    def _new_reset(self, remote_sequence: int) -> StreamReset:
        return StreamReset(
            queue=self.queue,
            sender=self.sender,
            receiver=self._receiver,
            notices=self.notices,
            drops=self.drops,
            local_sequence=self._handshake.local_tsn,
            remote_sequence=remote_sequence,
        )

    def _move(self, event: Input) -> bool:
        """Take the transition, if there is one."""
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            return False
        self.state = after
        self._receiving = after in RECEIVING
        return True

    # --- setting up

    def start(self, *, now: float) -> None:
        """Begin to set up; both ends may (RFC 8841 §9.3).  Does nothing where that is under way or done."""
        if self._move(Input.ASSOCIATE):
            self._send_setup(now)

    def _send_setup(self, now: float) -> None:
        """INIT, or COOKIE ECHO with the data that fits beside it (RFC 9260 §5.1)."""
        if self.state is State.COOKIE_ECHOED:
            self.sender.lose_all(now=now)
            self._outbox.emit_with_data(self._cookie_echo, self.sender, now=now)
            self.sender.stop_timers()  # T1 repeats both
        else:
            self._outbox.emit(self._handshake.init(), tag=0)
        self._setup_sent_at = now
        self._timers.set(Timer.T1, now + self._rtt.rto)

    def _on_t1(self, now: float) -> None:
        """RFC 9260 §5.1.4: so often and no more."""
        self._attempts += 1
        if self._attempts > self._config.max_init_retransmits:
            self._abort("no answer to association setup")
            return
        self._rtt.back_off()
        self._send_setup(now)

    def _on_init(self, value: bytes, now: float) -> None:
        """Answer an INIT without keeping anything of it."""
        if self.state is State.ENDED:
            raise DecodeError("ended")
        if self.state is State.SHUTDOWN_ACK_SENT:  # RFC 9260 §9.2
            self._send_shutdown(now)
            return
        init, cause = self._handshake.read(value)
        if cause:
            self._outbox.emit(encode_chunk(ChunkType.ABORT, cause), tag=init.initiate_tag)
            raise DecodeError("init-fields")
        peer = self._peer if self.state in CONNECTED else None
        answer = self._handshake.answer(init, established_with=peer, now=now)
        self._outbox.emit(answer, tag=init.initiate_tag)

    def _on_init_ack(self, value: bytes, now: float) -> None:
        if self.state is not State.COOKIE_WAIT:
            raise DecodeError("init-ack-state")
        init, cause = self._handshake.read(value)
        if cause:
            self._outbox.emit(encode_chunk(ChunkType.ABORT, cause), tag=init.initiate_tag)
            self._end("peer's INIT ACK cannot be accepted", broken=True)
            return
        terms, self._cookie_echo = self._handshake.accept(init)
        self._sample_setup(now)
        self._attempts = 0
        self._adopt(terms)
        self._move(Input.INIT_ACK)
        self._send_setup(now)

    def _sample_setup(self, now: float) -> None:
        """Take the handshake's round trip, if nothing of it was sent twice (RFC 9260 §6.3.1 C5)."""
        if self._attempts:
            self._rtt.reset()
        else:
            self._rtt.sample(now - self._setup_sent_at)

    def _adopt(self, terms: PeerTerms) -> None:
        """The peer's terms are known."""
        self._peer = terms
        self._outbox.set_tag(terms.tag)
        self.sender.peer_rwnd = terms.a_rwnd
        self.sender.partial = terms.forward_tsn
        self._receiver = Receiver(self._config, terms.initial_tsn, self.notices, self.drops)
        self._reset = self._new_reset(terms.initial_tsn)

    def _on_cookie_echo(self, value: bytes, now: float) -> None:
        """RFC 9260 §5.1.5, §5.2.4 actions B and D; the packet has our tag."""
        cookie = self._handshake.read_cookie(value)
        if cookie.local_tag != self._handshake.local_tag:
            raise DecodeError("cookie-tag")
        terms = self._handshake.terms_of(cookie)
        known = self._peer is not None and self._peer.tag == terms.tag
        if not known and (stale := self._handshake.staleness(cookie, now=now)):
            self._outbox.emit(stale, tag=terms.tag)
            raise DecodeError("cookie-stale")
        if self.state in CONNECTED:
            if not known:
                raise DecodeError("cookie-tag")
            self._outbox.control.append(encode_chunk(ChunkType.COOKIE_ACK))  # the first one was lost
            return
        if not known:
            self._adopt(terms)
        self._outbox.control.insert(0, encode_chunk(ChunkType.COOKIE_ACK))
        self._move(Input.COOKIE_ECHO)
        self._establish(now)

    def _on_cookie_ack(self, now: float) -> None:
        if self._move(Input.COOKIE_ACK):
            self._sample_setup(now)
            self._establish(now)

    def _establish(self, now: float) -> None:
        peer = self._peer
        assert peer is not None
        self._timers.cancel(Timer.T1)
        self.liveness.reset()
        if self.sender.outstanding:
            self.sender.t3_at = now + self._rtt.rto  # data that went with the COOKIE ECHO
        self._timers.set(Timer.HEARTBEAT, now + self.liveness.interval(self._rtt.rto))
        self.notices.append(Established(peer))

    def _on_restart(self, value: bytes, tag: int, now: float) -> None:
        """A cookie for another association than the one in place: the peer began anew (RFC 9260 §5.2.4 action A)."""
        cookie = self._handshake.read_cookie(value)
        ties = (cookie.local_tie_tag, cookie.remote_tie_tag)
        peer = self._peer
        if peer is None or cookie.local_tag != tag or ties != (self._handshake.local_tag, peer.tag):
            raise DecodeError("cookie-tag")
        if self._handshake.staleness(cookie, now=now):
            raise DecodeError("cookie-stale")
        self._abort("peer restarted")

    def _on_error(self, value: bytes, now: float) -> None:
        self.drops.count("peer-error")
        causes = [cause for cause, _content in decode_causes(value)]
        if Cause.STALE_COOKIE in causes and self._move(Input.STALE_COOKIE):
            self._on_t1(now)  # RFC 9260 §5.2.6: with a new INIT

    # --- ending

    def _send_shutdown(self, now: float) -> None:
        """SHUTDOWN or SHUTDOWN ACK, where one of them is due (RFC 9260 §9.2)."""
        if self.state is State.SHUTDOWN_SENT:
            chunk = encode_chunk(ChunkType.SHUTDOWN, TSN.pack(self._receiver.cum & MASK32))
        elif self.state is State.SHUTDOWN_ACK_SENT:
            chunk = encode_chunk(ChunkType.SHUTDOWN_ACK)
        else:
            return
        if chunk not in self._outbox.control:
            self._outbox.control.append(chunk)
        self._timers.set(Timer.T2, now + self._rtt.rto)

    def _on_shutdown(self, value: bytes, now: float) -> None:
        if len(value) != TSN.size:
            raise DecodeError("shutdown-length")
        if self.state not in CONNECTED:
            raise DecodeError("shutdown-state")
        self.sender.on_sack((TSN.unpack(value)[0], self.sender.peer_rwnd, [], 0), now=now)
        if self._move(Input.SHUTDOWN):
            self._send_shutdown(now)

    def _on_shutdown_ack(self) -> None:
        if self.state not in (State.SHUTDOWN_SENT, State.SHUTDOWN_ACK_SENT):
            raise DecodeError("shutdown-state")
        self._outbox.emit(encode_chunk(ChunkType.SHUTDOWN_COMPLETE))
        self._end("shut down", broken=False)

    def _on_shutdown_complete(self) -> None:
        if self.state is not State.SHUTDOWN_ACK_SENT:
            raise DecodeError("shutdown-state")
        self._end("shut down", broken=False)

    def _on_abort(self, value: bytes) -> None:
        """RFC 9260 §9.1; text of the peer is not repeated.

        WebRTC peers abort as well when their application closes the connection, with the cause that says so or with
        none: that is a clean end to data channels, any other cause is the error that RFC 8831 §6.2 has them told of.
        """
        if self.state is State.CLOSED:
            raise DecodeError("abort-state")
        try:
            broken = any(code != Cause.USER_ABORT for code, _content in decode_causes(value))
        except DecodeError:
            broken = True
        self._end("peer saw an error" if broken else "closed by peer", broken=broken)

    def _abort(self, reason: str, cause: bytes = _GIVEN_UP, *, broken: bool = True) -> None:
        """End at once and tell the peer why, once there is one."""
        if self.state is State.ENDED:
            return
        self._farewell = encode_chunk(ChunkType.ABORT, cause)
        if self._peer is not None:
            self._outbox.emit(self._farewell)
        self._end(reason, broken=broken)

    def _end(self, reason: str, *, broken: bool) -> None:
        if not self._move(Input.END):
            return
        self._timers.clear()
        self._outbox.control.clear()
        self.sender.stop_timers()
        self._receiver.sack_at = self._reset.at = _NEVER
        self.notices.append(Closed(reason, broken))
