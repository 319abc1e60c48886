"""`edgeice keys`: the operator's key and configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from edgeice.cli.common import load_options, reporting
from edgeice.cli.connecting import load_operator_key
from edgeice.errors import ConfigError
from edgeice.files import replace_file
from edgeice.operator.config import OperatorConfig, config_folder, read_config
from edgeice.sansio import Entropy
from edgeice.settings import check_broker_url, toml_text
from edgeice.signaling import PrivateKey, PublicKey, check_name

__all__ = ["command"]

_TEMPLATE = """\
# Who you are and where your fleet meets.  `edgeice devices` shows whether it works.
fleet = {fleet}
operator = {operator}
# Your Ed25519 key; "~/.ssh/id_ed25519" works too, encrypted or not.
key = {key}

[broker]
url = {broker}
# username = "FLEET/o/OPERATOR"       # this is the default
# password_file = "broker.password"   # mode 0600
# ca = "ca.pem"                       # instead of the system's authorities

[ice]
# stun = ["stun:stun.example.org"]
# exclude = ["wwan*"]                 # interfaces to leave out
# policy = "no-host"                  # tell devices no address of this computer's own; "relay" none at all

[turn]
# urls = ["turn:relay.example.org", "turns:relay.example.org"]   # for where no direct path is found
# username = "alice"
# password_file = "relay.password"    # mode 0600
# ca = "relay-ca.pem"                 # of turns: servers, instead of the system's authorities
# issuer = "ssh-ed25519 AAAA…"        # whose short-lived credentials on your own `turn` topic are used instead
"""


@click.group(
    "keys",
    epilog="""\b
Examples:
  edgeice keys init --fleet home --operator alice --broker mqtts://broker.example
  edgeice keys show""",
)
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
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def init(fleet: str, operator: str, broker: str, key: str | None, as_json: bool) -> None:
    """Write operator.toml, and make a key and its .pub file unless --key names one."""
    with reporting(as_json=as_json):
        path = config_folder(os.environ) / "operator.toml"
        config = _config_to_write(path, fleet, operator, broker, key)
        if path.exists():
            raise ConfigError(f"{path}: exists already; edit or remove it")
        try:
            public, public_file = _write(path, config, made=key is None)
        except OSError as error:
            raise ConfigError(f"{error.filename or path}: cannot be written: {error.strerror}") from None
        if as_json:
            facts = {"file": str(config.key), "public_file": public_file and str(public_file), "config": str(path)}
            print(json.dumps({"key": public.openssh(), "fingerprint": public.fingerprint, **facts}))
            return
        where = public_file or f"{operator}.pub"
        for line in (path, config.key, *([public_file] if public_file else []), public.fingerprint):
            click.echo(line)
        click.echo("\nOn each device, have the public key trusted:")
        if public_file is None:
            click.echo(f"  edgeice keys show > {where}")
        click.echo(f"  scp {where} DEVICE:{operator}.pub")
        click.echo(f"  edgeice-agent trust add --operator {operator} --can shell,exec {operator}.pub")


def _config_to_write(path: Path, fleet: str, operator: str, broker: str, key: str | None) -> OperatorConfig:
    """What operator.toml is to say; raises ConfigError where it would be refused later."""
    check_name(fleet, "fleet")
    check_name(operator, "operator")
    check_broker_url(broker)
    table = {"fleet": fleet, "operator": operator, "broker": {"url": broker}}
    return read_config(table | ({"key": str(Path(key).expanduser().resolve())} if key else {}), path)


def _write(path: Path, config: OperatorConfig, *, made: bool) -> tuple[PublicKey, Path | None]:
    """Write the files that are not there yet, the configuration last; the public key, and the file that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if made and not config.key.exists():
        replace_file(config.key, PrivateKey.generate(Entropy()).openssh_bytes())
    public = load_operator_key(config).public
    public_file = config.key.with_name(f"{config.key.name}.pub")
    if made:
        replace_file(public_file, f"{public.openssh(f'{config.fleet}/o/{config.operator}')}\n".encode(), 0o644)
    values = {"fleet": config.fleet, "operator": config.operator, "broker": config.broker.url}
    values["key"] = config.key.name if made else str(config.key)
    replace_file(path, _TEMPLATE.format(**{name: toml_text(value) for name, value in values.items()}).encode(), 0o644)
    return public, public_file if made or public_file.exists() else None


@command.command(
    epilog="""\b
Examples:
  edgeice keys show
  edgeice keys show > alice.pub
  edgeice keys show --json | jq -r .fingerprint"""
)
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
