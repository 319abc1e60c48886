"""Kinds of arguments and options that click does not have."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from edgeice.errors import ConfigError
from edgeice.files import read_trusted
from edgeice.operator.config import config_folder, load_config

__all__ = ["SECONDS", "Seconds", "device_argument", "timeout_option"]

F = TypeVar("F", bound=Callable[..., object])

#: Longest time that anything may be waited for, seconds.
_DAY = 86400.0


class Seconds(click.FloatRange):
    """A time between bounds."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401  # text, or a default
        """The number of seconds; fails as click does."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):  # which no comparison keeps out
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


#: A time that is longer than nothing and comes to an end.
SECONDS = Seconds(0, _DAY, min_open=True)


def timeout_option(default: float, purpose: str) -> Callable[[F], F]:
    """The option --timeout."""
    return click.option("--timeout", type=SECONDS, default=default, show_default=True, help=purpose)


def _complete_device(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The devices whose keys were accepted; nothing where a file cannot be used, which the command itself will say."""
    from edgeice.signaling import KnownDevices  # noqa: PLC0415  # loads what no command needs only for its options

    path = ctx.params.get("config")
    try:
        config = load_config(Path(path) if path else config_folder(os.environ) / "operator.toml")
        known = KnownDevices(read_trusted(config.known_devices, "known devices"), source=str(config.known_devices))
    except ConfigError:
        return []
    names = sorted(party.name for party in known if party.fleet == config.fleet)
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def device_argument(function: F) -> F:
    """The argument DEVICE, which the shell completes."""
    return click.argument("device", shell_complete=_complete_device)(function)
