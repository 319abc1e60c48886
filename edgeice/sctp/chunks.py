"""The wire: packets, chunks and parameters (RFC 9260 §3, RFC 3758, RFC 6525).

`split_chunks` cuts a packet and checks every length, so that nothing after it can read out of bounds; the chunk
decoders are total: a value or DecodeError.  DATA and SACK are read in place by the receiver and the sender.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import TypeAlias

import attrs

from edgeice.errors import DecodeError
from edgeice.sctp.crc32c import extend

__all__ = [
    "CHECKSUM",
    "CHUNK_HEADER",
    "COMMON_HEADER",
    "DATA_HEADER",
    "HEADER_SIZE",
    "MAX_GAP_BLOCKS",
    "PARAMETER_HEADER",
    "SACK_HEADER",
    "TSN",
    "TSN_FIELDS",
    "Cause",
    "ChunkSpan",
    "ChunkType",
    "ForwardTsn",
    "InitChunk",
    "ParameterType",
    "Sack",
    "UnknownAction",
    "decode_causes",
    "decode_forward_tsn",
    "decode_init",
    "decode_parameters",
    "decode_sack",
    "encode_cause",
    "encode_chunk",
    "encode_forward_tsn",
    "encode_init",
    "encode_packet",
    "encode_parameter",
    "encode_sack",
    "packet_checksum_holds",
    "split_chunks",
    "unknown_action",
]

COMMON_HEADER = struct.Struct("!HHI")  # ports and tag; the checksum follows in little-endian order
CHECKSUM = struct.Struct("<I")
CHUNK_HEADER = struct.Struct("!BBH")
DATA_HEADER = struct.Struct("!BBHIHHI")
TSN_FIELDS = struct.Struct("!IHHI")  # of DATA, after its chunk header
SACK_HEADER = struct.Struct("!BBHIIHH")
SACK_FIELDS = struct.Struct("!IIHH")
PARAMETER_HEADER = struct.Struct("!HH")
INIT_FIELDS = struct.Struct("!IIHHI")
TSN = struct.Struct("!I")
PAIR = struct.Struct("!HH")

#: Common header: ports, tag, checksum.
HEADER_SIZE = 12
_NO_CHECKSUM = bytes(4)
#: More chunks than this fit no packet of 1,500 bytes; a longer list is an attack.
_MAX_CHUNKS = 512
#: As many gap blocks as fit a packet of 1,200 bytes beside a little data.
MAX_GAP_BLOCKS = 256
_MAX_PARAMETERS = 256

#: (type, flags, offset of the value, offset of its end) within the packet.
ChunkSpan: TypeAlias = tuple[int, int, int, int]


class ChunkType(IntEnum):
    """Chunk types that this association knows."""

    DATA = 0
    INIT = 1
    INIT_ACK = 2
    SACK = 3
    HEARTBEAT = 4
    HEARTBEAT_ACK = 5
    ABORT = 6
    SHUTDOWN = 7
    SHUTDOWN_ACK = 8
    ERROR = 9
    COOKIE_ECHO = 10
    COOKIE_ACK = 11
    ECNE = 12
    CWR = 13
    SHUTDOWN_COMPLETE = 14
    RE_CONFIG = 130
    PAD = 132
    FORWARD_TSN = 192


class ParameterType(IntEnum):
    """Parameter types that this association knows."""

    HEARTBEAT_INFO = 1
    IPV4_ADDRESS = 5
    IPV6_ADDRESS = 6
    STATE_COOKIE = 7
    UNRECOGNIZED = 8
    COOKIE_PRESERVATIVE = 9
    SUPPORTED_ADDRESS_TYPES = 12
    OUTGOING_SSN_RESET = 13
    INCOMING_SSN_RESET = 14
    SSN_TSN_RESET = 15
    RECONFIG_RESPONSE = 16
    ADD_OUTGOING_STREAMS = 17
    ADD_INCOMING_STREAMS = 18
    ECN_CAPABLE = 0x8000
    #: RFC 9653; read and ignored: checksums are always right here.
    ZERO_CHECKSUM_ACCEPTABLE = 0x8001
    RANDOM = 0x8002
    CHUNK_LIST = 0x8003
    HMAC_ALGORITHM = 0x8004
    PADDING = 0x8005
    SUPPORTED_EXTENSIONS = 0x8008
    FORWARD_TSN_SUPPORTED = 0xC000
    ADAPTATION_LAYER = 0xC006


class Cause(IntEnum):
    """Error causes of ABORT and ERROR (RFC 9260 §3.3.10)."""

    INVALID_STREAM = 1
    STALE_COOKIE = 3
    INVALID_MANDATORY_PARAMETER = 7
    UNRECOGNIZED_CHUNK = 6
    UNRECOGNIZED_PARAMETERS = 8
    NO_USER_DATA = 9
    USER_ABORT = 12
    PROTOCOL_VIOLATION = 13


class UnknownAction(IntEnum):
    """What the two top bits of an unknown type ask for (RFC 9260 §3.2, §3.2.1)."""

    STOP = 0
    STOP_AND_REPORT = 1
    SKIP = 2
    SKIP_AND_REPORT = 3


def unknown_action(kind: int, *, bits: int) -> UnknownAction:
    """The action for an unknown type of `bits` bits: 8 for chunks, 16 for parameters."""
    return UnknownAction(kind >> (bits - 2))


# --- packets


def encode_packet(header: bytes, body: bytes, seed: int) -> bytes:
    """Join the first 8 bytes of the common header with chunks; `seed` is the CRC of header and an empty checksum."""
    return b"".join((header, CHECKSUM.pack(extend(seed, body)), body))


def packet_checksum_holds(data: bytes) -> bool:
    """True if the CRC32c is right (RFC 9260 §6.8)."""
    found: int = CHECKSUM.unpack_from(data, 8)[0]
    return found == extend(extend(extend(0, data[:8]), _NO_CHECKSUM), data[12:])


def split_chunks(data: bytes) -> list[ChunkSpan]:
    """Cut a packet into chunks, checking every length; raises DecodeError.

    The padding of the last chunk may be missing: some peers leave it out.
    """
    size = len(data)
    at = HEADER_SIZE
    spans: list[ChunkSpan] = []
    while at < size:
        if size - at < 4:
            raise DecodeError("chunk-truncated")
        kind, flags, length = CHUNK_HEADER.unpack_from(data, at)
        end = at + length
        if length < 4 or end > size:
            raise DecodeError("chunk-length", f"{length} of {size - at}")
        spans.append((kind, flags, at + 4, end))
        at = (end + 3) & ~3
    if not spans or len(spans) > _MAX_CHUNKS:
        raise DecodeError("chunk-count", str(len(spans)))
    return spans


def encode_chunk(kind: int, value: bytes = b"", flags: int = 0) -> bytes:
    """A chunk with its padding."""
    return CHUNK_HEADER.pack(kind, flags, 4 + len(value)) + value + bytes(-len(value) % 4)


# --- parameters and causes, which share one layout


def encode_parameter(kind: int, value: bytes = b"") -> bytes:
    """A parameter with its padding."""
    return PARAMETER_HEADER.pack(kind, 4 + len(value)) + value + bytes(-len(value) % 4)


def decode_parameters(data: bytes) -> list[tuple[int, bytes]]:
    """(type, value) of each parameter or error cause; raises DecodeError."""
    found: list[tuple[int, bytes]] = []
    at = 0
    size = len(data)
    while at < size:
        if size - at < 4:
            raise DecodeError("parameter-truncated")
        kind, length = PARAMETER_HEADER.unpack_from(data, at)
        if length < 4 or at + length > size:
            raise DecodeError("parameter-length", f"{length} of {size - at}")
        found.append((kind, data[at + 4 : at + length]))
        if len(found) > _MAX_PARAMETERS:
            raise DecodeError("parameter-count")
        at += (length + 3) & ~3
    return found


def encode_cause(cause: Cause, value: bytes = b"") -> bytes:
    """An error cause (RFC 9260 §3.3.10)."""
    return encode_parameter(cause, value)


def decode_causes(data: bytes) -> list[tuple[int, bytes]]:
    """(code, value) of each error cause; raises DecodeError."""
    return decode_parameters(data)


# --- INIT and INIT ACK


@attrs.frozen
class InitChunk:
    """INIT or INIT ACK (RFC 9260 §3.3.2, §3.3.3)."""

    initiate_tag: int
    a_rwnd: int
    outbound_streams: int
    inbound_streams: int
    initial_tsn: int
    #: RFC 3758: FORWARD-TSN is understood.
    forward_tsn: bool = False
    #: RFC 6525: RE-CONFIG is understood.
    reconfig: bool = False
    #: INIT ACK only.
    cookie: bytes = attrs.field(default=b"", repr=False)
    #: Whole parameters to be reported as not recognized, each padded.
    unrecognized: tuple[bytes, ...] = ()
    #: The peer reported these of ours.
    reported: tuple[bytes, ...] = ()


_IGNORED = frozenset(
    {
        ParameterType.IPV4_ADDRESS,  # one path only, below DTLS (RFC 8831 §5)
        ParameterType.IPV6_ADDRESS,
        ParameterType.COOKIE_PRESERVATIVE,
        ParameterType.SUPPORTED_ADDRESS_TYPES,
        ParameterType.ECN_CAPABLE,
        ParameterType.ZERO_CHECKSUM_ACCEPTABLE,
        ParameterType.RANDOM,
        ParameterType.CHUNK_LIST,
        ParameterType.HMAC_ALGORITHM,
        ParameterType.PADDING,
        ParameterType.ADAPTATION_LAYER,
    }
)


def encode_init(init: InitChunk, kind: ChunkType) -> bytes:
    """The whole chunk; `kind` is INIT or INIT_ACK."""
    extensions: list[int] = []
    parameters: list[bytes] = []
    if init.forward_tsn:
        parameters.append(encode_parameter(ParameterType.FORWARD_TSN_SUPPORTED))
        extensions.append(ChunkType.FORWARD_TSN)
    if init.reconfig:
        extensions.append(ChunkType.RE_CONFIG)
    if extensions:
        parameters.append(encode_parameter(ParameterType.SUPPORTED_EXTENSIONS, bytes(sorted(extensions))))
    if init.cookie:
        parameters.append(encode_parameter(ParameterType.STATE_COOKIE, init.cookie))
    parameters.extend(encode_parameter(ParameterType.UNRECOGNIZED, each) for each in init.unrecognized)
    fixed = INIT_FIELDS.pack(
        init.initiate_tag, init.a_rwnd, init.outbound_streams, init.inbound_streams, init.initial_tsn
    )
    return encode_chunk(kind, fixed + b"".join(parameters))


def decode_init(value: bytes) -> InitChunk:
    """Read INIT or INIT ACK without judging its fields; raises DecodeError."""
    if len(value) < INIT_FIELDS.size:
        raise DecodeError("init-length")
    tag, a_rwnd, outbound, inbound, initial_tsn = INIT_FIELDS.unpack_from(value)
    forward_tsn = reconfig = False
    cookie = b""
    unrecognized: list[bytes] = []
    reported: list[bytes] = []
    for kind, content in decode_parameters(value[INIT_FIELDS.size :]):
        if kind == ParameterType.FORWARD_TSN_SUPPORTED:
            forward_tsn = True
        elif kind == ParameterType.SUPPORTED_EXTENSIONS:
            reconfig = reconfig or ChunkType.RE_CONFIG in content
            forward_tsn = forward_tsn or ChunkType.FORWARD_TSN in content
        elif kind == ParameterType.STATE_COOKIE:
            cookie = content
        elif kind == ParameterType.UNRECOGNIZED:
            reported.append(content)
        elif kind not in _IGNORED:
            action = unknown_action(kind, bits=16)
            if action in (UnknownAction.STOP_AND_REPORT, UnknownAction.SKIP_AND_REPORT):
                unrecognized.append(encode_parameter(kind, content))
            if action in (UnknownAction.STOP, UnknownAction.STOP_AND_REPORT):
                break
    return InitChunk(
        tag,
        a_rwnd,
        outbound,
        inbound,
        initial_tsn,
        forward_tsn=forward_tsn,
        reconfig=reconfig,
        cookie=cookie,
        unrecognized=tuple(unrecognized),
        reported=tuple(reported),
    )


# --- SACK

#: (cumulative TSN, a_rwnd, gap blocks as (start, end) offsets, number of duplicates), on the wire's 32 bits.
Sack: TypeAlias = tuple[int, int, list[tuple[int, int]], int]


def decode_sack(value: bytes) -> Sack:
    """Read a SACK (RFC 9260 §3.3.4); raises DecodeError."""
    if len(value) < 12:
        raise DecodeError("sack-length")
    cumulative, a_rwnd, gaps, duplicates = SACK_FIELDS.unpack_from(value)
    if len(value) < 12 + 4 * (gaps + duplicates):
        raise DecodeError("sack-length")
    if not gaps:
        return cumulative, a_rwnd, [], duplicates
    return cumulative, a_rwnd, list(PAIR.iter_unpack(value[12 : 12 + 4 * gaps])), duplicates


def encode_sack(cumulative: int, a_rwnd: int, gaps: list[tuple[int, int]], duplicates: list[int]) -> bytes:
    """A whole SACK chunk; gaps are offsets from `cumulative`."""
    length = 16 + 4 * (len(gaps) + len(duplicates))
    head = SACK_HEADER.pack(ChunkType.SACK, 0, length, cumulative, a_rwnd, len(gaps), len(duplicates))
    if length == 16:
        return head
    return b"".join((head, *(PAIR.pack(*gap) for gap in gaps), *(TSN.pack(tsn) for tsn in duplicates)))


# --- FORWARD-TSN


@attrs.frozen
class ForwardTsn:
    """FORWARD-TSN (RFC 3758 §3.2): skip to `new_cumulative`, and on each ordered stream past the given SSN."""

    new_cumulative: int
    streams: tuple[tuple[int, int], ...] = ()


def decode_forward_tsn(value: bytes) -> ForwardTsn:
    """Read a FORWARD-TSN; raises DecodeError."""
    if len(value) < 4 or len(value) % 4:
        raise DecodeError("forward-tsn-length")
    pairs: Iterable[tuple[int, int]] = PAIR.iter_unpack(value[4:])
    return ForwardTsn(TSN.unpack_from(value)[0], tuple(pairs))


def encode_forward_tsn(chunk: ForwardTsn) -> bytes:
    """A whole FORWARD-TSN chunk."""
    pairs = b"".join(PAIR.pack(*pair) for pair in chunk.streams)
    return encode_chunk(ChunkType.FORWARD_TSN, TSN.pack(chunk.new_cumulative) + pairs)
