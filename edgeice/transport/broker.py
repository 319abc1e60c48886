"""From the `[broker]` section of a configuration file to the MQTT client's configuration."""

from __future__ import annotations

import ipaddress
import urllib.parse

from edgeice.errors import ConfigError
from edgeice.files import read_secret
from edgeice.settings import BrokerSection
from edgeice.signaling import Party, Role
from edgeice.signaling.broker import BrokerConfig, TlsConfig

__all__ = ["broker_config", "is_plain_and_remote"]

_SCHEMES = {"mqtt": 1883, "mqtts": 8883}


def broker_config(section: BrokerSection, party: Party, *, client_suffix: str = "") -> BrokerConfig:
    """Check the section and read its password; raises ConfigError.

    Args:
        section: The configuration.
        party: Who connects; the default user name, and the client id.
        client_suffix: Makes an operator's client id its own.
    """
    host, port, tls = _split(section.url)
    password = None
    if section.password_file is not None:
        password = read_secret(section.password_file, "the broker password").decode("utf-8", "replace").strip("\r\n")
    return BrokerConfig(
        host=host,
        port=port,
        client_id=party.client_id(client_suffix),
        username=section.username or str(party),
        password=password,
        tls=TlsConfig(cafile=section.ca) if tls else None,
        keepalive=section.keepalive,
        will_delay=section.will_delay,
        persistent=party.role is Role.DEVICE,
    )


def is_plain_and_remote(section: BrokerSection) -> bool:
    """Whether the broker's password would cross a network in the clear."""
    host, _port, tls = _split(section.url)
    if tls or host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def _split(url: str) -> tuple[str, int, bool]:
    parts = urllib.parse.urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in _SCHEMES or not parts.hostname or port == -1 or parts.path not in ("", "/"):
        raise ConfigError(f"broker.url: {url!r} should be mqtts://HOST[:PORT] or, on loopback, mqtt://HOST[:PORT]")
    if parts.username or parts.password:
        raise ConfigError("broker.url: user name and password belong in broker.username and broker.password_file")
    return parts.hostname, port or _SCHEMES[parts.scheme], parts.scheme == "mqtts"
