"""What a message is on the wire: its payload protocol identifier says how it is to be read (RFC 8831 §6.6, §8)."""

from __future__ import annotations

from edgeice.errors import DecodeError

__all__ = ["PPID_DCEP", "decode_payload", "encode_payload"]

PPID_DCEP = 50
_STRING = 51
_BINARY_PARTIAL = 52  # deprecated, read as 53
_BINARY = 53
_STRING_PARTIAL = 54  # deprecated, read as 51
_STRING_EMPTY = 56
_BINARY_EMPTY = 57


def encode_payload(data: bytes | str) -> tuple[int, bytes]:
    """A message's identifier and payload, which is one zero byte for an empty message: SCTP cannot send nothing."""
    if isinstance(data, str):
        return (_STRING, data.encode()) if data else (_STRING_EMPTY, b"\0")
    return (_BINARY, bytes(data)) if data else (_BINARY_EMPTY, b"\0")


def decode_payload(ppid: int, data: bytes) -> bytes | str:
    """The message that came; raises DecodeError for an unknown identifier and for text that is not UTF-8."""
    if ppid in (_BINARY, _BINARY_PARTIAL):
        return data
    if ppid in (_STRING, _STRING_PARTIAL):
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise DecodeError("message-utf8") from None
    if ppid == _STRING_EMPTY:
        return ""
    if ppid == _BINARY_EMPTY:
        return b""
    raise DecodeError("message-ppid")
