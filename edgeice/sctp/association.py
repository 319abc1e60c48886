"""One SCTP association over one path (RFC 9260), as data channels use it below DTLS (RFC 8831, RFC 8261).

This module composes: `lifecycle` sets up and ends, `sender` and `receiver` carry data, `reset` closes streams,
`outbox` makes packets; here packets are taken apart and timers run.

Not supported, with the sentence that it leaves out:

* Restart (RFC 9260 §5.2.4.1): a peer that starts anew within the same DTLS connection ends the association.
* Multihoming (RFC 9260 §6.4): below DTLS there is one path (RFC 8831 §5).
* I-DATA (RFC 8260), which RFC 8831 §6.1 says SHOULD be supported: small messages and fair turns serve instead.
* Zero checksums (RFC 9653): never announced, so never accepted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from edgeice.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from edgeice.sansio import Entropy
from edgeice.sctp.chunks import (
    CHECKSUM,
    CHUNK_HEADER,
    COMMON_HEADER,
    HEADER_SIZE,
    TSN,
    TSN_FIELDS,
    Cause,
    ChunkSpan,
    ChunkType,
    UnknownAction,
    decode_forward_tsn,
    decode_sack,
    encode_cause,
    encode_chunk,
    encode_forward_tsn,
    packet_checksum_holds,
    split_chunks,
    unknown_action,
)
from edgeice.sctp.config import SctpConfig
from edgeice.sctp.congestion import CongestionControl
from edgeice.sctp.crc32c import crc32c, extend
from edgeice.sctp.lifecycle import Lifecycle, Timer
from edgeice.sctp.states import CONNECTED, DRAINING, SENDING, SETTING_UP, Input, State
from edgeice.sctp.streams import OutMessage

__all__ = ["Association"]

_NEVER = math.inf
_TAG_REFLECTED = 0x01
_MIN_PACKET = 16
# Plain integers: an enum's members are slow to look up for every packet.
_DATA = int(ChunkType.DATA)
_SACK = int(ChunkType.SACK)
#: Chunks that must be alone in their packet (RFC 9260 §3).
_ALONE = frozenset({ChunkType.INIT, ChunkType.INIT_ACK, ChunkType.SHUTDOWN_COMPLETE})
#: ECN is not offered, padding is nothing (RFC 4820).
_IGNORED = frozenset({ChunkType.ECNE, ChunkType.CWR, ChunkType.PAD})
#: The longest piece of an unknown chunk that is reported back.
_MAX_REPORT = 256
_MAX_REASON = 128
#: A shutdown may take this many times RTO.max (RFC 9260 §9.2).
_GUARD = 5


class _AbortError(RemoteProtocolError):
    """The peer's mistake asks for an ABORT with this cause."""

    def __init__(self, reason: str, cause: bytes) -> None:
        super().__init__(reason)
        self.cause = cause


class Association(Lifecycle):
    """A sans-IO association; its owner drains `notices` after every input.

    Notices are Established, Closed, IncomingReset, OutgoingReset and InMessage, in the order in which they happened.
    A message's cost stays charged to the receive window until `release`.
    """

    def __init__(self, config: SctpConfig, entropy: Entropy, congestion: CongestionControl | None = None) -> None:
        super().__init__(config, entropy, congestion)
        self._in_header = COMMON_HEADER.pack(config.remote_port, config.local_port, self._handshake.local_tag)
        self._in_seed = crc32c(self._in_header + bytes(4))

    # --- commands

    def send(self, message: OutMessage, *, now: float) -> None:
        """Queue a message and send what the windows allow; the owner bounds what is queued."""
        if not message.size:
            raise LocalProtocolError("a message has at least one byte")  # RFC 9260 §3.3.1
        self.queue.push(message)
        if self.state is State.ESTABLISHED:
            self._flush(now)

    def reset_stream(self, stream_id: int, *, now: float) -> bool:
        """Reset an outgoing stream after what is queued on it; False if the peer cannot do that."""
        if self._peer is None or not self._peer.reconfig:
            return False
        self._reset.ask(stream_id)
        self._flush(now)
        return True

    def reset_requested(self, stream_id: int) -> bool:
        """True while a reset of this outgoing stream was sent and not answered."""
        return self._reset.requested(stream_id)

    def shutdown(self, *, now: float) -> None:
        """End in order: everything queued is delivered first (RFC 9260 §9.2)."""
        if self.state in SETTING_UP:
            self.abort("closed before it was established")
        elif self._move(Input.CLOSE):
            self._timers.set(Timer.T5, now + _GUARD * self._config.rto_max)
            self._flush(now)

    def abort(self, reason: str, *, broken: bool = False) -> None:
        """End at once (RFC 9260 §9.1): as the user wishes, or because something below or above is broken."""
        code = Cause.PROTOCOL_VIOLATION if broken else Cause.USER_ABORT
        self._abort(reason, encode_cause(code, reason.encode()[:_MAX_REASON]), broken=broken)

    def path_changed(self, *, lost: bool, rtt: float | None, now: float) -> None:
        """Another path is in use: start over with RTT, congestion window and failures (RFC 8831 §5).

        Packets are as small as at the start, as they always are: no path MTU discovery below DTLS.
        """
        lost = lost or self._paused
        self._paused = False
        self.liveness.reset()
        self.liveness.forget()
        self._timers.cancel(Timer.HEARTBEAT_ANSWER)
        if self._timers.at(Timer.T5) is not None:
            self._timers.set(Timer.T5, now + _GUARD * self._config.rto_max)
        if self.state in SETTING_UP:
            self._rtt.reset(rtt)
            self._attempts = min(self._attempts, 1)
            if self.state is not State.CLOSED:
                self._send_setup(now)
        elif self.state is not State.ENDED:
            self.sender.on_path_changed(lost=lost, rtt=rtt, now=now)
            self._send_shutdown(now)
            self._reset.repeat()
            self._receiver.sack_due = True  # the last one may have died on the old path
            self._flush(now)

    def path_gone(self) -> None:
        """No path is there until `path_changed`: nothing is sent, and no time counts against the peer."""
        self._paused = True

    def release(self, cost: int) -> bool:
        """The owner took a message: its cost no longer counts against the receive window; True if a SACK is due."""
        self._receiver.release(cost)
        return self._receiver.sack_due

    # --- outputs

    def poll_transmit(self) -> bytes | None:
        """The next packet, ready for DTLS."""
        if self._paused:
            self._outbox.discard()  # with the next path all is asked again that these would have answered
            return None
        packet = self._outbox.poll()
        if packet is None and self._receiving and self._receiver.sack_due:
            self._outbox.emit_sack(self._receiver)  # a window update after a release
            packet = self._outbox.poll()
        return packet

    def next_timeout(self) -> float | None:
        """The earliest deadline."""
        if self._paused:
            return None
        sender = self.sender
        at = min(sender.t3_at, sender.probe.at, sender.settles_at, self._receiver.sack_at, self._reset.at)
        slow = self._timers.next()
        if slow is not None and slow < at:
            return slow
        return None if at == _NEVER else at

    def next_timer(self) -> Timer | None:
        """Which timer is due next."""
        at = self.next_timeout()
        if at is None:
            return None
        hot = {
            Timer.T3: self.sender.t3_at,
            Timer.PROBE: self.sender.probe.at,
            Timer.SETTLED: self.sender.settles_at,
            Timer.SACK: self._receiver.sack_at,
            Timer.RECONFIG: self._reset.at,
        }
        return next(timer for timer in Timer if hot.get(timer, self._timers.at(timer)) == at)

    # --- timers

    def handle_timeout(self, *, now: float) -> None:
        """Act on every deadline that is reached."""
        if self._paused:
            return
        while (timer := self._timers.pop_due(now)) is not None:
            self._on_timer(timer, now)
        if self.state not in CONNECTED:
            return
        if self.sender.settles_at <= now:
            self.sender.on_settled(now=now)
        if self.sender.probe.at <= now:
            self.sender.on_probe(now=now)
        if self.sender.t3_at <= now and self.sender.on_t3(now=now):
            self._fail()
        if self._reset.at <= now:
            if self._reset.unanswered:
                self._rtt.back_off()
                self._fail()
            self._reset.repeat()
        if self._receiver.sack_at <= now:
            self._receiver.sack_due = True
        self._flush(now)

    def _on_timer(self, timer: Timer, now: float) -> None:
        if timer is Timer.T1:
            self._on_t1(now)
        elif timer is Timer.T2:
            self._rtt.back_off()
            self._send_shutdown(now)
            self._fail()
        elif timer is Timer.T5:
            self._abort("shutdown took too long")
        elif timer is Timer.HEARTBEAT_ANSWER:
            self.liveness.forget()
            self._rtt.back_off()
            self._fail()
        else:
            self._on_heartbeat_due(now)

    def _on_heartbeat_due(self, now: float) -> None:
        """RFC 9260 §8.3: only an idle path needs one."""
        self._timers.set(Timer.HEARTBEAT, now + self.liveness.interval(self._rtt.rto))
        last = self.sender.last_sent_at
        if not self.sender.outstanding and (last is None or now - last >= self._config.heartbeat_interval):
            self._outbox.control.append(self.liveness.make(now=now))
            self._timers.set(Timer.HEARTBEAT_ANSWER, now + self._rtt.rto)

    def _fail(self) -> None:
        if self.liveness.fail():
            self._abort("peer does not answer")

    def _flush(self, now: float) -> None:
        """Send whatever may be sent."""
        if self.state not in CONNECTED:
            return
        sender = self.sender
        control = self._outbox.control
        draining = self.state in DRAINING
        if draining and sender.idle and not self._reset.busy and self._move(Input.DRAINED):
            self._send_shutdown(now)
        while (chunk := self._reset.take_chunk(now=now)) is not None:
            control.append(chunk)
        if sender.forward.due and (forward := sender.take_forward_tsn(now=now)) is not None:
            control.append(encode_forward_tsn(forward))
        self._outbox.flush(sender, self._receiver, sending=self.state in SENDING and not self._paused, now=now)

    # --- input

    def receive_packets(self, packets: Iterable[bytes], *, now: float) -> None:
        """Take packets that came out of DTLS together; what cannot be used is dropped and counted."""
        self._receiver.begin_batch()
        for data in packets:
            try:
                self._take_packet(data, now)
            except DecodeError as error:
                self.drops.count(error.reason)
            except RemoteProtocolError as error:
                self.drops.count("violation")
                cause = error.cause if isinstance(error, _AbortError) else encode_cause(Cause.PROTOCOL_VIOLATION)
                self._abort(str(error), cause)
            if self._receiver.sack_overdue and self._receiving:
                self._outbox.emit_sack(self._receiver)
        self._flush(now)

    def _take_packet(self, data: bytes, now: float) -> None:
        if len(data) < _MIN_PACKET:
            raise DecodeError("packet-length")
        if data[:8] != self._in_header:
            self._receive_unusual(data, now)
        elif CHECKSUM.unpack_from(data, 8)[0] != extend(self._in_seed, data[12:]):
            raise DecodeError("checksum")
        elif self.state is State.ENDED:
            self._receive_late(split_chunks(data))
        else:
            self._process(data, split_chunks(data), now)

    def _receive_unusual(self, data: bytes, now: float) -> None:
        """A packet without our tag: INIT, a reflected tag, or nothing for us (RFC 9260 §8.5.1)."""
        if not packet_checksum_holds(data):
            raise DecodeError("checksum")
        remote_port, local_port, tag = COMMON_HEADER.unpack_from(data)
        if (local_port, remote_port) != (self._config.local_port, self._config.remote_port):
            raise DecodeError("ports")
        spans = split_chunks(data)
        kind, flags, start, end = spans[0]
        reflected = self._peer is not None and tag == self._peer.tag and bool(flags & _TAG_REFLECTED)
        if tag == 0 and kind == ChunkType.INIT and len(spans) == 1:
            self._on_init(data[start:end], now)
        elif reflected and kind == ChunkType.ABORT:
            self._on_abort(data[start:end])
        elif reflected and kind == ChunkType.SHUTDOWN_COMPLETE and len(spans) == 1:
            self._on_shutdown_complete()
        elif kind == ChunkType.COOKIE_ECHO and self.state in CONNECTED:
            self._on_restart(data[start:end], tag, now)
        else:
            raise DecodeError("verification-tag")

    def _receive_late(self, spans: list[ChunkSpan]) -> None:
        """The association is over and the peer does not know (RFC 9260 §8.4)."""
        kinds = {span[0] for span in spans}
        self.drops.count("ended")
        if self._peer is None or kinds & {ChunkType.ABORT, ChunkType.SHUTDOWN_COMPLETE, ChunkType.ERROR}:
            return
        shut_down = ChunkType.SHUTDOWN_ACK in kinds
        self._outbox.emit(encode_chunk(ChunkType.SHUTDOWN_COMPLETE) if shut_down else self._farewell)

    def _process(self, data: bytes, spans: list[ChunkSpan], now: float) -> None:
        """Work off the chunks in order."""
        for kind, flags, start, end in spans:
            if kind == _DATA:
                self._on_data(data, flags, start, end, now)
            elif kind == _SACK:
                if self.state in CONNECTED and self.sender.on_sack(decode_sack(data[start:end]), now=now):
                    self.liveness.errors = 0
            elif kind in _ALONE and len(spans) > 1:
                raise DecodeError("bundled")
            elif not self._on_control(kind, flags, data[start:end], now):
                break
        if self.state is not State.ENDED:
            self._receiver.on_packet_end(now=now)
            self._reset.on_progress()

    def _on_data(self, data: bytes, flags: int, start: int, end: int, now: float) -> None:
        if not self._receiving:
            self.drops.count("data-state")
            return
        if end - start < TSN_FIELDS.size:
            raise DecodeError("data-length")
        tsn, stream_id, ssn, ppid = TSN_FIELDS.unpack_from(data, start)
        if end - start == TSN_FIELDS.size:
            raise _AbortError("DATA without data", encode_cause(Cause.NO_USER_DATA, TSN.pack(tsn)))
        self._receiver.on_data(tsn, flags, stream_id, ssn, ppid, data[start + 12 : end])
        if self.state is State.SHUTDOWN_SENT:
            self._receiver.sack_due = True  # RFC 9260 §9.2: SACK and SHUTDOWN at once
            self._send_shutdown(now)

    def _on_control(self, kind: int, flags: int, value: bytes, now: float) -> bool:
        """Any chunk but DATA and SACK; False if the rest of the packet must be left alone."""
        if kind == ChunkType.HEARTBEAT:
            if self.state in CONNECTED:
                self._echo(value)
        elif kind == ChunkType.HEARTBEAT_ACK:
            rtt = self.liveness.on_ack(value, now=now)
            self._timers.cancel(Timer.HEARTBEAT_ANSWER)
            self._rtt.sample(rtt)
        elif kind == ChunkType.FORWARD_TSN:
            if self._receiving:
                self._receiver.on_forward_tsn(decode_forward_tsn(value))
        elif kind == ChunkType.RE_CONFIG:
            if self.state in CONNECTED:
                self._reset.on_chunk(value)
                self.liveness.errors = 0
        elif not self._on_state_chunk(kind, flags, value, now) and kind not in _IGNORED:
            return self._on_unknown(kind, flags, value)
        return self.state is not State.ENDED

    def _echo(self, value: bytes) -> None:
        """Answer a heartbeat with what it brought, unchanged (RFC 9260 §8.3).

        More than fits a packet would wait for ever, and every control chunk behind it.
        """
        chunk = encode_chunk(ChunkType.HEARTBEAT_ACK, value)
        if HEADER_SIZE + len(chunk) > self._config.mtu:
            self.drops.count("heartbeat-size")
        else:
            self._outbox.control.append(chunk)

    def _on_state_chunk(self, kind: int, flags: int, value: bytes, now: float) -> bool:
        """Chunks that begin or end an association; False if this is none."""
        if kind == ChunkType.INIT:
            raise DecodeError("init-tag")  # RFC 9260 §8.5.1 A: INIT has tag 0
        if kind == ChunkType.INIT_ACK:
            self._on_init_ack(value, now)
        elif kind == ChunkType.COOKIE_ECHO:
            self._on_cookie_echo(value, now)
        elif kind == ChunkType.COOKIE_ACK:
            self._on_cookie_ack(now)
        elif kind == ChunkType.ERROR:
            self._on_error(value, now)
        elif kind == ChunkType.SHUTDOWN:
            self._on_shutdown(value, now)
        elif kind == ChunkType.SHUTDOWN_ACK:
            self._on_shutdown_ack()
        elif kind in (ChunkType.ABORT, ChunkType.SHUTDOWN_COMPLETE):
            self._on_end_chunk(kind, flags, value)
        else:
            return False
        return True

    def _on_end_chunk(self, kind: int, flags: int, value: bytes) -> None:
        if flags & _TAG_REFLECTED:
            raise DecodeError("verification-tag")  # RFC 9260 §8.5.1 B, C: then the tag would be the peer's
        if kind == ChunkType.ABORT:
            self._on_abort(value)
        else:
            self._on_shutdown_complete()

    def _on_unknown(self, kind: int, flags: int, value: bytes) -> bool:
        """RFC 9260 §3.2: the two top bits say what to do."""
        self.drops.count("chunk-unknown")
        action = unknown_action(kind, bits=8)
        if action in (UnknownAction.STOP_AND_REPORT, UnknownAction.SKIP_AND_REPORT) and self.state in CONNECTED:
            chunk = CHUNK_HEADER.pack(kind, flags, 4 + len(value)) + value
            error = encode_cause(Cause.UNRECOGNIZED_CHUNK, chunk[:_MAX_REPORT])
            self._outbox.control.append(encode_chunk(ChunkType.ERROR, error))
        return action in (UnknownAction.SKIP, UnknownAction.SKIP_AND_REPORT)
