"""Strict base64url and strict JSON, as the contract wants them (§5).

Two readers of one text must never see two things: base64url is unpadded and canonical, JSON has no duplicate names,
no NaN, no lone surrogates and a bounded depth, checked before the parser's recursion could matter.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from typing import NoReturn

from edgeice.errors import DecodeError

__all__ = [
    "MAX_DEPTH",
    "b64url_decode",
    "b64url_encode",
    "b64url_sha256",
    "dump_json",
    "parse_json_object",
]

#: Most levels of JSON objects and arrays inside each other (§5).
MAX_DEPTH = 16

_B64URL = re.compile(rb"[A-Za-z0-9_-]*")
# An unterminated string runs to the end, so that each byte is looked at once.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def b64url_encode(data: bytes) -> str:
    """Base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64url_decode(text: bytes | str) -> bytes:
    """Decode unpadded base64url; raises DecodeError("base64") for any but the one canonical spelling."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if not _B64URL.fullmatch(raw) or len(raw) % 4 == 1:
        raise DecodeError("base64", "not unpadded base64url")
    try:
        data = base64.urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
    except binascii.Error:
        raise DecodeError("base64", "not base64url") from None
    # The last character's unused bits must be zero, or many texts would mean the same bytes.
    if base64.urlsafe_b64encode(data).rstrip(b"=") != raw:
        raise DecodeError("base64", "not canonical")
    return data


def b64url_sha256(data: bytes) -> str:
    """SHA-256 in base64url: the form of `kid` and `re`."""
    return b64url_encode(hashlib.sha256(data).digest())


def dump_json(value: Mapping[str, object]) -> bytes:
    """Compact ASCII JSON in the order of the mapping."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_json_object(data: bytes) -> dict[str, object]:
    """Parse a JSON object; raises DecodeError("json", "json-depth" or "json-duplicate") for anything else."""
    _check_depth(data)
    try:
        value: object = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        if b"\\u" in data:
            # An escaped lone surrogate parses, and would raise wherever the text is encoded later.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise DecodeError("json", "not strict JSON") from None
    if not isinstance(value, dict):
        raise DecodeError("json", "not an object")
    return value


def _check_depth(data: bytes) -> None:
    if data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
        return
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(data):
        token = match[0]
        if token in (b"{", b"["):
            depth += 1
            if depth > MAX_DEPTH:
                raise DecodeError("json-depth", f"more than {MAX_DEPTH} levels")
        elif token in (b"}", b"]"):
            depth -= 1


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise DecodeError("json-duplicate", "a member name occurs twice")
    return members


def _no_constant(name: str) -> NoReturn:
    raise DecodeError("json", f"{name} is not JSON")
