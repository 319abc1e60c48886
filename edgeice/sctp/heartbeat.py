"""Is the peer still there: heartbeats and the count of failures (RFC 9260 §8)."""

from __future__ import annotations

import hmac

from edgeice.errors import DecodeError
from edgeice.sansio import Entropy
from edgeice.sctp.chunks import ChunkType, ParameterType, decode_parameters, encode_chunk, encode_parameter
from edgeice.sctp.config import SctpConfig

__all__ = ["Liveness"]

_NONCE = 16


class Liveness:
    """Failures in a row, and the heartbeat that waits for its answer."""

    __slots__ = ("_config", "_entropy", "_nonce", "_sent_at", "errors")

    def __init__(self, config: SctpConfig, entropy: Entropy) -> None:
        self._config = config
        self._entropy = entropy
        self._nonce = b""
        self._sent_at = 0.0
        #: Failures in a row (RFC 9260 §8.1).
        self.errors = 0

    def fail(self) -> bool:
        """Count a failure; True if the peer is lost."""
        self.errors += 1
        return self.errors > self._config.max_retransmits

    def reset(self) -> None:
        """The peer answered, or another path is in use."""
        self.errors = 0

    def interval(self, rto: float) -> float:
        """Seconds to the next heartbeat: spread by half the timeout either way (RFC 9260 §8.3)."""
        return self._config.heartbeat_interval + rto * self._entropy.jitter.uniform(0.5, 1.5)

    def make(self, *, now: float) -> bytes:
        """A HEARTBEAT chunk with a new nonce, which only its receiver can know."""
        self._nonce = self._entropy.token_bytes(_NONCE)
        self._sent_at = now
        return encode_chunk(ChunkType.HEARTBEAT, encode_parameter(ParameterType.HEARTBEAT_INFO, self._nonce))

    def forget(self) -> None:
        """The answer is no longer waited for."""
        self._nonce = b""

    def on_ack(self, value: bytes, *, now: float) -> float:
        """Take a HEARTBEAT ACK; returns the round-trip time.

        Raises:
            DecodeError: It answers nothing that waits for an answer.
        """
        parameters = decode_parameters(value)
        if not (
            self._nonce
            and len(parameters) == 1
            and parameters[0][0] == ParameterType.HEARTBEAT_INFO
            and hmac.compare_digest(parameters[0][1], self._nonce)
        ):
            raise DecodeError("heartbeat-ack")
        self._nonce = b""
        self.errors = 0
        return now - self._sent_at
