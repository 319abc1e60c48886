"""The exceptions of edgeice, by whose fault they are.

Protocol code raises `LocalProtocolError` when its caller uses it wrongly and never lets anything else than
`DecodeError` leave a decoder.  What a remote datagram holds raises out of no input: it is dropped and counted.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DecodeError",
    "EdgeIceError",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
]


class EdgeIceError(Exception):
    """Base of every exception that edgeice raises on purpose."""


class ProtocolError(EdgeIceError):
    """A protocol was used wrongly, here or by the peer; raised only as one of its two subclasses."""


class LocalProtocolError(ProtocolError):
    """The caller asked for something that the present state forbids: a bug on this side."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol in a way that ends what was under way."""


class DecodeError(RemoteProtocolError):
    """Bytes from outside are not what they should be.  `reason` is a short, stable slug for drop counters."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class ConfigError(EdgeIceError):
    """A configuration, key or trust file cannot be used; the message names file, place and what to do."""
