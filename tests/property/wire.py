"""Decoders of what comes in datagrams: STUN, DTLS records, SCTP, and what the kernel says of interfaces."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache

from edgeice import dns, stun
from edgeice.addresses import TransportAddress
from edgeice.dtls.record import sift_records, split_records
from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.mdns.message import decode_addresses
from edgeice.net import netlink
from edgeice.sansio import DropCounter
from edgeice.sctp import chunks
from edgeice.sctp.config import SctpConfig
from edgeice.sctp.cookie import CookieSigner, StateCookie
from edgeice.sctp.dcep import ACK, OpenMessage, decode_dcep, encode_open
from edgeice.sctp.payload import decode_payload, encode_payload
from edgeice.turn.framing import Deframer, decode_channel_data, encode_channel_data
from tests.property.target import decoder
from tests.support.dtls_pair import DtlsPair
from tests.support.stun_wire import DATA, KEY, KEYS, raw_message, seal, sign, tlv
from tests.unit.sctp.link import Link

__all__ = ["WIRE", "repaired_stun", "sctp_packets"]

_TRAILERS = ((b"\x80\x28\x00\x04", 8), (b"\x00\x1c\x00\x20", 36), (b"\x00\x08\x00\x14", 24))


# --- STUN


def repaired_stun(data: bytes, key: bytes = KEY) -> bytes:
    """The attributes of a message with a right length, integrity and FINGERPRINT, so that more than these is tried."""
    body = data[20:] if len(data) >= 20 else data
    for head, size in _TRAILERS:
        if body[-size:].startswith(head):
            body = body[:-size]
    body += bytes(-len(body) % 4)
    header = data[:20] if len(data) >= 20 else raw_message(b"")
    return seal(sign(header[:2] + struct.pack("!H", len(body) & 0xFFFF) + header[4:20] + body[:0xFF00], key))


@cache
def _stun_seeds() -> Sequence[bytes]:
    flood = b"".join(tlv(0x7A00 + n, b"") for n in range(40))
    return (*DATA.values(), seal(sign(raw_message(tlv(6, b"evtj:h6vY") + flood))), seal(raw_message(b"")))


def _stun_holds(data: bytes, message: stun.Message) -> None:
    assert stun.is_stun(data) == (data[0] < 4)  # RFC 7983 §7
    repr(message)
    for attribute in stun.Attribute:
        assert (attribute in message) == (message.get(int(attribute)) is not None)
    assert len(message.get_all(stun.Attribute.XOR_PEER_ADDRESS)) <= len(data) // 12
    believed: list[stun.Message | stun.AuthenticatedMessage] = [message]
    for key in KEYS.values():
        with suppress(stun.AuthenticationError):
            believed.append(stun.authenticate(message, key))
    if message.message_class is stun.MessageClass.REQUEST:
        for answer in (stun.error_response(message, 400), stun.unknown_attributes_response(message)):
            assert answer is None or len(answer) <= len(data)
    for each in believed:
        _encoded_again(each)


def _encoded_again(message: stun.Message | stun.AuthenticatedMessage) -> None:
    """What was read can be written and is read again, unless it is longer than what may be sent."""
    # RFC 8489 §14.3, §14.9: more is read than written of these.
    values = {kind: value for kind, value in message._values.items() if kind in set(stun.Attribute)}
    try:
        data = stun.encode(
            message.method,
            message.message_class,
            message.transaction_id,
            [(stun.Attribute(kind), value) for kind, value in values.items()],
        )
    except LocalProtocolError:
        return
    again = stun.decode(data)
    assert again._values == values
    assert (again.method, again.message_class) == (message.method, message.message_class)


STUN = decoder("stun", _stun_seeds, stun.decode, _stun_holds, examples=300)
STUN_SEALED = decoder(
    "stun-sealed",
    _stun_seeds,
    lambda data: stun.decode(repaired_stun(data)),
    lambda _data, message: _stun_holds(message.data, message),
    examples=300,
)


# --- DTLS records


@cache
def _dtls_seeds() -> Sequence[bytes]:
    pair = DtlsPair().connect()
    handshake = [datagram for _, datagram in pair.log]
    pair.log.clear()
    for end in (pair.client, pair.server):
        end.send(b"payload", now=0)
    pair.pump()
    pair.client.close(now=0)
    pair.pump()
    return (*handshake, *(datagram for _, datagram in pair.log))


def _sifted(data: bytes) -> tuple[bytes, DropCounter]:
    drops = DropCounter()
    return sift_records(data, drops), drops


def _sifted_holds(data: bytes, result: tuple[bytes, DropCounter]) -> None:
    kept, drops = result
    assert kept == data or (drops.total > 0 and len(kept) < len(data))
    assert drops.total <= len(data) // 13 + 1
    assert all(len(record) == 13 + int.from_bytes(record[11:13], "big") for record in split_records(kept))
    assert _sifted(kept)[0] == kept
    assert not _sifted(kept)[1].total


DTLS = decoder("dtls-records", _dtls_seeds, _sifted, _sifted_holds)


# --- SCTP


@cache
def sctp_packets() -> tuple[bytes, ...]:
    """Packets of a conversation with losses, restricted reliability and a channel that is closed."""
    link = Link(SctpConfig(), loss=0.1, seed=3)
    link.connect()
    for ordered, retransmits, lifetime in ((True, None, None), (False, 0, None), (True, None, 5)):
        channel = link.client.open(
            "label", "protocol", now=link.now, ordered=ordered, max_retransmits=retransmits, max_lifetime=lifetime
        )
        link.run(2.0)
        for size in (0, 1, 1000, 4000):
            link.client.send(channel, bytes(size), now=link.now)
        link.client.send(channel, "text", now=link.now)
        link.run(3.0)
        link.client.close_channel(channel, now=link.now)
        link.run(3.0)
    link.run(40.0)  # heartbeats
    link.client.shutdown(now=link.now)
    link.run(5.0)
    packets = [packet for sent in link.sent for packet in sent]
    # One of each kind and size, roughly: the rest is more of the same.
    return tuple({(chunks.split_chunks(packet)[0][0], len(packet) // 64): packet for packet in packets}.values())


def _sctp_split(data: bytes) -> list[chunks.ChunkSpan]:
    chunks.packet_checksum_holds(data.ljust(12, b"\0"))
    return chunks.split_chunks(data)


def _sctp_holds(data: bytes, spans: list[chunks.ChunkSpan]) -> None:
    at = chunks.HEADER_SIZE
    for kind, _flags, start, end in spans:
        assert start == at + 4
        assert start <= end <= len(data)
        at = end + 3 & ~3
        _chunk_value(kind, data[start:end])
    assert at >= len(data)


def _chunk_value(kind: int, value: bytes) -> None:
    decoders: dict[int, Callable[[bytes], object]] = {
        chunks.ChunkType.INIT: _init,
        chunks.ChunkType.INIT_ACK: _init,
        chunks.ChunkType.SACK: _sack,
        chunks.ChunkType.FORWARD_TSN: _forward_tsn,
        chunks.ChunkType.ERROR: chunks.decode_causes,
        chunks.ChunkType.ABORT: chunks.decode_causes,
        chunks.ChunkType.RE_CONFIG: chunks.decode_parameters,
    }
    with suppress(DecodeError):
        decoders.get(kind, len)(value)


def _init(value: bytes) -> None:
    init = chunks.decode_init(value)
    assert sum(map(len, init.unrecognized)) <= len(value) + 3


def _sack(value: bytes) -> None:
    cumulative, a_rwnd, gaps, duplicates = chunks.decode_sack(value)
    again = chunks.encode_sack(cumulative, a_rwnd, gaps, [0] * duplicates)
    assert chunks.decode_sack(again[4:]) == (cumulative, a_rwnd, gaps, duplicates)


def _forward_tsn(value: bytes) -> None:
    assert chunks.encode_forward_tsn(chunks.decode_forward_tsn(value))[4:] == value


def _dcep_holds(data: bytes, opened: OpenMessage | None) -> None:
    assert (opened is None) == (data == ACK)
    if opened is not None:
        assert decode_dcep(encode_open(opened)) == opened
        assert len(encode_open(opened)) == len(data)


def _payload_holds(data: bytes, value: bytes | str) -> None:
    assert decode_payload(*encode_payload(value)) == value


_COOKIE = StateCookie(1.0, 5000, 5000, 1, 2, 3, 4, 65536, 10, 10, forward_tsn=True, reconfig=False)
_SIGNER = CookieSigner(b"k" * 32)


def _cookie_holds(data: bytes, _cookie: StateCookie) -> None:
    assert data == _SIGNER.encode(_COOKIE)


SCTP = decoder("sctp-packet", sctp_packets, _sctp_split, _sctp_holds, examples=300)
COOKIE = decoder("sctp-cookie", lambda: (_SIGNER.encode(_COOKIE),), _SIGNER.decode, _cookie_holds, examples=50)
DCEP = decoder(
    "dcep",
    lambda: (
        ACK,
        encode_open(OpenMessage("label", "protocol")),
        encode_open(OpenMessage("ä", "", ordered=False, max_retransmits=3)),
        encode_open(OpenMessage("", "", max_lifetime=500)),
    ),
    decode_dcep,
    _dcep_holds,
)
#: The first byte is the payload's protocol identifier.
PAYLOAD = decoder(
    "sctp-payload",
    lambda: (b"\x33text", "\x33ä€".encode(), b"\x35binary", b"\x38\0", b"\x39\0", b"\x34", b"\x36\xc3", b"\x32"),
    lambda data: decode_payload(data[0] if data else 0, data[1:]),
    _payload_holds,
    examples=100,
)


# --- netlink


def _netlink(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 7, 0) + body + bytes(-len(body) % 4)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


_LINK = struct.pack("=BxHiII", 0, 1, 2, 0x11043, 0) + _attribute(3, b"eth0\0") + _attribute(4, struct.pack("=I", 1500))
_VLAN = _LINK + _attribute(5, bytes([2, 0, 0, 0])) + _attribute(1 << 15 | 18, _attribute(1, b"vlan\0"))
_ROUTE = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 4, 0, 1, 0) + _attribute(6, struct.pack("=I", 600))
_HOPS = struct.pack("=HBBi", 16, 16, 0, 2) + _attribute(5, bytes(4)) + struct.pack("=HBBi", 8, 0, 0, 3)
_IPV4 = struct.pack("=BBBBI", 2, 24, 0x80, 0, 2) + _attribute(1, bytes(4)) + _attribute(2, bytes([192, 0, 2, 1]))
_IPV6 = struct.pack("=BBBBI", 10, 64, 0, 0, 2) + _attribute(1, bytes(16)) + _attribute(8, struct.pack("=I", 0x801))


def _netlink_holds(data: bytes, messages: list[netlink.Message]) -> None:
    assert len(messages) <= 2 * (len(data) // 16)
    snapshot = netlink.assemble(messages, lambda _link: "other")
    for family in (4, 6):
        snapshot.default_route(family)


NETLINK = decoder(
    "netlink",
    lambda: (
        _netlink(16, _LINK, 2) + _netlink(3, bytes(4), 2),
        _netlink(17, _LINK + _attribute(11, bytes(8))),
        _netlink(20, _IPV4) + _netlink(20, _IPV6) + _netlink(21, _IPV6),
        _netlink(16, _VLAN) + _netlink(24, _ROUTE + _attribute(4, bytes([2, 0, 0, 0]))),
        _netlink(25, _ROUTE + _attribute(9, _HOPS)),
        _netlink(2, struct.pack("=i", -16) + bytes(16)),
        _netlink(3, bytes(4), 0x12),
    ),
    netlink.decode,
    _netlink_holds,
)

# --- DNS


def _record(name: bytes, kind: int, data: bytes, klass: int = dns.IN, ttl: int = 120) -> bytes:
    return name + struct.pack("!HHIH", kind, klass, ttl, len(data)) + data


_NAME = b"\x04name\x05local\0"
_LABELS = (b"name", b"local")
_ADDRESSES = struct.pack("!6H", 0, 0x8400, 0, 2, 0, 1) + (
    _record(_NAME, dns.A, bytes([192, 0, 2, 1]), 0x8001)
    + _record(b"\xc0\x0c", dns.AAAA, bytes(15) + b"\1", 0x8001)
    + _record(b"\x04more\xc0\x11", dns.A, bytes([192, 0, 2, 2]))
)
_SERVICES = struct.pack("!6H", 7, 0x8180, 1, 1, 1, 0) + (
    b"\x05_stun\x04_udp\x07example\3org\0"
    + struct.pack("!HH", dns.SRV, dns.IN)
    + _record(b"\xc0\x0c", dns.SRV, struct.pack("!HHH", 1, 2, 3478) + b"\x02s1\xc0\x17")
    + _record(b"\xc0\x17", 2, b"\2ns\xc0\x17")
)


def _dns_holds(data: bytes, records: list[dns.Record]) -> None:
    assert len(records) <= min(len(data) // 11, 256)
    for record in records:
        assert sum(1 + len(label) for label in (*record.name, *record.target)) <= 2 * 254
        address = dns.address_of(record)
        assert address is None or TransportAddress.parse(address, 0).ip == address


def _mdns_holds(_data: bytes, found: dict[dns.Labels, tuple[str, ...]]) -> None:
    assert set(found) <= {_LABELS}
    assert all(addresses and len(set(addresses)) == len(addresses) for addresses in found.values())


_DNS_TOKENS = (b"\xc0\x0c", b"\xc0\0", b"\0\1", b"\0\x1c", b"\0!", b"\x3f", _NAME)
DNS = decoder("dns", lambda: (_ADDRESSES, _SERVICES), dns.decode_response, _dns_holds, tokens=_DNS_TOKENS)
MDNS = decoder(
    "mdns", lambda: (_ADDRESSES,), lambda data: decode_addresses(data, [_LABELS]), _mdns_holds, tokens=_DNS_TOKENS
)


# --- TURN


def _channel_holds(data: bytes, message: tuple[int, bytes]) -> None:
    number, payload = message
    assert data.startswith(encode_channel_data(number, payload, padded=False))


def _deframed(data: bytes, size: int) -> tuple[list[bytes], bool]:
    """The messages of a stream that comes in pieces of so many bytes, and whether it broke."""
    deframer = Deframer()
    found = []
    for at in range(0, len(data), size):
        found += deframer.feed(data[at : at + size])
        assert len(deframer._buffer) <= 65_555 + size
    return found, deframer.broken


def _deframed_holds(data: bytes, result: tuple[list[bytes], bool]) -> None:
    assert _deframed(data, 7) == result
    assert data.startswith(b"".join(result[0]))
    assert all(len(message) % 4 == 0 for message in result[0])


def _stream_seeds() -> Sequence[bytes]:
    stuns = [message for message in DATA.values() if stun.is_stun(message)]
    data = [encode_channel_data(0x4000 + size, bytes(size), padded=True) for size in (0, 1, 3, 4, 200)]
    return (b"".join(stuns), b"".join(data), b"".join(data[:2] + stuns[:2] + data[2:]))


CHANNEL_DATA = decoder(
    "channel-data",
    lambda: tuple(encode_channel_data(0x4001, bytes(size), padded=True) for size in (0, 1, 3, 4)),
    decode_channel_data,
    _channel_holds,
    examples=50,
)
TURN_STREAM = decoder(
    "turn-stream", _stream_seeds, lambda data: _deframed(data, len(data) + 1), _deframed_holds, examples=100
)

WIRE = (STUN, STUN_SEALED, DTLS, SCTP, COOKIE, DCEP, PAYLOAD, NETLINK, DNS, MDNS, CHANNEL_DATA, TURN_STREAM)
