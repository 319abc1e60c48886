"""What `agent.toml` holds.  The classes are the schema: names, types, defaults and what each key means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs

from edgeice.errors import ConfigError
from edgeice.late import unload
from edgeice.settings import NAME, BrokerSection, IceSection, KeyValueError, TurnSection, load_toml, structure

__all__ = [
    "AgentConfig",
    "LimitsSection",
    "LogSection",
    "ServicesSection",
    "TelemetrySection",
    "TraceSection",
    "changed_keys",
    "load_config",
]


#: What operators accept of a birth document's labels: how many, and characters of a name and of a value.
_LABELS, _LABEL_NAME, _LABEL_VALUE = 64, 64, 256
#: Bytes of all labels as JSON: with everything else, the signed document stays below the broker's 32 KiB.
_LABELS_SIZE = 22 * 1024


def _check_labels(_instance: object, _attribute: attrs.Attribute[Mapping[str, str]], value: Mapping[str, str]) -> None:
    if len(value) > _LABELS:
        raise KeyValueError("labels", f"at most {_LABELS}", len(value))
    for name, text in value.items():
        if not (name.isprintable() and 1 <= len(name) <= _LABEL_NAME):
            raise KeyValueError("labels", f"names of 1 to {_LABEL_NAME} printable characters", name)
        if not (text.isprintable() and len(text) <= _LABEL_VALUE):
            raise KeyValueError(f"labels.{name}", f"at most {_LABEL_VALUE} printable characters", text)
    size = len(json.dumps(dict(value), separators=(",", ":")))
    if size > _LABELS_SIZE:
        raise KeyValueError("labels", f"at most {_LABELS_SIZE} bytes as JSON", size)


def _check_user(_instance: object, _attribute: attrs.Attribute[str | None], value: str | None) -> None:
    if value is not None and not (value and value.isprintable()):
        raise KeyValueError("user", "the name of a user", value)


@attrs.frozen(kw_only=True)
class ServicesSection:
    """[services]: what the device offers; a grant can only narrow it."""

    shell: bool = True
    exec: bool = True
    forward: bool = True
    telemetry: bool = True
    ping: bool = True
    #: Name of the user that shells and commands run as; None for the agent's own.
    user: str | None = attrs.field(default=None, validator=_check_user)

    @property
    def offered(self) -> tuple[str, ...]:
        """The names of those that are on."""
        return tuple(field.name for field in attrs.fields(type(self)) if getattr(self, field.name) is True)


@attrs.frozen(kw_only=True)
class LimitsSection:
    """[limits]: bounds on what operators can take."""

    #: Sessions at once, over all operators.
    sessions: int = attrs.field(default=8, validator=attrs.validators.in_(range(1, 257)))
    #: Data channels of a session at once.
    channels: int = attrs.field(default=64, validator=attrs.validators.in_(range(1, 1025)))
    #: Processes of a session at once.
    processes: int = attrs.field(default=16, validator=attrs.validators.in_(range(1, 1025)))
    #: Seconds after which a session without a path is given up.
    lost_time: int = attrs.field(default=600, validator=attrs.validators.in_(range(10, 86401)))
    #: Seconds that a session may be without a channel of a service; 0 sets no limit.
    idle_time: int = attrs.field(default=0, validator=attrs.validators.in_(range(86401)))
    #: Seconds that a channel may be idle: a shell, a command or a forward without a byte either way, telemetry without
    #: a subscription or with 16 messages unacknowledged; 0 sets no limit.
    channel_idle_time: int = attrs.field(default=0, validator=attrs.validators.in_(range(86401)))
    #: Seconds that a channel may last, whatever passes on it; 0 sets no limit.
    channel_time: int = attrs.field(default=0, validator=attrs.validators.in_(range(86401 * 7)))
    #: Seconds that a session may last; 0 sets no limit.
    session_time: int = attrs.field(default=0, validator=attrs.validators.in_(range(86401 * 7)))
    #: Kept shells at once, over all operators; 0 keeps none.
    kept_shells: int = attrs.field(default=8, validator=attrs.validators.in_(range(257)))
    #: Kept shells of an operator at once.
    kept_shells_per_operator: int = attrs.field(default=4, validator=attrs.validators.in_(range(1, 65)))
    #: Seconds that a kept shell goes on without anybody attached.
    kept_time: int = attrs.field(default=8 * 3600, validator=attrs.validators.in_(range(60, 86401 * 7)))

    def __attrs_post_init__(self) -> None:
        # A limit that another one never lets come to pass is a mistake: one of the two is not what was meant.
        if 0 < self.channel_time < self.channel_idle_time:
            expected = f"at most {self.channel_time}, the channel_time"
            raise KeyValueError("channel_idle_time", expected, self.channel_idle_time)
        if 0 < self.session_time < self.channel_time:
            expected = f"at most {self.session_time}, the session_time"
            raise KeyValueError("channel_time", expected, self.channel_time)


#: Mount points that telemetry tells about at most.
_MOUNTS = 16


def _check_mounts(_instance: object, _attribute: attrs.Attribute[tuple[Path, ...]], value: tuple[Path, ...]) -> None:
    if len(value) > _MOUNTS:
        raise KeyValueError("mounts", f"at most {_MOUNTS} mount points", len(value))


@attrs.frozen(kw_only=True)
class TelemetrySection:
    """[telemetry]: what the device measures."""

    #: Unix datagram socket that processes write to while somebody listens; None for `telemetry.sock` beside `socket`.
    socket: Path | None = None
    #: Mount points whose size and use are told, at most 16; those behind a server are left out.
    mounts: tuple[Path, ...] = attrs.field(default=(Path("/"),), validator=_check_mounts)


@attrs.frozen(kw_only=True)
class LogSection:
    """[log]: what is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    #: JSON lines instead of key=value.
    json: bool = False


@attrs.frozen(kw_only=True)
class TraceSection:
    """[trace]: everything that sessions try on their way, and how each went, as JSON lines."""

    #: File to append to; None for no trace.
    file: Path | None = None
    #: Pseudonyms instead of IP addresses, the same for the same address until the agent ends.
    redact: bool = False
    #: Mebibytes at which the file is renamed to `FILE.1`, which replaces the one before, and begins anew.
    size: int = attrs.field(default=16, validator=attrs.validators.in_(range(1, 1025)))


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
    turn: TurnSection = attrs.field(factory=TurnSection)
    services: ServicesSection = attrs.field(factory=ServicesSection)
    limits: LimitsSection = attrs.field(factory=LimitsSection)
    telemetry: TelemetrySection = attrs.field(factory=TelemetrySection)
    #: Free labels for operators to find the device by.
    labels: Mapping[str, str] = attrs.field(factory=dict, validator=_check_labels)
    log: LogSection = attrs.field(factory=LogSection)
    trace: TraceSection = attrs.field(factory=TraceSection)

    @property
    def telemetry_socket(self) -> Path:
        """Where processes write for telemetry."""
        return self.telemetry.socket or self.socket.with_name("telemetry.sock")


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
    table = load_toml(path, made_by="edgeice-agent init")
    unload("tomllib", "tomllib._parser", "tomllib._re", "tomllib._types")  # 0.3 MiB
    config = structure(AgentConfig, table, file=path)
    defaults = {name: path.parent / getattr(config, name) for name in ("key", "trust", "state", "socket")}
    config = attrs.evolve(config, **defaults)
    if config.telemetry_socket == config.socket:
        raise ConfigError(f"{path}: telemetry.socket: expected another path than that of socket")
    return config
