"""STUN vectors, and messages built attribute by attribute, well-formed or not, without the codec."""

import binascii
import hmac
import json
import struct
from pathlib import Path
from typing import Any

_TABLE = json.loads((Path(__file__).parents[1] / "vectors" / "stun" / "messages.json").read_text(encoding="utf-8"))

CREDENTIALS: dict[str, dict[str, str]] = _TABLE["credentials"]
VECTORS: dict[str, dict[str, Any]] = _TABLE["messages"]
DATA = {name: bytes.fromhex(row["hex"]) for name, row in VECTORS.items()}
KEYS = {
    "short-term": CREDENTIALS["short-term"]["password"].encode(),
    "long-term-md5": bytes.fromhex(CREDENTIALS["long-term"]["md5_key"]),
    "long-term-sha256": bytes.fromhex(CREDENTIALS["long-term"]["sha256_key"]),
}

TID = bytes(range(12))
KEY = KEYS["short-term"]


def tlv(kind: int, value: bytes, *, claimed: int | None = None, padding: bytes = b"\0") -> bytes:
    """One attribute; `claimed` lies about its size."""
    return struct.pack("!HH", kind, len(value) if claimed is None else claimed) + value + padding * (-len(value) & 3)


def raw_message(body: bytes, *, code: int = 0x0001, length: int | None = None, cookie: int = 0x2112A442) -> bytes:
    return struct.pack("!HHI", code, len(body) if length is None else length, cookie) + TID + body


def sign(message: bytes, key: bytes = KEY, algorithm: str = "sha1") -> bytes:
    """Append an integrity attribute by the letter of RFC 8489 §14.5, §14.6, independently of the codec."""
    size = 20 if algorithm == "sha1" else 32
    covered = message[:2] + struct.pack("!H", len(message) - 20 + 4 + size) + message[4:]
    mac = hmac.new(key, covered, algorithm).digest()
    return covered + tlv(0x0008 if algorithm == "sha1" else 0x001C, mac)


def append(message: bytes, attribute: bytes) -> bytes:
    """Append an attribute and correct the length."""
    return message[:2] + struct.pack("!H", len(message) - 20 + len(attribute)) + message[4:] + attribute


def seal(message: bytes) -> bytes:
    """Append FINGERPRINT by the letter of RFC 8489 §14.7."""
    covered = append(message, b"\0" * 8)[:-8]
    return covered + tlv(0x8028, struct.pack("!I", binascii.crc32(covered) ^ 0x5354554E))
