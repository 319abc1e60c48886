"""A TURN server in memory (RFC 8656): allocations, permissions, channels and their lifetimes, for many clients.

It shares no logic with the client that it serves but the codec of messages.  What is against the rules is refused or
dropped, as a server does; nothing is repaired.
"""

from __future__ import annotations

import random
from typing import Final

import attrs

from edgeice import stun
from edgeice.addresses import TransportAddress
from edgeice.errors import DecodeError
from edgeice.stun import Attribute, AuthenticationError, ErrorCode, Message, MessageClass, Method
from tests.sim.servers import Outgoing

__all__ = ["PASSWORD", "REALM", "USERNAME", "TurnServer"]

USERNAME: Final = "edge"
PASSWORD: Final = "relay-secret"
REALM: Final = "sim.example"

#: RFC 8656 §9, §12: seconds that a permission and a channel last.
_PERMISSION: Final = 300.0
_CHANNEL: Final = 600.0
_FIRST_CHANNEL: Final = 0x4000
_LAST_CHANNEL: Final = 0x4FFF
_UDP: Final = 17


@attrs.define(eq=False)
class _Allocation:
    client: TransportAddress
    relayed: TransportAddress
    #: Of the request that made it.
    transaction_id: bytes
    expires_at: float
    #: Peer's IP -> until when.
    permissions: dict[str, float] = attrs.field(factory=dict)
    #: Channel -> peer and until when.
    channels: dict[int, tuple[TransportAddress, float]] = attrs.field(factory=dict)


class TurnServer:
    """One server.

    Args:
        address: Where it listens; it relays from ports of the same IP.
        seed: Of ports and nonces.
        lifetime: Of allocations, seconds, whatever clients ask for.
        nonce_lifetime: After it a client is told 438.

    Attributes:
        refused: Answers with an error, by code.
        dropped: Data without an allocation, permission or channel, either way.
    """

    def __init__(
        self, address: TransportAddress, *, seed: int, lifetime: float = 120.0, nonce_lifetime: float = 100.0
    ) -> None:
        self.refused: dict[int, int] = {}
        self.dropped = 0
        self._address = address
        self._dice = random.Random(seed)
        self._lifetime = lifetime
        self._nonce_lifetime = nonce_lifetime
        self._by_client: dict[TransportAddress, _Allocation] = {}
        self._by_port: dict[int, _Allocation] = {}
        self._nonce = b""
        self._nonce_until = -1.0
        self._key = stun.long_term_key(USERNAME, REALM, PASSWORD)

    @property
    def allocations(self) -> int:
        """How many there are, those that are over included until somebody asks for them."""
        return len(self._by_client)

    def receive(self, data: bytes, local: TransportAddress, source: TransportAddress, *, now: float) -> list[Outgoing]:
        """Take a datagram that came to the server's own address or to a relayed one."""
        if local.port != self._address.port:
            return self._from_peer(data, local, source, now)
        if data and 0x40 <= data[0] <= 0x4F:
            return self._channel_data(data, source, now)
        try:
            message = stun.decode(data)
        except DecodeError:
            return []
        if message.message_class is MessageClass.INDICATION and message.method == Method.SEND:
            return self._send(message, source, now)
        if message.message_class is MessageClass.REQUEST:
            return [Outgoing(self._address, source, self._answer(message, source, now))]
        return []

    def disconnected(self, client: TransportAddress) -> None:
        """A stream ended, and its allocation with it (RFC 8656 §3.1)."""
        allocation = self._by_client.get(client)
        if allocation is not None:
            self._delete(allocation)

    def restart(self) -> None:
        """Forget every allocation."""
        self._by_client.clear()
        self._by_port.clear()

    # Requests

    def _answer(self, request: Message, client: TransportAddress, now: float) -> bytes:
        if request.method == Method.BINDING:
            return stun.success_response(request, client)
        doubt = self._doubt(request, now)
        if doubt is not None:
            return self._challenge(request, doubt)
        if request.method == Method.ALLOCATE:
            return self._allocate(request, client, now)
        allocation = self._allocation(client, now)
        if allocation is None:
            return self._error(request, 437)
        methods = {
            Method.REFRESH: self._refresh,
            Method.CREATE_PERMISSION: self._permit,
            Method.CHANNEL_BIND: self._bind,
        }
        method = methods.get(Method(request.method)) if request.method in Method.__members__.values() else None
        return self._error(request, 400) if method is None else method(request, allocation, now)

    def _doubt(self, request: Message, now: float) -> int | None:
        """Why a request is not believed (RFC 8489 §9.2.4), None if it is."""
        if now >= self._nonce_until:
            self._nonce, self._nonce_until = self._dice.randbytes(8).hex().encode(), now + self._nonce_lifetime
        if not request.has_integrity:
            return 401
        if request.get(Attribute.NONCE) != self._nonce:
            return 438
        try:
            stun.authenticate(request, self._key)
        except AuthenticationError:
            return 401
        return None

    def _permit(self, request: Message, allocation: _Allocation, now: float) -> bytes:
        for peer in request.get_all(Attribute.XOR_PEER_ADDRESS):
            allocation.permissions[peer.ip] = now + _PERMISSION
        return self._success(request, [])

    def _allocate(self, request: Message, client: TransportAddress, now: float) -> bytes:
        present = self._allocation(client, now)
        if present is not None and present.transaction_id == request.transaction_id:
            return self._allocated(request, present)  # RFC 8656 §7.2: a repetition has the same answer
        if present is not None:
            return self._error(request, 437)
        if request.get(Attribute.REQUESTED_TRANSPORT) != _UDP:
            return self._error(request, 442)
        port = self._dice.randrange(49152, 65536)
        while port in self._by_port:
            port = self._dice.randrange(49152, 65536)
        relayed = TransportAddress(self._address.ip, port)
        allocation = _Allocation(client, relayed, request.transaction_id, now + self._lifetime)
        self._by_client[client] = self._by_port[port] = allocation
        return self._allocated(request, allocation)

    def _allocated(self, request: Message, allocation: _Allocation) -> bytes:
        mapped = attrs.evolve(allocation.client, protocol="udp")
        return self._success(
            request,
            [
                (Attribute.XOR_RELAYED_ADDRESS, allocation.relayed),
                (Attribute.XOR_MAPPED_ADDRESS, mapped),
                (Attribute.LIFETIME, int(self._lifetime)),
            ],
        )

    def _refresh(self, request: Message, allocation: _Allocation, now: float) -> bytes:
        if request.get(Attribute.LIFETIME) == 0:
            self._delete(allocation)
            return self._success(request, [(Attribute.LIFETIME, 0)])
        allocation.expires_at = now + self._lifetime
        return self._success(request, [(Attribute.LIFETIME, int(self._lifetime))])

    def _bind(self, request: Message, allocation: _Allocation, now: float) -> bytes:
        number, peer = request.get(Attribute.CHANNEL_NUMBER), request.get(Attribute.XOR_PEER_ADDRESS)
        if number is None or peer is None or not _FIRST_CHANNEL <= number <= _LAST_CHANNEL:
            return self._error(request, 400)
        for other, (bound, until) in allocation.channels.items():
            if until > now and (other == number) != (bound == peer):
                return self._error(request, 400)  # RFC 8656 §12.2
        allocation.channels[number] = peer, now + _CHANNEL
        allocation.permissions[peer.ip] = now + _PERMISSION
        return self._success(request, [])

    # Data

    def _send(self, message: Message, client: TransportAddress, now: float) -> list[Outgoing]:
        peer, data = message.get(Attribute.XOR_PEER_ADDRESS), message.get(Attribute.DATA)
        allocation = self._allocation(client, now)
        if allocation is None or peer is None or data is None or allocation.permissions.get(peer.ip, 0.0) <= now:
            self.dropped += 1
            return []
        return [Outgoing(allocation.relayed, peer, data)]

    def _channel_data(self, data: bytes, client: TransportAddress, now: float) -> list[Outgoing]:
        allocation = self._allocation(client, now)
        peer, until = (None, 0.0) if allocation is None else allocation.channels.get(_word(data, 0), (None, 0.0))
        size = _word(data, 2) if len(data) >= 4 else len(data)
        if allocation is None or peer is None or until <= now or 4 + size > len(data):
            self.dropped += 1
            return []
        return [Outgoing(allocation.relayed, peer, data[4 : 4 + size])]

    def _from_peer(self, data: bytes, local: TransportAddress, peer: TransportAddress, now: float) -> list[Outgoing]:
        allocation = self._by_port.get(local.port)
        if allocation is None or allocation.expires_at <= now or allocation.permissions.get(peer.ip, 0.0) <= now:
            self.dropped += 1
            return []
        client = allocation.client
        for number, (bound, until) in allocation.channels.items():
            if bound == peer and until > now:
                padding = bytes(-len(data) % 4) if client.protocol == "tcp" else b""
                header = number.to_bytes(2, "big") + len(data).to_bytes(2, "big")
                return [Outgoing(self._address, client, header + data + padding)]
        attributes: list[tuple[int, object]] = [(Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data)]
        transaction_id = self._dice.randbytes(12)
        wrapped = stun.encode(Method.DATA, MessageClass.INDICATION, transaction_id, attributes, fingerprint=False)
        return [Outgoing(self._address, client, wrapped)]

    # Answers

    def _allocation(self, client: TransportAddress, now: float) -> _Allocation | None:
        allocation = self._by_client.get(client)
        if allocation is not None and allocation.expires_at <= now:
            self._delete(allocation)
            return None
        return allocation

    def _delete(self, allocation: _Allocation) -> None:
        del self._by_client[allocation.client], self._by_port[allocation.relayed.port]

    def _success(self, request: Message, attributes: list[tuple[int, object]]) -> bytes:
        return stun.encode(
            request.method,
            MessageClass.SUCCESS,
            request.transaction_id,
            attributes,
            key=self._key,
            fingerprint=request.has_fingerprint,
        )

    def _error(self, request: Message, code: int) -> bytes:
        self.refused[code] = self.refused.get(code, 0) + 1
        attributes: list[tuple[int, object]] = [(Attribute.ERROR_CODE, ErrorCode(code))]
        return stun.encode(request.method, MessageClass.ERROR, request.transaction_id, attributes, key=self._key)

    def _challenge(self, request: Message, code: int) -> bytes:
        self.refused[code] = self.refused.get(code, 0) + 1
        attributes: list[tuple[int, object]] = [
            (Attribute.ERROR_CODE, ErrorCode(code)),
            (Attribute.REALM, REALM),
            (Attribute.NONCE, self._nonce),
        ]
        return stun.encode(request.method, MessageClass.ERROR, request.transaction_id, attributes)


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")
