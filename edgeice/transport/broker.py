"""From the `[broker]` section of a configuration file to the MQTT client's configuration."""

from __future__ import annotations

import ipaddress

from edgeice.files import read_secret
from edgeice.settings import BrokerSection, broker_address
from edgeice.signaling import Party, Role
from edgeice.signaling.broker import BrokerConfig, TlsConfig

__all__ = ["broker_config", "is_plain_and_remote"]


def broker_config(section: BrokerSection, party: Party, *, client_suffix: str = "") -> BrokerConfig:
    """Check the section and read its password; raises ConfigError.

    Args:
        section: The configuration.
        party: Who connects; the default user name, and the client id.
        client_suffix: Makes an operator's client id its own.
    """
    host, port, tls = broker_address(section.url)
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
    host, _port, tls = broker_address(section.url)
    if tls or host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True
