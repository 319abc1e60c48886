"""What `agent.toml` holds.  The classes are the schema: names, types, defaults and what each key means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs

from edgeice.agent.structure import load_toml, structure

__all__ = [
    "AgentConfig",
    "BrokerSection",
    "IceSection",
    "LimitsSection",
    "LogSection",
    "ServicesSection",
    "load_config",
]

_NAME = attrs.validators.matches_re(r"[A-Za-z0-9._-]{1,64}")


@attrs.frozen(kw_only=True)
class BrokerSection:
    """[broker]: where the device is reached."""

    #: `mqtts://HOST[:8883]` or, on loopback or a trusted network only, `mqtt://HOST[:1883]`.
    url: str
    #: User name at the broker; empty for `FLEET/d/DEVICE`.
    username: str = ""
    #: File with the password; read at start, mode 0600.
    password_file: Path | None = None
    #: Authorities to trust instead of the system's, PEM.
    ca: Path | None = None
    #: Seconds between keepalives.
    keepalive: int = attrs.field(default=60, validator=attrs.validators.in_(range(5, 65536)))
    #: Seconds that a lost connection may take to come back before `lost` is published.
    will_delay: int = attrs.field(default=30, validator=attrs.validators.in_(range(3601)))
    #: First levels of every topic.
    root: str = attrs.field(default="edgeice/1", validator=attrs.validators.matches_re(r"[A-Za-z0-9._/-]{1,32}"))


@attrs.frozen(kw_only=True)
class IceSection:
    """[ice]: how paths are found."""

    #: STUN servers, `stun:HOST[:PORT]`.
    stun: tuple[str, ...] = ()
    #: Loopback addresses to use, for demonstrations and tests; empty in the field.
    loopback: tuple[str, ...] = ()
    #: Use interfaces with an address on them; false for loopback only.
    interfaces: bool = True
    #: Interface name patterns to leave out, besides those that are left out by default.
    exclude: tuple[str, ...] = ()
    #: Interface name patterns to use although they are left out by default.
    include: tuple[str, ...] = ()


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

    fleet: str = attrs.field(validator=_NAME)
    device: str = attrs.field(validator=_NAME)
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


def load_config(path: Path) -> AgentConfig:
    """Read and check a configuration file; raises ConfigError.  Defaults that are paths start at its folder too."""
    config = structure(AgentConfig, load_toml(path), file=path)
    defaults = {name: path.parent / getattr(config, name) for name in ("key", "trust", "state", "socket")}
    return attrs.evolve(config, **defaults)
