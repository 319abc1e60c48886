"""From the `[broker]` section of a configuration file to the MQTT client's configuration."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeice.files import read_secret
from edgeice.settings import BrokerSection, broker_address
from edgeice.signaling import Party, Role
from edgeice.signaling.broker import BrokerConfig, TlsConfig

if TYPE_CHECKING:
    from edgeice.net import UsableAddress

__all__ = ["broker_config", "is_plain_and_remote", "ways_to_broker"]

#: More than any link costs.
_LEFT_OUT = 10_000


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


def ways_to_broker(
    usable: Sequence[UsableAddress], host_addresses: Sequence[UsableAddress]
) -> list[tuple[str, str, int]]:
    """The addresses that a connection to the broker may come from, as `MqttClient.network_changed` takes them.

    What the configuration keeps from sessions, tunnels for instance, may be the way to the broker as well; but it comes
    last.
    """
    for_sessions = {each.interface for each in usable}
    return [
        (each.ip, each.interface, each.cost + (0 if each.interface in for_sessions else _LEFT_OUT))
        for each in host_addresses
    ]


def is_plain_and_remote(section: BrokerSection) -> bool:
    """Whether the broker's password would cross a network in the clear."""
    host, _port, tls = broker_address(section.url)
    if tls or host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True
