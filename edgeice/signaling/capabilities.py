"""Capabilities: what a trust line allows and what a session wants (contract §4, §5).

A want is covered by an equal capability, or where a capability has `*` in a place whose grammar allows it
(`forward`'s host and port, `telemetry`'s stream).  Globs of files are compared as text, never expanded, and `admin`
implies nothing.  There is no capability `*`: what is allowed is listed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from edgeice.errors import ConfigError

__all__ = ["check_capability", "covers", "first_uncovered"]

_PLAIN = frozenset({"shell", "exec", "audit", "admin"})
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
#: Printable, without what separates and quotes in a trust line.
_ARGUMENT = re.compile(r'[^\s,"\\\x00-\x1f\x7f]{1,200}')
_KNOWN = (
    "shell, exec, forward:HOST:PORT, files:read:GLOB, files:write:GLOB, telemetry:STREAM, video:SOURCE, audit, admin"
)


def check_capability(text: str) -> str:
    """Return `text` if the grammar has it; raises ConfigError that says what is wrong."""
    kind, _, argument = text.partition(":")
    if text in _PLAIN:
        return text
    if kind == "forward":
        _check_forward(text, argument)
    elif kind == "files":
        access, _, glob = argument.partition(":")
        if access not in ("read", "write") or not _ARGUMENT.fullmatch(glob):
            raise ConfigError(f"capability {text!r}: expected files:read:GLOB or files:write:GLOB")
    elif kind in ("telemetry", "video"):
        if not _ARGUMENT.fullmatch(argument):
            raise ConfigError(f"capability {text!r}: a name is missing after {kind}:")
    else:
        raise ConfigError(f"unknown capability {text!r}; known are {_KNOWN}")
    return text


def covers(capability: str, want: str) -> bool:
    """Whether `capability`, which passed `check_capability`, allows `want`, which may be any text."""
    if capability == want:
        return True
    if capability == "telemetry:*":
        return want.startswith("telemetry:") and _ARGUMENT.fullmatch(want[len("telemetry:") :]) is not None
    if capability.startswith("forward:") and "*" in capability:
        try:
            check_capability(want)
        except ConfigError:
            return False
        allowed, wanted = _host_and_port(capability), _host_and_port(want)
        return want.startswith("forward:") and all(a in ("*", w) for a, w in zip(allowed, wanted, strict=True))
    return False


def first_uncovered(capabilities: Iterable[str], wants: Iterable[str]) -> str | None:
    """The first want that none of the capabilities covers, None where all are covered."""
    allowed = tuple(capabilities)
    return next((want for want in wants if not any(covers(capability, want) for capability in allowed)), None)


def _host_and_port(forward: str) -> tuple[str, str]:
    host, _, port = forward.partition(":")[2].rpartition(":")
    return host, port


def _check_forward(text: str, argument: str) -> None:
    host, _, port = argument.rpartition(":")
    if port != "*" and not (_PORT.fullmatch(port) and int(port) <= 0xFFFF):
        raise ConfigError(f"capability {text!r}: the port is a number from 1 to 65535, or *")
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise ConfigError(f"capability {text!r}: no IPv6 address in the brackets") from None
    elif host != "*" and not _HOST.fullmatch(host):
        raise ConfigError(f"capability {text!r}: expected forward:HOST:PORT, an IPv6 address in brackets")
