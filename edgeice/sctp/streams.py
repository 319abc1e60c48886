"""Outgoing streams: what waits to be sent, and whose turn it is.

Streams with messages take turns, one message each, so that a bulk transfer cannot starve a terminal.  A message that
has begun is finished first: without I-DATA (RFC 8260) its fragments must have consecutive TSNs (RFC 9260 §6.9).
"""

from __future__ import annotations

import math
from collections import deque

from edgeice.sctp.serial import MASK16

__all__ = ["ABANDONED", "ACKED", "BEHIND", "IN_FLIGHT", "LOST", "OutChunk", "OutMessage", "OutStream", "SendQueue"]


class OutMessage:
    """A user message on its way out.

    Its SSN is given when its first fragment is sent, so that a message dropped before leaves no hole.
    """

    __slots__ = (
        "abandoned",
        "data",
        "expires_at",
        "first_tsn",
        "last_tsn",
        "max_retransmits",
        "offset",
        "ppid",
        "size",
        "ssn",
        "stream",
        "unordered",
    )

    def __init__(
        self,
        stream: OutStream,
        ppid: int,
        data: bytes,
        *,
        unordered: bool = False,
        max_retransmits: int | None = None,
        expires_at: float = math.inf,
    ) -> None:
        self.stream = stream
        self.ppid = ppid
        self.data = data
        self.size = len(data)
        #: Bytes that fragments took so far.
        self.offset = 0
        self.unordered = unordered
        self.ssn = 0
        #: None: retransmitted as often as it takes.
        self.max_retransmits = max_retransmits
        self.expires_at = expires_at
        self.abandoned = False
        #: TSNs of its fragments that were sent.
        self.first_tsn = 0
        self.last_tsn = -1


# What became of a chunk (`OutChunk.state`).
IN_FLIGHT = 0
ACKED = 1
LOST = 2
ABANDONED = 3
#: Under way on a path that was left while it worked: it may be overtaken, and takes no room on the present one.
BEHIND = 4


class OutChunk:
    """A DATA chunk that was sent and is not cumulatively acknowledged."""

    __slots__ = ("fast", "message", "misses", "sent_at", "size", "state", "transmits", "tsn", "wire")

    def __init__(self, tsn: int, size: int, wire: bytes, message: OutMessage, sent_at: float) -> None:
        self.tsn = tsn
        #: User data, which windows count.
        self.size = size
        #: The chunk with header and padding.
        self.wire = wire
        self.message = message
        self.sent_at = sent_at
        self.transmits = 1
        self.misses = 0
        #: Missing reports count once (RFC 9260 §7.2.4).
        self.fast = False
        self.state = IN_FLIGHT


class OutStream:
    """One outgoing stream."""

    __slots__ = ("buffered", "id", "low", "next_ssn", "paused", "queue")

    def __init__(self, stream_id: int, low: int) -> None:
        self.id = stream_id
        self.next_ssn = 0
        self.queue: deque[OutMessage] = deque()
        #: Bytes not sent yet.
        self.buffered = 0
        #: A fall of `buffered` to this or below is reported.
        self.low = low
        #: Nothing may be sent while a reset of this stream is under way (RFC 6525 §5.1.2).
        self.paused = False


class SendQueue:
    """All outgoing streams, made when first used, and the turns they take."""

    __slots__ = ("_low", "_ready", "_streams", "lowered", "messages", "queued")

    def __init__(self, low: int) -> None:
        self._low = low
        self._streams: dict[int, OutStream] = {}
        #: Streams that have messages and may send; the head has its turn.
        self._ready: deque[OutStream] = deque()
        #: Bytes not sent yet, over all streams.
        self.queued = 0
        #: Messages that are not sent as a whole yet.
        self.messages = 0
        #: Streams whose buffered bytes fell to their mark, until the owner clears it.
        self.lowered: set[int] = set()

    def stream(self, stream_id: int) -> OutStream:
        """The stream, made on first use."""
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._streams[stream_id] = OutStream(stream_id, self._low)
        return stream

    def forget(self, stream_id: int) -> None:
        """Drop an idle stream's record: its next use starts at SSN 0 after a reset."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.queue:
            del self._streams[stream_id]

    def push(self, message: OutMessage) -> None:
        """Append a message to its stream."""
        stream = message.stream
        stream.queue.append(message)
        stream.buffered += message.size
        self.queued += message.size
        self.messages += 1
        if len(stream.queue) == 1 and not stream.paused:
            self._ready.append(stream)

    def head(self) -> OutMessage | None:
        """The message whose turn it is."""
        return self._ready[0].queue[0] if self._ready else None

    def take(self, message: OutMessage, size: int) -> None:
        """Note that the message at the head gave `size` more bytes to a fragment."""
        if message.offset == 0 and not message.unordered:
            stream = message.stream
            message.ssn = stream.next_ssn
            stream.next_ssn = (stream.next_ssn + 1) & MASK16
        message.offset += size
        if message.offset == message.size:
            self._pop(message.stream)
        self._shrink(message.stream, size)

    def discard(self, message: OutMessage) -> None:
        """Drop what is unsent of the message at the head of its stream."""
        stream = message.stream
        if stream.queue and stream.queue[0] is message:
            self._pop(stream)
            self._shrink(stream, message.size - message.offset)

    def clear(self, stream_id: int) -> None:
        """Drop every message of a stream that has not begun."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.queue:
            return
        begun = stream.queue[0] if stream.queue[0].offset else None
        dropped = stream.buffered - (begun.size - begun.offset if begun else 0)
        self.messages -= len(stream.queue) - bool(begun)
        stream.queue.clear()
        if begun:
            stream.queue.append(begun)
        elif stream in self._ready:
            self._ready.remove(stream)
        self._shrink(stream, dropped)

    def pause(self, stream_id: int) -> None:
        """Hold back what a drained stream gets from now on."""
        self.stream(stream_id).paused = True

    def resume(self, stream_id: int, *, reset: bool) -> None:
        """Let a paused stream go on, with SSN 0 after a reset."""
        stream = self.stream(stream_id)
        stream.paused = False
        if reset:
            stream.next_ssn = 0
        if stream.queue:
            self._ready.append(stream)
        else:
            self.forget(stream_id)

    def buffered(self, stream_id: int) -> int:
        """Bytes of a stream that are not sent yet."""
        stream = self._streams.get(stream_id)
        return stream.buffered if stream else 0

    def drained(self, stream_id: int) -> bool:
        """True if every message of the stream was sent."""
        stream = self._streams.get(stream_id)
        return stream is None or not stream.queue

    def _pop(self, stream: OutStream) -> None:
        """Take the first message off and pass the turn on."""
        stream.queue.popleft()
        self.messages -= 1
        ready = self._ready
        if ready and ready[0] is stream:
            if not stream.queue:
                ready.popleft()
            elif len(ready) > 1:
                ready.rotate(-1)
        elif not stream.queue and not stream.paused:
            ready.remove(stream)

    def _shrink(self, stream: OutStream, size: int) -> None:
        before = stream.buffered
        stream.buffered = before - size
        self.queued -= size
        if before > stream.low >= stream.buffered:
            self.lowered.add(stream.id)
