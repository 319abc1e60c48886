"""Setting up: INIT, INIT ACK, the cookie, and how two simultaneous attempts become one (RFC 9260 §5)."""

from __future__ import annotations

import struct

import attrs

from edgeice.errors import DecodeError
from edgeice.sansio import Entropy
from edgeice.sctp.chunks import (
    HEADER_SIZE,
    Cause,
    ChunkType,
    InitChunk,
    decode_init,
    encode_cause,
    encode_chunk,
    encode_init,
)
from edgeice.sctp.config import SctpConfig
from edgeice.sctp.cookie import CookieSigner, StateCookie

__all__ = ["Handshake", "PeerTerms"]

#: As many streams as there are ids (RFC 8831 §6.2); records are made when first used.
_STREAMS = 0xFFFF
#: Below this a window is of no use (RFC 9260 §3.3.2).
_MIN_WINDOW = 1500
#: Common header, fixed fields and our own parameters of an INIT ACK, the cookie's header included.
_INIT_ACK_FIXED = 12 + 20 + 4 + 8 + 4
_STALENESS = struct.Struct("!I")


@attrs.frozen
class PeerTerms:
    """What the peer stated, by INIT, INIT ACK or our cookie."""

    tag: int
    initial_tsn: int
    a_rwnd: int
    #: Streams that it sends on at most, and takes at most.
    outbound_streams: int
    inbound_streams: int
    forward_tsn: bool
    reconfig: bool


def _terms(init: InitChunk) -> PeerTerms:
    return PeerTerms(
        init.initiate_tag,
        init.initial_tsn,
        init.a_rwnd,
        init.outbound_streams,
        init.inbound_streams,
        init.forward_tsn,
        init.reconfig,
    )


class Handshake:
    """Our own terms, and the making and reading of handshake chunks."""

    def __init__(self, config: SctpConfig, entropy: Entropy) -> None:
        self._config = config
        self._entropy = entropy
        self._signer = CookieSigner(entropy.token_bytes(32))
        self.local_tag = self._new_tag()
        self.local_tsn = int.from_bytes(entropy.token_bytes(4), "big")

    def _new_tag(self) -> int:
        """A verification tag, never 0 (RFC 9260 §5.3.1)."""
        while not (tag := int.from_bytes(self._entropy.token_bytes(4), "big")):
            pass
        return tag

    def _own(self, tag: int, cookie: bytes = b"", unrecognized: tuple[bytes, ...] = ()) -> InitChunk:
        return InitChunk(
            tag,
            self._config.receive_window,
            _STREAMS,
            _STREAMS,
            self.local_tsn,
            forward_tsn=True,
            reconfig=True,
            cookie=cookie,
            unrecognized=unrecognized,
        )

    def init(self) -> bytes:
        """Our INIT chunk."""
        return encode_init(self._own(self.local_tag), ChunkType.INIT)

    @staticmethod
    def read(value: bytes) -> tuple[InitChunk, bytes]:
        """Read INIT or INIT ACK; returns it and, if it cannot be accepted, the cause for the ABORT, else b"".

        Raises:
            DecodeError: It is malformed.
        """
        init = decode_init(value)
        if not init.initiate_tag:
            raise DecodeError("init-tag")
        if not init.outbound_streams or not init.inbound_streams or init.a_rwnd < _MIN_WINDOW:
            return init, encode_cause(Cause.INVALID_MANDATORY_PARAMETER)
        return init, b""

    def answer(self, init: InitChunk, *, established_with: PeerTerms | None, now: float) -> bytes:
        """The INIT ACK to an INIT, which leaves no state here.

        While setting up, our own tag is used (RFC 9260 §5.2.1); with an association in place a new one, and the tags
        in place tie the cookie to it (§5.2.2).
        """
        tag = self.local_tag if established_with is None else self._new_tag()
        cookie = StateCookie(
            made_at=now,
            local_port=self._config.local_port,
            remote_port=self._config.remote_port,
            local_tag=tag,
            remote_tag=init.initiate_tag,
            local_tsn=self.local_tsn,
            remote_tsn=init.initial_tsn,
            a_rwnd=init.a_rwnd,
            remote_outbound=init.outbound_streams,
            remote_inbound=init.inbound_streams,
            forward_tsn=init.forward_tsn,
            reconfig=init.reconfig,
            local_tie_tag=0 if established_with is None else self.local_tag,
            remote_tie_tag=0 if established_with is None else established_with.tag,
        )
        encoded = self._signer.encode(cookie)
        reports: list[bytes] = []
        room = self._config.mtu - _INIT_ACK_FIXED - len(encoded)
        for parameter in init.unrecognized:
            room -= 4 + len(parameter)
            if room < 0:
                break  # as many as one packet holds
            reports.append(parameter)
        return encode_init(self._own(tag, encoded, tuple(reports)), ChunkType.INIT_ACK)

    def accept(self, init: InitChunk) -> tuple[PeerTerms, bytes]:
        """Take an INIT ACK: the peer's terms and the COOKIE ECHO, with an ERROR for what was not recognized.

        Raises:
            DecodeError: It has no cookie.
        """
        if not init.cookie:
            raise DecodeError("init-ack-cookie")
        chunk = encode_chunk(ChunkType.COOKIE_ECHO, init.cookie)
        report = encode_chunk(ChunkType.ERROR, encode_cause(Cause.UNRECOGNIZED_PARAMETERS, b"".join(init.unrecognized)))
        if init.unrecognized and HEADER_SIZE + len(chunk) + len(report) <= self._config.mtu:
            # RFC 9260 §3.2.1: the report goes with the COOKIE ECHO.
            chunk += report
        return _terms(init), chunk

    def read_cookie(self, value: bytes) -> StateCookie:
        """Check a COOKIE ECHO's MAC and ports; raises DecodeError."""
        cookie = self._signer.decode(value)
        if (cookie.local_port, cookie.remote_port) != (self._config.local_port, self._config.remote_port):
            raise DecodeError("cookie-ports")
        return cookie

    def staleness(self, cookie: StateCookie, *, now: float) -> bytes:
        """The ERROR chunk for a cookie that is too old, b"" while it is not (RFC 9260 §5.1.5 rule 3)."""
        over = now - cookie.made_at - self._config.cookie_lifetime
        if over <= 0:
            return b""
        value = _STALENESS.pack(min(int(over * 1e6), 0xFFFFFFFF))
        return encode_chunk(ChunkType.ERROR, encode_cause(Cause.STALE_COOKIE, value))

    @staticmethod
    def terms_of(cookie: StateCookie) -> PeerTerms:
        """The peer's terms as our cookie kept them."""
        return PeerTerms(
            cookie.remote_tag,
            cookie.remote_tsn,
            cookie.a_rwnd,
            cookie.remote_outbound,
            cookie.remote_inbound,
            cookie.forward_tsn,
            cookie.reconfig,
        )
