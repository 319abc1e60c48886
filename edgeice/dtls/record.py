"""DTLS records as they stand on the wire: splitting, packing into datagrams, and a first sieve (RFC 6347 §4.1).

OpenSSL writes to a memory BIO, which is a stream of bytes; a datagram is this module's affair.  It also reads from
one, and treats some malformed plaintext handshake messages as fatal although anybody may have sent them; the sieve
drops those before OpenSSL sees them (RFC 6347 §4.1.2.7).
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeice.sansio import DropCounter

__all__ = [
    "HEADER_LENGTH",
    "SHORTEST_CHACHA",
    "SHORTEST_GCM",
    "ContentType",
    "is_single_record",
    "pack_datagrams",
    "sift_records",
    "split_records",
]

#: Type, version, epoch, sequence number, length.
HEADER_LENGTH = 13

#: Least body of a protected record, by cipher: explicit nonce and tag of AES-GCM, tag of ChaCha20-Poly1305.  OpenSSL
#: 3.0 takes anything shorter for the end of the connection, whoever sent it.
SHORTEST_GCM = 8 + 16
SHORTEST_CHACHA = 16

_HANDSHAKE_HEADER_LENGTH = 12
#: Longest plaintext plus what a cipher may add (RFC 6347 §4.1).
_MAX_RECORD_BODY = 2**14 + 2048
#: No handshake message of a WebRTC peer comes near this: certificates of one or two links.
_MAX_HANDSHAKE_MESSAGE = 2**14
#: RFC 5246 §7.4, RFC 6347 §4.2.2, RFC 5077 and RFC 6066 (certificate_status).
_HANDSHAKE_TYPES = frozenset({0, 1, 2, 3, 4, 11, 12, 13, 14, 15, 16, 20, 22})


class ContentType:
    """The first byte of a record (RFC 5246 §6.2.1)."""

    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    APPLICATION_DATA = 23


_CONTENT_TYPES = frozenset({20, 21, 22, 23})


def is_single_record(data: bytes, content_type: int) -> bool:
    """True if the datagram is exactly one record of this type, judged by its header alone."""
    return (
        len(data) > HEADER_LENGTH
        and data[0] == content_type
        and (data[11] << 8 | data[12]) + HEADER_LENGTH == len(data)
    )


def split_records(stream: bytes) -> Iterator[bytes]:
    """Cut what OpenSSL wrote into whole records."""
    start = 0
    while start < len(stream):
        end = start + HEADER_LENGTH + (stream[start + 11] << 8 | stream[start + 12])
        yield stream[start:end]
        start = end


def pack_datagrams(stream: bytes, mtu: int) -> Iterator[bytes]:
    """Cut what OpenSSL wrote into datagrams.

    Records share datagrams of at most `mtu` bytes (RFC 6347 §4.1.1), but a record of application data begins one, as
    the caller sized it: only an alert or handshake message that was written after it may go with it.  No record is
    split.
    """
    group: list[bytes] = []
    size = 0
    for record in split_records(stream):
        if group and (record[0] == ContentType.APPLICATION_DATA or size + len(record) > mtu):
            yield b"".join(group)
            group, size = [], 0
        group.append(record)
        size += len(record)
    if group:
        yield b"".join(group)


def sift_records(datagram: bytes, drops: DropCounter, shortest: int = SHORTEST_GCM) -> bytes:
    """The records of a received datagram that may be shown to OpenSSL, in order; the others are dropped and counted.

    `shortest` is the least body that a protected record can have.  Nothing after a record whose length cannot be right
    is usable.  An empty result means that nothing was.
    """
    kept: list[bytes] = []
    start, total = 0, len(datagram)
    while start < total:
        if total - start <= HEADER_LENGTH:
            drops.count("record-truncated")
            break
        length = datagram[start + 11] << 8 | datagram[start + 12]
        end = start + HEADER_LENGTH + length
        if not length or length > _MAX_RECORD_BODY or end > total:
            drops.count("record-length")
            break
        reason = _objection(datagram, start, end, shortest)
        if reason is None:
            kept.append(datagram[start:end])
        else:
            drops.count(reason)
        start = end
    return datagram if len(kept) == 1 and len(kept[0]) == total else b"".join(kept)


def _objection(datagram: bytes, start: int, end: int, shortest: int) -> str | None:
    """Why a record is dropped, None when it is not."""
    content_type = datagram[start]
    if content_type not in _CONTENT_TYPES:
        return "record-type"
    if datagram[start + 1] != 0xFE:  # DTLS 1.0 (in a first ClientHello) and 1.2 are 0xFEFF and 0xFEFD
        return "record-version"
    plaintext = datagram[start + 3 : start + 5] == b"\0\0"
    body = datagram[start + HEADER_LENGTH : end]
    if not plaintext and len(body) < shortest:
        return "record-short"
    if plaintext and content_type == ContentType.HANDSHAKE and not _is_plausible_handshake(body):
        return "handshake-fragment"
    if plaintext and content_type == ContentType.APPLICATION_DATA:
        return "plaintext-data"
    return None


def _is_plausible_handshake(body: bytes) -> bool:
    """Whether every fragment in a plaintext record keeps to its own header (RFC 6347 §4.2.2, §4.2.3)."""
    start = 0
    while start < len(body):
        header = body[start : start + _HANDSHAKE_HEADER_LENGTH]
        if len(header) < _HANDSHAKE_HEADER_LENGTH or header[0] not in _HANDSHAKE_TYPES:
            return False
        length = int.from_bytes(header[1:4], "big")
        offset = int.from_bytes(header[6:9], "big")
        fragment = int.from_bytes(header[9:12], "big")
        start += _HANDSHAKE_HEADER_LENGTH + fragment
        if length > _MAX_HANDSHAKE_MESSAGE or offset + fragment > length or start > len(body):
            return False
        if not fragment and length:  # carries nothing; OpenSSL calls it fatal
            return False
    return True
