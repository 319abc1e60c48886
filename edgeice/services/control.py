"""Control messages: strict, total JSON, and the errors that services tell each other.

A control message is one JSON object.  It carries one command, named by the one member that the service knows;
members that it does not know are ignored, so that a later version may add some.  A message without any known
member, or with two, is malformed: guessing what was meant would be worse than saying so.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import TypeAlias

from edgeice.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from edgeice.services.channel import MAX_CONTROL
from edgeice.text import printable

__all__ = [
    "Control",
    "ErrorCode",
    "JsonValue",
    "PeerError",
    "ServiceError",
    "as_int",
    "as_list",
    "as_number",
    "as_object",
    "as_text",
    "command",
    "decode_control",
    "encode_control",
    "malformed",
    "parse_error",
]

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"
Control: TypeAlias = "dict[str, JsonValue]"

_MAX_DEPTH = 16
_MAX_REASON = 500
_LARGEST = 1e15
#: Strings as a whole, so that brackets inside them do not count; then the brackets.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class ErrorCode(StrEnum):
    """Why a channel could not do what it was asked."""

    UNAUTHORIZED = "unauthorized"
    UNSUPPORTED = "unsupported"
    MALFORMED = "malformed"
    NOT_FOUND = "not-found"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    LIMIT = "limit"
    INTERNAL = "internal"


class ServiceError(RemoteProtocolError):
    """A channel ends with an error: found here and to be told to the peer, or told by the peer (`PeerError`)."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(f"{code}: {reason}" if reason else str(code))
        self.code = code
        #: One line for people; never holds control characters.
        self.reason = reason

    def message(self) -> dict[str, object]:
        """The control message that tells the peer."""
        return {"error": {"code": str(self.code), "reason": self.reason[:_MAX_REASON]}}


class PeerError(ServiceError):
    """The peer ended the channel with this error; it is not told back."""


def malformed(error: DecodeError) -> ServiceError:
    """What to tell a peer whose message could not be decoded."""
    return ServiceError(ErrorCode.MALFORMED, str(error))


def decode_control(text: str) -> Control:
    """Read one control message.

    Refused: more than 16 KiB, anything but an object, more than 16 levels, a member named twice, numbers that are
    not finite, strings that are not valid Unicode.  Raises DecodeError and nothing else.
    """
    try:
        too_long = len(text) > MAX_CONTROL or len(text.encode()) > MAX_CONTROL
    except UnicodeEncodeError:
        raise DecodeError("control-json", "a lone surrogate") from None
    if too_long:
        raise DecodeError("control-size", f"more than {MAX_CONTROL} bytes")
    _check_depth(text)  # before the parser, which is recursive
    try:
        value = json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite_float
        )
        if _SURROGATE.search(text) is not None:
            json.dumps(value, ensure_ascii=False).encode()
    except ValueError as error:  # JSONDecodeError, UnicodeEncodeError and Python's limit on digits are all ValueErrors
        raise DecodeError("control-json", str(error)[:100]) from None
    if not isinstance(value, dict):
        raise DecodeError("control-type", "not an object")
    return value


def encode_control(message: Mapping[str, object]) -> str:
    """Write one control message; raises LocalProtocolError if it is larger than a peer would take."""
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode("utf-8", "surrogatepass")) > MAX_CONTROL:
        raise LocalProtocolError(f"control message of more than {MAX_CONTROL} bytes")
    return text


def command(message: Control, known: Collection[str]) -> tuple[str, JsonValue]:
    """The one member of `message` that is in `known`, with its value; raises DecodeError if there is not one."""
    names = [name for name in message if name in known]
    if len(names) != 1:
        raise DecodeError("control-command", "no known command" if not names else f"{len(names)} commands at once")
    return names[0], message[names[0]]


def parse_error(value: JsonValue) -> PeerError:
    """The peer's error, made safe to print: an unknown code becomes `internal`, control characters `?`."""
    members = as_object(value, "error")
    code = as_text(members.get("code"), "error.code")
    reason = members.get("reason", "")
    text = printable(as_text(reason, "error.reason"), _MAX_REASON)
    if code in ErrorCode.__members__.values():
        return PeerError(ErrorCode(code), text)
    return PeerError(ErrorCode.INTERNAL, f"{printable(code, 40)}: {text}")


def as_object(value: JsonValue, name: str) -> Control:
    """`value` if it is an object; raises DecodeError otherwise, like the functions below."""
    if not isinstance(value, dict):
        raise DecodeError("control-type", f"{name} is not an object")
    return value


def as_list(value: JsonValue, name: str) -> list[JsonValue]:
    """`value` if it is a list."""
    if not isinstance(value, list):
        raise DecodeError("control-type", f"{name} is not a list")
    return value


def as_text(value: JsonValue, name: str) -> str:
    """`value` if it is a string."""
    if not isinstance(value, str):
        raise DecodeError("control-type", f"{name} is not a string")
    return value


def as_int(value: JsonValue, name: str, low: int, high: int) -> int:
    """`value` if it is an integer from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise DecodeError("control-type", f"{name} is not an integer")
    if not low <= value <= high:
        raise DecodeError("control-range", f"{name} is not within {low} to {high}")
    return value


def as_number(value: JsonValue, name: str) -> float:
    """`value` if it is a number, no larger than what a person measures."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise DecodeError("control-type", f"{name} is not a number")
    if abs(value) > _LARGEST:
        raise DecodeError("control-range", f"{name} is too large")
    return float(value)


def _check_depth(text: str) -> None:
    depth = 0
    for match in _STRUCTURE.finditer(text):
        if match[0] in "[{":
            depth += 1
            if depth > _MAX_DEPTH:
                raise DecodeError("control-depth", f"more than {_MAX_DEPTH} levels")
        elif match[0] in "]}":
            depth -= 1


def _no_duplicates(pairs: list[tuple[str, JsonValue]]) -> Control:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is named twice")
    return members


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("number out of range")
    return number
