"""What others may import: public names are there, and those that other programs build on are listed."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter

import pytest

import edgeice

MODULES = sorted(module.name for module in pkgutil.walk_packages(edgeice.__path__, "edgeice."))

#: A name that comes or goes here changes what programs of others can rely on.
PUBLIC = {
    "edgeice": {"__version__"},
    "edgeice.errors": {
        "ConfigError",
        "DecodeError",
        "EdgeIceError",
        "LocalProtocolError",
        "ProtocolError",
        "RemoteProtocolError",
    },
    "edgeice.transport": {
        "PATIENCE",
        "SIGNAL_PROTOCOL",
        "ChannelPort",
        "ConnectionFailedError",
        "DataChannel",
        "IceTransport",
        "Network",
        "NetworkChange",
        "NetworkMissing",
        "NetworkReturned",
        "Node",
        "NodeConfig",
        "PathRecovery",
        "PeerConnection",
        "Progress",
        "RelaySource",
        "RestartOffered",
        "SignalMachine",
        "SignalPump",
        "SignaledConnection",
        "Trouble",
        "WallClock",
        "broker_config",
        "is_plain_and_remote",
        "open_node",
        "ways_to_broker",
    },
}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_library_has_these_names(name: str) -> None:
    assert set(importlib.import_module(name).__all__) == PUBLIC[name]


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_there_and_named_once(name: str) -> None:
    module = importlib.import_module(name)
    names: list[str] = getattr(module, "__all__", [])
    assert [each for each in names if not hasattr(module, each)] == []
    assert [each for each, count in Counter(names).items() if count > 1] == []


@pytest.mark.parametrize("name", [name for name in MODULES if hasattr(importlib.import_module(name), "__path__")])
def test_packages_pass_on_only_what_is_public_in_their_modules(name: str) -> None:
    package = importlib.import_module(name)
    for each in getattr(package, "__all__", []):
        source = getattr(getattr(package, each), "__module__", name)
        if source != name and source.startswith("edgeice."):
            assert each in importlib.import_module(source).__all__
