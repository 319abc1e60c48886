"""What `operator.toml` holds, and where an operator's files lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from edgeice.settings import NAME, BrokerSection, IceSection, KeyValueError, TurnSection, load_toml, structure

__all__ = ["PATIENCE", "OperatorConfig", "config_folder", "load_config", "read_config"]

#: Seconds that `patience` may be: less ends a session over a hiccup, and more is not waited for by anybody.
PATIENCE = 1, 86400


def _check_patience(_instance: object, _attribute: attrs.Attribute[float], value: float) -> None:
    low, high = PATIENCE
    if not low <= value <= high:
        raise KeyValueError("patience", f"seconds from {low} to {high}", value)


@attrs.frozen(kw_only=True)
class OperatorConfig:
    """The whole of `operator.toml`."""

    fleet: str = attrs.field(validator=NAME)
    operator: str = attrs.field(validator=NAME)
    #: The operator's Ed25519 key: OpenSSH or PKCS#8 PEM, also encrypted; `~/.ssh/id_ed25519` works.
    key: Path = Path("operator.key")
    #: Device keys that were accepted, a line per device.
    known_devices: Path = Path("known_devices")
    broker: BrokerSection
    #: Let commands use a session that `edgeice session` keeps open.
    share: bool = True
    #: Seconds without a path after which a session is given up.
    patience: float = attrs.field(default=600.0, validator=_check_patience)
    ice: IceSection = attrs.field(factory=IceSection)
    turn: TurnSection = attrs.field(factory=TurnSection)


def config_folder(environment: Mapping[str, str]) -> Path:
    """Where an operator's files lie: EDGEICE_HOME, else `edgeice` in XDG_CONFIG_HOME or `~/.config`."""
    if home := environment.get("EDGEICE_HOME"):
        return Path(home)
    base = environment.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "edgeice"


def load_config(path: Path) -> OperatorConfig:
    """Read and check a configuration file; raises ConfigError.  Paths start at its folder, `~` is the home folder."""
    return read_config(load_toml(path, made_by="edgeice keys init"), path)


def read_config(table: Mapping[str, Any], path: Path) -> OperatorConfig:
    """The same for what stands, or is to stand, in the file."""
    config = structure(OperatorConfig, table, file=path)
    return attrs.evolve(
        config,
        key=_placed(path, config.key),
        known_devices=_placed(path, config.known_devices),
        turn=attrs.evolve(
            config.turn,
            password_file=config.turn.password_file and _placed(path, config.turn.password_file),
            ca=config.turn.ca and _placed(path, config.turn.ca),
        ),
    )


def _placed(file: Path, path: Path) -> Path:
    relative = path.relative_to(file.parent) if path.is_relative_to(file.parent) else path
    return relative.expanduser() if relative.parts[:1] == ("~",) else file.parent / relative
