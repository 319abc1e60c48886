"""`edgeice keys`: the operator's key and configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from edgeice.cli.common import load_operator_key, load_options, reporting
from edgeice.errors import ConfigError
from edgeice.files import replace_file
from edgeice.operator.config import config_folder
from edgeice.sansio import Entropy
from edgeice.signaling import PrivateKey

__all__ = ["command"]

_TEMPLATE = """\
# Who you are and where your fleet meets.  `edgeice devices` shows whether it works.
fleet = "{fleet}"
operator = "{operator}"
# Your Ed25519 key; "~/.ssh/id_ed25519" works too, encrypted or not.
key = "{key}"

[broker]
url = "{broker}"
# username = "{fleet}/o/{operator}"   # this is the default
# password_file = "broker.password"   # mode 0600
# ca = "ca.pem"                       # instead of the system's authorities

[ice]
# stun = ["stun:stun.example.org"]
"""


@click.group("keys")
def command() -> None:
    """Make, find and show your key."""


@command.command(
    epilog="""\b
Examples:
  edgeice keys init --fleet home --operator alice --broker mqtts://broker.example
  edgeice keys init --fleet home --operator alice --broker mqtts://broker.example --key ~/.ssh/id_ed25519"""
)
@click.option("--fleet", required=True, help="Name of the fleet.")
@click.option("--operator", required=True, help="Your name in it.")
@click.option("--broker", required=True, help="mqtts://HOST[:PORT]")
@click.option("--key", metavar="FILE", help="Use this OpenSSH Ed25519 key instead of making one.")
def init(fleet: str, operator: str, broker: str, key: str | None) -> None:
    """Write operator.toml, and make a key unless --key names one."""
    with reporting(as_json=False):
        folder = config_folder(os.environ)
        path = folder / "operator.toml"
        if path.exists():
            raise ConfigError(f"{path}: exists already; edit or remove it")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if key is None and not (folder / "operator.key").exists():
            replace_file(folder / "operator.key", PrivateKey.generate(Entropy()).openssh_bytes())
        shown = str(Path(key).expanduser().resolve()) if key else "operator.key"
        text = _TEMPLATE.format(fleet=fleet, operator=operator, broker=broker, key=shown)
        replace_file(path, text.encode(), 0o644)
        _show(path)
        click.echo(
            f"\nOn each device, have it trusted:\n  edgeice-agent trust add --operator {operator} --can shell,exec -"
        )


@command.command()
@click.option("--config", metavar="FILE", help="operator.toml to use.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def show(config: str | None, as_json: bool) -> None:
    """Show your public key and its fingerprint."""
    with reporting(as_json=as_json):
        settings = load_options(config)
        public = load_operator_key(settings).public
        if as_json:
            print(json.dumps({"key": public.openssh(), "fingerprint": public.fingerprint, "file": str(settings.key)}))
        else:
            # The key stands alone on standard output, for `edgeice keys show | … trust add … -`.
            click.echo(public.openssh(f"{settings.fleet}/o/{settings.operator}"))
            click.echo(public.fingerprint, err=True)


def _show(path: Path) -> None:
    settings = load_options(str(path))
    public = load_operator_key(settings).public
    click.echo(f"{path}\n{public.openssh(f'{settings.fleet}/o/{settings.operator}')}\n{public.fingerprint}")
