"""Closing one stream without the others: RE-CONFIG with outgoing SSN resets (RFC 6525, RFC 8831 §6.7)."""

from __future__ import annotations

import math
import struct
from collections import deque
from enum import IntEnum

import attrs

from edgeice.errors import DecodeError
from edgeice.sansio import DropCounter
from edgeice.sctp.chunks import ChunkType, ParameterType, decode_parameters, encode_chunk, encode_parameter
from edgeice.sctp.receiver import Receiver
from edgeice.sctp.sender import Sender
from edgeice.sctp.serial import MASK32, unwrap32
from edgeice.sctp.streams import SendQueue

__all__ = ["IncomingReset", "OutgoingReset", "ResetResult", "StreamReset"]

_REQUEST = struct.Struct("!III")
_RESPONSE = struct.Struct("!II")
_SEQUENCE = struct.Struct("!I")
#: Streams in one request: what fits a packet of 1,200 bytes beside other chunks.
_MAX_STREAMS = 256
_NEVER = math.inf


class ResetResult(IntEnum):
    """Results of a request (RFC 6525 §4.4)."""

    NOTHING_TO_DO = 0
    PERFORMED = 1
    DENIED = 2
    WRONG_SSN = 3
    BUSY = 4
    BAD_SEQUENCE = 5
    IN_PROGRESS = 6


@attrs.frozen
class IncomingReset:
    """The peer's streams start anew: nothing it sent on them before will come any more."""

    #: Empty: all streams.
    stream_ids: tuple[int, ...]


@attrs.frozen
class OutgoingReset:
    """The peer answered the reset of our streams."""

    stream_ids: tuple[int, ...]
    #: False if it refused: the streams cannot be used again.
    performed: bool


@attrs.define
class _Request:
    """The one request that is under way (RFC 6525 §5.1.1)."""

    sequence: int
    stream_ids: tuple[int, ...]
    chunk: bytes


@attrs.frozen
class _Deferred:
    """A request of the peer that waits for its last TSN."""

    stream_ids: tuple[int, ...]
    last_tsn: int


class StreamReset:
    """Both directions of stream resets of one association."""

    def __init__(
        self,
        *,
        queue: SendQueue,
        sender: Sender,
        receiver: Receiver,
        notices: deque[object],
        drops: DropCounter,
        local_sequence: int,
        remote_sequence: int,
    ) -> None:
        self._queue = queue
        self._sender = sender
        self._receiver = receiver
        self._notices = notices
        self._drops = drops
        #: Sequence numbers begin at the initial TSNs (RFC 6525 §5.1.1).
        self._sequence = local_sequence
        self._remote_sequence = remote_sequence
        self._last_result = ResetResult.NOTHING_TO_DO
        #: Streams to be reset when they are drained, in the order asked.
        self._closing: dict[int, None] = {}
        self._request: _Request | None = None
        self._deferred: _Deferred | None = None
        self._answers: list[bytes] = []
        self._due = False
        #: Deadline to repeat the request.
        self.at = _NEVER
        #: The request was sent and nothing came back, not even "in progress".
        self.unanswered = False

    @property
    def busy(self) -> bool:
        """True while a stream of ours is being reset."""
        return bool(self._closing) or self._request is not None

    # --- our streams

    def requested(self, stream_id: int) -> bool:
        """True while the request that is under way names the stream."""
        return self._request is not None and stream_id in self._request.stream_ids

    def ask(self, stream_id: int) -> None:
        """Reset an outgoing stream once everything queued on it was sent."""
        self._closing[stream_id] = None

    def take_chunk(self, *, now: float) -> bytes | None:
        """The RE-CONFIG chunk that is due, None if none is; answers first, then our request."""
        if self._closing and self._request is None:
            self._make_request()
        if self._answers:
            return encode_chunk(ChunkType.RE_CONFIG, self._answers.pop(0))
        if self._request is not None and self._due:
            self._due = False
            self.unanswered = True
            self.at = now + self._sender.rtt.rto
            return self._request.chunk
        return None

    def _make_request(self) -> None:
        drained = [stream_id for stream_id in self._closing if self._queue.drained(stream_id)][:_MAX_STREAMS]
        if not drained:
            return
        for stream_id in drained:
            del self._closing[stream_id]
            self._queue.pause(stream_id)
        # RFC 6525 §5.1.2: the last TSN that was assigned tells the peer when it has everything.
        last_tsn = (self._sender.next_tsn - 1) & MASK32
        fixed = _REQUEST.pack(self._sequence, (self._remote_sequence - 1) & MASK32, last_tsn)
        value = fixed + struct.pack(f"!{len(drained)}H", *drained)
        chunk = encode_chunk(ChunkType.RE_CONFIG, encode_parameter(ParameterType.OUTGOING_SSN_RESET, value))
        self._request = _Request(self._sequence, tuple(drained), chunk)
        self._due = True

    def repeat(self) -> None:
        """Send the request again at once: its time is up, or the path changed."""
        self.at = _NEVER
        self._due = self._request is not None

    def _on_response(self, value: bytes) -> None:
        """RFC 6525 §5.2.7."""
        if len(value) < _RESPONSE.size:
            raise DecodeError("reconfig-length")
        sequence, result = _RESPONSE.unpack_from(value)
        request = self._request
        if request is None or sequence != request.sequence:
            self._drops.count("reconfig-response")
            return
        self.unanswered = False
        if result == ResetResult.IN_PROGRESS:
            return  # asked again when the timer runs out
        self._request = None
        self._due = False
        self.at = _NEVER
        self._sequence = (self._sequence + 1) & MASK32
        if result == ResetResult.BUSY:
            self._closing.update(dict.fromkeys(request.stream_ids))
            return
        performed = result in (ResetResult.NOTHING_TO_DO, ResetResult.PERFORMED)
        for stream_id in request.stream_ids:
            self._queue.resume(stream_id, reset=performed)
        self._notices.append(OutgoingReset(request.stream_ids, performed))

    # --- the peer's streams

    def on_chunk(self, value: bytes) -> None:
        """Take a RE-CONFIG chunk; raises DecodeError."""
        parameters = decode_parameters(value)
        if not 1 <= len(parameters) <= 2:  # RFC 6525 §3.1
            raise DecodeError("reconfig-parameters")
        for kind, content in parameters:
            if kind == ParameterType.RECONFIG_RESPONSE:
                self._on_response(content)
            elif kind == ParameterType.OUTGOING_SSN_RESET:
                self._on_outgoing_request(content)
            elif kind in (
                ParameterType.INCOMING_SSN_RESET,
                ParameterType.SSN_TSN_RESET,
                ParameterType.ADD_OUTGOING_STREAMS,
                ParameterType.ADD_INCOMING_STREAMS,
            ):
                self._refuse(content)
            else:
                self._drops.count("reconfig-unknown")

    def _sequence_of(self, content: bytes) -> int | None:
        """The sequence number of a new request; one seen before or out of order is answered here."""
        if len(content) < 4:
            raise DecodeError("reconfig-length")
        sequence: int = _SEQUENCE.unpack_from(content)[0]
        if sequence == self._remote_sequence:
            return sequence
        if sequence == (self._remote_sequence - 1) & MASK32:
            self._answer(sequence, self._last_result)  # RFC 6525 §5.2.1: the same result again
        else:
            self._answer(sequence, ResetResult.BAD_SEQUENCE)
        return None

    def _refuse(self, content: bytes) -> None:
        """Data channels close by outgoing resets only (RFC 8831 §6.7); everything else is denied."""
        sequence = self._sequence_of(content)
        if sequence is None:
            return
        if self._deferred is not None:
            self._answer(sequence, ResetResult.BUSY)
            return
        self._finish(ResetResult.DENIED)

    def _on_outgoing_request(self, content: bytes) -> None:
        """RFC 6525 §5.2.2."""
        if len(content) < _REQUEST.size or len(content) % 2:
            raise DecodeError("reconfig-length")
        sequence = self._sequence_of(content)
        if sequence is None:
            return
        last_tsn = unwrap32(self._receiver.cum, _REQUEST.unpack_from(content)[2])
        stream_ids = tuple(each[0] for each in struct.iter_unpack("!H", content[_REQUEST.size :]))
        if last_tsn > self._receiver.cum:
            self._deferred = _Deferred(stream_ids, last_tsn)
            self._answer(sequence, ResetResult.IN_PROGRESS)
            return
        self._perform(stream_ids)

    def on_progress(self) -> None:
        """The cumulative TSN moved: a deferred request may be performed now."""
        deferred = self._deferred
        if deferred is not None and deferred.last_tsn <= self._receiver.cum:
            self._perform(deferred.stream_ids)

    def _perform(self, stream_ids: tuple[int, ...]) -> None:
        self._deferred = None
        receiver = self._receiver
        receiver.used -= receiver.reassembly.reset_streams(list(stream_ids))
        self._notices.append(IncomingReset(stream_ids))
        self._finish(ResetResult.PERFORMED)

    def _finish(self, result: ResetResult) -> None:
        """Answer the present request for good."""
        sequence = self._remote_sequence
        self._last_result = result
        self._remote_sequence = (sequence + 1) & MASK32
        self._answer(sequence, result)

    def _answer(self, sequence: int, result: ResetResult) -> None:
        self._answers.append(encode_parameter(ParameterType.RECONFIG_RESPONSE, _RESPONSE.pack(sequence, result)))
