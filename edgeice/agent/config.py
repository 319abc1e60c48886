"""What `agent.toml` holds.  The classes are the schema: names, types, defaults and what each key means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs

from edgeice.settings import NAME, BrokerSection, IceSection, load_toml, structure

__all__ = [
    "AgentConfig",
    "LimitsSection",
    "LogSection",
    "ServicesSection",
    "changed_keys",
    "load_config",
]


@attrs.frozen(kw_only=True)
class ServicesSection:
    """[services]: what the device offers; a grant can only narrow it."""

    shell: bool = True
    exec: bool = True
    ping: bool = True


@attrs.frozen(kw_only=True)
class LimitsSection:
    """[limits]: bounds on what operators can take."""

    #: Sessions at once, over all operators.
    sessions: int = attrs.field(default=8, validator=attrs.validators.in_(range(1, 257)))
    #: Data channels of a session at once.
    channels: int = attrs.field(default=64, validator=attrs.validators.in_(range(1, 1025)))
    #: Processes of a session at once.
    processes: int = attrs.field(default=16, validator=attrs.validators.in_(range(1, 1025)))


@attrs.frozen(kw_only=True)
class LogSection:
    """[log]: what is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    #: JSON lines instead of key=value.
    json: bool = False


@attrs.frozen(kw_only=True)
class AgentConfig:
    """The whole of `agent.toml`."""

    fleet: str = attrs.field(validator=NAME)
    device: str = attrs.field(validator=NAME)
    #: The device's Ed25519 key, OpenSSH or PKCS#8 PEM, mode 0600.
    key: Path = Path("device.key")
    #: Operators' keys, as `edgeice-agent trust add` writes them.
    trust: Path = Path("authorized_operators")
    #: Folder for what has to outlive a restart.
    state: Path = Path("state")
    #: Local socket that `edgeice-agent status` asks.
    socket: Path = Path("agent.sock")
    broker: BrokerSection
    ice: IceSection = attrs.field(factory=IceSection)
    services: ServicesSection = attrs.field(factory=ServicesSection)
    limits: LimitsSection = attrs.field(factory=LimitsSection)
    #: Free labels for operators to find the device by.
    labels: Mapping[str, str] = attrs.field(factory=dict)
    log: LogSection = attrs.field(factory=LogSection)


def changed_keys(before: object, after: object, prefix: str = "") -> list[str]:
    """The keys, such as `broker.url`, in which two configurations differ, in the order of the file's schema."""
    keys: list[str] = []
    for field in attrs.fields(type(before)):  # type: ignore[arg-type]  # a configuration or a section of one
        old, new = getattr(before, field.name), getattr(after, field.name)
        if attrs.has(type(old)):
            keys += changed_keys(old, new, f"{prefix}{field.name}.")
        elif old != new:
            keys.append(f"{prefix}{field.name}")
    return keys


def load_config(path: Path) -> AgentConfig:
    """Read and check a configuration file; raises ConfigError.  Defaults that are paths start at its folder too."""
    config = structure(AgentConfig, load_toml(path, made_by="edgeice-agent init"), file=path)
    defaults = {name: path.parent / getattr(config, name) for name in ("key", "trust", "state", "socket")}
    return attrs.evolve(config, **defaults)
