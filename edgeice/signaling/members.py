"""Reading members of a peer's JSON object with strict types."""

from __future__ import annotations

from collections.abc import Mapping

from edgeice.errors import DecodeError
from edgeice.signaling.encoding import b64url_decode

__all__ = ["MAX_INTEGER", "boolean", "integer", "mapping", "optional_text", "random_id", "string_list", "text"]

#: Largest integer that every JSON implementation keeps exact (RFC 7493 §2.2).
MAX_INTEGER = 2**53 - 1

Members = Mapping[str, object]


def text(members: Members, name: str, *, limit: int) -> str:
    """A required string of at most `limit` characters."""
    value = members.get(name)
    if not isinstance(value, str) or len(value) > limit:
        raise DecodeError("claims", f"{name}: a string of at most {limit} characters")
    return value


def optional_text(members: Members, name: str, *, limit: int) -> str | None:
    """A string, or None where it is absent."""
    return text(members, name, limit=limit) if name in members else None


def integer(members: Members, name: str, *, low: int = 0, high: int = MAX_INTEGER) -> int:
    """A required integer; `true` and `1.0` are none."""
    value = members.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise DecodeError("claims", f"{name}: an integer from {low} to {high}")
    return value


def boolean(members: Members, name: str) -> bool:
    """A required boolean."""
    value = members.get(name)
    if not isinstance(value, bool):
        raise DecodeError("claims", f"{name}: a boolean")
    return value


def mapping(members: Members, name: str) -> Mapping[str, object]:
    """A required object."""
    value = members.get(name)
    if not isinstance(value, dict):
        raise DecodeError("claims", f"{name}: an object")
    return value


def string_list(members: Members, name: str, *, most: int, limit: int) -> tuple[str, ...]:
    """A required array of at most `most` strings of at most `limit` characters each."""
    value = members.get(name)
    if not isinstance(value, list) or len(value) > most:
        raise DecodeError("claims", f"{name}: an array of at most {most} strings")
    items: list[str] = []
    for item in value:
        if not isinstance(item, str) or len(item) > limit:
            raise DecodeError("claims", f"{name}: strings of at most {limit} characters")
        items.append(item)
    return tuple(items)


def random_id(members: Members, name: str) -> str:
    """A required base64url of exactly 128 bits, such as a `sid`."""
    value = members.get(name)
    try:
        if isinstance(value, str) and len(b64url_decode(value)) == 16:
            return value
    except DecodeError:
        pass
    raise DecodeError("claims", f"{name}: 128 bits in base64url")
