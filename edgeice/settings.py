"""Configuration files: from TOML tables to attrs classes, and the sections that device and operator share.

The classes are the schema.  An error says file, key, what was expected and the nearest known key.
"""

from __future__ import annotations

import ipaddress
import json
import re
import types
import typing
import urllib.parse
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs

from edgeice.errors import ConfigError

__all__ = [
    "NAME",
    "BrokerSection",
    "IceSection",
    "KeyValueError",
    "LinksSection",
    "TurnSection",
    "broker_address",
    "check_broker_url",
    "load_toml",
    "structure",
    "toml_text",
]

_SCHEMES = {"mqtt": 1883, "mqtts": 8883}
_HOST = re.compile(r"[\w.-]{1,253}|[0-9a-f:.]{2,45}")
# A host is what a URI may have (RFC 7064 §3.1): a name of letters, digits, - . _, or an IPv6 address in brackets.
_STUN = re.compile(r"stun:(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]{1,253}))(?::([0-9]{1,5}))?", re.IGNORECASE | re.ASCII)
_ROOT = re.compile(r"(?=.{1,32}\Z)[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)?")
_DOTTED = re.compile(r"[0-9.]+")
_LOOPBACK = ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")
#: STUN servers asked at most.
_STUN_SERVERS = 8

C = TypeVar("C")

#: Checks the name of a fleet, device or operator.
NAME = attrs.validators.matches_re(r"[A-Za-z0-9._-]{1,64}")

_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}


class KeyValueError(ValueError):
    """A value that is wrong beyond its type.

    Args:
        key: Its key inside the section.
        expected: What should stand there.
        value: What stands there.
    """

    def __init__(self, key: str, expected: str, value: object) -> None:
        super().__init__(f"{key}: expected {expected}, not {_shown(value)}")


def broker_address(url: str) -> tuple[str, int, bool]:
    """Host, port and whether TLS is spoken; raises ValueError that says what is expected."""
    parts = urllib.parse.urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    host = parts.hostname or ""
    if parts.scheme not in _SCHEMES or not _HOST.fullmatch(host) or port == -1 or parts.path not in ("", "/"):
        raise ValueError(f"{url!r} should be mqtts://HOST[:PORT] or, on loopback, mqtt://HOST[:PORT]")
    if parts.username or parts.password:
        raise ValueError("user name and password belong in broker.username and broker.password_file")
    return host, port or _SCHEMES[parts.scheme], parts.scheme == "mqtts"


def check_broker_url(url: str) -> None:
    """Raise ConfigError where an URL that somebody typed is no broker's."""
    try:
        broker_address(url)
    except ValueError as error:
        raise ConfigError(f"broker {error}") from None


def _check_url(_instance: object, _attribute: attrs.Attribute[str], value: str) -> None:
    try:
        broker_address(value)
    except ValueError as error:
        raise ValueError(f"url: {error}") from None


def _check_username(_instance: object, _attribute: attrs.Attribute[str], value: str) -> None:
    if "\0" in value or len(value.encode()) > 0xFFFF:  # MQTT 5 §1.5.4
        raise KeyValueError("username", "at most 65535 bytes without NUL", value)


def _check_root(_instance: object, _attribute: attrs.Attribute[str], value: str) -> None:
    if not _ROOT.fullmatch(value):
        raise KeyValueError("root", "one or two levels of the letters A-Z a-z 0-9 . _ -, as in edgeice/1", value)


@attrs.frozen(kw_only=True)
class BrokerSection:
    """[broker]: where the device is reached."""

    #: `mqtts://HOST[:8883]` or, on loopback or a trusted network only, `mqtt://HOST[:1883]`.
    url: str = attrs.field(validator=_check_url)
    #: User name at the broker; empty for `FLEET/d/DEVICE`.
    username: str = attrs.field(default="", validator=_check_username)
    #: File with the password; read at start, mode 0600.
    password_file: Path | None = None
    #: Authorities to trust instead of the system's, PEM.
    ca: Path | None = None
    #: Seconds between keepalives.
    keepalive: int = attrs.field(default=60, validator=attrs.validators.in_(range(5, 65536)))
    #: Seconds that a lost connection may take to come back before `lost` is published.
    will_delay: int = attrs.field(default=30, validator=attrs.validators.in_(range(3601)))
    #: First levels of every topic, at most 32 characters.
    root: str = attrs.field(default="edgeice/1", validator=_check_root)


def _check_stun(_instance: object, _attribute: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    if len(value) > _STUN_SERVERS:
        raise KeyValueError("stun", f"at most {_STUN_SERVERS} servers", len(value))
    for index, text in enumerate(value):
        if not _is_stun(text):
            raise KeyValueError(f"stun[{index}]", "stun:HOST[:PORT]", text)


def _is_stun(text: str) -> bool:
    match = _STUN.fullmatch(text)
    if match is None:
        return False
    ipv6, name, port = match.groups()
    try:
        if ipv6 is not None:
            ipaddress.IPv6Address(ipv6)
        elif _DOTTED.fullmatch(name):
            ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return port is None or 0 < int(port) <= 0xFFFF


def _loopback(value: tuple[str, ...]) -> tuple[str, ...]:
    """Loopback addresses in their canonical form, each once: so the sockets that are open are found again."""
    canonical: dict[str, None] = {}
    for index, text in enumerate(value):
        try:
            ip = ipaddress.ip_address(text) if "%" not in text else None
        except ValueError:
            ip = None
        if ip is None or not any(ip in network for network in _LOOPBACK):
            raise KeyValueError(f"loopback[{index}]", "a loopback address such as 127.0.0.1 or ::1", text)
        canonical[str(ip)] = None
    return tuple(canonical)


#: Patterns, networks or mapped addresses in one list or table at most.
_FILTERS = 64
# What an interface's name may have, and what stands for it in a pattern of the shell.
_PATTERN = re.compile(r"[^\s/]{1,64}")
_PORTS = re.compile(r"([0-9]{1,5})-([0-9]{1,5})", re.ASCII)


def _check_patterns(_instance: object, attribute: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    _check_number(attribute.name, value)
    for index, text in enumerate(value):
        if not _PATTERN.fullmatch(text):
            raise KeyValueError(f"{attribute.name}[{index}]", "an interface's name or a pattern such as wwan*", text)


def _check_number(name: str, value: Sized) -> None:
    if len(value) > _FILTERS:
        raise KeyValueError(name, f"at most {_FILTERS}", len(value))


def _check_networks(_instance: object, attribute: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    _check_number(attribute.name, value)
    for index, text in enumerate(value):
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            network = None
        if network is None or "%" in text:
            raise KeyValueError(f"{attribute.name}[{index}]", "a network such as 192.0.2.0/24 or an address", text)
        if "/" in text and network.network_address != ipaddress.ip_interface(text).ip:
            raise KeyValueError(f"{attribute.name}[{index}]", f"{network}, or the address without a length", text)


def _check_ports(_instance: object, _attribute: attrs.Attribute[str], value: str) -> None:
    match = _PORTS.fullmatch(value)
    if value and not (match and 1024 <= int(match[1]) <= int(match[2]) <= 0xFFFF):
        raise KeyValueError("ports", "FIRST-LAST between 1024 and 65535, such as 40000-40099", value)


def _public(value: Mapping[str, str]) -> Mapping[str, str]:
    """Public addresses by local ones, all in their canonical form."""
    _check_number("public", value)
    canonical: dict[str, str] = {}
    for local, public in value.items():
        own, seen = _host_address(local), _host_address(public)
        if own is None:
            raise KeyValueError("public", "addresses of this device as keys", local)
        if seen is None or seen.version != own.version:
            raise KeyValueError(f"public.{local}", f"the IPv{own.version} address that others see", public)
        if str(seen) in canonical.values():
            # The port stays the same, so that two devices' sockets could not be told apart.
            raise KeyValueError(f"public.{local}", "an address that no other one is mapped to", public)
        canonical[str(own)] = str(seen)
    return canonical


def _host_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address that one host can have in a network; None for what is none."""
    try:
        ip = ipaddress.ip_address(text) if "%" not in text else None
    except ValueError:
        return None
    usable = ip is not None and not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)
    return ip if usable else None


@attrs.frozen(kw_only=True)
class LinksSection:
    """[ice.links]: what links are and cost, by interface name patterns, where the kernel does not know or is wrong.

    A name itself goes before every pattern; among patterns, the first key of those here goes first.
    """

    #: Cost nothing.
    wired: tuple[str, ...] = attrs.field(default=(), validator=_check_patterns)
    #: Carry traffic where nothing wired does.
    wifi: tuple[str, ...] = attrs.field(default=(), validator=_check_patterns)
    #: Carry traffic only where nothing else does: metered, unless they are `unmetered`.
    cellular: tuple[str, ...] = attrs.field(default=(), validator=_check_patterns)
    #: Tunnels, bridges and the like: after Wi-Fi, before cellular.
    other: tuple[str, ...] = attrs.field(default=(), validator=_check_patterns)
    #: Paid for by volume: carry traffic only where nothing unmetered does.
    metered: tuple[str, ...] = attrs.field(default=(), validator=_check_patterns)
    #: Cellular, but not paid for by volume.
    unmetered: tuple[str, ...] = attrs.field(default=(), validator=_check_patterns)

    def __attrs_post_init__(self) -> None:
        classes = ("wired", "wifi", "cellular", "other")
        for names in (classes, ("metered", "unmetered")):
            taken: dict[str, str] = {}
            for name in names:
                for pattern in getattr(self, name):
                    if taken.setdefault(pattern, name) != name:
                        raise KeyValueError(name, f"patterns that are not in {taken[pattern]}", pattern)


@attrs.frozen(kw_only=True)
class IceSection:
    """[ice]: how paths are found."""

    #: STUN servers, `stun:HOST[:PORT]`, at most 8.
    stun: tuple[str, ...] = attrs.field(default=(), validator=_check_stun)
    #: Loopback addresses to use, for demonstrations and tests; empty in the field.
    loopback: tuple[str, ...] = attrs.field(default=(), converter=_loopback)
    #: Use interfaces with an address on them; false for loopback only.
    interfaces: bool = True
    #: Interface name patterns to leave out, besides those that are left out by default.
    exclude: tuple[str, ...] = attrs.field(default=(), validator=_check_patterns)
    #: Interface name patterns to use although they are left out by default.
    include: tuple[str, ...] = attrs.field(default=(), validator=_check_patterns)
    #: Interface name patterns to use and no others; empty for all.
    only: tuple[str, ...] = attrs.field(default=(), validator=_check_patterns)
    #: What links are and cost.
    links: LinksSection = attrs.field(factory=LinksSection)
    #: Networks to use addresses of and no others, `192.0.2.0/24`; empty for all.
    networks: tuple[str, ...] = attrs.field(default=(), validator=_check_networks)
    #: Networks whose addresses are left out.
    exclude_networks: tuple[str, ...] = attrs.field(default=(), validator=_check_networks)
    #: Networks of peers: checks go there and nowhere else; empty for all.
    peer_networks: tuple[str, ...] = attrs.field(default=(), validator=_check_networks)
    #: Networks that no check goes to, whatever a peer names.
    exclude_peer_networks: tuple[str, ...] = attrs.field(default=(), validator=_check_networks)
    #: UDP ports of the sockets, `FIRST-LAST`; empty for what the kernel gives.
    ports: str = attrs.field(default="", validator=_check_ports)
    #: This device's address -> the public one that a NAT maps it to, one to one and ports kept.
    public: Mapping[str, str] = attrs.field(factory=dict, converter=_public)
    #: Which of its candidates the peer is told and may use: `all`, `no-host` (its own addresses are not told), or
    #: `relay` (relayed ones only, so that the peer learns no address of this side).
    policy: Literal["all", "no-host", "relay"] = "all"
    #: Look up the `.local` names, on the local network, that browsers give instead of addresses.
    resolve_names: bool = False

    def __attrs_post_init__(self) -> None:
        for pattern in self.exclude:
            if pattern in self.include or pattern in self.only:
                raise KeyValueError("exclude", "patterns that are neither in include nor in only", pattern)
        for network in self.exclude_networks:
            if network in self.networks:
                raise KeyValueError("exclude_networks", "networks that are not in networks", network)

    @property
    def port_range(self) -> range | None:
        """The ports as a range; None for what the kernel gives."""
        match = _PORTS.fullmatch(self.ports)
        return range(int(match[1]), int(match[2]) + 1) if match else None


def _check_turn(_instance: object, _attribute: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    if len(value) > _STUN_SERVERS:
        raise KeyValueError("urls", f"at most {_STUN_SERVERS} servers", len(value))


@attrs.frozen(kw_only=True)
class TurnSection:
    """[turn]: relays for where no direct path is found."""

    #: TURN servers, at most 8: `turn:HOST[:PORT][?transport=udp|tcp]`, `turns:HOST[:PORT]` over TLS.
    urls: tuple[str, ...] = attrs.field(default=(), validator=_check_turn)
    #: User name and password at these servers.
    username: str = ""
    #: File with the password; read at start, mode 0600.
    password_file: Path | None = None
    #: Authorities to trust with `turns:` servers instead of the system's, PEM.
    ca: Path | None = None
    #: Public key, OpenSSH's one line, of the service that hands out short-lived credentials on the party's `turn`
    #: topic; they take the place of those above.
    issuer: str = ""

    def __attrs_post_init__(self) -> None:
        if self.urls and not (self.username and self.password_file):
            raise KeyValueError("urls", "username and password_file beside them", ", ".join(self.urls))


def load_toml(path: Path, *, made_by: str) -> dict[str, Any]:
    """Read a TOML file; raises ConfigError that names file and line, or the command that makes the file."""
    import tomllib  # noqa: PLC0415  # for who wants to forget it again

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `{made_by}` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        last = f"at line {len(text.splitlines())}, the last"
        raise ConfigError(f"{path}: not valid TOML: {str(error).replace('at end of document', last)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid TOML: nested too deeply") from None
    except ValueError:  # Python's own limit
        raise ConfigError(f"{path}: not valid TOML: a number has too many digits") from None


def toml_text(text: str) -> str:
    """A text as a TOML basic string, quotes included; raises ConfigError for what is no text."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ConfigError(f"{text!r}: not UTF-8 text")
    # JSON's escapes are TOML's, which wants one character escaped more.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def structure(cls: type[C], table: Mapping[str, Any], *, file: Path, prefix: str = "") -> C:
    """Make an instance of an attrs class from a table.

    Nested attrs classes are tables, `tuple[X, ...]` arrays, `Mapping[str, X]` tables with free keys, Literals texts
    of a fixed set, and relative paths start at the file's folder.  Raises ConfigError for the first thing that is
    wrong.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in attrs.fields(cls)}  # type: ignore[arg-type]  # cls is an attrs class
    for key in table:
        if key not in fields:
            raise ConfigError(f"{file}: unknown key {prefix}{key}{_nearest(key, fields, prefix)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _convert(hints[name], table[name], file, f"{prefix}{name}")
        elif field.default is attrs.NOTHING:
            raise ConfigError(f"{file}: {prefix}{name} is missing; expected {_expected(hints[name])}")
    try:
        return cls(**values)
    except KeyValueError as error:
        raise ConfigError(f"{file}: {prefix}{error}") from None
    except ValueError as error:
        raise ConfigError(f"{file}: {prefix.rstrip('.') or 'configuration'}: {error.args[0]}") from None


def _nearest(key: str, known: Mapping[str, object], prefix: str) -> str:
    import difflib  # noqa: PLC0415  # not for files without mistakes

    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"; did you mean {prefix}{close[0]}?"
    return f"; known here: {', '.join(sorted(known))}"


def _expected(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(value) for value in get_args(hint))
    if origin in (Union, types.UnionType):
        return _expected(next(arg for arg in get_args(hint) if arg is not type(None)))
    if origin is tuple:
        return f"a list, each {_expected(get_args(hint)[0])}"
    if attrs.has(hint) or origin is not None:
        return "a table"
    return _NAMES.get(hint, str(hint))


def _convert(hint: Any, value: Any, file: Path, key: str) -> Any:
    origin = get_origin(hint)
    args = get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert(next(arg for arg in args if arg is not type(None)), value, file, key)
    if origin is Literal and value in args:
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(args[0], item, file, f"{key}[{index}]") for index, item in enumerate(value))
    if isinstance(value, dict):
        if attrs.has(hint):
            return structure(hint, value, file=file, prefix=f"{key}.")
        if origin is not None and origin is not tuple and len(args) == 2:
            return {name: _convert(args[1], item, file, f"{key}.{name}") for name, item in value.items()}
    if hint is Path and isinstance(value, str) and "\0" not in value:
        return file.parent / value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (str, int, bool) and type(value) is hint:
        return value
    raise ConfigError(f"{file}: {key}: expected {_expected(hint)}, not {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
