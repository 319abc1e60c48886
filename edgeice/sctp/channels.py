"""WebRTC data channels over one association (RFC 8831, RFC 8832).

`DataChannels` is the machine that the session owns: packets and time in, packets and events out.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable
from typing import Literal

from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.sansio import DropCounter, Entropy, Event
from edgeice.sctp.association import Association
from edgeice.sctp.channel import Channel, check_terms, opened
from edgeice.sctp.config import SctpConfig
from edgeice.sctp.congestion import CongestionControl
from edgeice.sctp.dcep import ACK, OpenMessage, decode_dcep, encode_open
from edgeice.sctp.events import (
    AssociationClosed,
    AssociationEstablished,
    BufferedAmountLow,
    ChannelClosed,
    MessageReceived,
)
from edgeice.sctp.lifecycle import Closed, Established
from edgeice.sctp.payload import PPID_DCEP, decode_payload, encode_payload
from edgeice.sctp.reassembly import OVERHEAD, InMessage
from edgeice.sctp.reset import IncomingReset, OutgoingReset
from edgeice.sctp.streams import OutMessage

__all__ = ["DataChannels"]

#: What a peer accepts that announced nothing (RFC 8841 §6.1).
_DEFAULT_PEER_MESSAGE_SIZE = 65_536
_MAX_ID = 65_534  # RFC 8832 §5: 65535 is reserved


class DataChannels:
    """An association and its channels.

    Args:
        role: DTLS role: a client opens even ids, a server odd ones (RFC 8832 §6).
        config: Limits and timers.
        entropy: Tags, cookies and timer spread.
        congestion: Another congestion control than RFC 9260's.
    """

    def __init__(
        self,
        role: Literal["client", "server"],
        config: SctpConfig | None = None,
        entropy: Entropy | None = None,
        congestion: CongestionControl | None = None,
    ) -> None:
        self._config = config or SctpConfig()
        self._association = Association(self._config, entropy or Entropy(), congestion)
        self._parity = 0 if role == "client" else 1
        self._channels: dict[int, Channel] = {}
        #: Resets of ours that the peer has not answered, by stream.
        self._resetting: Counter[int] = Counter()
        #: Streams whose reset by the peer is still to come.
        self._awaiting: set[int] = set()
        #: Events, and what each takes of the receive window until it is polled; messages take theirs for longer.
        self._events: deque[tuple[Event, int]] = deque()
        #: What messages take that were polled and not consumed.
        self._charged = 0
        self._peer_message_size = _DEFAULT_PEER_MESSAGE_SIZE
        self._id_limit = _MAX_ID
        #: True while data can flow.
        self.established = False
        #: (reason, broken) once the association is over.
        self.ended: tuple[str, bool] | None = None

    # --- the machine

    def start(self, *, now: float) -> None:
        """Begin to associate; both ends may.  Does nothing where that is under way."""
        self._association.start(now=now)

    def receive_packets(self, packets: Iterable[bytes], *, now: float) -> None:
        """Take the SCTP packets that came out of DTLS together; sends what they call for once, at the end."""
        self._association.receive_packets(packets, now=now)
        self._settle(now)

    def poll_transmit(self) -> bytes | None:
        """The next SCTP packet to go into DTLS."""
        return self._association.poll_transmit()

    def poll_event(self) -> Event | None:
        """The next event; what it took of the receive window is free then, unless it is a message."""
        if not self._events:
            return None
        event, cost = self._events.popleft()
        if isinstance(event, MessageReceived):
            self._charged += event.charge
        elif cost:
            self._association.release(cost)
        elif isinstance(event, BufferedAmountLow) and (channel := self._channels.get(event.channel_id)):
            channel.low_pending = False
        return event

    def consumed(self, octets: int, *, now: float) -> bool:  # noqa: ARG002  (every command of a machine takes it)
        """The application took messages: the sum of their `charge` no longer counts against the receive window.

        What it does not take closes the window in the end, for all channels: an association has only one (RFC 9260
        §6.2).  It opens again by the acknowledgment that this may bring out.

        Returns:
            Whether `poll_transmit` may have a packet now.

        Raises:
            LocalProtocolError: More than what was polled and not consumed before.
        """
        if not 0 <= octets <= self._charged:
            raise LocalProtocolError(f"{octets} bytes consumed of {self._charged}")
        self._charged -= octets
        return self._association.release(octets)

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout` at the latest."""
        return self._association.next_timeout()

    def handle_timeout(self, *, now: float) -> None:
        """Act on every deadline that is reached."""
        self._association.handle_timeout(now=now)
        self._settle(now)

    def path_changed(self, *, lost: bool = True, rtt: float | None = None, now: float) -> None:
        """Another path is in use: forget what the old one taught (RFC 8831 §5).

        Args:
            lost: The old path carries nothing any more: what is not acknowledged is sent again at once.  Otherwise what
                is under way on it gets the time that it needs, and may be overtaken.
            rtt: Round trip of the new path in seconds, None if nobody measured it.
            now: Present time.
        """
        self._association.path_changed(lost=lost, rtt=rtt, now=now)
        self._settle(now)

    def path_gone(self) -> None:
        """No path is there until `path_changed`: nothing is sent, and nothing speaks against the peer, however long."""
        self._association.path_gone()

    @property
    def outstanding(self) -> bool:
        """Whether something was sent and is not acknowledged."""
        return bool(self._association.sender.outstanding)

    def shutdown(self, *, now: float) -> None:
        """End in order, after everything queued is delivered."""
        self._association.shutdown(now=now)
        self._settle(now)

    def abort(self, reason: str, *, broken: bool = False, now: float) -> None:
        """End at once: as the application wishes, which both ends see as a clean end, or because something broke."""
        self._association.abort(reason, broken=broken)
        self._settle(now)

    @property
    def drops(self) -> DropCounter:
        """What was dropped, by reason."""
        return self._association.drops

    # --- commands

    def set_remote_max_message_size(self, size: int) -> None:
        """What the peer announced as `a=max-message-size`; 0 means any (RFC 8841 §6.1)."""
        self._peer_message_size = size

    def open(
        self,
        label: str,
        protocol: str = "",
        *,
        now: float,
        ordered: bool = True,
        max_retransmits: int | None = None,
        max_lifetime: int | None = None,
        negotiated: int | None = None,
    ) -> int:
        """Open a channel and return its id; messages may be sent at once, also before the association is up.

        Args:
            label: Name of the channel, at most 65,535 bytes in UTF-8.
            protocol: Subprotocol, likewise.
            now: Present time.
            ordered: Deliver in order.
            max_retransmits: Give a message up after so many retransmissions; 0 sends once.
            max_lifetime: Give a message up after so many milliseconds.
            negotiated: An id agreed on outside, instead of asking the peer (RFC 8832 §4).

        Raises:
            LocalProtocolError: The association is over, the id is used, none is free, or an argument is out of range.
        """
        if self.ended is not None:
            raise LocalProtocolError("the association is over")
        if len(self._channels) >= self._config.max_channels:
            raise LocalProtocolError("too many channels")
        terms = OpenMessage(label, protocol, ordered, max_retransmits, max_lifetime)
        check_terms(terms)
        encoded = encode_open(terms)
        if self._peer_message_size and len(encoded) > self._peer_message_size:
            raise LocalProtocolError("label or protocol larger than the peer accepts")
        if negotiated is None:
            channel = Channel(self._free_id(), terms, acknowledged=False)
            self._check_room(len(encoded))
            self._channels[channel.id] = channel
            self._push(channel.id, PPID_DCEP, encoded, now=now)
            return channel.id
        if not 0 <= negotiated <= self._id_limit or not self._is_free(negotiated):
            raise LocalProtocolError(f"channel id {negotiated} is not free")  # RFC 8831 §6.5
        self._channels[negotiated] = Channel(negotiated, terms, acknowledged=True, negotiated=True)
        if self.established:
            self._events.append((opened(self._channels[negotiated], incoming=False), 0))
        return negotiated

    def send(self, channel_id: int, data: bytes | str, *, now: float) -> None:
        """Send a message; text goes as text, an empty message is allowed.

        Raises:
            LocalProtocolError: The channel is not open, the peer does not take messages of this size, or the send
                buffer is full.
        """
        channel = self._channels.get(channel_id)
        if channel is None or channel.closing:
            raise LocalProtocolError(f"channel {channel_id} is not open")
        ppid, payload = encode_payload(data)
        if self._peer_message_size and len(payload) > self._peer_message_size:
            raise LocalProtocolError(f"message of {len(payload)} bytes, the peer takes {self._peer_message_size}")
        self._check_room(len(payload))
        terms = channel.terms
        message = OutMessage(
            self._association.queue.stream(channel_id),
            ppid,
            payload,
            unordered=not terms.ordered and channel.acknowledged,
            max_retransmits=terms.max_retransmits,
            expires_at=math.inf if terms.max_lifetime is None else now + terms.max_lifetime / 1000,
        )
        self._association.send(message, now=now)
        if self._association.queue.lowered:
            self._note_lowered()

    def close_channel(self, channel_id: int, *, now: float) -> None:
        """Send what is queued, then close (RFC 8831 §6.7); ChannelClosed comes when the peer has closed it too.

        Closing an unknown or closing channel does nothing: the peer may have been quicker.
        """
        channel = self._channels.get(channel_id)
        if channel is None or channel.closing:
            return
        channel.closing = True
        if self.established:
            self._begin_reset(channel_id, now)
            self._finish_closing((channel_id,))

    def buffered_amount(self, channel_id: int) -> int:
        """Bytes of a channel that are not sent yet."""
        return self._association.queue.buffered(channel_id)

    def set_buffered_amount_low(self, channel_id: int, threshold: int) -> None:
        """BufferedAmountLow comes when `buffered_amount` falls to `threshold` or below."""
        if channel_id not in self._channels:
            raise LocalProtocolError(f"channel {channel_id} is not open")
        self._association.queue.stream(channel_id).low = threshold

    @property
    def send_buffer_used(self) -> int:
        """What waits to be sent or acknowledged, over all channels, in bytes with bookkeeping."""
        queue = self._association.queue
        return queue.queued + queue.messages * OVERHEAD + self._association.sender.outstanding_bytes

    # --- ids and queues

    def _is_free(self, channel_id: int) -> bool:
        return (
            channel_id not in self._channels and channel_id not in self._awaiting and channel_id not in self._resetting
        )

    def _free_id(self) -> int:
        for channel_id in range(self._parity, self._id_limit + 1, 2):
            if self._is_free(channel_id):
                return channel_id
        raise LocalProtocolError("no free channel id")

    def _check_room(self, size: int) -> None:
        if self.send_buffer_used + size + OVERHEAD > self._config.send_buffer:
            raise LocalProtocolError("buffer full")

    def _push(self, channel_id: int, ppid: int, data: bytes, *, now: float) -> None:
        """Send a reliable, ordered message."""
        self._association.send(OutMessage(self._association.queue.stream(channel_id), ppid, data), now=now)

    def _note_lowered(self) -> None:
        """Turn falls of the buffered amount into events, one per channel until it is polled."""
        lowered = self._association.queue.lowered
        for channel_id in sorted(lowered):
            channel = self._channels.get(channel_id)
            if channel is not None and not channel.low_pending:
                channel.low_pending = True
                self._events.append((BufferedAmountLow(channel_id), 0))
        lowered.clear()

    # --- what the association tells

    def _settle(self, now: float) -> None:
        """Work off the association's notices."""
        notices = self._association.notices
        while notices:
            notice = notices.popleft()
            if isinstance(notice, InMessage):
                self._on_message(notice, now)
            elif isinstance(notice, IncomingReset):
                self._on_incoming_reset(notice, now)
            elif isinstance(notice, OutgoingReset):
                self._on_outgoing_reset(notice)
            elif isinstance(notice, Established):
                self._on_established(notice, now)
            elif isinstance(notice, Closed):
                self._on_closed(notice)
        if self._association.queue.lowered:
            self._note_lowered()

    def _on_established(self, notice: Established, now: float) -> None:
        self.established = True
        self._events.append((AssociationEstablished(), 0))
        # A stream id must be below what the peer takes and, to answer, below what it opens.
        self._id_limit = min(_MAX_ID, notice.peer.inbound_streams - 1, notice.peer.outbound_streams - 1)
        for channel in list(self._channels.values()):
            if channel.id > self._id_limit:
                self._drop(channel.id, "the peer has too few streams", broken=True)
                self._association.queue.clear(channel.id)
            elif channel.closing:
                self._begin_reset(channel.id, now)
            elif channel.negotiated:
                self._events.append((opened(channel, incoming=False), 0))

    def _on_closed(self, notice: Closed) -> None:
        """RFC 8831 §6.2: no channel outlives the association."""
        self.established = False
        self.ended = (notice.reason, notice.broken)
        for channel_id in list(self._channels):
            self._drop(channel_id, notice.reason, broken=notice.broken)
        self._events.append((AssociationClosed(notice.reason, notice.broken), 0))

    def _drop(self, channel_id: int, reason: str, *, broken: bool = False) -> None:
        del self._channels[channel_id]
        self._events.append((ChannelClosed(channel_id, reason, broken), 0))

    def _on_message(self, message: InMessage, now: float) -> None:
        channel = self._channels.get(message.stream_id)
        if message.ppid == PPID_DCEP:
            self._on_dcep(message, channel, now)
            return
        if channel is None or channel.closing:
            self._ignore(message, "channel-closed" if channel else "channel-unknown")
            return
        if not channel.acknowledged:
            self._acknowledge(channel)  # RFC 8832 §6: data says as much as an ACK
        try:
            data = decode_payload(message.ppid, message.data)
        except DecodeError as error:
            self._ignore(message, error.reason)
            self._fail(channel, "peer sent an invalid message", now)
            return
        self._events.append((MessageReceived(message.stream_id, data, message.cost), 0))

    def _ignore(self, message: InMessage, reason: str) -> None:
        self.drops.count(reason)
        self._association.release(message.cost)

    def _acknowledge(self, channel: Channel) -> None:
        channel.acknowledged = True
        self._events.append((opened(channel, incoming=False), 0))

    def _on_dcep(self, message: InMessage, channel: Channel | None, now: float) -> None:
        try:
            terms = decode_dcep(message.data)
        except DecodeError as error:
            self._ignore(message, error.reason)
            if channel is not None:
                self._fail(channel, "peer sent an invalid message", now)
            else:
                self._refuse(message.stream_id, now)
            return
        if terms is not None:
            self._on_open(message, terms, channel, now)
            return
        self._association.release(message.cost)
        if channel is None or channel.acknowledged:
            self.drops.count("dcep-ack")
        elif not channel.closing:
            self._acknowledge(channel)

    def _on_open(self, message: InMessage, terms: OpenMessage, channel: Channel | None, now: float) -> None:
        """The peer opens a channel; it is refused by a reset and without an ACK (RFC 8832 §6)."""
        channel_id = message.stream_id
        if channel is not None:
            self._ignore(message, "open-used-id")
            self._fail(channel, "peer opened the channel again", now)
            return
        settled = channel_id not in self._awaiting and (
            channel_id not in self._resetting or self._association.reset_requested(channel_id)
        )
        if not settled or channel_id % 2 == self._parity or channel_id > self._id_limit:
            self._ignore(message, "open-id")
            self._refuse(channel_id, now)
            return
        if len(self._channels) >= self._config.max_channels:
            self._ignore(message, "open-limit")
            self._refuse(channel_id, now)
            return
        channel = self._channels[channel_id] = Channel(channel_id, terms, acknowledged=True)
        self._events.append((opened(channel, incoming=True), message.cost))
        self._push(channel_id, PPID_DCEP, ACK, now=now)

    # --- closing

    def _begin_reset(self, channel_id: int, now: float) -> None:
        """Reset our stream once what is queued was sent; the peer resets its own in turn."""
        if self._association.reset_stream(channel_id, now=now):
            self._resetting[channel_id] += 1
            self._awaiting.add(channel_id)

    def _refuse(self, channel_id: int, now: float) -> None:
        if channel_id not in self._resetting and channel_id <= self._id_limit:
            self._begin_reset(channel_id, now)

    def _fail(self, channel: Channel, reason: str, now: float) -> None:
        """Close a channel that the peer misuses; unsent messages are dropped."""
        already = channel.closing
        self._association.queue.clear(channel.id)
        self._drop(channel.id, reason, broken=True)
        if not already:
            self._begin_reset(channel.id, now)

    def _on_incoming_reset(self, notice: IncomingReset, now: float) -> None:
        """The peer closed its direction (RFC 8831 §6.7)."""
        stream_ids = notice.stream_ids or tuple({*self._channels, *self._awaiting})
        for channel_id in stream_ids:
            if channel_id in self._awaiting:
                self._awaiting.discard(channel_id)
                continue
            if channel_id not in self._channels:
                continue
            # It reads no more: what is not sent yet would only delay the answer.
            self._association.queue.clear(channel_id)
            self._drop(channel_id, "closed by peer")
            if self._association.reset_stream(channel_id, now=now):
                self._resetting[channel_id] += 1
        self._finish_closing(stream_ids)

    def _on_outgoing_reset(self, notice: OutgoingReset) -> None:
        for channel_id in notice.stream_ids:
            self._resetting[channel_id] -= 1
            if not self._resetting[channel_id]:
                del self._resetting[channel_id]
            if not notice.performed:
                self._awaiting.add(channel_id)  # the peer's stream is in doubt: the id is not used again
                if (channel := self._channels.get(channel_id)) is not None and channel.closing:
                    self._drop(channel_id, "closed")
        self._finish_closing(notice.stream_ids)

    def _finish_closing(self, stream_ids: tuple[int, ...]) -> None:
        """Report channels that both ends have closed."""
        for channel_id in stream_ids:
            channel = self._channels.get(channel_id)
            if channel is None or not channel.closing:
                continue
            if channel_id not in self._resetting and channel_id not in self._awaiting:
                self._drop(channel_id, "closed")
