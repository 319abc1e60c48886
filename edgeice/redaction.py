"""Pseudonyms in the place of IP addresses, so that what was tried can be shown to others."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final

__all__ = ["LIMIT", "Pseudonyms"]

#: Addresses that get a pseudonym of their own; what comes after them shares one for each family and scope.
LIMIT: Final = 4096

# What may be an address: the first form of IPv6, also with IPv4 at its end, the second of IPv4.
_LIKELY: Final = re.compile(
    r"(?<![\w.:])[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}(?:\.\d{1,3}){0,3}(?![\w:]|\.\w)"
    r"|(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\w)"
)
_SHARED: Final = ipaddress.ip_network("100.64.0.0/10")


class Pseudonyms:
    """Puts `ip4-private-1` and the like in the place of addresses: the same for the same address, in one run.

    Family and scope are kept, as `any`, `loopback`, `link-local`, `private`, `shared` (RFC 6598), `multicast` and
    `global`, and so are ports and what addresses stand in.  Names are not addresses, and stay.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def text(self, text: str) -> str:
        """The same text without addresses."""
        return _LIKELY.sub(self._replace, text)

    def value(self, value: object) -> object:
        """The same value, of strings, numbers, lists and dicts, without addresses in any text."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        if isinstance(value, Mapping):
            return {self.value(name): self.value(item) for name, item in value.items()}
        return value

    def _replace(self, match: re.Match[str]) -> str:
        try:
            ip = ipaddress.ip_address(match[0])
        except ValueError:
            return match[0]
        canonical = str(ip)
        if canonical not in self._names:
            kind = f"ip{ip.version}-{_scope(ip)}"
            if len(self._names) >= LIMIT:
                return f"{kind}-more"
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._names[canonical] = f"{kind}-{self._counts[kind]}"
        return self._names[canonical]


def _scope(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    scopes = (
        ("any", ip.is_unspecified),
        ("loopback", ip.is_loopback),
        ("link-local", ip.is_link_local),
        ("multicast", ip.is_multicast),
        ("shared", ip in _SHARED),
        ("private", ip.is_private),
    )
    return next((name for name, holds in scopes if holds), "global")
