"""What people write for forwards, as ssh has it: `[BIND:]PORT:HOST:PORT` and `[HOST:]PORT`."""

from __future__ import annotations

import re
from typing import Final

import attrs

from edgeice.errors import ConfigError
from edgeice.services import ForwardTarget

__all__ = ["Forward", "parse_forward", "parse_target"]

#: A word between colons; an IPv6 address stands in brackets.
_WORD: Final = re.compile(r"\[([^\[\]]+)\]|([^:\[\]]*)")


@attrs.frozen
class Forward:
    """One `[BIND:]PORT:HOST:PORT`."""

    #: Where to listen; None is both loopback addresses, "*" all addresses.
    bind: str | None
    #: 0 takes a free one.
    port: int
    target: ForwardTarget


def parse_forward(text: str) -> Forward:
    """Read `[BIND:]PORT:HOST:PORT`; raises ConfigError that shows how it is written."""
    words = _split(text)
    if words is None or len(words) not in (3, 4):
        raise ConfigError(f"{text!r}: expected [BIND:]PORT:HOST:PORT, such as 8080:localhost:80 or [::1]:8080:[::1]:80")
    bind = words[0] if len(words) == 4 else None
    return Forward(
        bind or None, _port(text, words[-3], 0), ForwardTarget(_host(text, words[-2]), _port(text, words[-1]))
    )


def parse_target(text: str) -> ForwardTarget:
    """Read `[HOST:]PORT`, where the host is the device itself if it is left out; raises ConfigError likewise."""
    words = _split(text)
    if words is None or len(words) not in (1, 2):
        raise ConfigError(f"{text!r}: expected [HOST:]PORT, such as 22 or 192.168.1.20:22 or [fd00::20]:22")
    host = _host(text, words[0]) if len(words) == 2 else "localhost"
    return ForwardTarget(host, _port(text, words[-1]))


def _split(text: str) -> list[str] | None:
    words, at = [], 0
    while True:
        match = _WORD.match(text, at)
        if match is None:
            return None
        words.append(match[1] or match[2])
        at = match.end()
        if at == len(text):
            return words
        if text[at] != ":":
            return None
        at += 1


def _host(text: str, word: str) -> str:
    if not word or len(word) > 253:
        raise ConfigError(f"{text!r}: the host is missing")
    return word


def _port(text: str, word: str, low: int = 1) -> int:
    if not word.isascii() or not word.isdigit() or len(word) > 5 or not low <= int(word) <= 0xFFFF:
        raise ConfigError(f"{text!r}: a port is a number from {low} to 65535, not {word!r}")
    return int(word)
