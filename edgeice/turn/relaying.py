"""Data to and from peers through an allocation: permissions, channels, indications (RFC 8656 §9-§12)."""

from __future__ import annotations

from collections import deque
from typing import Final, TypeAlias

import attrs

from edgeice.addresses import TransportAddress
from edgeice.errors import DecodeError
from edgeice.sansio import BoundedQueue, DropCounter, Entropy, Event
from edgeice.stun.attributes import Attribute
from edgeice.stun.message import Message, MessageClass, Method, encode
from edgeice.stun.transaction import TransactionRejected, TransactionSucceeded, new_transaction_id
from edgeice.turn.channel import Channel, ChannelInput, Channels, ChannelState
from edgeice.turn.config import TurnConfig
from edgeice.turn.events import PeerRefused, PeerUnreachable
from edgeice.turn.framing import decode_channel_data, encode_channel_data
from edgeice.turn.permission import PermissionInput, Permissions, PermissionState
from edgeice.turn.requests import Answer, Requester

__all__ = ["ChannelFor", "PermissionFor", "Relaying"]

#: The length field of an attribute and of ChannelData has 16 bits; a datagram holds less than that anyway.
_MAX_DATA: Final = 65_000
#: RFC 8489 §6.2.1: a transaction lasts 39.5 s; a permission that a channel was to renew is asked for after that.
_CHANNEL_PATIENCE: Final = 40.0
#: Events about peers that wait to be taken; more are dropped and counted, since anybody may cause ICMP errors.
_MAX_EVENTS: Final = 64


@attrs.frozen
class PermissionFor:
    """The purpose of a CreatePermission request."""

    ip: str


@attrs.frozen
class ChannelFor:
    """The purpose of a ChannelBind request."""

    peer: TransportAddress


Datagram: TypeAlias = tuple[TransportAddress, bytes]


class Relaying:
    """What happens inside an allocation that stands.

    Args:
        stream: Whether what is sent goes over TCP or TLS.
        config: Timings and limits.
        entropy: For the transaction ids of indications.
        requests: Where requests are asked.
        drops: Where what is dropped is counted.
    """

    def __init__(
        self, *, stream: bool, config: TurnConfig, entropy: Entropy, requests: Requester, drops: DropCounter
    ) -> None:
        self._stream = stream
        self._config = config
        self._entropy = entropy
        self._requests = requests
        self._drops = drops
        self._permissions = Permissions(config)
        self._channels = Channels(config)
        # The earliest deadline is asked for after each datagram, which hardly ever moves it.
        self._next_at: float | None = None
        self._is_moved = False
        #: Families of the relayed addresses; peers are of the same (RFC 8656 §9.1).
        self.families: frozenset[int] = frozenset()
        #: Whether the server sets DF where it is asked to.
        self.dont_fragment = False
        #: To the server.
        self.outgoing: BoundedQueue[bytes] = BoundedQueue(config.max_queue)
        #: From peers.
        self.incoming: BoundedQueue[Datagram] = BoundedQueue(config.max_queue)
        self.events: deque[Event] = deque()

    # Commands

    def send(self, peer: TransportAddress, data: bytes, *, now: float) -> bool:
        """Send to a peer or wait for its permission; whether `work` has something to do."""
        if peer.family not in self.families:
            self._drops.count("peer_family")
            return False
        if len(data) > _MAX_DATA:
            self._drops.count("data_size")
            return False
        channel = self._channels.sending(peer, now=now)
        permission = self._permissions.want(peer.ip, now=now)
        if permission is None:
            self._drops.count("permissions_full")
            return False
        self._permissions.use(permission, now=now)
        # RFC 8656 §11.1, RFC 8445 §7.2.1: nothing before the permission stands.
        if self._permissions.is_live(peer.ip):
            self._transmit(channel, peer, data)
        elif permission.state is PermissionState.REFUSED:
            self._drops.count("permission_refused")
        elif not permission.waiting.push((peer, data)):
            self._drops.count("permission_queue_full")
        return (permission.ask_at is not None and permission.ask_at <= now) or (
            channel is None and self._channels.is_due(peer, now=now)
        )

    def bind(self, peer: TransportAddress, *, now: float) -> bool:
        """Want a channel to a peer; False if there can be none."""
        self._is_moved = True
        return peer.family in self.families and self._channels.bind(peer, now=now)

    def is_permitted(self, ip: str) -> bool:
        """Whether the server has granted a permission for an address, as far as is known."""
        return self._permissions.is_live(ip)

    def renew(self, *, now: float) -> bool:
        """Ask for the permission that is used most as soon as `work` is called; False if there is none."""
        self._is_moved = True
        return self._permissions.renew_latest(now=now)

    # Inputs

    def receive_channel_data(self, message: bytes) -> None:
        """Take a ChannelData message."""
        try:
            number, data = decode_channel_data(message)
        except DecodeError as error:
            self._drops.count(error.reason)
            return
        # RFC 8656 §12.6: of a channel that is not bound, nothing is taken.
        channel = self._channels.receiving(number)
        if channel is None:
            self._drops.count("channel_unbound")
        elif channel.state is not ChannelState.BINDING and not self._permissions.is_live(channel.peer.ip):
            self._drops.count("data_without_permission")
        else:
            self._take((channel.peer, data))

    def receive_indication(self, message: Message) -> None:
        """Take a Data indication: data from a peer, or what ICMP said about one."""
        # RFC 8489 §6.3.2: what must be understood and is not.
        if message.unknown_required:
            self._drops.count("unknown_attributes")
            return
        peer = message.get(Attribute.XOR_PEER_ADDRESS)
        if peer is None:
            self._drops.count("data_without_peer")  # RFC 8656 §11.4
            return
        # RFC 8656 §11.4: the server should have done the same.
        if not self._permissions.is_live(peer.ip):
            self._drops.count("data_without_permission")
            return
        icmp = message.get(Attribute.ICMP)
        data = message.get(Attribute.DATA)
        if icmp is not None:
            self._tell(PeerUnreachable(peer, icmp))  # RFC 8656 §11.6: and never data
        elif data is not None:
            self._take((peer, data))
        else:
            self._drops.count("data_missing")

    def answered(self, answer: Answer, *, now: float) -> None:
        """Take the end of a request for a permission or a channel."""
        self._is_moved = True
        purpose = answer.request.purpose
        if isinstance(purpose, PermissionFor):
            self._permission_answered(purpose.ip, answer, now)
        elif isinstance(purpose, ChannelFor):
            self._channel_answered(purpose.peer, answer, now)

    def work(self, *, now: float) -> None:
        """Ask for what is due."""
        self._is_moved = True
        for channel in self._channels.take_due(now):
            self._permissions.postpone(channel.peer.ip, now + _CHANNEL_PATIENCE)
            attributes = [(Attribute.CHANNEL_NUMBER, channel.number), (Attribute.XOR_PEER_ADDRESS, channel.peer)]
            self._requests.ask(ChannelFor(channel.peer), Method.CHANNEL_BIND, attributes, now=now)
        for ip in self._permissions.take_due(now):
            # RFC 8656 §9.1: the port is not looked at.
            attributes = [(Attribute.XOR_PEER_ADDRESS, TransportAddress(ip, 0))]
            self._requests.ask(PermissionFor(ip), Method.CREATE_PERMISSION, attributes, now=now)

    def next_timeout(self) -> float | None:
        """When `work` is to be called."""
        if self._is_moved:
            times = (self._permissions.next_timeout(), self._channels.next_timeout())
            self._next_at = min((at for at in times if at is not None), default=None)
            self._is_moved = False
        return self._next_at

    # Inside

    def _permission_answered(self, ip: str, answer: Answer, now: float) -> None:
        what = PermissionInput.UNANSWERED
        if isinstance(answer.outcome, TransactionSucceeded):
            what = PermissionInput.GRANTED
        elif isinstance(answer.outcome, TransactionRejected):
            what = PermissionInput.REFUSED
        permission = self._permissions.happened(ip, what, asked_at=answer.request.asked_at, now=now)
        if permission is None:
            return
        if permission.state is PermissionState.REFUSED:
            self._drops.count("permission_refused", len(permission.waiting))
            permission.waiting.clear()
            self._tell(PeerRefused(ip, answer.code))
        self._flush(ip, now)

    def _channel_answered(self, peer: TransportAddress, answer: Answer, now: float) -> None:
        asked_at = answer.request.asked_at
        what = ChannelInput.UNANSWERED
        if isinstance(answer.outcome, TransactionSucceeded):
            what = ChannelInput.GRANTED
            # RFC 8656 §12: it installs or renews the permission too.
            self._permissions.want(peer.ip, now=now)
            self._permissions.happened(peer.ip, PermissionInput.GRANTED, asked_at=asked_at, now=now)
        elif isinstance(answer.outcome, TransactionRejected):
            what = ChannelInput.REFUSED
        self._channels.happened(peer, what, asked_at=asked_at, now=now)
        self._flush(peer.ip, now)

    def _flush(self, ip: str, now: float) -> None:
        """Send what waited for a permission that stands now."""
        permission = self._permissions.get(ip)
        if permission is None or not self._permissions.is_live(ip):
            return
        while (waiting := permission.waiting.pop()) is not None:
            peer, data = waiting
            self._transmit(self._channels.sending(peer, now=now), peer, data)

    def _transmit(self, channel: Channel | None, peer: TransportAddress, data: bytes) -> None:
        if channel is not None:
            message = encode_channel_data(channel.number, data, padded=self._stream)
        else:
            attributes: list[tuple[int, object]] = [(Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data)]
            if self.dont_fragment:
                attributes.append((Attribute.DONT_FRAGMENT, True))
            # RFC 8656 §5, §11.1: indications are not signed.
            message = encode(
                Method.SEND,
                MessageClass.INDICATION,
                new_transaction_id(self._entropy),
                attributes,
                fingerprint=False,
            )
        if not self.outgoing.push(message):
            self._drops.count("outgoing_full")

    def _take(self, datagram: Datagram) -> None:
        if not self.incoming.push(datagram):
            self._drops.count("incoming_full")

    def _tell(self, event: Event) -> None:
        if len(self.events) < _MAX_EVENTS:
            self.events.append(event)
        else:
            self._drops.count("events_full")
